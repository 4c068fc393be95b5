"""What a new release gives to what was made for the one before it."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from guim_tf.artifacts import ArtifactError, latest
from guim_tf.evaluation import profile
from guim_tf.evaluation.compatibility import CURRENT, MIXED, PREVIOUS, compare, main
from guim_tf.evaluation.metrics import mean, recall_at_k
from guim_tf.evaluation.protocol import load_protocol
from guim_tf.evaluation.search import search
from guim_tf.evaluation.tasks import K, truths
from guim_tf.evaluation.vectors import encode
from guim_tf.export import ITEM_ENCODER, USER_ENCODER, export
from guim_tf.schema import LABELS_FILE, USER_ID


@pytest.fixture(scope="module")
def other_models(shop_dataset, other_shop_run, shop_models, tmp_path_factory):
    """Folders of another training's release: as it is, and turned to the space of `shop_models`."""
    folder = tmp_path_factory.mktemp("other")
    export(run=other_shop_run, models=folder / "plain")
    export(run=other_shop_run, models=folder / "turned", align_to=shop_models, dataset=shop_dataset)
    return folder


@pytest.fixture(scope="module")
def unlabelled(shop_dataset, tmp_path_factory):
    """The shop without profiles, whose networks take longest."""
    folder = tmp_path_factory.mktemp("unlabelled") / "dataset"
    return shutil.copytree(shop_dataset, folder, ignore=shutil.ignore_patterns(LABELS_FILE))


@pytest.fixture(scope="module")
def one_label(shop_dataset, unlabelled, tmp_path_factory):
    """The shop with one label of its users."""
    folder = shutil.copytree(unlabelled, tmp_path_factory.mktemp("one") / "dataset")
    labels = pq.read_table(shop_dataset / LABELS_FILE)
    assert labels.column_names[0] == USER_ID
    pq.write_table(labels.select([0, 1]), folder / LABELS_FILE)
    return folder


def test_a_release_is_compatible_with_itself(one_label, shop_models, tmp_path, capsys, monkeypatch):
    """As the command says in a line of JSON; each label's network is fitted in two folds."""
    monkeypatch.setattr(profile, "FOLDS", 2)
    arguments = ["--dataset", str(one_label), "--previous", str(shop_models)]
    assert main([*arguments, "--models", str(shop_models)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["item_cosine"] == pytest.approx(1, abs=1e-5)
    assert set(found["kept"]) == {"recall@100", *found["accuracy"]}
    assert len(found["accuracy"]) == 1
    for name, kept in found["kept"].items():
        assert kept == 1, name
    assert main([*arguments, "--models", str(tmp_path)]) == 2
    assert "guim compatibility: " in capsys.readouterr().err


@pytest.fixture(scope="module")
def plain(unlabelled, shop_models, other_models):
    """Another training's release as it is, after `shop_models`."""
    return compare(
        dataset=unlabelled, models=other_models / "plain", previous=shop_models, progress=False
    )


def test_recall_is_that_of_the_evaluation(unlabelled, shop_models, other_models, plain):
    """Users and items of each release, and today's users among yesterday's items."""
    protocol = load_protocol(unlabelled)
    old, new = (
        encode(models, protocol, progress=False) for models in (shop_models, other_models / "plain")
    )
    truth = truths(protocol)["CMP-L"]
    pairs = {PREVIOUS: (old, old), MIXED: (new, old), CURRENT: (new, new)}
    for name, (users, items) in pairs.items():
        rows = search(users.user_embedding, items.item_embedding, K).rows
        assert plain.recall[name] == pytest.approx(mean(recall_at_k(rows, truth, K)).mean, abs=5e-3)


def test_turning_makes_another_training_fit(unlabelled, shop_models, other_models, plain):
    turned = compare(
        dataset=unlabelled, models=other_models / "turned", previous=shop_models, progress=False
    )
    assert turned.item_cosine > plain.item_cosine + 0.2
    assert turned.kept["recall@100"] > plain.kept["recall@100"] + 0.1
    np.testing.assert_allclose(
        [turned.recall[PREVIOUS], turned.recall[CURRENT]],
        [plain.recall[PREVIOUS], plain.recall[CURRENT]],
        atol=5e-3,
    )


def test_without_a_folder_the_version_before_is_the_previous_release(
    unlabelled, shop_models, other_models, tmp_path
):
    for name in (USER_ENCODER, ITEM_ENCODER):
        shutil.copytree(latest(shop_models, name), tmp_path / name / "1")
        shutil.copytree(latest(other_models / "plain", name), tmp_path / name / "2")
    found = compare(dataset=unlabelled, models=tmp_path, progress=False)
    assert [path.rsplit("/", 1)[1] for path in (found.previous, found.current)] == ["1", "2"]
    assert found.item_cosine < 0.9
    for name in (USER_ENCODER, ITEM_ENCODER):
        shutil.rmtree(tmp_path / name / "1")
    with pytest.raises(ArtifactError, match="holds 1 version of .item_encoder., expected 2"):
        compare(dataset=unlabelled, models=tmp_path, progress=False)
