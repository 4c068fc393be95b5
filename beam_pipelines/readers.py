"""Files of a log as Arrow record batches: CSV, JSON lines and Parquet, plain or gzip.

Every reader streams in blocks, numbers the rows of its file from 1 (a CSV header and blank lines
of a CSV file have no number; in JSON lines it is the line) and hands over what it could not parse
as `DeadRow`s instead of stopping. Text arrives as valid UTF-8: each byte that was not is replaced
by `GARBLED`, which validation looks for.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from beam_pipelines.clean_text import COMPRESSIONS, GARBLED, CleanText, clean, line_blocks
from beam_pipelines.errors import InputError
from beam_pipelines.json_lines import (
    PROBED_LINES,
    cell_text,
    guess_schema,
    is_utf8,
    json_object,
    json_paths,
    parse_block,
    value_at,
)

BLOCK_BYTES = 8 << 20

WRONG_FIELDS = "wrong number of fields"
NOT_JSON = "not a JSON object"
EMPTY_FILE = "empty file"
UNREADABLE = "file can't be read to its end"
WRONG_TYPE = "wrong type"
GARBLED_TEXT = "broken encoding"


@dataclasses.dataclass(frozen=True)
class DeadRow:
    """A row that can't be used: its number in the file (from 1), why, and what it held."""

    row: int
    reason: str
    content: Any


class BrokenFile(InputError):
    """A file that can't be read from its start; `reason` says it shortly."""

    def __init__(self, message: str, *, reason: str = UNREADABLE) -> None:
        super().__init__(message)
        self.reason = reason


@dataclasses.dataclass(frozen=True)
class Source:
    """A file, or one row group of a Parquet file.

    `index` is the file's place in the input. `misfit` says why none of its rows can be used, for
    instance for want of a column; `broken`, why it has no rows.
    """

    path: str
    index: int
    row_group: int = 0
    first_row: int = 1
    misfit: str = ""
    broken: str = ""

    @property
    def format(self) -> str:
        return file_format(self.path)


@dataclasses.dataclass(frozen=True)
class RawBatch:
    """Rows as read: the mapped columns, each row's number, and the rows that did not parse.

    `broken` is set on a last batch when the file could not be read beyond its row.
    """

    table: pa.Table
    rows: np.ndarray  # int64, [table.num_rows]
    dead: tuple[DeadRow, ...] = ()
    broken: DeadRow | None = None


def file_format(path: str) -> str:
    """The format "csv", "jsonl" or "parquet", by the file's name."""
    name = path
    for ending in COMPRESSIONS:
        name = name.removesuffix(ending)
    for ending in ("csv", "jsonl", "parquet"):
        if name.endswith("." + ending) and (ending != "parquet" or name == path):
            return ending
    raise InputError(
        f"{path}: unknown file type; expected .csv, .jsonl or .parquet, the first two also with "
        f"{', '.join(COMPRESSIONS)}."
    )


# ------------------------------------------------------------------------------- columns


def column_types(path: str) -> list[tuple[str, pa.DataType | None]]:
    """Columns of a file; None where the type is only known row by row.

    Raises:
      BrokenFile: for an empty file and for one whose beginning can't be read.
    """
    kind = file_format(path)
    if kind == "parquet":
        schema = _parquet(path).schema_arrow
        columns = zip(schema.names, schema.types, strict=True)
        return [leaf for name, of_type in columns for leaf in _leaves(name, of_type)]
    with CleanText(path) as stream:
        start = stream.read(1)
        if stream.error is not None:
            raise BrokenFile(f"{path} can't be read to its end: {stream.error}")
    if not start:
        raise BrokenFile(f"{path} is an empty file.", reason=EMPTY_FILE)
    if kind == "csv":
        with CleanText(path) as stream:
            names = _open_csv(stream, path, columns=None, on_invalid=lambda _: "skip").schema.names
        return [(name, None) for name in names]
    names_seen: dict[str, None] = {}
    with CleanText(path) as stream:
        block, _ = next(line_blocks(stream, BLOCK_BYTES))
    for line in block.split(b"\n")[:PROBED_LINES]:
        record = json_object(line)
        names_seen.update(dict.fromkeys(filter(is_utf8, json_paths(record or {}))))
    return [(name, None) for name in names_seen]


