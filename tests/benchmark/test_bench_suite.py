"""Suite files: what they mean, and what is refused with a reason."""

import dataclasses
import pathlib

import pytest

from guim_tf.benchmark import suite as suites
from guim_tf.benchmark.cells import cells
from guim_tf.benchmark.suite import load_suite
from guim_tf.config import Config, LossConfig
from guim_tf.strict_json import ConfigError

SUITES = pathlib.Path(__file__).resolve().parents[2] / "benchmarks" / "suites"
FILES = {"name": "x", "user_vectors": "{seed}/u.npy", "item_vectors": "i.npy"}
C4 = {"name": "C4", "settings": ["model.interests=4"]}


def test_settings_are_the_suites_then_the_entrys_then_the_seed(suite_file):
    suite = load_suite(
        suite_file(
            settings=["training.epochs=2", "model.interests=8"],
            configurations=[{"name": "C1", "settings": ["model.interests=1"]}, {"name": "rest"}],
        )
    )
    first, rest = (suite.config(entry, 7) for entry in suite.configurations)
    assert (first.model.interests, rest.model.interests) == (1, 8)
    assert first.training.epochs == rest.training.epochs == 2
    assert first.training.seed == 7
    assert first.loss == Config.paper().loss


def test_cells_take_all_configurations_before_the_next_seed(suite_file, tmp_path):
    found = cells(load_suite(suite_file()), tmp_path)
    assert [(x.name, x.seed) for x in found] == [("C1", 0), ("C4", 0), ("C1", 1), ("C4", 1)]
    assert [x.run for x in found[1].members] == [tmp_path / "runs" / "C4" / "0"]
    assert found[3].members[0].config.training.seed == 1
    folders = {folder for x in found for folder in (x.members[0].run, x.models, x.report)}
    assert len(folders) == 12


def test_an_entry_may_have_another_mode_than_the_suite(suite_file, monkeypatch):
    logq = dataclasses.replace(Config.paper(), loss=LossConfig(logq=True))
    monkeypatch.setitem(suites.MODES, "with logQ", lambda: logq)
    suite = load_suite(
        suite_file(
            configurations=[{"name": "C1"}, {"name": "tuned", "mode": "with logQ"}],
            settings=["training.epochs=2"],
        )
    )
    paper, tuned = (suite.config(entry, 0) for entry in suite.configurations)
    assert (paper.loss.logq, tuned.loss.logq) == (False, True)
    assert paper.training == tuned.training


def test_files_of_vectors_are_beside_the_suite_and_of_each_seed(suite_file, tmp_path):
    once = {"name": "once", "user_vectors": "/all/u.parquet", "item_vectors": "i.parquet"}
    suite = load_suite(suite_file(vectors=[FILES, {**once, "score": "dot"}], reference="once"))
    found = [x for x in cells(suite, tmp_path / "out", folder=tmp_path) if x.name in ("x", "once")]
    assert [(x.name, x.seed) for x in found] == [("x", 0), ("once", 0), ("x", 1)]
    assert found[2].user_vectors == tmp_path / "1" / "u.npy"
    assert found[2].item_vectors == tmp_path / "i.npy"
    assert found[1].user_vectors == pathlib.Path("/all/u.parquet")
    assert [x.score for x in found] == ["cosine", "dot", "cosine"]
    assert found[2].report == tmp_path / "out" / "reports" / "x" / "1"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": [1]}, "unknown key 'seed'"),
        ({"title": None}, "missing 'title'"),
        ({"seeds": []}, "seeds is .*at least one"),
        ({"seeds": [1, 1]}, "seeds is .*distinct"),
        ({"seeds": [-1]}, "seeds is .*numbers from 0"),
        ({"seeds": ["0"]}, "expected int, got '0'"),
        ({"seeds": [True]}, "expected int, got True"),
        ({"configurations": []}, "configurations is .*at least one"),
        ({"configurations": [C4, C4]}, "distinct"),
        ({"configurations": [C4, {**C4, "name": "c4"}]}, "distinct"),  # one folder on some disks
        ({"configurations": [{"name": "C1"}, C4]}, "'C1' and 'C4' are the same configuration"),
        ({"configurations": [{**C4, "famliy": "x"}]}, "unknown key 'famliy'"),
        ({"configurations": [{"name": "../C1"}]}, "'../C1', expected letters"),
        ({"configurations": [{"name": ""}]}, "'', expected letters"),
        ({"configurations": [{"name": "C1", "mode": "papre"}]}, "'C1': mode is 'papre', expected"),
        ({"configurations": [{**C4, "members": 0}]}, "members is 0, expected a positive number"),
        ({"vectors": [{**FILES, "name": "c4"}]}, "vectors is .*distinct names"),
        ({"vectors": [{**FILES, "name": "a/b"}]}, "'a/b', expected letters"),
        ({"vectors": [{**FILES, "score": "l2"}]}, "score is 'l2', expected one of cosine, dot"),
        ({"vectors": [{"name": "x"}]}, "missing 'user_vectors', 'item_vectors'"),
        ({"reference": "C2"}, r"reference is 'C2', expected one of \['C1', 'C4'\]"),
        ({"mode": "papre"}, "mode is 'papre', expected one of .*'paper'"),
        ({"settings": ["model.intrests=4"]}, "configuration 'C1': --set model.intrests=4"),
        ({"settings": ["loss.alpha=-1"]}, "configuration 'C1': .*alpha is -1"),
        ({"settings": ["training.seed=3"]}, "training.seed is set by the suite's `seeds`"),
    ],
)
def test_broken_suites_are_refused(suite_file, changes, message):
    path = suite_file(**changes)
    with pytest.raises(ConfigError, match=message) as error:
        load_suite(path)
    assert str(path) in str(error.value)


