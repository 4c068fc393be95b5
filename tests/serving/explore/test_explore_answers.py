"""What the page asks a server, with answers from tables of six items."""

import dataclasses

import numpy as np
import pytest
from serving_testing import AS_OF, DAY, ITEMS

from serving.explore.answers import Server
from serving.explore.endpoint import AnswerError, Endpoint
from serving.histories import Event, History, Item


def items(*ids):
    return [Item(item_id) for item_id in ids]


def a_history(*ids, every=DAY):
    events = tuple(Event(Item(item_id), n * every) for n, item_id in enumerate(ids, 1))
    return History("anna", AS_OF, events)


def rounded(found):
    return [(one.item_id, round(one.score, 3)) for one in found]


def test_each_interest_ranks_alone(small):
    mug, pan = small.of_each_interest(small.encode_user(a_history("cup")), k=3)

    assert rounded(mug) == [("mug", 1.0), ("cup", 0.8), ("pan", 0.6)]
    assert rounded(pan) == [("pan", 1.0), ("cup", 0.96), ("sofa", 0.8)]  # .8 x .6 + .6 x .8


def test_what_is_left_out_is_replaced_by_the_next(small):
    vectors = small.encode_user(a_history("cup"))
    mug, pan = small.of_each_interest(vectors, k=2, without=["mug", "pan"])

    assert [one.item_id for one in mug] == ["cup", "sofa"]
    assert [one.item_id for one in pan] == ["cup", "sofa"]


def test_a_list_beyond_the_catalogue_has_no_empty_ids(small):
    for found in small.of_each_interest(small.encode_user(a_history()), k=50):
        assert sorted(one.item_id for one in found) == sorted(ITEMS)


def test_eight_interests_make_eight_lists(eight):
    best = [
        found[0].item_id
        for found in eight.of_each_interest(eight.encode_user(a_history("cup")), k=1)
    ]

    assert best == ["mug", "pan", "lamp", "mug", "pan", "lamp", "mug", "pan"]


def test_neighbours_are_without_the_item_itself(small):
    assert rounded(small.neighbours(Item("mug"), k=3)) == [
        ("cup", 0.8),
        ("pan", 0.6),
        ("sofa", 0.0),
    ]


def test_recommendations_are_those_of_the_signature(small):
    answer = small.recommend(a_history("mug", "sofa"), k=2, exclude_seen=True)

    assert [r.item_id for r in answer] == ["cup", "pan"]  # see serving_testing.Retrieval
    assert [r.interest for r in answer] == [0, 0]


def test_vectors_come_in_order_whatever_the_batches(small):
    names = [ITEMS[n % 5] for n in range(600)]
    done = []
    vectors = small.encode_items(items(*names), progress=done.append)

    np.testing.assert_array_equal(vectors[:5], small.encode_items(items(*ITEMS[:5])))
    np.testing.assert_array_equal(vectors, np.tile(vectors[:5], [120, 1]))
    assert sum(done) == 600
    assert len(done) == 3  # 256 + 256 + 88


def test_an_explanation_has_scores_and_events_by_attention(small):
    why = small.explain(a_history("mug", "cup", "sofa"), "sofa")

    assert why.interest == 1
    np.testing.assert_allclose(why.scores, [0.0, 0.8], atol=1e-6)  # of mug and of pan
    assert [event.item.item_id for event, _ in why.attention] == ["sofa", "cup", "mug"]
    np.testing.assert_allclose([share for _, share in why.attention], [3 / 6, 2 / 6, 1 / 6])


def test_of_a_long_history_the_last_events_are_sent(small):
    history = a_history(*(f"i{n}" for n in range(600)), every=1)
    attended = [event.item.item_id for event, _ in small.explain(history, "mug").attention]

    assert attended == [f"i{n}" for n in range(599, 599 - 512, -1)]


def test_no_explanation_from_an_index_without_the_signature(eight):
    assert eight.explain(a_history("mug"), "cup") is None


def test_all_models_must_be_there(small):
    small.require()
    with pytest.raises(AnswerError, match="does not serve.*absent.*guim index"):
        dataclasses.replace(small, model="absent").require()


def test_encoders_may_be_served_elsewhere(small):
    nowhere = Endpoint.connect("127.0.0.1:1")
    apart = Server(retrieval=nowhere, encoders=small.encoders, timeout=5)

    np.testing.assert_allclose(apart.encode_items(items("mug")), [[1, 0]])
    with pytest.raises(AnswerError, match="no server answers at 127.0.0.1:1"):
        apart.neighbours(Item("mug"), k=1)
    nowhere.channel.close()
