"""Rows of a log -> events: one pure, vectorised function from a raw batch to what it holds.

Every row read is accounted for: it becomes an event, or is counted under the filter that dropped
it, or is a dead letter with a reason.
"""

import collections
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_pipelines.clean_text import GARBLED
from beam_pipelines.readers import GARBLED_TEXT, DeadRow, RawBatch
from guim_tf.mapping import Column, EventsMapping, ItemsMapping, LabelsMapping, RowFilter

LAST_SECOND = 4_102_444_800  # 2100-01-01; milliseconds read as seconds lie far beyond it

EVENT_COLUMNS = ("user_id", "item_id", "timestamp", "action", "category_id", "title")
READ_BEFORE = "read with an earlier day"
_TIME = r"^\d{4}-\d{2}-\d{2}([T ]\d{2}(:\d{2}(:\d{2})?)?)?"
_ZONE = r"(Z|[+-]\d{2}(:?\d{2})?)$"


@dataclasses.dataclass(frozen=True)
class Validated:
    """What a batch holds: sound rows with their numbers, and a count or reason for each other.

    `of_window`: numbers of the rows, whatever became of them, whose time is in the window.
    """

    table: pa.Table
    rows: np.ndarray  # int64, [table.num_rows]
    filtered: collections.Counter[str]
    dead: tuple[DeadRow, ...]
    of_window: np.ndarray  # int64


@dataclasses.dataclass(frozen=True)
class Window:
    """The events with `start <= timestamp < stop`, in seconds; the others are filtered."""

    start: int
    stop: int
    name: str

    @property
    def reason(self) -> str:
        return f"outside of {self.name}"


class _Rows:
    """The rows of one raw batch that nothing has dropped yet."""

    def __init__(self, raw: RawBatch, *, rows_before: int = 0) -> None:
        self._raw = raw
        self.size = raw.table.num_rows
        self.alive = np.ones(self.size, bool)
        self._filtered: collections.Counter[str] = collections.Counter()
        self._dead = [letter for letter in raw.dead if letter.row > rows_before]
        if known := len(raw.dead) - len(self._dead):
            self._filtered[READ_BEFORE] += known

    def column(self, name: str) -> pa.Array:
        column = self._raw.table.column(name)
        return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()

    def kill(self, bad: np.ndarray, reason: str) -> None:
        """Makes dead letters of the living rows in `bad`."""
        hits = np.flatnonzero(bad & self.alive)
        self.alive[hits] = False
        numbers = self._raw.rows[hits].tolist()
        contents = _as_json(self._raw.table.take(pa.array(hits))) if len(hits) else []
        for number, content in zip(numbers, contents, strict=True):
            self._dead.append(DeadRow(number, reason, content))

    def filter(self, keep: np.ndarray, reason: str) -> None:
        """Counts the living rows outside of `keep` under `reason`."""
        if dropped := int(np.count_nonzero(~keep & self.alive)):
            self._filtered[reason] += dropped
        self.alive &= keep

    def finish(
        self, columns: dict[str, pa.Array | np.ndarray], *, inside: np.ndarray | None = None
    ) -> Validated:
        table = pa.table({name: pa.array(values) for name, values in columns.items()})
        rows = self._raw.rows
        if not self.alive.all():
            table = table.filter(pa.array(self.alive))
            rows = rows[self.alive]
        dead = sorted(self._dead, key=lambda letter: letter.row)
        of_window = self._raw.rows[[] if inside is None else inside]
        return Validated(table, rows, self._filtered, tuple(dead), of_window)


def _as_json(table: pa.Table) -> list[dict[str, Any]]:
    """Rows of plain values: Python has no time of all that Arrow has."""
    for place, field in enumerate(table.schema):
        if pa.types.is_temporal(field.type):
            table = table.set_column(place, field.name, table.column(place).cast(pa.string()))
    return table.to_pylist()


# ------------------------------------------------------------------------------- the three tables


