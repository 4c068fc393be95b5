"""The comparison of made-up runs: every number by hand."""

import base64
import dataclasses
import json
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from benchmark_testing import BASELINES, TASKS, method, report

from guim_tf.benchmark import plots, suite, tables
from guim_tf.benchmark.item_map import ItemMap, project
from guim_tf.benchmark.results import Finished, ResultsError, to_document
from guim_tf.benchmark.suite import load_suite

PANELS = {task: ("tasks", task, "recall@100") for task in TASKS}
TRAINING = {"epochs": 5, "best_epoch": 3, "parameters": 1200, "minutes": 1.5}
# recall@100 on CMP-L by configuration and seed.
RECALL = {"C1": {0: 0.40, 1: 0.44}, "C4": {0: 0.44, 1: 0.50}}
SHARES = {"C1": {0: [1.0], 1: [1.0]}, "C4": {0: [0.1, 0.5, 0.2, 0.2], 1: [0.7, 0.1, 0.1, 0.1]}}


def finished(name: str, seed: int) -> Finished:
    row = method(f"GUIM of {name}", "model", RECALL[name][seed], SHARES[name][seed])
    return Finished(seed, TRAINING, report([row]), f"reports/{name}/{seed}/report.html")


@pytest.fixture
def make(suite_file):
    def document(runs: dict[str, list[int]], notes: list[str] | None = None, **changes) -> dict:
        found = to_document(
            suite=load_suite(suite_file(**changes)),
            finished={name: [finished(name, seed) for seed in of] for name, of in runs.items()},
            baselines=BASELINES,
            command="guim benchmark --suite s.json",
            notes=notes or [],
        )
        json.dumps(found, allow_nan=False)
        return found

    return document


@pytest.fixture
def document(make):
    return make({"C1": [0, 1], "C4": [0, 1]})


def of(document, name):
    return next(x for x in document["configurations"] if x["name"] == name)


def test_means_over_seeds(document):
    # .44 and .50: mean .47, deviations .03, standard error .03.
    found = of(document, "C4")["tasks"]["CMP-L"]["recall@100"]
    assert found == {
        "mean": pytest.approx(0.47),
        "half_width": pytest.approx(12.706 * 0.03),
        "n": 2,
    }
    assert [x["tasks"]["CMP-L"]["recall@100"] for x in of(document, "C4")["runs"]] == [0.44, 0.50]


def test_differences_from_the_reference_are_paired(document):
    # .44 - .40 and .50 - .44: mean .05, standard error .01; unpaired it would be .03 and more.
    found = of(document, "C4")["difference"]["CMP-L"]["recall@100"]
    assert found["mean"] == pytest.approx(0.05)
    assert found["half_width"] == pytest.approx(12.706 * 0.01)
    assert of(document, "C1")["difference"]["CMP-L"]["recall@100"]["mean"] == 0
    new = of(document, "C4")["slice_difference"]["CMP-L"]["purchase"]["new"]
    assert (new["mean"], new["users"]) == (pytest.approx(0.025), 20)


def test_gain_over_one_interest_in_percent(document):
    # .04 / .40 is 10 %, .06 / .44 is 13.636 %: mean 11.818, standard error 1.818.
    found = of(document, "C4")["gain_percent"]["CMP-L"]
    assert found["mean"] == pytest.approx(11.81818, abs=1e-4)
    assert found["half_width"] == pytest.approx(12.706 * 1.81818, abs=1e-3)


def test_shares_are_averaged_largest_with_largest(document):
    # .5 .2 .2 .1 and .7 .1 .1 .1
    found = of(document, "C4")["interests_summary"]
    assert found["purchased"] == pytest.approx([0.6, 0.15, 0.15, 0.1])
    assert found["mean_cosine"]["mean"] == 0.25
    assert of(document, "C1")["interests_summary"]["mean_cosine"]["mean"] is None


def test_a_slice_of_nobody_has_no_mean(document):
    nobody = of(document, "C4")["slices"]["CMP-L"]["item popularity"]["never seen"]
    assert nobody == {"mean": None, "half_width": None, "n": 0, "users": 0}


def test_only_seeds_that_both_have_are_compared(make):
    found = make({"C1": [1], "C4": [0, 1]})
    difference = of(found, "C4")["difference"]["CMP-L"]["recall@100"]
    assert difference == {"mean": pytest.approx(0.06), "half_width": None, "n": 1}
    assert of(found, "C4")["tasks"]["CMP-L"]["recall@100"]["n"] == 2


