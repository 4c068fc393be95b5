"""How much each interest attends to each event: what is reported is what the encoder does."""

import numpy as np
import pytest
import tensorflow as tf

from guim_tf.layers import InterestHeads, SelfAttention
from guim_tf.packing import pack
from guim_tf.user_encoder import UserEncoder

DAY = 86_400
VARIANTS = [
    {},
    {"causal": True},
    {"norm_first": True},
    {"mixture": "heads"},
    {"mixture": "heads", "norm_first": True, "causal": True},
]
LENGTHS = [4, 0, 6, 1]


def encoder(**changes) -> UserEncoder:
    sizes = {"dim": 8, "layers": 2, "heads": 2, "dropout": 0.1, "time_rows": 365}
    return UserEncoder(3, **(sizes | changes))


def encode(layer, lengths, *, groups=1, seed=0, **changes):
    """Users `[B, C, d]` and attention `[B, C, W]`, by random items an event a day."""
    events = {"items": tf.random.stateless_normal([sum(lengths), 8], [seed, 1])}
    days = [80 + i for length in lengths for i in range(length)]
    users, _, attention = layer(
        **(events | changes),
        lengths=tf.constant(lengths, tf.int32),
        timestamp=tf.constant(days, tf.int64) * DAY,
        as_of=tf.constant([100 * DAY] * len(lengths), tf.int64),
        groups=groups,
        return_attention=True,
    )
    return users.numpy(), attention.numpy()


def by_logits(layer: SelfAttention, tokens: np.ndarray) -> np.ndarray:
    """softmax(q k / sqrt(size)) of each head, of one user's tokens who all see all: `[h, S, S]`."""
    projected = tokens @ layer.project.kernel.numpy() + layer.project.bias.numpy()
    query, key, _ = projected.reshape(len(tokens), 3, layer.heads, -1).transpose(1, 2, 0, 3)
    logits = np.exp(query @ key.transpose(0, 2, 1) / query.shape[-1] ** 0.5)
    return logits / logits.sum(axis=-1, keepdims=True)


def test_the_layers_weights_are_the_softmax_that_mixes_the_values():
    layer = SelfAttention(2, dim=8, dropout=0.0)
    tokens = tf.random.stateless_normal([7, 8], [1, 2])  # one of padding
    packing = pack(tf.constant([4], tf.int32), cls_tokens=2, groups=1)
    visible = [tf.ones([1, 6, 6], tf.bool)]
    out = layer(tokens, packing=packing, visible=visible)
    layer.set_weights(
        [tf.random.stateless_normal(w.shape, [3, i]) for i, w in enumerate(layer.get_weights())]
    )
    out = layer(tokens, packing=packing, visible=visible)
    first = [seen[:, :2] for seen in visible]
    weights = layer.attention_weights(tokens, packing=packing, visible=first)[0][:, 0]
    expected = by_logits(layer, tokens[:6].numpy())
    np.testing.assert_allclose(weights, expected[:, :2], rtol=1e-4, atol=1e-6)
    value = (
        (tokens[:6] @ layer.project.kernel + layer.project.bias).numpy()[:, 16:].reshape(6, 2, 4)
    )
    mixed = np.einsum("hgs,she->ghe", weights, value).reshape(2, 8)
    np.testing.assert_allclose(
        out[:2], mixed @ layer.mix.kernel.numpy() + layer.mix.bias.numpy(), rtol=1e-3, atol=1e-4
    )


