"""The command on runs that cost nothing: what is done once, again, or not at all."""

import dataclasses
import html.parser
import json
import shutil

import numpy as np
import pytest
from benchmark_testing import BASELINES, method, report

import guim_tf.evaluation
from guim_tf.benchmark import benchmark, cells, main, page
from guim_tf.benchmark.command import BenchmarkError
from guim_tf.benchmark.item_map import ItemMap
from guim_tf.interrupt import Terminated
from guim_tf.schema import Schema, Vocabulary
from guim_tf.strict_json import to_json

RENDER_PAGE = page.render_page
VOCABULARY = Vocabulary(1, "x")
SCHEMA = Schema(
    items=VOCABULARY,
    categories=VOCABULARY,
    words=VOCABULARY,
    word_hash_rows=1,
    max_title_tokens=1,
    tokenizer="t",
    actions=(),
    first_timestamp=0,
    last_timestamp=9,
    as_of=5,
)


class Stages:
    """Stands in for training, export and evaluation: leaves their files and keeps a list."""

    def __init__(self):
        self.calls = []
        self.broken = {}  # (stage, "name/seed") -> error to raise

    def _enter(self, stage, folder):
        """No two trainings of one list of calls leave the same result."""
        where = f"{folder.parent.name}/{folder.name}"
        self.calls.append((stage, where))
        if (stage, where) in self.broken:
            raise self.broken[stage, where]

    def train(self, *, dataset, run, config, progress):
        run.mkdir(exist_ok=True)
        (run / "config.json").write_text(to_json(config))
        self._enter("train", run)
        fields = {"epochs": 2, "best_epoch": 2, "parameters": 10, "minutes": len(self.calls) / 8}
        fields["build"] = "0"
        (run / "result.json").write_text(json.dumps(fields))

    def export(self, *, run, models, dataset):
        (models / "item_encoder" / "1").mkdir(parents=True)
        self._enter("export", models)
        (models / "user_encoder" / "1").mkdir(parents=True)

    def evaluate(
        self, *, dataset, models, output, run=None, baselines=True, exclude_seen=False, **given
    ):
        if baselines:
            assert models is None
            assert not given
            self.calls.append(("evaluate", "baselines"))
            found = BASELINES
        elif models is None:
            self._enter("evaluate", output)
            # The file of users holds the recall, that of items the number of interests.
            recall = float(given["user_vectors"].read_text())
            count = int(given["item_vectors"].read_text())
            found = report([method("given", "model", recall, [1 / count] * count)])
            found["notes"] = ["3 items have no vector."]
        else:
            self._enter("evaluate", output)
            config = json.loads((run / "config.json").read_text())
            count = config["model"]["interests"]
            recall = 0.4 + count / 100 + config["training"]["seed"] / 10
            found = report([method("GUIM", "model", recall, [1 / count] * count)])
        found = found | {"protocol": found["protocol"] | {"exclude_seen": exclude_seen}}
        output.mkdir(parents=True, exist_ok=True)
        (output / "report.json").write_text(json.dumps(found))


@pytest.fixture
def stages(monkeypatch):
    found = Stages()
    for name in ("train", "export", "evaluate"):
        monkeypatch.setattr(cells, name, getattr(found, name))
    monkeypatch.setattr(guim_tf.evaluation, "evaluate", found.evaluate)
    points = np.arange(18.0).reshape(9, 2)
    item_map = ItemMap(
        items=points,
        interests=points[:4],
        explained=np.array([0.5, 0.1]),
        category=np.array(["a", "b", "c"] * 3, object),
        count=np.arange(9),
        user_id="user-7",
        bought=np.array([0, 1]),
        bought_next=np.array([1]),
    )
    monkeypatch.setattr(page, "encode_map", lambda dataset, models: item_map)
    monkeypatch.setattr(page, "render_page", lambda document, dataset, output: "a page")
    return found


@pytest.fixture
def run(suite_file, tmp_path, stages):
    """Runs the suite; gives the result and the stages that were called for it."""
    dataset = tmp_path / "dataset"
    dataset.mkdir()
    SCHEMA.save(dataset)

    def call(only=(), **changes):
        stages.calls.clear()
        result = benchmark(
            suite=suite_file(**changes),
            dataset=dataset,
            output=tmp_path / "out",
            only=only,
            progress=False,
        )
        return result, list(stages.calls)

    return call


