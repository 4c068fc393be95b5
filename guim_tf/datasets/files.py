"""Finding published files and writing prepared ones whole or not at all."""

import csv
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from guim_tf.mapping import Mapping
from guim_tf.strict_json import to_json

MAPPING_FILE = "mapping.json"


class DatasetError(ValueError):
    """A published file is missing or not what it should be; the message says how to get it."""


def published_file(
    data_dir: str | pathlib.Path, folder: str, name: str, *, source: str
) -> pathlib.Path:
    """`<data_dir>/<folder>/<name>`, or `<data_dir>/<name>`.

    Args:
      data_dir: where the user keeps data sets, or one of them.
      folder: the data set's folder below it.
      name: the file as published.
      source: where to get it, for the message.

    Raises:
      DatasetError: neither exists.
    """
    candidates = [pathlib.Path(data_dir, folder, name), pathlib.Path(data_dir, name)]
    for path in candidates:
        if path.is_file():
            return path.resolve()
    raise DatasetError(
        f"{candidates[0]} does not exist (nor does {candidates[1]}). Get {name} from {source} "
        "and name the folder with --data-dir."
    )


class _Unfinished:
    """A path to write to, which takes its final name on a successful exit."""

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path
        self._part = path.with_name(f".{path.name}.{os.getpid()}.part")

    def __enter__(self) -> pathlib.Path:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        return self._part

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            os.replace(self._part, self._path)
        else:
            self._part.unlink(missing_ok=True)


def write_csv(path: pathlib.Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    with _Unfinished(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def write_delimited(
    path: pathlib.Path, header: Sequence[str], source: BinaryIO, *, delimiter: bytes
) -> None:
    """Copies lines of plain fields, putting a comma for the delimiter."""
    with _Unfinished(path) as part, part.open("wb") as file:
        file.write(",".join(header).encode() + b"\n")
        file.writelines(line.replace(delimiter, b",") for line in source)


def write_parquet(path: pathlib.Path, tables: Iterator[pa.Table] | Sequence[pa.Table]) -> None:
    """Writes tables of one schema, a row group each."""
    with _Unfinished(path) as part:
        writer: pq.ParquetWriter | None = None
        try:
            for table in tables:
                writer = writer or pq.ParquetWriter(part, table.schema)
                writer.write_table(table, row_group_size=max(1, table.num_rows))
        finally:
            if writer is not None:
                writer.close()


def write_mapping(output: pathlib.Path, mapping: Mapping) -> pathlib.Path:
    """Writes `mapping.json` and returns it; it comes last, when what it names is complete."""
    path = output / MAPPING_FILE
    with _Unfinished(path) as part:
        part.write_text(to_json(mapping), encoding="utf-8")
    return path
