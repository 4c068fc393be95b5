"""The user's own item and label tables: small enough to be read by the process that starts a job.

Rows are validated and counted as those of the log are, with dead letters of their own.
"""

import collections
import dataclasses
import pathlib
from collections.abc import Callable

import pyarrow as pa

from beam_pipelines.errors import InputError
from beam_pipelines.events import Validated, mapped_columns, validate_items, validate_labels
from beam_pipelines.files import DeadLetters, dead_letter_file
from beam_pipelines.readers import RawBatch, read_batches
from beam_pipelines.sources import check_columns, find_files, find_sources
from guim_tf.mapping import ItemsMapping, LabelsMapping, Mapping


@dataclasses.dataclass(frozen=True)
class Table:
    """Sound rows in the order of the input, and what the rows became."""

    rows: pa.Table
    counters: dict[str, object]  # read, kept, dead {reason: rows}


def read_items(mapping: ItemsMapping, *, base: pathlib.Path, folder: pathlib.Path) -> Table:
    """`item_id`, `category_id`, `title`; dead letters go below `folder`."""
    return _read(mapping, "items", lambda raw: validate_items(raw, mapping), base, folder)


def read_labels(mapping: LabelsMapping, *, base: pathlib.Path, folder: pathlib.Path) -> Table:
    """`user_id` and the labels, one row a user: the last one wins."""
    table = _read(mapping, "labels", lambda raw: validate_labels(raw, mapping), base, folder)
    ids = table.rows["user_id"].to_pylist()
    last = sorted({user: row for row, user in enumerate(ids)}.values())
    return Table(table.rows.take(pa.array(last, pa.int64())), table.counters)


def read_tables(
    mapping: Mapping, *, base: pathlib.Path, folder: pathlib.Path
) -> tuple[Table | None, Table | None]:
    """The item and the label table of a mapping, where it has them."""
    items = labels = None
    if mapping.items is not None:
        items = read_items(mapping.items, base=base, folder=folder)
    if mapping.labels is not None:
        labels = read_labels(mapping.labels, base=base, folder=folder)
    return items, labels


def _read(
    mapping: ItemsMapping | LabelsMapping,
    name: str,
    validate: Callable[[RawBatch], Validated],
    base: pathlib.Path,
    folder: pathlib.Path,
) -> Table:
    columns, ids = mapped_columns(mapping)
    parts, read = [], 0
    dead: collections.Counter[str] = collections.Counter()
    files = find_files(mapping.files, base=base)
    for path in files:
        check_columns(path, columns, ids=ids)
    for number, source in enumerate(find_sources(files, columns, ids=ids)):
        letter_file = dead_letter_file(folder, f"{name}-{number:05d}")
        with DeadLetters(letter_file, source.path) as letters:
            for raw in read_batches(source, columns, ids=ids):
                if raw.broken is not None:
                    raise InputError(f"{source.path}: {raw.broken.reason}: {raw.broken.content}")
                valid = validate(raw)
                letters.write(valid.dead)
                dead.update(letter.reason for letter in valid.dead)
                read += raw.table.num_rows + len(raw.dead)
                parts.append(valid.table)
    fields = [name for name in ("user_id", "item_id") if hasattr(mapping, name)]
    fields += ["category_id", "title"] if isinstance(mapping, ItemsMapping) else mapping.labels
    empty = pa.schema([(field, pa.string()) for field in fields]).empty_table()
    rows = pa.concat_tables([empty, *parts])
    return Table(rows, {"read": read, "kept": rows.num_rows, "dead": dict(sorted(dead.items()))})