def validate_events(
    raw: RawBatch, mapping: EventsMapping, *, window: Window | None = None, rows_before: int = 0
) -> Validated:
    """Events of a batch: `EVENT_COLUMNS`, the timestamp as int64 seconds, text never null.

    Args:
      raw: the batch.
      mapping: which column holds what.
      window: the times that are wanted. A row of another time is filtered whatever it holds.
      rows_before: the rows of the file up to this number were read for an earlier window, which
        has accounted for those whose time can't be told.
    """
    rows = _Rows(raw, rows_before=rows_before)
    timestamp, faults = _timestamp(rows, mapping)
    inside = None
    if window is not None:
        dated = ~np.any(list(faults.values()), axis=0)
        inside = dated & (timestamp >= window.start) & (timestamp < window.stop)
        rows.filter(inside | (raw.rows > rows_before), READ_BEFORE)
        rows.filter(inside | ~dated, window.reason)
    _kill_garbled(rows)
    for row_filter in mapping.filters:
        _apply_filter(rows, row_filter)
    optional = {name: getattr(mapping, name) for name in ("action", "category_id", "title")}
    columns = {
        "user_id": _id(rows, mapping.user_id, "user_id"),
        "item_id": _id(rows, mapping.item_id, "item_id"),
        "timestamp": timestamp,
    } | {name: _optional_text(rows, column) for name, column in optional.items()}
    for reason, bad in faults.items():
        rows.kill(bad, reason)
    rows.kill(_has_break(columns["category_id"]), "category_id holds a tab or a line break")
    return rows.finish(columns, inside=inside)


def validate_items(raw: RawBatch, mapping: ItemsMapping) -> Validated:
    """Rows of an item table: `item_id`, `category_id`, `title`, text never null."""
    rows = _Rows(raw)
    _kill_garbled(rows)
    columns = {
        "item_id": _id(rows, mapping.item_id, "item_id"),
        "category_id": _optional_text(rows, mapping.category_id),
        "title": _optional_text(rows, mapping.title),
    }
    rows.kill(_has_break(columns["category_id"]), "category_id holds a tab or a line break")
    return rows.finish(columns)


def validate_labels(raw: RawBatch, mapping: LabelsMapping) -> Validated:
    """Rows of a label table: `user_id` and the labels as text, null where there is none."""
    rows = _Rows(raw)
    _kill_garbled(rows)
    columns = {"user_id": _id(rows, mapping.user_id, "user_id")}
    for name in mapping.labels:
        text = as_text(rows.column(name))
        columns[name] = pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)
    return rows.finish(columns)


def mapped_columns(
    mapping: EventsMapping | ItemsMapping | LabelsMapping,
) -> tuple[tuple[str, ...], frozenset[str]]:
    """Every column that a mapping names, and those of them that hold ids or text."""
    text, other = [], []
    for name in ("user_id", "item_id", "action", "category_id", "title"):
        if isinstance(column := getattr(mapping, name, None), Column):
            text.append(column.column)
    if isinstance(mapping, EventsMapping):
        other = [mapping.timestamp.column, *(each.column for each in mapping.filters)]
    if isinstance(mapping, LabelsMapping):
        other = list(mapping.labels)
    return tuple(dict.fromkeys([*text, *other])), frozenset(text)


# ------------------------------------------------------------------------------- fields


def as_text(column: pa.Array) -> pa.Array:
    return column if pa.types.is_string(column.type) else column.cast(pa.string())


def _kill_garbled(rows: _Rows) -> None:
    for name in rows._raw.table.column_names:
        if pa.types.is_string(rows.column(name).type):
            bad = pc.fill_null(pc.match_substring(rows.column(name), GARBLED), False)
            rows.kill(_mask(bad), GARBLED_TEXT)


def _field(rows: _Rows, column: Column) -> pa.Array:
    text = pc.fill_null(as_text(rows.column(column.column)), "")
    return text if column.prefix is None else pc.utf8_slice_codeunits(text, 0, column.prefix)


def _optional_text(rows: _Rows, column: Column | None) -> pa.Array:
    return pa.repeat("", rows.size) if column is None else _field(rows, column)


def _id(rows: _Rows, column: Column, field: str) -> pa.Array:
    text = _field(rows, column)
    rows.kill(_mask(pc.equal(text, "")), f"{field} missing")
    rows.kill(_has_break(text), f"{field} holds a tab or a line break")
    return text


def _has_break(text: pa.Array) -> np.ndarray:
    """Rows that can't be a line of a vocabulary file."""
    masks = [_mask(pc.match_substring(text, character)) for character in "\t\n\r"]
    return masks[0] | masks[1] | masks[2]


