import collections

import numpy as np
import pyarrow as pa
import pytest

from beam_pipelines import sequences
from beam_pipelines.sequences import compact, concatenate, make_events


def events(rows: list[tuple], file_index: int = 0) -> pa.Table:
    """Rows of (user, item, timestamp) or (user, item, timestamp, action), in input order."""
    columns = ("user_id", "item_id", "timestamp", "action")
    kinds = (pa.string(), pa.string(), pa.int64(), pa.string())
    full = [(*row, "")[:4] for row in rows]
    cells = [pa.array([row[i] for row in full], kind) for i, kind in enumerate(kinds)]
    table = pa.table(dict(zip(columns, cells, strict=True)))
    return make_events(table, np.arange(1, len(rows) + 1), file_index=file_index)


def rows_of(table: pa.Table) -> list[tuple]:
    return [
        (row["user_id"], row["item_id"], row["timestamp"], row["action"])
        for row in table.to_pylist()
    ]


def test_compact_sorts_by_user_and_time_and_keeps_the_order_of_equal_times():
    table = events([("b", "z", 5), ("a", "y", 9), ("b", "a", 5), ("a", "x", 1)])
    assert rows_of(compact(table, max_events=9).events) == [
        ("a", "x", 1, ""),
        ("a", "y", 9, ""),
        ("b", "z", 5, ""),
        ("b", "a", 5, ""),
    ]


def test_an_exact_duplicate_has_the_same_user_item_time_and_action():
    rows = [("a", "x", 1, "buy"), ("a", "y", 1, "buy"), ("a", "x", 1, "buy")]
    rows += [("a", "x", 2, "buy"), ("a", "x", 1, "view"), ("b", "x", 1, "buy")]
    result = compact(events(rows), max_events=9)
    assert rows_of(result.events) == [rows[0], rows[1], rows[4], rows[3], rows[5]]
    assert result.events["copies"].to_pylist() == [2, 1, 1, 1, 1]
    assert result.capped == 0


def test_the_cap_keeps_the_most_recent_and_counts_dropped_copies():
    """Three rows of time 1 (two copies) and one of time 2 go; both copies of time 3 count once."""
    rows = [("a", "x", 1), ("a", "y", 3), ("a", "x", 1), ("a", "z", 1), ("a", "w", 2)]
    rows += [("a", "y", 3), ("a", "v", 4), ("b", "x", 0)]
    result = compact(events(rows), max_events=2)
    assert rows_of(result.events) == [("a", "y", 3, ""), ("a", "v", 4, ""), ("b", "x", 0, "")]
    assert result.events["copies"].to_pylist() == [2, 1, 1]
    assert result.capped == 4


def test_no_events():
    result = compact(events([]), max_events=3)
    assert (result.events.num_rows, result.capped) == (0, 0)
    assert sequences.users_of(result.events).ids == []
    assert [part.num_rows for part in sequences.partition(events([]), 3)] == [0, 0, 0]


def random_rows(seed: int, count: int = 400) -> list[tuple]:
    rng = np.random.default_rng(seed)
    return [
        (f"u{rng.integers(6)}", f"i{rng.integers(9)}", int(rng.integers(12)), "ab"[rng.integers(2)])
        for _ in range(count)
    ]


def plain_compact(rows: list[tuple], cap: int) -> tuple[dict, int, int]:
    """The same in plain Python: sequences by user, duplicates, capped rows."""
    copies = collections.Counter(rows)
    sequences_, capped = {}, 0
    for user in {row[0] for row in rows}:
        mine = [row for row in dict.fromkeys(rows) if row[0] == user]
        recent = sorted(mine, key=lambda row: (row[2], row[1], row[3]))[-cap:]
        capped += sum(copies[row] for row in mine if row not in recent)
        kept = [row for row in mine if row in recent]  # in the order of the input
        sequences_[user] = sorted(kept, key=lambda row: row[2])
    written = sum(map(len, sequences_.values()))
    return sequences_, len(rows) - capped - written, capped


@pytest.mark.parametrize("cap", [1, 7, 30, 1000])
def test_compact_equals_plain_python(cap):
    rows = random_rows(seed=cap)
    expected, duplicates, capped = plain_compact(rows, cap)
    result = compact(events(rows), max_events=cap)
    found = collections.defaultdict(list)
    for row in rows_of(result.events):
        found[row[0]].append(row)
    assert dict(found) == expected
    assert result.capped == capped
    assert sum(result.events["copies"].to_pylist()) - result.events.num_rows == duplicates


@pytest.mark.parametrize("cap", [1, 7, 30])
def test_compacting_pieces_first_changes_nothing(cap):
    """The pieces arrive out of order, some compacted twice."""
    rows = random_rows(seed=99)
    pieces = [events(rows[i : i + 50], file_index=i) for i in range(0, len(rows), 50)]
    whole = compact(concatenate(pieces), max_events=cap)
    capped, compacted = 0, []
    for piece in pieces[::-1]:
        part = compact(piece, max_events=cap)
        capped += part.capped
        compacted.append(part.events)
    half = compact(concatenate(compacted[:4]), max_events=cap)
    result = compact(concatenate([*compacted[4:], half.events]), max_events=cap)
    assert result.events.to_pylist() == whole.events.to_pylist()
    assert capped + half.capped + result.capped == whole.capped


def test_partition_keeps_users_whole_and_loses_no_row():
    rows = random_rows(seed=3)
    parts = sequences.partition(events(rows), 3)
    assert sorted(row for part in parts for row in rows_of(part)) == sorted(rows)
    owners = [set(part["user_id"].to_pylist()) for part in parts]
    assert sum(map(len, owners)) == len(set.union(*owners)) == 6
    for part, own in zip(parts, owners, strict=True):  # no id that isn't used
        assert set(part["user_id"].chunk(0).dictionary.to_pylist()) == own


def test_hashes_are_fixed_for_all_time():
    """From hashlib: blake2b(b"u1", digest_size=8, person=b"split"), little endian."""
    found = sequences.stable_hashes(["u1", "é"], purpose=b"split")
    assert found.tolist() == [14523576839461036950, 14077872311775488632]
    assert sequences.stable_hashes(["u1"], purpose=b"partition")[0] != found[0]


def test_the_validation_split_has_its_share_and_grows_with_it():
    users = [f"user-{i}" for i in range(20_000)]
    tenth = sequences.in_validation(users, share=0.1)
    assert abs(tenth.mean() - 0.1) < 0.01  # five standard deviations
    assert not (tenth & ~sequences.in_validation(users, share=0.2)).any()
    assert not sequences.in_validation(users, share=0.0).any()


def test_heavy_users_counts_rows():
    table = events([("a", "x", 1), ("a", "x", 1), ("b", "x", 1)])
    assert sequences.heavy_users(table, 1)
    assert not sequences.heavy_users(table, 2)


@pytest.mark.parametrize("high", [10, 2**40, 2**62])
def test_sort_rows_is_lexsort_whether_keys_fit_one_word_or_not(high):
    rng = np.random.default_rng(0)
    keys = [rng.integers(-high, high, 500), rng.integers(0, 3, 500), rng.integers(0, high, 500)]
    keys[0] = keys[0][rng.integers(0, 5, 500)]  # ties
    assert np.array_equal(sequences._sort_rows(keys), np.lexsort(keys[::-1]))


def test_users_of_gives_the_rows_of_each_user():
    users = sequences.users_of(compact(events(random_rows(5)), max_events=50).events)
    assert users.ids == [f"u{i}" for i in range(6)]
    assert users.starts[0] == 0
    assert (np.diff(users.starts) > 0).all()
