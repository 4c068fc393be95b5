"""Users of any length as one list of tokens, and as rows of groups."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from guim_tf.packing import as_list, as_rows, pack

LENGTHS = [3, 0, 5, 1, 2]


def packing(groups):
    return pack(tf.constant(LENGTHS, tf.int32), cls_tokens=2, groups=groups)


@pytest.mark.parametrize("groups", [1, 2, 3, 8])
def test_every_token_is_in_one_row_of_its_own_user(groups):
    packed = packing(groups)
    # Tokens 0 to 9 are CLS tokens, two a user; then events, user by user.
    owner = np.concatenate([np.repeat(np.arange(5), 2), np.repeat(np.arange(5), LENGTHS)])
    found = []
    for group in packed.groups:
        size = np.array(LENGTHS)[group.users.numpy()]
        np.testing.assert_array_equal(group.present.numpy().sum(axis=1), size)
        for user, tokens, length in zip(
            group.users.numpy(), group.tokens.numpy(), size, strict=True
        ):
            real = tokens[: 2 + length]
            assert (owner[real] == user).all()
            assert (np.diff(real[2:]) == 1).all(), "events stay in order"
            found += real.tolist()
    assert sorted(found) == list(range(10 + sum(LENGTHS)))


def test_groups_are_of_like_length_and_as_wide_as_their_longest():
    widths = [group.present.shape[1] for group in packing(5).groups]
    assert widths == sorted(LENGTHS)


def test_a_place_of_an_event_is_its_place_among_all_events():
    for group in packing(2).groups:
        events = group.events.numpy()[group.present.numpy()]
        tokens = group.tokens.numpy()[:, 2:][group.present.numpy()]
        np.testing.assert_array_equal(events + 10, tokens)


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("groups", [1, 3])
def test_rows_come_back_as_the_list(groups, heads):
    packed = packing(groups)
    tokens = tf.random.stateless_normal([int(packed.size), 4], [1, 2])
    rows = [row for [row] in as_rows(packed, tokens, heads=heads)]
    np.testing.assert_array_equal(as_list(packed, rows)[:-1], tokens[:-1])


@pytest.mark.parametrize("heads", [1, 2])
def test_padding_behind_the_list_is_zero_and_gets_no_gradient(heads):
    lengths = tf.constant([140, 131], tf.int32)
    packed = pack(lengths, cls_tokens=2, groups=2)
    assert (int(packed.real), int(packed.size)) == (275, 280)
    tokens = tf.random.stateless_normal([280, 4], [1, 2])
    with tf.GradientTape() as tape:
        tape.watch(tokens)
        back = as_list(packed, [row for [row] in as_rows(packed, tokens, heads=heads)])
        total = tf.reduce_sum(back**2)
    np.testing.assert_array_equal(back[:275], tokens[:275])
    assert not back[275:].numpy().any()
    gradient = tape.gradient(total, tokens)
    np.testing.assert_allclose(gradient[:275], 2 * tokens[:275], rtol=1e-5)
    assert not gradient[275:].numpy().any()


def test_there_is_padding_to_point_at_whatever_the_number_of_tokens():
    for length in range(60, 70):
        packed = pack(tf.constant([length, 3], tf.int32), cls_tokens=1, groups=1)
        assert int(packed.real) == length + 5
        assert int(packed.size) > length + 5
        tokens = packed.groups[0].tokens.numpy()
        assert (tokens[0, 4:] == int(packed.size) - 1).all()


def test_a_token_is_cut_into_parts_and_these_into_heads():
    packed = packing(2)
    tokens = tf.random.stateless_normal([int(packed.size), 12], [1, 2])
    for group, rows in zip(packed.groups, as_rows(packed, tokens, parts=3, heads=2), strict=True):
        for part, head in itertools.product(range(3), range(2)):
            numbers = tokens[:, 4 * part + 2 * head :][:, :2]
            np.testing.assert_array_equal(rows[part][head], tf.gather(numbers, group.tokens))


def test_parts_that_are_not_used_alike_have_gradients_of_their_own():
    packed = packing(2)
    tokens = tf.random.stateless_normal([int(packed.size), 6], [1, 2])
    with tf.GradientTape() as tape:
        tape.watch(tokens)
        rows = as_rows(packed, tokens, parts=3)
        total = tf.reduce_sum(as_list(packed, [2 * a + 5 * c for a, _, c in rows]))
    gradient = tape.gradient(total, tokens).numpy()[: int(packed.real)]
    assert (gradient == [2, 2, 0, 0, 5, 5]).all()


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("groups", [1, 3])
def test_gradients_are_those_of_plain_gathering_and_padding_gets_none(groups, heads):
    packed = packing(groups)
    tokens = tf.random.stateless_normal([int(packed.size), 4], [1, 2])
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(tokens)
        rows = [row for [row] in as_rows(packed, tokens, heads=heads)]
        back = as_list(packed, [x**2 for x in rows])
        total = tf.reduce_sum(back**3)
    # The sum of sixth powers: each token has its own part alone.
    np.testing.assert_allclose(tape.gradient(total, tokens)[:-1], 6 * tokens[:-1] ** 5, rtol=1e-4)
    for group, gradient in zip(packed.groups, tape.gradient(total, rows), strict=True):
        padded = np.pad(~group.present.numpy(), [[0, 0], [2, 0]])
        assert not gradient.numpy()[:, padded].any()
