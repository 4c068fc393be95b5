"""The users whose profile is known, for the consumer profile tasks (section 4.2.2)."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np
import pyarrow.parquet as pq

from guim_tf import schema as names
from guim_tf.catalogue import Catalogue
from guim_tf.evaluation.protocol import ProtocolError, concatenate, date, read_events
from guim_tf.evaluation.ragged import Events
from guim_tf.schema import DAY, Schema


@dataclasses.dataclass(frozen=True)
class Population:
    """P users with a label and a history before `as_of`; what comes after it plays no part.

    Attributes:
      user_ids: `[P]` object, str, in ascending order.
      examples: `[P]` object, the serialized records, for the encoder.
      history: their events of `[as_of - history_days, as_of)`, at least one each.
      labels: `{label: [P] object, str}`, "" where a user has none.
      without_history: labelled users that were left out, for they have no such event.
      without_label: users with such an event that were left out, for no label is known.
    """

    schema: Schema
    as_of: int
    history_days: int
    catalogue: Catalogue
    user_ids: np.ndarray
    examples: np.ndarray
    history: Events
    labels: dict[str, np.ndarray]
    without_history: int
    without_label: int

    def __len__(self) -> int:
        return len(self.user_ids)


def has_labels(dataset: str | pathlib.Path) -> bool:
    return pathlib.Path(dataset, names.LABELS_FILE).is_file()


def load_population(
    dataset: str | pathlib.Path, *, as_of: int | None = None, history_days: int = 365
) -> Population:
    """Reads the labelled users of a data set folder, of both splits.

    Users are known by `[as_of - history_days, as_of)`. Where users come for a day and are never
    seen again, as in MovieLens, the `as_of` that makes sense lies soon after most of them came:
    an end of the log years later leaves their histories outside of the window.

    Args:
      dataset: what `guim build-dataset` wrote from a mapping with labels.
      as_of: T', seconds since the epoch; the data set's own by default.
      history_days: length of the window that users are known by (D1).

    Raises:
      SchemaError, DatasetError, RecordError: the folder is not a data set, or is damaged.
      ProtocolError: it has no labels, or no labelled user has a history.
    """
    schema = Schema.load(dataset)
    as_of = schema.as_of if as_of is None else as_of
    label_names, labels = _read_labels(pathlib.Path(dataset))
    catalogue = Catalogue(dataset)
    splits = (names.TRAIN, names.VALIDATION)
    users, examples, histories = [], [], []
    without_label = 0
    for batch, events in read_events(dataset, schema=schema, catalogue=catalogue, splits=splits):
        history = events.between(as_of - history_days * DAY, as_of)
        active = history.items.lengths > 0
        labelled = np.array([user in labels for user in batch.user_ids], bool)
        without_label += int((active & ~labelled).sum())
        kept = np.flatnonzero(active & labelled)
        users.append(batch.user_ids[kept])
        examples.append(batch.examples[kept])
        histories.append(history.take(kept))
    if not any(map(len, users)):
        raise ProtocolError(
            f"as_of is {date(as_of)}: none of the {len(labels):,} labelled users has an event in "
            f"the {history_days} days before it. The events of {dataset} are of "
            f"{date(schema.first_timestamp)} to {date(schema.last_timestamp)}; choose another day."
        )
    user_ids = np.concatenate(users)
    order = np.argsort(user_ids, kind="stable")
    user_ids = user_ids[order]
    return Population(
        schema=schema,
        as_of=as_of,
        history_days=history_days,
        catalogue=catalogue,
        user_ids=user_ids,
        examples=np.concatenate(examples)[order],
        history=concatenate(histories).take(order),
        labels={
            name: np.array([labels[user][i] for user in user_ids], object)
            for i, name in enumerate(label_names)
        },
        without_history=len(labels) - len(user_ids),
        without_label=without_label,
    )


def _read_labels(dataset: pathlib.Path) -> tuple[list[str], dict[str, tuple[str, ...]]]:
    """Names of the labels, and each user's; a user with none of them is left out."""
    path = dataset / names.LABELS_FILE
    if not path.is_file():
        raise ProtocolError(
            f"{path} does not exist: profile tasks (cpp) need labels. Name a label table in the "
            "mapping of `guim build-dataset`, or ask for `--tasks cmp`."
        )
    try:
        table = pq.read_table(path)
        users = table[names.USER_ID].to_pylist()
    except (OSError, ValueError, KeyError) as e:
        raise ProtocolError(
            f"{path} is not a table of labels with '{names.USER_ID}': {e}. Build the data set "
            "again with `guim build-dataset`."
        ) from e
    label_names = [name for name in table.column_names if name != names.USER_ID]
    columns = [table[name].to_pylist() for name in label_names]
    rows = zip(users, *columns, strict=True)
    labels = {user: tuple(str(x or "") for x in row) for user, *row in rows}
    return label_names, {user: row for user, row in labels.items() if any(row)}
