"""User sequences -> `tf.train.Example` bytes -> TFRecord files, without TensorFlow.

The wire format is written directly, all integers of many users in a few array operations: a
protobuf message filled value by value takes several times as long. Features stand in name order.
"""

import dataclasses
import gzip
import itertools
import os
import pathlib
import struct
import uuid
from collections.abc import Iterator
from typing import IO

import google_crc32c
import numpy as np

from guim_tf import schema


@dataclasses.dataclass(frozen=True)
class Catalogue:
    """What a record says about an item, by its row in the catalogue: arrays of length items."""

    item_key: np.ndarray
    item_index: np.ndarray
    category_index: np.ndarray
    token_starts: np.ndarray  # [items + 1], into `tokens`
    tokens: np.ndarray


@dataclasses.dataclass(frozen=True)
class UserEvents:
    """Events of consecutive users: user i has the rows `starts[i]` to `starts[i + 1]`."""

    user_ids: list[str]
    starts: np.ndarray  # [users + 1]
    timestamp: np.ndarray  # [events]
    item: np.ndarray  # [events], rows of the catalogue
    action_index: np.ndarray  # [events]


def encode_examples(users: UserEvents, catalogue: Catalogue) -> Iterator[bytes]:
    """One serialized `tf.train.Example` a user, with the features of `schema.py`."""
    item, starts = users.item, users.starts
    lengths = catalogue.token_starts[item + 1] - catalogue.token_starts[item]
    flat = np.concatenate([[0], np.cumsum(lengths)])
    within = np.arange(flat[-1]) - np.repeat(flat[:-1], lengths)
    tokens = catalogue.tokens[np.repeat(catalogue.token_starts[item], lengths) + within]
    features = {
        schema.TIMESTAMP: (users.timestamp, starts),
        schema.ITEM_KEY: (catalogue.item_key[item], starts),
        schema.ITEM_INDEX: (catalogue.item_index[item], starts),
        schema.CATEGORY_INDEX: (catalogue.category_index[item], starts),
        schema.ACTION_INDEX: (users.action_index, starts),
        schema.TITLE_LENGTHS: (lengths, starts),
        schema.TITLE_TOKENS: (tokens, flat[starts]),
    }
    columns: dict[str, Iterator[bytes]] = {
        name: _int64_features(values, bounds) for name, (values, bounds) in features.items()
    }
    columns[schema.USER_ID] = (_bytes_feature(each.encode("utf-8")) for each in users.user_ids)
    names = sorted(columns)
    keys = [_field(1, name.encode("utf-8")) for name in names]
    for values in zip(*(columns[name] for name in names), strict=True):
        entries = [_field(1, k + _field(2, v)) for k, v in zip(keys, values, strict=True)]
        yield _field(1, b"".join(entries))  # Example.features


# ------------------------------------------------------------------------------- wire format
# Example {Features features = 1}; Features {map<string, Feature> feature = 1}; a map entry is
# {key = 1, value = 2}; Feature {BytesList bytes_list = 1; Int64List int64_list = 3}; both lists
# hold `value = 1`, integers packed.


def _make_varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


_SHORT_VARINTS = [_make_varint(number) for number in range(1 << 14)]  # lengths, made once


def _field(number: int, payload: bytes) -> bytes:
    """A length-delimited field; `number` is below 16."""
    size = len(payload)
    length = _SHORT_VARINTS[size] if size < len(_SHORT_VARINTS) else _make_varint(size)
    return _SHORT_VARINTS[number << 3 | 2] + length + payload


def _bytes_feature(value: bytes) -> bytes:
    return _field(1, _field(1, value))


def _int64_features(values: np.ndarray, bounds: np.ndarray) -> Iterator[bytes]:
    """A Feature for each slice `values[bounds[i]:bounds[i + 1]]`."""
    data, ends = varints(values)
    cuts = ends[bounds].tolist()
    for start, stop in itertools.pairwise(cuts):
        packed = data[start:stop]
        yield _field(3, _field(1, packed) if packed else b"")


def varints(values: np.ndarray) -> tuple[bytes, np.ndarray]:
    """All values as varints, and where each begins (and the last ends): int64 `[n + 1]`."""
    rest = values.astype(np.int64).view(np.uint64)
    if not len(rest):
        return b"", np.zeros(1, np.int64)
    width = max(1, -(-int(rest.max()).bit_length() // 7))
    digits = np.empty((len(rest), width), np.uint8)
    used = np.empty((len(rest), width), bool)
    for i in range(width):
        digits[:, i] = rest & np.uint64(0x7F)
        used[:, i] = (rest > 0) | (i == 0)
        rest = rest >> np.uint64(7)
    digits[:, :-1] |= used[:, 1:].astype(np.uint8) << 7  # another digit follows
    ends = np.concatenate([[0], np.cumsum(used.sum(axis=1))])
    return digits[used].tobytes(), ends


# ------------------------------------------------------------------------------- TFRecord files


def _masked_crc(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


class RecordWriter:
    """Writes a TFRecord file, which takes its name on a successful exit.

    Args:
      path: the file.
      compression: "" or "GZIP".
    """

    def __init__(self, path: str | pathlib.Path, *, compression: str) -> None:
        self._path = pathlib.Path(path)
        self._part = self._path.with_name(f"{self._path.name}.{uuid.uuid4().hex}.part")
        self._compression = compression
        self.records = 0

    def __enter__(self) -> "RecordWriter":
        self._part.parent.mkdir(parents=True, exist_ok=True)
        self._raw: IO[bytes] = self._part.open("wb")
        self._file: IO[bytes] = self._raw
        if self._compression:  # no name and no time in the header: equal input, equal bytes
            self._file = gzip.GzipFile(  # type: ignore[assignment]
                filename="", mode="wb", fileobj=self._raw, mtime=0, compresslevel=6
            )
        return self

    def write(self, record: bytes) -> None:
        length = struct.pack("<Q", len(record))
        self._file.write(b"".join((length, _masked_crc(length), record, _masked_crc(record))))
        self.records += 1

    def __exit__(self, kind: object, *_: object) -> None:
        self._file.close()
        self._raw.close()
        if kind is None:
            os.replace(self._part, self._path)
        else:
            self._part.unlink(missing_ok=True)
