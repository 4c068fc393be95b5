"""Gains of several interests by how alike the items of a history are."""

import importlib.util
import json
import pathlib

import numpy as np
import pytest

from guim_tf.evaluation import vectors as room
from guim_tf.evaluation.ragged import ragged
from guim_tf.evaluation.vectors import Vectors

BENCHMARKS = pathlib.Path(__file__).resolve().parents[2] / "benchmarks"
USERS = 8


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("interest_gain", BENCHMARKS / "interest_gain.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_alike_is_the_mean_cosine_of_two_distinct_items(script):
    items = np.array([[2, 0], [0, 3], [1, 1], [-1, 0]], np.float32)
    history = ragged([[0, 1, 1], [0, 2], [0, 1, 3], [2, 2], []])
    found = script.alikeness(items, history)
    np.testing.assert_allclose(found[:3], [0, 0.5**0.5, -1 / 3], atol=1e-6)
    assert np.isnan(found[3:]).all()  # of one item there is no pair


@pytest.fixture
def two_sided(shop_writer, tmp_path):
    """Half of the users had A twice and A's like, half had A and B; all buy both next."""
    log = {
        f"u{i}": [(-9, "A"), (-8, "D" if i < USERS // 2 else "B"), (1, "A"), (2, "B")]
        for i in range(USERS)
    }
    return shop_writer(tmp_path / "dataset", log)


def test_users_of_many_sides_gain(script, two_sided, monkeypatch, capsys):
    """One vector finds A alone; of two the second finds B, for those who had it."""

    def encode(models, protocol, **options):
        ids = list(protocol.catalogue.item_id)
        items = np.zeros((len(ids), 2), np.float32)
        items[[ids.index("A"), ids.index("D")]] = [1, 0]
        items[ids.index("B")] = [0, 1]
        sides = [[1, 0]] if models == "one" else [[1, 0], [0, 1]]
        users = np.tile(np.array(sides, np.float32), (len(protocol), 1, 1))
        if models == "many":
            users[: USERS // 2, 1] = [1, 0]
        return Vectors(users, items, ())

    monkeypatch.setattr(room, "encode", encode)
    monkeypatch.setattr("guim_tf.evaluation.tasks.K", 2)
    arguments = ["--dataset", str(two_sided), "--one", "one", "one", "--many", "many", "many"]
    assert script.main(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["pairs"] == 2
    assert found["alike"] == [[0, 0], [0, 0], [1, 0], [1, 0]]
    # Of two places one vector fills both with A and D, who are alike: half of the truth.
    assert found["gain"] == [[0.5, 0], [0.5, 0], [0, 0], [0, 0]]
    assert found["gain_of_all"] == [[0.25, 0]]


def test_models_are_named_in_pairs(script, shop, shop_models, capsys):
    arguments = ["--dataset", str(shop), "--many", str(shop_models), "--one"]
    assert script.main([*arguments, str(shop_models), str(shop_models)]) == 2
    assert "give pairs" in capsys.readouterr().err
    assert script.main([*arguments, str(shop_models)]) == 2
    assert "has 2 vectors a user" in capsys.readouterr().err


def test_a_few_users_have_no_quarters(script, shop, monkeypatch, capsys):
    def encode(models, protocol, **options):
        users = np.ones([len(protocol), 1 if models == "one" else 2, 2], np.float32)
        return Vectors(users, np.ones([len(protocol.catalogue), 2], np.float32), ())

    monkeypatch.setattr(room, "encode", encode)
    assert script.main(["--dataset", str(shop), "--one", "one", "--many", "many"]) == 2
    assert "too few to part" in capsys.readouterr().err
