import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_pipelines import sequences, vocabulary
from beam_pipelines.vocabulary import Limits, join_catalogue, latest, make_attributes
from guim_tf import schema

LIMITS = Limits(max_items=2, max_categories=1, max_words=3, word_hash_rows=2, max_title_tokens=3)


def compacted(rows: list[tuple[str, str, int, str]]) -> pa.Table:
    names = ("user_id", "item_id", "timestamp", "action")
    table = pa.table({name: [row[i] for row in rows] for i, name in enumerate(names)})
    events = sequences.make_events(table, np.arange(len(rows)), file_index=0)
    return sequences.compact(events, max_events=100).events


def attributes(rows: list[tuple[str, int, str, str]]) -> pa.Table:
    """Rows of (item, timestamp, category, title) in input order."""
    names = ("item_id", "timestamp", "category_id", "title")
    table = pa.table({name: [row[i] for row in rows] for i, name in enumerate(names)})
    return make_attributes(table, np.arange(len(rows)))


def values(table: pa.Table) -> dict[tuple[str, str], str]:
    return {(row["item_id"], row["field"]): row["value"] for row in table.to_pylist()}


def test_only_events_before_the_cut_off_count():
    events = compacted(
        [("u", "x", 1, "buy"), ("v", "x", 9, "view"), ("u", "y", 10, "gift"), ("u", "x", 2, "")]
    )
    counts = vocabulary.count_items(events, as_of=10).to_pydict()
    assert dict(zip(counts["item_id"], counts["count"], strict=True)) == {"x": 3, "y": 0}
    assert vocabulary.actions_before(events, as_of=10) == ["buy", "view"]


def test_recent_buyers_are_users_of_the_last_thirty_days_before_the_cut_off():
    day, as_of = schema.DAY, 100 * schema.DAY
    events = compacted(
        [
            ("u", "x", as_of - 1, ""),
            ("u", "x", as_of - 30 * day, ""),  # the same user again, in the first second
            ("v", "x", as_of - 30 * day - 1, ""),  # too early
            ("v", "x", as_of, ""),  # too late
            ("v", "y", as_of - day, ""),
            ("w", "y", as_of - day, ""),
            ("w", "z", 5, ""),
        ]
    )
    counts = vocabulary.count_items(events, as_of=as_of).to_pydict()
    assert dict(zip(counts["item_id"], counts["recent_buyers"], strict=True)) == {
        "x": 1,
        "y": 2,
        "z": 0,
    }


def test_a_part_without_events_counts_nothing():
    empty = compacted([("u", "x", 1, "")]).slice(0, 0)
    assert vocabulary.count_items(empty, as_of=10).schema == vocabulary.COUNTS


def test_counts_of_partitions_add_up():
    parts = [pa.table({"item_id": ["a", "b"], "count": [1, 2], "recent_buyers": [0, 1]})]
    parts += [pa.table({"item_id": ["b", "c"], "count": [5, 0], "recent_buyers": [2, 0]})]
    total = vocabulary.add_counts(parts)
    assert {tuple(row.values()) for row in total.to_pylist()} == {
        ("a", 1, 0),
        ("b", 7, 3),
        ("c", 0, 0),
    }
    assert total.schema == vocabulary.COUNTS


def test_the_latest_value_that_is_none_empty_wins_and_of_equal_times_the_last():
    rows = [("x", 5, "c1", "new"), ("x", 3, "c2", "old"), ("x", 7, "", "newest")]
    rows += [("y", 1, "d", ""), ("x", 7, "", "newest, below")]
    table = attributes(rows)
    expected = {("x", "category_id"): "c1", ("x", "title"): "newest, below"}
    assert values(table) == expected | {("y", "category_id"): "d"}


def test_latest_of_pieces_is_latest_of_all():
    early = attributes([("x", 5, "c1", "a"), ("y", 9, "c2", "b")])
    later = attributes([("x", 6, "", "A"), ("y", 8, "c3", "B")])
    for pieces in ([early, later], [later, early]):
        assert values(latest(pa.concat_tables(pieces))) == {
            ("x", "category_id"): "c1",
            ("x", "title"): "A",
            ("y", "category_id"): "c2",
            ("y", "title"): "b",
        }


