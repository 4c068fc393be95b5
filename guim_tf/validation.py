"""Validation users: the benchmark's CMP-L at the training cut-off, and what is chosen by it."""

import contextlib
import itertools
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from guim_tf import schema as names
from guim_tf.catalogue import Catalogue
from guim_tf.config import CHOSEN_WEIGHTS, WindowConfig
from guim_tf.data import history_at
from guim_tf.evaluation import metrics
from guim_tf.evaluation.baselines import buyers, recent_buyers
from guim_tf.evaluation.protocol import Protocol, ProtocolError, load_protocol, read_events
from guim_tf.evaluation.repeats import HabitSearch
from guim_tf.evaluation.search import Found, search
from guim_tf.evaluation.tasks import K, truths
from guim_tf.keras_compat import keras
from guim_tf.model import GUIM
from guim_tf.popularity import prior
from guim_tf.schema import Schema
from guim_tf.user_batches import encode_in_batches, estimate_lengths

# From never again to habits alone; what lies between two of them makes no difference to see.
REPEAT_WEIGHTS = (-1.0, -0.3, -0.1, 0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 1.0)
# The moments lie in months that the model has learned from, where it knows what sold: what it needs
# to be told is more at the end of the log, and never less than the first of these.
POPULARITY_WEIGHTS = (0.1, 0.2, 0.3, 0.4, 0.6)
# Where nobody can be asked: vectors don't say what sells (`LossConfig.logq`), and whether people
# buy the same again is not known.
UNASKED = {"repeat_weight": 0.0, "popularity_weight": 0.2}
MOMENTS = 6
MOST_USERS = 2000  # that are asked: their mean recall is certain to one in a hundred


class Validation:
    """Up to `MOST_USERS` validation users at T, what they bought next, and the whole catalogue.

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
        """How many are asked: validation users with an event on each side of T."""
        return 0 if self._protocol is None else len(self._protocol)

    def recall(self, model: GUIM) -> float:
        """Mean recall@100 over the users by Eq. 3, by exact search; needs a user."""
        assert self._protocol is not None, "there is no validation user"
        found = search(self._users(model, self._protocol), self._items(model), K)
        return metrics.mean(_recalls(self._protocol, found)).mean

    def best_weights(
        self,
        model: GUIM,
        *,
        repeat_weight: float | None = None,
        popularity_weight: float | None = None,
    ) -> dict[str, float]:
        """The weights of `mixture.prefer_repeats` and `popularity.prior` with the best recall@100.

        A few users tell little: they are asked at T and at `MOMENTS - 1` earlier moments. Needs a
        user. A weight that is given stays. Lists are in the order of Eq. 3, whatever
        `rescore_sharpness` is.
        """
        repeats = REPEAT_WEIGHTS if repeat_weight is None else (repeat_weight,)
        populars = POPULARITY_WEIGHTS if popularity_weight is None else (popularity_weight,)
        protocols = [
            protocol
            for moment in range(MOMENTS)
            if (protocol := self._at(self._cutoff - moment * self._window.target_days * names.DAY))
        ]
        ever, recent = self._buyers([protocol.as_of for protocol in protocols])
        items = self._items(model)
        recalls: dict[tuple[float, float], list[np.ndarray]] = {
            pair: [] for pair in itertools.product(repeats, populars)
        }
        for protocol, sold, recently in zip(protocols, ever > 0, recent, strict=True):
            users, history = self._users(model, protocol), protocol.history.items
            for popular in populars:
                added = prior(recently, popular, sold=sold)
                lists = HabitSearch(users, items, history, K, prior=added).lists
                for repeat in repeats:
                    recalls[repeat, popular].append(_recalls(protocol, lists(repeat)))
        means = {pair: metrics.mean(np.concatenate(of)).mean for pair, of in recalls.items()}
        best = max(means, key=lambda pair: (means[pair], -abs(pair[0]), -pair[1]))
        return dict(zip(CHOSEN_WEIGHTS, best, strict=True))

    def _buyers(self, moments: Sequence[int]) -> np.ndarray:
        """How many of all users bought each item before each moment, `[moments, X]`: ever, and of
        late."""
        schema, size = Schema.load(self._dataset), len(self._catalogue)
        found = np.zeros((2, len(moments), size), np.float32)
        for _, events in read_events(
            self._dataset,
            schema=schema,
            catalogue=self._catalogue,
            splits=(names.TRAIN, names.VALIDATION),
        ):
            for i, moment in enumerate(moments):
                found[0, i] += buyers(events.between(schema.first_timestamp, moment), size)
                found[1, i] += recent_buyers(events, moment, size)
        return found

    def _at(self, cutoff: int) -> Protocol | None:
        with contextlib.suppress(ProtocolError):  # nobody has events on both sides
            protocol = load_protocol(
                self._dataset,
                as_of=cutoff,
                test_days=self._window.target_days,
                history_days=self._window.history_days,
                splits=(names.VALIDATION,),
            )
            return protocol.at_most(MOST_USERS)
        return None

    def _items(self, model: GUIM) -> np.ndarray:
        """`[X, d]`."""
        return np.concatenate([model.encode_items(x).numpy() for x in self._catalogue.batches()])

    def _users(self, model: GUIM, protocol: Protocol) -> np.ndarray:
        """`[U, C, d]`."""

        def encode(users: np.ndarray) -> np.ndarray:
            examples = tf.constant(protocol.examples[users], tf.string)
            as_of = tf.fill([len(users)], tf.constant(protocol.as_of, tf.int64))
            history = history_at(examples, as_of, protocol.schema, self._window)
            return model.encode_users(history, as_of).numpy()

        return encode_in_batches(encode, estimate_lengths(protocol.examples))


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
