import csv
import gzip
import json
import pathlib

import pytest

from guim_tf.datasets import movielens, movielens_1m_half, movielens_100k, online_retail
from guim_tf.datasets.prepare import main
from guim_tf.mapping import Column, LabelsMapping, Mapping
from guim_tf.strict_json import load


def rows(path: pathlib.Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_online_retail_is_read_as_published(tmp_path):
    log = tmp_path / "data[1]" / "online_retail" / "online_retail.csv.gz"
    log.parent.mkdir(parents=True)
    log.write_bytes(gzip.compress(b"InvoiceNo,StockCode,CustomerID,Country\n"))
    path = online_retail.prepare(data_dir=tmp_path / "data[1]", output=tmp_path / "out")
    assert {each.name for each in path.parent.iterdir()} == {"labels.csv", "mapping.json"}
    events = load(Mapping, path).events
    assert events.files == (str(tmp_path / "data[[]1]" / "online_retail" / log.name),)
    assert events.category_id == Column("StockCode", prefix=3)
    assert [each.reason for each in events.filters] == [
        "CustomerID present",
        "InvoiceNo not_starts_with C",
        "Quantity > 0",
    ]


def test_online_retail_labels_are_countries(tmp_path):
    lines = ["CustomerID,Country", "7.0,Spain", "7.0,France", "7.0,France"]  # moved, or travels
    lines += [",Spain", "8.0,Spain", "8.0,Cyprus"]  # nobody; as many of each
    lines += ["9.0,Unspecified", "9.0,Unspecified", "9.0,EIRE", "5.0,Unspecified"]
    log = tmp_path / "online_retail.csv.gz"
    log.write_bytes(gzip.compress("\n".join(lines).encode()))
    path = online_retail.prepare(data_dir=tmp_path, output=tmp_path / "out")
    assert rows(path.parent / "labels.csv") == [
        {"CustomerID": "7.0", "country": "France"},
        {"CustomerID": "8.0", "country": "Cyprus"},
        {"CustomerID": "9.0", "country": "EIRE"},
    ]
    assert load(Mapping, path).labels == LabelsMapping(
        files=("labels.csv",), user_id=Column("CustomerID"), labels=("country",)
    )


@pytest.mark.parametrize(
    "content",
    [b"", b"not gzip", gzip.compress(b"CustomerID\n7.0\n", mtime=0)],
    ids=["empty", "no gzip", "other columns"],
)
def test_a_damaged_online_retail_log_is_named(tmp_path, content):
    (tmp_path / "online_retail.csv.gz").write_bytes(content)
    with pytest.raises(ValueError, match=r"online_retail.csv.gz: .*CustomerID and Country"):
        online_retail.prepare(data_dir=tmp_path, output=tmp_path / "out")
    assert not (tmp_path / "out" / "mapping.json").exists()


@pytest.mark.parametrize(
    ("age", "band"),
    [
        (0, "Under 18"),
        (1, "Under 18"),
        (17, "Under 18"),
        (18, "18-24"),
        (24, "18-24"),
        (25, "25-34"),
        (44, "35-44"),
        (45, "45-49"),
        (49, "45-49"),
        (50, "50-55"),
        (55, "50-55"),
        (56, "56+"),
        (73, "56+"),
    ],
)
def test_age_bands_are_those_of_movielens_1m(age, band):
    assert movielens.age_group(age) == band


def write_1m(folder: pathlib.Path) -> pathlib.Path:
    folder.mkdir()
    (folder / "ratings.dat.gz").write_bytes(gzip.compress(b"1::7::5::978300760\n2::7::3::9\n"))
    (folder / "movies.dat").write_bytes(
        "7::Misérables, Les (1995)::Drama|Musical\n".encode("latin-1")
    )
    (folder / "users.dat").write_text("1::F::1::10::48067\n2::M::56::16::70072\n")
    return folder


def test_movielens_1m_half(tmp_path):
    path = movielens_1m_half.prepare(data_dir=write_1m(tmp_path / "ml"), output=tmp_path / "out")
    assert rows(path.parent / "events.csv") == [
        {"user_id": "1", "item_id": "7", "rating": "5", "timestamp": "978300760"},
        {"user_id": "2", "item_id": "7", "rating": "3", "timestamp": "9"},
    ]
    assert rows(path.parent / "items.csv") == [
        {"item_id": "7", "title": "Misérables, Les (1995)", "genres": "Drama|Musical"}
    ]
    assert rows(path.parent / "labels.csv") == [
        {"user_id": "1", "gender": "F", "age_group": "Under 18", "occupation": "K-12 student"},
        {"user_id": "2", "gender": "M", "age_group": "56+", "occupation": "self-employed"},
    ]
    mapping = load(Mapping, path)
    assert mapping.items is not None
    assert mapping.items.category_id == Column("genres")
    assert mapping.labels is not None
    assert mapping.labels.labels == ("gender", "age_group", "occupation")


def test_a_line_with_other_fields_is_named(tmp_path):
    folder = write_1m(tmp_path / "ml")
    (folder / "users.dat").write_text("1::F::1::10::48067\n2::M\n")
    with pytest.raises(ValueError, match=r"users\.dat, line 2: 2 fields between '::', expected 5"):
        movielens_1m_half.prepare(data_dir=folder, output=tmp_path / "out")
    assert not (tmp_path / "out" / "mapping.json").exists()


def test_movielens_100k(tmp_path):
    folder = tmp_path / "movielens_100k"
    folder.mkdir()
    (folder / "u.data").write_text("196\t2\t3\t881250949\n")
    (folder / "u.item").write_bytes(
        "2|Café, a (1995)|01-Jan-1995||http://x|0|1|1\n".encode("latin-1")
    )
    (folder / "u.genre").write_text("unknown|0\nAction|1\nComedy|2\n\n")
    (folder / "u.user").write_text("196|49|M|writer|55105\n")
    path = movielens_100k.prepare(data_dir=tmp_path, output=tmp_path / "out")
    assert rows(path.parent / "events.csv")[0]["timestamp"] == "881250949"
    assert rows(path.parent / "items.csv") == [
        {"item_id": "2", "title": "Café, a (1995)", "genres": "Action|Comedy"}
    ]
    assert rows(path.parent / "labels.csv") == [
        {"user_id": "196", "gender": "M", "age_group": "45-49", "occupation": "writer"}
    ]


@pytest.mark.parametrize(
    ("name", "events", "items", "users", "last"),
    [
        ("movielens_1m_half", 487_515, 3_881, 6_040, 1_046_388_675),
        ("movielens_100k", 100_000, 1_682, 943, 893_286_638),
    ],
)
def test_the_published_files(data_dir, tmp_path, capsys, name, events, items, users, last):
    assert main([name, "--data-dir", str(data_dir), "--output", str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "mapping.json")
    log = rows(tmp_path / "events.csv")
    assert len(log) == events
    assert max(int(row["timestamp"]) for row in log) == last
    assert len(rows(tmp_path / "items.csv")) == items
    labels = rows(tmp_path / "labels.csv")
    assert len(labels) == users
    assert {row["gender"] for row in labels} == {"F", "M"}
    assert {row["age_group"] for row in labels} == set(movielens.AGE_GROUPS.values())


@pytest.mark.parametrize(
    ("name", "file", "source"),
    [
        ("online_retail", "online_retail.csv.gz", "archive.ics.uci.edu"),
        ("movielens_1m_half", "ratings.dat.gz", "grouplens.org"),
        ("movielens_100k", "u.data", "grouplens.org"),
    ],
)
def test_a_missing_file_is_named_with_its_source(tmp_path, capsys, name, file, source):
    assert main([name, "--data-dir", str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(tmp_path / name / file) in line
    assert source in line
    assert not (tmp_path / "out").exists()


def test_prepare_needs_a_data_dir_for_public_data(tmp_path, capsys):
    assert main(["online_retail", "--output", str(tmp_path / "out")]) == 2
    assert "--data-dir is missing" in capsys.readouterr().err


def test_prepare_makes_a_shop(tmp_path, capsys):
    sizes = ["--users", "20", "--items", "90", "--days", "50", "--purchases-per-user", "9"]
    assert main(["synthetic", "--output", str(tmp_path), "--seed", "3", *sizes]) == 0
    mapping = json.loads(pathlib.Path(capsys.readouterr().out.strip()).read_text())
    assert mapping["labels"]["labels"] == ["has_child", "child_gender", "age_group"]
    assert main(["synthetic", "--output", str(tmp_path), "--items", "10"]) == 2
    assert "items is 10, expected at least 90" in capsys.readouterr().err


def test_amazon_counts_days_from_the_end(tmp_path):
    folder = tmp_path / "amazon_s3rec"
    folder.mkdir()
    (folder / "Beauty.txt.gz").write_bytes(gzip.compress(b"1 7 9 7\n2 9\n"))
    attributes = b'{"7": [24, 1, 25], "9": [], "8": [3]}'
    (folder / "Beauty_item2attributes.json.gz").write_bytes(gzip.compress(attributes))
    arguments = ["amazon_beauty", "--data-dir", str(tmp_path), "--output", str(tmp_path / "out")]
    assert main(arguments) == 0
    # 2014-07-23 is the day of the last item of both users.
    assert [tuple(row.values()) for row in rows(tmp_path / "out" / "events.csv")] == [
        ("1", "7", str(1_406_073_600 - 2 * 86_400)),
        ("1", "9", str(1_406_073_600 - 86_400)),
        ("1", "7", "1406073600"),
        ("2", "9", "1406073600"),
    ]
    assert [tuple(row.values()) for row in rows(tmp_path / "out" / "items.csv")] == [
        ("7", "25", "a24 a1 a25"),
        ("9", "", ""),
        ("8", "3", "a3"),
    ]


def test_amazon_files_that_are_damaged(tmp_path, capsys):
    sequences = tmp_path / "Sports_and_Outdoors.txt.gz"
    attributes = tmp_path / "Sports_and_Outdoors_item2attributes.json.gz"
    arguments = ["amazon_sports", "--data-dir", str(tmp_path), "--output", str(tmp_path / "out")]
    for log, table, message in (
        (b"1 2\n3\n", b"{}", "txt.gz, line 2: '3', expected a user and at least one item"),
        (b"1 2\n", b"{", "json.gz is not JSON"),
        (b"1 2\n", b"[1]", "expected an object of items"),
    ):
        sequences.write_bytes(gzip.compress(log))
        attributes.write_bytes(gzip.compress(table))
        assert main(arguments) == 2
        assert message in capsys.readouterr().err
        assert not list((tmp_path / "out").glob("*"))


@pytest.mark.parametrize(
    ("name", "events", "items", "users"),
    [("amazon_beauty", 198_502, 12_101, 22_363), ("amazon_sports", 296_337, 18_357, 35_598)],
)
def test_amazon_as_published(data_dir, tmp_path, name, events, items, users):
    assert main([name, "--data-dir", str(data_dir), "--output", str(tmp_path)]) == 0
    log = rows(tmp_path / "events.csv")
    assert len(log) == events
    assert len({row["user_id"] for row in log}) == users
    assert {row["item_id"] for row in log} == {
        row["item_id"] for row in rows(tmp_path / "items.csv")
    }
    assert len({row["item_id"] for row in log}) == items
    last = max(int(row["timestamp"]) for row in log)
    assert sum(int(row["timestamp"]) == last for row in log) == users  # each holds out one item
