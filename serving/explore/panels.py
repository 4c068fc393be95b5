"""What the page shows, as pure functions: histories and answers in, HTML components out.

Titles, ids and categories are a shop's own text: they become text nodes, which are never markup.
"""

import collections
from collections.abc import Mapping, Sequence

from dash import html
from dash.development.base_component import Component

from serving.client import Recommendation
from serving.explore.answers import Explanation, Found
from serving.explore.style import colour_of
from serving.histories import History, Item, format_time

EVENTS = 200  # rows of a history, the latest
ATTENDED = 5  # events of an explanation
_NUMBERS = ("Score", "Cosine")  # heads of columns that are set to the right
Items = Mapping[str, Item]


def message(text: str, *, kind: str = "hint") -> Component:
    """A panel that has nothing else to show: a "hint", or an "error" with its remedy."""
    return html.P(text, className=f"message {kind}", role="alert" if kind == "error" else "status")


def item_button(item_id: str, items: Items, *, place: str) -> Component:
    """The title of an item; a click chooses it. `place` tells the same item's buttons apart."""
    known = items.get(item_id)
    title = (known.title or "(no title)") if known else "(not in this data set)"
    return html.Button(
        [title, html.Small(item_id)],
        id={"type": "item", "item": item_id, "place": place},
        className="item",
        title="Show its neighbours",
        n_clicks=0,
    )


def matches(found: Sequence[Item], text: str, *, limit: int) -> Component:
    """Items that a search found, to choose from."""
    if not found:
        return message(f"No item with “{text}” in its title, and none whose id begins so.")
    rows = [
        html.Li(item_button(item.item_id, {item.item_id: item}, place="match")) for item in found
    ]
    more = [html.Li("… and more: type another word.", className="more")]
    return html.Ul(rows + (more if len(found) >= limit else []), className="matches")


def user_panel(
    history: History,
    *,
    recommended: Sequence[Recommendation],
    interests: Sequence[Sequence[Found]],
    items: Items,
) -> Component:
    """A user: the history beside what all interests recommend together, and each alone."""
    return html.Div(
        [
            html.Div(
                [html.H3(["History", html.Span(_extent(history))]), history_table(history)],
                className="history",
            ),
            html.Div(
                [
                    html.H3(["Recommended", html.Span(_together(len(interests)))]),
                    recommended_table(recommended, items),
                ],
                className="recommended",
            ),
            html.Div(
                [
                    html.H3(["Each interest alone", html.Span(_alone(len(interests)))]),
                    interest_cards(interests, recommended, items),
                ],
                className="interests",
            ),
        ],
        className="user",
    )


def _extent(history: History) -> str:
    different = len({event.item.item_id for event in history.events})
    shown = min(len(history.events), EVENTS)
    last = f", the last {shown} here" if shown < len(history.events) else ""
    return (
        f"{len(history.events)} events before {format_time(history.as_of)} UTC, "
        f"{different} different items{last}"
    )


def _together(interests: int) -> str:
    return "by one interest" if interests == 1 else f"the best of {interests} interests together"


def _alone(interests: int) -> str:
    return "there is one" if interests == 1 else "# is the place in the list of all together"


def history_table(history: History) -> Component:
    """Events, the latest first."""
    if not history.events:
        return message(
            "Nothing before this moment. What is recommended is for somebody unknown to the shop."
        )
    actions = any(event.action for event in history.events)  # most logs hold purchases alone
    items = {event.item.item_id: event.item for event in history.events}
    rows = [
        html.Tr(
            [
                html.Td(
                    format_time(event.timestamp)[:10],
                    title=f"{format_time(event.timestamp)} UTC",
                    className="date",
                ),
                *([html.Td(event.action)] if actions else []),
                html.Td(item_button(event.item.item_id, items, place=f"history-{number}")),
                html.Td(event.item.category_id, className="category"),
            ]
        )
        for number, event in enumerate(history.events[: -EVENTS - 1 : -1])
    ]
    head = ("Date", *(["Action"] if actions else []), "Item", "Category")
    return html.Div(_table(head, rows), className="scroll", tabIndex=0)


def recommended_table(recommended: Sequence[Recommendation], items: Items) -> Component:
    """The merged list, with the interest that brought each item."""
    if not recommended:
        return message("Nothing: no item of the catalogue is left for this user.")
    rows = [
        html.Tr(
            [
                html.Td(rank, className="number"),
                html.Td(item_button(r.item_id, items, place=f"recommended-{rank}")),
                html.Td(_category(r.item_id, items), className="category"),
                html.Td(_chip(r.interest, str(r.interest))),
                html.Td(_score(r.score), className="number"),
            ]
        )
        for rank, r in enumerate(recommended, 1)
    ]
    return _table(("", "Item", "Category", "Interest", "Score"), rows)


