"""The learning rate's course, and what is decayed."""

import numpy as np
import pytest
import tensorflow as tf

from guim_tf.config import TrainingConfig
from guim_tf.keras_compat import keras
from guim_tf.optimizers import WarmupLinearDecay, build_optimizer


def test_the_rate_rises_to_its_peak_and_falls_to_nothing():
    schedule = WarmupLinearDecay(1.0, warmup_steps=4, total_steps=10)
    rates = [float(schedule(tf.constant(step))) for step in range(12)]
    # up by quarters in 4 steps, then down by sevenths: (11 - step) / 7 at step 5, 6, ...
    expected = [0.25, 0.5, 0.75, 1.0, 6 / 7, 5 / 7, 4 / 7, 3 / 7, 2 / 7, 1 / 7, 0, 0]
    np.testing.assert_allclose(rates, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("warmup", [0, 10])
def test_without_or_with_nothing_but_warmup(warmup):
    schedule = WarmupLinearDecay(0.5, warmup_steps=warmup, total_steps=10)
    rates = [float(schedule(tf.constant(step))) for step in range(10)]
    assert all(0 < rate <= 0.5 for rate in rates)
    assert max(rates) == 0.5


def test_the_schedule_comes_back_from_its_configuration():
    schedule = WarmupLinearDecay(0.5, warmup_steps=3, total_steps=10)
    again = keras.optimizers.schedules.deserialize(keras.optimizers.schedules.serialize(schedule))
    assert float(again(tf.constant(6))) == float(schedule(tf.constant(6)))


def test_kernels_decay_and_biases_and_norms_do_not():
    layers = keras.Sequential(
        [keras.layers.Dense(3, bias_initializer="ones"), keras.layers.LayerNormalization()]
    )
    layers.build([None, 2])
    optimizer = build_optimizer(
        TrainingConfig(weight_decay=0.5, learning_rate=1.0, warmup_share=0.0), total_steps=10
    )
    before = {v.name: v.numpy() for v in layers.trainable_variables}
    zero = [tf.zeros_like(v) for v in layers.trainable_variables]
    optimizer.apply_gradients(zip(zero, layers.trainable_variables, strict=True))
    for variable in layers.trainable_variables:
        # Loshchilov and Hutter, 2019: with no gradient w becomes w (1 - rate * decay)
        kept = 0.5 if "kernel" in variable.name else 1.0
        np.testing.assert_allclose(variable, kept * before[variable.name], rtol=1e-5)
