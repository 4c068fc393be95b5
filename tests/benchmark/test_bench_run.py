"""One configuration with two seeds in earnest, on the small shop."""

import json
import shutil

import pytest

from guim_tf.artifacts import latest
from guim_tf.benchmark import benchmark
from guim_tf.benchmark.command import DATASET_FILE, _claim
from guim_tf.benchmark.item_map import LEAST_ITEMS, draw_user, encode_map
from guim_tf.config import Config
from guim_tf.evaluation.protocol import load_protocol
from guim_tf.strict_json import load

SETTINGS = [  # those of `small_config`
    "model.interests=3",
    "model.embedding_dim=32",
    "model.item_id_dim=16",
    "model.category_dim=16",
    "model.word_dim=8",
    "model.layers=1",
    "loss.logq=true",
    "window.max_length=32",
    "window.max_targets=16",
    "training.epochs=3",
]


@pytest.fixture(scope="module")
def outcome(shop_dataset, shop_run, tmp_path_factory):
    """The folder and the result of a suite whose first run was trained before."""
    folder = tmp_path_factory.mktemp("benchmark")
    dataset, output = folder / "dataset", folder / "out"
    shutil.copytree(shop_dataset, dataset)
    (dataset / "labels.parquet").unlink()  # profile prediction has tests of its own
    suite = {
        "title": "In earnest",
        "seeds": [0, 1],
        "reference": "C3",
        "settings": SETTINGS,
        "mode": "paper",
        "configurations": [{"name": "C3", "family": "GUIM"}],
    }
    (folder / "suite.json").write_text(json.dumps(suite))
    arguments = {"suite": folder / "suite.json", "dataset": dataset, "output": output}

    _claim(output, dataset)
    shutil.copytree(shop_run, output / "runs/C3/0")
    trained = (output / "runs/C3/0/result.json").stat().st_mtime_ns
    result = benchmark(**arguments, progress=False)
    assert (output / "runs/C3/0/result.json").stat().st_mtime_ns == trained
    return dataset, output, arguments, result


def test_the_means_are_those_of_the_runs(outcome):
    _, output, _, result = outcome
    assert result.failed == {}
    reports = [json.loads((output / f"reports/C3/{x}/report.json").read_text()) for x in (0, 1)]
    tasks = [x["methods"][0]["tasks"] for x in reports]
    assert tasks[0] != tasks[1]
    [configuration] = result.document["configurations"]
    for task in ("CMP-L", "CMP-N"):
        for metric in ("recall@20", "recall@100"):
            values = [x[task][metric]["mean"] for x in tasks]
            found = configuration["tasks"][task][metric]
            assert found["mean"] == pytest.approx(sum(values) / 2)
            # The standard error of two values is half of their distance.
            assert found["half_width"] == pytest.approx(12.706 * abs(values[0] - values[1]) / 2)
    assert configuration["interests"] == 3
    assert sum(configuration["interests_summary"]["purchased"]) == pytest.approx(1)


def test_baselines_are_measured_once(outcome):
    _, output, _, result = outcome
    report = json.loads((output / "reports/C3/1/report.json").read_text())
    assert [x["kind"] for x in report["methods"]] == ["model"]
    names = [x["name"] for x in result.document["baselines"]]
    assert {"EASE", "popular, all time"} <= set(names)
    assert "EASE" in result.markdown_path.read_text()


def test_again_nothing_is_repeated(outcome):
    _, output, arguments, result = outcome

    def written():
        parts = ("runs", "models", "reports", "baselines")
        files = [x for part in parts for x in (output / part).rglob("*") if x.is_file()]
        return {x: x.stat().st_mtime_ns for x in files}

    before = written()
    assert benchmark(**arguments, progress=False).document == result.document
    assert written() == before


def test_members_make_one_model_and_only_what_is_missing_is_trained(outcome, tmp_path):
    dataset, trained, arguments, _ = outcome
    suite = json.loads(arguments["suite"].read_text())
    both = {"name": "both", "members": 2}
    suite |= {"seeds": [0], "configurations": [both], "reference": "both"}
    (tmp_path / "suite.json").write_text(json.dumps(suite))
    output, runs = tmp_path / "out", tmp_path / "out/runs/both/0x2"
    shutil.copytree(trained / "runs/C3", runs)
    (runs / "1/result.json").unlink()  # its last epoch is there, its end is not
    kept = (runs / "0/result.json").stat().st_mtime_ns
    shutil.copytree(trained / "baselines", output / "baselines")
    shutil.copytree(trained / "models/C3/0", output / "models/both/0x2")  # of other trainings
    shutil.copy(trained / DATASET_FILE, output)
    result = benchmark(
        suite=tmp_path / "suite.json", dataset=dataset, output=output, progress=False
    )
    assert result.failed == {}
    assert (runs / "0/result.json").stat().st_mtime_ns == kept
    [configuration] = result.document["configurations"]
    [run] = configuration["runs"]
    results = [json.loads((runs / f"{seed}/result.json").read_text()) for seed in (0, 1)]
    assert run["minutes"] == pytest.approx(sum(x["minutes"] for x in results))
    assert run["parameters"] == 2 * results[0]["parameters"]
    assert "members=2" in configuration["settings"]
    folder = latest(output / "models/both/0x2", "user_encoder")
    assert load(Config, folder / "assets.extra/config.json").model.embedding_dim == 64
    report = json.loads((output / "reports/both/0x2/report.json").read_text())
    recalls = [
        json.loads((trained / f"reports/C3/{seed}/report.json").read_text())["methods"][0]["tasks"][
            "CMP-L"
        ]["recall@100"]["mean"]
        for seed in (0, 1)
    ]
    assert report["methods"][0]["tasks"]["CMP-L"]["recall@100"]["mean"] > min(recalls)
    assert json.loads((output / "results.json").read_text()) == result.document


def test_the_map_is_of_the_data_set(outcome):
    dataset, output, _, result = outcome
    protocol = load_protocol(dataset)
    found = encode_map(dataset, output / "models/C3/0")
    assert found.items.shape == (len(protocol.catalogue), 2)
    assert found.interests.shape == (3, 2)
    assert abs(found.items.mean(axis=0)).max() < 1e-9
    # Of unit vectors around a mean within the sphere: nothing is farther than 2 from it.
    assert (found.items**2).sum(axis=1).max() < 4
    assert 0 < found.explained[1] <= found.explained[0] < 1
    user = draw_user(protocol, seed=0)
    assert found.user_id == protocol.user_ids[user]
    assert len(found.bought) >= LEAST_ITEMS
    assert set(found.bought_next) == set(protocol.future.items[user])
    assert f"user {found.user_id}" in result.html_path.read_text()