def _leaves(name: str, kind: pa.DataType) -> Iterator[tuple[str, pa.DataType]]:
    if not pa.types.is_struct(kind):
        yield name, kind
        return
    for field in kind:
        yield from _leaves(f"{name}.{field.name}", field.type)


# ------------------------------------------------------------------------------- reading


def read_batches(
    source: Source, columns: tuple[str, ...], *, ids: frozenset[str]
) -> Iterator[RawBatch]:
    """Streams the mapped columns of a source.

    A file that breaks in the middle yields what came before and a batch that says where; of one
    that is a `misfit` every row is dead.
    """
    if source.broken:
        yield _nothing(columns, broken=DeadRow(0, source.broken, None))
        return
    readers = {"csv": _read_csv, "jsonl": _read_jsonl, "parquet": _read_parquet}
    read = readers[source.format]
    present = columns
    if source.misfit:
        present = tuple(dict.fromkeys(name for name, _ in column_types(source.path)))
    last = source.first_row - 1
    try:
        for raw in read(source, present, ids):
            if source.misfit:
                raw = _nothing(columns, dead=_all_dead(raw, source.misfit))
            last = int(max([last, *raw.rows[-1:], *(row.row for row in raw.dead)]))
            yield raw
    except (BrokenFile, pa.ArrowException, OSError) as e:
        yield _nothing(columns, broken=DeadRow(last + 1, UNREADABLE, str(e)))


def _nothing(
    columns: tuple[str, ...], *, dead: tuple[DeadRow, ...] = (), broken: DeadRow | None = None
) -> RawBatch:
    empty = pa.table({name: pa.array([], pa.string()) for name in columns})
    return RawBatch(empty, np.zeros(0, np.int64), dead, broken)


def _all_dead(raw: RawBatch, reason: str) -> tuple[DeadRow, ...]:
    contents = zip(raw.rows.tolist(), raw.table.to_pylist(), strict=True)
    dead = [*raw.dead, *(DeadRow(row, reason, content) for row, content in contents)]
    return tuple(sorted(dead, key=lambda row: row.row))


def _read_csv(source: Source, columns: tuple[str, ...], ids: frozenset[str]) -> Iterator[RawBatch]:
    dead: list[DeadRow] = []  # in the order of the file; the parser may run a block ahead

    def on_invalid(row: pyarrow.csv.InvalidRow) -> str:
        dead.append(DeadRow(row.number - 1, WRONG_FIELDS, row.text))  # the header is its row 1
        return "skip"

    with CleanText(source.path) as stream:
        try:
            next_row = 1
            for batch in _open_csv(stream, source.path, columns=columns, on_invalid=on_invalid):
                # A valid row's number is its rank among the numbers that no dead row has.
                bad = np.array([row.row for row in dead], np.int64)
                free = np.arange(next_row, next_row + batch.num_rows + len(bad), dtype=np.int64)
                rows = free[~np.isin(free, bad)][: batch.num_rows]
                if batch.num_rows:
                    next_row = int(rows[-1]) + 1
                done = tuple(row for row in dead if row.row < next_row)
                del dead[: len(done)]
                yield RawBatch(pa.Table.from_batches([batch]), rows, done)
        except (BrokenFile, pa.ArrowException):
            if dead:
                yield _nothing(columns, dead=tuple(dead))
            raise
        if dead:
            yield _nothing(columns, dead=tuple(dead))
        stream.raise_error()


def _open_csv(
    stream: "CleanText", path: str, *, columns: tuple[str, ...] | None, on_invalid: Any
) -> pyarrow.csv.CSVStreamingReader:
    wanted = {"include_columns": list(columns)} if columns is not None else {}
    try:
        return pyarrow.csv.open_csv(
            stream,
            read_options=pyarrow.csv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES),
            parse_options=pyarrow.csv.ParseOptions(
                newlines_in_values=True, invalid_row_handler=on_invalid
            ),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(columns or (), pa.string()), **wanted
            ),
        )
    except pa.ArrowException as e:
        raise BrokenFile(f"{path} is not a CSV file with a header: {e}") from e


