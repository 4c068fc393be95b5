"""Runs whose vectors stand side by side: what they score, in which order, and refusals."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

from guim_tf.artifacts import latest
from guim_tf.catalogue import Catalogue
from guim_tf.config import Config, configure
from guim_tf.data import history_at
from guim_tf.ensemble import Agreement, Ensemble, load_ensemble, pairs
from guim_tf.export import export, main
from guim_tf.keras_compat import keras
from guim_tf.retrieval import EXACT, build_index
from guim_tf.runs import (
    BEST,
    CONFIG_FILE,
    INIT_FILE,
    RESULT_FILE,
    build_model,
    load_config,
    load_run,
    weights_of,
)
from guim_tf.schema import Schema
from guim_tf.shards import shard_files
from guim_tf.strict_json import ConfigError, load, to_json

USERS = 24


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def untrained(run, folder, *, interests: int, seed: int, **chosen: float):
    """A run folder like `run`, with fresh weights and the weights that its end has chosen."""
    settings = [
        f"model.interests={interests}",
        f"training.seed={seed}",
        "retrieval.repeat_weight=null",
    ]
    config = configure(load(Config, run / CONFIG_FILE), settings)
    shutil.copytree(run, folder)
    shutil.rmtree(folder / BEST)
    (folder / CONFIG_FILE).write_text(to_json(config))
    (folder / RESULT_FILE).write_text(json.dumps(chosen))
    keras.utils.set_random_seed(seed)
    weights_of(build_model(Schema.load(run), config)).save(str(folder / BEST / "weights"))
    return folder


@pytest.fixture(scope="module")
def runs(shop_run, tmp_path_factory):
    """The trained run and two of untrained weights."""
    folder = tmp_path_factory.mktemp("runs")
    weights = ((0.3, 1), (0.5, 2), (0.1, 3))
    return [
        untrained(shop_run, folder / str(seed), interests=3, seed=seed, repeat_weight=weight)
        for weight, seed in weights
    ]


@pytest.fixture(scope="module")
def together(runs, shop_dataset):
    return load_ensemble(runs, shop_dataset)


@pytest.fixture(scope="module")
def records(shop_dataset) -> tf.Tensor:
    files = shard_files(shop_dataset, "train")
    return tf.constant([r.numpy() for r in tf.data.TFRecordDataset(files).take(USERS)])


@pytest.fixture(scope="module")
def asked(records, together):
    """Histories, and the moment they are of."""
    _, config, schema = together
    as_of = tf.fill([USERS], tf.constant(schema.as_of, tf.int64))
    return history_at(records, as_of, schema, config.window), as_of


def encode_catalogue(model, dataset) -> np.ndarray:
    return np.concatenate([model.encode_items(x) for x in Catalogue(dataset).batches()])


def test_agreement_is_the_correlation_of_scores():
    rng = np.random.default_rng(0)
    items = [unit(rng.normal(size=(50, size)) + 0.3) for size in (8, 6)]
    users = [unit(rng.normal(size=(4, 3, size))) for size in (8, 6)]
    got = Agreement.of(*items)(*users).numpy()
    scores = [u @ i.T for u, i in zip(users, items, strict=True)]
    for user in range(4):
        both = np.corrcoef(scores[0][user], scores[1][user])[:3, 3:]
        np.testing.assert_allclose(got[user], both, atol=1e-5)


def test_the_most_alike_pair_comes_first_and_each_once():
    likeness = tf.constant([[[0.9, 0.8], [0.85, 0.1]], [[-0.5, -0.9], [-0.4, -0.6]]])
    assert pairs(likeness).numpy().tolist() == [[0, 1], [1, 0]]
    rng = np.random.default_rng(1)
    beside = pairs(tf.constant(rng.normal(size=(30, 5, 5)), tf.float32)).numpy()
    np.testing.assert_array_equal(np.sort(beside, axis=1), np.tile(np.arange(5), [30, 1]))


def test_interests_find_the_same_ones_of_a_turned_and_reordered_member():
    """The second member is the first in another space, its interests in an order of each user."""
    rng = np.random.default_rng(2)
    items, users = unit(rng.normal(size=(80, 8))), unit(rng.normal(size=(10, 4, 8)))
    turn = np.linalg.qr(rng.normal(size=(8, 8)))[0].astype(np.float32)
    order = np.stack([rng.permutation(4) for _ in range(10)])
    reordered = np.take_along_axis(users, order[:, :, None], axis=1)
    beside = pairs(Agreement.of(items, items @ turn)(users, reordered @ turn)).numpy()
    np.testing.assert_array_equal(beside, np.argsort(order, axis=1))


def test_cosines_are_the_means_of_the_members(together, runs, asked, shop_dataset):
    model, config, _ = together
    assert isinstance(model, Ensemble)
    assert config.model.embedding_dim == 3 * 32
    users, items = model.encode_users(*asked).numpy(), encode_catalogue(model, shop_dataset)
    assert users.shape == (USERS, 3, 96)
    for vectors in (users, items):
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=-1), 1, rtol=1e-5)
    attended, attention = model.attend(*asked)
    np.testing.assert_allclose(attended, users, atol=1e-5)

    scores, attentions, first = [], [], None
    for number, run in enumerate(runs):
        member = load_run(run)[0]
        of_users, of_events = (x.numpy() for x in member.attend(*asked))
        of_users, of_items = unit(of_users), encode_catalogue(member, shop_dataset)
        of_scores = of_users @ of_items.T
        if first is None:
            first = of_scores
        block = 3**0.5 * users[..., 32 * number : 32 * (number + 1)]
        order = np.abs(of_users[:, None] - block[:, :, None]).sum(axis=3).argmin(axis=2)
        np.testing.assert_array_equal(np.sort(order, axis=1), np.tile([0, 1, 2], [USERS, 1]))
        for user in range(USERS):  # the most alike pair of all is one
            alike = np.corrcoef(first[user], of_scores[user])[:3, 3:]
            row, column = np.unravel_index(alike.argmax(), alike.shape)
            assert order[user, row] == column
        scores.append(np.take_along_axis(of_scores, order[:, :, None], axis=1))
        attentions.append(np.take_along_axis(of_events, order[:, :, None], axis=1))
    np.testing.assert_allclose(users @ items.T, np.mean(scores, axis=0), atol=1e-5)
    np.testing.assert_allclose(attention, np.mean(attentions, axis=0), atol=1e-5)


def test_weights_that_runs_chose_are_averaged(together):
    _, config, _ = together
    assert config.retrieval.repeat_weight == pytest.approx(0.3)
    assert config.retrieval.popularity_weight == 0


def test_one_interest_needs_no_data_set(shop_run, asked, tmp_path):
    runs = [untrained(shop_run, tmp_path / str(x), interests=1, seed=x) for x in (1, 2)]
    model, _, _ = load_ensemble(runs)
    members = [unit(load_run(run)[0].encode_users(*asked).numpy()) for run in runs]
    expected = np.concatenate(members, axis=2) / 2**0.5
    np.testing.assert_allclose(model.encode_users(*asked), expected, atol=1e-5)


def test_what_is_exported_says_the_same_and_is_turned_as_one(
    together, runs, asked, records, shop_dataset, tmp_path, capsys
):
    model, config, schema = together
    command = ["--models", str(tmp_path), "--dataset", str(shop_dataset)]
    assert main(["--run", str(runs[0]), "--run", *map(str, runs[1:]), *command]) == 0
    folder = latest(tmp_path, "user_encoder")
    assert load(Config, folder / "assets.extra" / "config.json") == config
    saved = tf.saved_model.load(str(folder)).signatures
    found = saved["encode_user_examples"](examples=records, as_of=asked[1])
    np.testing.assert_allclose(found["user_embedding"], model.encode_users(*asked), atol=1e-5)

    catalogue = Catalogue(shop_dataset)
    item = catalogue.item_id[3]
    one = {
        "item_id": tf.constant([[item]]),
        "category_id": tf.constant([[catalogue.category_id[3]]]),
        "title": tf.constant([[catalogue.title[3]]]),
        "timestamp": tf.constant([[schema.as_of - 5]], tf.int64),
        "as_of": tf.constant([schema.as_of], tf.int64),
    }
    attention = saved["encode_users_with_attention"](**one)["attention"]
    assert attention.shape == [1, 3, 1]
    assert ((attention > 0) & (attention < 1)).numpy().all()
    index = build_index(dataset=shop_dataset, models=tmp_path, build=EXACT)
    recommend = tf.saved_model.load(str(index.folder)).signatures["recommend"]
    answer = recommend(**one, k=tf.constant(5), exclude_seen=tf.constant(True))
    assert answer["item_id"].shape == [1, 5]
    assert item.encode() not in answer["item_id"].numpy()[0]

    other = [runs[2], runs[1], runs[0]]  # the same blocks in another order: a rotation
    turned = export(run=other, models=tmp_path, dataset=shop_dataset, align_to=tmp_path)
    assert turned.cosine_before < 0.9
    assert turned.cosine_after == pytest.approx(1, abs=1e-4)


def test_what_does_not_belong_together_is_refused(runs, shop_dataset, tmp_path, capsys):
    with pytest.raises(ConfigError, match=r"seeds \[1, 1\]: the same training twice"):
        load_ensemble([runs[0], runs[0]], shop_dataset)
    with pytest.raises(ConfigError, match="need --dataset"):
        load_ensemble(runs[:2])
    unfinished = tmp_path / "unfinished"
    shutil.copytree(runs[1], unfinished)
    (unfinished / RESULT_FILE).unlink()
    with pytest.raises(ConfigError, match="unfinished is not finished"):
        load_ensemble([runs[0], unfinished], shop_dataset)
    asked = load(Config, runs[1] / CONFIG_FILE)
    weight = dataclasses.replace(asked.retrieval, repeat_weight=0.5)  # not chosen but given
    different = tmp_path / "different"
    shutil.copytree(runs[1], different)
    (different / CONFIG_FILE).write_text(to_json(dataclasses.replace(asked, retrieval=weight)))
    command = ["--run", str(runs[0]), str(different), "--models", str(tmp_path / "models")]
    assert main([*command, "--dataset", str(shop_dataset)]) == 2
    assert "differ in training.seed alone" in capsys.readouterr().err
    assert not (tmp_path / "models").exists()


def test_runs_of_another_day_stand_side_by_side_with_the_weights_that_their_bases_chose(
    runs, shop_dataset, tmp_path
):
    updates = []
    for run in runs[:2]:
        update = shutil.copytree(run, tmp_path / run.name)
        (update / CONFIG_FILE).write_text(to_json(load_config(run).update()))
        updates.append(update)
    with pytest.raises(ConfigError, match=r"differ in training.seed alone"):
        load_ensemble(updates, shop_dataset)  # as they are, of no other run
    for update, run in zip(updates, runs, strict=False):
        (update / INIT_FILE).write_text(json.dumps({"run": str(run)}))
    _, config, _ = load_ensemble(updates, shop_dataset)
    assert config.retrieval.repeat_weight == pytest.approx((0.3 + 0.5) / 2)
