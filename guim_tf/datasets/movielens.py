"""What the MovieLens readers share: the mapping, age bands and occupations of MovieLens 1M."""

import pathlib
from collections.abc import Sequence

from guim_tf.datasets.files import write_csv, write_mapping
from guim_tf.mapping import Column, EventsMapping, ItemsMapping, LabelsMapping, Mapping

EVENT_HEADER = ("user_id", "item_id", "rating", "timestamp")
LABELS = ("gender", "age_group", "occupation")

# Lower bounds of the published age bands, which are also their codes.
AGE_GROUPS = {
    1: "Under 18",
    18: "18-24",
    25: "25-34",
    35: "35-44",
    45: "45-49",
    50: "50-55",
    56: "56+",
}


def age_group(age: int) -> str:
    """The band of an age in years, or of a published code."""
    return AGE_GROUPS[max(bound for bound in AGE_GROUPS if bound <= max(age, 1))]


def write_tables(
    output: pathlib.Path, *, items: Sequence[tuple[str, ...]], labels: Sequence[tuple[str, ...]]
) -> pathlib.Path:
    """Writes `items.csv`, `labels.csv` and the mapping of `events.csv`; returns the mapping.

    Args:
      output: the prepared folder.
      items: (item_id, title, genres); the whole genre string is the category.
      labels: (user_id, gender, age_group, occupation).
    """
    write_csv(output / "items.csv", ("item_id", "title", "genres"), items)
    write_csv(output / "labels.csv", ("user_id", *LABELS), labels)
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
            category_id=Column("genres"),
            title=Column("title"),
        ),
        labels=LabelsMapping(files=("labels.csv",), user_id=Column("user_id"), labels=LABELS),
    )
    return write_mapping(output, mapping)


def split_lines(path: pathlib.Path, delimiter: str, fields: int) -> list[list[str]]:
    """Fields of each line; files are UTF-8 or, as first published, Latin-1."""
    data = path.read_bytes()
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    rows = [line.rstrip("\r").split(delimiter) for line in text.split("\n") if line.strip()]
    for number, row in enumerate(rows, start=1):
        if len(row) != fields:
            raise ValueError(
                f"{path}, line {number}: {len(row)} fields between {delimiter!r}, "
                f"expected {fields}. Get the file again."
            )
    return rows