def test_without_the_reference_nothing_is_compared(make):
    found = make({"C4": [0]}, notes=["Not finished yet: C1 seed 0."])
    assert found["reference"] is None
    assert [x["name"] for x in found["configurations"]] == ["C4"]
    assert of(found, "C4")["difference"] == {}
    assert of(found, "C4")["gain_percent"] is None
    text = tables.markdown(found)
    assert "## Against" not in text
    assert "Not finished yet: C1 seed 0." in text


def test_accuracy_on_labels(document):
    found = of(document, "C4")
    assert found["accuracy"]["age"]["mean"] == pytest.approx(0.235)
    assert found["difference"]["CPP"]["age"]["mean"] == pytest.approx(0.025)
    assert [x["accuracy"] for x in found["runs"]] == [{"age": 0.22}, {"age": 0.25}]


def test_a_data_set_without_labels(suite_file):
    row = method("GUIM", "model", 0.5, [1.0])
    found = to_document(
        suite=load_suite(suite_file()),
        finished={"C1": [Finished(0, TRAINING, report([row], labels=False), "page")]},
        baselines=report(BASELINES["methods"], labels=False),
        command="c",
        notes=[],
    )
    assert found["profile"] is None
    assert found["configurations"][0]["accuracy"] == {}
    assert tables.accuracy_table(found) is None
    assert "CPP" not in tables.markdown(found)


def test_gain_on_labels(document):
    assert list(of(document, "C4")["gain_percent"]) == ["CMP-L", "CMP-N", "CPP age"]
    found = of(document, "C4")["gain_percent"]["CPP age"]  # accuracy is half of the recall
    assert found["mean"] == pytest.approx(11.81818, abs=1e-4)


def leave_one_out(found: dict) -> dict:
    """A report of forty users with one item each, and lists as short as published ones."""
    tasks = {task: {"users": 40, "pairs": 40, "repeated_share": 0.0} for task in TASKS}
    for row in found["methods"]:
        recall = row["tasks"]["CMP-N"]["recall@100"]
        for k in (5, 10, 20):
            row["tasks"]["CMP-N"][f"recall@{k}"] = recall | {"mean": recall["mean"] * k / 100}
            row["tasks"]["CMP-N"][f"ndcg@{k}"] = recall | {"mean": recall["mean"] * k / 1000}
    protocol = found["protocol"] | {"tasks": tasks, "exclude_seen": True}
    return found | {"protocol": protocol}


def test_leave_one_out_shows_what_is_published(suite_file):
    def run(name, seed):
        row = method("GUIM", "model", RECALL[name][seed], SHARES[name][seed])
        return Finished(seed, TRAINING, leave_one_out(report([row])), "page")

    found = to_document(
        suite=load_suite(suite_file(exclude_seen=True)),
        finished={name: [run(name, seed) for seed in (0, 1)] for name in ("C1", "C4")},
        baselines=leave_one_out(report([method("EASE", "baseline", 0.45)])),
        command="c",
        notes=[],
    )
    assert found["headline"] == {"metric": "recall@10", "tasks": ["CMP-N"]}
    table = tables.results_table(found)
    assert table.groups == [("CMP-N", "40 users", 6)]
    names = ["HR@5", "HR@10", "HR@20", "NDCG@5", "NDCG@10", "NDCG@20"]
    assert [title for title, _ in table.columns] == names
    text = tables.markdown(found)
    # HR@10 of C = 4: a tenth of half of .44 and .50, mean .0235 and interval 12.706 x .0015.
    assert "**.0235** ± .0191" in text
    assert "| EASE | .0112 ± .0100 | .0225 ± .0100 |" in text
    assert "CMP-N HR@10" in text
    assert "CMP-L NDCG@20" not in text
    assert "Every user has one item to find" in text
    assert list(of(found, "C4")["gain_percent"]) == ["CMP-N", "CPP age"]
    assert tables.sliced_tasks(found) == ["CMP-N"]


def test_a_mode_of_its_own_is_named(make, monkeypatch):
    monkeypatch.setitem(suite.MODES, "other", suite.Config.paper)
    both = [{"name": "C1", "settings": ["model.interests=1"]}, {"name": "C4", "mode": "other"}]
    found = make({"C1": [0], "C4": [0]}, configurations=both)
    assert [x["mode"] for x in found["configurations"]] == ["paper", "other"]
    lines = tables.markdown(found).splitlines()
    assert "| C4 | 0 | 3 of 5 | 1.5 | 1,200 | 0.250 | mode other |" in lines


