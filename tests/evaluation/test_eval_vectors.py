"""Vectors from SavedModels, rankings by them and how interests divide the work."""

import types

import numpy as np
import pytest
import tensorflow as tf

from guim_tf import encoders
from guim_tf.encoders import ModelError
from guim_tf.evaluation import search
from guim_tf.evaluation import vectors as room
from guim_tf.evaluation.interests import describe_interests
from guim_tf.evaluation.ragged import ragged
from guim_tf.evaluation.vectors import Vectors, encode, rank_vectors
from guim_tf.schema import SchemaError

A, B, D, C, E = range(5)


@pytest.fixture(scope="module")
def vectors(shop_models, shop_protocol):
    return encode(shop_models, shop_protocol, progress=False)


def test_encode_sees_nothing_at_or_after_as_of(vectors):
    np.testing.assert_array_equal(vectors.item_embedding, np.eye(5))
    means = vectors.user_embedding[:, 0]  # the second interest is always E
    expected = [[2 / 3, 1 / 3, 0, 0, 0], [0, 0, 0, 1, 0], [0, 0, 1, 0, 0]]
    np.testing.assert_allclose(means, expected, rtol=1e-6)
    np.testing.assert_array_equal(vectors.user_embedding[:, 1], [[0, 0, 0, 0, 1]] * 3)
    assert vectors.interests == 2


def test_rank_vectors(vectors):
    rows, interests = rank_vectors(vectors, k=6)
    # Anna: E has cosine 1 by interest 1, A 2/sqrt(5) and B 1/sqrt(5) by 0, the others 0 by both.
    # Ben and Finn: their item and E have cosine 1. Equal cosines: the lower row, then the lower
    # interest. There are five items: the sixth place is empty.
    assert rows.tolist() == [[E, A, B, D, C, -1], [C, E, A, B, D, -1], [D, E, A, B, C, -1]]
    assert interests.tolist() == [[1, 0, 0, 0, 0, -1], [0, 1, 0, 0, 0, -1], [0, 1, 0, 0, 0, -1]]


def test_rank_vectors_in_chunks_is_numpy(monkeypatch):
    rng = np.random.default_rng(0)
    users, items = rng.normal(size=(9, 3, 4)), rng.normal(size=(30, 4))
    vectors = Vectors(users.astype(np.float32), items.astype(np.float32), ())
    cosines = np.einsum(
        "ucd,xd->ucx",
        users / np.linalg.norm(users, axis=2, keepdims=True),
        items / np.linalg.norm(items, axis=1, keepdims=True),
    )
    expected = np.argsort(-cosines.max(axis=1), axis=1)[:, :10]
    monkeypatch.setattr(search, "_ITEMS_AT_ONCE", 7)
    monkeypatch.setattr(search, "_BLOCK_ROWS", 12)
    rows, interests = rank_vectors(vectors, k=10)
    np.testing.assert_array_equal(rows, expected)
    winners = np.take_along_axis(cosines.argmax(axis=1), expected, axis=1)
    np.testing.assert_array_equal(interests, winners)


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_rank_vectors_by_the_softmax_mixture(weight, monkeypatch):
    """Eq. 2 orders what Eq. 3 has found, here all; habits and a prior are added as before."""
    rng = np.random.default_rng(0)
    users = rng.normal(size=(9, 3, 4)).astype(np.float32)
    items = rng.normal(size=(30, 4)).astype(np.float32)
    prior = rng.uniform(0, 0.3, 30).astype(np.float32)
    history = ragged([rng.integers(30, size=5) for _ in range(9)])
    times = np.zeros([9, 30])
    np.add.at(times, (history.owners, history.values), 1)
    cosines = np.einsum(
        "ucd,xd->ucx",
        users / np.linalg.norm(users, axis=2, keepdims=True),
        items / np.linalg.norm(items, axis=1, keepdims=True),
    )
    weights = np.exp(8 * cosines)
    mixture = (weights * cosines).sum(axis=1) / weights.sum(axis=1)
    monkeypatch.setattr(room, "_USERS_AT_ONCE", 4)

    vectors = Vectors(users, items, (), sharpness=8.0)
    rows, interests = rank_vectors(vectors, k=10)
    expected = np.argsort(-mixture, axis=1)[:, :10]
    np.testing.assert_array_equal(rows, expected)
    assert (rows != np.argsort(-cosines.max(axis=1), axis=1)[:, :10]).any()
    winners = np.take_along_axis(cosines.argmax(axis=1), expected, axis=1)
    np.testing.assert_array_equal(interests, winners)

    lists = Vectors(users, items, (), sharpness=8.0, repeat_weight=weight, item_prior=prior)
    rows, _ = rank_vectors(lists, k=10, history=history)
    whole = mixture + weight * np.log1p(times) + prior
    np.testing.assert_array_equal(rows, np.argsort(-whole, axis=1)[:, :10])
    assert lists.alone.sharpness == 8.0  # it is how vectors are compared


