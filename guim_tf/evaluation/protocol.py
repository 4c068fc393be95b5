"""Who is evaluated, on what, and what may be known of them: the benchmark's protocol.

At the moment `as_of` (T') users are known by `[T' - D1, T')`, and asked for `[T', T' + days)`.
"""

from __future__ import annotations

import dataclasses
import datetime
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np

from guim_tf import schema as names
from guim_tf.catalogue import Catalogue
from guim_tf.evaluation.ragged import Events, Ragged
from guim_tf.evaluation.records import RecordError, Records, read_records
from guim_tf.schema import DAY, Schema


class ProtocolError(ValueError):
    """A data set can't be evaluated as asked."""


@dataclasses.dataclass(frozen=True)
class Protocol:
    """U users to evaluate, and everything that was known at `as_of`.

    Attributes:
      user_ids: `[U]` object, str, in ascending order.
      examples: `[U]` object, the serialized records, for the encoder.
      history: their events of `[as_of - history_days, as_of)`, at least one each.
      future: their events of `[as_of, as_of + test_days)`, at least one each.
      past: events before `as_of` of every user that was read, evaluated or not; its users are in
        the order of the shards.
    """

    schema: Schema
    as_of: int
    test_days: int
    history_days: int
    catalogue: Catalogue
    user_ids: np.ndarray
    examples: np.ndarray
    history: Events
    future: Events
    past: Events

    def __len__(self) -> int:
        return len(self.user_ids)

    @property
    def notes(self) -> list[str]:
        """Says it where the log ends within the window of the truth."""
        days = -(-(self.schema.last_timestamp + 1 - self.as_of) // DAY)
        if days >= self.test_days:
            return []
        return [
            f"The log ends on {date(self.schema.last_timestamp)}: it has {days} of the "
            f"{self.test_days} days from {date(self.as_of)}."
        ]

    def at_most(self, users: int) -> Protocol:
        """The same question to so many of the users, spread evenly over their ids."""
        if len(self) <= users:
            return self
        rows = np.arange(users) * len(self) // users
        return dataclasses.replace(
            self,
            user_ids=self.user_ids[rows],
            examples=self.examples[rows],
            history=self.history.take(rows),
            future=self.future.take(rows),
        )


def load_protocol(
    dataset: str | pathlib.Path,
    *,
    as_of: int | None = None,
    test_days: int = 30,
    history_days: int = 365,
    splits: tuple[str, ...] = (names.TRAIN, names.VALIDATION),
) -> Protocol:
    """Reads a data set folder.

    Candidates are the whole catalogue: what was known at `as_of` and every true item are in it.

    Args:
      dataset: what `guim build-dataset` wrote.
      as_of: T', seconds since the epoch; the data set's own by default.
      test_days: length of the window that holds the truth.
      history_days: length of the window that users are known by (D1).
      splits: whose users to read; `past` is of these users alone.

    Raises:
      SchemaError, DatasetError, RecordError: the folder is not a data set, or is damaged.
      ProtocolError: nobody has events on both sides of `as_of`.
    """
    for name, days in (("test_days", test_days), ("history_days", history_days)):
        if days < 1:
            raise ProtocolError(f"{name} is {days}, expected a positive number of days.")
    schema = Schema.load(dataset)
    as_of = schema.as_of if as_of is None else as_of
    catalogue = Catalogue(dataset)
    users: list[np.ndarray] = []
    examples: list[np.ndarray] = []
    histories: list[Events] = []
    futures: list[Events] = []
    pasts: list[Events] = []
    for batch, events in read_events(dataset, schema=schema, catalogue=catalogue, splits=splits):
        history = events.between(as_of - history_days * DAY, as_of)
        future = events.between(as_of, as_of + test_days * DAY)
        known = np.flatnonzero((history.items.lengths > 0) & (future.items.lengths > 0))
        users.append(batch.user_ids[known])
        examples.append(batch.examples[known])
        histories.append(history.take(known))
        futures.append(future.take(known))
        pasts.append(events.between(schema.first_timestamp, as_of))
    if not any(map(len, users)):
        raise ProtocolError(
            f"as_of is {date(as_of)}: no user has events both in the {history_days} days before "
            f"it and in the {test_days} days from it. The events of {dataset} are of "
            f"{date(schema.first_timestamp)} to {date(schema.last_timestamp)}; choose a day "
            "between them, or ask for `--tasks cpp`, which needs no events from then on."
        )
    user_ids = np.concatenate(users)
    order = np.argsort(user_ids, kind="stable")
    return Protocol(
        schema=schema,
        as_of=as_of,
        test_days=test_days,
        history_days=history_days,
        catalogue=catalogue,
        user_ids=user_ids[order],
        examples=np.concatenate(examples)[order],
        history=concatenate(histories).take(order),
        future=concatenate(futures).take(order),
        past=concatenate(pasts),
    )


def read_events(
    dataset: str | pathlib.Path, *, schema: Schema, catalogue: Catalogue, splits: Sequence[str]
) -> Iterator[tuple[Records, Events]]:
    """Batches of users with all their events as catalogue rows; raises `RecordError`."""
    for batch in read_records(dataset, splits=splits, compression=schema.compression):
        rows = catalogue.rows_of(batch.item_keys.values)
        if (rows < 0).any():
            user = batch.user_ids[batch.item_keys.owners[rows < 0][0]]
            raise RecordError(
                f"{dataset}: the record of user {user!r} has an item that is not in "
                f"{names.ITEMS_FILE}. Build the data set again with `guim build-dataset`."
            )
        yield batch, Events(Ragged(batch.item_keys.offsets, rows), batch.timestamps)


def date(timestamp: int) -> str:
    """ISO text of a UTC timestamp; midnight is shown as the day alone."""
    moment = datetime.datetime.fromtimestamp(timestamp, datetime.UTC)
    return moment.strftime("%Y-%m-%d" if timestamp % DAY == 0 else "%Y-%m-%dT%H:%M:%SZ")


def concatenate(parts: Sequence[Events]) -> Events:
    """The users of all parts, in that order."""
    lengths = np.concatenate([part.items.lengths for part in parts])
    return Events(
        Ragged(
            np.concatenate([[0], np.cumsum(lengths)]),
            np.concatenate([part.items.values for part in parts]),
        ),
        np.concatenate([part.timestamps for part in parts]),
    )
