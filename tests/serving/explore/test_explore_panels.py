"""What the page shows, read as text: histories and answers in, components out."""

import pytest
from dash import html
from dash.development.base_component import Component

from serving.client import Recommendation
from serving.explore import panels
from serving.explore.answers import Explanation, Found
from serving.histories import Event, History, Item

DAY = 86_400
EVIL = "<img src=x onerror=alert(1)> & [b](javascript:x)"
MUG, CUP = Item("m1", "kitchen", "Blue mug"), Item("c1", "kitchen", EVIL)
BARE = Item("b1")
ITEMS = {item.item_id: item for item in (MUG, CUP, BARE)}


def components(component):
    yield component
    children = getattr(component, "children", None)
    for child in children if isinstance(children, list | tuple) else [children]:
        if isinstance(child, Component):
            yield from components(child)


def texts(component):
    """All text nodes below a component, in order."""
    children = getattr(component, "children", None)
    for child in children if isinstance(children, list | tuple) else [children]:
        if isinstance(child, Component):
            yield from texts(child)
        elif child is not None and child != "":
            yield str(child)


def rows(component):
    """Texts of each table row, heads left out."""
    bodies = [c for c in components(component) if isinstance(c, html.Tbody)]
    return [list(texts(row)) for body in bodies for row in body.children]


def a_history(*events):
    return History("anna", 100 * DAY, tuple(events))


def a_user(history, interests, recommended=()):
    return panels.user_panel(history, recommended=recommended, interests=interests, items=ITEMS)


class TestHistory:
    def test_the_latest_event_comes_first_with_date_title_and_category(self):
        table = panels.history_table(a_history(Event(CUP, DAY), Event(MUG, 31 * DAY + 3600)))

        assert rows(table) == [
            ["1970-02-01", "Blue mug", "m1", "kitchen"],
            ["1970-01-02", EVIL, "c1", "kitchen"],
        ]

    def test_action_types_are_shown_where_there_are_some(self):
        without = panels.history_table(a_history(Event(MUG, 0)))
        some = panels.history_table(a_history(Event(MUG, 0), Event(CUP, DAY, "click")))

        assert "Action" not in list(texts(without))
        assert "Action" in list(texts(some))
        assert rows(some)[0][:2] == ["1970-01-02", "click"]

    def test_nobody_without_events_is_an_error(self):
        [text] = texts(panels.history_table(a_history()))
        assert text.startswith("Nothing before this moment")

    def test_a_long_one_says_how_much_of_it_is_here(self):
        many = a_history(*(Event(MUG, n) for n in range(250)))
        panel = a_user(many, [[]])

        assert "250 events before 1970-04-11 00:00 UTC, 1 different items, the last 200 here" in (
            list(texts(panel))
        )
        assert len(rows(panels.history_table(many))) == 200


