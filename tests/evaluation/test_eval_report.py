"""The command from end to end on the shop: numbers, page, files, and one line for bad input."""

import html.parser
import json
import math
import shutil
import subprocess
import sys

import numpy as np
import pytest

from guim_tf.evaluation import evaluate, main
from guim_tf.evaluation.command import parse_moment
from guim_tf.evaluation.curves import Curves, read_curves
from guim_tf.evaluation.document import comparisons
from guim_tf.evaluation.interests import Interests
from guim_tf.evaluation.matching import Method
from guim_tf.evaluation.tables import cold_table, number, signed
from guim_tf.evaluation.tasks import Measured

AS_OF = 1000 * 86_400


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    lines = [
        {"epoch": 1, "loss": 9.0, "val_loss": 9.5, "val_recall@100": 0.1, "interest_cosine": 0.9},
        {"epoch": 2, "loss": 7.0, "val_loss": 8.5, "val_recall@100": 0.2, "interest_cosine": 0.7},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "history.jsonl").write_text(text + '{"epoch": 3, "lo')
    return folder


@pytest.fixture(scope="module")
def report(shop, shop_models, run, tmp_path_factory):
    output = tmp_path_factory.mktemp("report") / "new" / "folder"
    return evaluate(dataset=shop, models=shop_models, output=output, run=run)


def test_report_json_is_the_document(report):
    assert json.loads(report.json_path.read_text()) == report.document
    assert sorted(x.name for x in report.json_path.parent.iterdir()) == [
        "report.html",
        "report.json",
    ]


def test_the_models_row(report):
    # All five items are ranked, so everything is found among a hundred.
    assert report.mean("GUIM, C = 2", "CMP-L", "recall@100") == 1
    # Next items: anna's C is fifth, ben's B fourth, finn's A third (see test_eval_vectors).
    gains = [1 / 2.584962500721156, 1 / 2.321928094887362, 1 / 2]
    found = report.mean("GUIM, C = 2", "CMP-N", "ndcg@20")
    assert found == pytest.approx(sum(gains) / 3)
    interests = report.document["methods"][0]["interests"]
    assert interests["recommended"] == pytest.approx([12 / 15, 3 / 15])
    assert interests["purchased"] == [1, 0]
    assert interests["mean_cosine"] == 0


def test_facts_and_absent_means(report):
    document = report.document
    assert document["protocol"]["as_of_timestamp"] == AS_OF
    assert document["protocol"]["users"] == 3
    assert document["protocol"]["tasks"]["CMP-L"] == {
        "users": 3,
        "pairs": 5,
        "repeated_share": pytest.approx(1 / 5),
        "never_seen": {"users": 0, "pairs": 0},
    }
    assert document["protocol"]["tasks"]["CMP-S"]["users"] == 2
    nobody = document["methods"][0]["slices"]["CMP-L"]["item popularity"]["never seen"]
    assert nobody == {"mean": None, "half_width": None, "users": 0}
    assert [x["kind"] for x in document["methods"]] == ["model"] + ["baseline"] * 4
    assert document["models"][0].endswith("user_encoder/1")
    assert {"guim_tf", "tensorflow", "numpy", "python"} <= set(document["versions"])


def test_a_model_is_compared_with_the_best_baseline_user_by_user():
    def method(name, *values, interests=None):
        return Method(
            name, "", Measured({"CMP-L": {"recall@100": np.array(values)}}, {}), interests
        )

    worse = method("popular", 0.9, 0, 0, np.nan)
    best = method("EASE", 0.2, 0.5, 0.8, np.nan)
    one = Interests(np.ones(1), np.ones(1), np.ones((1, 1)), np.nan, 0.0)
    model = method("GUIM", 0.4, 0.5, 0.9, np.nan, interests=one)
    (line,) = comparisons([model, worse, best], "recall@100", ["CMP-L"])
    assert (line["model"], line["baseline"], line["task"]) == ("GUIM", "EASE", "CMP-L")
    # .2, 0 and .1: deviation .1; unpaired it would be three times as much.
    assert line["difference"].mean == pytest.approx(0.1)
    assert line["difference"].half_width == pytest.approx(1.96 * 0.1 / math.sqrt(3))
    assert line["difference"].users == 3
    assert comparisons([model], "recall@100", ["CMP-L"]) == []


