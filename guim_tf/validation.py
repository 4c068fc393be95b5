"""Validation users: the benchmark's CMP-L at the training cut-off, and what is chosen by it."""

import contextlib
import pathlib
from typing import Any

import numpy as np
import tensorflow as tf

from guim_tf import schema as names
from guim_tf.catalogue import Catalogue
from guim_tf.config import WindowConfig
from guim_tf.data import history_at
from guim_tf.evaluation import metrics
from guim_tf.evaluation.protocol import Protocol, ProtocolError, load_protocol
from guim_tf.evaluation.repeats import HabitSearch
from guim_tf.evaluation.search import Found, search
from guim_tf.evaluation.tasks import K, truths
from guim_tf.keras_compat import keras
from guim_tf.model import GUIM

# From never again to habits alone; what lies between two of them makes no difference to see.
REPEAT_WEIGHTS = (-1.0, -0.3, -0.1, 0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 1.0)
REPEAT_MOMENTS = 6
_USERS_AT_ONCE = 256


class Validation:
    """The validation users at T, what they bought next, and the whole catalogue as candidates.

    Args:
      dataset: a data set folder.
      cutoff: T, seconds.
      window: how sequences are cut.
    """

    def __init__(self, dataset: str | pathlib.Path, cutoff: int, window: WindowConfig) -> None:
        self._dataset = dataset
        self._cutoff = cutoff
        self._window = window
        self._catalogue = Catalogue(dataset)
        self._protocol = self._at(cutoff)

    @property
    def users(self) -> int:
        """How many validation users have an event on each side of T."""
        return 0 if self._protocol is None else len(self._protocol)

    def recall(self, model: GUIM) -> float:
        """Mean recall@100 over the users by Eq. 3, by exact search; needs a user."""
        assert self._protocol is not None, "there is no validation user"
        found = search(self._users(model, self._protocol), self._items(model), K)
        return metrics.mean(_recalls(self._protocol, found)).mean

    def best_repeat_weight(self, model: GUIM) -> float:
        """The weight of `mixture.prefer_repeats` with the highest recall@100; needs a user.

        A few users tell little: they are asked at T and at `REPEAT_MOMENTS - 1` earlier moments.
        """
        items = self._items(model)
        recalls: dict[float, list[np.ndarray]] = {weight: [] for weight in REPEAT_WEIGHTS}
        for moment in range(REPEAT_MOMENTS):
            protocol = self._at(self._cutoff - moment * self._window.target_days * names.DAY)
            if protocol is not None:
                history = protocol.history.items
                habits = HabitSearch(self._users(model, protocol), items, history, K)
                for weight, of in recalls.items():
                    of.append(_recalls(protocol, habits.lists(weight)))
        means = {w: metrics.mean(np.concatenate(of)).mean for w, of in recalls.items()}
        return max(REPEAT_WEIGHTS, key=lambda w: (means[w], -abs(w)))

    def _at(self, cutoff: int) -> Protocol | None:
        with contextlib.suppress(ProtocolError):  # nobody has events on both sides
            return load_protocol(
                self._dataset,
                as_of=cutoff,
                test_days=self._window.target_days,
                history_days=self._window.history_days,
                splits=(names.VALIDATION,),
            )
        return None

    def _items(self, model: GUIM) -> np.ndarray:
        """`[X, d]`."""
        return np.concatenate([model.encode_items(x).numpy() for x in self._catalogue.batches()])

    def _users(self, model: GUIM, protocol: Protocol) -> np.ndarray:
        """`[U, C, d]`."""
        found = []
        for start in range(0, len(protocol), _USERS_AT_ONCE):
            examples = tf.constant(
                protocol.examples[start : start + _USERS_AT_ONCE], dtype=tf.string
            )
            as_of = tf.fill([len(examples)], tf.constant(protocol.as_of, tf.int64))
            history = history_at(examples, as_of, protocol.schema, self._window)
            found.append(model.encode_users(history, as_of).numpy())
        return np.concatenate(found)


def _recalls(protocol: Protocol, found: Found) -> np.ndarray:
    """CMP-L recall@100 of each user."""
    return metrics.recall_at_k(found.rows, truths(protocol)["CMP-L"], K)


class ValidationRecall(keras.callbacks.Callback):
    """Adds `val_recall@100` to the logs of each epoch."""

    NAME = f"val_recall@{K}"

    def __init__(self, validation: Validation) -> None:
        super().__init__()
        self._validation = validation

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        assert logs is not None
        logs[self.NAME] = self._validation.recall(self.model)