def _read_jsonl(
    source: Source, columns: tuple[str, ...], ids: frozenset[str]
) -> Iterator[RawBatch]:
    schema: pa.Schema | None = None
    with CleanText(source.path) as stream:
        for block, first_row in line_blocks(stream, BLOCK_BYTES):
            if schema is None:
                schema = guess_schema(block, columns)
            table = parse_block(block, schema, ids)
            if table is not None:
                yield RawBatch(table, np.arange(first_row, first_row + table.num_rows))
            else:
                yield _parse_json_lines(block, first_row, columns, ids)
        stream.raise_error()


def _parse_json_lines(
    block: bytes, first_row: int, columns: tuple[str, ...], ids: frozenset[str]
) -> RawBatch:
    """Line by line: the rows that are sound, as text, and the others with their reasons."""
    cells: dict[str, list[str | None]] = {name: [] for name in columns}
    rows, dead = [], []
    for number, line in enumerate(block.split(b"\n")[:-1], start=first_row):
        if not line.strip():
            continue
        record = json_object(line)
        if record is None:
            reason = GARBLED_TEXT if GARBLED.encode() in line else NOT_JSON
            dead.append(DeadRow(number, reason, line.decode("utf-8")))
            continue
        try:
            values = [cell_text(value_at(record, name), name in ids) for name in columns]
        except TypeError:
            dead.append(DeadRow(number, WRONG_TYPE, {n: value_at(record, n) for n in columns}))
            continue
        if not all(value is None or is_utf8(value) for value in values):
            dead.append(DeadRow(number, GARBLED_TEXT, dict(zip(columns, values, strict=True))))
            continue
        rows.append(number)
        for name, value in zip(columns, values, strict=True):
            cells[name].append(value)
    table = pa.table({name: pa.array(values, pa.string()) for name, values in cells.items()})
    return RawBatch(table, np.array(rows, np.int64), tuple(dead))


def _read_parquet(
    source: Source, columns: tuple[str, ...], ids: frozenset[str]
) -> Iterator[RawBatch]:
    row = source.first_row
    for batch in _parquet(source.path).iter_batches(
        row_groups=[source.row_group], columns=list(dict.fromkeys(columns))
    ):
        table = pa.Table.from_batches([batch])
        while any(pa.types.is_struct(kind) for kind in table.schema.types):
            table = table.flatten()
        cleaned = [_clean_column(column) for column in table.columns]
        table = pa.table(cleaned, names=_unique(table.column_names))
        yield RawBatch(table, np.arange(row, row + batch.num_rows))
        row += batch.num_rows


def _unique(names: list[str]) -> list[str]:
    """Column names of which every later one of a name has a number behind it."""
    made: dict[str, None] = {}
    for name in names:
        number, own = 1, name
        while own in made:
            number += 1
            own = f"{name} ({number})"
        made[own] = None
    return list(made)


def _clean_column(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Plain types, and text that is valid UTF-8."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_decimal(column.type):
        return column.cast(pa.float64())
    if not is_text(column.type):
        return column
    try:
        column.validate(full=True)
        return column.cast(pa.string())
    except pa.ArrowInvalid:
        cells = column.cast(pa.large_binary()).to_pylist()
        texts = [None if cell is None else clean(cell).decode("utf-8") for cell in cells]
        return pa.chunked_array([pa.array(texts, pa.string())])


def is_text(kind: pa.DataType) -> bool:
    """Whether a column holds text, be it as bytes."""
    tests = ("string", "large_string", "string_view", "binary", "large_binary", "binary_view")
    return any(getattr(pa.types, f"is_{name}")(kind) for name in tests)


def _parquet(path: str) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as e:
        raise BrokenFile(f"{path} is not a Parquet file: {e}") from e