def test_the_heads_weights_are_the_softmax_that_mixes_the_values():
    layer = InterestHeads(3, dim=8, dropout=0.0)
    tokens = tf.random.stateless_normal([1, 5, 8], [1, 2])
    seen = tf.constant([[[True, True, False, True, True]]])
    layer(tokens, visible=seen)
    layer.set_weights(
        [tf.random.stateless_normal(w.shape, [3, i]) for i, w in enumerate(layer.get_weights())]
    )
    weights = layer.attention_weights(tokens, visible=seen)
    mixed = tf.einsum("bghs,bsd->bghd", weights, tokens)
    out = tf.einsum("bghd,hde->bghe", mixed, layer.value_kernel) + layer.value_bias
    np.testing.assert_allclose(out, layer(tokens, visible=seen), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(tf.reduce_sum(weights, axis=-1), np.ones([1, 1, 3]), rtol=1e-5)
    assert (weights.numpy()[..., 2] == 0).all()


@pytest.mark.parametrize("changes", VARIANTS)
def test_attention_to_events_leaves_some_to_the_cls_tokens_and_none_to_padding(changes):
    _, attention = encode(encoder(**changes), LENGTHS)
    assert attention.shape == (4, 3, 6)
    for user, length in enumerate(LENGTHS):
        assert (attention[user, :, :length] > 0).all()
        assert (attention[user, :, length:] == 0).all()
        assert (attention[user].sum(axis=-1) < 1).all()
    assert (attention[1] == 0).all()


@pytest.mark.parametrize("changes", VARIANTS)
def test_attention_is_the_same_alone_and_in_groups(changes):
    layer = encoder(**changes)
    users, attention = encode(layer, LENGTHS)
    grouped_users, grouped = encode(layer, LENGTHS, groups=3)
    np.testing.assert_allclose(grouped, attention, atol=1e-6)
    np.testing.assert_allclose(grouped_users, users, atol=1e-5)
    items = tf.random.stateless_normal([11, 8], [0, 1])
    for user, first, length in ((0, 0, 4), (2, 4, 6)):
        _, alone = encode(layer, [length], items=items[first : first + length])
        np.testing.assert_allclose(alone[0], attention[user, :, :length], atol=1e-6)


@pytest.mark.parametrize("changes", VARIANTS)
def test_asking_for_attention_changes_no_vector(changes):
    layer = encoder(**changes)
    users, _ = encode(layer, LENGTHS)
    plain = layer(
        tf.random.stateless_normal([11, 8], [0, 1]),
        lengths=tf.constant(LENGTHS, tf.int32),
        timestamp=tf.constant([80 + i for n in LENGTHS for i in range(n)], tf.int64) * DAY,
        as_of=tf.constant([100 * DAY] * 4, tf.int64),
    )
    assert len(plain) == 2
    np.testing.assert_array_equal(plain[0], users)


@pytest.mark.parametrize("mixture", ["tokens", "heads"])
def test_an_interest_that_is_made_to_look_for_an_item_attends_to_it(mixture):
    """Keys and queries doctored: interest 1 asks for the direction of the second event's item."""
    layer = encoder(layers=1, mixture=mixture, dropout=0.0, norm_first=True)
    items = np.zeros([3, 8], np.float32)
    items[[0, 1, 2], [2, 5, 7]] = 8.0
    encode(layer, [3], items=tf.constant(items))  # builds it
    cls = 8.0 * np.eye(8)[[0, 1, 3] if mixture == "tokens" else [1]]
    layer.cls_table.assign(cls)
    if mixture == "tokens":  # number 1 of an asking token seeks number 5 of another
        kernel = np.zeros([8, 3, 2, 4], np.float32)
        kernel[1, 0, :, 0] = kernel[5, 1, :, 0] = 3.0
        layer.blocks[-1].attention.project.kernel.assign(kernel.reshape(8, 24))
    else:
        heads = layer.interest_heads
        nothing, seek = np.zeros([2, 8, 8])
        seek[5, 1] = 9.0
        heads.query_kernel.assign([nothing, np.eye(8), nothing])
        heads.key_kernel.assign([nothing, seek, nothing])
    _, attention = encode(layer, [3], items=tf.constant(items))
    assert attention[0, 1].argmax() == 1
    assert attention[0, 1, 1] > 0.9
    assert (attention[0, [0, 2], 1] < 0.4).all(), "the others do not look for it"


@pytest.mark.parametrize("changes", VARIANTS)
def test_attention_moves_with_the_events(changes):
    """Two events of one moment change places: so does the attention to them."""
    layer = encoder(**(changes | {"causal": False}))
    items = tf.random.stateless_normal([3, 8], [0, 1])
    both = [
        layer(
            tf.gather(items, order),
            lengths=tf.constant([3]),
            timestamp=tf.constant([90, 95, 95], tf.int64) * DAY,
            as_of=tf.constant([100 * DAY], tf.int64),
            return_attention=True,
        )[2].numpy()
        for order in ([0, 1, 2], [0, 2, 1])
    ]
    np.testing.assert_allclose(both[1], both[0][:, :, [0, 2, 1]], atol=1e-6)
