"""Adam with decoupled weight decay, linear warm-up and linear decay, as BERT is trained."""

from typing import Any

import tensorflow as tf

from guim_tf.config import TrainingConfig
from guim_tf.keras_compat import keras, register


@register
class WarmupLinearDecay(keras.optimizers.schedules.LearningRateSchedule):
    """From 0 up to `peak` in `warmup_steps`, then down to 0 at `total_steps`; linear both ways."""

    def __init__(self, peak: float, *, warmup_steps: int, total_steps: int):
        self.peak = peak
        self.warmup_steps = warmup_steps
        self.total_steps = total_steps

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        step = tf.cast(step, tf.float32) + 1.0  # the first step must move
        warmup = max(self.warmup_steps, 1)
        up = step / warmup
        down = (self.total_steps + 1 - step) / max(self.total_steps + 1 - warmup, 1)
        return self.peak * tf.clip_by_value(tf.minimum(up, down), 0.0, 1.0)

    def get_config(self) -> dict[str, Any]:
        return {
            "peak": self.peak,
            "warmup_steps": self.warmup_steps,
            "total_steps": self.total_steps,
        }


def build_optimizer(config: TrainingConfig, *, total_steps: int) -> keras.optimizers.Optimizer:
    """AdamW for `total_steps`; biases and layer norms are not decayed (Devlin et al., 2018)."""
    schedule = WarmupLinearDecay(
        config.learning_rate,
        warmup_steps=round(total_steps * config.warmup_share),
        total_steps=total_steps,
    )
    optimizer = keras.optimizers.AdamW(
        learning_rate=schedule,
        weight_decay=config.weight_decay,
        global_clipnorm=config.clip_norm,
    )
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer
