"""Lines of JSON: what they hold, and blocks of them as Arrow tables."""

import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.json

PROBED_LINES = 1000  # lines of a .jsonl file in which every mapped column must occur once


def json_object(line: bytes) -> dict[str, Any] | None:
    """The object of a line; None where there is none."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):  # the latter of one that is nested too deeply
        return None
    return record if isinstance(record, dict) else None


def json_paths(record: dict[str, Any]) -> Iterator[str]:
    """Names of a record's values; dots join those of objects in objects."""
    waiting = [(name, value) for name, value in reversed(record.items())]
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, dict):
            waiting += [(f"{name}.{below}", each) for below, each in reversed(value.items())]
        else:
            yield name


def value_at(record: dict[str, Any], name: str) -> Any:
    """A value by its name, or by the names that dots join."""
    while name not in record and "." in name:
        parent, _, name = name.partition(".")
        below = record.get(parent)
        if not isinstance(below, dict):
            return None
        record = below
    return record.get(name)


def cell_text(value: Any, is_id: bool) -> str | None:
    """A value as text; raises TypeError where it is none, or no id."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if is_id or not isinstance(value, bool | float):
        raise TypeError(f"{type(value).__name__} is no text")
    return json.dumps(value)


def is_utf8(value: str) -> bool:
    """Whether UTF-8 can hold it: JSON can escape one half of a surrogate pair."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def guess_schema(block: bytes, columns: tuple[str, ...]) -> pa.Schema:
    """Types of the first sound line; a later line that differs takes the slow path."""
    first = next(filter(None, map(json_object, block.split(b"\n")[:PROBED_LINES])), {})
    kinds = {int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
    return pa.schema([(name, kinds.get(type(first.get(name)), pa.string())) for name in columns])


def parse_block(block: bytes, schema: pa.Schema, ids: frozenset[str]) -> pa.Table | None:
    """All lines at once when each is an object of the expected types, else None."""
    nested = any("." in name for name in schema.names)
    if nested or any(pa.types.is_floating(schema.field(name).type) for name in ids):
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
