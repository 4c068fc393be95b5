"""Item and user encoders: what goes in, what it does, and the sizes of Table 3."""

import numpy as np
import pytest
import tensorflow as tf

from guim_tf import schema as names
from guim_tf.config import ModelConfig
from guim_tf.item_encoder import ItemEncoder
from guim_tf.keras_compat import keras
from guim_tf.layers import (
    InterestHeads,
    LayerNorm,
    Linear,
    SelfAttention,
    Table,
    TimeEmbedding,
    TransformerBlock,
    table,
)
from guim_tf.layers.activation import gelu
from guim_tf.layers.dropout import dropout
from guim_tf.masking import choose_masked
from guim_tf.model import GUIM, TableRows
from guim_tf.packing import pack
from guim_tf.user_encoder import UserEncoder

DAY = 86_400


def item_encoder(**changes) -> ItemEncoder:
    sizes = {
        "item_rows": 10,
        "category_rows": 6,
        "word_rows": 8,
        "item_id_dim": 4,
        "category_dim": 3,
        "word_dim": 2,
        "activation": "gelu",
    }
    return ItemEncoder(5, **(sizes | changes))


def one_item(index, category, tokens):
    return {
        names.ITEM_INDEX: tf.constant([index], tf.int64),
        names.CATEGORY_INDEX: tf.constant([category], tf.int64),
        names.TITLE_TOKENS: tf.constant([tokens], tf.int64),
    }


def user_encoder(**changes) -> UserEncoder:
    sizes = {"dim": 8, "layers": 2, "heads": 2, "dropout": 0.1, "time_rows": 365}
    return UserEncoder(3, **(sizes | changes))


def test_an_item_is_the_projection_of_category_id_and_mean_word():
    encoder = item_encoder(activation="linear")
    vector = encoder(one_item(3, 2, [1, 4, 0]))
    words = encoder.word_table.embeddings.numpy()
    features = np.concatenate(
        [
            encoder.category_table.embeddings[2],
            encoder.item_table.embeddings[3],
            (words[1] + words[4]) / 2,  # row 0 is padding and no word
        ]
    )
    np.testing.assert_allclose(vector[0], features @ encoder.projection.kernel.numpy(), atol=1e-6)


def test_the_projection_ends_in_gelu_and_has_no_bias():
    gelu, linear = item_encoder(), item_encoder(activation="linear")
    inputs = one_item(3, 2, [1])
    gelu(inputs), linear(inputs)
    linear.set_weights([100 * w for w in gelu.get_weights()])
    gelu.set_weights(linear.get_weights())
    x = linear(inputs).numpy()
    # GELU(x) = x * Phi(x), Phi the normal distribution function
    phi = 0.5 * (1 + np.vectorize(__import__("math").erf)(x / 2**0.5))
    np.testing.assert_allclose(gelu(inputs), x * phi, rtol=1e-4, atol=1e-5)
    assert not gelu.projection.use_bias


def test_an_item_without_words_has_a_vector():
    assert np.isfinite(item_encoder()(one_item(1, 1, [0, 0]))).all()
    no_columns = one_item(1, 1, [0]) | {names.TITLE_TOKENS: tf.zeros([1, 0], tf.int64)}
    assert np.isfinite(item_encoder()(no_columns)).all()


def test_an_unknown_item_differs_by_its_category_and_title():
    encoder = item_encoder()
    a = encoder(one_item(names.UNKNOWN_ROW, 2, [1]))
    assert np.abs(a - encoder(one_item(names.UNKNOWN_ROW, 3, [1]))).max() > 1e-6
    assert np.abs(a - encoder(one_item(names.UNKNOWN_ROW, 2, [5]))).max() > 1e-6


