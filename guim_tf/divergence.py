"""Training that runs into NaN or infinity stops, before anything of it is kept."""

from typing import Any

import numpy as np
import tensorflow as tf

from guim_tf.keras_compat import keras


class DivergedError(ValueError):
    """A loss or a weight is no longer a finite number."""


def require_finite(model: keras.Model) -> None:
    """Raises `DivergedError` where a weight holds NaN or infinity."""
    for weight in model.trainable_variables:
        with tf.device(weight.device):  # what is summed elsewhere is not fetched
            total = tf.reduce_sum(weight)
        if not np.isfinite(total):
            raise _error(model, f"the weight {weight.name} holds NaN or infinity")


class FiniteWeights(keras.callbacks.Callback):
    """Raises `DivergedError` at the end of an epoch.

    To stand before the callbacks that save, so that a checkpoint holds finite weights, and that
    encode users, who have no vectors by other ones.
    """

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        require_finite(self.model)  # the last step of an epoch has no next loss


class FiniteLoss(FiniteWeights):
    """After each step too."""

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        assert logs is not None
        if not np.isfinite(logs["loss"]):
            raise _error(self.model, f"the loss is {logs['loss']}")


def _error(model: keras.Model, what: str) -> DivergedError:
    optimizer = model.optimizer
    step = int(optimizer.iterations)
    rate = float(tf.convert_to_tensor(optimizer.learning_rate))
    return DivergedError(
        f"training diverged at step {step}, learning rate {rate:.3g}: {what}. The run keeps "
        "the last state before. Train anew with a lower training.learning_rate."
    )