def test_the_catalogue_holds_items_of_the_events_and_of_the_table():
    counts = pa.table(
        {
            "item_id": ["b", "a", "new", "z"],
            "count": [3, 3, 0, 7],
            "recent_buyers": [1, 2, 0, 3],
        }
    )
    seen = attributes([("a", 1, "seen", "seen a"), ("z", 1, "seen", "seen z")])
    table = pa.table(
        {
            "item_id": ["a", "never sold", "a"],
            "category_id": ["first", "n", "own"],
            "title": ["first", "n", ""],
        }
    )
    catalogue = join_catalogue(counts, attributes=seen, item_table=table)
    assert [
        tuple(row.values())
        for row in catalogue.select(["item_id", "count", "category_id", "title"]).to_pylist()
    ] == [
        ("z", 7, "seen", "seen z"),
        ("a", 3, "own", "seen a"),  # the table's last row wins, its empty title does not
        ("b", 3, "", ""),
        ("never sold", 0, "n", "n"),
        ("new", 0, "", ""),
    ]
    assert catalogue["recent_buyers"].to_pylist() == [3, 2, 1, 0, 0]


def test_top_breaks_ties_by_token():
    assert vocabulary.top({"b": 2, "a": 2, "c": 5, "d": 1}, 3) == ["c", "a", "b"]


def test_rows_of_hashed_words_never_become_words():
    """Also those of a data set that had no word; without a data set there are none."""
    spare = [f"\x1ahashed {row}" for row in range(3)]
    assert vocabulary.go_on_words(None, ["a"], hash_rows=2) == (["a"], [])
    assert vocabulary.go_on_words((), ["a"], hash_rows=2) == ([*spare[:2], "a"], [0, 1])
    assert vocabulary.go_on_words((), [], hash_rows=2) == ([], [])
    assert vocabulary.go_on_words(("a",), ["b", "a"], hash_rows=2) == (
        ["a", *spare[1:], "b"],
        [1, 2],
    )


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    catalogue = pa.table(
        {
            "item_id": ["a", "b", "c", "d"],
            "count": [9, 5, 5, 0],
            "recent_buyers": [0, 4, 1, 0],
            "category_id": ["k", "k", "m", "late"],
            "title": ["Red mug, RED tea cup", "red Mug", "blue", "late red word"],
        }
    )
    made = vocabulary.write_catalogue(catalogue, folder=tmp_path, limits=LIMITS)
    assert (made.items.size, made.categories.size, made.words.size) == (2, 1, 3)
    return tmp_path


def read(folder: pathlib.Path, name: str) -> list[tuple[str, int]]:
    tokens, counts = schema.read_vocabulary(folder / schema.VOCABULARY_FILES[name])
    return list(zip(tokens, counts, strict=True))


def test_vocabularies_are_cut_and_look_at_sold_items_only(folder):
    """Words: red 2 items (twice in one counts once), mug 2, blue 1; "tea" is word four of a."""
    assert read(folder, "items") == [("a", 9), ("b", 5)]
    assert read(folder, "categories") == [("k", 14)]
    assert read(folder, "words") == [("mug", 2), ("red", 2), ("blue", 1)]


def test_items_parquet_has_a_row_an_item_in_vocabulary_order(folder):
    table = pq.read_table(folder / schema.ITEMS_FILE)
    assert table.column_names == list(schema.ITEM_COLUMNS)
    rows = table.to_pydict()
    assert rows["item_id"] == ["a", "b", "c", "d"]
    assert rows["item_index"] == [2, 3, 1, 1]  # after the first two: the common row
    assert rows["category_index"] == [2, 2, 1, 1]
    assert rows["count"] == [9, 5, 5, 0]
    assert rows["recent_buyers"] == [0, 4, 1, 0]
    assert rows["item_key"] == [schema.fingerprint64(each) for each in "abcd"]
    assert rows["title_tokens"][:3] == [[2, 1, 2], [2, 1], [3]]  # mug 1, red 2, blue 3
    late, red, word = rows["title_tokens"][3]
    assert red == 2
    assert {late, word} <= {4, 5}  # two hashed rows after three words


def test_load_catalogue_reads_it_back(folder):
    ids, catalogue = vocabulary.load_catalogue(folder)
    assert ids.to_pylist() == ["a", "b", "c", "d"]
    assert catalogue.token_starts.tolist() == [0, 3, 5, 6, 9]
    assert catalogue.tokens[:6].tolist() == [2, 1, 2, 2, 1, 3]