def _timestamp(rows: _Rows, mapping: EventsMapping) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Whole seconds since the epoch `[n]`, 0 where there are none, and by reason which those are.

    A time that names no zone is of the mapping's.
    """
    cells = rows.column(mapping.timestamp.column)
    unit, zone = mapping.timestamp_unit, mapping.time_zone
    missing = cells.is_null()
    if pa.types.is_string(cells.type):
        missing = pc.or_(missing, pc.fill_null(pc.equal(cells, ""), False))
    given = ~_mask(missing)
    kind = cells.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        micros = cells.cast(pa.timestamp("us", getattr(kind, "tz", None)), safe=False)
        numbers = pc.fill_null(_in_zone(micros, zone).cast(pa.int64()), 0).to_numpy()
        seconds, bad = np.floor_divide(numbers, 1_000_000), np.zeros(rows.size, bool)
    elif unit == "iso":
        seconds, bad = _iso_seconds(as_text(cells), given, zone)
    else:
        seconds, bad = _numbers(cells, given)
        seconds = np.floor(seconds / (1000.0 if unit == "milliseconds" else 1.0))
    far = (seconds < 0) | (seconds >= LAST_SECOND)
    seconds = np.where(given & ~bad & ~far, seconds, 0).astype(np.int64)
    faults = {
        "timestamp missing": ~given,
        "timestamp unparsable": bad,
        "timestamp out of range": far,
    }
    return seconds, faults


def _in_zone(times: pa.Array, zone: str) -> pa.Array:
    """Times that name a zone as they are, others as the clocks of `zone` showed them."""
    if times.type.tz is not None or zone == "UTC":
        return times
    return pc.assume_timezone(times, zone, ambiguous="earliest", nonexistent="latest")


def _iso_seconds(text: pa.Array, alive: np.ndarray, zone: str) -> tuple[np.ndarray, np.ndarray]:
    """Seconds `[n]` and which texts are no ISO 8601 time. Plain ones are cast in one go."""
    text = pc.if_else(pa.array(alive), text, pa.scalar(None, pa.string()))
    try:
        return _epoch(_in_zone(text.cast(pa.timestamp("s")), zone)), np.zeros(len(text), bool)
    except pa.ArrowInvalid:
        pass
    text = pc.replace_substring_regex(text, r"(:\d{2})[.,]\d+", r"\1")  # floor to whole seconds
    plain = _mask(pc.match_substring_regex(text, _TIME + "$"))
    zoned = _mask(pc.match_substring_regex(text, _TIME + _ZONE))
    seconds, bad = np.zeros(len(text)), alive & ~plain & ~zoned
    for rows, kind in ((plain, pa.timestamp("s")), (zoned, pa.timestamp("s", "UTC"))):
        where = np.flatnonzero(rows)
        values, failed = cast_rows(text.take(pa.array(where)), kind)
        seconds[where] = _epoch(_in_zone(values, zone))
        bad[where[failed]] = True
    return seconds, bad


def _epoch(times: pa.Array) -> np.ndarray:
    return pc.fill_null(times.cast(pa.int64()), 0).to_numpy().astype(np.float64)


def _numbers(cells: pa.Array, alive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float64 `[n]` (0 where there is none) and which living cells are no finite number."""
    cells = pc.if_else(pa.array(alive), cells, pa.scalar(None, cells.type))
    values, bad = cast_rows(cells, pa.float64())
    numbers = values.to_numpy(zero_copy_only=False).astype(np.float64)
    bad |= alive & ~np.isfinite(numbers)
    return np.where(np.isfinite(numbers), numbers, 0.0), bad


def cast_rows(cells: pa.Array, kind: pa.DataType) -> tuple[pa.Array, np.ndarray]:
    """Casts what can be cast: the values, null where it failed, and `[n]` where that was.

    A failing array is halved until the bad cells stand alone, so sound batches cost one cast.
    """
    bad = np.zeros(len(cells), bool)

    def cast(start: int, stop: int) -> list[pa.Array]:
        try:
            return [cells.slice(start, stop - start).cast(kind, safe=False)]
        except pa.ArrowInvalid:
            if stop - start == 1:
                bad[start] = True
                return [pa.nulls(1, kind)]
            middle = (start + stop) // 2
            return cast(start, middle) + cast(middle, stop)

    return pa.concat_arrays(cast(0, len(cells))), bad


# ------------------------------------------------------------------------------- filters


_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "==": pc.equal,
    "!=": pc.not_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
    "<": pc.less,
    "<=": pc.less_equal,
}


def _apply_filter(rows: _Rows, row_filter: RowFilter) -> None:
    cells = rows.column(row_filter.column)
    value, operator = row_filter.value, row_filter.operator
    if isinstance(value, int | float) and operator in _COMPARE:
        numbers, bad = _numbers(cells, rows.alive)
        rows.kill(bad, f"{row_filter.column} is not a number")
        keep = _mask(_COMPARE[operator](pa.array(numbers), value))
    else:
        text = pc.fill_null(as_text(cells), "")
        if operator == "present":
            keep = _mask(pc.not_equal(text, ""))
        elif operator in _COMPARE:
            keep = _mask(_COMPARE[operator](text, str(value)))
        else:
            keep = _mask(pc.starts_with(text, str(value))) ^ (operator == "not_starts_with")
    rows.filter(keep, row_filter.reason)


def _mask(condition: pa.Array) -> np.ndarray:
    return pc.fill_null(condition, False).to_numpy(zero_copy_only=False)