def test_time_is_the_age_in_days_before_the_cut():
    layer = TimeEmbedding(365, dim=4)
    as_of = tf.constant([1000 * DAY], tf.int64)
    times = tf.constant([[1000 * DAY - 1, 999 * DAY, 999 * DAY - 1, 100 * DAY, 0]], tf.int64)
    vectors = layer(times, as_of)[0].numpy()
    table = layer.table.embeddings.numpy()
    assert table.shape == (366, 4)
    # the last second and the first one of the day before T; the day before it; older than a year
    np.testing.assert_array_equal(vectors, table[[0, 0, 1, 364, 364]])
    np.testing.assert_array_equal(layer.start()[0], table[365])


def test_time_may_be_the_age_in_hours():
    layer = TimeEmbedding(48, dim=4, unit=3600)
    as_of = tf.constant([1000 * DAY], tf.int64)
    before = np.array([[1, 3600, 3601, 47 * 3600, 48 * 3600, 48 * 3600 + 1, 30 * DAY]])
    vectors = layer(1000 * DAY - tf.constant(before, tf.int64), as_of)[0].numpy()
    table = layer.table.embeddings.numpy()
    # the last second and the first one of the hour before T; the hour before it; and so on to the
    # last row, which whatever is older shares; t0's is none of them
    np.testing.assert_array_equal(vectors, table[[0, 0, 1, 46, 47, 47, 47]])
    np.testing.assert_array_equal(layer.start()[0], table[48])


def test_time_moves_with_the_cut():
    layer = TimeEmbedding(30, dim=4)
    a = layer(tf.constant([[5 * DAY]], tf.int64), tf.constant([8 * DAY], tf.int64))
    b = layer(tf.constant([[15 * DAY]], tf.int64), tf.constant([18 * DAY], tf.int64))
    np.testing.assert_array_equal(a, b)


def encode(encoder, vectors, *, present, days, masked=None, action=None, groups=1, seed=None):
    """Users as rows `[B, N]`, of which only what is present goes in; outputs come back as rows."""
    present = np.array(present)

    def flat(rows, dtype):
        return None if rows is None else tf.constant(np.array(rows)[present], dtype)

    users, outputs = encoder(
        flat(vectors, tf.float32),
        lengths=tf.constant(present.sum(axis=1), tf.int32),
        timestamp=flat(np.array(days) * DAY, tf.int64),
        as_of=tf.constant([100 * DAY] * len(days), tf.int64),
        masked=flat(masked, tf.bool),
        action=flat(action, tf.int64),
        groups=groups,
        seed=seed,
    )
    rows = np.zeros([*present.shape, encoder.dim], np.float32)
    rows[present] = outputs
    return users, rows


def two_tokens() -> dict:
    """A user with a CLS token and an event, and one token of padding."""
    packing = pack(tf.constant([1], tf.int32), cls_tokens=1, groups=1)
    return {"packing": packing, "visible": [tf.ones([1, 2, 2], tf.bool)]}


