"""`recommend_filtered` and `explain`, on models of the small shop."""

import numpy as np
import pytest
import tensorflow as tf

from guim_tf.artifacts import latest
from guim_tf.catalogue import Catalogue
from guim_tf.recommender import MAX_EVENTS, MAX_K

AS_OF = 1_700_000_000
BUILDS = ["retrieval", "retrieval_exact"]


@pytest.fixture(scope="module")
def catalogue(shop_dataset) -> Catalogue:
    return Catalogue(shop_dataset)


@pytest.fixture(scope="module")
def built(shop_models):
    """Signatures of both builds and of the user encoder, by name."""
    return {
        name: tf.saved_model.load(str(latest(shop_models, name))).signatures
        for name in (*BUILDS, "user_encoder")
    }


def histories(catalogue, users, *, width=None):
    """Users who bought catalogue rows, one an hour; shorter ones are padded at the end."""
    width = width or max(map(len, users))

    def text(column):
        return tf.constant([[column[r] for r in u] + [""] * (width - len(u)) for u in users])

    times = [[AS_OF - 3600 * (len(u) - i) for i in range(len(u))] for u in users]
    return {
        "item_id": text(catalogue.item_id),
        "category_id": text(catalogue.category_id),
        "title": text(catalogue.title),
        "timestamp": tf.constant([t + [0] * (width - len(t)) for t in times], tf.int64),
        "as_of": tf.constant([AS_OF] * len(users), tf.int64),
    }


USERS = [list(range(20)), [7, 3, 3, 9], [50]]


def filtered(built, catalogue, name, *, k=10, exclude=False, categories=(), per_interest=0):
    answer = built[name]["recommend_filtered"](
        **histories(catalogue, USERS),
        k=tf.constant(k),
        exclude_seen=tf.constant(exclude),
        category_filter=tf.constant(list(categories), tf.string),
        per_interest=tf.constant(per_interest),
    )
    return {key: value.numpy() for key, value in answer.items()}


def ranked(built, catalogue, *, exclude=False):
    """The whole catalogue of each user by the exact build."""
    answer = built["retrieval_exact"]["recommend"](
        **histories(catalogue, USERS),
        k=tf.constant(len(catalogue)),
        exclude_seen=tf.constant(exclude),
    )
    return {key: value.numpy() for key, value in answer.items()}


@pytest.mark.parametrize("name", BUILDS)
def test_without_a_filter_and_a_quota_it_is_recommend(built, catalogue, name):
    plain = built[name]["recommend"](
        **histories(catalogue, USERS), k=tf.constant(10), exclude_seen=tf.constant(True)
    )
    answer = filtered(built, catalogue, name, exclude=True)
    for key, value in plain.items():
        np.testing.assert_array_equal(answer[key], value, key)


@pytest.mark.parametrize("name", BUILDS)
@pytest.mark.parametrize("exclude", [False, True])
def test_a_filter_gives_what_is_left_of_the_whole_ranking(built, catalogue, name, exclude):
    """Exactly, for each category alone, the narrow ones too, and for two of them."""
    whole = ranked(built, catalogue, exclude=exclude)
    category = dict(zip(catalogue.item_id.astype(bytes), catalogue.category_id, strict=True))
    sizes = {c: np.sum(catalogue.category_id == c) for c in set(catalogue.category_id)}
    k = 3
    narrow, wide = min(sizes, key=sizes.get), max(sizes, key=sizes.get)
    assert sizes[narrow] < sizes[wide]
    assert sizes[wide] > k
    for chosen in ({narrow}, {wide}, {narrow, wide}):
        answer = filtered(
            built, catalogue, name, k=k, exclude=exclude, categories=[*chosen, *chosen, "no such"]
        )
        for user in range(len(USERS)):
            kept = [i for i, x in enumerate(whole["item_id"][user]) if category.get(x) in chosen]
            expected = kept[:k]
            found = len(expected)
            assert list(answer["item_id"][user][:found]) == list(whole["item_id"][user][expected])
            np.testing.assert_allclose(
                answer["score"][user][:found], whole["score"][user][expected], atol=1e-5
            )
            assert list(answer["interest"][user][:found]) == list(whole["interest"][user][expected])
            assert (answer["item_id"][user][found:] == b"").all()


def test_a_category_that_is_not_in_the_catalogue_has_no_items(built, catalogue):
    answer = filtered(built, catalogue, "retrieval", categories=["no such", ""])
    assert (answer["item_id"] == b"").all()
    assert (answer["score"] == -1).all()
    assert (answer["interest"] == -1).all()