def steps(*names):
    return [(stage, name) for name in names for stage in ("train", "export", "evaluate")]


def test_everything_once_and_then_nothing(run):
    first, calls = run()
    assert calls == [
        ("evaluate", "baselines"),
        *steps("C1/0", "C4/0", "C1/1", "C4/1"),
    ]
    again, calls = run()
    assert calls == []
    assert again.document == first.document
    assert json.loads(first.json_path.read_text()) == first.document


def test_numbers_come_from_the_right_runs(run):
    document = run()[0].document
    # .41 and .51 for C = 1, .44 and .54 for C = 4: .03 apart with either seed.
    means = {
        x["name"]: x["tasks"]["CMP-L"]["recall@100"]["mean"] for x in document["configurations"]
    }
    assert means == {"C1": pytest.approx(0.46), "C4": pytest.approx(0.49)}
    difference = document["configurations"][1]["difference"]["CMP-L"]["recall@100"]
    assert difference["mean"] == pytest.approx(0.03)
    assert difference["half_width"] == pytest.approx(0, abs=1e-9)
    assert [x["name"] for x in document["baselines"]] == ["popular", "EASE"]


def test_a_changed_configuration_is_run_again_alone(run, tmp_path):
    run()
    changed = [
        {"name": "C1", "family": "GUIM", "settings": ["model.interests=1"]},
        {"name": "C4", "family": "GUIM", "settings": ["model.interests=3"]},
    ]
    result, calls = run(configurations=changed)
    assert calls == steps("C4/0", "C4/1")
    assert result.document["configurations"][1]["interests"] == 3
    assert sorted(x.name for x in (tmp_path / "out/models/C4/0/item_encoder").iterdir()) == ["1"]


def test_a_configuration_of_an_earlier_version_is_run_again(run, tmp_path):
    run()
    file = tmp_path / "out/runs/C1/0/config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"forgotten": {}}))
    assert run()[1] == steps("C1/0")


def test_a_model_of_several_trainings_is_made_anew_with_any_of_them(run):
    """A member that is another cell's run may have been trained anew there, or for another one."""

    def entries(interests):
        common = {"settings": [f"model.interests={interests}"]}
        return [{"name": "C1"} | common, {"name": "C1x2", "members": 2} | common]

    last = [("train", "1x2/2"), ("train", "1x2/3")]  # members that no other cell has
    first = run(configurations=entries(1))[1]
    assert [x for x in first if x[0] == "train"] == [
        *(("train", f"C1/{seed}") for seed in (0, 1)),
        *last,
    ]
    # Of all, the pair's first finds C1/1 changed and trains it; then that one has a stale report.
    calls = run(configurations=entries(3))[1]
    assert calls == [
        *steps("C1/0"),
        ("train", "C1/1"),
        ("export", "C1x2/0x2"),
        ("evaluate", "C1x2/0x2"),
        ("export", "C1/1"),
        ("evaluate", "C1/1"),
        *last,
        ("export", "C1x2/1x2"),
        ("evaluate", "C1x2/1x2"),
    ]
    # With the singles trained first, every member is finished, and the models of before are not.
    run(configurations=entries(4), only=["C1"])
    calls = run(configurations=entries(4))[1]
    made = [("export", "C1x2/0x2"), ("evaluate", "C1x2/0x2")]
    assert calls[:2] == made
    assert run(configurations=entries(4))[1] == []


def test_a_changed_name_reference_or_seed_list_repeats_nothing_that_is_there(run):
    run()
    result, calls = run(seeds=[1, 2], reference="C4", title="Other")
    assert calls == steps("C1/2", "C4/2")
    assert result.document["reference"] == "C4"


