"""Turning a model towards another: what it finds, what it leaves alone, and refusals."""

import json

import numpy as np
import pytest
import tensorflow as tf

from guim_tf.alignment import align, orthogonal_map
from guim_tf.artifacts import latest
from guim_tf.catalogue import Catalogue
from guim_tf.encoders import encode_items, encode_users, load_encoder
from guim_tf.evaluation.protocol import load_protocol
from guim_tf.export import export, main
from guim_tf.strict_json import ConfigError


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def rotation(rng: np.random.Generator, size: int) -> np.ndarray:
    return np.linalg.qr(rng.normal(size=(size, size)))[0].astype(np.float32)


def test_a_rotation_is_found_again():
    rng = np.random.default_rng(0)
    items, planted = unit(rng.normal(size=(200, 16))), rotation(rng, 16)
    np.testing.assert_allclose(orthogonal_map(items, items @ planted), planted, atol=1e-5)


def test_no_other_orthogonal_matrix_comes_closer():
    rng = np.random.default_rng(1)
    old = unit(rng.normal(size=(300, 8)))
    new = unit(old @ rotation(rng, 8) + 0.3 * rng.normal(size=old.shape))
    best = orthogonal_map(new, old)
    np.testing.assert_allclose(best @ best.T, np.eye(8), atol=1e-5)
    distance = np.linalg.norm(new @ best - old)
    for _ in range(50):
        near = np.linalg.qr(best + 0.1 * rng.normal(size=(8, 8)))[0]
        near *= np.sign(np.diag(near.T @ best))
        assert np.linalg.norm(new @ near - old) >= distance


def vectors(models, dataset):
    protocol = load_protocol(dataset)
    items = encode_items(load_encoder(models, "item_encoder")[1], protocol.catalogue)
    model = load_encoder(models, "user_encoder")[1]
    users = encode_users(model, protocol.examples, as_of=protocol.as_of, progress=False)
    return users, items


def test_an_aligned_release_has_the_scores_that_it_had_in_the_space_of_the_other(
    shop_dataset, shop_models, other_shop_run, tmp_path
):
    export(run=other_shop_run, models=tmp_path / "plain")
    found = export(
        run=other_shop_run, models=tmp_path / "turned", align_to=shop_models, dataset=shop_dataset
    )
    users, items = vectors(tmp_path / "plain", shop_dataset)
    turned_users, turned_items = vectors(tmp_path / "turned", shop_dataset)
    np.testing.assert_allclose(turned_users @ turned_items.T, users @ items.T, atol=1e-5)
    reference = vectors(shop_models, shop_dataset)[1]
    bought = Catalogue(shop_dataset).count > 0
    before, after = (
        float((x * reference).sum(axis=1)[bought].mean()) for x in (items, turned_items)
    )
    assert found.cosine_before == pytest.approx(before, abs=1e-4)
    assert found.cosine_after == pytest.approx(after, abs=1e-4)
    assert after > before + 0.2
    assert found.aligned_to == str(latest(shop_models, "item_encoder"))


def test_signatures_of_a_turned_user_encoder_agree(
    shop_dataset, shop_models, other_shop_run, tmp_path
):
    export(run=other_shop_run, models=tmp_path, align_to=shop_models, dataset=shop_dataset)
    model = load_encoder(tmp_path, "user_encoder")[1]
    as_of = tf.constant([10**9], tf.int64)
    empty = tf.zeros([1, 0], tf.string)
    by_events = model.signatures["encode_users"](
        item_id=empty,
        category_id=empty,
        title=empty,
        timestamp=tf.zeros([1, 0], tf.int64),
        as_of=as_of,
    )
    record = tf.constant([tf.train.Example().SerializeToString()])
    by_record = model.signatures["encode_user_examples"](examples=record, as_of=as_of)
    np.testing.assert_allclose(by_events["user_embedding"], by_record["user_embedding"], atol=1e-6)


def test_a_release_follows_the_one_before_it_in_the_same_folder(
    shop_dataset, shop_run, other_shop_run, tmp_path, capsys
):
    models = ["--models", str(tmp_path)]
    assert main(["--run", str(shop_run), *models]) == 0
    assert json.loads(capsys.readouterr().out)["aligned_to"] is None
    more = ["--align-to", str(tmp_path), "--dataset", str(shop_dataset)]
    assert main(["--run", str(other_shop_run), *models, *more]) == 0
    shown = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert shown["aligned_to"].endswith("item_encoder/1")
    assert shown["item_encoder"].endswith("item_encoder/2")
    assert shown["cosine_after"] > shown["cosine_before"]


def test_what_cannot_be_aligned_is_refused(
    shop_dataset, shop_models, other_shop_run, tmp_path, capsys
):
    with pytest.raises(ConfigError, match="needs --dataset"):
        export(run=other_shop_run, models=tmp_path, align_to=shop_models)
    catalogue = Catalogue(shop_dataset)
    with pytest.raises(ConfigError, match="of size 32, and this model of size 8"):
        align(np.zeros([len(catalogue), 8], np.float32), catalogue, shop_models)
    status = main(
        [
            *("--run", str(other_shop_run), "--models", str(tmp_path / "m")),
            *("--align-to", str(tmp_path / "none"), "--dataset", str(shop_dataset)),
        ]
    )
    assert status == 2
    assert "holds no version of 'item_encoder'" in capsys.readouterr().err
    assert not (tmp_path / "m").exists()