@pytest.mark.parametrize("name", BUILDS)
def test_a_quota_is_kept_and_the_list_is_full_as_long_as_quotas_last(built, catalogue, name):
    plain = filtered(built, catalogue, name, k=9)
    assert max(np.bincount(row).max() for row in plain["interest"]) > 3, "or nothing is tested"
    answer = filtered(built, catalogue, name, k=9, per_interest=3)
    for ids, scores, interests in zip(
        *(answer[x] for x in ("item_id", "score", "interest")), strict=True
    ):
        assert np.bincount(interests).tolist() == [3, 3, 3]
        assert len(set(ids)) == 9
        assert (np.diff(scores) <= 0).all()
    short = filtered(built, catalogue, name, k=9, per_interest=2)
    assert (short["item_id"] != b"").sum(axis=1).tolist() == [6, 6, 6]
    assert (short["item_id"][:, 6:] == b"").all()


def test_a_quota_holds_inside_a_filter(built, catalogue):
    [wide] = [max(set(catalogue.category_id), key=list(catalogue.category_id).count)]
    answer = filtered(built, catalogue, "retrieval", k=6, categories=[wide], per_interest=1)
    category = dict(zip(catalogue.item_id.astype(bytes), catalogue.category_id, strict=True))
    for ids, interests in zip(answer["item_id"], answer["interest"], strict=True):
        assert sorted(interests[:3]) == [0, 1, 2]
        assert {category[x] for x in ids[:3]} == {wide}


def test_a_quota_below_zero_is_refused(built, catalogue):
    with pytest.raises(tf.errors.InvalidArgumentError, match="per_interest must be 0 or more"):
        filtered(built, catalogue, "retrieval", per_interest=-1)


@pytest.mark.parametrize("signature", ["nearest_items", "nearest_items_to_user"])
@pytest.mark.parametrize("name", BUILDS)
def test_vectors_that_are_no_numbers_are_refused(built, name, signature):
    function = built[name][signature]
    [(key, spec)] = [(k, s) for k, s in function.structured_input_signature[1].items() if k != "k"]
    bad = np.ones([2, *spec.shape[1:]], np.float32)
    bad[1, ..., 3] = np.nan
    with pytest.raises(tf.errors.InvalidArgumentError, match="vectors must be finite"):
        function(**{key: tf.constant(bad), "k": tf.constant(3)})


@pytest.mark.parametrize("name", BUILDS)
def test_no_users_have_no_lists(built, name):
    function = built[name]["nearest_items_to_user"]
    spec = function.structured_input_signature[1]["user_embedding"]
    answer = function(user_embedding=tf.zeros([0, *spec.shape[1:]]), k=tf.constant(3))
    assert {key: tuple(value.shape) for key, value in answer.items()} == dict.fromkeys(
        ("item_id", "score", "interest"), (0, 3)
    )


def explained(built, catalogue, users, items, *, name="retrieval_exact", width=None):
    answer = built[name]["explain"](
        **histories(catalogue, users, width=width), explained_item_id=tf.constant(items)
    )
    return {key: value.numpy() for key, value in answer.items()}


@pytest.mark.parametrize("name", BUILDS)
def test_the_winning_interest_is_the_one_that_recommends_the_item(built, catalogue, name):
    whole = ranked(built, catalogue)
    for place in (0, 1, 5, 40, len(catalogue) - 1):
        answer = explained(built, catalogue, USERS, whole["item_id"][:, place], name=name)
        np.testing.assert_array_equal(answer["interest"], whole["interest"][:, place])
        np.testing.assert_allclose(
            answer["interest_score"].max(axis=1), whole["score"][:, place], atol=1e-5
        )
        assert answer["interest_score"].shape == (3, 3)


def test_attention_is_that_of_the_winning_interest(built, catalogue):
    by_encoder = built["user_encoder"]["encode_users_with_attention"](**histories(catalogue, USERS))
    plain = built["user_encoder"]["encode_users"](**histories(catalogue, USERS))
    np.testing.assert_allclose(by_encoder["user_embedding"], plain["user_embedding"], atol=1e-5)
    answer = explained(built, catalogue, USERS, [catalogue.item_id[0]] * 3)
    attention = by_encoder["attention"].numpy()
    assert attention.shape == (3, 3, 20)
    expected = attention[np.arange(3), answer["interest"]]
    np.testing.assert_allclose(answer["attention"], expected, atol=1e-6)
    for user, history in enumerate(USERS):
        assert (answer["attention"][user, : len(history)] > 0).all()
        assert (answer["attention"][user, len(history) :] == 0).all()
        assert answer["attention"][user].sum() <= 1 + 1e-6


