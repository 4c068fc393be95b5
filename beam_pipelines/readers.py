"""Files of a log as Arrow record batches: CSV, JSON lines and Parquet, plain or gzip.

Every reader streams in blocks, numbers the rows of its file from 1 (a CSV header and blank lines
of a CSV file have no number; in JSON lines it is the line) and hands over what it could not parse
as `DeadRow`s instead of stopping. Text arrives as valid UTF-8: each byte that was not is replaced
by `GARBLED`, which validation looks for.
"""

import dataclasses
import glob
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from beam_pipelines.clean_text import GARBLED, CleanText, clean, line_blocks
from beam_pipelines.errors import InputError

BLOCK_BYTES = 8 << 20
PROBED_LINES = 1000  # lines of a .jsonl file in which every mapped column must occur once

WRONG_FIELDS = "wrong number of fields"
NOT_JSON = "not a JSON object"
WRONG_TYPE = "wrong type"
GARBLED_TEXT = "broken encoding"


@dataclasses.dataclass(frozen=True)
class DeadRow:
    """A row that can't be used: its number in the file (from 1), why, and what it held."""

    row: int
    reason: str
    content: Any


@dataclasses.dataclass(frozen=True)
class Source:
    """A file, or one row group of a Parquet file. `index` is the file's place in the input."""

    path: str
    index: int
    row_group: int = 0
    first_row: int = 1

    @property
    def format(self) -> str:
        return file_format(self.path)


@dataclasses.dataclass(frozen=True)
class RawBatch:
    """Rows as read: the mapped columns, each row's number, and the rows that did not parse."""

    table: pa.Table
    rows: np.ndarray  # int64, [table.num_rows]
    dead: tuple[DeadRow, ...] = ()


# ------------------------------------------------------------------------------- which files


def file_format(path: str) -> str:
    """The format "csv", "jsonl" or "parquet", by the file's name."""
    name = path.removesuffix(".gz")
    for ending in ("csv", "jsonl", "parquet"):
        if name.endswith("." + ending) and (ending != "parquet" or name == path):
            return ending
    raise InputError(
        f"{path}: unknown file type; expected .csv, .csv.gz, .jsonl, .jsonl.gz or .parquet."
    )


def find_files(patterns: tuple[str, ...], *, base: pathlib.Path) -> list[str]:
    """Files of all globs, each once, sorted within a glob; relative globs start at `base`."""
    files: dict[str, None] = {}
    for pattern in patterns:
        found = sorted(glob.glob(str(base / pattern), recursive=True))
        if not found:
            raise InputError(f"No file matches {str(base / pattern)!r} of the mapping.")
        files.update(dict.fromkeys(found))
    return list(files)


def find_sources(files: list[str]) -> list[Source]:
    """One source a file, or one a row group for Parquet."""
    sources = []
    for index, path in enumerate(files):
        if file_format(path) != "parquet":
            sources.append(Source(path, index))
            continue
        metadata, row = _parquet(path).metadata, 1
        for group in range(metadata.num_row_groups):
            sources.append(Source(path, index, group, row))
            row += metadata.row_group(group).num_rows
    return sources


def check_columns(files: list[str], columns: tuple[str, ...], *, ids: frozenset[str]) -> None:
    """Raises `InputError` where a file lacks a mapped column or has it in an unusable type.

    Args:
      columns: every column that the mapping names.
      ids: those that hold ids or text, where a fraction or a date is a wrong type.
    """
    for path in files:
        pairs = _column_types(path)
        types = dict(pairs)
        twice = sorted({name for name in columns if sum(name == other for other, _ in pairs) > 1})
        if twice:
            raise InputError(f"{path} has two columns named {twice[0]!r}; rename one of them.")
        missing = [name for name in columns if name not in types]
        if missing:
            raise InputError(
                f"{path} has no column {', '.join(map(repr, missing))}, which the mapping names. "
                f"It has: {', '.join(map(repr, types))}."
            )
        for name in columns:
            if (kind := types[name]) is not None and not _usable(kind, is_id=name in ids):
                raise InputError(
                    f"{path}: column {name!r} is {kind}, expected "
                    + ("text or whole numbers." if name in ids else "text, numbers or times.")
                    + " Cast it before building."
                )


def _usable(kind: pa.DataType, *, is_id: bool) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind):
        return True
    other = (pa.types.is_floating, pa.types.is_timestamp, pa.types.is_date, pa.types.is_boolean)
    return pa.types.is_null(kind) or (not is_id and any(test(kind) for test in other))


def _column_types(path: str) -> list[tuple[str, pa.DataType | None]]:
    """Columns of a file; None where the type is only known row by row."""
    kind = file_format(path)
    if kind == "parquet":
        schema = _parquet(path).schema_arrow
        return list(zip(schema.names, schema.types, strict=True))
    if kind == "csv":
        with CleanText(path) as stream:
            names = _open_csv(stream, path, columns=None, on_invalid=lambda _: "skip").schema.names
        return [(name, None) for name in names]
    names_seen: dict[str, None] = {}
    for block, _ in line_blocks(path, BLOCK_BYTES):
        for line in block.split(b"\n")[:PROBED_LINES]:
            record = _json_object(line)
            names_seen.update(dict.fromkeys(record or ()))
        break
    return [(name, None) for name in names_seen]