def interest_cards(
    interests: Sequence[Sequence[Found]], recommended: Sequence[Recommendation], items: Items
) -> Component:
    """A card an interest: what it recommends by itself."""
    rank_of = {r.item_id: rank for rank, r in enumerate(recommended, 1)}
    brought = collections.Counter(r.interest for r in recommended)
    cards = []
    for number, found in enumerate(interests):
        rows = [
            html.Tr(
                [
                    html.Td(item_button(one.item_id, items, place=f"interest-{number}-{place}")),
                    html.Td(
                        f"#{rank_of[one.item_id]}" if one.item_id in rank_of else "",
                        className="rank",
                    ),
                    html.Td(_score(one.score), className="number"),
                ]
            )
            for place, one in enumerate(found)
        ]
        head = html.H4(
            [
                _chip(number, f"Interest {number}"),
                html.Span(f"brings {brought[number]} of {len(recommended)}"),
            ]
        )
        body = html.Table(html.Tbody(rows)) if rows else message("Finds nothing that is left.")
        cards.append(
            html.Div([head, body], className="card", style={"borderTopColor": colour_of(number)})
        )
    return html.Div(cards, className="cards")


def item_panel(
    item: Item, neighbours: Sequence[Found], items: Items, *, why: Component | None = None
) -> Component:
    """An item, why it suits the user if there is one, and the items nearest to it."""
    rows = [
        html.Tr(
            [
                html.Td(rank, className="number"),
                html.Td(item_button(one.item_id, items, place=f"neighbour-{rank}")),
                html.Td(_category(one.item_id, items), className="category"),
                html.Td(_score(one.score), className="number"),
            ]
        )
        for rank, one in enumerate(neighbours, 1)
    ]
    category = f"category {item.category_id}" if item.category_id else "no category"
    head = ("", "Nearest items", "Category", "Cosine")
    near = _table(head, rows) if rows else message("The catalogue has no other items.")
    return html.Div(
        [
            html.H3([item.title or "(no title)", html.Span(f"{item.item_id}, {category}")]),
            why,
            html.Div(near, className="near"),
        ]
    )


def why_panel(user_id: str, explanation: Explanation) -> Component:
    """By which interest an item suits a user, and which events made that interest."""
    heading = html.H4(f"Why for user {user_id}")
    if explanation.interest < 0:
        return html.Div([heading, message("The index does not have this item.")], className="why")
    scores = [
        html.Tr(
            [
                html.Td(_chip(number, f"Interest {number}")),
                html.Td(_score(score), className="number"),
            ],
            className="winner" if number == explanation.interest else "",
        )
        for number, score in enumerate(explanation.scores)
    ]
    attended = [(event, share) for event, share in explanation.attention if share > 0]
    items = {event.item.item_id: event.item for event, _ in attended}
    events = [
        html.Tr(
            [
                html.Td(f"{share:.0%}", className="number"),
                html.Td(item_button(event.item.item_id, items, place=f"attended-{number}")),
                html.Td(format_time(event.timestamp)[:10], className="date"),
            ]
        )
        for number, (event, share) in enumerate(attended[:ATTENDED])
    ]
    return html.Div(
        [
            heading,
            html.Div(
                [
                    _table(("Interest", "Score"), scores),
                    _table(("", f"Interest {explanation.interest} attends to", ""), events)
                    if events
                    else message("This interest attends to no event: the history is empty."),
                ],
                className="reasons",
            ),
        ],
        className="why",
    )


def map_note(items: int, *, shown: Mapping[str, int], wanted: Mapping[str, int]) -> str:
    """What the map has, and how much of what is marked lies on it."""
    marked = [f"{shown[name]} of {count} {name}" for name, count in wanted.items() if count]
    there = f" Marked here: {', '.join(marked)}." if marked else ""
    return (
        f"The {items:,} most bought items, a colour a category; near each other where their "
        f"vectors are. Click one to choose it.{there}"
    )


def _table(head: Sequence[str], rows: Sequence[Component]) -> Component:
    columns = [
        html.Th(text, scope="col", className="number" if text in _NUMBERS else "") for text in head
    ]
    return html.Table([html.Thead(html.Tr(columns)), html.Tbody(rows)])


def _chip(interest: int, text: str) -> Component:
    dot = html.Span(className="dot", style={"backgroundColor": colour_of(interest)})
    return html.Span([dot, text], className="chip")


def _category(item_id: str, items: Items) -> str:
    return items[item_id].category_id if item_id in items else ""


def _score(score: float) -> str:
    return f"{score:.3f}"
