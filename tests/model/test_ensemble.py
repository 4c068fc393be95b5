"""Runs whose vectors stand side by side: what they score, in which order, and refusals."""

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
from guim_tf.retrieval import EXACT, build_index
from guim_tf.runs import load_run
from guim_tf.shards import shard_files
from guim_tf.strict_json import ConfigError, load, to_json

USERS = 24


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def together(shop_run, other_shop_run, shop_dataset):
    return load_ensemble([shop_run, other_shop_run], shop_dataset)


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


@pytest.fixture(scope="module")
def alone(shop_run, other_shop_run, shop_dataset, asked):
    """Of each run users `[B, C, d]`, items `[X, d]` and attention `[B, C, N]`."""
    found = []
    for run in (shop_run, other_shop_run):
        model = load_run(run)[0]
        users, attention = model.attend(*asked)
        items = [model.encode_items(batch) for batch in Catalogue(shop_dataset).batches()]
        found.append((unit(users.numpy()), np.concatenate(items), attention.numpy()))
    return found


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
    likeness = tf.constant([[[0.9, 0.8], [0.85, 0.1]], [[-0.5, -0.9], [-0.7, -0.6]]])
    assert pairs(likeness).numpy().tolist() == [[[1, 0], [0, 1]], [[1, 0], [0, 1]]]
    rng = np.random.default_rng(1)
    chosen = pairs(tf.constant(rng.normal(size=(30, 5, 5)), tf.float32)).numpy()
    np.testing.assert_array_equal(chosen.sum(axis=1), 1)
    np.testing.assert_array_equal(chosen.sum(axis=2), 1)


def test_interests_find_the_same_ones_of_a_turned_and_reordered_member():
    """The second member is the first in another space, its interests in an order of each user."""
    rng = np.random.default_rng(2)
    items, users = unit(rng.normal(size=(80, 8))), unit(rng.normal(size=(10, 4, 8)))
    turn = np.linalg.qr(rng.normal(size=(8, 8)))[0].astype(np.float32)
    order = np.stack([rng.permutation(4) for _ in range(10)])
    reordered = np.take_along_axis(users, order[:, :, None], axis=1)
    chosen = pairs(Agreement.of(items, items @ turn)(users, reordered @ turn)).numpy()
    np.testing.assert_array_equal(chosen.argmax(axis=2), np.argsort(order, axis=1))


def test_cosines_are_the_means_of_the_members(together, alone, asked, shop_dataset):
    model, config, _ = together
    assert isinstance(model, Ensemble)
    assert config.model.embedding_dim == 64
    users = model.encode_users(*asked).numpy()
    items = np.concatenate([model.encode_items(x) for x in Catalogue(shop_dataset).batches()])
    assert users.shape == (USERS, 3, 64)
    for vectors in (users, items):
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=-1), 1, rtol=1e-5)
    (first, first_items, _), (other, other_items, _) = alone
    np.testing.assert_allclose(users[..., :32], first / 2**0.5, atol=1e-5)
    order = [
        [np.abs(other[b] - 2**0.5 * users[b, c, 32:]).sum(axis=1).argmin() for c in range(3)]
        for b in range(USERS)
    ]
    assert all(sorted(x) == [0, 1, 2] for x in order)
    assert any(list(x) != [0, 1, 2] for x in order)  # not as they come
    ordered = np.take_along_axis(other, np.array(order)[:, :, None], axis=1)
    mean = (first @ first_items.T + ordered @ other_items.T) / 2
    np.testing.assert_allclose(users @ items.T, mean, atol=1e-5)

    attended, attention = model.attend(*asked)
    np.testing.assert_allclose(attended, users, atol=1e-5)
    of_other = np.take_along_axis(alone[1][2], np.array(order)[:, :, None], axis=1)
    np.testing.assert_allclose(attention, (alone[0][2] + of_other) / 2, atol=1e-5)


def test_what_is_exported_scores_the_same(
    together, asked, records, shop_run, other_shop_run, shop_dataset, tmp_path
):
    model, config, schema = together
    export(run=[shop_run, other_shop_run], models=tmp_path, dataset=shop_dataset)
    folder = latest(tmp_path, "user_encoder")
    assert load(Config, folder / "assets.extra" / "config.json") == config
    signatures = tf.saved_model.load(str(folder)).signatures
    saved = signatures["encode_user_examples"](examples=records, as_of=asked[1])
    np.testing.assert_allclose(saved["user_embedding"], model.encode_users(*asked), atol=1e-5)
    catalogue = Catalogue(shop_dataset)
    index = build_index(dataset=shop_dataset, models=tmp_path, build=EXACT)
    recommend = tf.saved_model.load(str(index.folder)).signatures["recommend"]
    item = catalogue.item_id[3]
    answer = recommend(
        item_id=tf.constant([[item]]),
        category_id=tf.constant([[catalogue.category_id[3]]]),
        title=tf.constant([[catalogue.title[3]]]),
        timestamp=tf.constant([[schema.as_of - 5]], tf.int64),
        as_of=tf.constant([schema.as_of], tf.int64),
        k=tf.constant(5),
        exclude_seen=tf.constant(True),
    )
    assert answer["item_id"].shape == [1, 5]
    assert item.encode() not in answer["item_id"].numpy()[0]
    assert np.isfinite(answer["score"]).all()


def test_weights_that_runs_chose_are_averaged(shop_run, tmp_path):
    for seed, weight in ((0, 0.3), (1, 0.4)):
        shutil.copytree(shop_run, tmp_path / str(seed))
        settings = ["retrieval.repeat_weight=null", f"training.seed={seed}"]
        config = configure(load(Config, shop_run / "config.json"), settings)
        (tmp_path / str(seed) / "config.json").write_text(to_json(config))
        result = json.loads((shop_run / "result.json").read_text()) | {"repeat_weight": weight}
        (tmp_path / str(seed) / "result.json").write_text(json.dumps(result))
    dataset = shop_run.parent / "dataset"
    _, config, _ = load_ensemble([tmp_path / "0", tmp_path / "1"], dataset)
    assert config.retrieval.repeat_weight == pytest.approx(0.35)
    assert config.retrieval.popularity_weight == 0


def test_what_does_not_belong_together_is_refused(
    shop_run, other_shop_run, shop_dataset, tmp_path, capsys
):
    with pytest.raises(ConfigError, match=r"seeds \[0, 0\]: the same training twice"):
        load_ensemble([shop_run, shop_run], shop_dataset)
    with pytest.raises(ConfigError, match="need --dataset"):
        load_ensemble([shop_run, other_shop_run])
    different = tmp_path / "different"
    shutil.copytree(other_shop_run, different)
    config = configure(load(Config, different / "config.json"), ["loss.alpha=10"])
    (different / "config.json").write_text(to_json(config))
    command = ["--run", str(shop_run), str(different), "--models", str(tmp_path / "models")]
    assert main([*command, "--dataset", str(shop_dataset)]) == 2
    assert "differ in training.seed alone" in capsys.readouterr().err
    assert not (tmp_path / "models").exists()