def test_highest_version_wins(shop_models, shop_protocol, tmp_path):
    folder = tmp_path / "item_encoder"
    for version in ("9", "10", "x"):
        (folder / version).mkdir(parents=True)
        (folder / version / "here").write_text(version)
    (folder / "10" / "assets.extra").mkdir()
    with pytest.raises(SchemaError, match=r"item_encoder/10/assets.extra"):
        room.load_encoder(tmp_path, "item_encoder", schema=shop_protocol.schema)


def test_no_model(shop_protocol, tmp_path):
    with pytest.raises(ValueError, match=r"no version of 'item_encoder'.*guim export"):
        encode(tmp_path, shop_protocol)


def test_a_folder_that_is_no_saved_model(shop_protocol, tmp_path):
    extra = tmp_path / "item_encoder" / "1" / "assets.extra"
    extra.mkdir(parents=True)
    shop_protocol.schema.save(extra)
    with pytest.raises(ModelError, match=r"item_encoder/1 can't be loaded as a SavedModel"):
        encode(tmp_path, shop_protocol)


def double(name, outputs):
    """A stand-in for a loaded SavedModel with one signature."""
    return types.SimpleNamespace(signatures={name: outputs})


def test_items_go_in_by_name_and_in_batches(shop_protocol, monkeypatch):
    calls = []

    def encode_items(item_id, category_id, title):
        calls.append((item_id.numpy(), category_id.numpy(), title.numpy()))
        return {"item_embedding": tf.ones([len(item_id), 2])}

    monkeypatch.setattr(encoders, "_BATCH", 2)
    found = encoders.encode_items(
        double("encode_items", encode_items), shop_protocol.catalogue, progress=False
    )
    assert found.shape == (5, 2)
    assert [len(ids) for ids, _, _ in calls] == [2, 2, 1]
    assert [x for ids, _, _ in calls for x in ids] == [b"A", b"B", b"D", b"C", b"E"]
    assert {x for _, categories, _ in calls for x in categories} == {b"food"}
    assert calls[0][2].tolist() == [b"apple", b"<b>bread</b> & butter"]


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (
            lambda **_: {"other": tf.zeros([1, 2])},
            r"\['other'\], expected 'item_embedding'",
        ),
        (
            lambda **_: {"item_embedding": tf.zeros([1, 2, 3])},
            r"\(1, 2, 3\), expected rank 2",
        ),
        (lambda **_: {"item_embedding": tf.constant([[1.0, float("nan")]])}, "holds NaN"),
    ],
)
def test_answers_that_are_no_vectors(shop_protocol, outputs, message):
    model = double("encode_items", outputs)
    with pytest.raises(ModelError, match=message):
        encoders.encode_items(model, shop_protocol.catalogue, progress=False)


def test_a_missing_signature_is_named(shop_protocol):
    with pytest.raises(ModelError, match=r"signatures \['serve'\], expected 'encode_items'"):
        encoders.encode_items(double("serve", None), shop_protocol.catalogue, progress=False)


def test_interests_by_hand():
    diagonal = np.sqrt(0.5)
    found = describe_interests(
        user_embedding=np.array([[[2.0, 0], [0, 3.0]], [[1.0, 0], [1.0, 1.0]]]),
        item_embedding=np.array([[1.0, 0], [0, 1.0], [1.0, 1.0]]),
        winners=np.array([[0, 0, 1], [0, -1, -1]]),
        truth=ragged([[0, 1], [1, 2]]),
    )
    np.testing.assert_allclose(found.recommended, [3 / 4, 1 / 4])
    # Item 0 goes to the first interest of the first user, all else to second interests.
    np.testing.assert_allclose(found.purchased, [1 / 4, 3 / 4])
    # The interests of the first user are at a right angle, those of the second at 45 degrees.
    assert found.mean_cosine == pytest.approx(diagonal / 2)
    np.testing.assert_allclose(found.pair_cosines, [[1, diagonal / 2], [diagonal / 2, 1]])
    # Items 0 and 1 have cosine 0, and both have cos 45 degrees with item 2.
    assert found.item_cosine == pytest.approx(2 * diagonal / 3)


def test_one_interest_has_no_pairs():
    found = describe_interests(
        user_embedding=np.ones((2, 1, 3)),
        item_embedding=np.ones((1, 3)),
        winners=np.zeros((2, 1), int),
        truth=ragged([[0], []]),
    )
    assert np.isnan(found.mean_cosine)
    assert np.isnan(found.item_cosine)
    assert found.recommended.tolist() == found.purchased.tolist() == [1]


def test_collapsed_interests_show():
    one = np.random.default_rng(0).normal(size=(4, 1, 8))
    found = describe_interests(
        user_embedding=np.repeat(one, 3, axis=1),
        item_embedding=np.eye(8),
        winners=np.zeros((4, 2), int),
        truth=ragged([[0]] * 4),
    )
    assert found.mean_cosine == pytest.approx(1)
