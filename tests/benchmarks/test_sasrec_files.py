"""SASRec's input and output: events, settings, files of vectors, and answers to wrong ones."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sasrec_files
import sasrec_rectools
from sasrec_files import BaselineError, Fitted, Settings

DAY = 86_400
AS_OF = 1000 * DAY


@pytest.fixture
def events_file(tmp_path):
    """Writes a table of events: anna 400, 365 and 1 days before `as_of`, ben 366 days before."""

    def write(*, drop=(), metadata=("as_of",), rows=4):
        table = pa.table(
            {
                "user_id": ["anna", "anna", "anna", "ben"],
                "item_id": ["A", "B", "C", "A"],
                "timestamp": [AS_OF - days * DAY for days in (400, 365, 1, 366)],
            }
        )
        table = table.drop_columns(list(drop)).slice(0, rows)
        table = table.replace_schema_metadata({name: str(AS_OF) for name in metadata})
        pq.write_table(table, tmp_path / "events.parquet")
        return tmp_path / "events.parquet"

    return write


def fitted(**changes) -> Fitted:
    fields = {
        "user_ids": np.array(["anna", "ben"], object),
        "user_vectors": np.array([[1, 2], [3, 4]], np.float32),
        "item_ids": np.array(["A", "B", "C"], object),
        "item_vectors": np.array([[2, 0], [0, 3], [1, 1]], np.float32),
        "epochs": 3,
        "best_epoch": 2,
        "validation_recall": 0.5,
    }
    return Fitted(**(fields | changes))


def test_events_and_their_moment_are_read(events_file):
    events = sasrec_files.read_events(events_file())
    assert sasrec_files.as_of(events) == AS_OF
    assert events["item_id"].to_pylist() == ["A", "B", "C", "A"]


def test_users_are_known_by_the_last_year(events_file):
    recent = sasrec_files.recent(sasrec_files.read_events(events_file()))
    assert recent["user_id"].to_pylist() == ["anna", "anna"]  # ben's event is a day too old
    assert recent["item_id"].to_pylist() == ["B", "C"]  # exactly 365 days still counts


@pytest.mark.parametrize(
    "wrong",
    [{"drop": ["timestamp"]}, {"metadata": ()}, {"rows": 0}],
    ids=["column", "moment", "none"],
)
def test_another_table_is_refused_with_the_remedy(events_file, wrong):
    with pytest.raises(BaselineError, match=r"export_events\.py"):
        sasrec_files.read_events(events_file(**wrong))


def test_what_is_no_table_is_refused_with_the_remedy(tmp_path):
    (tmp_path / "x").write_text("user_id,item_id\n")
    for path, said in ((tmp_path / "x", "not a table"), (tmp_path / "y", "does not exist")):
        with pytest.raises(BaselineError, match=said):
            sasrec_files.read_events(path)


def test_vectors_come_back_from_their_files(tmp_path):
    sasrec_files.write_vectors(tmp_path / "out", fitted())
    users = pq.read_table(tmp_path / "out" / "users.parquet")
    items = pq.read_table(tmp_path / "out" / "items.parquet")
    assert users["user_id"].to_pylist() == ["anna", "ben"]
    assert users["user_embedding"].to_pylist() == [[1, 2], [3, 4]]
    assert users.schema.field("user_embedding").type == pa.list_(pa.float32(), 2)
    assert items["item_id"].to_pylist() == ["A", "B", "C"]
    assert items["item_embedding"].to_pylist() == [[2, 0], [0, 3], [1, 1]]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "users.parquet",
        "items.parquet",
    }


def test_a_diverged_model_leaves_no_file(tmp_path):
    vectors = np.array([[2, 0], [0, np.nan], [1, 1]], np.float32)
    with pytest.raises(BaselineError, match=r"item 'B'.*--learning-rate"):
        sasrec_files.write_vectors(tmp_path / "out", fitted(item_vectors=vectors))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        {"factors": 6},
        {"factors": 0},
        {"epochs": 0},
        {"validation_users": 0},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"threads": -1},
        {"minutes": 0.0},
    ],
    ids=str,
)
def test_wrong_settings_are_named(wrong):
    [name] = wrong
    with pytest.raises(BaselineError, match=f"^{name} is .*expected"):
        Settings(**wrong)


def test_every_setting_is_an_option(capsys):
    with pytest.raises(SystemExit) as end:
        sasrec_rectools.main(["--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    options = {"--factors", "--max-length", "--batch-size", "--learning-rate", "--epochs"}
    options |= {"--patience", "--validation-users", "--seed", "--threads", "--events", "--output"}
    options |= {"--minutes"}
    assert all(option in shown for option in options)
    assert "export_events.py --dataset" in shown


def test_a_missing_library_is_answered_with_how_to_install_it(
    events_file, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(sasrec_rectools.sys.modules, "rectools", None)
    monkeypatch.setitem(sasrec_rectools.sys.modules, "torch", None)
    arguments = ["--events", str(events_file()), "--output", str(tmp_path / "out")]
    assert sasrec_rectools.main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "torch can't be imported" in said.err
    assert "pip install -r benchmarks/requirements-rectools.txt" in said.err


def test_one_json_line_says_what_was_done(events_file, tmp_path, monkeypatch, capsys):
    class Model:
        @staticmethod
        def fit(events, history, settings):
            assert (events.num_rows, history.num_rows, settings.seed) == (4, 2, 7)
            return fitted()

    monkeypatch.setattr(sasrec_rectools, "require_library", lambda: None)
    monkeypatch.setitem(sasrec_rectools.sys.modules, "sasrec_model", Model)
    arguments = ["--events", str(events_file()), "--output", str(tmp_path / "out"), "--seed", "7"]
    assert sasrec_rectools.main(arguments) == 0
    line = json.loads(capsys.readouterr().out)
    assert (line["events"], line["users"], line["items"], line["seed"]) == (4, 2, 3, 7)
    assert (line["trained_epochs"], line["best_epoch"]) == (3, 2)
    assert line["validation_recall@10"] == 0.5
    assert pq.read_table(tmp_path / "out" / "users.parquet").num_rows == 2
