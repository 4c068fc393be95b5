import datetime

import numpy as np
import pyarrow as pa
import pytest

from beam_pipelines.events import (
    READ_BEFORE,
    Window,
    cast_rows,
    mapped_columns,
    validate_events,
    validate_items,
    validate_labels,
)
from beam_pipelines.readers import DeadRow, RawBatch
from guim_tf.mapping import Column, EventsMapping, ItemsMapping, LabelsMapping, RowFilter

NOON = 1323432000  # 2011-12-09 12:00:00 UTC


def batch(**columns) -> RawBatch:
    table = pa.table(columns)
    return RawBatch(table, np.arange(1, table.num_rows + 1))


def mapping(**fields) -> EventsMapping:
    return EventsMapping(
        files=("x.csv",),
        user_id=Column("user"),
        item_id=Column("item"),
        timestamp=Column("time"),
        **fields,
    )


def times(values, unit: str, kind: pa.DataType | None = None) -> tuple[list, dict[int, str]]:
    """Seconds of each sound row, and the reasons of the others by row number."""
    n = len(values)
    raw = batch(user=["u"] * n, item=["i"] * n, time=pa.array(values, kind))
    valid = validate_events(raw, mapping(timestamp_unit=unit))
    return valid.table["timestamp"].to_pylist(), {d.row: d.reason for d in valid.dead}


def test_iso_times_with_and_without_zone_and_fraction():
    seconds, dead = times(
        [
            "2011-12-09 12:00:00",
            "2011-12-09T12:00",
            "2011-12-09T12:00:00Z",
            "2011-12-09T14:00:00+02:00",
            "2011-12-09T07:00:00.999999999-0500",
            "2011-12-09 12:00:00.5",
            "2011-12-09",
        ],
        "iso",
    )
    assert seconds == [NOON] * 6 + [NOON - 12 * 3600]
    assert not dead


def test_iso_times_that_are_none():
    good = "2011-12-09T12:00:00"
    bad = ["2011-13-09", "2011-02-30 10:00:00", "soon", "20111209", "2011-12-09T25:00:00", " "]
    seconds, dead = times([good, *bad, good, "", None, "1969-12-31", "2100-01-01"], "iso")
    assert seconds == [NOON, NOON]
    expected = dict.fromkeys(range(2, 8), "timestamp unparsable")
    expected |= {9: "timestamp missing", 10: "timestamp missing"}
    assert dead == expected | {11: "timestamp out of range", 12: "timestamp out of range"}


@pytest.mark.parametrize(
    ("unit", "value", "expected"),
    [
        ("seconds", "1323432000", NOON),
        ("seconds", "1323432000.9", NOON),
        ("seconds", NOON, NOON),
        ("seconds", float(NOON), NOON),
        ("milliseconds", NOON * 1000 + 999, NOON),
        ("milliseconds", "1323432000999", NOON),
        ("iso", datetime.datetime(2011, 12, 9, 12), NOON),
        ("iso", datetime.datetime(2011, 12, 9, 12, tzinfo=datetime.UTC), NOON),
        ("iso", datetime.date(2011, 12, 9), NOON - 12 * 3600),
    ],
)
def test_times_in_all_units(unit, value, expected):
    assert times([value], unit) == ([expected], {})


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("x", "timestamp unparsable"),
        ("nan", "timestamp unparsable"),
        ("inf", "timestamp unparsable"),
        ("0x1F", "timestamp unparsable"),
        ("-1", "timestamp out of range"),
        ("1323432000000", "timestamp out of range"),  # milliseconds, read as seconds
        ("", "timestamp missing"),
    ],
)
def test_numbers_that_are_no_time(value, reason):
    assert times(["5", value], "seconds") == ([5], {2: reason})


def test_ids_must_be_there_and_fit_a_line():
    raw = batch(
        user=["u", "", None, "a\tb", "u", "u"],
        item=["i", "i", "i", "i", "x\ny", "i"],
        time=[1, 2, 3, 4, 5, 6],
        cat=["c", "c", "c", "c", "c", "c\rd"],
    )
    valid = validate_events(raw, mapping(category_id=Column("cat")))
    assert valid.table.to_pylist() == [
        {
            "user_id": "u",
            "item_id": "i",
            "timestamp": 1,
            "action": "",
            "category_id": "c",
            "title": "",
        }
    ]
    assert [(d.row, d.reason) for d in valid.dead] == [
        (2, "user_id missing"),
        (3, "user_id missing"),
        (4, "user_id holds a tab or a line break"),
        (5, "item_id holds a tab or a line break"),
        (6, "category_id holds a tab or a line break"),
    ]
    assert valid.dead[2].content == {"user": "a\tb", "item": "i", "time": 4, "cat": "c"}


