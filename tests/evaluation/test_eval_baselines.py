"""Baselines by hand on the shop, and the benchmark's table on the real log."""

import numpy as np
import pytest

from guim_tf.evaluation import baselines, tasks
from guim_tf.evaluation.protocol import load_protocol
from guim_tf.evaluation.ragged import ragged


@pytest.fixture
def scores(shop_protocol):
    found, notes = baselines.baselines(shop_protocol)
    assert notes == []
    return {x.name: x.score(np.arange(3)) for x in found}


def test_popularity_counts_buyers_not_events(scores):
    # A: anna twice, emil. B: anna, cara. D: cara, finn. C: ben. E: dora, but later.
    np.testing.assert_array_equal(scores["popular, all time"], [[2, 2, 2, 1, 0]] * 3)


def test_recent_popularity_forgets(scores):
    # Emil's A, Cara's D and Finn's D are older than 30 days.
    np.testing.assert_array_equal(scores["popular, last 30 days"], [[1, 2, 0, 1, 0]] * 3)


def test_personal_frequency_comes_before_popularity(scores):
    # Half of the recent popularity over its maximum is .25 .5 0 .25 0; anna has A twice, B once.
    expected = [[2.25, 1.5, 0, 0.25, 0], [0.25, 0.5, 0, 1.25, 0], [0.25, 0.5, 1, 0.25, 0]]
    np.testing.assert_allclose(scores["personal frequency + recent popularity"], expected)


def test_ease_of_two_items_is_ridge_regression():
    # Item 0 has 3 users, item 1 has 2, both together 2. Predicting one item from the other alone,
    # ridge regression gives (both) / (users of the predictor + lambda).
    weights = baselines.ease(ragged([[0, 1, 1], [1, 0], [0]]), 2)
    np.testing.assert_allclose(weights, [[0, 2 / 203], [2 / 202, 0]], rtol=1e-5)


def test_ease_scores_the_history_not_the_past(scores, shop_protocol):
    weights = baselines.ease(shop_protocol.past.items, 5)
    anna = weights[0] + weights[1]  # A counts once
    np.testing.assert_allclose(scores["EASE"][0], anna, rtol=1e-6)
    np.testing.assert_allclose(scores["EASE"][1], weights[3], rtol=1e-6)


def test_ease_in_chunks_is_ease_at_once(monkeypatch):
    rng = np.random.default_rng(0)
    lists = ragged([rng.integers(0, 6, 4) for _ in range(20)])
    at_once = baselines.ease(lists, 6)
    monkeypatch.setattr(baselines, "_CHUNK_SCORES", 18)
    np.testing.assert_allclose(baselines.ease(lists, 6), at_once, rtol=1e-5, atol=1e-7)


def test_ease_is_skipped_with_a_reason(shop_protocol, monkeypatch):
    monkeypatch.setattr(baselines, "EASE_MAX_ITEMS", 4)
    found, notes = baselines.baselines(shop_protocol)
    assert [x.name for x in found] == [
        "popular, all time",
        "popular, last 30 days",
        "personal frequency + recent popularity",
    ]
    assert len(notes) == 1
    assert "EASE was skipped: the catalogue has 5 items" in notes[0]


# recall@100 of CMP-L, CMP-S and CMP-N, then recall@20 of CMP-N: the benchmark's published table.
PUBLISHED = {
    "popular, all time": (0.2021, 0.2195, 0.1897, 0.0669),
    "popular, last 30 days": (0.2558, 0.2876, 0.2725, 0.1148),
    "EASE": (0.4582, 0.4954, 0.4375, 0.1875),
    "personal frequency + recent popularity": (0.4760, 0.5215, 0.4826, 0.3016),
}


def test_online_retail_gives_the_published_table(online_retail_dataset):
    protocol = load_protocol(online_retail_dataset)
    truths = tasks.truths(protocol)
    long_term = truths["CMP-L"]
    repeated = protocol.history.items.contains(long_term.owners, long_term.values)
    assert len(protocol) == 1376
    assert len(protocol.catalogue) == 3665
    assert len(long_term.values) == 45_794
    assert repeated.mean() == pytest.approx(0.43, abs=0.005)
    assert (truths["CMP-S"].lengths > 0).sum() == 97
    found, _ = baselines.baselines(protocol)
    assert {x.name for x in found} == set(PUBLISHED)
    for baseline in found:
        ranked = tasks.rank(baseline.score, users=1376, items=3665)
        measured = tasks.measure(protocol, ranked)
        values = [measured.mean(task, "recall@100").mean for task in truths]
        values.append(measured.mean("CMP-N", "recall@20").mean)
        np.testing.assert_allclose(values, PUBLISHED[baseline.name], atol=0.005)
