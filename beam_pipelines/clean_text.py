"""Bytes of plain and gzip files as valid UTF-8, in blocks."""

import codecs
from collections.abc import Iterator

import pyarrow as pa

from beam_pipelines.errors import InputError

GARBLED = "\x1a"  # ASCII SUB: "in place of a character that was garbled"


def _garbled(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return GARBLED * (error.end - error.start), error.end


codecs.register_error("guim_garbled", _garbled)


def clean(data: bytes) -> bytes:
    """Valid UTF-8, with `GARBLED` for each byte that was not."""
    return data.decode("utf-8", "guim_garbled").encode("utf-8")


class CleanText:
    """A file-like object over a plain or gzip file whose bytes are always valid UTF-8."""

    closed = False

    def __init__(self, path: str) -> None:
        self._path = path
        compression = "gzip" if path.endswith(".gz") else None
        self._raw = pa.input_stream(path, compression=compression, buffer_size=1 << 20)
        self._decoder = codecs.getincrementaldecoder("utf-8")("guim_garbled")
        self._rest = b""

    def read(self, size: int, /) -> bytes:
        """`size` bytes, fewer only at the end: a parser takes each answer for a block."""
        parts, length = [self._rest], len(self._rest)
        while length < size:
            try:
                data = self._raw.read(size - length)
            except OSError as e:
                raise InputError(f"{self._path} can't be read to its end: {e}") from e
            parts.append(self._decoder.decode(data, final=not data).encode("utf-8"))
            length += len(parts[-1])
            if not data:
                break
        block = b"".join(parts)
        self._rest = block[size:]  # a character that was cut may make the block too long
        return block[:size]

    def close(self) -> None:
        self._raw.close()
        self.closed = True

    def __enter__(self) -> "CleanText":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def line_blocks(path: str, block_bytes: int) -> Iterator[tuple[bytes, int]]:
    """Blocks of about `block_bytes`, whole lines, and the number of the first line of each."""
    row, rest = 1, b""
    with CleanText(path) as stream:
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