def test_attention_is_that_of_the_library():
    """Two users of 1 + 2 and 1 + 3 tokens, against Keras' layer on one user at a time."""
    dim, heads = 8, 2
    layer = SelfAttention(heads, dim=dim, dropout=0.0)
    tokens = tf.random.stateless_normal([8, dim], [1, 2])  # one of padding
    packing = pack(tf.constant([2, 3], tf.int32), cls_tokens=1, groups=1)
    visible = tf.constant(np.random.default_rng(0).random([2, 4, 4]) < 0.7) | tf.eye(
        4, dtype=tf.bool
    )
    visible &= tf.constant([[[True, True, True, False]], [[True] * 4]])
    layer(tokens, packing=packing, visible=[visible])
    layer.set_weights(
        [tf.random.stateless_normal(w.shape, [3, i]) for i, w in enumerate(layer.get_weights())]
    )
    got = layer(tokens, packing=packing, visible=[visible]).numpy()
    plain = keras.layers.MultiHeadAttention(heads, dim // heads)
    plain(tokens[None], tokens[None])
    kernel = tf.reshape(layer.project.kernel, [dim, 3, heads, dim // heads])
    bias = tf.reshape(layer.project.bias, [3, heads, dim // heads])
    plain.set_weights(
        [
            *(x for part in range(3) for x in (kernel[:, part], bias[part])),
            tf.reshape(layer.mix.kernel, [heads, dim // heads, dim]),
            layer.mix.bias,
        ]
    )
    for user, rows in enumerate(([0, 2, 3], [1, 4, 5, 6])):  # CLS tokens stand first
        one = tf.gather(tokens, rows)[None]
        seen = visible[user : user + 1, : len(rows), : len(rows)]
        expected = plain(one, one, attention_mask=seen)[0]
        np.testing.assert_allclose(got[rows], expected, rtol=1e-4, atol=1e-4)


def test_gelu_and_its_gradient_are_the_librarys():
    x = tf.constant(np.linspace(-6, 6, 101), tf.float32)
    found = []
    for function in (gelu, tf.nn.gelu):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x)
        found.append((y, tape.gradient(y, x)))
    for mine, expected in zip(*found, strict=True):
        np.testing.assert_allclose(mine, expected, atol=1e-6)


def test_the_layer_norm_and_its_gradients_are_the_librarys():
    rng = np.random.default_rng(0)
    x = tf.constant(rng.normal(3.0, 2.0, [5, 8]), tf.float32)
    weight = tf.constant(rng.normal(size=[5, 8]), tf.float32)
    found = []
    for layer in (LayerNorm(), keras.layers.LayerNormalization(epsilon=1e-12)):
        layer.build([None, 8])
        layer.set_weights([np.linspace(0.5, 2, 8), np.linspace(-1, 1, 8)])
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.reduce_sum(layer(x) * weight)
        found.append([y, *tape.gradient(y, [x, layer.gamma, layer.beta])])
    for mine, expected in zip(*found, strict=True):
        np.testing.assert_allclose(mine, expected, rtol=1e-4, atol=1e-5)


def test_a_table_is_drawn_in_parts_that_differ(monkeypatch):
    monkeypatch.setattr(table, "_AT_ONCE", 4000)  # 1,000 rows at a time
    layer = Table(2500, 4)
    rows = layer(tf.range(2500)).numpy()
    assert abs(rows.mean()) < 0.001
    # of a normal distribution cut off at two deviations .88 of the deviation are left
    np.testing.assert_allclose(rows.std(), 0.88 * 0.02, rtol=0.03)
    assert np.abs(rows).max() <= 0.04
    assert len(np.unique(rows, axis=0)) == 2500, "no part repeats another"


def test_dropout_keeps_the_mean_and_repeats_with_its_seed():
    x = tf.ones([300, 401])  # no multiple of four
    seed = tf.constant([5, 6], tf.int64)
    dropped = dropout(x, 0.25, seed, 0).numpy()
    assert set(np.unique(dropped)) == {np.float32(0), np.float32(1 / 0.75)}
    np.testing.assert_allclose((dropped == 0).mean(), 0.25, atol=0.005)
    np.testing.assert_allclose((dropped == 0).mean(axis=0), 0.25, atol=0.15)
    np.testing.assert_array_equal(dropout(x, 0.25, seed, 0), dropped)
    for other in (dropout(x, 0.25, seed, 1), dropout(x, 0.25, seed + 1, 0)):
        assert (other.numpy() != dropped).mean() > 0.3, "independent draws differ in 3 of 8"
    np.testing.assert_array_equal(dropout(x, 0.25, None, 0), x)


def test_dropout_is_on_with_a_seed_alone():
    options = {"present": [[True] * 3], "days": [[1, 2, 3]]}
    vectors = np.random.default_rng(0).normal(size=[1, 3, 8])
    encoder = user_encoder(dropout=0.5)
    a, b, c = (
        encode(encoder, vectors, seed=seed and tf.constant(seed, tf.int64), **options)[0]
        for seed in ((1, 2), (1, 2), (1, 3))
    )
    np.testing.assert_array_equal(a, b)
    assert np.abs(a - c).max() > 1e-5
    still = [encode(encoder, vectors, **options)[0] for _ in range(2)]
    np.testing.assert_array_equal(*still)


def test_a_user_is_c_vectors_and_every_position_has_an_output():
    users, outputs = encode(
        user_encoder(), np.ones([2, 4, 8]), present=[[True] * 4] * 2, days=[[1, 2, 3, 4]] * 2
    )
    assert users.shape == [2, 3, 8]
    assert outputs.shape == (2, 4, 8)
    assert np.abs(users[:, 0] - users[:, 1]).max() > 1e-4, "each CLS token is its own"


@pytest.mark.parametrize("options", [{}, {"mixture": "heads", "norm_first": True}])
@pytest.mark.parametrize("groups", [1, 2, 3, 7])
def test_users_are_encoded_alike_alone_together_and_in_groups(groups, options):
    """Lengths 3, 0, 5, 1, 5: groups have padding, one may have no user at all."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=[5, 5, 8])
    days = np.sort(rng.integers(0, 90, [5, 5]))
    present = np.arange(5) < np.array([3, 0, 5, 1, 5])[:, None]
    encoder = user_encoder(**options)
    users, outputs = encode(encoder, vectors, present=present, days=days, groups=groups)
    for row in range(5):
        here = slice(row, row + 1)
        alone, alone_outputs = encode(
            encoder, vectors[here], present=present[here], days=days[here]
        )
        np.testing.assert_allclose(users[here], alone, atol=1e-6)
        np.testing.assert_allclose(outputs[here], alone_outputs, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"mixture": "heads"}])
def test_gradients_are_alike_in_groups_and_at_once(options):
    rng = np.random.default_rng(1)
    vectors = tf.Variable(rng.normal(size=[9, 8]), dtype=tf.float32)
    encoder = user_encoder(**options)
    weight = tf.constant(rng.normal(size=[4, 3, 8]), tf.float32)
    found = []
    for groups in (1, 3):
        with tf.GradientTape() as tape:
            users, outputs = encoder(
                vectors,
                lengths=tf.constant([2, 4, 0, 3], tf.int32),
                timestamp=tf.range(9, dtype=tf.int64) * DAY,
                as_of=tf.fill([4], tf.constant(100 * DAY, tf.int64)),
                groups=groups,
            )
            total = tf.reduce_sum(users * weight) + tf.reduce_sum(outputs**3)
        found.append(tape.gradient(total, [vectors, *encoder.blocks[0].trainable_variables]))
    for one, many in zip(*found, strict=True):
        np.testing.assert_allclose(one, many, rtol=1e-4, atol=1e-5)


def test_events_of_one_day_have_no_order():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=[1, 3, 8])
    encoder = user_encoder()
    encode(encoder, vectors, present=[[True] * 3], days=[[5, 5, 9]])
    encoder.set_weights([30 * w for w in encoder.get_weights()])  # away from the small start
    a, _ = encode(encoder, vectors, present=[[True] * 3], days=[[5, 5, 9]])
    b, _ = encode(encoder, vectors[:, [1, 0, 2]], present=[[True] * 3], days=[[5, 5, 9]])
    c, _ = encode(encoder, vectors[:, [2, 0, 1]], present=[[True] * 3], days=[[5, 5, 9]])
    np.testing.assert_allclose(a, b, rtol=1e-3)
    assert np.abs(a - c).max() > 1e-4, "but the time of an event matters"


def test_a_causal_event_knows_no_later_one_and_the_user_knows_all():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=[1, 3, 8])
    later = vectors.copy()
    later[:, 2] = rng.normal(size=8)
    options = {"present": [[True] * 3], "days": [[1, 2, 3]]}
    encoder = user_encoder(causal=True)
    (users, outputs), (other_users, other_outputs) = (
        encode(encoder, x, **options) for x in (vectors, later)
    )
    np.testing.assert_allclose(outputs[:, :2], other_outputs[:, :2], atol=1e-7)
    assert np.abs(outputs[:, 2] - other_outputs[:, 2]).max() > 1e-4
    assert np.abs(users - other_users).max() > 1e-5
    free = user_encoder()
    a, b = (encode(free, x, **options)[1] for x in (vectors, later))
    assert np.abs(a[:, 0] - b[:, 0]).max() > 1e-5, "as in BERT, unless asked otherwise"


def test_a_masked_item_is_hidden_and_its_time_is_not():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=[2, 1, 2, 8])
    other[:, 0] = one[:, 0]
    encoder = user_encoder()
    options = {"present": [[True, True]], "masked": [[False, True]]}
    a = encode(encoder, one, days=[[1, 2]], **options)
    b = encode(encoder, other, days=[[1, 2]], **options)
    c = encode(encoder, one, days=[[1, 50]], **options)
    np.testing.assert_array_equal(a[0], b[0])
    np.testing.assert_array_equal(a[1], b[1])
    assert np.abs(a[1] - c[1]).max() > 1e-4


def test_the_type_of_an_action_is_added_to_its_event():
    vectors = np.random.default_rng(0).normal(size=[1, 2, 8])
    encoder = user_encoder(action_rows=4)
    options = {"present": [[True, True]], "days": [[1, 2]]}
    actions = [[2, 3]]
    typed, outputs = encode(encoder, vectors, action=actions, **options)
    assert encoder.action_table.embeddings.shape == [4, 8]
    added = vectors + encoder.action_table.embeddings.numpy()[[2, 3]]
    encoder.action_table.embeddings.assign(tf.zeros([4, 8]))
    same, same_outputs = encode(encoder, added, action=actions, **options)
    np.testing.assert_allclose(typed, same, atol=1e-6)
    np.testing.assert_allclose(outputs, same_outputs, atol=1e-6)


def test_a_masked_event_keeps_the_type_of_its_action():
    encoder = user_encoder(action_rows=4)
    options = {"present": [[True, True]], "days": [[1, 2]], "masked": [[False, True]]}
    a, b = (encode(encoder, np.ones([1, 2, 8]), action=[[2, row]], **options)[1] for row in (2, 3))
    assert np.abs(a - b).max() > 1e-4


def test_interest_heads_are_the_heads_of_plain_attention_at_the_first_token():
    """Keras' own attention, d wide in each head, whose output matrix leaves the heads apart."""
    heads, dim = 3, 8
    plain = keras.layers.MultiHeadAttention(heads, dim, output_shape=heads * dim)
    tokens = tf.random.stateless_normal([2, 5, dim], [1, 2])
    present = tf.constant([[True] * 5, [True, True, True, False, False]])
    plain(tokens, tokens)
    query, query_bias, key, key_bias, value, value_bias = (
        tf.random.stateless_normal(weight.shape, [3, i])
        for i, weight in enumerate(plain.get_weights()[:6])
    )
    apart = np.eye(heads * dim).reshape([heads, dim, heads * dim])
    plain.set_weights(
        [query, query_bias, key, key_bias, value, value_bias, apart, np.zeros(heads * dim)]
    )
    expected = plain(tokens, tokens, attention_mask=present[:, None, :])[:, 0]

    layer = InterestHeads(heads, dim=dim, dropout=0.0)
    layer(tokens, visible=present[:, None, :])
    for variable, weight in (
        (layer.query_kernel, tf.transpose(query, [1, 0, 2])),
        (layer.key_kernel, tf.transpose(key, [1, 0, 2])),
        (layer.value_kernel, tf.transpose(value, [1, 0, 2])),
        (layer.query_bias, query_bias),
        (layer.value_bias, value_bias),
    ):
        variable.assign(weight)
    got = layer(tokens, visible=present[:, None, :])
    assert got.shape == [2, 1, heads, dim]
    np.testing.assert_allclose(got, tf.reshape(expected, got.shape), atol=1e-5)


def test_guim_mh_has_one_cls_token_and_a_vector_a_head():
    encoder = user_encoder(mixture="heads")
    users, outputs = encode(
        encoder, np.ones([2, 4, 8]), present=[[True] * 4] * 2, days=[[1] * 4] * 2
    )
    assert users.shape == [2, 3, 8]
    assert outputs.shape == (2, 4, 8)
    assert encoder.cls_table.shape == [1, 8]
    assert np.abs(users[:, 0] - users[:, 1]).max() > 1e-4, "each head is its own"


def test_masking_picks_its_share_of_what_is_present():
    present = tf.concat([tf.ones([1000, 100], tf.bool), tf.zeros([1000, 20], tf.bool)], axis=1)
    masked = choose_masked(present, 0.15, tf.constant([1, 2]))
    assert not masked.numpy()[:, 100:].any()
    assert abs(masked.numpy()[:, :100].mean() - 0.15) < 0.005
    again = choose_masked(present, 0.15, tf.constant([1, 2]))
    np.testing.assert_array_equal(masked, again)
    assert (masked.numpy() != choose_masked(present, 0.15, tf.constant([1, 3])).numpy()).any()


def counted(layer) -> int:
    """Parameters as Table 3 counts them: kernels and tables, no biases and no layer norms."""
    left_out = ("bias", "gamma", "beta", "mask_vector")
    return sum(
        int(tf.size(v)) for v in layer.trainable_variables if not any(x in v.name for x in left_out)
    )


# Table 3: projection in f_j, table in f_t, table in f_cls, transformer, f_u, f_o, summation.
TABLE_3 = {
    "GUIM": {
        1: (36_864, 46_848, 128, 589_824, 16_384, 16_384, 706_432),
        2: (36_864, 46_848, 256, 589_824, 16_384, 16_384, 706_560),
        3: (36_864, 46_848, 384, 589_824, 16_384, 16_384, 706_688),
        4: (36_864, 46_848, 512, 589_824, 16_384, 16_384, 706_816),
    },
    "GUI-EDI": {
        1: (36_864, 46_848, 128, 589_824, 16_384, 16_384, 706_432),
        2: (73_728, 93_696, 256, 2_359_296, 65_536, 65_536, 2_658_048),
        3: (110_592, 140_544, 384, 5_308_416, 147_456, 147_456, 5_854_848),
        4: (147_456, 187_392, 512, 9_437_184, 262_144, 262_144, 10_296_832),
    },
}


def family(name: str, vectors: int) -> ModelConfig:
    """The settings that the README gives."""
    if name == "GUIM":
        return ModelConfig(interests=vectors)
    return ModelConfig(interests=1, embedding_dim=128 * vectors, heads=2 * vectors)


@pytest.mark.parametrize("vectors", [1, 2, 3, 4])
@pytest.mark.parametrize("name", ["GUIM", "GUI-EDI"])
def test_sizes_are_those_of_table_3(name, vectors):
    model = GUIM(TableRows(items=32, categories=7, words=25), model=family(name, vectors))
    items, users = model.item_encoder, model.user_encoder
    sizes = (
        counted(items.projection),
        counted(users.time_embedding),
        int(tf.size(users.cls_table)),
        sum(map(counted, users.blocks)),
        counted(users.user_projection),
        counted(users.item_projection),
    )
    assert (*sizes, sum(sizes)) == TABLE_3[name][vectors]
    assert counted(users) + counted(items.projection) == sum(sizes), "there is nothing else"
    # footnote 7: the tables of items do not grow with C
    assert (items.item_table.output_dim, items.category_table.output_dim) == (128, 128)
    assert items.word_table.output_dim == 32


def test_tables_at_full_vocabulary_are_those_of_the_paper():
    encoder = item_encoder(
        item_rows=200_000,
        category_rows=10_000,
        word_rows=530_000,
        item_id_dim=128,
        category_dim=128,
        word_dim=32,
    )
    encoder(one_item(3, 2, [1]))
    assert counted(encoder.item_table) == 25_600_000
    assert counted(encoder.category_table) == 1_280_000
    assert counted(encoder.word_table) == 16_960_000


@pytest.mark.parametrize("vectors", [1, 2, 3, 4])
def test_heads_have_64_dimensions_in_gui_edi_too(vectors):
    model = GUIM(TableRows(items=32, categories=7, words=25), model=family("GUI-EDI", vectors))
    attention = model.user_encoder.blocks[0].attention
    assert attention.dim // attention.heads == 64


def test_guim_mh_adds_three_square_matrices_a_head_to_the_sizes_of_one_interest():
    rows = TableRows(items=32, categories=7, words=25)
    one, heads = (
        GUIM(rows, model=ModelConfig(interests=interests, mixture=mixture))
        for interests, mixture in ((1, "tokens"), (4, "heads"))
    )
    assert counted(heads.user_encoder.interest_heads) == 4 * 3 * 128 * 128
    assert counted(heads.user_encoder) == counted(one.user_encoder) + 4 * 3 * 128 * 128


@pytest.mark.parametrize("name", ["bert", "glorot"])
def test_the_kernels_of_the_layers_begin_as_configured(name):
    keras.utils.set_random_seed(0)
    config = ModelConfig(interests=2, embedding_dim=64, layers=2, initializer=name)
    model = GUIM(TableRows(items=4, categories=4, words=4), model=config)
    kernels = [
        (layer.kernel.shape, np.std(layer.kernel))
        for block in model.user_encoder.blocks
        for layer in (
            block.attention.project,
            block.attention.mix,
            block.expand,
            block.contract,
        )
    ]
    assert len(kernels) == 8
    for (size, units), deviation in kernels:
        glorot = np.sqrt(2 / (size + units))  # Glorot and Bengio, 2010
        # Keras cuts a normal at two deviations, which leaves .88 of one.
        expected = {"bert": 0.88 * 0.02, "glorot": glorot}[name]
        assert deviation == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize(
    ("layer", "call"),
    [
        (
            TimeEmbedding(7, dim=4, unit=3600),
            lambda layer: layer(tf.constant([[5]], tf.int64), tf.constant([9], tf.int64)),
        ),
        (Table(5, 4), lambda layer: layer(tf.constant([3]))),
        (Linear(3), lambda layer: layer(tf.ones([2, 4]))),
        (LayerNorm(), lambda layer: layer(tf.constant([[1.0, 2.0]]))),
        (
            SelfAttention(2, dim=8, dropout=0.0),
            lambda layer: layer(tf.ones([3, 8]), **two_tokens()),
        ),
        (
            TransformerBlock(8, heads=2, dropout=0.0),
            lambda layer: layer(tf.ones([3, 8]), **two_tokens()),
        ),
        (
            InterestHeads(2, dim=4, dropout=0.0),
            lambda layer: layer(tf.ones([1, 3, 4]), visible=tf.constant([[[True, True, False]]])),
        ),
        (item_encoder(), lambda layer: layer(one_item(3, 2, [1]))),
        (
            user_encoder(),
            lambda layer: encode(layer, np.ones([1, 2, 8]), present=[[True] * 2], days=[[1, 2]])[0],
        ),
        (
            user_encoder(mixture="heads", time_unit=3600),
            lambda layer: encode(layer, np.ones([1, 2, 8]), present=[[True] * 2], days=[[1, 2]])[0],
        ),
    ],
    ids=[
        "time",
        "table",
        "linear",
        "norm",
        "attention",
        "transformer",
        "heads",
        "item",
        "user",
        "user-mh",
    ],
)
def test_a_layer_comes_back_from_its_configuration(layer, call):
    expected = call(layer)
    again = keras.layers.deserialize(keras.layers.serialize(layer))
    call(again)
    again.set_weights(layer.get_weights())
    np.testing.assert_allclose(call(again), expected, atol=1e-6)