def test_one_c_of_a_family_is_one_configuration(suite_file):
    both = [
        {"name": name, "family": "GUIM", "settings": ["model.interests=2", f"loss.logq={logq}"]}
        for name, logq in (("C1", "true"), ("C2", "false"))
    ]
    with pytest.raises(ConfigError, match="the same C of one family"):
        load_suite(suite_file(configurations=both))


def test_members_are_trained_once_with_seeds_of_their_own(suite_file, tmp_path):
    three = {"name": "C4x3", "settings": C4["settings"], "members": 3}
    suite = load_suite(suite_file(configurations=[three, C4], reference="C4", seeds=[0, 2]))
    assert [suite.size(entry) for entry in suite.configurations] == [4, 4]
    first, alone, second, _ = cells(suite, tmp_path)
    seeds = [[member.config.training.seed for member in x.members] for x in (first, second)]
    assert seeds == [[0, 1, 2], [6, 7, 8]]
    runs = [member.run.relative_to(tmp_path).as_posix() for member in first.members]
    assert runs == ["runs/C4/0", "runs/C4x3/0x3/1", "runs/C4/2"]  # those of C4 where it has them
    assert second.members[1].run == tmp_path / "runs/C4x3/2x3/7"
    assert second.report == tmp_path / "reports/C4x3/2x3"
    [member] = alone.members
    assert member.config == suite.config(suite.configurations[1], 0)
    assert member == first.members[0]


def test_a_file_that_is_not_json_or_not_there(tmp_path):
    (tmp_path / "suite.json").write_text("{title")
    with pytest.raises(ConfigError, match="suite.json is not JSON"):
        load_suite(tmp_path / "suite.json")
    with pytest.raises(ConfigError, match="none.json does not exist"):
        load_suite(tmp_path / "none.json")


@pytest.mark.parametrize("path", sorted(SUITES.glob("*.json")), ids=lambda x: x.stem)
def test_the_ready_suites_load(path):
    suite = load_suite(path)
    assert len(suite.seeds) >= 3


def test_there_are_ready_suites():
    names = {"shop_interests", "variants", "amazon_leave_one_out", "profiles"}
    assert names <= {path.stem for path in SUITES.glob("*.json")}
    assert load_suite(SUITES / "amazon_leave_one_out.json").exclude_seen
    shop = load_suite(SUITES / "shop_interests.json")
    drawn = [entry for entry in shop.configurations if entry.family]  # as lines against C
    made = [shop.config(entry, 0) for entry in drawn]
    assert [x.model.interests for x in made] == [1, 2, 4, 8, 2, 4, 8, 1, 1]
    # a vector of GUI-EDI is as long as C vectors together
    assert [shop.size(entry) for entry in drawn] == [1, 2, 4, 8, 2, 4, 8, 2, 4]
    amazon = load_suite(SUITES / "amazon_leave_one_out.json")  # modes differ in d
    assert {x.name: amazon.size(x) for x in amazon.configurations} == {
        "tuned-C4": 4,
        "tuned-C1": 1,
        "tuned-C1x3": 1,
        "GUIM-MH-4": 4,
        "GUI-EDI-2": 2,
        "paper-C4": 4,
        "paper-C1": 1,
    }
    variants = load_suite(SUITES / "variants.json")
    made = [variants.config(entry, 0) for entry in variants.configurations]
    modes = {(x.model.interests, x.model.causal) for x in made}
    assert modes >= {(1, False), (4, False), (1, True), (4, True)}
