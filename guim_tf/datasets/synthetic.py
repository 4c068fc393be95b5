"""A synthetic shop of any size: logs in the input form, with the planted truth beside them."""

import itertools
import pathlib
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from guim_tf.datasets import shop, shop_words
from guim_tf.datasets.files import write_mapping, write_parquet
from guim_tf.mapping import Column, EventsMapping, ItemsMapping, LabelsMapping, Mapping

LABELS = ("has_child", "child_gender", "age_group")
CHUNK_PURCHASES = 1_000_000  # made in memory at a time
TRUTH_FILE = "truth.parquet"
_CHUNK_ITEMS = 100_000


def generate(
    *,
    output: str | pathlib.Path,
    users: int = 3_000,
    items: int = 1_500,
    days: int = 395,
    seed: int = 0,
    interests: int = 30,
    purchases_per_user: float = 60.0,
) -> pathlib.Path:
    """Writes a shop's log, item table, labels and planted truth; returns the mapping file.

    `truth.parquet` has a row for each user and item: `kind` ("user" or "item"), `id`, and its
    `interests` (one for an item, one to four for a user, strongest first).

    Args:
      output: the folder to write.
      users: number of users.
      items: number of items; at least three an interest.
      days: length of the log.
      seed: equal seeds and sizes give equal files.
      interests: number of planted interests.
      purchases_per_user: mean; the distribution has the shape of Table 1 of the paper.

    Raises:
      ValueError: a size that makes no shop.
    """
    categories = interests * shop.CATEGORIES_PER_INTEREST
    for name, value, least in (
        ("users", users, 1),
        ("items", items, categories),
        ("days", days, 2),
        ("interests", interests, 1),
        ("purchases_per_user", purchases_per_user, 1),
    ):
        if value < least:
            raise ValueError(f"{name} is {value}, expected at least {least}.")
    output = pathlib.Path(output)
    sold = shop.make_items(
        np.random.default_rng([seed, 0]), items=items, interests=interests, days=days
    )
    write_parquet(output / "items.parquet", _item_tables(sold, interests))

    step = max(1, int(CHUNK_PURCHASES / purchases_per_user))
    starts = range(0, users, step)

    def people(first: int) -> shop.Users:  # made again where they are needed: bounded memory
        return shop.make_users(
            np.random.default_rng([seed, 1, first]),
            users=min(step, users - first),
            interests=interests,
            days=days,
            purchases_per_user=purchases_per_user,
        )

    def events(first: int) -> pa.Table:
        rng = np.random.default_rng([seed, 2, first])
        bought = shop.make_purchases(
            rng, users=people(first), items=sold, interests=interests, days=days
        )
        return _event_table(bought, first)

    def labels(first: int) -> pa.Table:
        rng = np.random.default_rng([seed, 3, first])
        values = shop.child_labels(rng, people(first), interests=interests, days=days)
        return _label_table(values, first)

    write_parquet(output / "events.parquet", map(events, starts))
    write_parquet(output / "labels.parquet", map(labels, starts))
    truth = itertools.chain(
        _item_truth(sold), (_user_truth(people(first), first) for first in starts)
    )
    write_parquet(output / TRUTH_FILE, truth)
    return write_mapping(output, _mapping())


def prepare(
    *,
    data_dir: str | pathlib.Path | None = None,
    output: str | pathlib.Path,
    users: int = 3_000,
    items: int = 1_500,
    days: int = 395,
    seed: int = 0,
    purchases_per_user: float = 60.0,
) -> pathlib.Path:
    """`generate`, under the name that all data sets have; nothing is read from `data_dir`."""
    return generate(
        output=output,
        users=users,
        items=items,
        days=days,
        seed=seed,
        purchases_per_user=purchases_per_user,
    )


def _mapping() -> Mapping:
    return Mapping(
        events=EventsMapping(
            files=("events.parquet",),
            user_id=Column("user_id"),
            item_id=Column("item_id"),
            timestamp=Column("timestamp"),
        ),
        items=ItemsMapping(
            files=("items.parquet",),
            item_id=Column("item_id"),
            category_id=Column("category_id"),
            title=Column("title"),
        ),
        labels=LabelsMapping(files=("labels.parquet",), user_id=Column("user_id"), labels=LABELS),
    )


# ------------------------------------------------------------------------------- tables


def _user_ids(count: int, first: int) -> list[str]:
    return [f"u{first + i}" for i in range(count)]


def _event_table(bought: shop.Purchases, first: int) -> pa.Table:
    """Purchases in the order of time, as a shop's log has them."""
    rows = np.argsort(bought.timestamp, kind="stable")
    return pa.table(
        {
            "user_id": np.char.add("u", (bought.user[rows] + first).astype(str)),
            "item_id": np.char.add("i", bought.item[rows].astype(str)),
            "timestamp": bought.timestamp[rows],
        }
    )


def _label_table(values: np.ndarray, first: int) -> pa.Table:
    has_child, gender, age = values.T.tolist()
    return pa.table(
        {
            "user_id": _user_ids(len(values), first),
            "has_child": [str(each) for each in has_child],
            "child_gender": pa.array(
                [shop_words.GENDERS[each] if each >= 0 else None for each in gender], pa.string()
            ),
            "age_group": pa.array([str(each) if each >= 0 else None for each in age], pa.string()),
        }
    )


def _truth_table(kind: str, ids: list[str], interests: list[list[int]]) -> pa.Table:
    held = pa.array(interests, pa.list_(pa.int64()))
    return pa.table({"kind": [kind] * len(ids), "id": ids, "interests": held})


def _item_truth(sold: shop.Items) -> Iterator[pa.Table]:
    for start in range(0, len(sold.interest), _CHUNK_ITEMS):
        held = sold.interest[start : start + _CHUNK_ITEMS, None].tolist()
        yield _truth_table("item", [f"i{start + i}" for i in range(len(held))], held)


def _user_truth(chunk: shop.Users, first: int) -> pa.Table:
    order = np.argsort(-chunk.share, axis=1, kind="stable")
    ranked = np.take_along_axis(chunk.interest, order, axis=1).tolist()
    held = [[each for each in row if each >= 0] for row in ranked]
    return _truth_table("user", _user_ids(len(held), first), held)


def _item_tables(sold: shop.Items, interests: int) -> Iterator[pa.Table]:
    for start in range(0, len(sold.category), _CHUNK_ITEMS):
        category = sold.category[start : start + _CHUNK_ITEMS].tolist()
        yield pa.table(
            {
                "item_id": [f"i{start + i}" for i in range(len(category))],
                "category_id": [f"c{each}" for each in category],
                "title": [
                    shop_words.title(start + i, category=each, interests=interests)
                    for i, each in enumerate(category)
                ],
            }
        )
