"""Recall on validation users while training: the benchmark's CMP-L at the training cut-off."""

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
from guim_tf.evaluation.search import search
from guim_tf.evaluation.tasks import K, truths
from guim_tf.keras_compat import keras
from guim_tf.model import GUIM

# From never again to habits alone; what lies between two of them makes no difference to see.
REPEAT_WEIGHTS = (-1.0, -0.3, -0.1, 0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 1.0)
_USERS_AT_ONCE = 256


class Validation:
    """The validation users at T, what they bought next, and the whole catalogue as candidates.

    Args:
      dataset: a data set folder.
      cutoff: T, seconds.
      window: how sequences are cut.
    """

    def __init__(self, dataset: str | pathlib.Path, cutoff: int, window: WindowConfig) -> None:
        self._catalogue = Catalogue(dataset)
        self._window = window
        self._protocol: Protocol | None = None
        with contextlib.suppress(ProtocolError):  # nobody has events on both sides
            self._protocol = load_protocol(
                dataset,
                as_of=cutoff,
                test_days=window.target_days,
                history_days=window.history_days,
                splits=(names.VALIDATION,),
            )

    @property
    def users(self) -> int:
        """How many validation users have an event on each side of T."""
        return 0 if self._protocol is None else len(self._protocol)

    def recall(self, model: GUIM) -> float:
        """Mean recall@100 over the users by Eq. 3, by exact search; needs a user."""
        return self._recall(search(*self._vectors(model), K).rows)

    def best_repeat_weight(self, model: GUIM) -> float:
        """The weight of `mixture.prefer_repeats` with the highest recall@100; needs a user."""
        habits = HabitSearch(*self._vectors(model), self._users().history.items, K)
        recalls = {w: self._recall(habits.lists(w).rows) for w in REPEAT_WEIGHTS}
        return max(REPEAT_WEIGHTS, key=lambda w: (recalls[w], -abs(w)))

    def _users(self) -> Protocol:
        assert self._protocol is not None, "there is no validation user"
        return self._protocol

    def _vectors(self, model: GUIM) -> tuple[np.ndarray, np.ndarray]:
        """Users `[U, C, d]` and the catalogue `[X, d]`."""
        protocol = self._users()
        items = [model.encode_items(batch).numpy() for batch in self._catalogue.batches()]
        users = []
        for start in range(0, len(protocol), _USERS_AT_ONCE):
            examples = tf.constant(
                protocol.examples[start : start + _USERS_AT_ONCE], dtype=tf.string
            )
            as_of = tf.fill([len(examples)], tf.constant(protocol.as_of, tf.int64))
            history = history_at(examples, as_of, protocol.schema, self._window)
            users.append(model.encode_users(history, as_of).numpy())
        return np.concatenate(users), np.concatenate(items)

    def _recall(self, ranked: np.ndarray) -> float:
        truth = truths(self._users())["CMP-L"]
        return metrics.mean(metrics.recall_at_k(ranked, truth, K)).mean


class ValidationRecall(keras.callbacks.Callback):
    """Adds `val_recall@100` to the logs of each epoch."""

    NAME = f"val_recall@{K}"

    def __init__(self, validation: Validation) -> None:
        super().__init__()
        self._validation = validation

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        assert logs is not None
        logs[self.NAME] = self._validation.recall(self.model)
