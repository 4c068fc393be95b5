"""The index: ScaNN = brute force = numpy, lists without doubles, k results even so."""

import dataclasses
import json
import pathlib
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from guim_tf.artifacts import latest, versions
from guim_tf.catalogue import Catalogue
from guim_tf.config import Config, RetrievalConfig
from guim_tf.encoders import encode_items
from guim_tf.evaluation.ragged import ragged
from guim_tf.evaluation.repeats import HabitSearch
from guim_tf.index_items import IndexItems, read_vectors
from guim_tf.index_report import IndexReport
from guim_tf.popularity import prior
from guim_tf.retrieval import build_index, main
from guim_tf.schema import DAY, Schema
from guim_tf.shards import shard_files
from guim_tf.strict_json import load as load_config
from guim_tf.strict_json import to_json


@pytest.fixture(scope="module")
def catalogue(shop_dataset) -> Catalogue:
    return Catalogue(shop_dataset)


@pytest.fixture(scope="module")
def items(shop_models, catalogue) -> np.ndarray:
    encoder = tf.saved_model.load(str(latest(shop_models, "item_encoder")))
    return encode_items(encoder, catalogue, progress=False)


@pytest.fixture(scope="module")
def users(shop_models, shop_dataset) -> np.ndarray:
    records = tf.data.TFRecordDataset(shard_files(shop_dataset, "validation"))
    examples = tf.constant([r.numpy() for r in records.take(20)])
    as_of = tf.fill([len(examples)], tf.constant(Schema.load(shop_dataset).as_of, tf.int64))
    encoder = tf.saved_model.load(str(latest(shop_models, "user_encoder")))
    return encoder.signatures["encode_user_examples"](examples=examples, as_of=as_of)[
        "user_embedding"
    ].numpy()


def load(models, name):
    return tf.saved_model.load(str(latest(models, name))).signatures


