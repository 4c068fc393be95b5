"""What goes into and comes out of `sasrec_rectools.py`: settings, a table of events, vectors.

Needs numpy and pyarrow alone, as both environments have them.
"""

import dataclasses
import os
import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

DAY = 86_400  # seconds
HISTORY_DAYS = 365  # as in `guim evaluate`: what a user is known by
USERS_FILE, ITEMS_FILE = "users.parquet", "items.parquet"
COLUMNS = {"user_id": pa.string(), "item_id": pa.string(), "timestamp": pa.int64()}


class BaselineError(ValueError):
    """The input is not what it should be, or the library is missing."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is chosen here; all else is RecTools' default (2 blocks, 4 heads, dropout 0.2)."""

    factors: int = 256  # size of a vector
    max_length: int = 100  # events of a history, the most recent
    batch_size: int = 128  # users
    learning_rate: float = 1e-3
    epochs: int = 200
    patience: int = 50  # epochs without a better recall before training stops
    minutes: float = float("inf")  # no epoch begins that would not end in time
    validation_users: int = 2048
    seed: int = 0
    threads: int = 0  # of torch; 0 leaves the choice to it

    def __post_init__(self) -> None:
        for name in ("max_length", "batch_size", "epochs", "patience", "validation_users"):
            if getattr(self, name) < 1:
                raise BaselineError(f"{name} is {getattr(self, name)}, expected 1 or more.")
        if self.factors < 1 or self.factors % 4:
            raise BaselineError(
                f"factors is {self.factors}, expected a multiple of 4, the heads of attention."
            )
        if not 0 < self.learning_rate < float("inf"):
            raise BaselineError(f"learning_rate is {self.learning_rate}, expected a positive rate.")
        if not self.minutes > 0:
            raise BaselineError(f"minutes is {self.minutes}, expected a positive time.")
        for name in ("seed", "threads"):
            if getattr(self, name) < 0:
                raise BaselineError(f"{name} is {getattr(self, name)}, expected 0 or more.")


@dataclasses.dataclass(frozen=True)
class Fitted:
    """Vectors of n users and m items, and how they came about.

    Attributes:
      user_ids, item_ids: `[n]` and `[m]` object, str.
      user_vectors, item_vectors: `[n, d]` and `[m, d]` float32; their dot product is the score.
      epochs: that were trained, the best of them, counted from 1, and its recall@10.
    """

    user_ids: np.ndarray
    user_vectors: np.ndarray
    item_ids: np.ndarray
    item_vectors: np.ndarray
    epochs: int
    best_epoch: int
    validation_recall: float


def read_events(path: str | pathlib.Path) -> pa.Table:
    """The table that `export_events.py` wrote; raises `BaselineError` for anything else."""
    remedy = "Write it with `python benchmarks/export_events.py`."
    if not pathlib.Path(path).is_file():
        raise BaselineError(f"{path} does not exist. {remedy}")
    try:
        table = pq.read_table(path, columns=list(COLUMNS))
    except (OSError, ValueError) as e:
        raise BaselineError(f"{path} is not a table of events: {e}. {remedy}") from e
    found = {field.name: field.type for field in table.schema}
    if found != COLUMNS or b"as_of" not in (table.schema.metadata or {}) or not table.num_rows:
        raise BaselineError(
            f"{path}: expected rows with {', '.join(COLUMNS)} and 'as_of' in the metadata, got "
            f"{table.num_rows} rows with {', '.join(table.column_names)}. {remedy}"
        )
    return table


def as_of(events: pa.Table) -> int:
    """The moment before which the events happened, seconds since the epoch."""
    return int(events.schema.metadata[b"as_of"])


def recent(events: pa.Table, days: int = HISTORY_DAYS) -> pa.Table:
    """The events of the last `days` days before `as_of`."""
    return events.filter(pc.greater_equal(events["timestamp"], as_of(events) - days * DAY))


def write_vectors(output: str | pathlib.Path, fitted: Fitted) -> None:
    """Writes both files in the form that `guim evaluate` takes.

    Raises:
      BaselineError: a vector is not finite; nothing is written.
    """
    output = pathlib.Path(output)
    files = {
        output / USERS_FILE: ("user", fitted.user_ids, fitted.user_vectors),
        output / ITEMS_FILE: ("item", fitted.item_ids, fitted.item_vectors),
    }
    for kind, ids, vectors in files.values():
        wrong = ~np.isfinite(vectors).all(axis=1)
        if wrong.any():
            raise BaselineError(
                f"The vector of {kind} {ids[wrong][0]!r} holds NaN or infinity: training diverged. "
                "Lower --learning-rate."
            )
    output.mkdir(parents=True, exist_ok=True)
    unfinished = {path: path.with_name(path.name + ".unfinished") for path in files}
    for path, (kind, ids, vectors) in files.items():
        flat = pa.array(np.ascontiguousarray(vectors, np.float32).reshape(-1))
        column = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
        names = [f"{kind}_id", f"{kind}_embedding"]
        table = pa.table([pa.array(ids, pa.string()), column], names=names)
        pq.write_table(table, unfinished[path])
    for path in files:
        os.replace(unfinished[path], path)
