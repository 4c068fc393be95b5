"""Run as the chief of two parameter servers and a worker: is a table well kept in two pieces?"""

import os

import numpy as np
import tensorflow as tf

import guim_tf  # noqa: F401  (before Keras)
from guim_tf.cluster import Cluster
from guim_tf.layers import Table
from guim_tf.optimizers import RowwiseAdamW

ROWS = 50_001  # of 200 numbers: 20 MB a piece

strategy = Cluster.of_this_process().strategy
with strategy.scope():
    table = Table(ROWS, 200, name="item_table")
    table(tf.constant([0]))
    optimizer = RowwiseAdamW(
        0.1, weight_decay=0.0, clip_norm=1e9, table_rate=1.0, table_slots="row"
    )
    optimizer.build(table.trainable_variables)

pieces = table.embeddings.variables
devices = {piece.device for piece in pieces}
assert len(pieces) == len(devices) == 2, devices
assert all("/job:ps/" in device for device in devices), devices


def values() -> np.ndarray:
    return np.concatenate([piece.numpy() for piece in pieces])


before = values()
assert before.shape == (ROWS, 200)
assert np.all(before.std(axis=1) > 0), "every row is drawn"
rows = tf.constant([0, 25_000, 25_001, ROWS - 1])
np.testing.assert_array_equal(table(rows), before[rows.numpy()])


@tf.function
def step() -> None:
    def of_replica() -> None:
        variables = table.trainable_variables
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(table(rows))
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))

    strategy.run(of_replica)


coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
coordinator.schedule(step)
coordinator.join()
moved = np.flatnonzero(np.any(values() != before, axis=1))
np.testing.assert_array_equal(moved, rows)
states = [state.shape[0] for piece in pieces for state in optimizer.state_of(piece)]
assert states == [piece.shape[0] for piece in pieces], "a number a row, beside each piece"
print("all is as it should be", flush=True)
os._exit(0)  # servers that are stopped first would fill the terminal
