"""Counts and attributes of items -> vocabularies and the catalogue `items.parquet`.

Only events before `as_of` count. Words and categories come from the items that have such an
event, so that nothing sold for the first time later leaves a trace in a vocabulary.
"""

import collections
import dataclasses
import pathlib
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from beam_pipelines.examples import Catalogue
from beam_pipelines.sequences import codes
from guim_tf import schema

# Of an item: events before the cut-off, and users with such an event in the last days before it.
COUNTS = pa.schema([("item_id", pa.string()), ("count", pa.int64()), ("recent_buyers", pa.int64())])
ATTRIBUTES = pa.schema(
    [
        ("item_id", pa.string()),
        ("field", pa.string()),  # "category_id" or "title"
        ("value", pa.string()),
        ("timestamp", pa.int64()),
        ("order", pa.int64()),
    ]
)
FIELDS = ("category_id", "title")
ROW_GROUP = 65_536  # rows of `items.parquet` that are read together
_TITLES = 65_536  # tokenised at a time: what bounds memory


@dataclasses.dataclass(frozen=True)
class Limits:
    """Sizes of the vocabularies and of a title."""

    max_items: int
    max_categories: int
    max_words: int
    word_hash_rows: int
    max_title_tokens: int


@dataclasses.dataclass(frozen=True)
class Vocabularies:
    """Entries of the schema."""

    items: schema.Vocabulary
    categories: schema.Vocabulary
    words: schema.Vocabulary
    tokenizer: str


# ------------------------------------------------------------------------------- from events


def count_items(events: pa.Table, *, as_of: int) -> pa.Table:
    """`COUNTS` of the items of compacted events; both may be 0.

    Recent buyers of parts of the events add up if each user's events are in one part.
    """
    item, values = codes(events.column("item_id"))
    user, _ = codes(events.column("user_id"))
    time = events.column("timestamp").to_numpy()
    before = time < as_of
    recent = before & (time >= as_of - schema.RECENT_DAYS * schema.DAY)
    pairs = np.unique(user[recent].astype(np.int64) * len(values) + item[recent])
    counts = {
        "count": np.bincount(item[before], minlength=len(values)),
        "recent_buyers": np.bincount(pairs % max(len(values), 1), minlength=len(values)),
    }
    return pa.table({"item_id": values} | counts).cast(COUNTS)


def add_counts(tables: list[pa.Table]) -> pa.Table:
    """Adds up tables of `COUNTS`."""
    numbers = COUNTS.names[1:]
    added = pa.concat_tables(tables).group_by("item_id").aggregate([(x, "sum") for x in numbers])
    return added.select(["item_id", *(f"{x}_sum" for x in numbers)]).rename_columns(COUNTS.names)


def actions_before(events: pa.Table, *, as_of: int) -> list[str]:
    """Sorted distinct action types before `as_of`; the empty one is no type."""
    action, values = codes(events.column("action"))
    used = np.unique(action[events.column("timestamp").to_numpy() < as_of])
    return [value for value in values.take(pa.array(used)).to_pylist() if value]


def make_attributes(validated: pa.Table, order: np.ndarray) -> pa.Table:
    """`ATTRIBUTES`: the latest value of each field of each item in validated events."""
    tables = []
    for field in FIELDS:
        table = pa.table(
            {
                "item_id": validated.column("item_id"),
                "field": pa.repeat(field, validated.num_rows),
                "value": validated.column(field),
                "timestamp": validated.column("timestamp"),
                "order": pa.array(order, pa.int64()),
            },
            schema=ATTRIBUTES,
        )
        tables.append(latest(table.filter(pc.not_equal(table.column("value"), ""))))
    return pa.concat_tables(tables)


def latest(attributes: pa.Table) -> pa.Table:
    """The last row of each item and field, by time and then by place in the input."""
    if not attributes.num_rows:
        return attributes
    key = pc.binary_join_element_wise(attributes["item_id"], attributes["field"], "\t")
    group = key.combine_chunks().dictionary_encode()
    time, place = (attributes.column(name).to_numpy() for name in ("timestamp", "order"))
    rows = np.lexsort((place, time))
    last = np.empty(len(group.dictionary), np.int64)
    last[group.indices.to_numpy()[rows]] = rows  # of equal indices the last one stays
    return attributes.take(pa.array(np.sort(last)))


# ------------------------------------------------------------------------------- the catalogue


def join_catalogue(
    counts: pa.Table, *, attributes: pa.Table, item_table: pa.Table | None
) -> pa.Table:
    """Every known item once, most bought first and then by id.

    Args:
      counts: `COUNTS` of the items in the events.
      attributes: `ATTRIBUTES` of the events.
      item_table: `item_id`, `category_id`, `title` of the user's own table, whose fields come
        first; its last row wins where an id stands twice.

    Returns:
      `item_id`, `category_id`, `title` and the other columns of `COUNTS`; text never null.
    """
    ids = counts.column("item_id").combine_chunks()
    if item_table is not None:
        ids = pc.unique(pa.concat_arrays([ids, item_table["item_id"].combine_chunks()]))
    columns = {"item_id": ids} | {
        name: _lookup(ids, counts["item_id"], counts[name], pa.scalar(0, pa.int64()))
        for name in COUNTS.names[1:]
    }
    for field in FIELDS:
        seen = attributes.filter(pc.equal(attributes["field"], field))
        columns[field] = _lookup(ids, seen["item_id"], seen["value"], pa.scalar(""))
        if item_table is not None:
            own = _lookup(ids, item_table["item_id"], item_table[field], pa.scalar(""))
            columns[field] = pc.if_else(pc.equal(own, ""), columns[field], own)
    table = pa.table(columns)
    return table.sort_by([("count", "descending"), ("item_id", "ascending")])


