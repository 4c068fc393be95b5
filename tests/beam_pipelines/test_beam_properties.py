"""What holds for every log: files are scanned and merged as workers do it, without Beam."""

import collections
import itertools
import pathlib
import tempfile

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_pipelines import stages, vocabulary
from beam_pipelines.files import read_arrow
from beam_pipelines.heavy_hitters import HeavyHitters
from beam_pipelines.readers import Source
from guim_tf.mapping import Column, EventsMapping

MAPPING = EventsMapping(
    files=("*",),
    user_id=Column("user"),
    item_id=Column("item"),
    timestamp=Column("time"),
    action=Column("action"),
)
T0 = 1_700_006_400

Event = tuple[str, str, int, str]
EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "ü", "robot"]),
        st.sampled_from(["x", "y", "z", "商"]),
        st.integers(T0, T0 + 12),
        st.sampled_from(["buy", "view", ""]),
    ),
    max_size=60,
)
properties = settings(max_examples=30, deadline=None, derandomize=True)


def sequences_of(
    files: list[list[Event]], *, cap: int = 1000, partitions: int = 2, chunk_rows: int = 7
) -> tuple[dict[str, list[Event]], pa.Table, int]:
    """Scans and merges files of events: sequences by user, all events, rows lost to the cap."""
    with tempfile.TemporaryDirectory() as name:
        plan = stages.Plan(
            folder=pathlib.Path(name),
            events=MAPPING,
            shards=partitions,
            max_events_per_user=cap,
            validation_share=0.1,
            compression="",
            chunk_rows=chunk_rows,
        )
        plan.work.mkdir()
        spilled = collections.defaultdict(list)
        for number, rows in enumerate(files):
            path = plan.folder / f"{number}.csv"
            lines = ["user,item,time,action", *(",".join(map(str, row)) for row in rows)]
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
            for partition, file in stages.scan((number, Source(str(path), number)), plan):
                spilled[partition].append(file)
        for partition, paths in spilled.items():
            stages.merge_partition((partition, paths[::-1]), plan)
        tables = [read_arrow(plan.sequences(partition)) for partition in range(partitions)]
        table = pa.concat_tables(tables).unify_dictionaries().combine_chunks()
    kept = collections.defaultdict(list)
    for row in table.to_pylist():
        kept[row["user_id"]].append((row["item_id"], row["timestamp"], row["action"]))
    copies = sum(table["copies"].to_pylist())
    return dict(kept), table, sum(map(len, files)) - copies


def cut(rows: list[Event], places: list[int]) -> list[list[Event]]:
    """The rows as several files, in order."""
    bounds = [0, *sorted(place % (len(rows) + 1) for place in places), len(rows)]
    return [rows[a:b] for a, b in itertools.pairwise(bounds)]


@properties
@given(EVENTS, st.lists(st.integers(0, 100), max_size=4), st.integers(1, 9), st.integers(1, 5))
def test_files_chunks_and_partitions_change_nothing(rows, places, chunk_rows, partitions):
    whole, _, _ = sequences_of([rows], cap=6, chunk_rows=1000, partitions=1)
    files = cut(rows, places)
    parts, _, _ = sequences_of(files, cap=6, chunk_rows=chunk_rows, partitions=partitions)
    assert parts == whole


@properties
@given(EVENTS, st.data())
def test_the_order_of_the_input_matters_only_within_a_second(rows, data):
    one, _, lost = sequences_of([rows], cap=6)
    other, _, lost_too = sequences_of([data.draw(st.permutations(rows))], cap=6)
    by_time = {user: sorted(events, key=lambda e: (e[1], e)) for user, events in one.items()}
    assert {u: sorted(events, key=lambda e: (e[1], e)) for u, events in other.items()} == by_time
    for events in other.values():
        assert [event[1] for event in events] == sorted(event[1] for event in events)
    assert lost == lost_too


@properties
@given(EVENTS, st.integers(1, 8))
def test_the_cap_keeps_the_most_recent_events(rows, cap):
    capped, _, _ = sequences_of([rows], cap=cap)
    everything, _, _ = sequences_of([rows])
    assert capped.keys() == everything.keys()
    for user, events in everything.items():
        kept = capped[user]
        assert len(kept) == min(cap, len(events))
        assert set(kept) <= set(events)
        dropped = set(events) - set(kept)
        assert not dropped or max(e[1] for e in dropped) <= min(e[1] for e in kept)


@properties
@given(EVENTS, st.integers(0, 13))
def test_nothing_at_or_after_the_cut_off_leaks_into_what_is_learned(rows, seconds):
    """Counts, recent buyers and action types are those of a log that ends at the cut-off."""
    as_of = T0 + seconds
    _, all_events, _ = sequences_of([rows])
    history, before, _ = sequences_of([[row for row in rows if row[2] < as_of]])
    made = [vocabulary.count_items(table, as_of=as_of) for table in (all_events, before)]
    counted = [{row["item_id"]: row for row in table.to_pylist()} for table in made]
    assert {item: row for item, row in counted[0].items() if row["count"]} == counted[1]
    assert all(row["recent_buyers"] == 0 for row in counted[0].values() if not row["count"])
    actions = [vocabulary.actions_before(table, as_of=as_of) for table in (all_events, before)]
    assert actions[0] == actions[1]
    full, _, _ = sequences_of([rows])
    cut_off = {u: [event for event in events if event[1] < as_of] for u, events in full.items()}
    assert {user: events for user, events in cut_off.items() if events} == history


@properties
@given(st.lists(st.sampled_from("abcdefghij"), max_size=200), st.integers(1, 8), st.integers(1, 9))
def test_heavy_hitters_are_within_their_error(tokens, capacity, step):
    held = HeavyHitters(capacity)
    for start in range(0, len(tokens), step):
        held.add(tokens[start : start + step])
    truth = collections.Counter(tokens)
    for token, count in truth.items():
        assert held.counts[token] <= count <= held.counts[token] + held.error
    assert held.error <= len(tokens) / (capacity + 1)
    assert len(held.counts) <= capacity
    if len(truth) <= capacity:
        assert held.error == 0


def test_partitions_grow_with_the_log():
    """A million rows each, and at most 512 together."""
    grown = [stages.partitions_per_shard(rows, shards=4) for rows in (0, 4 * 10**6, 10**7, 10**12)]
    assert grown == [1, 1, 3, 128]
    assert stages.partitions_per_shard(10**12, shards=1000) == 1