def test_a_garbled_cell_is_a_dead_letter_in_any_column():
    raw = batch(
        user=["u", "u\x1a", "u"], item=["i", "i", "i"], time=[1, 1, 1], t=["a", "b", "\x1a"]
    )
    valid = validate_events(raw, mapping(title=Column("t")))
    assert [(d.row, d.reason) for d in valid.dead] == [
        (2, "broken encoding"),
        (3, "broken encoding"),
    ]


def test_whole_number_ids_are_text_and_prefixes_are_cut():
    raw = batch(user=[7], item=["85123A"], time=[1])
    valid = validate_events(raw, mapping(category_id=Column("item", prefix=3)))
    assert valid.table.select(["user_id", "category_id"]).to_pylist() == [
        {"user_id": "7", "category_id": "851"}
    ]


@pytest.mark.parametrize(
    ("operator", "value", "kept"),
    [
        ("present", None, ["1", "2", "10", "C3"]),
        ("==", "2", ["2"]),
        ("!=", "2", ["", None, "1", "10", "C3"]),
        ("starts_with", "C", ["C3"]),
        ("not_starts_with", "C", ["", None, "1", "2", "10"]),
        (">", "10", ["2", "C3"]),  # text compares as text
    ],
)
def test_filters_on_text(operator, value, kept):
    cells = ["", None, "1", "2", "10", "C3"]
    rule = RowFilter("x", operator, value)
    valid = validate_events(
        batch(user=["u"] * 6, item=["i"] * 6, time=range(6), x=cells), mapping(filters=(rule,))
    )
    assert [cells[row - 1] for row in valid.rows] == kept
    assert valid.filtered == {rule.reason: 6 - len(kept)}
    assert not valid.dead


@pytest.mark.parametrize(
    ("operator", "kept"),
    [("==", [2]), ("!=", [1, 3]), (">", [3]), (">=", [2, 3]), ("<", [1]), ("<=", [1, 2])],
)
@pytest.mark.parametrize("cells", [["9", "10", "10.5"], [9, 10, 11], [9.0, 10.0, 10.5]])
def test_filters_on_numbers(operator, kept, cells):
    valid = validate_events(
        batch(user=["u"] * 3, item=["i"] * 3, time=[1, 2, 3], x=cells),
        mapping(filters=(RowFilter("x", operator, 10),)),
    )
    assert valid.rows.tolist() == kept


def test_a_row_counts_once_under_the_first_thing_that_drops_it():
    """Row 2 fails both filters; row 3's broken time no longer matters; row 4 has no number."""
    raw = batch(
        user=["u", "", "", "u", "u"],
        item=["i"] * 5,
        time=["1", "2", "x", "4", "x"],
        n=["1", "0", "1", "?", "1"],
    )
    rules = (RowFilter("user", "present"), RowFilter("n", ">", 0))
    valid = validate_events(raw, mapping(filters=rules))
    assert valid.rows.tolist() == [1]
    assert valid.filtered == {"user present": 2}
    assert {d.row: d.reason for d in valid.dead} == {
        4: "n is not a number",
        5: "timestamp unparsable",
    }


def test_rows_that_did_not_parse_are_handed_on():
    table = pa.table({"user": ["u"], "item": ["i"], "time": [1]})
    raw = RawBatch(table, np.array([2]), (DeadRow(1, "wrong number of fields", "a,b"),))
    valid = validate_events(raw, mapping())
    assert (valid.rows.tolist(), len(valid.dead)) == ([2], 1)


def test_an_empty_batch_is_no_event():
    raw = batch(user=pa.array([], pa.string()), item=pa.array([], pa.string()), time=[])
    assert validate_events(raw, mapping(timestamp_unit="iso")).table.num_rows == 0


def test_items_and_labels():
    items = validate_items(
        batch(id=["a", None], cat=[None, "c"], t=["A", "B"]),
        ItemsMapping(("x.csv",), Column("id"), Column("cat"), Column("t")),
    )
    assert items.table.to_pylist() == [{"item_id": "a", "category_id": "", "title": "A"}]
    assert items.dead[0].reason == "item_id missing"
    labels = validate_labels(
        batch(id=["a", "b"], age=["7", ""], child=[True, None]),
        LabelsMapping(("x.csv",), Column("id"), ("age", "child")),
    )
    assert labels.table.to_pylist() == [
        {"user_id": "a", "age": "7", "child": "true"},
        {"user_id": "b", "age": None, "child": None},
    ]


def test_cast_rows_finds_every_bad_cell():
    cells = ["1", "x", "3", "", None, "6", "y"]
    values, bad = cast_rows(pa.array(cells), pa.float64())
    assert values.to_pylist() == [1.0, None, 3.0, None, None, 6.0, None]
    assert np.flatnonzero(bad).tolist() == [1, 3, 6]