class TestAnswers:
    def test_each_interest_says_what_it_brings_and_where_in_the_list(self):
        recommended = [Recommendation("c1", 0.9, 1), Recommendation("m1", 0.8, 1)]
        interests = [[Found("m1", 0.5)], [Found("c1", 0.9), Found("b1", 0.85), Found("m1", 0.8)]]
        shown = list(texts(panels.interest_cards(interests, recommended, ITEMS)))

        assert shown == [
            *("Interest 0", "brings 0 of 2", "Blue mug", "m1", "#2", "0.500"),
            *("Interest 1", "brings 2 of 2", EVIL, "c1", "#1", "0.900"),
            *("(no title)", "b1", "0.850", "Blue mug", "m1", "#2", "0.800"),
        ]

    def test_the_list_of_all_has_rank_title_category_interest_and_score(self):
        recommended = [Recommendation("m1", 0.9, 3), Recommendation("gone", -0.25, 0)]

        assert rows(panels.recommended_table(recommended, ITEMS)) == [
            ["1", "Blue mug", "m1", "kitchen", "3", "0.900"],
            ["2", "(not in this data set)", "gone", "0", "-0.250"],
        ]

    def test_nothing_left_to_recommend_is_said(self):
        [text] = texts(panels.recommended_table([], ITEMS))
        assert text.startswith("Nothing")
        assert "Finds nothing that is left." in list(texts(panels.interest_cards([[]], [], {})))

    @pytest.mark.parametrize(
        ("count", "words"), [(1, "by one interest"), (8, "the best of 8 interests together")]
    )
    def test_any_number_of_interests(self, count, words):
        panel = a_user(a_history(Event(MUG, 0)), [[Found("m1", 0.5)]] * count)
        cards = [c for c in components(panel) if getattr(c, "className", "") == "card"]

        assert len(cards) == count
        assert words in list(texts(panel))
        assert len({str(card.style) for card in cards}) == count  # a colour each

    def test_no_two_buttons_of_a_page_are_one(self):
        """Dash refuses equal ids, and the same item stands in many lists."""
        history = a_history(Event(MUG, 0), Event(MUG, DAY))
        parts = [
            a_user(history, [[Found("m1", 1)]] * 8, [Recommendation("m1", 1, 0)]),
            panels.item_panel(CUP, [Found("m1", 1)], ITEMS),
            panels.why_panel("anna", Explanation(0, (1.0,), ((history.events[0], 1.0),))),
            panels.matches([MUG], "mug", limit=5),
        ]
        ids = [str(c.id) for part in parts for c in components(part) if isinstance(c, html.Button)]

        assert len(ids) == 2 + 1 + 8 + 1 + 1 + 1
        assert len(set(ids)) == len(ids)


class TestItem:
    def test_neighbours(self):
        panel = panels.item_panel(MUG, [Found("c1", 0.7), Found("gone", 0.6)], ITEMS)

        assert list(texts(panel))[:2] == ["Blue mug", "m1, category kitchen"]
        assert rows(panel) == [
            ["1", EVIL, "c1", "kitchen", "0.700"],
            ["2", "(not in this data set)", "gone", "0.600"],
        ]

    def test_alone_in_its_catalogue(self):
        shown = list(texts(panels.item_panel(BARE, [], {})))
        assert shown == ["(no title)", "b1, no category", "The catalogue has no other items."]

    def test_matches(self):
        assert list(texts(panels.matches([MUG, CUP], "u", limit=5))) == [
            *("Blue mug", "m1"),
            *(EVIL, "c1"),
        ]
        assert list(texts(panels.matches([MUG, CUP], "u", limit=2)))[-1].startswith("… and more")
        [none] = texts(panels.matches([], "zebra", limit=2))
        assert "zebra" in none


class TestWhy:
    def test_scores_of_all_interests_and_events_by_attention(self):
        attention = [(Event(MUG, DAY), 0.6), *((Event(CUP, n), 0.06) for n in range(6))]
        panel = panels.why_panel("anna", Explanation(1, (0.2, 0.75), tuple(attention)))

        assert rows(panel)[:3] == [
            ["Interest 0", "0.200"],
            ["Interest 1", "0.750"],
            ["60%", "Blue mug", "m1", "1970-01-02"],
        ]
        assert len(rows(panel)) == 2 + 5  # the five events attended to most
        [winner] = [c for c in components(panel) if getattr(c, "className", "") == "winner"]
        assert list(texts(winner)) == ["Interest 1", "0.750"]

    def test_without_events_and_without_the_item(self):
        no_events = panels.why_panel("anna", Explanation(0, (0.2,), ()))
        unknown = panels.why_panel("anna", Explanation(-1, (-1.0,), ()))

        assert "This interest attends to no event: the history is empty." in list(texts(no_events))
        assert list(texts(unknown)) == [
            "Why for user anna",
            "The index does not have this item.",
        ]


def test_an_error_is_an_alert_and_a_hint_is_none():
    assert panels.message("x", kind="error").role == "alert"
    assert panels.message("x").role == "status"


def test_the_note_of_the_map_counts_what_is_on_it():
    note = panels.map_note(
        3000, shown={"bought": 2, "recommended": 0}, wanted={"bought": 5, "recommended": 0}
    )
    assert "3,000 most bought" in note
    assert note.endswith("Marked here: 2 of 5 bought.")
