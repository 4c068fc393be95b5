"""Which files a log consists of, whether they have the mapped columns, and how they are read."""

import glob
import pathlib

import pyarrow as pa
import pyarrow.parquet as pq

from beam_pipelines.errors import InputError
from beam_pipelines.readers import (
    BrokenFile,
    Source,
    column_types,
    file_format,
    is_text,
)


class Misfit(InputError):
    """A file that lacks a mapped column or has it in an unusable type; `reason` says it shortly."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def find_files(patterns: tuple[str, ...], *, base: pathlib.Path) -> list[str]:
    """Files of all globs, each once, sorted within a glob; relative globs start at `base`."""
    files: dict[str, None] = {}
    for pattern in patterns:
        found = sorted(glob.glob(str(base / pattern), recursive=True))
        if not found:
            raise InputError(f"No file matches {str(base / pattern)!r} of the mapping.")
        files.update(dict.fromkeys(found))
    return list(files)


def find_sources(
    files: list[str], columns: tuple[str, ...], *, ids: frozenset[str]
) -> list[Source]:
    """One source a file, or one a row group for Parquet; unusable files are marked as such.

    Raises:
      InputError: the first file's trouble, when no file can be used.
    """
    sources: list[Source] = []
    errors: list[InputError] = []
    for index, path in enumerate(files):
        try:
            check_columns(path, columns, ids=ids)
            sources += _parts(path, index, misfit="")
        except Misfit as e:
            sources += _parts(path, index, misfit=e.reason)
            errors.append(e)
        except BrokenFile as e:
            sources.append(Source(path, index, broken=e.reason))
            errors.append(e)
    if len(errors) == len(files):
        raise errors[0]
    return sources


def _parts(path: str, index: int, *, misfit: str) -> list[Source]:
    if file_format(path) != "parquet":
        return [Source(path, index, misfit=misfit)]
    parts, row = [], 1
    metadata = pq.read_metadata(path)
    for group in range(metadata.num_row_groups):
        parts.append(Source(path, index, group, row, misfit))
        row += metadata.row_group(group).num_rows
    return parts


def estimate_rows(sources: list[Source]) -> int:
    """About how many rows there are: exact for Parquet, else by the size of the files."""
    rows = 0
    for path in {source.path for source in sources if not source.broken}:
        if file_format(path) == "parquet":
            rows += pq.read_metadata(path).num_rows
        else:
            plain = path.endswith((".csv", ".jsonl"))
            rows += pathlib.Path(path).stat().st_size // (50 if plain else 10)
    return rows


def check_columns(path: str, columns: tuple[str, ...], *, ids: frozenset[str]) -> None:
    """Raises where a file lacks a mapped column or has it in an unusable type.

    Args:
      path: the file.
      columns: every column that the mapping names.
      ids: those that hold ids or text, where a fraction or a date is a wrong type.

    Raises:
      Misfit: its rows don't fit the mapping.
      BrokenFile: it is empty or unreadable.
    """
    pairs = column_types(path)
    types = dict(pairs)
    twice = sorted({name for name in columns if sum(name == other for other, _ in pairs) > 1})
    if twice:
        raise Misfit(
            f"two columns {twice[0]!r}",
            f"{path} has two columns named {twice[0]!r}; rename one of them.",
        )
    missing = [name for name in columns if name not in types]
    if missing:
        raise Misfit(
            f"no column {', '.join(map(repr, missing))}",
            f"{path} has no column {', '.join(map(repr, missing))}, which the mapping names. "
            f"It has: {', '.join(map(repr, types))}.",
        )
    for name in columns:
        if (kind := types[name]) is not None and not _usable(kind, is_id=name in ids):
            raise Misfit(
                f"column {name!r} is {kind}",
                f"{path}: column {name!r} is {kind}, expected "
                + ("text or whole numbers." if name in ids else "text, numbers or times.")
                + (
                    " Write one row an event before building."
                    if pa.types.is_nested(kind)
                    else " Cast it before building."
                ),
            )


def _usable(kind: pa.DataType, *, is_id: bool) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if is_text(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind):
        return True
    names = ("floating", "timestamp", "date", "boolean", "decimal")
    return not is_id and any(getattr(pa.types, f"is_{name}")(kind) for name in names)
