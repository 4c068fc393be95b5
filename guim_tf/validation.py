"""Recall on validation users while training: the benchmark's CMP-L at the training cut-off."""

import pathlib

import numpy as np
import tensorflow as tf

from guim_tf import schema as names
from guim_tf.config import WindowConfig
from guim_tf.data import Catalogue, history_at
from guim_tf.evaluation import metrics
from guim_tf.evaluation.protocol import ProtocolError, load_protocol
from guim_tf.evaluation.tasks import truths
from guim_tf.keras_compat import keras
from guim_tf.mixture import search_exact
from guim_tf.model import GUIM

K = 100
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
        self._cutoff = cutoff
        try:
            self._protocol = load_protocol(
                dataset,
                as_of=cutoff,
                test_days=window.target_days,
                history_days=window.history_days,
                splits=(names.VALIDATION,),
            )
        except ProtocolError:
            self._protocol = None

    @property
    def users(self) -> int:
        """How many validation users have an event on each side of T."""
        return 0 if self._protocol is None else len(self._protocol)

    def recall(self, model: GUIM) -> float:
        """Mean recall@100 over the users, by exact search over the catalogue; needs a user."""
        assert self._protocol is not None, "there is no validation user"
        items = tf.concat([model.encode_items(batch) for batch in self._catalogue.batches()], 0)
        ranked = [
            search_exact(self._encode(model, examples), items, min(K, len(self._catalogue)))[0]
            for examples in self._batches()
        ]
        truth = truths(self._protocol)["CMP-L"]
        return metrics.mean(metrics.recall_at_k(np.concatenate(ranked), truth, K)).mean

    def _batches(self) -> list[np.ndarray]:
        examples = self._protocol.examples
        return [
            examples[start : start + _USERS_AT_ONCE]
            for start in range(0, len(examples), _USERS_AT_ONCE)
        ]

    def _encode(self, model: GUIM, examples: np.ndarray) -> tf.Tensor:
        as_of = tf.fill([len(examples)], tf.constant(self._cutoff, tf.int64))
        history = history_at(
            tf.constant(list(examples), tf.string), as_of, self._protocol.schema, self._window
        )
        return model.encode_users(history, as_of)


class ValidationRecall(keras.callbacks.Callback):
    """Adds `val_recall@100` to the logs of each epoch."""

    NAME = f"val_recall@{K}"

    def __init__(self, validation: Validation) -> None:
        super().__init__()
        self._validation = validation

    def on_epoch_end(self, epoch, logs=None):
        logs[self.NAME] = self._validation.recall(self.model)
