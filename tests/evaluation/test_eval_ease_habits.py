"""EASE with habits and recent popularity, as `benchmarks/ease_habits.py` measures it."""

import importlib.util
import json
import pathlib
import sys

import numpy as np
import pytest

from guim_tf.evaluation import baselines, metrics

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "benchmarks" / "ease_habits.py"
DAY = 86_400


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("ease_habits", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["ease_habits"] = module
    spec.loader.exec_module(module)
    return module


def test_weights_of_zero_are_ease(script, shop_protocol):
    [rows] = script.lists(shop_protocol, [(0.0, 0.0)])
    [ease] = [x for x in baselines.baselines(shop_protocol)[0] if x.name == "EASE"]
    np.testing.assert_array_equal(rows, metrics.top_k(ease.score(np.arange(3)), 100))


def test_each_weight_orders_by_its_own_term(script, shop_protocol):
    habits, popular = script.lists(shop_protocol, [(100.0, 0.0), (0.0, 100.0)])
    # Anna has A twice and B once, ben C, finn D.
    assert habits[:, 0].tolist() == [0, 3, 2]
    assert habits[0, 1] == 1
    # Of the last 30 days: B has two buyers, A and C one each.
    assert popular[:, 0].tolist() == [1, 1, 1]
    assert [set(row) for row in popular[:, 1:3].tolist()] == [{0, 3}] * 3


@pytest.fixture
def habitual(shop_writer, tmp_path):
    """Users who buy an item of their own every ten days, and from as_of on what all know.

    A collector knows 120 items better, so that rows of a list of a hundred are his where EASE says
    nothing: nobody shares an item.
    """
    past, known = range(-95, 0, 10), [f"known {i}" for i in range(120)]
    log = {"collector": [(day - 1, item) for day in (-96, *past) for item in known]}
    for i in range(5):
        log[f"user {i}"] = [*((day, f"own {i}") for day in past), (1, known[0])]
    return shop_writer(tmp_path / "habitual", log)


def test_weights_are_chosen_before_the_moment(script, habitual):
    """After it nobody buys his own item, which would choose no habits; before it they all did."""
    found = script.ease_habits(habitual, test_days=30)
    assert found["repeat_weight"] > 0
    assert found["ease"]["CMP-L recall@100"] == found["with_habits"]["CMP-L recall@100"] == 1.0
    [plain, habits] = (
        script.METRICS["CMP-L"]["recall@20"](rows, script.truths(protocol)["CMP-L"])
        for protocol in [script.load_protocol(habitual, as_of=970 * DAY)]
        for rows in script.lists(protocol, [(0.0, 0.0), (0.8, 0.0)])
    )
    assert plain[1:].max() == 0  # the first is the collector
    assert habits[1:].min() == 1


def test_main_prints_one_line_of_json(script, habitual, capsys):
    assert script.main(["--dataset", str(habitual)]) == 0
    line = json.loads(capsys.readouterr().out)
    assert line["users"] == 5
    assert set(line["ease"]) == set(line["with_habits"])
    assert line["ease"]["CMP-L recall@100"] == 1.0


def test_main_refuses_what_has_no_past(script, shop_writer, tmp_path, capsys):
    folder = shop_writer(tmp_path / "dataset", {"anna": [(-1, "A"), (1, "A")]})
    assert script.main(["--dataset", str(folder)]) == 2
    assert capsys.readouterr().err.startswith("ease_habits: ")
