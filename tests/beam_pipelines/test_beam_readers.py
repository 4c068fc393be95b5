import bz2
import decimal
import gzip
import json
import pathlib
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_pipelines import readers
from beam_pipelines.errors import InputError
from beam_pipelines.files import DeadLetters
from beam_pipelines.readers import Source
from beam_pipelines.sources import check_columns, find_files, find_sources

COLUMNS, IDS = ("user", "time"), frozenset({"user"})


def read(
    path: pathlib.Path, columns: tuple[str, ...] = COLUMNS
) -> tuple[dict[int, tuple], dict[int, str]]:
    """Sound rows and reasons of dead ones, both by row number; of the first good file's kind."""
    sound, dead = {}, {}
    ids = frozenset(columns[:1])
    for source in find_sources([str(path)], columns, ids=ids):
        for raw in readers.read_batches(source, columns, ids=ids):
            values = raw.table.to_pydict()
            for row, *cells in zip(raw.rows.tolist(), *(values[c] for c in columns), strict=True):
                assert row not in sound
                sound[row] = tuple(cells)
            dead |= {each.row: each.reason for each in raw.dead}
            if raw.broken is not None:
                dead[raw.broken.row] = raw.broken.reason
    return sound, dead


def read_misfit(path: pathlib.Path) -> list[readers.DeadRow]:
    """The dead rows of a file that lacks a column, beside a good one."""
    good = path.with_name("good.csv")
    good.write_text("user,time\n")
    misfit = [s for s in find_sources([str(good), str(path)], COLUMNS, ids=IDS) if s.index == 1]
    batches = [raw for s in misfit for raw in readers.read_batches(s, COLUMNS, ids=IDS)]
    assert all(raw.table.num_rows == 0 and raw.broken is None for raw in batches)
    return [row for raw in batches for row in raw.dead]


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


def cut(data: bytes, ending: str) -> bytes:
    return {".gz": gzip.compress, ".bz2": bz2.compress}[ending](data)[:-20]


@pytest.mark.parametrize("ending", [".gz", ".bz2"])
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_cut_off_file_gives_what_came_before_and_says_where_it_broke(tmp_path, ending, kind):
    """Noise, so that bzip2 makes several blocks of it: of a cut one it gives nothing."""
    noise = random.Random(0)
    times = [noise.random() for _ in range(200_000)]
    line = {"csv": "u,{}\n", "jsonl": '{{"user": "u", "time": {}}}\n'}[kind]
    text = ("user,time\n" if kind == "csv" else "") + "".join(map(line.format, times))
    path = tmp_path / f"a.{kind}{ending}"
    path.write_bytes(cut(text.encode(), ending))
    sound, dead = read(path)
    marked = {row for row, cells in sound.items() if "\x1a" in f"{cells[1]}"}  # to be killed
    kept = len(sound) - len(marked)
    assert 50_000 < kept < 200_000
    assert sorted(sound.keys() - marked) == list(range(1, kept + 1))
    assert [float(sound[row][1]) for row in range(1, kept + 1)] == times[:kept]
    cut_row, (last, reason) = marked | (dead.keys() - {kept + 2}), max(dead.items())
    assert cut_row == {kept + 1}
    assert (last, reason) == (kept + 2, "file can't be read to its end")


def test_dead_rows_before_a_break_of_a_csv_file_are_kept(tmp_path, monkeypatch):
    """The second block is one row longer than a block, which the parser can't read."""
    monkeypatch.setattr(readers, "BLOCK_BYTES", 64)
    path = tmp_path / "a.csv"
    path.write_text("user,time\n" + "u,1\n" * 9 + "only\n" * 3 + 'u,"' + "x\n" * 400 + '"\n')
    sound, dead = read(path)
    assert sound == dict.fromkeys(range(1, 10), ("u", "1"))
    assert dead == dict.fromkeys((10, 11, 12), "wrong number of fields") | {
        13: "file can't be read to its end"
    }