def test_padding_changes_no_explanation(built, catalogue):
    item = [catalogue.item_id[5]] * 3
    narrow = explained(built, catalogue, USERS, item)
    wide = explained(built, catalogue, USERS, item, width=29)
    np.testing.assert_allclose(wide["attention"][:, :20], narrow["attention"], atol=1e-5)
    assert (wide["attention"][:, 20:] == 0).all()
    alone = explained(built, catalogue, USERS[1:2], item[:1])
    np.testing.assert_allclose(alone["attention"][0], narrow["attention"][1, :4], atol=1e-5)


def test_events_that_the_encoder_drops_get_no_attention_and_others_keep_their_place(
    built, catalogue
):
    """After the moment, too long ago, holes, and before the last 32 of 40."""
    request = histories(catalogue, [list(range(40))])
    item = tf.constant([catalogue.item_id[5]])
    explain = built["retrieval_exact"]["explain"]
    attention = explain(**request, explained_item_id=item)["attention"].numpy()[0]
    assert (attention[:8] == 0).all()
    assert (attention[8:] > 0).all()

    times = request["timestamp"].numpy()
    times[0, 30] = AS_OF
    times[0, 3] = AS_OF - 400 * 86_400
    ids = request["item_id"].numpy()
    ids[0, 20] = b""
    changed = request | {"timestamp": tf.constant(times), "item_id": tf.constant(ids)}
    attention = explain(**changed, explained_item_id=item)["attention"].numpy()[0]
    kept = [i for i in range(40) if i not in (3, 20, 30)][-32:]
    assert np.flatnonzero(attention).tolist() == kept
    dense = {
        name: x if name == "as_of" else tf.gather(x, kept, axis=1) for name, x in changed.items()
    }
    alone = explain(**dense, explained_item_id=item)["attention"].numpy()[0]
    np.testing.assert_allclose(attention[kept], alone, atol=1e-5)


def test_an_item_that_is_not_in_the_index_has_no_explanation(built, catalogue):
    answer = explained(built, catalogue, USERS, ["no such", catalogue.item_id[0], ""])
    assert answer["interest"][[0, 2]].tolist() == [-1, -1]
    assert (answer["interest_score"][[0, 2]] == -1).all()
    assert (answer["attention"][[0, 2]] == 0).all()
    assert answer["interest"][1] >= 0, "others of the batch are answered"
    assert answer["attention"][1].sum() > 0


class TestBounds:
    """A small request must not be able to ask for much memory."""

    def recommend(self, built, catalogue, *, k, width=None):
        history = histories(catalogue, [[1, 2]], width=width)
        return built["retrieval_exact"]["recommend"](
            **history, k=tf.constant(k), exclude_seen=tf.constant(True)
        )

    def test_k_may_be_above_the_catalogue_up_to_a_bound(self, built, catalogue):
        answer = self.recommend(built, catalogue, k=MAX_K)
        assert answer["item_id"].shape == (1, MAX_K)
        assert tf.math.count_nonzero(answer["item_id"] != "") == len(catalogue) - 2

    @pytest.mark.parametrize("k", [0, -5, MAX_K + 1, tf.int32.max])
    def test_other_k_are_refused_before_anything_is_computed(self, built, catalogue, k):
        with pytest.raises(tf.errors.InvalidArgumentError, match="k must be at"):
            self.recommend(built, catalogue, k=k)
        for name, vectors in (("item_embedding", [1, 32]), ("user_embedding", [1, 3, 32])):
            signature = "nearest_items" + ("_to_user" if name == "user_embedding" else "")
            with pytest.raises(tf.errors.InvalidArgumentError, match="k must be at"):
                built["retrieval_exact"][signature](**{name: tf.ones(vectors)}, k=tf.constant(k))

    def test_histories_have_a_bound(self, built, catalogue):
        answer = self.recommend(built, catalogue, k=3, width=MAX_EVENTS)
        short = self.recommend(built, catalogue, k=3)
        np.testing.assert_array_equal(answer["item_id"], short["item_id"])
        with pytest.raises(tf.errors.InvalidArgumentError, match="the most recent ones"):
            self.recommend(built, catalogue, k=3, width=MAX_EVENTS + 1)
        with pytest.raises(tf.errors.InvalidArgumentError, match="the most recent ones"):
            explained(built, catalogue, USERS[:1], [catalogue.item_id[0]], width=MAX_EVENTS + 1)

    @pytest.mark.parametrize("name", ["category_id", "title", "timestamp"])
    def test_columns_of_unlike_shape_are_refused(self, built, catalogue, name):
        history = histories(catalogue, [[1, 2]])
        for axis in (0, 1):
            longer = history | {name: tf.concat([history[name]] * 2, axis=axis)}
            with pytest.raises(tf.errors.InvalidArgumentError):
                built["user_encoder"]["encode_users"](**longer)
