"""Users in batches of like length: how large they are, and that nobody is mixed up."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from guim_tf import encoders
from guim_tf.evaluation.protocol import load_protocol
from guim_tf.user_batches import (
    LEAST_USERS,
    MOST_EVENTS,
    MOST_USERS,
    encode_in_batches,
    estimate_lengths,
)


def batches(lengths):
    """The rows of each batch, and what all of them were encoded to: each row to itself."""
    found = []

    def encode(users):
        found.append(users)
        return np.stack([users, -users], axis=1)

    return found, encode_in_batches(encode, np.asarray(lengths))


def test_every_user_is_encoded_once_and_keeps_his_place():
    lengths = np.random.default_rng(0).integers(1, 1000, 700)
    found, encoded = batches(lengths)
    np.testing.assert_array_equal(encoded, np.stack([np.arange(700), -np.arange(700)], axis=1))
    assert sorted(np.concatenate(found)) == list(range(700))


def test_users_of_like_length_are_together_the_longest_first():
    lengths = np.random.default_rng(1).permutation(np.arange(1, 601))
    found, _ = batches(lengths)
    ends = [(lengths[users].max(), lengths[users].min()) for users in found]
    assert len(found) > 2
    assert all(least > most for (_, least), (most, _) in itertools.pairwise(ends))


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (1, MOST_USERS),
        (MOST_EVENTS // 64, 64),
        (MOST_EVENTS // LEAST_USERS, LEAST_USERS),
        (100 * MOST_EVENTS, LEAST_USERS),  # the encoder cuts it
        (0, MOST_USERS),
    ],
)
def test_size_of_a_batch_by_its_longest_history(length, expected):
    found, _ = batches([length] * 1000)
    assert [len(users) for users in found[:-1]] == [expected] * (999 // expected)
    assert len(found[-1]) == 1000 - 999 // expected * expected


def test_lengths_are_estimated_by_size_and_rise_with_it():
    records = np.array([b"", b"x" * 400, b"x" * 40_000], object)
    assert estimate_lengths(records).tolist() == [1, 11, 1001]


def test_the_bar_counts_users(capsys):
    encode_in_batches(lambda users: users, np.full(300, 2), title="encoding users")
    assert "encoding users: 100%" in (shown := capsys.readouterr().err)
    assert "300/300" in shown
    encode_in_batches(lambda users: users, np.full(300, 2))
    assert capsys.readouterr().err == ""


def test_a_user_has_the_vectors_that_he_has_alone(shop_dataset, shop_models):
    protocol = load_protocol(shop_dataset).at_most(40)
    _, model = encoders.load_encoder(shop_models, "user_encoder", schema=protocol.schema)
    call = model.signatures["encode_user_examples"]
    moment = tf.constant([protocol.as_of], tf.int64)
    alone = [
        call(examples=tf.constant([record]), as_of=moment)["user_embedding"][0].numpy()
        for record in protocol.examples
    ]
    assert len(set(estimate_lengths(protocol.examples))) > 1
    found = encoders.encode_users(model, protocol.examples, as_of=protocol.as_of, progress=False)
    np.testing.assert_allclose(found, alone, atol=1e-5)
