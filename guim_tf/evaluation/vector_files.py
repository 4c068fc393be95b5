"""Files of vectors: Parquet as `guim embed-users` and `embed-items` write it, or `.npy` and ids."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

_LAYOUT = (
    "Expected Parquet as `guim embed-{kind}s` writes it ('{kind}_id' and a fixed-size list of "
    "float32, '{kind}_embedding'), or name.npy beside name.ids.txt, one id a line."
)


class VectorFileError(ValueError):
    """A file of vectors is not what it should be."""


@dataclasses.dataclass(frozen=True)
class VectorFile:
    """n vectors, or n sets of C vectors, of ids.

    Attributes:
      path: the file.
      kind: "user" or "item".
      ids: `[n]` object, str, every id once.
      vectors: `[n, C, d]` floats, perhaps memory-mapped.
    """

    path: pathlib.Path
    kind: str
    ids: np.ndarray
    vectors: np.ndarray

    def require_one_vector(self) -> None:
        if self.vectors.shape[1] != 1:
            raise VectorFileError(
                f"{self.path} holds {self.vectors.shape[1]} vectors for each {self.kind}, expected "
                "one. Only users are sets of vectors."
            )

    def require_size(self, other: VectorFile) -> None:
        if self.vectors.shape[2] != other.vectors.shape[2]:
            raise VectorFileError(
                f"{self.path} holds vectors of size {self.vectors.shape[2]} and {other.path} of "
                f"size {other.vectors.shape[2]}; expected one size. Name files of one model."
            )

    def select(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Vectors of `ids` `[m]`: `[m, C, d]` float32, zeros for the unknown, and who is known.

        A user of zeros has no vector either: all items tie, and ties go to what sells.

        Raises:
          VectorFileError: nobody is known, or has other than zeros; a vector holds NaN or infinity.
        """
        place = {name: row for row, name in enumerate(self.ids)}
        rows = np.array([place.get(name, -1) for name in ids], np.int64)
        known = rows >= 0
        if not known.any():
            shown = ", ".join(repr(str(x)) for x in self.ids[:3])
            raise VectorFileError(
                f"{self.path} has a vector for none of the {len(ids):,} {self.kind}s of the data "
                f"set; its ids are like {shown}, theirs like {str(ids[0])!r}. Use the ids of the "
                "data set."
            )
        found = np.zeros((len(ids), *self.vectors.shape[1:]), np.float32)
        found[known] = self.vectors[rows[known]]
        wrong = ~np.isfinite(found).all(axis=(1, 2))
        if wrong.any():
            raise VectorFileError(
                f"{self.path}: the vector of {self.kind} {str(ids[wrong][0])!r} holds NaN, "
                "infinity or a number beyond float32; expected finite numbers."
            )
        if self.kind == "user":
            known &= np.any(found != 0, axis=(1, 2))
            if not known.any():
                raise VectorFileError(f"{self.path}: the vectors of all users are zeros.")
        return found, known


def read_vectors(path: str | pathlib.Path, *, kind: str) -> VectorFile:
    """Reads a file of vectors of users or items; C is 1 where a file doesn't say.

    Args:
      path: Parquet, or `.npy` with `[n, d]` or `[n, C, d]` and its `.ids.txt`.
      kind: "user" or "item", the prefix of the Parquet columns.

    Raises:
      VectorFileError: the file is missing, damaged or laid out otherwise, or names an id twice.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise VectorFileError(f"{path} does not exist. " + _LAYOUT.format(kind=kind))
    read = _read_npy if path.suffix == ".npy" else _read_parquet
    ids, vectors = read(path, kind)
    if not vectors.size:
        raise VectorFileError(f"{path} holds no vectors; expected at least one.")
    if len(set(ids)) < len(ids):
        seen: set[str] = set()
        twice = next(x for x in ids if x in seen or seen.add(x))  # type: ignore[func-returns-value]
        raise VectorFileError(f"{path} names {kind} {str(twice)!r} twice; expected once.")
    return VectorFile(path, kind, ids, vectors)


def vector_paths(path: pathlib.Path) -> list[pathlib.Path]:
    """The files that hold what `read_vectors` reads."""
    return [path, path.with_suffix(".ids.txt")] if path.suffix == ".npy" else [path]


def _read_parquet(path: pathlib.Path, kind: str) -> tuple[np.ndarray, np.ndarray]:
    names = [f"{kind}_id", f"{kind}_embedding"]
    try:
        table = pq.read_table(path, columns=names)
        ids, column = (table[name].combine_chunks() for name in names)
    except (OSError, ValueError, KeyError) as e:
        raise VectorFileError(
            f"{path} is not a file of vectors: {e}. " + _LAYOUT.format(kind=kind)
        ) from e
    listed = column.type
    if not (pa.types.is_fixed_size_list(listed) and pa.types.is_floating(listed.value_type)):
        raise VectorFileError(f"{path}: '{names[1]}' is {listed}. " + _LAYOUT.format(kind=kind))
    if ids.null_count or column.null_count or column.flatten().null_count:
        raise VectorFileError(f"{path} holds null; expected an id and a whole vector in each row.")
    interests = int((table.schema.metadata or {}).get(b"interests", b"1"))
    if interests < 1 or listed.list_size % interests:
        raise VectorFileError(
            f"{path}: its metadata state {interests} interests, which does not divide lists of "
            f"{listed.list_size} numbers. Write it again with `guim embed-{kind}s`."
        )
    flat = column.flatten().to_numpy(zero_copy_only=False)
    names_of = ids.cast(pa.string()).to_numpy(zero_copy_only=False)
    return names_of, flat.reshape(len(ids), interests, listed.list_size // interests)


def _read_npy(path: pathlib.Path, kind: str) -> tuple[np.ndarray, np.ndarray]:
    try:
        vectors = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as e:
        raise VectorFileError(
            f"{path} is not an array of numbers: {e}. " + _LAYOUT.format(kind=kind)
        ) from e
    if vectors.ndim not in (2, 3) or vectors.dtype.kind != "f":
        raise VectorFileError(
            f"{path} is an array {vectors.dtype} of shape {vectors.shape}, expected floats "
            "[n, d] or [n, C, d]."
        )
    _, names = vector_paths(path)
    try:
        ids = names.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise VectorFileError(
            f"{names} can't be read ({e}); expected the ids of {path.name}, one a line, in order."
        ) from e
    if len(ids) != len(vectors):
        raise VectorFileError(
            f"{names} has {len(ids):,} ids and {path.name} {len(vectors):,} rows; expected as many."
        )
    return np.array(ids, object), vectors if vectors.ndim == 3 else vectors[:, None]
