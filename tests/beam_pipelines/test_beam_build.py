import gzip
import json
import pathlib
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from beam_pipelines import build_dataset as job
from beam_pipelines import stages
from beam_pipelines.build_dataset import build_dataset, main
from beam_pipelines.counters import check_counters
from beam_pipelines.files import DeadLetters, read_arrow
from beam_pipelines.in_memory import make_records
from beam_pipelines.output import new_folder
from beam_pipelines.readers import DeadRow, Source
from guim_tf import schema
from guim_tf.mapping import Mapping
from guim_tf.strict_json import load

DAY = 86_400
T0 = 1_700_006_400  # 2023-11-15 00:00:00 UTC


def records(folder: pathlib.Path) -> dict[str, dict[str, bytes]]:
    """Serialized examples by split and user id."""
    compression = schema.Schema.load(folder).compression
    found: dict[str, dict[str, bytes]] = {"train": {}, "validation": {}}
    for split, users in found.items():
        for path in sorted((folder / split).iterdir()):
            for record in tf.data.TFRecordDataset(str(path), compression).as_numpy_iterator():
                users[feature(record, "user_id")[0].decode()] = record
    return found


def feature(record: bytes, name: str) -> list:
    value = tf.train.Example.FromString(record).features.feature[name]
    return list(value.bytes_list.value or value.int64_list.value)


def hidden(output: pathlib.Path) -> list[str]:
    """What lies beside the output under a hidden name."""
    return sorted(path.name for path in output.parent.glob(".*"))


def lines(users: int = 30, events: int = 40) -> list[str]:
    """A log with ties, duplicates and a busy user, over 40 days."""
    made = []
    for user in range(users):
        for event in range(events if user else 20 * events):
            item = (user * 7 + event * event) % 50
            made.append(f"u{user},i{item},{T0 + DAY * ((event * 13) % 40)}")
    return made


def test_a_small_log_becomes_what_was_asked_for(write_log, tmp_path):
    mapping = write_log(
        f"a,x,{T0 + 5}",
        f"a,y,{T0}",
        f"b,x,{T0 + 2 * DAY + 7}",
        f"a,x,{T0 + 5}",
        f"a,new,{T0 + 2 * DAY}",
    )
    result = build_dataset(
        mapping_file=mapping, output=tmp_path / "ds", holdout_days=1, shards=2, validation_share=0
    )
    made = schema.Schema.load(result.output)
    assert (made.first_timestamp, made.last_timestamp) == (T0, T0 + 2 * DAY + 7)
    assert made.as_of == T0 + 2 * DAY  # midnight after the last event, minus a day
    assert made.actions == ()
    items, counts = schema.read_vocabulary(result.output / "vocabularies/items.tsv")
    assert (items, counts) == (["x", "y"], [1, 1])  # the duplicate and later events don't count
    catalogue = pq.read_table(result.output / "items.parquet").to_pydict()
    assert catalogue["item_id"] == ["x", "y", "new"]
    assert catalogue["item_index"] == [2, 3, 1]

    users = records(result.output)["train"]
    assert feature(users["a"], "timestamp") == [T0, T0 + 5, T0 + 2 * DAY]
    assert feature(users["a"], "item_index") == [3, 2, 1]
    assert feature(users["a"], "item_key") == [schema.fingerprint64(i) for i in ("y", "x", "new")]
    assert feature(users["a"], "action_index") == [1, 1, 1]
    assert feature(users["a"], "title_lengths") == [0, 0, 0]
    assert feature(users["b"], "item_index") == [2]  # one event, a record of length 1

    counters = json.loads((result.output / "counters.json").read_text())
    assert counters == result.counters
    assert counters["rows"] == {"read": 5, "kept": 5, "filtered": {}, "dead": {}}
    assert counters["events"] == {"kept": 5, "duplicates": 1, "capped": 0, "written": 4}
    assert counters["users"] == {"train": 2, "validation": 0}
    assert (counters["items"], counters["vocabularies"]["items"]) == (3, 2)
    for shard in counters["shards"]:
        assert (result.output / shard["file"]).stat().st_size == shard["bytes"]
    assert len(counters["shards"]) == 4
    assert hidden(result.output) == []
    assert not (result.output / "work").exists()