def test_comparisons_are_of_all_tasks(report):
    lines = {x["task"]: x["difference"] for x in report.document["comparisons"]}
    assert {task: line["users"] for task, line in lines.items()} == {
        "CMP-L": 3,
        "CMP-S": 2,
        "CMP-N": 3,
    }


class Page(html.parser.HTMLParser):
    """Checks that tags close in order, and keeps text, links and table cells."""

    VOID = ("meta", "img", "col", "br")

    def __init__(self, text):
        super().__init__()
        self.open, self.sources, self.text, self.best = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.sources += [value for name, value in attrs if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append((tag, dict(attrs).get("class")))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if self.open and self.open[-1][0] != "style":
            self.text.append(data.strip())
        if self.open and self.open[-1] == ("td", "best"):
            self.best.append(data)


def test_page_is_whole_and_needs_nothing_else(report):
    page = Page(report.html_path.read_text(encoding="utf-8"))
    assert len(page.sources) == 3  # means, interests, training
    assert all(x.startswith("data:image/svg+xml;base64,") for x in page.sources)
    text = " ".join(page.text)
    for expected in (
        "GUIM, C = 2",
        "EASE",
        "1 unreadable line(s)",
        "never seen",
        report.document["dataset"]["fingerprint"],
    ):
        assert expected in text
    assert "User anna" not in text  # nobody in the shop has the five events of an example
    assert "1.0000" in page.best


def test_page_shows_users_and_escapes_their_items(shop_protocol, shop_models, report):
    from guim_tf.evaluation import examples
    from guim_tf.evaluation import report as writer
    from guim_tf.evaluation.vectors import encode

    examples_of = pytest.MonkeyPatch()
    examples_of.setattr(examples, "LEAST_EVENTS", 1)
    drawn = examples.draw_examples(
        shop_protocol, encode(shop_models, shop_protocol, progress=False), seed=0
    )
    examples_of.undo()
    assert sorted(x.user_id for x in drawn) == ["anna", "ben", "finn"]
    anna = next(x for x in drawn if x.user_id == "anna")
    assert [(x.title, x.date) for x in anna.history] == [
        ("<b>bread</b> & butter", "1972-09-26"),
        ("apple", "1972-09-22"),
    ]
    assert [(x.title, x.known) for x in anna.future] == [
        ("C", False),  # has no title
        ("apple", True),
        ("dates", False),
    ]
    assert anna.future_items == 3
    first = anna.interests[0][0]
    assert (first.title, first.known, first.bought) == ("apple", True, True)
    assert anna.interests[1][0].title == "eggs"
    page = writer.render_page(report.document, curves=None, examples=drawn)
    assert "&lt;b&gt;bread&lt;/b&gt; &amp; butter" in page
    assert "<b>bread" not in page
    text = " ".join(Page(page).text)
    assert "User anna" in text
    assert "Interest 2" in text


def test_users_are_drawn_by_the_seed(shop_protocol, shop_models, monkeypatch):
    from guim_tf.evaluation import examples
    from guim_tf.evaluation.vectors import encode

    monkeypatch.setattr(examples, "LEAST_EVENTS", 1)
    monkeypatch.setattr(examples, "USERS", 1)
    vectors = encode(shop_models, shop_protocol, progress=False)
    drawn = [
        examples.draw_examples(shop_protocol, vectors, seed=seed)[0].user_id
        for seed in (0, *range(20))
    ]
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) == 3