@pytest.mark.parametrize("ending", ["", ".gz", ".bz2", ".zst"])
def test_compressed_files_are_read(tmp_path, ending):
    path = tmp_path / f"a.csv{ending}"
    kinds = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
    with pa.output_stream(str(path), compression=kinds.get(ending)) as stream:
        stream.write(b"user,time\nu,1\nv,2\n")
    assert read(path) == ({1: ("u", "1"), 2: ("v", "2")}, {})


def test_gzip_files_that_were_joined_are_read_to_the_end(tmp_path):
    (tmp_path / "a.csv.gz").write_bytes(
        gzip.compress(b"user,time\nu,1\n") + gzip.compress(b"v,2\n")
    )
    assert read(tmp_path / "a.csv.gz")[0] == {1: ("u", "1"), 2: ("v", "2")}


# ------------------------------------------------------------------------------- other headers


def test_columns_are_found_by_name_in_every_file(tmp_path):
    (tmp_path / "a.csv").write_text("time,more,user\n1,x,u\n")
    (tmp_path / "b.jsonl").write_text('{"more": 1, "time": 2, "user": "v"}\n')
    assert read(tmp_path / "a.csv")[0] == {1: ("u", "1")}
    assert read(tmp_path / "b.jsonl")[0] == {1: ("v", 2)}


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_every_row_of_a_file_with_another_header_is_dead(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    if kind == "csv":
        path.write_text("user,when\nu,1\nonly\nv,2\n")
    elif kind == "jsonl":
        path.write_text('{"user": "u", "when": 1}\n{\n{"user": "v", "when": 2}\n')
    else:
        pq.write_table(pa.table({"user": ["u", None, "v"], "when": [1, 5, 2]}), path)
    dead = read_misfit(path)
    assert [row.row for row in dead] == [1, 2, 3]
    assert {row.reason for row in dead[::2]} == {"no column 'time'"}
    assert dead[0].content["user"] == "u"
    assert str(dead[2].content["when"]) == "2"


def test_parquet_with_two_columns_of_one_name_is_dead_row_by_row(tmp_path):
    path = tmp_path / "a.parquet"
    columns = [pa.array(["u", "v"]), pa.array([1, 2]), pa.array(["x", "y"])]
    pq.write_table(pa.table(columns, names=["user", "time", "user"]), path)
    dead = read_misfit(path)
    assert [row.reason for row in dead] == ["two columns 'user'"] * 2
    assert dead[1].content == {"user": "v", "time": 2, "user (2)": "y"}


def test_an_empty_file_beside_a_good_one_is_said_to_be_broken(tmp_path):
    (tmp_path / "a.csv").write_text("user,time\n")
    for name in ("b.csv", "c.jsonl"):
        (tmp_path / name).touch()
    files = [str(tmp_path / name) for name in ("a.csv", "b.csv", "c.jsonl")]
    sources = find_sources(files, COLUMNS, ids=IDS)
    assert [source.broken for source in sources] == ["", "empty file", "empty file"]
    (raw,) = readers.read_batches(sources[1], COLUMNS, ids=IDS)
    assert raw.broken == readers.DeadRow(0, "empty file", None)


# ------------------------------------------------------------------------------- nested


def test_a_dot_leads_into_nested_fields(tmp_path):
    columns = ("who.id", "at.time.s")
    rows = [{"who": {"id": 7, "x": 1}, "at": {"time": {"s": 5}}}, {"who": None, "at": {"time": {}}}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert read(tmp_path / "a.jsonl", columns)[0] == {1: ("7", "5"), 2: (None, None)}
    assert read(tmp_path / "a.parquet", columns)[0] == {1: (7, 5), 2: (None, None)}


def test_parquet_types_that_others_write(tmp_path):
    """Text as bytes, views, dictionaries of large text, and decimal numbers."""
    path = tmp_path / "a.parquet"
    text, data = pa.array(["é", None]), pa.array(["é".encode(), None])
    wide = text.cast(pa.large_string())
    columns = [data, wide, wide.dictionary_encode(), text.cast(pa.string_view())]
    for users in [*columns, data.cast(pa.binary_view())]:
        times = pa.array([decimal.Decimal("1.5"), None], pa.decimal128(9, 2))
        pq.write_table(pa.table({"user": users, "time": times}), path)
        assert read(path)[0] == {1: ("é", 1.5), 2: (None, None)}, users.type


def test_a_column_of_lists_is_refused_with_the_remedy(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"user": [["u"], ["v"]], "time": [1, 2]}), path)
    with pytest.raises(InputError, match=r"column 'user' is list.*Write one row an event"):
        check_columns(str(path), COLUMNS, ids=IDS)


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


