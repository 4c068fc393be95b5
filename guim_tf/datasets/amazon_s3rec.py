"""Amazon reviews 2014, 5-core, as published with S3-Rec (Zhou et al., CIKM 2020).

One user a line, `user item item ...` in time order, without times: an item's time is made up from
its place counted from the end, one day each. All users end on the same day, so that
`guim build-dataset --holdout-days 1` is leave-one-out: the last item of every user is held out,
all others may be learned from, and one day earlier divides the last but one (validation) from the
rest. What comes out is comparable with tables of full ranking, not of sampled negatives.

An item's attributes are numbers: its brand first where it has one, then its categories from the
general to the special. All are the words of its title, and the last is its category.
"""

import gzip
import json
import pathlib
from collections.abc import Iterator

from guim_tf.datasets.files import DatasetError, published_file, write_csv, write_mapping
from guim_tf.mapping import Column, EventsMapping, ItemsMapping, Mapping
from guim_tf.schema import DAY

SOURCE = (
    "https://github.com/aHuiWang/CIKM2020-S3Rec, folder data (gzipped; the attributes as "
    "NAME_item2attributes.json.gz)"
)
LAST_DAY = 16_274  # days since the epoch: 2014-07-23, when the reviews were collected


def prepare_beauty(*, data_dir: str | pathlib.Path, output: str | pathlib.Path) -> pathlib.Path:
    """`prepare` of Beauty."""
    return prepare("Beauty", data_dir=data_dir, output=output)


def prepare_sports(*, data_dir: str | pathlib.Path, output: str | pathlib.Path) -> pathlib.Path:
    """`prepare` of Sports and Outdoors."""
    return prepare("Sports_and_Outdoors", data_dir=data_dir, output=output)


def prepare(name: str, *, data_dir: str | pathlib.Path, output: str | pathlib.Path) -> pathlib.Path:
    """Writes `events.csv`, `items.csv` and their mapping; returns the mapping.

    Raises:
      DatasetError: a published file is missing or is not what it should be.
    """
    sequences, attributes = (
        published_file(data_dir, "amazon_s3rec", name + end, source=SOURCE)
        for end in (".txt.gz", "_item2attributes.json.gz")
    )
    output = pathlib.Path(output)
    items = [
        (item, str(held[-1]) if held else "", " ".join(f"a{x}" for x in held))
        for item, held in _attributes(attributes).items()
    ]
    write_csv(output / "events.csv", ("user_id", "item_id", "timestamp"), _events(sequences))
    write_csv(output / "items.csv", ("item_id", "category_id", "title"), items)
    mapping = Mapping(
        events=EventsMapping(
            files=("events.csv",),
            user_id=Column("user_id"),
            item_id=Column("item_id"),
            timestamp=Column("timestamp"),
        ),
        items=ItemsMapping(
            files=("items.csv",),
            item_id=Column("item_id"),
            category_id=Column("category_id"),
            title=Column("title"),
        ),
    )
    return write_mapping(output, mapping)


def _events(path: pathlib.Path) -> Iterator[tuple[str, str, str]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            user, *items = line.split()
            if not items:
                raise DatasetError(
                    f"{path}, line {number}: {line.strip()!r}, expected a user and at least one "
                    "item. Get the file again."
                )
            first = LAST_DAY - len(items) + 1
            for place, item in enumerate(items):
                yield user, item, str((first + place) * DAY)


def _attributes(path: pathlib.Path) -> dict[str, list[int]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        try:
            held = json.load(file)
        except ValueError as e:
            raise DatasetError(f"{path} is not JSON: {e}. Get the file again.") from e
    if not isinstance(held, dict) or not all(isinstance(x, list) for x in held.values()):
        raise DatasetError(
            f"{path}: expected an object of items, each with a list of attributes. "
            "Get the file again."
        )
    return held