# ------------------------------------------------------------------------------- reading


def read_batches(
    source: Source, columns: tuple[str, ...], *, ids: frozenset[str]
) -> Iterator[RawBatch]:
    """Streams the mapped columns of a source; raises `InputError` when the file is broken."""
    readers = {"csv": _read_csv, "jsonl": _read_jsonl, "parquet": _read_parquet}
    try:
        yield from readers[source.format](source, columns, ids)
    except InputError:
        raise
    except (pa.ArrowException, OSError) as e:
        raise InputError(f"{source.path} can't be read to its end: {e}") from e


def _read_csv(source: Source, columns: tuple[str, ...], ids: frozenset[str]) -> Iterator[RawBatch]:
    dead: list[DeadRow] = []  # in the order of the file; the parser may run a block ahead

    def on_invalid(row: pyarrow.csv.InvalidRow) -> str:
        dead.append(DeadRow(row.number - 1, WRONG_FIELDS, row.text))  # the header is its row 1
        return "skip"

    with CleanText(source.path) as stream:
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
    if dead:
        empty = pa.table({name: pa.array([], pa.string()) for name in columns})
        yield RawBatch(empty, np.zeros(0, np.int64), tuple(dead))


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
        raise InputError(f"{path} is not a CSV file with a header: {e}") from e


def _read_jsonl(
    source: Source, columns: tuple[str, ...], ids: frozenset[str]
) -> Iterator[RawBatch]:
    schema: pa.Schema | None = None
    for block, first_row in line_blocks(source.path, BLOCK_BYTES):
        if schema is None:
            schema = _guess_schema(block, columns)
        table = _parse_json_fast(block, schema, ids)
        if table is not None:
            yield RawBatch(table, np.arange(first_row, first_row + table.num_rows))
        else:
            yield _parse_json_lines(block, first_row, columns, ids)


def _parse_json_fast(block: bytes, schema: pa.Schema, ids: frozenset[str]) -> pa.Table | None:
    """All lines at once when each is an object of the expected types, else None."""
    if any(pa.types.is_floating(schema.field(name).type) for name in ids):
        return None
    try:
        table = pyarrow.json.read_json(
            pa.BufferReader(block),
            read_options=pyarrow.json.ReadOptions(use_threads=False, block_size=len(block) + 1),
            parse_options=pyarrow.json.ParseOptions(
                explicit_schema=schema, unexpected_field_behavior="ignore"
            ),
        )
    except pa.ArrowException:
        return None
    return table if table.num_rows == block.count(b"\n") else None


def _parse_json_lines(
    block: bytes, first_row: int, columns: tuple[str, ...], ids: frozenset[str]
) -> RawBatch:
    """Line by line: the rows that are sound, as text, and the others with their reasons."""
    cells: dict[str, list[str | None]] = {name: [] for name in columns}
    rows, dead = [], []
    for number, line in enumerate(block.split(b"\n")[:-1], start=first_row):
        if not line.strip():
            continue
        record = _json_object(line)
        if record is None:
            reason = GARBLED_TEXT if GARBLED.encode() in line else NOT_JSON
            dead.append(DeadRow(number, reason, line.decode("utf-8")))
            continue
        try:
            values = [_cell_text(record.get(name), name in ids) for name in columns]
        except TypeError:
            dead.append(DeadRow(number, WRONG_TYPE, {name: record.get(name) for name in columns}))
            continue
        rows.append(number)
        for name, value in zip(columns, values, strict=True):
            cells[name].append(value)
    table = pa.table({name: pa.array(values, pa.string()) for name, values in cells.items()})
    return RawBatch(table, np.array(rows, np.int64), tuple(dead))


def _cell_text(value: Any, is_id: bool) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if is_id or not isinstance(value, bool | float):
        raise TypeError(f"{type(value).__name__} is no text")
    return json.dumps(value)


def _json_object(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _guess_schema(block: bytes, columns: tuple[str, ...]) -> pa.Schema:
    """Types of the first sound line; a later line that differs takes the slow path."""
    first = next(filter(None, map(_json_object, block.split(b"\n")[:PROBED_LINES])), {})
    kinds = {int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
    return pa.schema([(name, kinds.get(type(first.get(name)), pa.string())) for name in columns])


def _read_parquet(
    source: Source, columns: tuple[str, ...], ids: frozenset[str]
) -> Iterator[RawBatch]:
    row = source.first_row
    for batch in _parquet(source.path).iter_batches(
        row_groups=[source.row_group], columns=list(dict.fromkeys(columns))
    ):
        table = pa.Table.from_batches([batch])
        for i, name in enumerate(table.column_names):
            table = table.set_column(i, name, _clean_column(table.column(name)))
        yield RawBatch(table, np.arange(row, row + batch.num_rows))
        row += batch.num_rows


def _clean_column(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Plain types, and text that is valid UTF-8."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return column
    try:
        column.validate(full=True)
        return column.cast(pa.string())
    except pa.ArrowInvalid:
        cells = column.cast(pa.large_binary()).to_pylist()
        texts = [None if cell is None else clean(cell).decode("utf-8") for cell in cells]
        return pa.chunked_array([pa.array(texts, pa.string())])


def _parquet(path: str) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as e:
        raise InputError(f"{path} is not a Parquet file: {e}") from e
