import gzip
import json
import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_pipelines import readers
from beam_pipelines.errors import InputError
from beam_pipelines.readers import Source, check_columns, find_files, find_sources

COLUMNS, IDS = ("user", "time"), frozenset({"user"})


def read(path: pathlib.Path) -> tuple[dict[int, tuple], dict[int, str]]:
    """Sound rows and reasons of dead ones, both by row number."""
    sound, dead = {}, {}
    for source in find_sources([str(path)]):
        for raw in readers.read_batches(source, COLUMNS, ids=IDS):
            values = raw.table.to_pydict()
            for row, *cells in zip(raw.rows.tolist(), *(values[c] for c in COLUMNS), strict=True):
                assert row not in sound
                sound[row] = tuple(cells)
            dead |= {each.row: each.reason for each in raw.dead}
    return sound, dead


def test_csv_numbers_rows_and_sets_aside_those_with_a_wrong_number_of_fields(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(
        b'\xef\xbb\xbfuser,title,time\nu1,x,1\nu2,2\n\nu3,"a\nb, ""c""",3\nu4,y,4,5\nu5,z,5\n'
    )
    assert read(path) == (
        {1: ("u1", "1"), 3: ("u3", "3"), 5: ("u5", "5")},
        {2: "wrong number of fields", 4: "wrong number of fields"},
    )


@pytest.mark.parametrize("compress", [False, True])
def test_csv_row_numbers_hold_across_blocks(tmp_path, monkeypatch, compress):
    monkeypatch.setattr(readers, "BLOCK_BYTES", 64)
    lines = ["user,time"]
    bad = {7, 8, 40, 99, 100}
    lines += ["oops" if row in bad else f"u{row},{row}" for row in range(1, 101)]
    data = ("\n".join(lines) + "\n").encode()
    path = tmp_path / ("a.csv.gz" if compress else "a.csv")
    path.write_bytes(gzip.compress(data) if compress else data)
    sound, dead = read(path)
    assert sound == {row: (f"u{row}", str(row)) for row in range(1, 101) if row not in bad}
    assert set(dead) == bad


def test_bytes_that_are_no_utf8_are_marked_wherever_they_stand(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"user,time\nu\xff1,1\n\xfe,2,3\nm\xc3\xa9,4\n")
    sound, dead = read(path)
    assert sound == {1: ("u\x1a1", "1"), 3: ("mé", "4")}
    assert dead == {2: "wrong number of fields"}


def test_a_character_cut_by_a_block_is_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "BLOCK_BYTES", 23)
    path = tmp_path / "a.csv"
    path.write_text("user,time\n" + "".join(f"商品{i},{i}\n" for i in range(30)), encoding="utf-8")
    assert read(path)[0] == {i + 1: (f"商品{i}", str(i)) for i in range(30)}


def test_a_cut_off_gzip_file_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b"user,time\n" + b"u,1\n" * 5000)[:-20])
    with pytest.raises(InputError, match=r"a\.csv\.gz can't be read to its end: .*runcated"):
        read(path)


def test_json_lines_with_one_type_a_column(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"user": 1, "time": 5, "more": [1]}\n{"time": 6, "user": 2}\n{"user": 3}\n')
    assert read(path) == ({1: (1, 5), 2: (2, 6), 3: (3, None)}, {})


def test_json_lines_of_mixed_types_and_broken_ones(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    lines = [
        b'{"user": "a", "time": 5}',
        b'{"user": 7, "time": "6"}',
        b"{broken",
        b"",
        b"[1, 2]",
        b'{"user": 1.5, "time": 5}',
        b'{"user": {"id": 1}, "time": 5}',
        b'{"user": "\xff", "time": 5}',
        b'{"user": "b", "time": 5.5}',  # no line feed at the end
    ]
    path.write_bytes(gzip.compress(b"\n".join(lines)))
    sound, dead = read(path)
    assert sound == {1: ("a", "5"), 2: ("7", "6"), 9: ("b", "5.5")}
    assert dead == {
        3: "not a JSON object",
        5: "not a JSON object",
        6: "wrong type",
        7: "wrong type",
        8: "broken encoding",
    }


def test_json_lines_across_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "BLOCK_BYTES", 50)
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"user": f"u{i}", "time": i}) + "\n" for i in range(40)))
    assert read(path)[0] == {i + 1: (f"u{i}", i) for i in range(40)}


def test_parquet_is_one_source_a_row_group_with_rows_of_the_whole_file(tmp_path):
    path = tmp_path / "a.parquet"
    users = pa.array([f"u{i}" for i in range(10)]).dictionary_encode()
    pq.write_table(pa.table({"time": range(10), "user": users}), path, row_group_size=4)
    assert [s.first_row for s in find_sources([str(path)])] == [1, 5, 9]
    assert read(path)[0] == {i + 1: (f"u{i}", i) for i in range(10)}


def test_parquet_text_that_is_no_utf8_is_marked(tmp_path):
    path = tmp_path / "a.parquet"
    bad = pa.array([b"ok", b"\xff", None], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"user": bad, "time": [1, 2, 3]}), path)
    assert read(path)[0] == {1: ("ok", 1), 2: ("\x1a", 2), 3: (None, 3)}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"user,when\nu,1\n", r"no column 'time'.*It has: 'user', 'when'"),
        ("a.csv", b"user,time,user\nu,1,v\n", "two columns named 'user'"),
        ("a.csv", b"", "not a CSV file with a header"),
        ("a.csv.gz", b"no gzip", r"a\.csv\.gz can't be read to its end"),
        ("a.jsonl", b'{"user": 1}\n{"user": 2}\n', "no column 'time'"),
        ("a.parquet", b"PAR", "not a Parquet file"),
        ("a.txt", b"", "unknown file type"),
    ],
)
def test_files_that_do_not_fit_are_refused_before_reading(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        check_columns([str(path)], COLUMNS, ids=IDS)


def test_a_fractional_id_column_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"user": np.array([1.0, 2.0]), "time": [1, 2]}), path)
    with pytest.raises(InputError, match="column 'user' is double, expected text or whole"):
        check_columns([str(path)], COLUMNS, ids=IDS)


def test_globs_start_at_the_base_and_find_each_file_once(tmp_path):
    for name in ("b.csv", "a.csv", "c.jsonl"):
        (tmp_path / name).touch()
    found = find_files(("*.csv", "a.*", "c.jsonl"), base=tmp_path)
    assert [pathlib.Path(path).name for path in found] == ["a.csv", "b.csv", "c.jsonl"]
    with pytest.raises(InputError, match=r"No file matches .*nothing"):
        find_files(("nothing*",), base=tmp_path)


def test_a_source_knows_its_format():
    assert Source("x.JSON.jsonl.gz", 0).format == "jsonl"
    with pytest.raises(InputError):
        _ = Source("x.parquet.gz", 0).format