def test_mapped_columns_tells_ids_from_the_rest():
    names, ids = mapped_columns(mapping(title=Column("t"), filters=(RowFilter("q", ">", 0),)))
    assert names == ("user", "item", "t", "time", "q")
    assert ids == {"user", "item", "t"}


# ------------------------------------------------------------------------------- time zones


@pytest.mark.parametrize("kind", [None, pa.timestamp("ms"), pa.timestamp("us", "UTC")])
def test_a_time_that_names_no_zone_is_of_the_mapping(kind):
    """Berlin is an hour ahead in winter and two in summer; a zone in the cell comes first."""
    texts = ["2011-12-09T13:00:00", "2011-07-09T14:00:00", "2011-12-09T12:00:00"]
    if kind is None:
        cells = pa.array([*texts[:2], texts[2] + "Z"])
    else:
        cells = pa.array(texts).cast(pa.timestamp("s")).cast(pa.timestamp(kind.unit)).cast(kind)
    raw = batch(user=["u"] * 3, item=["i"] * 3, time=cells)
    valid = validate_events(raw, mapping(timestamp_unit="iso", time_zone="Europe/Berlin"))
    july = NOON - 153 * 86_400
    hours = [0, 0, 0] if kind is None else [0, 0, -1] if kind.tz is None else [1, 2, 0]
    expected = [base + 3600 * h for base, h in zip([NOON, july, NOON], hours, strict=True)]
    assert valid.table["timestamp"].to_pylist() == expected


def test_an_hour_that_comes_twice_or_never_is_still_a_time():
    """2011-10-30 02:30 comes twice in Berlin: the first is 00:30 UTC. 2011-03-27 02:30 never."""
    raw = batch(user=["u"] * 2, item=["i"] * 2, time=["2011-10-30T02:30", "2011-03-27T02:30"])
    valid = validate_events(raw, mapping(timestamp_unit="iso", time_zone="Europe/Berlin"))
    twice = datetime.datetime(2011, 10, 30, 0, 30, tzinfo=datetime.UTC)
    never = datetime.datetime(2011, 3, 27, 1, 0, tzinfo=datetime.UTC)
    assert valid.table["timestamp"].to_pylist() == [twice.timestamp(), never.timestamp()]
    assert not valid.dead


def test_a_zone_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"time_zone.*Middle/Earth.*Europe/Istanbul"):
        mapping(time_zone="Middle/Earth")


def test_a_window_keeps_its_first_second_and_not_its_last():
    raw = batch(user=["u"] * 4, item=["i"] * 4, time=[9, 10, 19, 20])
    valid = validate_events(raw, mapping(), window=Window(10, 20, "the test"))
    assert valid.table["timestamp"].to_pylist() == [10, 19]
    assert valid.rows.tolist() == [2, 3]
    assert valid.filtered == {"outside of the test": 2}


def test_bad_rows_of_another_time_are_not_the_windows():
    """Which other days account for; a time that can't be read is the first reader's."""
    raw = batch(
        user=["", "u", "", "u", "u", "u", ""],
        item=["i"] * 7,
        time=["9", "never", "10", "", "11", "later", "30"],
    )
    unparsed = (DeadRow(8, "wrong number of fields", "x"), DeadRow(9, "wrong number of fields", ""))
    raw = RawBatch(raw.table, raw.rows, unparsed)
    window = Window(10, 20, "the test")

    def reasons(**settings) -> dict[int, str]:
        return {
            d.row: d.reason for d in validate_events(raw, mapping(), window=window, **settings).dead
        }

    expected = {
        2: "timestamp unparsable",
        3: "user_id missing",
        4: "timestamp missing",
        6: "timestamp unparsable",
        8: "wrong number of fields",
        9: "wrong number of fields",
    }
    assert reasons() == expected
    assert reasons(rows_before=5) == {row: expected[row] for row in (3, 6, 8, 9)}
    again = validate_events(raw, mapping(), window=window, rows_before=8)
    assert {d.row for d in again.dead} == {3, 9}
    assert again.filtered == {READ_BEFORE: 6}
    assert validate_events(raw, mapping(), window=window).filtered == {window.reason: 2}
    assert again.rows.tolist() == [5]
    assert again.of_window.tolist() == [3, 5]


def test_a_dead_row_may_hold_a_time_that_python_has_not():
    for time, shown in (
        (pa.array([1], pa.timestamp("ns")), "1970-01-01 00:00:00.000000001"),
        (pa.array([2**31 - 1], pa.date32()), "<value out of range: 2147483647>"),
    ):
        [letter] = validate_events(batch(user=[""], item=["i"], time=time), mapping()).dead
        assert letter.content["time"] == shown
