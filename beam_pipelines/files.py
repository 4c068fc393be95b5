"""The files that workers leave for each other: JSON, Arrow streams and dead letters.

A file takes its name when it is complete, so that work may be repeated.
"""

import contextlib
import json
import os
import pathlib
import uuid
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from beam_pipelines.readers import DeadRow
from guim_tf import schema


def dead_letter_file(folder: pathlib.Path, name: str) -> pathlib.Path:
    return folder / schema.DEAD_LETTERS / f"{name}.jsonl"


class DeadLetters:
    """A file of dead letters, one JSON object a row: file, row, reason and what it held."""

    def __init__(self, path: pathlib.Path, source: str) -> None:
        self._path, self._source = path, source
        self._part = _part(path)
        self._file: Any = None

    def __enter__(self) -> "DeadLetters":
        return self

    def write(self, dead: Iterable[DeadRow]) -> None:
        for letter in dead:
            if self._file is None:  # no file without a letter
                self._part.parent.mkdir(parents=True, exist_ok=True)
                # Half a surrogate pair is written as the JSON escape that it came from.
                self._file = self._part.open("w", encoding="utf-8", errors="backslashreplace")
            self._file.write(_letter_text(self._source, letter) + "\n")

    def __exit__(self, *error: object) -> None:
        if self._file is None:
            return
        self._file.close()
        if error[0] is None:
            os.replace(self._part, self._path)
        else:
            self._part.unlink()


def _part(path: pathlib.Path) -> pathlib.Path:
    """A name for the unfinished file that no other attempt has, on no machine."""
    return path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")


def _letter_text(source: str, letter: DeadRow) -> str:
    line = {"file": source, "row": letter.row, "reason": letter.reason, "content": letter.content}
    try:
        return json.dumps(line, ensure_ascii=False, default=str)
    except RecursionError:
        return json.dumps(line | {"content": "nested too deeply to be shown"}, ensure_ascii=False)


def write_json(path: pathlib.Path, value: Any) -> None:
    part = _part(path)
    part.write_text(json.dumps(value), encoding="utf-8")
    os.replace(part, path)


@contextlib.contextmanager
def arrow_stream(path: pathlib.Path, kind: pa.Schema) -> Iterator[pa.RecordBatchStreamWriter]:
    part = _part(path)
    with pa.OSFile(str(part), "wb") as file, pa.ipc.new_stream(file, kind) as writer:
        yield writer
    os.replace(part, path)


def read_arrow_batches(path: str) -> Iterator[pa.Table]:
    with pa.memory_map(path) as file, pa.ipc.open_stream(file) as reader:
        for batch in reader:
            yield pa.Table.from_batches([batch])


def read_arrow(path: pathlib.Path) -> pa.Table:
    """A whole Arrow stream, memory-mapped."""
    with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as reader:
        return reader.read_all()