def by_numpy(users, items, k):
    """Scores, rows and interests of Eq. 3 by sorting all of them."""
    unit = users / np.linalg.norm(users, axis=-1, keepdims=True)
    cosine = unit @ items.T
    best = cosine.max(axis=1)
    rows = np.argsort(-best, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(best, rows, 1), rows


def test_exact_build_equals_numpy(shop_models, catalogue, items, users):
    answer = load(shop_models, "retrieval_exact")["nearest_items_to_user"](
        user_embedding=tf.constant(users), k=tf.constant(15)
    )
    scores, rows = by_numpy(users, items, 15)
    np.testing.assert_allclose(answer["score"], scores, atol=1e-5)
    ids = np.array(catalogue.item_id, object)[rows]
    got = answer["item_id"].numpy().astype(str)
    swapped = got != ids  # only where scores are equal to rounding
    assert swapped.mean() < 0.02
    for row in got:
        assert len(set(row)) == 15, "every item once"


def test_the_scann_build_answers_as_the_exact_one_where_it_orders_all_items(shop_models, users):
    """As many candidates as items: nothing is approximated."""
    folder = latest(shop_models, "retrieval")
    assert IndexReport.load(folder).reordered == IndexReport.load(folder).items == 300
    request = {"user_embedding": tf.constant(users), "k": tf.constant(50)}
    exact = load(shop_models, "retrieval_exact")["nearest_items_to_user"](**request)
    scann = load(shop_models, "retrieval")["nearest_items_to_user"](**request)
    np.testing.assert_allclose(scann["score"], exact["score"], atol=1e-6)
    same = scann["item_id"].numpy() == exact["item_id"].numpy()
    assert same.mean() > 0.99, "only scores that are equal to rounding may change places"
    assert (scann["interest"].numpy() == exact["interest"].numpy())[same].all()


def request(catalogue, rows, *, k, exclude_seen):
    """One user who bought the catalogue rows, one an hour, up to an hour before the moment."""
    count, as_of = len(rows), 1_700_000_000
    return {
        "item_id": tf.constant([[catalogue.item_id[r] for r in rows]]),
        "category_id": tf.constant([[catalogue.category_id[r] for r in rows]]),
        "title": tf.constant([[catalogue.title[r] for r in rows]]),
        "timestamp": tf.constant([[as_of - 3600 * (count - i) for i in range(count)]], tf.int64),
        "as_of": tf.constant([as_of], tf.int64),
        "k": tf.constant(k),
        "exclude_seen": tf.constant(exclude_seen),
    }


@pytest.mark.parametrize("name", ["retrieval", "retrieval_exact"])
def test_seen_items_are_left_out_on_request_and_k_still_come(shop_models, catalogue, name):
    recommend = load(shop_models, name)["recommend"]
    everything = recommend(**request(catalogue, range(30), k=40, exclude_seen=False))
    unseen = recommend(**request(catalogue, range(30), k=40, exclude_seen=True))
    seen = {catalogue.item_id[r].encode() for r in range(30)}
    all_ids, new_ids = everything["item_id"].numpy()[0], unseen["item_id"].numpy()[0]
    assert set(all_ids) & seen, "the request must have something to leave out"
    assert not set(new_ids) & seen
    assert len(set(new_ids) - {b""}) == 40
    if name == "retrieval_exact":  # what is left keeps its order
        kept = [i for i in all_ids if i not in seen]
        assert list(new_ids[: len(kept)]) == kept
    assert (np.diff(unseen["score"].numpy()) <= 0).all()
    assert set(unseen["interest"].numpy()[0]) <= {0, 1, 2}


def test_more_than_the_catalogue_holds_ends_in_empty_ids(shop_models, catalogue):
    count = len(catalogue)
    answer = load(shop_models, "retrieval_exact")["recommend"](
        **request(catalogue, [0, 1], k=count + 5, exclude_seen=True)
    )
    ids = answer["item_id"].numpy()[0]
    assert ids.shape == (count + 5,)
    assert (ids[: count - 2] != b"").all()
    assert (ids[count - 2 :] == b"").all()
    assert (answer["score"].numpy()[0, count - 2 :] == -1).all()
    assert (answer["interest"].numpy()[0, count - 2 :] == -1).all()


def test_the_interest_is_the_vector_that_fetched_the_item(shop_models, catalogue, items, users):
    answer = load(shop_models, "retrieval_exact")["nearest_items_to_user"](
        user_embedding=tf.constant(users), k=tf.constant(5)
    )
    row = {item.encode(): i for i, item in enumerate(catalogue.item_id)}
    for b, ids in enumerate(answer["item_id"].numpy()):
        for n, item in enumerate(ids):
            u = users[b, answer["interest"].numpy()[b, n]]
            cosine = u @ items[row[item]] / np.linalg.norm(u)
            np.testing.assert_allclose(cosine, answer["score"].numpy()[b, n], atol=1e-5)


def test_an_item_is_nearest_to_itself(shop_models, catalogue, items):
    answer = load(shop_models, "retrieval_exact")["nearest_items"](
        item_embedding=tf.constant(items[:9]), k=tf.constant(3)
    )
    assert answer["item_id"].numpy()[:, 0].astype(str).tolist() == catalogue.item_id[:9].tolist()
    np.testing.assert_allclose(answer["score"][:, 0], np.ones(9), rtol=1e-5)


def test_k_below_one_is_refused(shop_models, items):
    with pytest.raises(tf.errors.InvalidArgumentError, match="k must be at least 1"):
        load(shop_models, "retrieval_exact")["nearest_items"](
            item_embedding=tf.constant(items[:1]), k=tf.constant(0)
        )


def test_an_index_is_built_from_vectors_alone(
    shop_models, shop_dataset, catalogue, items, tmp_path
):
    shuffled = np.random.default_rng(0).permutation(len(items))
    dim = items.shape[1]
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(items[shuffled].ravel()), dim)
    ids = [catalogue.item_id[i] for i in shuffled]
    pq.write_table(pa.table({"item_id": ids, "item_embedding": vectors}), tmp_path / "v.parquet")
    read = read_vectors(tmp_path / "v.parquet", IndexItems.of(catalogue), dim=dim)
    np.testing.assert_array_equal(read, items)

    before = versions(shop_models, "retrieval_exact")
    result = build_index(
        dataset=shop_dataset, models=shop_models, build="exact", vectors=tmp_path / "v.parquet"
    )
    assert versions(shop_models, "retrieval_exact") == [*before, before[-1] + 1]
    assert result.report.items == len(catalogue)

    pq.write_table(
        pa.table({"item_id": ids[:-1], "item_embedding": vectors[:-1]}), tmp_path / "v.parquet"
    )
    with pytest.raises(ValueError, match="lacks 1 items of the catalogue"):
        build_index(
            dataset=shop_dataset, models=shop_models, build="exact", vectors=tmp_path / "v.parquet"
        )


def test_scann_settings_are_chosen_by_measured_recall(shop_dataset, shop_models, capsys):
    result = build_index(dataset=shop_dataset, models=shop_models, build="scann", min_recall=0.9)
    assert result.report.recall >= 0.9
    assert "leaves" in capsys.readouterr().err


