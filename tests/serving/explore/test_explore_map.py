"""The catalogue in two dimensions, and its plot."""

import dash
import numpy as np
import pytest

from serving.client import Recommendation
from serving.explore import figure
from serving.explore.item_map import Atlas, ItemMap, project
from serving.histories import Item


def clusters(size: int) -> np.ndarray:
    """Two narrow bundles of directions, at right angles in 16 dimensions."""
    random = np.random.default_rng(0)
    centres = np.repeat(np.eye(16)[:2], size, axis=0)
    return (centres + 0.05 * random.standard_normal(centres.shape)).astype(np.float32)


def test_what_is_near_among_vectors_is_near_on_the_map():
    places = project(clusters(30))
    first, second = places[:30], places[30:]
    spread = max(np.ptp(first, axis=0).max(), np.ptp(second, axis=0).max())

    assert places.shape == (60, 2)
    assert np.linalg.norm(first.mean(axis=0) - second.mean(axis=0)) > spread


def test_the_same_vectors_give_the_same_map():
    np.testing.assert_array_equal(project(clusters(10)), project(clusters(10)))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_a_shop_of_few_items_has_a_map(count):
    places = project(clusters(5)[:count])

    assert places.shape == (count, 2)
    assert len(np.unique(places, axis=0)) == count


def test_a_map_is_made_once_and_a_failure_is_tried_again():
    made, fails = [], [True]

    def make():
        made.append(1)
        if fails.pop() if fails else False:
            raise ConnectionError
        return ItemMap([Item("a")], np.zeros([1, 2]))

    atlas = Atlas(make)
    with pytest.raises(ConnectionError):
        atlas.get()
    assert atlas.get() is atlas.get()
    assert len(made) == 2


class TestFigure:
    @pytest.fixture
    def item_map(self):
        """Category c0 has 1 item, c1 has 2, ... c24 has 25; and one has none."""
        items = [Item(f"{c}-{n}", f"c{c}", f"title {n}") for c in range(25) for n in range(c + 1)]
        items += [Item("evil", "", "<a href='http://x'>x</a> & co")]
        return ItemMap(items, np.arange(2.0 * len(items)).reshape(-1, 2))

    def test_every_item_is_there_once_in_the_colour_of_its_category(self, item_map):
        traces = figure.draw(item_map).data[:-3]
        ids = [row[0] for trace in traces for row in trace.customdata]

        assert sorted(ids) == sorted(item.item_id for item in item_map.items)
        assert traces[0].name == "c24"
        assert len(traces[0].x) == 25
        assert len({trace.marker.color for trace in traces}) == len(traces)
        for trace in traces[:-1]:
            assert {row[0].split("-")[0] for row in trace.customdata} == {trace.name[1:]}
        assert traces[-1].name == "other"
        assert len(traces[-1].x) == 1 + 1 + 2 + 3 + 4 + 5  # no category, and c0 to c4

    def test_places_are_those_of_the_map(self, item_map):
        [trace] = [t for t in figure.draw(item_map).data if t.name == "other"]
        points = zip(trace.customdata, trace.x, trace.y, strict=True)
        place = {row[0]: (x, y) for row, x, y in points}

        assert place["0-0"] == (0, 1)
        assert place["1-1"] == (4, 5)

    def test_titles_are_text(self, item_map):
        labels = {
            row[0]: row[1] for trace in figure.draw(item_map).data[:-3] for row in trace.customdata
        }
        assert labels["evil"] == (
            "<b>&lt;a href=&#x27;http://x&#x27;&gt;x&lt;/a&gt; &amp; co</b><br>evil"
        )
        assert labels["3-1"] == "<b>title 1</b><br>3-1 · c3"

    def test_a_category_is_text(self):
        plot = figure.draw(ItemMap([Item("a", "<b>home</b>")], np.zeros([1, 2])))
        assert plot.data[0].name == "&lt;b&gt;home&lt;/b&gt;"

    def test_marks_are_where_their_items_are(self, item_map):
        patch = dash.Patch()
        shown = figure.mark(
            item_map,
            patch,
            bought=["1-0", "1-1", "1-0", "not on the map"],
            recommended=[Recommendation("gone", 1, 5), Recommendation("0-0", 1, 2)],
            chosen="2-0",
        )
        set_to = {
            tuple(change["location"]): change["params"]["value"]
            for change in patch.to_plotly_json()["operations"]
        }
        assert shown == {"bought": 2, "recommended": 1, "the item": 1}
        assert (set_to["data", -3, "x"], set_to["data", -3, "y"]) == ([2, 4], [3, 5])
        assert (set_to["data", -2, "x"], set_to["data", -2, "y"]) == ([0], [1])
        assert (set_to["data", -1, "x"], set_to["data", -1, "y"]) == ([6], [7])
        assert set_to["data", -2, "marker", "color"] == [figure.colour_of(2)]
        assert set_to["data", -2, "customdata"][0][1].endswith("<i>recommended</i>")

    def test_nothing_chosen_takes_marks_away(self, item_map):
        patch = dash.Patch()
        shown = figure.mark(item_map, patch, bought=[], recommended=[], chosen=None)

        assert set(shown.values()) == {0}
        values = [c["params"]["value"] for c in patch.to_plotly_json()["operations"]]
        assert all(value == [] for value in values)