@pytest.mark.parametrize("compression", ["", "GZIP"])
def test_beam_makes_the_records_of_the_in_process_function(
    write_mapping, tmp_path, monkeypatch, compression
):
    """Three files, chunks of 100 rows, a cap, actions and titles: still byte for byte."""
    monkeypatch.setattr(stages, "COMPACT_ROWS", 150)
    plan = stages.Plan
    monkeypatch.setattr(stages, "Plan", lambda **fields: plan(**fields, chunk_rows=100))
    rows = [f"{line},{'buy' if i % 3 else 'view'},T{i % 5} red" for i, line in enumerate(lines())]
    for number in range(3):
        text = "\n".join(["user,item,time,action,title", *rows[number::3]])
        (tmp_path / f"part{number}.csv").write_text(text)
    mapping = write_mapping(files=["part*.csv"], action="action", title="title")
    settings = {"max_events_per_user": 25, "holdout_days": 5, "shards": 3}
    settings |= {"compression": compression}
    result = build_dataset(mapping_file=mapping, output=tmp_path / "ds", **settings)
    (tmp_path / "plain").mkdir()
    expected = make_records(mapping_file=mapping, folder=tmp_path / "plain", **settings)

    found = records(result.output)
    assert found["train"] | found["validation"] == expected.examples
    assert set(found["validation"]) == expected.validation
    assert len(expected.validation) in range(1, 10)
    assert result.counters["events"]["capped"] > 0
    assert schema.Schema.load(result.output).actions == ("buy", "view")
    for name in ("items.parquet", *schema.VOCABULARY_FILES.values()):
        assert (result.output / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()


def test_item_and_label_tables(write_log, tmp_path):
    (tmp_path / "items.csv").write_text("id,cat,name\nx,c1,Red cup\nunsold,c2,Blue\n,c3,lost\n")
    (tmp_path / "labels.csv").write_text("who,age,sex\na,7,\na,8,f\nnobody,9,m\n")
    tables = {
        "items": {"files": ["items.csv"], "item_id": "id", "category_id": "cat", "title": "name"},
        "labels": {"files": ["labels.csv"], "user_id": "who", "labels": ["age", "sex"]},
    }
    mapping = write_log(f"a,x,{T0}", f"a,y,{T0 + 9}", tables=tables)
    result = build_dataset(
        mapping_file=mapping, output=tmp_path / "ds", holdout_days=0, max_dead_share=0.5
    )
    assert pq.read_table(result.output / "labels.parquet").to_pylist() == [
        {"user_id": "a", "age": "8", "sex": "f"},
        {"user_id": "nobody", "age": "9", "sex": "m"},
    ]
    catalogue = pq.read_table(result.output / "items.parquet").to_pydict()
    assert catalogue["item_id"] == ["x", "y", "unsold"]
    assert catalogue["title"] == ["Red cup", "", "Blue"]
    assert result.counters["item_rows"] == {
        "read": 3,
        "kept": 2,
        "dead": {"item_id missing": 1},
    }
    (letter,) = (result.output / "dead_letters").glob("items-*.jsonl")
    assert json.loads(letter.read_text())["row"] == 3


def test_a_user_with_a_million_events_is_cut_down(write_mapping, tmp_path):
    """Distinct events of one second each; the spill holds no more than the cap of each chunk."""
    count = 1_000_000
    body = "\n".join(f"robot,i{i % 1000},{T0 + i}" for i in range(count))
    (tmp_path / "events.csv").write_text(f"user,item,time\nhuman,i1,{T0}\n{body}\n")
    result = build_dataset(
        mapping_file=write_mapping(),
        output=tmp_path / "ds",
        max_events_per_user=500,
        holdout_days=0,
        validation_share=0,
    )
    users = records(result.output)["train"]
    assert feature(users["robot"], "timestamp") == list(range(T0 + count - 500, T0 + count))
    assert len(feature(users["human"], "timestamp")) == 1
    assert result.counters["events"] == {
        "kept": count + 1,
        "capped": count - 500,
        "duplicates": 0,
        "written": 501,
    }


def test_a_scan_spills_at_most_the_cap_of_each_chunk(write_log, tmp_path):
    mapping = load(Mapping, write_log(*(f"robot,i{i},{T0 + i}" for i in range(2000))))
    plan = stages.Plan(
        folder=tmp_path,
        events=mapping.events,
        shards=1,
        max_events_per_user=10,
        validation_share=0.1,
        compression="",
    )
    plan.work.mkdir()
    [(_, (spill, last))] = stages.scan_source((0, Source(str(tmp_path / "events.csv"), 0)), plan)
    assert read_arrow(pathlib.Path(spill)).num_rows == 10
    assert last == T0 + 1999
    assert json.loads((plan.work / "scan-00000.json").read_text())["capped"] == 1990


# ------------------------------------------------------------------------------- bad input


def test_bad_rows_are_dead_letters_and_every_row_is_accounted_for(tmp_path, write_mapping):
    good = b"".join(b"u%d,x,%d\n" % (i, T0 + i) for i in range(600))
    bad = b"u,x,soon\n,x,5\nu,x\nu\xff,x,5\nu,,5\nu,x,99999999999\n"
    (tmp_path / "events.csv").write_bytes(b"user,item,time\n" + good + bad)
    result = build_dataset(mapping_file=write_mapping(), output=tmp_path / "ds", holdout_days=0)
    assert result.counters["rows"] == {
        "read": 606,
        "kept": 600,
        "filtered": {},
        "dead": {
            "wrong number of fields": 1,
            "broken encoding": 1,
            "timestamp unparsable": 1,
            "user_id missing": 1,
            "item_id missing": 1,
            "timestamp out of range": 1,
        },
    }
    text = (result.output / "dead_letters/events-00000.jsonl").read_text()
    letters = [json.loads(line) for line in text.splitlines()]
    assert [letter["row"] for letter in letters] == list(range(601, 607))
    assert letters[0] == {
        "file": str(tmp_path / "events.csv"),
        "row": 601,
        "reason": "timestamp unparsable",
        "content": {"user": "u", "item": "x", "time": "soon"},
    }
    assert letters[2]["content"] == "u,x"


def test_two_percent_of_bad_rows_fail_the_job(write_log, tmp_path, capsys):
    bad = [f"u,x,{T0}"] * 98 + ["u,x,soon", ",x,5"]
    output = tmp_path / "ds"
    assert main(["--mapping", str(write_log(*bad)), "--output", str(output)]) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert "2 of 100 rows are unusable (2.00%, more than max_dead_share = 1.00%)" in message
    assert "timestamp unparsable: 1" in message
    assert "user_id missing: 1" in message
    assert str(tmp_path / ".ds.failed/dead_letters") in message
    assert not output.exists()
    assert len((tmp_path / ".ds.failed/dead_letters/events-00000.jsonl").read_text().split()) > 2
    assert not (tmp_path / ".ds.failed/work").exists()

    write_log(*[f"u,x,{T0}"] * 98)  # mended: the next run cleans up
    build_dataset(mapping_file=tmp_path / "mapping.json", output=output, holdout_days=0)
    assert hidden(output) == []


@pytest.mark.parametrize(
    ("rows", "settings", "message"),
    [
        ([], {}, "holds no event: 0 rows read"),
        ([f"a,x,{T0}"], {}, "No event is before the cut-off"),
        ([f"a,x,{T0}"], {"as_of": T0}, "No event is before the cut-off"),
        ([f"a,x,{T0}"], {"shards": 0}, "shards is 0, expected a positive number"),
        ([f"a,x,{T0}"], {"validation_share": 1}, r"validation_share is 1, expected a share"),
        ([f"a,x,{T0}"], {"compression": "ZIP"}, "compression is 'ZIP'"),
        ([f"a,x,{T0}"], {"pipeline_options": ["--shard=3"]}, "--shard is an option neither"),
        ([f"a,x,{T0}"], {"pipeline_options": ["stray"]}, "'stray' is an option neither"),
    ],
)
def test_what_can_not_be_built_says_why_and_leaves_nothing(
    write_log, tmp_path, rows, settings, message
):
    with pytest.raises(ValueError, match=message):
        build_dataset(mapping_file=write_log(*rows), output=tmp_path / "ds", **settings)
    assert not (tmp_path / "ds").exists()
    assert hidden(tmp_path / "ds") == []


@pytest.mark.parametrize(
    ("events", "message"),
    [
        ({"timestamp": "when"}, "no column 'when'"),
        ({"files": ["other.csv"]}, "No file matches"),
        ({"extra": 1}, "unknown key 'extra'"),
        ({"filters": [{"column": "paid", "operator": "present"}]}, "no column 'paid'"),
    ],
)
def test_a_wrong_mapping_is_one_line_on_stderr(write_log, tmp_path, capsys, events, message):
    mapping = write_log(f"a,x,{T0}", **events)
    assert main(["--mapping", str(mapping), "--output", str(tmp_path / "ds")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("guim build-dataset: ")
    assert message in line


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_an_empty_file_of_any_kind_is_no_log(write_mapping, tmp_path, kind):
    path = tmp_path / f"events.{kind}"
    if kind == "csv":
        path.write_text("user,item,time\n")
    elif kind == "jsonl":
        path.touch()
    else:
        empty = {name: pa.array([], pa.string()) for name in ("user", "item", "time")}
        pq.write_table(pa.table(empty), path)
    message = "is an empty file" if kind == "jsonl" else "holds no event: 0 rows read"
    with pytest.raises(ValueError, match=message):
        build_dataset(mapping_file=write_mapping(files=[path.name]), output=tmp_path / "ds")
    assert hidden(tmp_path / "ds") == []


@pytest.mark.parametrize("kind", ["csv.gz", "jsonl", "parquet"])
def test_every_kind_of_file_gives_the_same_records(write_log, write_mapping, tmp_path, kind):
    rows = lines(users=5)
    expected = build_dataset(mapping_file=write_log(*rows), output=tmp_path / "csv")
    table = [dict(zip(("user", "item", "time"), row.split(","), strict=True)) for row in rows]
    path = tmp_path / f"log.{kind}"
    if kind == "csv.gz":
        path.write_bytes(gzip.compress((tmp_path / "events.csv").read_bytes()))
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in table))
    else:
        pq.write_table(pa.Table.from_pylist(table), path, row_group_size=300)
    mapping = write_mapping(files=[path.name])
    found = build_dataset(mapping_file=mapping, output=tmp_path / "ds")
    assert records(found.output) == records(expected.output)
    assert found.counters["events"] == expected.counters["events"]


def test_a_file_that_breaks_while_it_is_read_is_named(tmp_path, write_mapping):
    noise = random.Random(0)
    rows = "".join(f"u{noise.random()},x,{T0}\n" for _ in range(200_000))
    data = gzip.compress(b"user,item,time\n" + rows.encode())
    (tmp_path / "events.csv.gz").write_bytes(data[:-1000])
    mapping = write_mapping(files=["events.csv.gz"])
    with pytest.raises(ValueError, match=r"1 of 1 files are .*: file can't be read to its end: 1"):
        build_dataset(mapping_file=mapping, output=tmp_path / "ds")
    assert not (tmp_path / "ds").exists()
    letters = (tmp_path / ".ds.failed/dead_letters/events-00000.jsonl").read_text().splitlines()
    cut, broken = map(json.loads, letters)
    assert broken["file"] == str(tmp_path / "events.csv.gz")
    assert broken["row"] == cut["row"] + 1 > 190_000  # the row that was cut is dead, too


# ------------------------------------------------------------------------------- all or nothing


def test_a_failed_run_leaves_the_old_data_set_alone(write_log, tmp_path):
    output = tmp_path / "ds"
    build_dataset(mapping_file=write_log(f"a,x,{T0}"), output=output, holdout_days=0)
    before = (output / "counters.json").read_text()
    with pytest.raises(ValueError, match="holds no event"):
        build_dataset(mapping_file=write_log(), output=output)
    assert (output / "counters.json").read_text() == before
    build_dataset(mapping_file=write_log(f"b,y,{T0}"), output=output, holdout_days=0)
    assert schema.read_vocabulary(output / "vocabularies/items.tsv")[0] == ["y"]


def test_an_interrupted_run_leaves_nothing_and_its_leftovers_go(write_log, tmp_path, monkeypatch):
    output = tmp_path / "ds"
    mapping = write_log(f"a,x,{T0}")

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(job, "_write_catalogue", interrupt)
        with pytest.raises(KeyboardInterrupt):
            build_dataset(mapping_file=mapping, output=output, holdout_days=0)
    assert not output.exists()
    assert hidden(output) == []
    (tmp_path / ".ds.incomplete/train").mkdir(parents=True)  # as a killed process leaves it
    (tmp_path / ".ds.incomplete/train/old").touch()
    result = build_dataset(mapping_file=mapping, output=output, holdout_days=0)
    assert hidden(output) == []
    assert not (result.output / "train/old").exists()


@pytest.mark.parametrize("made_anew", [False, True])
def test_a_data_set_that_a_kill_left_between_two_names_comes_back(write_log, tmp_path, made_anew):
    """The kill came after the old one was moved aside, before the new one took its name."""
    output = tmp_path / "ds"
    build_dataset(mapping_file=write_log(f"a,x,{T0}"), output=output, holdout_days=0)
    output.rename(tmp_path / ".ds.old")
    (tmp_path / ".ds.incomplete-123").mkdir()
    if made_anew:
        output.mkdir()
    with pytest.raises(ValueError, match="holds no event"):
        build_dataset(mapping_file=write_log(), output=output)
    assert schema.read_vocabulary(output / "vocabularies/items.tsv")[0] == ["x"]
    assert hidden(output) == []


def test_what_a_killed_worker_left_is_not_in_the_data_set(write_log, tmp_path, monkeypatch):
    write = job.write_records

    def leave(*, plan, **rest):
        write(plan=plan, **rest)
        (plan.folder / "train/killed.tfrecord.part").touch()

    monkeypatch.setattr(job, "write_records", leave)
    build_dataset(mapping_file=write_log(f"a,x,{T0}"), output=tmp_path / "ds", holdout_days=0)
    assert (tmp_path / "ds/train").is_dir()
    assert not list((tmp_path / "ds").rglob("*.part"))


def test_dead_letters_take_their_name_when_they_are_complete(tmp_path):
    path, letter = tmp_path / "dead_letters/a.jsonl", DeadRow(1, "why", "what")

    def break_off() -> None:
        with DeadLetters(path, "a.csv") as file:
            file.write([letter])
            assert not path.exists()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        break_off()
    assert list(path.parent.iterdir()) == []
    with DeadLetters(path, "a.csv") as file:
        file.write([letter])
    assert [each.name for each in path.parent.iterdir()] == ["a.jsonl"]


def test_a_folder_that_is_no_data_set_is_not_replaced(write_log, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").touch()
    with pytest.raises(ValueError, match="not an older result"):
        build_dataset(mapping_file=write_log(f"a,x,{T0}"), output=tmp_path / "home")
    assert (tmp_path / "home" / "letter.txt").exists()


def test_two_jobs_do_not_write_one_folder(write_log, tmp_path):
    mapping = write_log(f"a,x,{T0}")
    with (
        new_folder(tmp_path / "ds", is_ours=lambda _: True),
        pytest.raises(ValueError, match="Another process is writing"),
    ):
        build_dataset(mapping_file=mapping, output=tmp_path / "ds")


def test_counters_that_do_not_add_up_fail_the_job():
    counters = {
        "rows": {"read": 10, "kept": 7, "filtered": {"f": 2}, "dead": {"d": 1}},
        "events": {"kept": 7, "duplicates": 1, "capped": 1, "written": 5},
        "shards": [{"records": 2}, {"records": 1}],
    }
    check_counters(counters, users=3)
    with pytest.raises(RuntimeError, match="users = records: 4 != 3"):
        check_counters(counters, users=4)
    for table, name in (("rows", "read"), ("rows", "kept"), ("events", "written")):
        wrong = counters | {table: counters[table] | {name: 0}}
        with pytest.raises(RuntimeError, match="rows were lost"):
            check_counters(wrong, users=3)


def test_a_runner_that_drops_a_source_fails_the_job(write_mapping, tmp_path, monkeypatch):
    """What is left adds up by itself: only the number of scans tells."""
    for number in range(3):
        (tmp_path / f"part{number}.csv").write_text(f"user,item,time\na,x,{T0 + number}\n")
    mapping = write_mapping(files=["part*.csv"])
    group = job.read_and_group
    monkeypatch.setattr(job, "read_and_group", lambda inputs, **rest: group(inputs[:-1], **rest))
    with pytest.raises(RuntimeError, match="2 of 3 sources were scanned"):
        build_dataset(mapping_file=mapping, output=tmp_path / "ds", holdout_days=0)
    assert not (tmp_path / "ds").exists()


def test_the_command_prints_progress_and_a_summary(write_log, tmp_path, capsys):
    arguments = ["--mapping", str(write_log(f"a,x,{T0}")), "--output", str(tmp_path / "ds")]
    assert main([*arguments, "--as-of", "2023-11-16", "--shards", "1"]) == 0
    shown = capsys.readouterr()
    assert "read and validate" in shown.err
    assert "events written" in shown.out
    assert schema.Schema.load(tmp_path / "ds").as_of == T0 + DAY
