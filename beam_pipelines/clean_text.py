"""Bytes of plain and compressed files as valid UTF-8, in blocks."""

import bz2
import codecs
import gzip
import zlib
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

COMPRESSIONS = (".gz", ".bz2", ".zst")
_PIECE = 1 << 18
GARBLED = "\x1a"  # ASCII SUB: "in place of a character that was garbled"


def _garbled(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return GARBLED * (error.end - error.start), error.end


codecs.register_error("guim_garbled", _garbled)


def clean(data: bytes) -> bytes:
    """Valid UTF-8, with `GARBLED` for each byte that was not."""
    return data.decode("utf-8", "guim_garbled").encode("utf-8")


def _open(path: str) -> Any:
    """A stream whose `read1` gives all that comes before the place where a file is cut."""
    if path.endswith(".gz"):
        return gzip.open(path)
    if path.endswith(".bz2"):
        return bz2.open(path)
    return pa.input_stream(path, compression="zstd" if path.endswith(".zst") else None)


class CleanText:
    """A file-like object over a plain or compressed file whose bytes are always valid UTF-8.

    A file that can't be read to its end just ends: `error` then says why, and `GARBLED` stands
    in place of the rest, so that the row that was cut is not taken for a whole one.
    """

    closed = False

    def __init__(self, path: str) -> None:
        self._raw = _open(path)
        self._decoder = codecs.getincrementaldecoder("utf-8")("guim_garbled")
        self._rest = b""
        self.error: Exception | None = None

    def read(self, size: int, /) -> bytes:
        """`size` bytes, fewer only at the end: a parser takes each answer for a block."""
        parts, length = [self._rest], len(self._rest)
        while length < size and self.error is None:
            try:
                data = self._raw.read1(min(size - length, _PIECE))
                parts.append(self._decoder.decode(data, final=not data).encode("utf-8"))
                if not data:
                    break
            except (OSError, EOFError, zlib.error) as e:
                self.error = e
                parts.append(GARBLED.encode())
            length += len(parts[-1])
        block = b"".join(parts)
        self._rest = block[size:]  # a character that was cut may make the block too long
        return block[:size]

    def raise_error(self) -> None:
        if self.error is not None:
            raise OSError(str(self.error)) from self.error

    def close(self) -> None:
        self._raw.close()
        self.closed = True

    def __enter__(self) -> "CleanText":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def line_blocks(stream: CleanText, block_bytes: int) -> Iterator[tuple[bytes, int]]:
    """Blocks of about `block_bytes`, whole lines, and the number of the first line of each."""
    row, rest = 1, b""
    while data := stream.read(block_bytes):
        head, feed, tail = data.rpartition(b"\n")
        if feed:
            block = rest + head + feed
            yield block, row
            row += block.count(b"\n")
            rest = tail
        else:
            rest += data
    if rest:
        yield rest + b"\n", row
