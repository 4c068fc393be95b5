"""Slices and the measuring of a ranking, by hand on the shop of conftest."""

import math

import numpy as np
import pytest

from guim_tf.evaluation import tasks
from guim_tf.evaluation.ragged import ragged

A, B, D, C, E = range(5)


def lists(x):
    return [x[i].tolist() for i in range(len(x))]


def test_slices(shop_protocol):
    parts = tasks.slices(shop_protocol, ragged([[A, D, C], [B], [A]]))
    assert lists(parts["purchase"]["new"]) == [[D, C], [B], [A]]
    assert lists(parts["purchase"]["repeated"]) == [[A], [], []]
    # Anna's history has 3 events, Ben's and Finn's have one.
    assert lists(parts["history length"]["1 to 10"]) == [[A, D, C], [B], [A]]
    assert [len(x.values) for x in parts["history length"].values()] == [5, 0, 0, 0]
    # 8 past events, most bought first: A 3 before which there are 0, B 2 after 3, D 2 after 5,
    # C 1 after 7. A third is 2.67: A is head, B and D are middle, C is tail.
    assert {name: lists(x) for name, x in parts["item popularity"].items()} == {
        "head": [[A], [], [A]],
        "middle": [[D], [B], []],
        "tail": [[C], [], []],
        "never seen": [[], [], []],
    }


def test_every_division_holds_the_whole_truth(shop_protocol):
    truth = ragged([[A, E, C], [E], [B]])
    for parts in tasks.slices(shop_protocol, truth).values():
        assert sum(len(part.values) for part in parts.values()) == len(truth.values)


def test_an_item_without_past_was_never_seen(shop_protocol):
    assert tasks.popularity_bands(shop_protocol)[E] == 3


@pytest.mark.parametrize(
    ("events", "part"), [(10, 0), (11, 1), (50, 1), (51, 2), (200, 2), (201, 3)]
)
def test_history_lengths_have_both_ends(shop_writer, tmp_path, events, part):
    from guim_tf.evaluation.protocol import load_protocol

    history = [(-300 + i, "A") for i in range(events)]
    folder = shop_writer(tmp_path / "one", {"x": [*history, (1, "A")], "y": [(-1, "B")]})
    protocol = load_protocol(folder)
    found = list(tasks.slices(protocol, ragged([[0]]))["history length"].values())
    assert [len(x.values) for x in found] == [int(i == part) for i in range(4)]


def test_measure(shop_protocol):
    everyone = np.array([[A, B, D, -1]] * 3)
    measured = tasks.measure(shop_protocol, everyone)
    # Anna bought A, D and C; Ben B; Finn A.
    np.testing.assert_allclose(measured.values["CMP-L"]["recall@100"], [2 / 3, 1, 1])
    np.testing.assert_allclose(measured.values["CMP-S"]["recall@20"], [1 / 2, math.nan, 1])
    np.testing.assert_allclose(measured.values["CMP-N"]["recall@100"], [0, 1, 1])
    np.testing.assert_allclose(measured.values["CMP-N"]["ndcg@20"], [0, 1 / math.log2(3), 1])
    assert measured.mean("CMP-S", "recall@20").users == 2
    assert measured.mean("CMP-L", "recall@100").mean == pytest.approx(8 / 9)
    purchase = measured.slices["CMP-L"]["purchase"]
    assert (purchase["repeated"].mean, purchase["repeated"].users) == (1, 1)
    assert purchase["new"].mean == pytest.approx((1 / 2 + 1 + 1) / 3)
    assert measured.slices["CMP-L"]["item popularity"]["never seen"].users == 0


def test_rank_in_chunks_is_rank_at_once(monkeypatch):
    scores = np.random.default_rng(0).integers(0, 4, (11, 9)).astype(np.float32)
    at_once = tasks.rank(lambda users: scores[users], users=11, items=9, k=5)
    sizes = []

    def score(users):
        sizes.append(len(users))
        return scores[users]

    monkeypatch.setattr(tasks, "_CHUNK_SCORES", 36)
    np.testing.assert_array_equal(tasks.rank(score, users=11, items=9, k=5), at_once)
    assert sizes == [4, 4, 3]


def test_excluded_items_are_not_ranked(shop_protocol):
    scores = np.array([[5, 4, 3, 2, 1]] * 3, np.float32)
    ranked = tasks.rank(
        lambda users: scores[users], users=3, items=5, k=4, exclude=ragged([[A, B], [], [E, A, D]])
    )
    assert ranked.tolist() == [[D, C, E, -1], [A, B, D, C], [B, C, -1, -1]]
    assert scores.max() == 5  # the scores of the baseline are its own


def test_the_next_item_is_measured_as_leave_one_out_tables_are(shop_protocol):
    # The next items are C for Anna, B for Ben and A for Finn: places 6, 2 and none of eleven.
    ranked = np.full((3, 11), -1)
    ranked[0, 5], ranked[1, 1], ranked[2, 0] = C, B, E
    values = tasks.measure(shop_protocol, ranked).values
    assert values["CMP-N"]["recall@5"].tolist() == [0, 1, 0]
    assert values["CMP-N"]["recall@10"].tolist() == [1, 1, 0]
    np.testing.assert_allclose(values["CMP-N"]["ndcg@5"], [0, 1 / math.log2(3), 0])
    np.testing.assert_allclose(values["CMP-N"]["ndcg@10"], [1 / math.log2(7), 1 / math.log2(3), 0])
    assert list(values["CMP-L"]) == ["recall@100", "recall@20", "ndcg@20"]
