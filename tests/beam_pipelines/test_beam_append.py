"""Days added one by one make the data set of one run over all of them."""

import json
import pathlib
import random
from collections.abc import Iterator

import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from beam_pipelines.build_dataset import build_dataset, main
from beam_pipelines.history import parse_day
from guim_tf import schema, text

DAY = 86_400
T0 = 1_700_006_400  # 2023-11-15 00:00:00 UTC
DAYS = [f"2023-11-{15 + day}" for day in range(10)]
INDICES = {"item_index": "items", "category_index": "categories", "action_index": "actions"}


def write_days(folder: pathlib.Path, days: int = 10, events: int = 120) -> None:
    """A file a day; items, words, categories and actions appear as days go by."""
    rng = random.Random(3)
    for day in range(days):
        lines = ["user,item,time,action,category,title"]
        for _ in range(events):
            item = rng.randrange(4 + 3 * day)
            user, action = rng.randrange(6 + day), rng.randrange(1 + day // 3)
            time = T0 + day * DAY + 3600 * rng.randrange(24)
            lines.append(
                f"u{user},i{item},{time},a{action},c{item % (3 + day)},w{item} v{day % (item + 1)}"
            )
        (folder / f"day{day}.csv").write_text("\n".join([*lines, *lines[-3:], "bad"]) + "\n")


@pytest.fixture
def mapping(tmp_path, write_mapping):
    write_days(tmp_path)
    return write_mapping(files=["day*.csv"], action="action", category_id="category", title="title")


def own_mapping(mapping: pathlib.Path, number: int) -> pathlib.Path:
    """The mapping with the file of one day."""
    content = json.loads(mapping.read_text())
    content["events"]["files"] = [f"day{number}.csv"]
    own = mapping.with_name("own.json")
    own.write_text(json.dumps(content))
    return own


def add_days(
    mapping: pathlib.Path, output: pathlib.Path, *, days: int = 10, **settings
) -> Iterator[tuple[schema.Schema, dict[str, list[str]]]]:
    """Adds each day from its own file; the schema and the tokens after each."""
    for number, day in enumerate(DAYS[:days]):
        window = parse_day(f"day={day}")
        build_dataset(
            mapping_file=own_mapping(mapping, number), output=output, append=window, **settings
        )
        yield schema.Schema.load(output), tokens(output)


def tokens(folder: pathlib.Path) -> dict[str, list[str]]:
    """What each row of each table stands for."""
    made = {
        name: schema.read_vocabulary(folder / file)[0]
        for name, file in schema.VOCABULARY_FILES.items()
    }
    made["actions"] = list(schema.Schema.load(folder).actions)
    return {name: ["", "?", *each] for name, each in made.items() if name != "words"} | {
        "words": ["", *made["words"]]
    }


def records(folder: pathlib.Path) -> dict[tuple[str, str], dict[str, list]]:
    """Features by split and user, rows of tables replaced by what they stand for."""
    names, found = tokens(folder), {}
    for split in ("train", "validation"):
        for path in sorted((folder / split).iterdir()):
            for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
                features = tf.train.Example.FromString(record).features.feature
                values = {
                    name: list(each.bytes_list.value or each.int64_list.value)
                    for name, each in features.items()
                }
                for feature, table in INDICES.items():
                    values[feature] = [names[table][row] for row in values[feature]]
                known = len(names["words"])
                values["title_tokens"] = [
                    names["words"][row] if row < known else f"hashed {row - known}"
                    for row in values["title_tokens"]
                ]
                found[split, values["user_id"][0].decode()] = values
    return found


SETTINGS = {"holdout_days": 0, "max_events_per_user": 60, "shards": 2, "max_dead_share": 0.05}


def counters(folder: pathlib.Path) -> dict:
    """`counters.json`, without the bytes: the number of a row may take more than another's."""
    made = json.loads((folder / "counters.json").read_text())
    for shard in made["shards"]:
        del shard["bytes"]
    return made


def catalogue(folder: pathlib.Path) -> list[dict]:
    columns = ["item_id", "item_key", "category_id", "title", "count", "recent_buyers"]
    rows = pq.read_table(folder / "items.parquet", columns=columns).to_pylist()
    return sorted(rows, key=lambda row: row["item_id"])


def test_ten_days_are_one_run_and_no_row_changes_its_meaning(mapping, tmp_path):
    days, one = tmp_path / "days", tmp_path / "one"
    build_dataset(mapping_file=mapping, output=one, **SETTINGS)
    names: dict[str, list[str]] = {}
    hashed: set[int] = set()  # rows that unknown words have shared
    for made, now in add_days(mapping, days, **SETTINGS):
        for name, rows in names.items():
            assert now[name][: len(rows)] == rows
        names = now
        assert all("hashed" in now["words"][row] for row in hashed if row < len(now["words"]))
        hashed |= set(range(len(now["words"]), made.word_rows))
        assert made.word_rows == len(now["words"]) + 8
    assert records(days) == records(one)
    assert catalogue(days) == catalogue(one)

    made, expected = counters(days), counters(one)
    spare = made["vocabularies"].pop("words") - expected["vocabularies"].pop("words")
    assert made == expected
    assert made["events"]["capped"] > 0
    assert made["events"]["duplicates"] > 0
    assert made["rows"]["dead"] == {"wrong number of fields": 10}
    retired = json.loads((days / "vocabularies/retired.json").read_text())
    assert retired["items"] == retired["categories"] == []
    assert set(retired["words"]) >= {row for row in hashed if row < len(names["words"])}
    assert len(retired["words"]) == spare > 0  # and words of titles that have changed
    for name, file in schema.VOCABULARY_FILES.items():
        pairs = zip(*schema.read_vocabulary(days / file), strict=True)
        first = 1 if name == "words" else 2
        held = {token: n for row, (token, n) in enumerate(pairs, first) if row not in retired[name]}
        assert held == dict(zip(*schema.read_vocabulary(one / file), strict=True)), name


def test_what_is_no_longer_frequent_stays_known_and_is_listed_as_retired(mapping, tmp_path):
    limits = SETTINGS | {"max_items": 5, "max_words": 9, "max_categories": 3}
    for number in range(4, 10):
        (tmp_path / f"day{number}.csv").unlink()
    build_dataset(mapping_file=mapping, output=tmp_path / "one", **limits)
    *_, (_, names) = add_days(mapping, tmp_path / "days", days=4, **limits)
    retired = json.loads((tmp_path / "days/vocabularies/retired.json").read_text())
    for name, rows in retired.items():
        assert rows or name != "items"
        active = {token for row, token in enumerate(names[name]) if row not in rows}
        assert active == set(tokens(tmp_path / "one")[name])
    table = pq.read_table(tmp_path / "days/items.parquet").to_pydict()
    index = dict(zip(table["item_id"], table["item_index"], strict=True))
    for row in retired["items"]:
        assert index[names["items"][row]] == row
    found = {token for user in records(tmp_path / "days").values() for token in user["item_index"]}
    assert found > {names["items"][row] for row in retired["items"]}


def test_title_tokens_of_a_grown_vocabulary_are_those_of_the_graph(mapping, tmp_path):
    for _ in add_days(mapping, tmp_path / "days", days=3, **SETTINGS, max_words=12):
        pass
    made = schema.Schema.load(tmp_path / "days")
    table = text.WordTable(
        str(tmp_path / "days" / schema.VOCABULARY_FILES["words"]),
        size=made.words.size,
        hash_rows=made.word_hash_rows,
        max_tokens=made.max_title_tokens,
    )
    rows = pq.read_table(tmp_path / "days/items.parquet")
    assert rows["title_tokens"].to_pylist() == text.row_lists(table, rows["title"].to_pylist())


def test_only_the_events_of_the_day_are_added(mapping, tmp_path, capsys):
    """The command reads all ten files, and says how many rows lay outside."""
    output = tmp_path / "ds"
    flags = ["--mapping", str(mapping), "--output", str(output), "--holdout-days", "0"]
    assert main([*flags, "--append", "day=2023-11-17"]) == 0
    made = counters(output)
    assert made["rows"]["kept"] == 123
    assert made["rows"]["filtered"] == {"outside of 2023-11-17": 9 * 123}
    assert made["time"]["as_of"] == T0 + 3 * DAY
    assert made["time"]["first"] >= T0 + 2 * DAY
    assert sorted(path.name for path in (output / "dead_letters").iterdir()) == [
        f"events-2023-11-17-{number:05d}.jsonl" for number in range(10)
    ]


def test_a_growing_folder_counts_each_row_with_one_day(mapping, tmp_path):
    """Every day's job reads all files that are there, and once a file that went on growing."""
    days, one, hidden = tmp_path / "days", tmp_path / "one", tmp_path / "hidden"
    (tmp_path / "day0.csv").write_text(
        (tmp_path / "day0.csv").read_text()
        + f"u1,,{T0 + 100},a0,c1,x\nu1,i1,never,a0,c1,x\nu1,,{T0 + DAY},a0,c1,x\n"
    )
    build_dataset(mapping_file=mapping, output=one, **SETTINGS)
    hidden.mkdir()
    for number in range(10):
        (tmp_path / f"day{number}.csv").rename(hidden / f"day{number}.csv")
    grown = tmp_path / "day9.csv"
    for number, day in enumerate(DAYS):
        if number == 9:
            with grown.open("a") as file:
                file.writelines((hidden / grown.name).read_text().splitlines(True)[1:])
        else:
            (hidden / f"day{number}.csv").rename(tmp_path / f"day{number}.csv")
        if number == 5:
            grown.write_text("user,item,time,action,category,title\nu1,i2,ever,a0,c1,x\n")
        build_dataset(mapping_file=mapping, output=days, append=parse_day(f"day={day}"), **SETTINGS)
    assert records(days) == records(one)
    made, expected = counters(days)["rows"], counters(one)["rows"]
    assert made["kept"] == expected["kept"]
    assert expected["dead"] == {
        "wrong number of fields": 10,
        "item_id missing": 2,
        "timestamp unparsable": 1,
    }
    assert made["dead"] == expected["dead"] | {"timestamp unparsable": 2}
    letters = [json.loads(x) for f in (days / "dead_letters").iterdir() for x in f.open()]
    places = [(letter["file"], letter["row"]) for letter in letters]
    assert len(places) == len(set(places)) == 14


def test_the_share_of_dead_rows_is_that_of_the_day(mapping, tmp_path):
    """Ten days that are read beside it do not hide a day that is no good."""
    bad = "".join(f"u1,,{T0 + 2 * DAY + n},a0,c1,x\n" for n in range(20))
    with (tmp_path / "day2.csv").open("a") as file:
        file.write(bad)
    build = {"mapping_file": mapping, "output": tmp_path / "ds", **SETTINGS}
    build_dataset(**build, append=parse_day("day=2023-11-16"))
    refused = r"20 of 143 rows of the day are unusable .13\.99%.* raise --max-dead-share"
    with pytest.raises(ValueError, match=refused):
        build_dataset(**build, append=parse_day("day=2023-11-17"))
    new = build | {"output": tmp_path / "new"}
    with pytest.raises(ValueError, match=refused):  # though ten days are read for the first time
        build_dataset(**new, append=parse_day("day=2023-11-17"))


def test_a_file_that_took_the_place_of_another_is_read_anew(mapping, tmp_path):
    """The log of the day always has one name."""
    today = own_mapping(mapping, 0)
    build = {"mapping_file": today, "output": tmp_path / "ds", **SETTINGS}
    build_dataset(**build, append=parse_day("day=2023-11-15"))
    second = (tmp_path / "day1.csv").read_text()
    (tmp_path / "day0.csv").write_text(second + "u1,i1,never,a0,c1,x\n" * 30)
    with pytest.raises(ValueError, match="31 of 154 rows are unusable"):
        build_dataset(**build, append=parse_day("day=2023-11-16"))
    (tmp_path / "day0.csv").write_text(second + "u1,i1,never,a0,c1,x\n")
    build_dataset(**build, append=parse_day("day=2023-11-16"))
    made = counters(tmp_path / "ds")["rows"]
    assert made["dead"] == {"wrong number of fields": 2, "timestamp unparsable": 1}
    assert made["filtered"] == {}


def test_a_day_is_not_added_from_files_that_end_too_soon(mapping, tmp_path):
    build = {"mapping_file": mapping, "output": tmp_path / "ds", **SETTINGS, "max_dead_share": 0.5}
    (tmp_path / "day3.csv").write_text("")
    with pytest.raises(ValueError, match=r"1 of 10 files are unusable .none may be.: empty"):
        build_dataset(**build, append=parse_day("day=2023-11-15"))
    (tmp_path / "day3.csv").unlink()
    build_dataset(**build, append=parse_day("day=2023-11-15"))


def test_a_day_has_one_name_however_it_is_spelled():
    assert parse_day("day=2011-1-5") == parse_day("day=2011-01-05")


def test_days_of_an_older_version_can_not_be_added_to(mapping, tmp_path):
    """A settings list of which it isn't known what it lacks."""
    output, first = tmp_path / "ds", parse_day("day=2023-11-15")
    build_dataset(mapping_file=mapping, output=output, append=first, **SETTINGS)
    file = output / "history/history.json"
    old = json.loads(file.read_text())
    fewer = {name: value for name, value in old.items() if name != "read"}
    for older in (old | {"settings": old["settings"][:3]}, fewer):
        file.write_text(json.dumps(older))
        with pytest.raises(ValueError, match="is of an older version"):
            build_dataset(
                mapping_file=mapping, output=output, append=parse_day("day=2023-11-16"), **SETTINGS
            )


def test_a_day_that_can_not_be_added_leaves_the_data_set_alone(mapping, tmp_path, capsys):
    output, window = tmp_path / "ds", parse_day("day=2023-11-15")
    first = {"mapping_file": own_mapping(mapping, 0), "output": output, "append": window}
    build_dataset(**first, **SETTINGS)
    before = counters(output)
    with pytest.raises(ValueError, match="2023-11-15 is in the data set already"):
        build_dataset(**first, **SETTINGS)
    second = first | {"append": parse_day("day=2023-11-16")}
    with pytest.raises(ValueError, match="max_events_per_user is 5, and the days before .* 60"):
        build_dataset(**second, **SETTINGS | {"max_events_per_user": 5})
    with pytest.raises(ValueError, match=r"validation_share is 0\.3, and the days before .* 0\.1"):
        build_dataset(**second, **SETTINGS | {"validation_share": 0.3})
    with pytest.raises(ValueError, match=rf"before that of the data set, {T0 + DAY}.*--as-of"):
        build_dataset(**second, **SETTINGS | {"holdout_days": 2})
    own_mapping(mapping, 1)
    with pytest.raises(ValueError, match="1 of 124 rows are unusable"):
        build_dataset(**second, **SETTINGS | {"max_dead_share": 0})
    with pytest.raises(ValueError, match="holds 1 days that were added, the last 2023-11-15"):
        build_dataset(mapping_file=mapping, output=output, **SETTINGS)
    assert counters(output) == before

    build_dataset(mapping_file=mapping, output=tmp_path / "plain", **SETTINGS)
    with pytest.raises(ValueError, match="has no history/, so no day can be added"):
        build_dataset(**first | {"output": tmp_path / "plain"}, **SETTINGS)
    with pytest.raises(SystemExit):
        main(["--mapping", str(mapping), "--output", str(output), "--append", "2023-11-16"])
    assert "is not of the form day=2011-11-10" in capsys.readouterr().err
