"""What `guim inspect` says of a log whose every number is known."""

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_pipelines.build_dataset import build_dataset
from guim_tf.inspection.command import main, render
from guim_tf.inspection.document import inspect_dataset

DAY = 86_400
T0 = 1_700_006_400  # 2023-11-15 00:00:00 UTC
AS_OF = T0 + 10 * DAY


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Three people, and a robot with 400 events on a day; the cut-off is after ten days.

    a: x on days 0 to 8, new on day 12. b: x and y on day 1. c: y on day 11. The robot: x.
    """
    folder = tmp_path_factory.mktemp("inspect")
    rows = [f"a,x,{T0 + day * DAY},Red cup,c1" for day in range(9)]
    rows += [f"a,new,{T0 + 12 * DAY},Blue,c2"]
    rows += [
        f"b,{item},{T0 + DAY + 5},{title}" for item, title in (("x", "Red cup,c1"), ("y", ","))
    ]
    rows += [f"c,y,{T0 + 11 * DAY},,", f"c,y,{T0 + 11 * DAY},,"]  # one twice
    rows += [f"robot,x,{T0 + 3 * DAY + second},Red cup,c1" for second in range(400)]
    rows += ["bad,x,soon,,", ",x,5,,", ",x,6,,"]
    (folder / "events.csv").write_text("\n".join(["user,item,time,title,cat", *rows]) + "\n")
    mapping = {"files": ["events.csv"], "user_id": "user", "item_id": "item", "timestamp": "time"}
    mapping |= {"title": "title", "category_id": "cat"}
    (folder / "m.json").write_text(json.dumps({"events": mapping}))
    return build_dataset(
        mapping_file=folder / "m.json",
        output=folder / "ds",
        as_of=AS_OF,
        validation_share=0.5,
        shards=2,
        max_dead_share=0.1,
    ).output


def test_numbers_are_those_of_the_log(dataset):
    document, found = inspect_dataset(dataset)
    assert document["time"] == {
        "first": "2023-11-15 00:00",
        "as_of": "2023-11-25 00:00",
        "last": "2023-11-27 00:00",
    }
    assert sum(document["users"].values()) == 4
    assert (document["events_before"], document["events_after"]) == (9 + 2 + 400, 2)
    assert document["events"]["duplicates"] == 1
    assert found.days.tolist() == [1, 3, 1, 401, 1, 1, 1, 1, 1, 0, 0, 1, 1]
    before, after = document["per_user"].values()
    assert (before["users"], before["min"], before["50 %"], before["max"]) == (3, 2, 9, 400)
    assert before["mean"] == pytest.approx(137)
    assert (after["users"], after["mean"], after["std"]) == (2, 1, 0)
    assert document["categories"] == [
        {"category": "c1", "events": 410, "share": pytest.approx(410 / 411)}
    ]
    unknown = list(document["unknown"].values())
    assert unknown[:3] == pytest.approx([0, 1 / 2, 1 / 411])  # item `new`; y has no category
    assert unknown[3] == pytest.approx(1 / 821)  # "blue", in 410 titles of two words and one more
    assert unknown[4] == pytest.approx(2 / 413)


def test_robots_and_the_busiest_users(dataset):
    robots = inspect_dataset(dataset)[0]["robots"]
    assert (robots["users"], robots["events"]) == (1, 400)
    assert robots["busiest"][:2] == [
        {"user_id": "robot", "events": 400, "distinct_items": 1, "busiest_day": 400, "robot": True},
        {"user_id": "a", "events": 10, "distinct_items": 2, "busiest_day": 1, "robot": False},
    ]


def test_dead_letters_have_a_count_and_an_example(dataset):
    first, second = inspect_dataset(dataset)[0]["dead_letters"]
    assert (first["reason"], first["letters"]) == ("user_id missing", 2)
    assert first["first"]["row"] == 416
    assert (second["reason"], second["letters"]) == ("timestamp unparsable", 1)


def test_a_clean_time_split_passes_and_the_page_shows_it(dataset, tmp_path, capsys):
    document, found = inspect_dataset(dataset)
    assert [check["passed"] for check in document["checks"]] == [True] * 4
    page = render(document, found, as_of=AS_OF)
    assert page.count("data:image/svg+xml") == 3
    for text in ("user_id missing", "robot", "2023-11-25 00:00", "137.00", "0.24%"):
        assert text in page, text
    assert main([str(dataset), "--output", str(tmp_path / "page.html")]) == 0
    written = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert written.partition("<img")[0] == page.partition("<img")[0]
    assert "passed: No user is in both splits" in capsys.readouterr().out


def test_counts_that_saw_past_the_cut_off_fail(dataset, tmp_path, capsys):
    """An item vocabulary, a catalogue and a split as a leak would leave them."""
    leaky = tmp_path / "leaky"
    shutil.copytree(dataset, leaky)
    items = leaky / "vocabularies/items.tsv"
    items.write_text(items.read_text().replace("x\t410", "x\t411"))
    table = pq.read_table(leaky / "items.parquet").to_pydict()
    table["item_index"] = [3 if item == "new" else 2 for item in table["item_id"]]
    pq.write_table(pa.table(table), leaky / "items.parquet")
    counters = json.loads((leaky / "counters.json").read_text())
    shards = {shard["file"]: shard for shard in counters["shards"]}
    of_train = max((f for f in shards if f.startswith("train")), key=lambda f: shards[f]["bytes"])
    held = of_train.replace("train", "validation")
    shutil.copy(leaky / of_train, leaky / held)
    shards[held]["bytes"] = shards[of_train]["bytes"]
    (leaky / "counters.json").write_text(json.dumps(counters))

    assert main([str(leaky)]) == 1
    assert (tmp_path / "leaky.html").is_file()
    checks = inspect_dataset(leaky)[0]["checks"]
    assert [check["passed"] for check in checks] == [False, False, False, True]
    assert "FAILED: No item has a row of its own" in capsys.readouterr().out


def test_nothing_held_out_is_no_failure_and_a_category_is_no_markup(tmp_path, capsys, monkeypatch):
    """Also: the folder in which one stands, whose page lies beside it."""
    (tmp_path / "events.csv").write_text(f"user,item,time,cat\na,x,{T0},[/b] [red]\n")
    mapping = {"files": ["events.csv"], "user_id": "user", "item_id": "item", "timestamp": "time"}
    (tmp_path / "m.json").write_text(json.dumps({"events": mapping | {"category_id": "cat"}}))
    settings = {"mapping_file": tmp_path / "m.json", "holdout_days": 0, "shards": 1}
    build_dataset(output=tmp_path / "[/ds]", **settings)
    monkeypatch.chdir(tmp_path / "[/ds]")
    assert main(["."]) == 0
    assert (tmp_path / "[/ds].html").is_file()
    shown = capsys.readouterr().out
    assert "events of category [/b] [red]" in shown
    assert "nothing is held out (1 before and 0 after)" in shown


def test_what_is_no_data_set_is_one_line(dataset, tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert "is not a finished data set" in capsys.readouterr().err
    shutil.copytree(dataset, tmp_path / "cut")
    shard = max((tmp_path / "cut/train").iterdir(), key=lambda path: path.stat().st_size)
    shard.write_bytes(shard.read_bytes()[:-1])
    assert main([str(tmp_path / "cut")]) == 2
    assert "the copy is incomplete" in capsys.readouterr().err