@pytest.mark.parametrize("stage", ["train", "export", "evaluate"])
def test_an_interrupted_suite_continues_where_it_was(run, stages, stage):
    stages.broken[stage, "C4/0"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        run()
    stages.broken.clear()
    result, calls = run()
    left = steps("C4/0", "C1/1", "C4/1")
    assert calls == left[[name for name, _ in left].index(stage) :]
    assert all(len(x["runs"]) == 2 for x in result.document["configurations"])


def test_deleting_the_reports_evaluates_again_without_training(run, tmp_path):
    run()
    shutil.rmtree(tmp_path / "out/reports")
    assert run()[1] == [("evaluate", name) for name in ("C1/0", "C4/0", "C1/1", "C4/1")]


def test_a_training_that_was_there_before_the_code_changed_is_told(run, tmp_path):
    run()
    file = tmp_path / "out/runs/C4/1/result.json"
    trained = json.loads(file.read_text())
    for build, shown in ((trained | {"build": "older"}, "older"), (trained, None)):
        file.write_text(json.dumps(build))
        told = f"C4, seed 1: trained by other builds than evaluated it: {shown}."
        assert run()[0].document["notes"] == [told] * (shown is not None)
    del trained["build"]
    file.write_text(json.dumps(trained))
    (told,) = run()[0].document["notes"]
    assert told.endswith("evaluated it: unknown.")


def test_a_run_that_fails_is_named_and_the_others_go_on(run, stages):
    stages.broken["train", "C4/1"] = ValueError("the loss is NaN at step 7")
    result, calls = run()
    assert calls[-1] == ("train", "C4/1")
    assert result.failed == {"C4 seed 1": "the loss is NaN at step 7"}
    assert result.document["notes"] == ["C4 seed 1 failed: the loss is NaN at step 7"]
    assert [len(x["runs"]) for x in result.document["configurations"]] == [2, 1]
    stages.broken.clear()
    assert run()[0].document["notes"] == []


def test_when_every_run_fails_there_is_no_comparison(run, stages, tmp_path):
    for name in ("C1/0", "C1/1", "C4/0", "C4/1"):
        stages.broken["train", name] = ValueError(f"{name} is bad")
    with pytest.raises(BenchmarkError, match="no run could be finished: C1/0 is bad"):
        run()
    assert not (tmp_path / "out/results.json").exists()


def test_only_runs_one_and_compares_what_is_there(run):
    result, calls = run(only=["C4"])
    assert calls == [("evaluate", "baselines"), *steps("C4/0", "C4/1")]
    assert result.document["notes"] == ["Not finished yet: C1 seed 0, C1 seed 1."]
    result, calls = run(only=["C1"])
    assert calls == steps("C1/0", "C1/1")
    assert [x["name"] for x in result.document["configurations"]] == ["C1", "C4"]
    with pytest.raises(BenchmarkError, match=r"only is 'C3', expected .*\['C1', 'C4'\]"):
        run(only=["C3"])


def test_an_output_belongs_to_one_data_set(run, tmp_path):
    run()
    dataclasses.replace(SCHEMA, as_of=6).save(tmp_path / "dataset")
    with pytest.raises(BenchmarkError, match="another data set"):
        run()
    SCHEMA.save(tmp_path / "dataset")
    assert run()[1] == []


@pytest.mark.parametrize("name", ["counters.json", "labels.parquet"])
def test_another_build_of_the_data_set_is_another_data_set(run, tmp_path, name):
    """The same schema with other users in the shards, or with other labels."""
    file = tmp_path / "dataset" / name
    file.write_text("90 % of the users")
    run()
    file.write_text("all users")
    with pytest.raises(BenchmarkError, match="an earlier build of it"):
        run()


def test_a_folder_of_something_else_is_left_alone(run, stages, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.txt").write_text("years of work")
    with pytest.raises(BenchmarkError, match="not empty"):
        run()
    assert stages.calls == []
    assert [x.name for x in (tmp_path / "out").iterdir()] == ["thesis.txt"]


@pytest.fixture
def files(tmp_path):
    """Two seeds of made-up vectors, whose recall and C the stand-in reads from the files."""
    for seed, recall in ((0, 0.6), (1, 0.7)):
        (tmp_path / f"{seed}-users.txt").write_text(str(recall))
        (tmp_path / f"{seed}-items.txt").write_text("2")
    return {
        "name": "SASRec",
        "user_vectors": "{seed}-users.txt",
        "item_vectors": "{seed}-items.txt",
    }


def row(result, name):
    return next(x for x in result.document["configurations"] if x["name"] == name)


def test_vectors_from_elsewhere_stand_beside_the_configurations(run, files):
    result, calls = run(vectors=[files], reference="C4")
    first, second = ("evaluate", "SASRec/0"), ("evaluate", "SASRec/1")
    assert calls == [
        ("evaluate", "baselines"),
        *steps("C1/0", "C4/0"),
        first,
        *steps("C1/1", "C4/1"),
        second,
    ]
    found = row(result, "SASRec")
    assert (found["interests"], found["config"], found["gain_percent"]) == (2, None, None)
    # .6 and .7: the standard error of two values is half of their distance.
    mean = found["tasks"]["CMP-L"]["recall@100"]
    assert mean == {
        "mean": pytest.approx(0.65),
        "half_width": pytest.approx(12.706 * 0.05),
        "n": 2,
    }
    # C = 4 has .44 and .54: .16 below with either seed.
    assert found["difference"]["CMP-L"]["recall@100"]["mean"] == pytest.approx(0.16)
    assert result.document["notes"] == ["SASRec, seeds 0, 1: 3 items have no vector."]
    lines = result.markdown_path.read_text().splitlines()
    assert "| SASRec | **.6500** ± .6353 | **.0650** ± .0635 |" in lines
    assert any(
        line.startswith("| SASRec | 1 | – | – | – | 0.250 | `'user_vectors=") for line in lines
    )
    assert run(vectors=[files], reference="C4")[1] == []


def test_other_files_under_the_same_name_are_scored_again_alone(run, files, tmp_path):
    run(vectors=[files])
    (tmp_path / "1-users.txt").write_text("0.75")
    result, calls = run(vectors=[files])
    assert calls == [("evaluate", "SASRec/1")]
    mean = row(result, "SASRec")["tasks"]["CMP-L"]["recall@100"]["mean"]
    assert mean == pytest.approx(0.675)
    assert run(vectors=[files | {"score": "dot"}])[1] == [
        ("evaluate", "SASRec/0"),
        ("evaluate", "SASRec/1"),
    ]


def test_other_ids_of_the_same_array_are_scored_again(run, files, tmp_path):
    (tmp_path / "users.npy").write_text("0.6")
    (tmp_path / "users.ids.txt").write_text("a\nb\n")
    once = {"user_vectors": "users.npy", "item_vectors": "0-items.txt"}
    run(vectors=[files | once])
    assert run(vectors=[files | once])[1] == []
    (tmp_path / "users.ids.txt").write_text("b\na\n")
    assert run(vectors=[files | once])[1] == [("evaluate", "SASRec/0")]


def test_vectors_without_a_seed_are_held_to_every_seed_of_the_reference(run, files, tmp_path):
    once = {"user_vectors": "0-users.txt", "item_vectors": "0-items.txt"}
    result, _ = run(vectors=[files | once])
    found = row(result, "SASRec")
    assert [x["seed"] for x in found["runs"]] == [0]
    assert found["tasks"]["CMP-L"]["recall@100"]["half_width"] is None
    # .6 - .41 and .6 - .51: mean .14, standard error .05.
    assert found["difference"]["CMP-L"]["recall@100"] == {
        "mean": pytest.approx(0.14),
        "half_width": pytest.approx(12.706 * 0.05),
        "n": 2,
    }


def test_every_seed_is_held_to_a_reference_without_one(run, files):
    once = {"user_vectors": "0-users.txt", "item_vectors": "0-items.txt"}
    result, _ = run(vectors=[files | once], reference="SASRec")
    # .44 - .6 and .54 - .6: mean -.11, standard error .05.
    assert row(result, "C4")["difference"]["CMP-L"]["recall@100"] == {
        "mean": pytest.approx(-0.11),
        "half_width": pytest.approx(12.706 * 0.05),
        "n": 2,
    }
    assert row(result, "SASRec")["difference"]["CMP-L"]["recall@100"]["mean"] == 0


def test_a_seed_of_vectors_with_another_c_is_refused(run, files, tmp_path):
    (tmp_path / "1-items.txt").write_text("3")
    with pytest.raises(ValueError, match=r"'SASRec' have \{0: 2, 1: 3\} interests"):
        run(vectors=[files])


def test_excluding_what_was_seen_evaluates_again_without_training(run, tmp_path):
    run()
    result, calls = run(exclude_seen=True)
    every = [("evaluate", name) for name in ("C1/0", "C4/0", "C1/1", "C4/1")]
    assert calls == [("evaluate", "baselines"), *every]
    for path in (tmp_path / "out").rglob("report.json"):
        assert json.loads(path.read_text())["protocol"]["exclude_seen"]
    assert result.document["protocol"]["exclude_seen"]
    assert run(exclude_seen=True)[1] == []


def test_the_page_is_whole(run, stages, files, monkeypatch):
    monkeypatch.setattr(page, "render_page", RENDER_PAGE)
    stages.broken["train", "C1/1"] = ValueError("NaN at <step> 7")
    result, _ = run(vectors=[files])
    text = result.html_path.read_text(encoding="utf-8")
    open_tags, sources = [], []

    class Page(html.parser.HTMLParser):
        def handle_starttag(self, tag, attrs):
            sources.extend(value for name, value in attrs if name == "src")
            if tag not in ("meta", "img", "col", "br"):
                open_tags.append(tag)

        def handle_endtag(self, tag):
            assert open_tags.pop() == tag

    Page().feed(text)
    assert open_tags == []
    # Bars of means and of accuracy, both and the gain against C, slices of two tasks, interests,
    # the map.
    assert len(sources) == 9
    assert all(x.startswith("data:image/svg+xml;base64,") for x in sources)
    for expected in (
        "Interests",
        "C1",
        "EASE",
        "user-7",
        "SASRec",
        "+.0300",
        "C1 seed 1 failed: NaN at &lt;step&gt; 7",
        'href="reports/C4/1/report.html"',
    ):
        assert expected in text
    assert "table.data {" in text  # the look of a report
    assert result.document["command"] in text


def test_main_prints_the_table_and_progress(suite_file, tmp_path, stages, capsys):
    SCHEMA.save(tmp_path)
    path, out = suite_file(seeds=[0]), tmp_path / "out"
    arguments = ["--suite", str(path), "--dataset", str(tmp_path), "--output", str(out)]
    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert "| C4 | .4400 | .0440 |" in printed.out
    assert printed.out.splitlines()[-1] == str(out / "index.html")
    lines = printed.err.splitlines()
    assert lines[0] == "[0:00:00] baselines"
    assert lines[1] == "[0:00:00] 1/2 C1 seed 0: training"
    assert lines[6].endswith("2/2 C4 seed 0: evaluating")
    stages.broken["train", "C4/1"] = ValueError("NaN")
    suite_file(seeds=[0, 1])
    assert main(arguments) == 1
    assert "guim benchmark: C4 seed 1 failed: NaN" in capsys.readouterr().err
    for stop, status in ((KeyboardInterrupt(), 130), (Terminated(), 143)):
        stages.broken["train", "C4/1"] = stop
        assert main(arguments) == status
        assert "The same command continues" in capsys.readouterr().err


def test_main_runs_those_of_one_only_or_of_several(suite_file, tmp_path, stages, capsys):
    SCHEMA.save(tmp_path)
    path, out = suite_file(seeds=[0]), tmp_path / "out"
    arguments = ["--suite", str(path), "--dataset", str(tmp_path), "--output", str(out)]
    assert main([*arguments, "--only", "C4"]) == 0
    assert stages.calls == [("evaluate", "baselines"), *steps("C4/0")]
    stages.calls.clear()
    assert main([*arguments, "--only", "C4", "C1"]) == 0
    assert stages.calls == steps("C1/0")
    assert main([*arguments, "--only", "C4", "--only", "C3"]) == 2
    assert "only is 'C3'" in capsys.readouterr().err


def test_main_refuses_bad_input_in_one_line(suite_file, tmp_path, stages, capsys):
    out = tmp_path / "out"
    arguments = ["--dataset", str(tmp_path / "none"), "--output", str(out), "--suite"]
    assert main([*arguments, str(suite_file())]) == 2
    assert "schema.json does not exist" in capsys.readouterr().err
    assert main([*arguments, str(suite_file(seeds=[]))]) == 2
    error = capsys.readouterr().err
    assert "seeds is ()" in error
    assert error.count("\n") == 1
    assert not out.exists()
    assert stages.calls == []
