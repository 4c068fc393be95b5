"""ScaNN over codes: exact when set so, measured honestly, and no copy of the vectors."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf

from guim_tf.scann_search import (
    RecallError,
    ScannSearch,
    ScannSettings,
    build_scann,
    measure_recall,
)
from guim_tf.vector_search import ExactSearch, Vectors, search_within


def unit(rows: int, dim: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def by_numpy(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    rows = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, rows, axis=1), rows


@pytest.mark.parametrize("prior", [False, True])
@pytest.mark.parametrize("leaves", [1, 8])
def test_scann_set_to_exact_is_exact_search_is_numpy(prior, leaves):
    items, queries = unit(300, 17), unit(20, 17, seed=1)
    added = np.linspace(0, 0.5, 300, dtype=np.float32) if prior else None
    vectors = Vectors(items, added)
    scann = ScannSearch(vectors, ScannSettings(leaves, leaves, 300))
    expected = by_numpy(queries @ items.T + (0 if added is None else added), 30)
    for search in (ExactSearch(vectors), scann):
        scores, rows = search(vectors.queries(tf.constant(5 * queries)), tf.constant(30))
        np.testing.assert_allclose(scores, expected[0], atol=1e-6)
        np.testing.assert_array_equal(rows, expected[1])
    assert measure_recall(scann, vectors).recall == 1.0


def test_queries_of_items_know_no_prior():
    items = unit(50, 8)
    vectors = Vectors(items, np.full(50, 0.3, np.float32))
    queries = vectors.queries(tf.constant(items), of_users=False)
    scores, rows = ExactSearch(vectors)(queries, tf.constant(1))
    np.testing.assert_array_equal(rows[:, 0], np.arange(50))
    np.testing.assert_allclose(scores[:, 0], np.ones(50), rtol=1e-5)
    found, prior = vectors.of(tf.constant([[3, -1]]))
    np.testing.assert_array_equal(found[0, 0], items[3])
    np.testing.assert_allclose(prior[0, 0], 0.3)


def test_vectors_in_half_the_memory_give_nearly_the_same():
    items, added = unit(500, 64), np.linspace(0, 0.5, 500, dtype=np.float32)
    exact = Vectors(items, added)
    search = ScannSearch(exact, ScannSettings(1, 1, 500, "bfloat16"))
    assert search.vectors.stored.dtype == tf.bfloat16
    queries = exact.queries(tf.constant(unit(40, 64, seed=1)))
    scores, rows = search(queries, tf.constant(20))
    expected, _ = ExactSearch(exact)(queries, tf.constant(20))
    assert 0 < np.abs(scores - expected).max() < 1e-3, "rounded, but not the priors"
    np.testing.assert_allclose(exact.score_each(queries, rows), expected, atol=1e-3)
    assert measure_recall(search, exact).recall > 0.99
    settings = {"reordered": 500, "dtype": "bfloat16"}
    assert build_scann(exact, settings=settings, min_recall=0.9)[0].settings.dtype == "bfloat16"


def test_what_the_leaves_do_not_hold_is_marked():
    """One leaf of 20 holds a few items; a list of 40 searches more of them by itself."""
    vectors = Vectors(unit(200, 8))
    queries = vectors.queries(tf.constant(unit(7, 8, seed=1)))
    search = ScannSearch(vectors, ScannSettings(20, 1, 5))
    scores, rows = (x.numpy() for x in search(queries, tf.constant(5)))
    assert scores.shape == rows.shape == (7, 5)
    np.testing.assert_array_equal(np.isneginf(scores), rows < 0)
    found = np.take_along_axis(queries.numpy() @ vectors.stored.numpy().T, rows, axis=1)
    np.testing.assert_allclose(scores[rows >= 0], found[rows >= 0], atol=1e-6)
    _, rows = search(queries, tf.constant(40))
    assert (rows.numpy() >= 0).all()
    _, rows = search(queries, tf.constant(200))
    assert [sorted(row) for row in rows.numpy()] == [list(range(200))] * 7


def test_more_queries_than_are_reordered_at_once_change_nothing():
    vectors = Vectors(unit(100, 8))
    queries = vectors.queries(tf.constant(unit(600, 8, seed=1)))
    search = ScannSearch(vectors, ScannSettings(1, 1, 100))
    whole = search(queries, tf.constant(4))
    parts = [search(queries[i : i + 100], tf.constant(4)) for i in range(0, 600, 100)]
    for both in zip(whole, map(np.concatenate, zip(*parts, strict=True)), strict=True):
        np.testing.assert_array_equal(*both)
    none = search(queries[:0], tf.constant(4))
    assert [x.shape for x in none] == [(0, 4)] * 2


@pytest.mark.parametrize("allowed", [0, 3, 40, 100])
def test_a_search_within_some_rows_is_exact(allowed, monkeypatch):
    """In blocks of 7, by numpy; lists that end early are marked."""
    monkeypatch.setattr("guim_tf.vector_search._ROWS_AT_ONCE", 7)
    vectors, queries = Vectors(np.repeat(unit(50, 8), 2, axis=0)), unit(5, 8, seed=1)
    mask = np.isin(np.arange(100), np.random.default_rng(0).permutation(100)[:allowed])
    scores, rows = search_within(vectors, tf.constant(mask), tf.constant(queries), tf.constant(20))
    expected = np.where(mask, queries @ vectors.stored.numpy().T, -np.inf).astype(np.float32)
    best, order = by_numpy(expected, 20)  # items come in equal pairs: the lower row first
    np.testing.assert_allclose(scores, best, atol=1e-6)
    np.testing.assert_array_equal(rows, np.where(np.isneginf(best), -1, order))


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        (40, (1, 1, 40, "float32")),
        (99_999, (1, 1, 300, "float32")),
        (250_000, (500, 10, 300, "bfloat16")),
        (10**6, (1000, 20, 300, "bfloat16")),
    ],
)
def test_settings_follow_from_the_size(items, expected):
    assert ScannSettings.of_size(items) == ScannSettings(*expected)


def test_settings_can_be_given_in_part():
    assert ScannSettings.of_size(10**6, leaves=2000) == ScannSettings(2000, 40, 300, "bfloat16")
    given = ScannSettings.of_size(10**6, reordered=50, dtype="float32")
    assert given == ScannSettings(1000, 20, 50, "float32")
    assert ScannSettings.of_size(500, leaves=5, leaves_to_search=2) == ScannSettings(5, 2, 300)
    assert ScannSettings(100, 60, 400).wider(1000) == ScannSettings(100, 100, 800)
    assert ScannSettings(100, 100, 800).wider(1000) == ScannSettings(100, 100, 1000)


def test_recall_counts_what_is_on_the_exact_lists():
    """A search that answers every third place of them, and one that answers the twins."""
    vectors = Vectors(unit(200, 8))
    exact = ExactSearch(vectors)

    def third(queries, k):
        scores, rows = exact(queries, k)
        hidden = tf.range(k) % 3 > 0
        return tf.where(hidden, float("-inf"), scores), tf.where(hidden, -1, rows)

    measured = measure_recall(third, vectors)
    assert (measured.recall, measured.k, measured.queries) == (0.34, 100, 200)
    pairs = Vectors(np.repeat(unit(150, 8), 2, axis=0))
    assert measure_recall(lambda q, k: (None, ExactSearch(pairs)(q, k)[1] ^ 1), pairs).recall == 1.0


def test_a_search_gets_wider_until_it_finds_enough(capsys):
    vectors = Vectors(unit(2000, 32))
    with pytest.raises(
        RecallError, match=r"recall@100 0\.\d+ of 500 queries.*No index was written"
    ):
        build_scann(vectors, settings={"reordered": 100}, min_recall=0.995)
    capsys.readouterr()
    search, measured = build_scann(vectors, settings={}, min_recall=0.9999)
    lines = capsys.readouterr().err.splitlines()
    assert 1 < len(lines) <= 6, "one was not enough"
    assert search.settings.reordered == 300 * 2 ** (len(lines) - 1)
    assert measured.recall >= 0.9999


def test_fewer_items_than_scann_needs_are_refused():
    with pytest.raises(ValueError, match="has 15 items and ScaNN needs 16. Use --build exact"):
        build_scann(Vectors(unit(15, 8)), settings={}, min_recall=0.5)
    search, _ = build_scann(Vectors(unit(16, 8)), settings={}, min_recall=1.0)
    assert search(unit(1, 8), tf.constant(16))[1].numpy().min() == 0


def test_the_index_on_disk_holds_the_vectors_once(tmp_path):
    vectors = Vectors(unit(4000, 64))
    module = ScannSearch(vectors, ScannSettings.of_size(4000))
    signature = tf.function(
        lambda queries: dict(zip(("scores", "rows"), module(queries, tf.constant(5)), strict=True)),
        input_signature=[tf.TensorSpec([None, 64])],
    )
    tf.saved_model.save(
        module,
        str(tmp_path),
        signatures=signature,
        options=tf.saved_model.SaveOptions(namespace_whitelist=["Scann"]),
    )
    size = sum(f.stat().st_size for f in pathlib.Path(tmp_path, "variables").iterdir())
    codes = 4000 * 32  # one for two numbers
    assert size < vectors.stored.numpy().nbytes + 1.5 * codes
    loaded = tf.saved_model.load(str(tmp_path)).signatures["serving_default"]
    queries = tf.constant(unit(3, 64, seed=1))
    np.testing.assert_array_equal(loaded(queries)["rows"], module(queries, tf.constant(5))[1])