@pytest.mark.parametrize("other", ["metric", "labels"])
def test_reports_that_measure_something_else_are_refused(suite_file, other):
    row = method("GUIM", "model", 0.5, [1.0])
    if other == "metric":
        row["tasks"]["CMP-L"]["recall@5"] = row["tasks"]["CMP-L"]["recall@100"]
    with pytest.raises(ResultsError, match=r"old/page.html measures .*Remove the folders"):
        to_document(
            suite=load_suite(suite_file()),
            finished={
                "C1": [
                    Finished(0, TRAINING, report([row], labels=other == "metric"), "old/page.html")
                ]
            },
            baselines=BASELINES,
            command="c",
            notes=[],
        )


def test_a_single_vector_of_another_mode_is_no_yardstick(make):
    """C = 1 of the same family, or the reference where that has the same mode."""
    single = {"name": "C1", "family": "GUIM", "settings": ["model.interests=1"]}
    for changes, has in (
        ({"family": "other"}, True),
        ({"family": "other", "mode": "tuned"}, False),
    ):
        several = {"name": "C4", "settings": ["model.interests=4"], **changes}
        found = make({"C1": [0, 1], "C4": [0, 1]}, configurations=[single, several])
        assert (of(found, "C4")["gain_percent"] is not None) == has


def test_a_row_says_how_many_of_its_seeds_are_there(make):
    lines = tables.markdown(make({"C1": [0, 1], "C4": [1]})).splitlines()
    assert "| C1 | .4200 ± .2541 | .0420 ± .0254 |" in lines
    assert "| C4 (1 of 2 seeds) | **.5000** | **.0500** |" in lines
    assert "| C4 (1 of 2 seeds) | **.2500** |" in lines  # of profiles


def test_vectors_alone_and_how_lists_are_ranked(suite_file):
    """Lists of C4 have .1 more than its vectors; with one seed they have another weight."""
    runs = {}
    for name in RECALL:
        for seed, recall in RECALL[name].items():
            rows = [method(f"GUIM of {name}", "model", recall + 0.1 * (name == "C4"), [1.0])]
            rows += [method("vectors alone", "model", recall, [1.0])] * (name == "C4")
            rows[0]["definition"] = f"Habits of {seed}."
            path = f"reports/{name}/{seed}/report.html"
            runs.setdefault(name, []).append(Finished(seed, TRAINING, report(rows), path))
    runs["C1"] = [dataclasses.replace(runs["C1"][0], seed=seed) for seed in (0, 1)]
    found = to_document(
        suite=load_suite(suite_file()), finished=runs, baselines=BASELINES, command="c", notes=[]
    )
    assert of(found, "C1")["alone"] is None
    lines = tables.markdown(found).splitlines()
    assert "| C4 | **.5700** ± .3812 | **.0570** ± .0381 |" in lines
    assert "| C4, vectors alone | .4700 ± .3812 | .0470 ± .0381 |" in lines
    assert "- C1, seeds 0, 1: Habits of 0." in lines
    assert "- C4, seed 1: Habits of 1." in lines


def test_other_versions_than_the_baselines_are_told(suite_file):
    reports = [report([method("GUIM", "model", 0.5, [1.0])]) for _ in range(2)]
    reports[1]["versions"] = reports[1]["versions"] | {"products": "bfloat16"}
    found = to_document(
        suite=load_suite(suite_file()),
        finished={"C1": [Finished(i, TRAINING, x, "page.html") for i, x in enumerate(reports)]},
        baselines=BASELINES,
        command="c",
        notes=[],
    )
    assert found["notes"] == [
        "C1, seed 1: evaluated with other versions than the baselines: products bfloat16 (none)."
    ]


def test_a_training_of_another_build_than_the_evaluation_is_told(suite_file):
    """Of three trainings side by side two are of builds that are no more."""
    reports = [report([method("GUIM", "model", 0.5, [1.0])]) for _ in range(2)]
    now = reports[0]["versions"]["guim_tf"]
    builds = [[now], sorted(["0.0.9, source abc", now, "unknown"])]
    found = to_document(
        suite=load_suite(suite_file()),
        finished={
            "C1": [
                Finished(seed, TRAINING | {"builds": of}, reports[seed], "page.html")
                for seed, of in enumerate(builds)
            ]
        },
        baselines=BASELINES,
        command="c",
        notes=[],
    )
    assert found["notes"] == [
        "C1, seed 1: trained by other builds than evaluated it: 0.0.9, source abc; unknown."
    ]