def test_json_lines_that_no_utf8_can_hold_or_that_are_too_deep_are_dead_letters(tmp_path):
    path, deep = tmp_path / "a.jsonl", "[" * 100_000 + "]" * 100_000
    half = "u\\ud83d"  # the JSON escape of one half of a surrogate pair
    lines = ['{"user": "a", "time": 1}', f'{{"user": "{half}", "time": 1}}']
    lines += [f'{{"user": "b", "time": {deep}}}', f'{{"user": "c", "time": 2, "{half}": 0}}']
    lines += [f'{{"user": {"[" * 600 + "]" * 600}, "time": 3}}']
    path.write_text("\n".join(lines))
    sound, dead = read(path)
    assert sound == {1: ("a", "1"), 4: ("c", "2")}
    assert dead == {2: "broken encoding", 3: "not a JSON object", 5: "wrong type"}

    source, letters = Source(str(path), 0), tmp_path / "dead_letters/a.jsonl"
    with DeadLetters(letters, source.path) as file:
        for raw in readers.read_batches(source, COLUMNS, ids=IDS):
            file.write(raw.dead)
    written = [json.loads(line) for line in letters.read_text(encoding="utf-8").splitlines()]
    assert [letter["row"] for letter in written] == [2, 3, 5]
    assert written[0]["content"] == {"user": "u\ud83d", "time": "1"}


def test_every_json_line_of_another_header_is_dead_whatever_it_holds(tmp_path):
    path, deep = tmp_path / "a.jsonl", '{"x":' * 900 + "1" + "}" * 900
    path.write_text(f'{{"user": "u\\ud83d"}}\n{{"u\\ud83d": 1}}\n{{"user": "v", "d": {deep}}}\n')
    dead = [(row.row, row.reason) for row in read_misfit(path)]
    missing = "no column 'time'"
    assert dead == [(1, "broken encoding"), (2, missing), (3, missing)]


def test_json_lines_across_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "BLOCK_BYTES", 50)
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"user": f"u{i}", "time": i}) + "\n" for i in range(40)))
    assert read(path)[0] == {i + 1: (f"u{i}", i) for i in range(40)}


def test_parquet_is_one_source_a_row_group_with_rows_of_the_whole_file(tmp_path):
    path = tmp_path / "a.parquet"
    users = pa.array([f"u{i}" for i in range(10)]).dictionary_encode()
    pq.write_table(pa.table({"time": range(10), "user": users}), path, row_group_size=4)
    assert [s.first_row for s in find_sources([str(path)], COLUMNS, ids=IDS)] == [1, 5, 9]
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
        ("a.csv", b"", r"a\.csv is an empty file"),
        ("a.csv", b"\n\n", "not a CSV file with a header"),
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
        check_columns(str(path), COLUMNS, ids=IDS)


def test_a_fractional_id_column_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"user": np.array([1.0, 2.0]), "time": [1, 2]}), path)
    with pytest.raises(InputError, match="column 'user' is double, expected text or whole"):
        check_columns(str(path), COLUMNS, ids=IDS)


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
