"""A log with every kind of dirt: each row is accounted for, or the job leaves no output."""

import collections
import csv
import gzip
import io
import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_pipelines.build_dataset import build_dataset

T0 = 1_700_006_400  # 2023-11-15 00:00:00 UTC
ROWS, ROBOT = 30_000, 1_000_000
COLUMNS = ["user", "item", "time", "price", "category"]

# What is changed in a good row, and the reason that it is dead for; None are raw lines.
KINDS = [
    ({"user": ""}, "user_id missing"),
    ({"item": ""}, "item_id missing"),
    ({"user": "a\tb"}, "user_id holds a tab or a line break"),
    ({"item": "two\nlines"}, "item_id holds a tab or a line break"),
    ({"category": "a\tb"}, "category_id holds a tab or a line break"),
    ({"time": ""}, "timestamp missing"),
    ({"time": "yesterday"}, "timestamp unparsable"),
    ({"time": str(T0 * 1000)}, "timestamp out of range"),
    ({"time": "-5"}, "timestamp out of range"),
    ({"price": "free"}, "price is not a number"),
    ({"item": "bad \udcff"}, "broken encoding"),
    (None, "wrong number of fields"),
]


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """The mapping, and the (file, row, reason) of every dead letter that there must be."""
    folder, rng = tmp_path_factory.mktemp("dirty"), random.Random(0)
    text, letters, free = io.StringIO(), set(), 0
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    main = str(folder / "a_main.csv.gz")
    for row in range(1, ROWS + 1):
        good = {"user": f"u{row % 700}", "item": f"i{row % 90}", "time": T0 + row, "price": 1}
        good |= {"category": 'quote " comma , '}
        change, reason = rng.choice(KINDS) if rng.random() < 0.02 else ({}, "")
        if reason:
            letters.add((main, row, reason))
        if change is None:
            text.write("only,two\n")
        elif not reason and rng.random() < 0.1:
            writer.writerow(good | {"price": 0})
            free += 1
        else:
            writer.writerow(good | change)
    data = text.getvalue().encode("utf-8", "surrogateescape")
    (folder / "a_main.csv.gz").write_bytes(gzip.compress(data))

    robot = {name: pa.repeat(value, ROBOT) for name, value in (("user", "robot"), ("price", "1"))}
    items = pa.array([f"i{row % 1000}" for row in range(ROBOT)])
    columns = robot | {"item": items, "time": range(T0, T0 + ROBOT), "category": items}
    pq.write_table(pa.table(columns), folder / "b_robot.parquet", row_group_size=400_000)

    lines = "".join(f"v{row},i1,{T0 + row},1,c\n" for row in range(50_000))
    noise = gzip.compress(f"{','.join(COLUMNS)}\n{lines}".encode())
    (folder / "c_cut.csv.gz").write_bytes(noise[: len(noise) // 2])
    (folder / "d_empty.csv").touch()
    letters.add((str(folder / "d_empty.csv"), 0, "empty file"))
    (folder / "e_other.csv").write_text("who,item,time,price,category\n" + "w,i1,5,1,c\n" * 40)
    letters |= {(str(folder / "e_other.csv"), row, "no column 'user'") for row in range(1, 41)}

    mapping = {name: name.split("_")[0] for name in ("user_id", "item_id", "category_id")}
    mapping |= {"timestamp": "time", "files": ["*_*"]}
    mapping["filters"] = [{"column": "price", "operator": ">", "value": 0}]
    path = folder / "mapping.json"
    path.write_text(json.dumps({"events": mapping}))
    return path, letters, free


def test_every_row_of_a_dirty_log_is_accounted_for(log, tmp_path):
    mapping, expected, free = log
    result = build_dataset(
        mapping_file=mapping,
        output=tmp_path / "ds",
        max_dead_share=0.5,
        max_events_per_user=1_000,
        holdout_days=0,
    )
    letters = [
        json.loads(line)
        for path in (tmp_path / "ds/dead_letters").iterdir()
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    found = collections.Counter((each["file"], each["row"], each["reason"]) for each in letters)
    assert set(found.values()) == {1}
    cut = str(mapping.with_name("c_cut.csv.gz"))
    (row, reason), (end, why) = sorted(each[1:] for each in found if each[0] == cut)
    assert reason in ("wrong number of fields", "broken encoding", "timestamp unparsable")
    assert (end, why) == (row + 1, "file can't be read to its end")
    assert {each for each in found if each[0] != cut} == expected
    assert len({each[2] for each in expected}) == 12 - 1 + 2  # two kinds are out of range

    rows = result.counters["rows"]
    assert rows["read"] == ROWS + ROBOT + row + 40
    assert rows["filtered"] == {"price > 0": free}
    dead = collections.Counter(each[2] for each in expected if each[1]) + collections.Counter(
        [reason]
    )
    assert rows["dead"] == dead
    assert rows["kept"] == rows["read"] - free - sum(dead.values())
    assert result.counters["files"] == {
        "read": 5,
        "dead": {"file can't be read to its end": 1, "empty file": 1},
    }
    events = result.counters["events"]
    assert events["capped"] >= ROBOT - 1_000
    assert events["kept"] == rows["kept"]
    assert events["kept"] == sum(events[name] for name in ("duplicates", "capped", "written"))


def test_too_many_bad_files_fail_the_job(log, tmp_path):
    with pytest.raises(ValueError, match="2 of 5 files are unusable .*empty file: 1"):
        build_dataset(mapping_file=log[0], output=tmp_path / "ds", max_dead_share=0.39)
    assert not (tmp_path / "ds").exists()
    assert (tmp_path / ".ds.failed/dead_letters").is_dir()
    assert not (tmp_path / ".ds.failed/train").exists()


def test_too_many_bad_rows_fail_the_job(log, tmp_path):
    """Of the first file alone, two rows in a hundred are bad."""
    mapping = log[0].with_name("first.json")
    content = json.loads(log[0].read_text())
    content["events"]["files"] = ["a_main.csv.gz"]
    mapping.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"of 30,000 rows are unusable \(\d\.\d\d%, more than"):
        build_dataset(mapping_file=mapping, output=tmp_path / "ds")
    assert not (tmp_path / "ds").exists()
    assert build_dataset(
        mapping_file=mapping, output=tmp_path / "ds", max_dead_share=0.03, holdout_days=0
    ).output.exists()
