"""The map as a plot: a colour a category, and marks for what is on the page."""

import collections
import html
from collections.abc import Iterable, Mapping, Sequence

import dash
import numpy as np
import plotly.graph_objects as go

from serving.client import Recommendation
from serving.explore.item_map import ItemMap
from serving.explore.style import GREY, INK, colour_of
from serving.histories import Item

_COLOURS = (  # of the categories with most items; the others share GREY
    "#4c8dc9", "#f2a45c", "#6bbf6b", "#e57373", "#a58bd0", "#b08a7e", "#ec9ad0", "#c9c14a",
    "#52c4cf", "#9fc5ea", "#f7cfa0", "#b5e0a8", "#f5b5b0", "#cfc2e6", "#d2bcb5", "#f8cfe6",
    "#e3df9f", "#abe3ea", "#8aa36b", "#7f8fb5",
)  # fmt: skip
_HOVER = "%{customdata[1]}<extra></extra>"
BOUGHT, RECOMMENDED, CHOSEN = "bought", "recommended", "the item"
_OTHERS = ""  # the key of categories without a colour, and of items without a category
MARKS = (BOUGHT, RECOMMENDED, CHOSEN)  # the last traces of the figure, in this order


def draw(item_map: ItemMap) -> go.Figure:
    """All items by category, and the traces of MARKS, empty."""
    figure = go.Figure()
    sizes = collections.Counter(item.category_id for item in item_map.items if item.category_id)
    named = [category for category, _ in sizes.most_common(len(_COLOURS))]
    rows_of: dict[str, list[int]] = {category: [] for category in [*named, _OTHERS]}
    for row, item in enumerate(item_map.items):
        rows_of[item.category_id if item.category_id in named else _OTHERS].append(row)
    for (category, rows), colour in zip(
        rows_of.items(), [*_COLOURS[: len(named)], GREY], strict=True
    ):
        figure.add_scatter(
            name=_text(category) or "other",
            **_points(item_map, rows),
            mode="markers",
            marker={"size": 5, "color": colour},
            hovertemplate=_HOVER,
        )
    for name, marker in {
        BOUGHT: {"symbol": "circle-open", "size": 11, "color": INK, "line": {"width": 2}},
        RECOMMENDED: {"symbol": "star", "size": 15, "line": {"width": 1, "color": INK}},
        CHOSEN: {"symbol": "x", "size": 14, "color": "#d4145a", "line": {"width": 1}},
    }.items():
        figure.add_scatter(
            name=name,
            x=[],
            y=[],
            mode="markers",
            marker=marker,
            hovertemplate=_HOVER,
            legendrank=1,  # drawn last, named first
        )
    figure.update_layout(
        template="plotly_white",
        margin={"l": 8, "r": 8, "t": 30, "b": 8},  # buttons above, beside no legend
        legend={"itemsizing": "constant", "font": {"size": 12}},
        hoverlabel={"align": "left", "bgcolor": "white", "font": {"size": 13, "color": INK}},
        dragmode="pan",
        uirevision="map",  # marks come and go, the view stays
        font={"color": INK},
    )
    axis = {"showticklabels": False, "showgrid": False, "zeroline": False}
    figure.update_xaxes(**axis)
    figure.update_yaxes(**axis)
    return figure


def mark(
    item_map: ItemMap,
    figure: dash.Patch,
    *,
    bought: Iterable[str],
    recommended: Sequence[Recommendation],
    chosen: str | None,
) -> Mapping[str, int]:
    """Sets the traces of MARKS; says how many of each are on the map."""
    row_of = {item.item_id: row for row, item in enumerate(item_map.items)}
    interest_of = {r.item_id: r.interest for r in recommended}
    wanted: dict[str, Iterable[str]] = {
        BOUGHT: dict.fromkeys(bought),
        RECOMMENDED: interest_of,
        CHOSEN: [chosen] if chosen else [],
    }
    shown = {}
    for place, (name, ids) in enumerate(wanted.items(), -len(MARKS)):
        rows = [row_of[item_id] for item_id in ids if item_id in row_of]
        for key, values in _points(item_map, rows, note=name).items():
            figure["data"][place][key] = values
        shown[name] = len(rows)
    figure["data"][-2]["marker"]["color"] = [
        colour_of(interest) for item_id, interest in interest_of.items() if item_id in row_of
    ]
    return shown


def _points(item_map: ItemMap, rows: Sequence[int], *, note: str = "") -> dict:
    places = np.round(item_map.places[list(rows)].reshape(-1, 2), 3)
    return {
        "x": places[:, 0].tolist(),
        "y": places[:, 1].tolist(),
        "customdata": [
            [item_map.items[row].item_id, _label(item_map.items[row], note)] for row in rows
        ],
    }


def _label(item: Item, note: str) -> str:
    category = f" · {_text(item.category_id)}" if item.category_id else ""
    note = f"<br><i>{note}</i>" if note else ""
    return f"<b>{_text(item.title or '(no title)')}</b><br>{_text(item.item_id)}{category}{note}"


def _text(text: str) -> str:
    """Plotly reads some HTML in its texts, and titles are anybody's."""
    return html.escape(text)