def test_without_a_family_there_is_no_gain(make):
    plain = [{"name": "C1", "settings": ["model.interests=1"]}, {"name": "C4"}]
    found = make({"C1": [0, 1], "C4": [0, 1]}, configurations=plain)
    assert of(found, "C4")["gain_percent"] is None
    assert plots.plot_against_interests(found["configurations"], panels=PANELS, label="x") is None


def test_markdown(document):
    text = tables.markdown(document)
    lines = text.splitlines()
    assert lines[0] == "# Interests"
    assert "guim benchmark --suite s.json" in lines
    # CMP-L: the best of the column is bold; a baseline has its interval over users.
    assert "| C1 | .4200 ± .2541 | .0420 ± .0254 |" in lines
    assert "| C4 | **.4700** ± .3812 | **.0470** ± .0381 |" in lines
    assert "| EASE | .4500 ± .0100 | .0450 ± .0100 |" in lines
    assert (
        "| C4 | +.0500 ± .1271 | +.0050 ± .0127 | +.0250 ± .0635 | +.0025 ± .0064 "
        "| +.0250 ± .0635 |"
    ) in lines
    assert "## CPP, accuracy, 10 users" in lines
    assert "| C4 | **.2350** ± .1906 |" in lines  # .22 and .25
    assert "| EASE | .2250 ± .0200 |" in lines
    assert "| C4 | +11.8 ± 23.1 | +11.8 ± 23.1 | +11.8 ± 23.1 |" in lines  # CPP is half of CMP-L
    assert "| C4 | 1 | 3 of 5 | 1.5 | 1,200 | 0.250 | `model.interests=4` |" in lines
    assert "Mode: paper, and for all: `training.epochs=2`." in lines
    rows = [line for line in lines if line.startswith("|")]
    assert all(line.endswith("|") for line in rows)


def test_wide_tables_are_split_between_tasks(document):
    assert tables.packs([("L", 3), ("S", 3), ("N", 7), ("P", 2)]) == [["L", "S"], ["N", "P"]]
    assert tables.packs([("L", 12), ("S", 1)]) == [["L"], ["S"]]
    assert tables.packs([]) == []
    whole = tables.results_table(document)
    assert tables.split(whole) == [whole]
    wide = dataclasses.replace(
        whole,
        groups=[(title, note, 3 * count) for title, note, count in whole.groups],
        columns=3 * whole.columns,
        rows=[dataclasses.replace(row, cells=3 * row.cells) for row in whole.rows],
    )
    first, second = tables.split(wide)
    assert [title for title, _, _ in first.groups + second.groups] == ["CMP-L", "CMP-N"]
    assert first.columns + second.columns == wide.columns
    assert [a.cells + b.cells for a, b in zip(first.rows, second.rows, strict=True)] == [
        row.cells for row in wide.rows
    ]


@pytest.mark.parametrize(
    ("found", "options", "text"),
    [
        ({"mean": None, "half_width": None}, {}, "–"),
        ({"mean": 0.25, "half_width": None}, {}, ".2500"),
        ({"mean": -0.25, "half_width": 0.5}, {"sign": True}, "−.2500 ± .5000"),
        ({"mean": -2.04, "half_width": 0.5}, {"sign": True, "digits": 1}, "−2.0 ± 0.5"),
    ],
)
def test_an_interval_as_text(found, options, text):
    assert tables.interval(found, **options) == text


# ---------------------------------------------------------------------------- plots and map


def content(uri: str) -> str:
    """The SVG, which says its texts in comments."""
    kind, code = uri.split(",", 1)
    assert kind == "data:image/svg+xml;base64"
    return base64.b64decode(code).decode()


def is_svg(uri: str) -> bool:
    return ET.fromstring(content(uri)) is not None


