"""The mapping file: which columns of a log, an item table and a label table hold what."""

import dataclasses
import zoneinfo

from guim_tf.strict_json import check


@dataclasses.dataclass(frozen=True)
class Column:
    """Where a field comes from: a column, or its first `prefix` characters.

    A dot leads into nested fields of Parquet and JSON lines: `user.id`.
    """

    column: str
    prefix: int | None = None

    def __post_init__(self) -> None:
        check(bool(self.column), self, "column", "a column name")
        check(self.prefix is None or self.prefix > 0, self, "prefix", "a positive length or null")

    @classmethod
    def from_text(cls, text: str) -> "Column":
        """The short form: its name alone."""
        return cls(text)


FILTER_OPERATORS = ("present", "==", "!=", ">", ">=", "<", "<=", "starts_with", "not_starts_with")


@dataclasses.dataclass(frozen=True)
class RowFilter:
    """Keeps the rows for which `column operator value` holds; the others count as filtered.

    `present` takes no value and keeps rows whose column is neither null nor empty. Comparisons
    with a number read the column as a number; a row where that fails is a dead letter.
    """

    column: str
    operator: str
    value: int | float | str | None = None

    def __post_init__(self) -> None:
        check(self.operator in FILTER_OPERATORS, self, "operator", f"one of {FILTER_OPERATORS}")
        check(
            (self.value is None) == (self.operator == "present"),
            self,
            "value",
            "a value, unless the operator is 'present'",
        )

    @property
    def reason(self) -> str:
        """The key under which `counters.json` counts the rows that this filter dropped."""
        return f"{self.column} {self.operator}" + ("" if self.value is None else f" {self.value}")


TIMESTAMP_UNITS = ("seconds", "milliseconds", "iso")


@dataclasses.dataclass(frozen=True)
class EventsMapping:
    """Which columns of the event files hold what. One row is one interaction."""

    files: tuple[str, ...]  # globs from the mapping file: .parquet .csv .jsonl (.gz .bz2 .zst)
    user_id: Column
    item_id: Column
    timestamp: Column
    timestamp_unit: str = "seconds"
    time_zone: str = "UTC"  # of times that name none; where clocks go back, the earlier one
    action: Column | None = None
    category_id: Column | None = None
    title: Column | None = None
    filters: tuple[RowFilter, ...] = ()

    def __post_init__(self) -> None:
        check(bool(self.files), self, "files", "at least one file or glob")
        check(
            self.timestamp_unit in TIMESTAMP_UNITS,
            self,
            "timestamp_unit",
            f"one of {TIMESTAMP_UNITS}",
        )
        check(_is_zone(self.time_zone), self, "time_zone", "a name such as Europe/Istanbul")


def _is_zone(name: str) -> bool:
    try:
        return bool(zoneinfo.ZoneInfo(name))
    except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError):
        return False


@dataclasses.dataclass(frozen=True)
class ItemsMapping:
    """Which columns of the item table hold what."""

    files: tuple[str, ...]
    item_id: Column
    category_id: Column | None = None
    title: Column | None = None

    def __post_init__(self) -> None:
        check(bool(self.files), self, "files", "at least one file or glob")


@dataclasses.dataclass(frozen=True)
class LabelsMapping:
    """Profile labels of users: every other column named here is a label."""

    files: tuple[str, ...]
    user_id: Column
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        check(bool(self.files), self, "files", "at least one file or glob")
        check(bool(self.labels), self, "labels", "at least one label column")


@dataclasses.dataclass(frozen=True)
class Mapping:
    """The mapping file that a user writes once for a log."""

    events: EventsMapping
    items: ItemsMapping | None = None
    labels: LabelsMapping | None = None
