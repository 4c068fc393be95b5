"""Users encoded in parts, one after another or side by side: the same as all at once."""

import dataclasses
import functools
import json

import numpy as np
import pytest
import tensorflow as tf

from guim_tf.config import LossConfig, ModelConfig, configure
from guim_tf.model import GUIM, TableRows
from guim_tf.recompute import encode_in_parts
from guim_tf.runs import read_history
from guim_tf.side_by_side import encode_side_by_side
from guim_tf.training import train
from guim_tf.user_encoder import UserEncoder

DAY = 86_400


def encoder_and_inputs(*, cutoffs: bool, actions: bool, mixture: str):
    """Users of 3, 0, 7, 5, 2 and 9 events."""
    rng = np.random.default_rng(0)
    lengths = [3, 0, 7, 5, 2, 9]
    encoder = UserEncoder(
        2,
        dim=16,
        layers=2,
        heads=2,
        dropout=0.0,
        time_rows=30,
        causal=cutoffs,
        mixture=mixture,
        action_rows=4 if actions else None,
    )
    times = np.concatenate([np.sort(rng.integers(1, 20 * DAY, n)) for n in lengths])
    events = len(times)
    items = tf.constant(rng.normal(size=(events, 16)), tf.float32)
    inputs = {
        "lengths": tf.constant(lengths, tf.int32),
        "timestamp": tf.constant(times, tf.int64),
        "as_of": tf.fill([6], tf.constant(25 * DAY, tf.int64)),
        "earlier": tf.constant(rng.integers(1, 20 * DAY, (6, 2)), tf.int64) if cutoffs else None,
        "masked": tf.constant(rng.random(events) < 0.2),
        "action": tf.constant(rng.integers(1, 4, events), tf.int64) if actions else None,
        "seed": None,
    }
    encoder(items, **inputs)
    return encoder, items, inputs


def outputs_and_gradients(encoder, items, encode):
    @tf.function
    def run(items):
        with tf.GradientTape() as tape:
            tape.watch(items)
            users, outputs = encode(items)
            loss = tf.reduce_sum(tf.sin(users)) + tf.reduce_sum(outputs * tf.cos(outputs))
        variables = [items, *encoder.trainable_variables]
        found = tape.gradient(loss, variables, unconnected_gradients="zero")
        return users, outputs, [tf.convert_to_tensor(x) for x in found]

    return [x.numpy() for x in tf.nest.flatten(run(items))]


@pytest.mark.parametrize(
    "encode",
    [
        *(functools.partial(encode_in_parts, parts=parts) for parts in (1, 2, 6)),
        *(functools.partial(encode_side_by_side, branches=n, groups=2) for n in (2, 7)),
    ],
    ids=lambda encode: f"{encode.func.__name__}-{sorted(encode.keywords.values())}",
)
@pytest.mark.parametrize(
    "changes",
    [
        {"cutoffs": True, "actions": False, "mixture": "tokens"},
        {"cutoffs": False, "actions": True, "mixture": "tokens"},
        {"cutoffs": False, "actions": False, "mixture": "heads"},
    ],
)
def test_parts_give_the_vectors_and_gradients_of_the_whole(encode, changes):
    encoder, items, inputs = encoder_and_inputs(**changes)
    whole = outputs_and_gradients(encoder, items, lambda x: encoder(x, **inputs))
    found = outputs_and_gradients(encoder, items, lambda x: encode(encoder, x, **inputs))
    for mine, expected in zip(found, whole, strict=True):
        np.testing.assert_allclose(mine, expected, atol=1e-4)


def test_the_loss_of_a_model_in_parts_is_that_of_the_whole_batch(batch):
    """Negatives of all users count, whatever part they are in."""
    sizes = ModelConfig(
        interests=2,
        embedding_dim=16,
        item_id_dim=8,
        category_dim=8,
        word_dim=4,
        layers=1,
        causal=True,
    )
    loss = LossConfig(negatives_per_user=None, logq=True, next_item=0.5, diversity=1.0)
    whole, parted = (
        GUIM(TableRows(32, 7, 25), model=sizes, loss=loss, parts=parts) for parts in (1, 3)
    )
    parted.set_weights(whole.get_weights())
    assert float(parted.compute_loss(batch)) == pytest.approx(
        float(whole.compute_loss(batch)), rel=1e-5
    )
    assert GUIM.from_config(parted.get_config()).parts == 3


def test_branches_have_dropout_of_their_own():
    """Of two users alike the vectors differ: one is in each branch."""
    encoder, items, inputs = encoder_and_inputs(cutoffs=True, actions=False, mixture="tokens")
    encoder.dropout = 0.5
    twice = {name: None if x is None else tf.repeat(x[:1], 2, axis=0) for name, x in inputs.items()}
    twice |= {"lengths": tf.constant([1, 1]), "seed": tf.constant([3, 4], tf.int64)}
    items = tf.repeat(items[:1], 2, axis=0)

    def encode(branches: int) -> np.ndarray:
        return encode_side_by_side(encoder, items, branches=branches, groups=1, **twice)[0].numpy()

    users = encode(2)
    np.testing.assert_array_equal(users, encode(2))
    assert np.abs(users[0] - users[1]).max() > 0.1


def test_dropout_of_a_part_is_the_same_when_it_is_computed_again():
    """Or the gradient would belong to another function: checked against finite differences."""
    encoder, items, inputs = encoder_and_inputs(cutoffs=True, actions=False, mixture="tokens")
    encoder.dropout = 0.5
    inputs["seed"] = tf.constant([3, 4], tf.int64)

    def loss(x):
        users, outputs = encode_in_parts(encoder, x, parts=3, **inputs)
        return tf.reduce_sum(tf.sin(users)) + tf.reduce_sum(outputs * tf.cos(outputs))

    with tf.GradientTape() as tape:
        tape.watch(items)
        value = loss(items)
    gradient = tape.gradient(value, items).numpy()
    direction = np.random.default_rng(1).normal(size=items.shape).astype(np.float32)
    step = 1e-2
    slope = (loss(items + step * direction) - loss(items - step * direction)) / (2 * step)
    assert float(slope) == pytest.approx(float((gradient * direction).sum()), rel=0.05)


def test_a_run_in_parts_learns_what_a_whole_one_does(shop_dataset, small_config, tmp_path):
    config = configure(small_config, ["model.dropout=0", "training.epochs=1"])
    for parts in (1, 4):
        train(
            dataset=shop_dataset,
            run=tmp_path / str(parts),
            config=dataclasses.replace(
                config, training=dataclasses.replace(config.training, parts=parts)
            ),
            progress=False,
        )
    one, four = (read_history(tmp_path / parts)[0] for parts in ("1", "4"))
    for key in ("loss", "matching_loss", "mlm_loss"):
        assert four[key] == pytest.approx(one[key], rel=5e-3), key
    assert json.loads((tmp_path / "4" / "config.json").read_text())["training"]["parts"] == 4