def _lookup(
    ids: pa.Array, keys: pa.ChunkedArray, values: pa.ChunkedArray, default: pa.Scalar
) -> pa.Array:
    """The last of `values` whose key is each id, or the default."""
    group = keys.combine_chunks().dictionary_encode()
    last = np.empty(len(group.dictionary), np.int64)
    last[group.indices.to_numpy()] = np.arange(len(keys))
    position = pc.index_in(ids, value_set=group.dictionary)
    rows = pa.array(last).take(position)
    return pc.fill_null(values.combine_chunks().take(rows), default)


def top(counts: dict[str, int], limit: int) -> tuple[list[str], list[int]]:
    """The most frequent tokens, most frequent first and then by token."""
    pairs = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:limit]
    return [token for token, _ in pairs], [count for _, count in pairs]


def write_catalogue(catalogue: pa.Table, *, folder: pathlib.Path, limits: Limits) -> Vocabularies:
    """Writes the vocabulary files and `items.parquet`; `catalogue` is from `join_catalogue`.

    This is where titles are tokenised, each item once: importing TensorFlow takes seconds, so
    it happens here and in no worker.
    """
    from guim_tf import text

    sold = catalogue.filter(pc.greater(catalogue["count"], 0))
    head = sold.slice(0, limits.max_items)
    items = _write(folder, "items", head["item_id"].to_pylist(), head["count"].to_pylist())

    grouped = sold.group_by("category_id").aggregate([("count", "sum")]).to_pydict()
    category_counts = dict(zip(grouped["category_id"], grouped["count_sum"], strict=True))
    category_counts.pop("", None)
    category_ids, counts = top(category_counts, limits.max_categories)
    categories = _write(folder, "categories", category_ids, counts)

    word_counts: collections.Counter[str] = collections.Counter()
    for titles in _batches(sold["title"]):
        for tokens in text.token_lists(titles):
            word_counts.update(set(tokens[: limits.max_title_tokens]))
    words = _write(folder, "words", *top(word_counts, limits.max_words))

    table = text.WordTable(
        str(folder / schema.VOCABULARY_FILES["words"]),
        size=words.size,
        hash_rows=limits.word_hash_rows,
        max_tokens=limits.max_title_tokens,
    )
    tokens = pa.chunked_array(
        [
            pa.array(text.row_lists(table, titles), pa.list_(pa.int64()))
            for titles in _batches(catalogue["title"])
        ],
        pa.list_(pa.int64()),
    )
    _write_items(catalogue, tokens, items.size, category_ids, folder)
    return Vocabularies(items, categories, words, text.TOKENIZER)


def _batches(titles: pa.ChunkedArray) -> Iterator[list[str]]:
    for start in range(0, len(titles), _TITLES):
        yield titles.slice(start, _TITLES).to_pylist()


def _write(
    folder: pathlib.Path, name: str, tokens: list[str], counts: list[int]
) -> schema.Vocabulary:
    return schema.write_vocabulary(folder / schema.VOCABULARY_FILES[name], tokens, counts)


def _write_items(
    catalogue: pa.Table,
    tokens: pa.ChunkedArray,
    vocabulary_size: int,
    category_ids: list[str],
    folder: pathlib.Path,
) -> None:
    index = np.arange(catalogue.num_rows, dtype=np.int64) + schema.FIRST_ROW
    index[vocabulary_size:] = schema.UNKNOWN_ROW
    known = pc.index_in(catalogue["category_id"], value_set=pa.array(category_ids, pa.string()))
    category_index = pc.fill_null(
        pc.add(known.cast(pa.int64()), schema.FIRST_ROW), schema.UNKNOWN_ROW
    )
    keys = [schema.fingerprint64(each) for each in catalogue["item_id"].to_pylist()]
    columns = {
        "item_key": pa.array(keys, pa.int64()),
        "item_index": pa.array(index),
        "category_index": category_index,
        "title_tokens": tokens,
    } | {name: catalogue[name] for name in ("category_id", "title", *COUNTS.names)}
    table = pa.table({name: columns[name] for name in schema.ITEM_COLUMNS})
    pq.write_table(table, folder / schema.ITEMS_FILE, row_group_size=ROW_GROUP)


def load_catalogue(folder: pathlib.Path) -> tuple[pa.Array, Catalogue]:
    """Item ids and what records say about them, from `items.parquet`."""
    table = pq.read_table(folder / schema.ITEMS_FILE).combine_chunks()
    tokens = table["title_tokens"].combine_chunks()
    lengths = pc.list_value_length(tokens).to_numpy(zero_copy_only=False).astype(np.int64)
    return table["item_id"].combine_chunks(), Catalogue(
        item_key=table["item_key"].to_numpy(),
        item_index=table["item_index"].to_numpy(),
        category_index=table["category_index"].to_numpy(),
        token_starts=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        tokens=tokens.flatten().to_numpy(),
    )
