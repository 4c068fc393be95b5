"""Several replicas share a batch: their parts add up to what one of them would have learned."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from guim_tf import model as model_module
from guim_tf import replicas
from guim_tf.config import LossConfig, ModelConfig
from guim_tf.model import GUIM, TableRows
from guim_tf.replicas import Share, my_share

SIZES = ModelConfig(
    interests=2,
    embedding_dim=16,
    item_id_dim=8,
    category_dim=8,
    word_dim=4,
    layers=1,
    dropout=0.0,
    causal=True,
)
LOSS = LossConfig(
    negatives_per_user=None,
    logq=True,
    diversity=1.0,
    next_item=0.5,
    id_dropout=0.3,
    mask_probability=0.4,
)


@pytest.fixture
def as_replica(monkeypatch):
    """Makes this process replica `number` of `count`."""

    def become(number: int, count: int) -> None:
        for module in (replicas, model_module):
            monkeypatch.setattr(module, "replicas", lambda: (number, count))

    return become


def gradients(model, batch) -> tuple[float, list[np.ndarray]]:
    with tf.GradientTape() as tape:
        loss = model.compute_loss(batch, training=True)
    found = tape.gradient(loss, model.trainable_variables)
    return float(loss), [
        np.zeros(v.shape) if g is None else tf.convert_to_tensor(g).numpy()
        for g, v in zip(found, model.trainable_variables, strict=True)
    ]


@pytest.mark.parametrize("count", [2, 3, 5])
def test_losses_and_gradients_of_all_replicas_add_up_to_those_of_one(batch, as_replica, count):
    """Also where there are more of them than users."""
    model = GUIM(TableRows(32, 7, 25), model=SIZES, loss=LOSS)
    whole, expected = gradients(model, batch)
    parts = []
    for number in range(count):
        as_replica(number, count)
        parts.append(gradients(model, batch))
    assert sum(loss for loss, _ in parts) == pytest.approx(whole, rel=1e-5)
    for name, all_of, *some in zip(
        [v.name for v in model.trainable_variables],
        expected,
        *(found for _, found in parts),
        strict=True,
    ):
        np.testing.assert_allclose(np.sum(some, axis=0), all_of, atol=1e-4, err_msg=name)


def test_metrics_of_replicas_average_to_the_loss_of_the_batch(batch, as_replica):
    model = GUIM(TableRows(32, 7, 25), model=SIZES, loss=LOSS)
    whole = float(model.compute_loss(batch, training=True))
    model.reset_metrics()
    for number in range(2):
        as_replica(number, 2)
        model.compute_loss(batch, training=True)
    assert float(model.mean_loss.result()) == pytest.approx(whole, rel=1e-5)


def test_negatives_of_the_own_users_alone_are_an_option(batch, as_replica):
    """A replica then is as if its users were the whole batch."""
    loss = dataclasses.replace(LOSS, across_replicas=False, mask_probability=0.999, id_dropout=0.0)
    model = GUIM(TableRows(32, 7, 25), model=SIZES, loss=loss)
    as_replica(0, 2)
    share = my_share(tf.constant(4))
    assert (int(share.first), int(share.last)) == (0, 2)
    part = float(model.compute_loss(batch))
    as_replica(0, 1)
    alone = float(model.compute_loss(share.of_batch(batch)))
    assert part == pytest.approx(alone / 2, rel=1e-5), "of two users, divided by four"


@pytest.mark.parametrize("users", range(6))
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_every_user_is_in_one_share(as_replica, users, count):
    found = []
    for number in range(count):
        as_replica(number, count)
        share = my_share(tf.constant(users))
        found += range(int(share.first), int(share.last))
    assert found == list(range(users))


def test_a_share_leaves_what_is_nobodys(batch):
    batch = batch | {"negatives": {"item_key": tf.range(9)}, "catalogue_size": tf.constant(9)}
    found = Share(tf.constant(1), tf.constant(3)).of_batch(batch)
    assert found["as_of"].shape == [2]
    assert found["history"]["item_index"].shape[0] == 2
    assert found["negatives"]["item_key"].shape == [9]
    np.testing.assert_array_equal(found["targets"]["item_key"], batch["targets"]["item_key"][1:3])


@pytest.mark.parametrize("negatives", [None, 1])
@pytest.mark.parametrize("across", [True, False])
def test_a_replica_without_users_has_nothing_to_learn(batch, as_replica, negatives, across):
    """As the first of two where a batch has one user."""
    loss = dataclasses.replace(LOSS, across_replicas=across, negatives_per_user=negatives)
    model = GUIM(TableRows(32, 7, 25), model=SIZES, loss=loss)
    one = Share(tf.constant(0), tf.constant(1)).of_batch(batch)
    as_replica(0, 2)
    value, found = gradients(model, one)
    assert value == 0
    assert all(np.all(gradient == 0) for gradient in found)
