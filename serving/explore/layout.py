"""The page before anything is chosen: fields, empty panels, the map's place."""

from collections.abc import Sequence
from typing import Any

from dash import dcc, html
from dash.development.base_component import Component

from serving.explore.panels import message

PICK_USER = "Type a user id and press Enter, or take any user."
PICK_ITEM = "Find an item by words of its title or by its id, or click one anywhere on the page."

_MAP: Any = {  # of Plotly
    "scrollZoom": True,
    "responsive": True,
    "displaylogo": False,
    # Among Plotly's own there is one that sends the data to its cloud.
    "modeBarButtons": [["zoomIn2d", "zoomOut2d", "resetScale2d"]],
}


def page(*, heading: str, suggested: Sequence[str]) -> Component:
    """The skeleton; callbacks fill it. The address holds what is chosen, `?user=..&item=..`."""
    return html.Div(
        [
            dcc.Location(id="address", refresh=False),
            dcc.Store(id="user"),
            dcc.Store(id="item"),
            dcc.Store(id="marks"),
            html.Header([html.H1("guim explore"), html.P(heading)]),
            html.Main(
                [
                    _section("A user", _user_fields(suggested), "user-panel", PICK_USER),
                    html.Div(
                        [
                            _section("An item", _item_fields(), "item-panel", PICK_ITEM),
                            _map(),
                        ],
                        className="side",
                    ),
                ]
            ),
        ]
    )


def _section(title: str, fields: Component, panel: str, hint: str) -> Component:
    return html.Section(
        [
            html.H2(title),
            fields,
            dcc.Loading(
                html.Div(message(hint), id=panel), delay_show=200, overlay_style={"opacity": 0.5}
            ),
        ]
    )


def _user_fields(suggested: Sequence[str]) -> Component:
    return html.Div(
        [
            html.Label("User id", htmlFor="user-id"),
            dcc.Input(id="user-id", type="text", list="some-users", placeholder="a user id"),
            html.Datalist([html.Option(value=user) for user in suggested], id="some-users"),
            html.Button("Show", id="show-user", className="primary"),
            html.Button("Any user", id="any-user"),
            dcc.Checklist(
                id="exclude-seen",
                options=[{"label": "without what the user bought before", "value": "yes"}],
                value=["yes"],
            ),
        ],
        className="fields",
    )


def _item_fields() -> Component:
    return html.Div(
        [
            html.Label("Item", htmlFor="item-text"),
            dcc.Input(
                id="item-text", type="text", debounce=0.3, placeholder="words of a title, or an id"
            ),
            html.Div(id="item-matches"),
        ],
        className="fields",
    )


def _map() -> Component:
    return html.Section(
        [
            html.H2("Map of items"),
            html.P(id="map-note", className="note"),
            dcc.Loading(
                [
                    html.Div(id="map-error"),
                    dcc.Graph(
                        id="map",
                        config=_MAP,
                    ),
                ],
                overlay_style={"opacity": 0.5},
            ),
        ],
        className="map",
    )