def test_baselines_only(shop, tmp_path, capsys):
    assert main(["--dataset", str(shop), "--output", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "GUIM" not in printed
    assert "popular, last 30 days" in printed
    assert "As of 1972-09-27: 3 users, 5 candidates" in printed
    text = " ".join(Page((tmp_path / "report.html").read_text(encoding="utf-8")).text)
    assert "Vectors of" not in text
    assert "Training" not in text


def test_table_has_the_best_starred(shop, shop_models, tmp_path, capsys):
    arguments = ["--dataset", str(shop), "--models", str(shop_models), "--output", str(tmp_path)]
    assert main([*arguments, "--no-baselines"]) == 0
    printed = capsys.readouterr().out
    assert "1.0000*" in printed
    assert "EASE" not in printed


def test_one_user_without_a_first_day(shop_writer, tmp_path):
    log = {"x": [(-1, "A"), (3, "A")], "y": [(-2, "B")]}
    report = evaluate(dataset=shop_writer(tmp_path / "x", log), models=None, output=tmp_path)
    # A and B have a buyer each: A is the lower row. An interval needs a second user.
    row = report.document["methods"][0]["tasks"]
    assert row["CMP-L"]["ndcg@20"] == {"mean": 1, "half_width": None, "users": 1}
    assert row["CMP-S"]["ndcg@20"] == {"mean": None, "half_width": None, "users": 0}
    assert "–" in Page(report.html_path.read_text(encoding="utf-8")).text


def test_bad_input_is_one_line_and_writes_nothing(shop, shop_models, shop_writer, tmp_path, capsys):
    output = tmp_path / "report"
    truncated = shop_writer(tmp_path / "truncated")
    shard = truncated / "train" / "part-00001-of-00002.tfrecord"
    shard.write_bytes(shard.read_bytes()[:-1])
    other = shop_writer(tmp_path / "other", words=("other", "words"))
    half = tmp_path / "half"
    shutil.copytree(shop_models / "item_encoder", half / "item_encoder")
    models = ["--models", str(shop_models)]
    for arguments, message in (
        ([str(tmp_path / "none")], "none/schema.json does not exist"),
        ([str(truncated), *models], "part-00001-of-00002.tfrecord has"),
        ([str(other), *models], "words: "),
        ([str(shop), "--models", str(half)], "'user_encoder'"),
        ([str(shop), *models, "--as-of", "1972-09-20"], "expected that or later"),
        ([str(shop), "--as-of", "soon"], "--as-of is 'soon'"),
        ([str(shop), "--run", str(tmp_path)], "history.jsonl can't be read"),
        ([str(shop), "--no-baselines"], "nothing to evaluate"),
    ):
        assert main(["--output", str(output), "--dataset", *arguments]) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("guim evaluate: ")
        assert message in error
        assert not output.exists()


def test_an_unfinished_write_leaves_the_old_report(report, tmp_path):
    from guim_tf.evaluation.report import write_report

    written = write_report(tmp_path, document=report.document, page="old")
    with pytest.raises(UnicodeEncodeError):
        write_report(tmp_path, document=report.document, page="\ud800")
    assert written.html_path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2


def test_curves_of_a_resumed_run(tmp_path):
    (tmp_path / "history.jsonl").write_text(
        '{"epoch": 2, "loss": 5}\n{"epoch": 1, "loss": 6, "note": "x", "flag": true}\n'
        '{"epoch": 2, "loss": 4, "mlm_loss": 2, "recall@100": NaN, "seconds": 3}\nbroken\n[1]\n\n'
    )
    curves = read_curves(tmp_path)
    # The second run of epoch 2 counts; text, truth values and NaN are no points of a curve.
    assert curves.series == {"loss": [(1, 6), (2, 4)], "mlm_loss": [(2, 2)], "seconds": [(2, 3)]}
    assert curves.unreadable == 2


def test_panels_of_curves():
    falling, rising = [(1, 5.0), (2, 4.0)], [(1, 0.1), (2, 0.2)]
    series = {
        "seconds": [(1, 7.0)],
        "val_recall@100": rising,
        "loss": falling,
        "total_loss": falling,  # the same again
        "regularization_loss": [(1, 0.0), (2, 0.0)],
        "val_loss": [(1, 6.0)],
    }
    panels = Curves(series, unreadable=0).panels
    assert panels == {
        "loss": ["loss", "val_loss"],
        "recall@100": ["val_recall@100"],
        "seconds": ["seconds"],
    }
    assert list(panels) == ["loss", "recall@100", "seconds"]


def test_numbers_as_printed():
    assert [number(x) for x in (0.47604, 1.0, 0.0)] == [".4760", "1.0000", ".0000"]
    assert [signed(x) for x in (0.01, -0.135)] == ["+.0100", "−.1350"]


def test_moments():
    assert parse_moment("86400000") == AS_OF
    assert parse_moment("1972-09-27") == AS_OF
    assert parse_moment("1972-09-27T02:00:00+02:00") == AS_OF


def test_importing_and_help_are_cheap():
    code = (
        "import sys, guim_tf.evaluation as room\n"
        "try: room.main(['--help'])\n"
        "except SystemExit as e: assert e.code == 0\n"
        "heavy = {'tensorflow', 'matplotlib', 'pyarrow', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "guim evaluate --dataset dataset --output report" in done.stdout


def test_exclude_seen(shop, shop_models, tmp_path):
    report = evaluate(dataset=shop, models=shop_models, output=tmp_path, exclude_seen=True)
    # Of what anna bought next (A, C and D) she had A; ben and finn bought what they had not.
    for method in ("GUIM, C = 2", "EASE", "popular, all time"):
        assert report.mean(method, "CMP-L", "recall@100") == pytest.approx((2 / 3 + 1 + 1) / 3)
    repeated = report.document["methods"][0]["slices"]["CMP-L"]["purchase"]["repeated"]
    assert (repeated["mean"], repeated["users"]) == (0, 1)
    page = report.html_path.read_text(encoding="utf-8")
    assert "items bought before are removed" in page
    assert "left out of all rankings" in page


def test_items_never_seen_have_a_table(shop_writer, tmp_path):
    log = {
        "x": [(-2, "A"), (1, "E"), (2, "D")],
        "y": [(-1, "B"), (1, "A")],
        **{f"z{i:03d}": [(-3, f"old{i:03d}")] for i in range(110)},
    }
    report = evaluate(dataset=shop_writer(tmp_path / "x", log), models=None, output=tmp_path)
    # x's E and D have no past; 112 items do, and fill all hundred places of the popular ones.
    assert report.document["protocol"]["tasks"]["CMP-L"]["never_seen"] == {"users": 1, "pairs": 2}
    assert report.document["protocol"]["tasks"]["CMP-N"]["never_seen"] == {"users": 1, "pairs": 1}
    cold = cold_table(report.document)
    assert [title for title, _, _ in cold.groups] == ["CMP-L", "CMP-N"]
    assert cold.columns[0] == ("recall@100", "2 truths of 1 users")
    assert {row.name: row.cells[0].mean for row in cold.rows}["popular, all time"] == 0
    assert "Items never seen" in report.html_path.read_text(encoding="utf-8")


def test_the_page_has_the_shared_metrics_side_by_side_and_the_short_lists_apart(report):
    from guim_tf.evaluation import tables

    document = json.loads(report.json_path.read_text())
    shared = tables.shared_table(document)
    assert [count for _, _, count in shared.groups] == [3, 3, 3]
    assert [name for name, _ in shared.columns] == ["recall@100", "recall@20", "ndcg@20"] * 3
    short = tables.short_lists_table(document)
    assert [task for task, _, _ in short.groups] == ["CMP-N"]
    assert {"recall@10", "ndcg@10", "recall@5", "ndcg@5"} <= {name for name, _ in short.columns}
    assert "short lists" in report.html_path.read_text()
