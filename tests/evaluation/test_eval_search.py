"""Chunked exact search: the same lists as scoring everything at once, ties included."""

import numpy as np
import pytest
import tensorflow as tf

from guim_tf.evaluation import search as room
from guim_tf.evaluation.ragged import ragged
from guim_tf.evaluation.search import SearchError, search
from guim_tf.mixture import search_exact


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(room, "_USERS_AT_ONCE", 5)
    monkeypatch.setattr(room, "_ITEMS_AT_ONCE", 7)
    monkeypatch.setattr(room, "_BLOCK_ROWS", 6)
    monkeypatch.setattr(room, "_CORES", 2)


def whole_numbers(shape, seed, low=-2, high=3):
    """Scores of these are exact in float32, and many are equal."""
    return np.random.default_rng(seed).integers(low, high, shape).astype(np.float32)


def by_hand(users, items, k, exclude=None):
    """Sorts all items of each user by (score descending, row), with the first winning interest."""
    found = []
    for i, vectors in enumerate(users):
        scores = vectors @ items.T  # [C, X]
        gone = set() if exclude is None else set(exclude[i].tolist())
        rows = sorted(set(range(len(items))) - gone, key=lambda x: (-scores[:, x].max(), x))[:k]
        found.append([(x, scores[:, x].max(), scores[:, x].argmax()) for x in rows])
    return found


def as_lists(found):
    return [
        [(row, score, c) for row, score, c in zip(*of, strict=True) if row >= 0]
        for of in zip(found.rows, found.scores, found.interests, strict=True)
    ]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("k", "items"), [(1, 40), (3, 100), (5, 7), (9, 6), (4, 300)])
def test_chunks_give_every_list_with_its_ties(small_chunks, seed, k, items):
    users, vectors = whole_numbers((11, 3, 4), seed), whole_numbers((items, 4), 100 + seed)
    exclude = ragged([np.unique(whole_numbers(9, 50 + seed + u, 0, items)) for u in range(11)])
    assert as_lists(search(users, vectors, k, score="dot")) == by_hand(users, vectors, k)
    found = search(users, vectors, k, score="dot", exclude=exclude)
    assert as_lists(found) == by_hand(users, vectors, k, exclude)
    assert np.isneginf(found.scores[found.rows < 0]).all()
    assert (found.interests[found.rows < 0] == -1).all()


@pytest.mark.parametrize("order", ["rising", "falling", "equal"])
def test_any_order_of_the_items(small_chunks, order):
    # Rising scores beat all lists with every item, equal ones with none.
    values = {"rising": np.arange(90), "falling": -np.arange(90), "equal": np.ones(90)}[order]
    items, users = values.astype(np.float32)[:, None], np.ones((6, 2, 1), np.float32)
    best = list(range(89, 84, -1)) if order == "rising" else list(range(5))
    found = search(users, items, 5, score="dot")
    assert found.rows.tolist() == [best] * 6
    assert found.interests.tolist() == [[0] * 5] * 6


def test_it_is_the_search_of_the_exported_index(small_chunks):
    generator = np.random.default_rng(0)
    users = generator.normal(size=(13, 4, 8)).astype(np.float32)
    items = generator.normal(size=(60, 8)).astype(np.float32)
    exclude = generator.permuted(np.tile(np.arange(60), (13, 1)), axis=1)[:, :6]
    expected = search_exact(*map(tf.constant, (users, items)), 10, tf.constant(exclude))
    found = search(users, items, 10, exclude=ragged(list(exclude)))
    np.testing.assert_array_equal(found.rows, expected[0])
    np.testing.assert_allclose(found.scores, expected[1], rtol=1e-5)
    np.testing.assert_array_equal(found.interests, expected[2])


def test_cosine_ignores_lengths_and_dot_does_not():
    users = np.array([[[1, 0]]], np.float32)
    items = np.array([[1, 0], [5, 5], [0, 0]], np.float32)
    cosine, dot = search(users, items, 3), search(users, items, 3, score="dot")
    assert cosine.rows.tolist() == [[0, 1, 2]]
    np.testing.assert_allclose(cosine.scores, [[1, np.sqrt(0.5), 0]], rtol=1e-6)
    assert dot.rows.tolist() == [[1, 0, 2]]
    assert dot.scores.tolist() == [[5, 1, 0]]


def test_memory_mapped_vectors_are_read_in_parts(tmp_path, small_chunks):
    users, items = whole_numbers((7, 2, 3), 1), whole_numbers((50, 3), 2)
    np.save(tmp_path / "users.npy", users)
    np.save(tmp_path / "items.npy", items)
    mapped = [np.load(tmp_path / f"{x}.npy", mmap_mode="r") for x in ("users", "items")]
    np.testing.assert_array_equal(search(*mapped, 4).rows, search(users, items, 4).rows)


def test_what_cannot_be_searched():
    users, items = np.ones((2, 1, 3), np.float32), np.ones((4, 3), np.float32)
    for arguments, message in (
        ((users[:, 0], items, 1), r"\(2, 3\) and item_embedding \(4, 3\)"),
        ((users, items[:, :2], 1), "with one d"),
        ((users, items, 0), "k is 0"),
        ((np.where(users, np.nan, 0), items, 1), "user_embedding holds NaN"),
        ((users, items * np.float32(1e30), 1), "item_embedding holds NaN, infinity or overflows"),
    ):
        with pytest.raises(SearchError, match=message):
            search(*arguments)
    with pytest.raises(SearchError, match="score is 'l2'"):
        search(users, items, 1, score="l2")
    with pytest.raises(SearchError, match="exclude has 1 lists"):
        search(users, items, 1, exclude=ragged([[0]]))