def test_plots_of_a_comparison(document):
    found = document["configurations"]
    gains = {title: ("gain_percent", title) for title in (*TASKS, "CPP age")}
    labels = {"CPP age": ("accuracy", "age")}
    for panels in (PANELS, gains, labels):
        drawn = plots.plot_against_interests(
            found, panels=panels, label="x", percent=panels is gains
        )
        assert is_svg(drawn)
    assert is_svg(plots.plot_slices(found, reference="C1", task="CMP-L", label="x"))
    assert is_svg(plots.plot_interests(found))


def test_a_family_looks_the_same_where_another_is_left_out(document):
    """Without a C = 1 of its mode a family has no gain; the others keep their colours."""
    first, *rest = document["configurations"]
    alone = {**first, "name": "other", "family": "other", "gain_percent": None}
    found = [alone, first, *rest]
    gains = {"CMP-L": ("gain_percent", "CMP-L")}
    for panels, percent, drawn in ((PANELS, False, 2), (gains, True, 1)):
        svg = plots.plot_against_interests(found, panels=panels, label="x", percent=percent)
        assert [color in content(svg) for color in plots.COLORS[:2]] == [drawn == 2, True]


def test_no_two_of_many_configurations_look_the_same():
    """Eight colours are fewer than a suite may have: the ninth is not the first again."""
    count = 2 * len(plots.COLORS) * len(plots.MARKS)
    assert len({tuple(plots.look(number).values()) for number in range(count)}) == count


def test_slices_of_a_few_users_are_not_drawn(document):
    """One user's chance would set the scale for everyone, and nobody has no difference."""
    found = document["configurations"]
    parts = of(document, "C4")["slice_difference"]["CMP-L"]
    lone = parts["purchase"]["lone"] = {"mean": -1.0, "half_width": 3.0, "n": 2}

    def drawn(users):
        lone["users"] = users
        return content(plots.plot_slices(found, reference="C1", task="CMP-L", label="x"))

    assert "<!-- lone -->" in drawn(plots.LEAST_USERS)
    few = drawn(plots.LEAST_USERS - 1)
    assert "<!-- lone -->" not in few
    assert "<!-- repeated -->" in few
    assert "<!-- never seen -->" not in few  # by nobody
    for division in parts.values():
        for part in division.values():
            part["users"] = 1
    assert plots.plot_slices(found, reference="C1", task="CMP-L", label="x") is None


def test_plots_with_nothing_to_show_are_left_out(document):
    only = [of(document, "C1")]
    assert plots.plot_against_interests(only, panels=PANELS, label="x") is None
    assert plots.plot_slices(only, reference="C1", task="CMP-L", label="x") is None
    assert plots.plot_interests(only) is None


def test_projection_by_hand():
    # Unit vectors along x, -x, y and -y: two axes of half of the variance each, centred at 0.
    items = np.array([[3, 0, 0], [-1, 0, 0], [0, 2, 0], [0, -5, 0]], np.float32)
    points, interests, explained = project(items, np.array([[0, 7, 0], [0, 0, 1]], np.float32))
    np.testing.assert_allclose(explained, [0.5, 0.5])
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 1, atol=1e-12)
    np.testing.assert_allclose(points[0], -points[1], atol=1e-12)
    np.testing.assert_allclose(points[2] @ points[0], 0, atol=1e-12)
    np.testing.assert_allclose(interests[0], points[2], atol=1e-12)  # the same direction
    np.testing.assert_allclose(interests[1], [0, 0], atol=1e-12)  # a direction that is not drawn


def test_projection_finds_the_axis_of_most_variance():
    # All lie at angles of up to 0.2 around x: y varies, x hardly.
    angles = np.array([-0.2, -0.1, 0.0, 0.1, 0.2])
    items = np.stack([np.cos(angles), np.sin(angles), np.zeros(5)], axis=1)
    points, interests, explained = project(items, items[:1])
    np.testing.assert_allclose(points[:, 0], np.sin(angles), atol=1e-12)
    np.testing.assert_allclose(interests, points[:1], atol=1e-12)
    assert explained[0] > 0.98


def test_map_of_a_shop_without_categories():
    rng = np.random.default_rng(0)
    found = ItemMap(
        items=rng.normal(size=(30, 2)),
        interests=rng.normal(size=(3, 2)),
        explained=np.array([0.3, 0.2]),
        category=np.array([""] * 20 + ["a_very_long_name_of_a_category"] * 10, object),
        count=np.arange(30),
        user_id="u",
        bought=np.array([1, 2]),
        bought_next=np.array([], np.int64),
    )
    assert is_svg(plots.plot_map(found))
