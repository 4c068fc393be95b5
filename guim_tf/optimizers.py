"""AdamW as BERT is trained, with tables that are updated by row."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from guim_tf.config import TrainingConfig
from guim_tf.keras_compat import keras, register

TABLES = ("item_table", "category_table", "word_table")
UNDECAYED = ("bias", "gamma", "beta")


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


@register
class RowwiseAdamW(keras.optimizers.Optimizer):
    """AdamW, but of embedding tables only the rows that a batch names are read and written.

    What a step costs then does not depend on how many rows a table has. Tables are not decayed.

    Args:
      learning_rate: of everything but tables; a number or a schedule.
      weight_decay: of kernels: variables whose name has none of `UNDECAYED` in it.
      clip_norm: that the gradient of all variables together is scaled down to.
      table_rate: the learning rate of tables over that of the others.
      table_slots: state of a table. "row": one number a row, the sum of its mean squared gradients
        (Adagrad; Duchi et al., 2011, by row as in Naumov et al., 2019). "full": Adam's two moments
        of each weight, moved when its row is met.
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule,
        *,
        weight_decay: float,
        clip_norm: float,
        table_rate: float,
        table_slots: str,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        name: str = "RowwiseAdamW",
        **kwargs: Any,
    ) -> None:
        kwargs |= {"weight_decay": weight_decay, "global_clipnorm": clip_norm}
        super().__init__(name=name, **kwargs)
        self._learning_rate = self._build_learning_rate(learning_rate)
        self.clip_norm = clip_norm
        self.table_rate = table_rate
        self.table_slots = table_slots
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.exclude_from_weight_decay(var_names=[*TABLES, *UNDECAYED])

    def build(self, var_list: Sequence[tf.Variable]) -> None:
        """Makes the state; called once, by the first step or before it."""
        super().build(var_list)
        if getattr(self, "_built", False):
            return
        self._built = True
        # Steps that the moments have seen before the first of this optimiser: see `warm_start`.
        self.steps_before = tf.Variable(0, dtype=tf.int64, trainable=False, name="steps_before")
        self._state = []
        for variable in var_list:
            if self.table_slots == "row" and _is_table(variable):
                rows = variable.shape[:1]
                state = [self.add_variable_from_reference(variable, "sum", shape=rows)]
            else:
                state = [self.add_variable_from_reference(variable, name) for name in ("m", "v")]
            self._state.append(state)

    def state_of(self, variable: tf.Variable) -> list[tf.Variable]:
        """What is kept of a variable between steps; of a table it may be one number a row."""
        return self._state[self._index_dict[self._var_key(variable)]]

    def _clip_gradients(self, grads: list[Any]) -> list[Any]:
        """By the norm of what moves the variables: rows that are named twice are summed first."""
        return super()._clip_gradients(super()._deduplicate_sparse_grad(grads))

    def _deduplicate_sparse_grad(self, grads: list[Any]) -> list[Any]:
        return grads  # `_clip_gradients` has done it

    def update_step(self, gradient: tf.Tensor | tf.IndexedSlices, variable: tf.Variable) -> None:
        """One variable by its gradient, in which a row is named once."""
        state = self.state_of(variable)
        rate = tf.cast(self.learning_rate, variable.dtype)
        if not _is_table(variable):
            self._adam(tf.convert_to_tensor(gradient), variable, *state, rate=rate)
            return
        if not isinstance(gradient, tf.IndexedSlices):
            gradient = tf.IndexedSlices(gradient, tf.range(tf.shape(gradient)[0]))
        update = self._adagrad_rows if self.table_slots == "row" else self._adam_rows
        update(gradient, variable, *state, rate=self.table_rate * rate)

    def _powers(self) -> list[tf.Tensor]:
        """beta^t of each beta: what the moments lack in the first steps (Kingma and Ba, 2015)."""
        step = tf.cast(self.steps_before + self.iterations + 1, tf.float32)
        return [beta**step for beta in (self.beta_1, self.beta_2)]

    def _adam(
        self,
        gradient: tf.Tensor,
        variable: tf.Variable,
        m: tf.Variable,
        v: tf.Variable,
        *,
        rate: tf.Tensor,
    ) -> None:
        """In one pass over the weights."""
        power_1, power_2 = self._powers()
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=m.handle,
            v=v.handle,
            beta1_power=power_1,
            beta2_power=power_2,
            lr=rate,
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=gradient,
        )

    def _adam_rows(
        self,
        gradient: tf.IndexedSlices,
        variable: tf.Variable,
        m: tf.Variable,
        v: tf.Variable,
        *,
        rate: tf.Tensor,
    ) -> None:
        rows, values = gradient.indices, gradient.values
        new_m = self.beta_1 * tf.gather(m, rows) + (1 - self.beta_1) * values
        new_v = self.beta_2 * tf.gather(v, rows) + (1 - self.beta_2) * tf.square(values)
        m.scatter_update(tf.IndexedSlices(new_m, rows))
        v.scatter_update(tf.IndexedSlices(new_v, rows))
        power_1, power_2 = self._powers()
        correction = tf.sqrt(1 - power_2) / (1 - power_1)
        step = rate * correction * new_m / (tf.sqrt(new_v) + self.epsilon)
        variable.scatter_sub(tf.IndexedSlices(step, rows))

    def _adagrad_rows(
        self,
        gradient: tf.IndexedSlices,
        variable: tf.Variable,
        total: tf.Variable,
        *,
        rate: tf.Tensor,
    ) -> None:
        rows, values = gradient.indices, gradient.values
        new = tf.gather(total, rows) + tf.reduce_mean(tf.square(values), axis=1)
        total.scatter_update(tf.IndexedSlices(new, rows))
        step = rate * values / (tf.sqrt(new) + self.epsilon)[:, None]
        variable.scatter_sub(tf.IndexedSlices(step, rows))

    def get_config(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "learning_rate": self._serialize_hyperparameter(self._learning_rate),
            "weight_decay": self.weight_decay,
            "clip_norm": self.clip_norm,
            "table_rate": self.table_rate,
            "table_slots": self.table_slots,
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
        }


def _is_table(variable: tf.Variable) -> bool:
    return any(name in variable.name for name in TABLES)


def build_optimizer(config: TrainingConfig, *, total_steps: int) -> RowwiseAdamW:
    """AdamW for `total_steps`; biases and layer norms are not decayed (Devlin et al., 2018)."""
    schedule = WarmupLinearDecay(
        config.learning_rate,
        warmup_steps=round(total_steps * config.warmup_share),
        total_steps=total_steps,
    )
    return RowwiseAdamW(
        schedule,
        weight_decay=config.weight_decay,
        clip_norm=config.clip_norm,
        table_rate=config.table_rate,
        table_slots=config.table_slots,
    )
