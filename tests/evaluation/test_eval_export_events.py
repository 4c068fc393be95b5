"""Events for recommenders of libraries, and their vectors measured by the benchmark."""

import importlib.util
import json
import pathlib
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

from guim_tf.evaluation import main as evaluate_main

BENCHMARKS = pathlib.Path(__file__).resolve().parents[2] / "benchmarks"
AS_OF = 1000 * 86_400


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def export():
    return load("export_events")


def test_events_before_the_moment_of_all_users_of_both_splits(export, shop, tmp_path, capsys):
    output = tmp_path / "new" / "events.parquet"
    assert export.main(["--dataset", str(shop), "--output", str(output)]) == 0
    assert capsys.readouterr().out == f"{output}: 8 events\n"
    table = pq.read_table(output)
    assert table.schema.metadata[b"as_of"] == str(AS_OF).encode()
    rows = {}
    for row in table.to_pylist():
        days = (row["timestamp"] - AS_OF) / 86_400
        rows.setdefault(row["user_id"], []).append((days, row["item_id"]))
    assert rows == {  # finn alone is in validation; dora was unknown before
        "anna": [(-10, "A"), (-5, "A"), (-1, "B")],
        "ben": [(-20, "C")],
        "cara": [(-40, "D"), (-2, "B")],
        "emil": [(-366, "A")],
        "finn": [(-365, "D")],
    }
    assert [path.name for path in output.parent.iterdir()] == ["events.parquet"]


def test_the_table_is_what_sasrec_reads(export, shop, tmp_path):
    export.export_events(dataset=shop, output=tmp_path / "events.parquet")
    files = load("sasrec_files")
    events = files.read_events(tmp_path / "events.parquet")
    assert files.as_of(events) == AS_OF
    assert "emil" not in files.recent(events)["user_id"].to_pylist()  # known by 365 days


def test_a_log_without_a_past_is_refused(export, shop_writer, tmp_path, capsys):
    folder = shop_writer(tmp_path / "dataset", {"anna": [(1, "A")], "ben": [(2, "A")]})
    arguments = ["--dataset", str(folder), "--output", str(tmp_path / "events.parquet")]
    assert export.main(arguments) == 2
    assert "--as-of" in capsys.readouterr().err
    assert not (tmp_path / "events.parquet").exists()


def test_what_is_no_data_set_is_refused(export, tmp_path, capsys):
    arguments = ["--dataset", str(tmp_path), "--output", str(tmp_path / "events.parquet")]
    assert export.main(arguments) == 2
    assert "guim build-dataset" in capsys.readouterr().err


def test_vectors_as_sasrec_writes_them_are_measured(shop, tmp_path):
    """Anna's vector points at C, her next item; Ben's and Finn's at items that they don't buy."""
    files = load("sasrec_files")
    items = ["A", "B", "C", "D"]  # E was never sold before: no vector
    fitted = files.Fitted(
        user_ids=np.array(["anna", "ben", "finn"], object),
        user_vectors=np.eye(4, dtype=np.float32)[[2, 3, 3]],
        item_ids=np.array(items, object),
        item_vectors=np.eye(4, dtype=np.float32) * [[1], [2], [5], [9]],
        epochs=1,
        best_epoch=1,
        validation_recall=0.0,
    )
    files.write_vectors(tmp_path, fitted)
    arguments = ["--dataset", str(shop), "--output", str(tmp_path / "report"), "--score", "dot"]
    for kind in ("user", "item"):
        arguments += [f"--{kind}-vectors", str(tmp_path / f"{kind}s.parquet")]
    assert evaluate_main(arguments) == 0
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert "given vectors, C = 1" in json.dumps(report)
    assert "1 of 5 items have no vector" in json.dumps(report)
