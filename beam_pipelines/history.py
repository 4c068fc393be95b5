"""What a data set remembers of its events, so that a day can be added to it.

`history/` holds the compacted sequences, the latest attributes of the items, and which days and
settings they were made with. A day is added by compacting the old sequences with the new events:
the result is what one run over all days would have made.
"""

import argparse
import dataclasses
import datetime
import hashlib
import json
import os
import pathlib
from collections.abc import Iterable, Mapping

import pyarrow as pa

from beam_pipelines import vocabulary
from beam_pipelines.errors import InputError
from beam_pipelines.events import Window
from beam_pipelines.files import arrow_stream, read_arrow, write_json
from beam_pipelines.settings import Settings
from beam_pipelines.stages import PastSequences, Plan
from guim_tf import schema

FOLDER = "history"
_BEGINNING = 1 << 16  # bytes of a file by which it is known again
_FILE, _ATTRIBUTES = "history.json", "attributes.arrow"
# A change of these would change what the old events became.
FIXED_SETTINGS = ("max_events_per_user", "word_hash_rows", "max_title_tokens", "validation_share")


@dataclasses.dataclass(frozen=True)
class _Read:
    """How far a file has been read, and what its first bytes were."""

    rows: int
    bytes: int
    digest: str


def _beginning(path: str, size: int) -> str:
    with open(path, "rb") as file:
        return hashlib.sha256(file.read(size)).hexdigest()


@dataclasses.dataclass(frozen=True)
class History:
    """The state of a data set to which days are added."""

    days: tuple[str, ...] = ()
    files: int = 0  # event files read so far: the next one's place in the input
    settings: tuple[float, ...] = ()  # values of FIXED_SETTINGS
    read: Mapping[str, "_Read"] = dataclasses.field(default_factory=dict)  # by file

    @classmethod
    def load(cls, dataset: pathlib.Path) -> "History":
        """What a data set remembers; nothing where there is no data set yet.

        Raises:
          InputError: the data set was built without `--append`, or by an older version.
        """
        if not (dataset / schema.SCHEMA_FILE).is_file():
            return cls()
        path = dataset / FOLDER / _FILE
        if not path.is_file():
            raise InputError(
                f"{dataset} has no {FOLDER}/, so no day can be added to it. Build it again with "
                "--append day=... from its first day on, or name another folder."
            )
        fields = json.loads(path.read_text(encoding="utf-8"))
        if len(fields["settings"]) != len(FIXED_SETTINGS) or "read" not in fields:
            raise InputError(
                f"{dataset} is of an older version, which did not remember all of its files and of "
                f"{', '.join(FIXED_SETTINGS)}. Build it again with --append from its first day on."
            )
        days, chosen = tuple(fields["days"]), tuple(fields["settings"])
        read = {path: _Read(**each) for path, each in fields["read"].items()}
        return cls(days, fields["files"], chosen, read)

    def add(self, day: str, *, files: int, settings: Settings) -> "History":
        """The state after a day; raises `InputError` where the day can't be added."""
        chosen = tuple(getattr(settings, name) for name in FIXED_SETTINGS)
        if day in self.days:
            raise InputError(f"{day} is in the data set already; each day is added once.")
        for name, old, new in zip(FIXED_SETTINGS, self.settings or chosen, chosen, strict=True):
            if old != new:
                raise InputError(
                    f"{name} is {new}, and the days before were built with {old}; "
                    "keep it, or build a new data set from all days."
                )
        return History((*self.days, day), self.files + files, chosen, self.read)

    def rows_before(self) -> dict[str, int]:
        """How many rows of each file were read for earlier days.

        A file that begins otherwise than it did has taken the place of another.
        """
        return {
            path: read.rows
            for path, read in self.read.items()
            if pathlib.Path(path).is_file() and _beginning(path, read.bytes) == read.digest
        }

    def after(self, scans: Iterable[tuple[str, int]]) -> "History":
        """The state when files, with their last rows, have been read; a file may come in parts."""
        read = dict(self.read)
        for path, row in dict(sorted(scans)).items():  # its last part
            size = min(pathlib.Path(path).stat().st_size, _BEGINNING)
            read[path] = _Read(row, size, _beginning(path, size))
        return dataclasses.replace(self, read=read)

    def save(self, plan: Plan, attributes: pa.Table) -> None:
        """Moves the sequences out of the work folder and writes the rest beside them."""
        folder = plan.folder / FOLDER
        folder.mkdir()
        for partition in range(plan.partitions):
            path = plan.sequences(partition)
            os.replace(path, folder / path.name)
        with arrow_stream(folder / _ATTRIBUTES, vocabulary.ATTRIBUTES) as writer:
            writer.write_table(attributes)
        write_json(folder / _FILE, dataclasses.asdict(self))


def refuse_replacing(dataset: pathlib.Path) -> None:
    """Raises where days were added to a data set: their logs may be gone."""
    if (dataset / FOLDER).is_dir():
        days = History.load(dataset).days
        raise InputError(
            f"{dataset} holds {len(days)} days that were added, the last {days[-1]}. Add one more "
            "with --append day=..., name another folder, or remove this one."
        )


def refuse_earlier(dataset: pathlib.Path, as_of: int) -> None:
    """Raises where the cut-off would go back: the vocabularies have learned from what is later."""
    before = schema.Schema.load(dataset).as_of
    if as_of < before:
        raise InputError(
            f"The cut-off would be {as_of}, before that of the data set, {before}: what would be "
            "held out has been learned from. Keep --holdout-days as it was, give --as-of "
            f"{before} or later, or build a new data set from all days."
        )


def sequences_of(dataset: pathlib.Path) -> list[PastSequences]:
    """The sequences of the days before, as inputs of a scan."""
    files = sorted((dataset / FOLDER).glob("sequences-*.arrow"))
    return [PastSequences(str(path)) for path in files]


def attributes_of(dataset: pathlib.Path) -> pa.Table:
    """`ATTRIBUTES` of the days before."""
    return read_arrow(dataset / FOLDER / _ATTRIBUTES)


def parse_day(text: str) -> Window:
    """`day=2011-11-10` -> that day, from midnight to midnight UTC."""
    name, _, value = text.partition("=")
    try:
        if name != "day":
            raise ValueError(text)
        start = datetime.datetime.strptime(value, "%Y-%m-%d").replace(tzinfo=datetime.UTC)
    except ValueError as e:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form day=2011-11-10") from e
    seconds = int(start.timestamp())
    return Window(seconds, seconds + schema.DAY, start.date().isoformat())