def test_the_command_names_a_missing_encoder(shop_dataset, tmp_path, capsys):
    assert main(["--dataset", str(shop_dataset), "--models", str(tmp_path)]) == 2
    assert "guim export" in capsys.readouterr().err


def test_the_command_writes_one_build(shop_dataset, shop_models, capsys):
    arguments = ["--dataset", str(shop_dataset), "--models", str(shop_models), "--build", "exact"]
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["recall"] is None


def with_retrieval(retrieval, shop_models, shop_dataset, folder) -> pathlib.Path:
    """The same models, and an exact index with other settings."""
    models = pathlib.Path(shutil.copytree(shop_models, folder / "models"))
    file = latest(models, "user_encoder") / "assets.extra" / "config.json"
    config = dataclasses.replace(load_config(Config, file), retrieval=retrieval)
    file.write_text(to_json(config))
    build_index(dataset=shop_dataset, models=models, build="exact")
    return models


def test_a_model_that_prefers_repeats_brings_back_what_was_bought(
    shop_models, shop_dataset, catalogue, tmp_path
):
    models = with_retrieval(RetrievalConfig(repeat_weight=5.0), shop_models, shop_dataset, tmp_path)
    plain, preferring = (load(m, "retrieval_exact")["recommend"] for m in (shop_models, models))
    bought = [7, 3, 3, 9]
    ids = [catalogue.item_id[row].encode() for row in bought]
    wish = request(catalogue, bought, k=8, exclude_seen=False)
    answer = preferring(**wish)
    # 5 ln(1 + n) outweighs any cosine: the one bought twice first, then the other two
    assert answer["item_id"].numpy()[0, 0] == ids[1]
    assert set(answer["item_id"].numpy()[0, 1:3]) == {ids[0], ids[3]}
    rest = [item for item in plain(**wish)["item_id"].numpy()[0] if item not in ids]
    assert list(answer["item_id"].numpy()[0, 3 : 3 + len(rest)]) == rest[:5]
    unseen = request(catalogue, bought, k=8, exclude_seen=True)
    np.testing.assert_array_equal(
        preferring(**unseen)["item_id"].numpy(), plain(**unseen)["item_id"].numpy()
    )


@pytest.mark.parametrize("days", [400, -1], ids=["before its window", "after the moment"])
def test_habits_are_of_the_window_that_the_encoder_reads(
    days, shop_models, shop_dataset, catalogue, tmp_path
):
    """As in the evaluation: other events of the request change nothing, but for `exclude_seen`."""
    models = with_retrieval(RetrievalConfig(repeat_weight=5.0), shop_models, shop_dataset, tmp_path)
    served = load(models, "retrieval_exact")
    first = served["recommend"](**request(catalogue, [7, 3], k=8, exclude_seen=False))
    wish = request(catalogue, [9, 7, 3] if days > 0 else [7, 3, 9], k=8, exclude_seen=False)
    outside = 0 if days > 0 else 2
    times = wish["timestamp"].numpy()
    times[0, outside] = wish["as_of"].numpy()[0] - days * DAY
    wish["timestamp"] = tf.constant(times)
    answer = served["recommend"](**wish)
    for name in ("item_id", "interest"):
        np.testing.assert_array_equal(answer[name], first[name])
    np.testing.assert_allclose(answer["score"], first["score"], rtol=1e-5)
    given = {name: x for name, x in wish.items() if name not in ("k", "exclude_seen")}
    why = served["explain"](**given, explained_item_id=wish["item_id"][:, outside])
    assert tf.reduce_max(why["interest_score"]) < 1 + 1e-5
    unseen = served["recommend"](**wish | {"exclude_seen": tf.constant(True)})["item_id"].numpy()
    assert not set(unseen[0]) & set(wish["item_id"].numpy()[0])
    assert len(set(unseen[0]) - {b""}) == 8


