"""The plain build that speed is measured against is the same model."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from plain_model import PlainGUIM

from guim_tf import schema as names
from guim_tf.config import LossConfig, ModelConfig
from guim_tf.model import GUIM, TableRows

ROWS = TableRows(items=150, categories=7, words=25)
MODEL = ModelConfig(
    interests=3,
    embedding_dim=16,
    item_id_dim=8,
    category_dim=8,
    word_dim=4,
    layers=2,
    dropout=0.0,
    causal=True,
)
LOSS = LossConfig(negatives_per_user=None, logq=True, diversity=1.0, next_item=0.3)


def random_batch(users=6, length=9, seed=0):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, length + 1, users)
    lengths[0] = length

    def events(width, present):
        item = np.where(present, rng.integers(3, ROWS.items, [users, width]), 0)
        features = {
            names.ITEM_INDEX: item,
            names.ITEM_KEY: item * 1000,
            names.CATEGORY_INDEX: np.where(present, item % 5 + 2, 0),
            names.TIMESTAMP: np.sort(rng.integers(0, 10_000_000, [users, width])),
            names.TITLE_TOKENS: np.where(present[..., None], item[..., None] % 20 + [1, 2, 3], 0),
        }
        return {name: tf.constant(x, tf.int64) for name, x in features.items()}

    present = np.arange(length) < lengths[:, None]
    history = events(length, present)
    targets = events(2, np.ones([users, 2], bool))
    cutoffs = tf.stack([history[names.TIMESTAMP][:, 1], tf.zeros([users], tf.int64)], axis=1)
    after = (history[names.TIMESTAMP] >= cutoffs[:, :1]) & present
    return {
        "as_of": tf.fill([users], tf.constant(20_000_000, tf.int64)),
        "history": history,
        "targets": targets,
        "earlier": {
            "as_of": cutoffs,
            "targets": tf.stack([after, tf.zeros_like(after)], axis=1),
        },
    }


@pytest.mark.parametrize("users", [6, 81])  # of the latter tokens, items and queries are padded
@pytest.mark.parametrize("mode", ["tuned", "paper"])
def test_the_loss_and_its_gradients_are_those_of_the_package(mode, users):
    batch, sizes = random_batch(users), {"model": MODEL, "loss": LOSS}
    if mode == "paper":
        sizes = {"model": dataclasses.replace(MODEL, causal=False), "loss": LossConfig()}
        batch = {name: x for name, x in batch.items() if name != "earlier"}
    packed = GUIM(ROWS, **sizes)
    plain = PlainGUIM(ROWS, **sizes, max_length=9)
    weights = [3 * w for w in packed.get_weights()]  # away from the small start
    packed.set_weights(weights)
    plain.set_weights(weights)
    found = []
    for model in (packed, plain):
        with tf.GradientTape() as tape:
            loss = model.compute_loss(batch)  # masks alike: seeds are fixed outside of training
        gradients = tape.gradient(loss, model.trainable_variables)
        found.append([loss, *map(tf.convert_to_tensor, gradients)])
    names_of = ["loss", *(v.name for v in packed.trainable_variables)]
    for name, mine, expected in zip(names_of, *found, strict=True):
        scale = np.abs(expected).max()
        assert scale > 0, name
        np.testing.assert_allclose(mine, expected, atol=1e-4 * scale, err_msg=name)


def test_it_is_trained_in_a_graph():
    """TFRS's task asks for the length of a tensor, which is AutoGraph's to answer."""
    model = PlainGUIM(ROWS, model=MODEL, loss=LOSS, max_length=9)
    model.compile("sgd")
    assert tf.function(model.train_step)(random_batch())["loss"] > 0


def test_longer_padding_does_not_change_the_loss():
    """Masks are drawn by place, so nothing is masked here."""
    batch = random_batch()
    loss = dataclasses.replace(LOSS, mask_probability=1e-9)
    models = [PlainGUIM(ROWS, model=MODEL, loss=loss, max_length=n) for n in (9, 14)]
    models[1].set_weights(models[0].get_weights())
    one, other = (float(model.compute_loss(batch)) for model in models)
    np.testing.assert_allclose(one, other, rtol=1e-5)
