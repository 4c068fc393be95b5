"""The learning rate's course, and what is decayed."""

import numpy as np
import pytest
import tensorflow as tf

from guim_tf.config import ModelConfig, TrainingConfig
from guim_tf.keras_compat import keras
from guim_tf.model import GUIM, TableRows
from guim_tf.optimizers import RowwiseAdamW, WarmupLinearDecay, build_optimizer


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


def one_table(slots, rate=2.0, *, rows=6, dim=3):
    """A table, and an optimiser with a constant rate of 0.1 whose tables have `rate` times it."""
    table = tf.Variable(tf.ones([rows, dim]), name="item_table/embeddings")
    optimizer = RowwiseAdamW(
        0.1, weight_decay=0.5, clip_norm=1e9, table_rate=rate, table_slots=slots
    )
    optimizer.build([table])
    return table, optimizer


def rows_of(values, indices, rows=6):
    values = tf.constant(values, tf.float32)
    return tf.IndexedSlices(values, tf.constant(indices), dense_shape=[rows, values.shape[1]])


def test_a_row_takes_adagrads_step_with_one_number_a_row():
    table, optimizer = one_table("row")
    first, second = [[3.0, 0.0, -4.0]], [[0.0, 5.0, 0.0]]
    optimizer.apply_gradients([(rows_of(first, [2]), table)])
    # the mean of 9, 0 and 16 is 25 / 3; the rate is 0.2
    expected = 1 - 0.2 * np.array(first[0]) / np.sqrt(25 / 3)
    np.testing.assert_allclose(table[2], expected, rtol=1e-5)
    optimizer.apply_gradients([(rows_of(second, [2]), table)])
    expected -= 0.2 * np.array(second[0]) / np.sqrt(50 / 3)
    np.testing.assert_allclose(table[2], expected, rtol=1e-5)
    state = [v for v in optimizer.variables if v.shape.rank and v.shape[0] == 6]
    assert [v.shape.as_list() for v in state] == [[6]]


def test_a_row_takes_adams_step_with_full_slots():
    table, optimizer = one_table("full")
    plain = tf.Variable(tf.ones([1, 3]))
    adam = keras.optimizers.Adam(0.2)
    for gradient in ([[3.0, 0.0, -4.0]], [[1.0, 5.0, -1.0]]):  # met in every step: the same as Adam
        optimizer.apply_gradients([(rows_of(gradient, [2]), table)])
        adam.apply_gradients([(tf.constant(gradient), plain)])
    np.testing.assert_allclose(table[2], plain[0], rtol=1e-4)


@pytest.mark.parametrize("slots", ["row", "full"])
def test_rows_that_no_batch_names_stay_bit_for_bit(slots):
    table, optimizer = one_table(slots)
    optimizer.apply_gradients([(rows_of([[1.0, 2.0, 3.0]], [4]), table)])
    before = table.numpy()
    optimizer.apply_gradients([(rows_of([[1.0, 1.0, 1.0]], [0]), table)])
    changed = (table.numpy() != before).any(axis=1)
    assert changed.tolist() == [True] + [False] * 5, "neither moved by momentum nor decayed"


@pytest.mark.parametrize("slots", ["row", "full"])
def test_a_row_that_a_batch_names_twice_gets_the_sum_of_its_gradients(slots):
    (once, optimizer), (twice, other) = one_table(slots), one_table(slots)
    optimizer.apply_gradients([(rows_of([[3.0, 3.0, 5.0]], [1]), once)])
    other.apply_gradients([(rows_of([[1.0, 2.0, 4.0], [2.0, 1.0, 1.0]], [1, 1]), twice)])
    np.testing.assert_allclose(once, twice, rtol=1e-6)


def test_the_norm_of_all_gradients_is_clipped_tables_among_them():
    table, _ = one_table("row")
    kernel = tf.Variable(tf.zeros([2, 2]), name="kernel")
    optimizer = RowwiseAdamW(
        0.1, weight_decay=0.0, clip_norm=1.0, table_rate=1.0, table_slots="row"
    )
    optimizer.build([table, kernel])
    gradients = [rows_of([[30.0, 0.0, 40.0]], [1]), tf.zeros([2, 2])]
    optimizer.apply_gradients(zip(gradients, [table, kernel], strict=True))
    [total] = [v for v in optimizer.variables if v.shape == [6]]
    np.testing.assert_allclose(total[1], 1 / 3, rtol=1e-5)  # the squares sum up to 1 now


def test_kernels_move_as_by_the_librarys_adamw():
    start = np.random.default_rng(0).normal(size=[4, 3]).astype(np.float32)
    mine, expected = (tf.Variable(start, name="kernel") for _ in range(2))
    ours = RowwiseAdamW(0.01, weight_decay=0.1, clip_norm=0.5, table_rate=1.0, table_slots="row")
    library = keras.optimizers.AdamW(0.01, weight_decay=0.1, global_clipnorm=0.5)
    for seed in range(5):
        gradient = tf.random.stateless_normal([4, 3], [seed, 0])
        ours.apply_gradients([(gradient, mine)])
        library.apply_gradients([(gradient, expected)])
    np.testing.assert_allclose(mine, expected, rtol=1e-4)


def test_all_tables_of_the_model_are_updated_by_row():
    model = GUIM(TableRows(items=32, categories=7, words=25), model=ModelConfig(layers=1))
    optimizer = build_optimizer(TrainingConfig(table_slots="row"), total_steps=10)
    optimizer.build(model.trainable_variables)
    sizes = {tuple(v.shape) for v in optimizer.variables}
    assert {(32,), (7,), (25,)} <= sizes
    assert not {(32, 128), (7, 128), (25, 32)} & sizes


def test_the_optimizer_comes_back_from_its_configuration():
    optimizer = build_optimizer(TrainingConfig(table_rate=7.0, table_slots="row"), total_steps=10)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert again.get_config() == optimizer.get_config()
    assert again.table_rate == 7.0


def test_the_norm_that_is_clipped_is_that_of_the_summed_rows():
    """A row named twice moves once, by the sum: 3 + 3, not the root of 9 + 9."""
    optimizer = RowwiseAdamW(
        1.0, weight_decay=0.0, clip_norm=1.0, table_rate=1.0, table_slots="row"
    )
    twice = tf.IndexedSlices(tf.constant([[3.0], [3.0]]), tf.constant([1, 1]), tf.constant([4, 1]))
    dense = tf.constant([8.0])
    table, kernel = optimizer._deduplicate_sparse_grad(optimizer._clip_gradients([twice, dense]))
    np.testing.assert_array_equal(table.indices, [1])
    np.testing.assert_allclose(table.values, [[0.6]], rtol=1e-6)
    np.testing.assert_allclose(kernel, [0.8], rtol=1e-6)
