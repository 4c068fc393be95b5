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

_NAMED = 9  # categories with a colour of their own; the others share one
_CATEGORY_COLOURS = (
    "#8dd3c7", "#bebada", "#fb8072", "#80b1d3", "#fdb462",
    "#b3de69", "#fccde5", "#bc80bd", "#d9b382",
)  # fmt: skip
_HOVER = "%{customdata[1]}<extra></extra>"
BOUGHT, RECOMMENDED, CHOSEN = "bought", "recommended", "the item"
MARKS = (BOUGHT, RECOMMENDED, CHOSEN)  # the last traces of the figure, in this order


def draw(item_map: ItemMap) -> go.Figure:
    """All items by category, and the traces of MARKS, empty."""
    figure = go.Figure()
    sizes = collections.Counter(item.category_id for item in item_map.items)
    sizes.pop("", None)
    named = [category for category, _ in sizes.most_common(_NAMED)]
    rows_of: dict[str | None, list[int]] = {None: []} | {category: [] for category in named}
    for row, item in enumerate(item_map.items):
        rows_of[item.category_id if item.category_id in rows_of else None].append(row)
    colours = dict(zip(named, _CATEGORY_COLOURS, strict=False))
    for category, rows in rows_of.items():
        figure.add_scatter(
            name="other categories" if category is None else _text(category),
            **_points(item_map, rows),
            mode="markers",
            marker={"size": 6, "color": GREY if category is None else colours[category]},
            hovertemplate=_HOVER,
        )
    for name, marker in {
        BOUGHT: {"symbol": "circle-open", "size": 11, "color": INK, "line": {"width": 2}},
        RECOMMENDED: {"symbol": "star", "size": 15, "line": {"width": 1, "color": INK}},
        CHOSEN: {"symbol": "x", "size": 14, "color": "#d4145a", "line": {"width": 1}},
    }.items():
        figure.add_scatter(
            name=name, x=[], y=[], mode="markers", marker=marker, hovertemplate=_HOVER
        )
    figure.update_layout(
        template="plotly_white",
        margin={"l": 8, "r": 8, "t": 8, "b": 8},
        legend={"itemsizing": "constant", "font": {"size": 13}},
        hoverlabel={"align": "left", "bgcolor": "white", "font": {"size": 13, "color": INK}},
        dragmode="pan",
        uirevision="map",  # marks come and go, the view stays
        font={"color": INK},
    )
    axis = {"showticklabels": False, "showgrid": False, "zeroline": False}
    figure.update_xaxes(**axis)
    figure.update_yaxes(**axis, scaleanchor="x")
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
    wanted = {
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