@pytest.mark.parametrize("repeat_weight", [0.0, 0.4])
def test_a_model_that_knows_what_sells_ranks_as_evaluation_does(
    repeat_weight, shop_models, shop_dataset, catalogue, items, tmp_path
):
    settings = RetrievalConfig(repeat_weight=repeat_weight, popularity_weight=0.5)
    models = with_retrieval(settings, shop_models, shop_dataset, tmp_path)
    served = load(models, "retrieval_exact")
    bought = [7, 3, 3, 9]
    wish = request(catalogue, bought, k=20, exclude_seen=False)
    answer = served["recommend"](**wish)
    given = {name: x for name, x in wish.items() if name not in ("k", "exclude_seen")}
    user = load(models, "user_encoder")["encode_users"](**given)["user_embedding"].numpy()
    most = prior(catalogue.recent_buyers, 0.5, sold=catalogue.count > 0)
    assert most.max() == np.float32(0.5) > most.min()
    found = HabitSearch(user, items, ragged([bought]), 20, prior=most).lists(repeat_weight)
    np.testing.assert_allclose(answer["score"].numpy(), found.scores, atol=1e-5)
    same = answer["item_id"].numpy()[0] == catalogue.item_id[found.rows[0]].astype(bytes)
    assert same.mean() >= 0.9  # scores may tie within rounding
    for place in range(20):  # why an item comes is told by the same scores
        why = served["explain"](**given, explained_item_id=answer["item_id"][:, place])
        np.testing.assert_allclose(
            tf.reduce_max(why["interest_score"], axis=1), answer["score"][:, place], atol=1e-5
        )
        assert why["interest"].numpy() == answer["interest"].numpy()[:, place]
    # an item's neighbours are those of its vector
    plain = load(shop_models, "retrieval_exact")["nearest_items"]
    near = {"item_embedding": tf.constant(items[:9]), "k": tf.constant(5)}
    np.testing.assert_allclose(
        served["nearest_items"](**near)["score"], plain(**near)["score"], atol=1e-6
    )


def test_the_scann_build_knows_what_sells_too(shop_models, shop_dataset, users, tmp_path):
    settings = RetrievalConfig(popularity_weight=0.5)
    models = with_retrieval(settings, shop_models, shop_dataset, tmp_path)
    build_index(dataset=shop_dataset, models=models, build="scann")
    request = {"user_embedding": tf.constant(users), "k": tf.constant(10)}
    exact, scann = (
        load(models, name)["nearest_items_to_user"](**request)["item_id"].numpy()
        for name in ("retrieval_exact", "retrieval")
    )
    assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(exact, scann, strict=True)]) > 0.95


def test_a_model_that_scores_anew_ranks_by_the_softmax_mixture(
    shop_models, shop_dataset, catalogue, items, users, tmp_path
):
    """Eq. 2 over the whole catalogue, found through a list of 4 k by Eq. 3."""
    sharpness, k = 20.0, 12
    settings = RetrievalConfig(rescore_sharpness=sharpness)
    models = with_retrieval(settings, shop_models, shop_dataset, tmp_path)
    answer = load(models, "retrieval_exact")["nearest_items_to_user"](
        user_embedding=tf.constant(users), k=tf.constant(k)
    )
    unit = users / np.linalg.norm(users, axis=-1, keepdims=True)
    cosine = unit @ items.T
    weights = np.exp(sharpness * cosine)
    mixture = (weights / weights.sum(axis=1, keepdims=True) * cosine).sum(axis=1)
    assert answer["score"].shape == (len(users), k)
    np.testing.assert_allclose(answer["score"], -np.sort(-mixture, axis=1)[:, :k], atol=1e-5)
    row = {item.encode(): i for i, item in enumerate(catalogue.item_id)}
    rows = np.array([[row[item] for item in ids] for ids in answer["item_id"].numpy()])
    assert (rows != by_numpy(users, items, k)[1]).any(), "Eq. 3 must order them otherwise"
    np.testing.assert_allclose(answer["score"], np.take_along_axis(mixture, rows, 1), atol=1e-5)


def test_recommendations_are_scored_anew_too_and_seen_items_stay_away(
    shop_models, shop_dataset, catalogue, tmp_path
):
    settings = RetrievalConfig(rescore_sharpness=0.0)
    models = with_retrieval(settings, shop_models, shop_dataset, tmp_path)
    wish = request(catalogue, range(30), k=5, exclude_seen=True)
    plain, anew = (load(m, "retrieval_exact")["recommend"](**wish) for m in (shop_models, models))
    [ids] = anew["item_id"].numpy()
    assert len(set(ids) - {b""}) == 5
    assert not set(ids) & {catalogue.item_id[row].encode() for row in range(30)}
    assert (np.diff(anew["score"].numpy()) <= 0).all()
    assert (anew["score"].numpy() < plain["score"].numpy() + 1e-6).all(), "a mean, not a maximum"
    count = len(catalogue)
    everything = load(models, "retrieval_exact")["recommend"](**wish | {"k": tf.constant(count)})
    [ids] = everything["item_id"].numpy()
    assert (ids[: count - 30] != b"").all()
    assert (ids[count - 30 :] == b"").all()
