"""What happens when somebody types or clicks: the address changes, and panels follow it.

`user` and `item` of the address are the only state, so that any view of the page has a link.
"""

import urllib.parse
from collections.abc import Mapping
from typing import Any

import dash
import plotly.graph_objects as go
from dash import ALL, Dash, Input, Output, State, ctx, no_update

from serving import client
from serving.explore import figure, layout, panels
from serving.explore.answers import Server
from serving.explore.endpoint import AnswerError
from serving.explore.item_map import Atlas
from serving.explore.shop import Shop
from serving.histories import HistoryError

_MATCHES = 12  # items that a search shows


def register(app: Dash, *, shop: Shop, server: Server, atlas: Atlas, k: int) -> None:
    """Connects the fields and panels of `layout.page`.

    Args:
      app: has that layout.
      shop, server, atlas: where answers come from.
      k: items a list.
    """
    _connect_fields(app, shop)
    _connect_panels(app, shop, server, k)
    _connect_map(app, atlas)


def _connect_fields(app: Dash, shop: Shop) -> None:
    @app.callback(
        Output("address", "search"),
        Output("map", "clickData"),  # none, so that the same point can be clicked again
        Input("user-id", "n_submit"),
        Input("show-user", "n_clicks"),
        Input("any-user", "n_clicks"),
        Input("item-text", "n_submit"),
        Input({"type": "item", "item": ALL, "place": ALL}, "n_clicks"),
        Input("map", "clickData"),
        State("user-id", "value"),
        State("item-text", "value"),
        State("address", "search"),
        prevent_initial_call=True,
    )
    def choose(
        _submit: Any,
        _show: Any,
        _any: Any,
        _find: Any,
        _clicks: Any,
        clicked: Mapping | None,
        user_id: str | None,
        text: str | None,
        search: str | None,
    ) -> Any:
        by = ctx.triggered_id
        chosen: dict[str, str] = {}
        if not ctx.triggered[0]["value"]:  # buttons that only came to be
            return no_update, no_update
        if by == "any-user":
            chosen["user"] = shop.any_user()
        elif by in ("user-id", "show-user"):
            chosen["user"] = (user_id or "").strip()
        elif by == "map" and clicked:
            chosen["item"] = clicked["points"][0]["customdata"][0]
        elif by != "item-text":
            chosen["item"] = by["item"]
        elif found := shop.catalogue.search(text or "", 1):
            chosen["item"] = found[0].item_id
        return _address(search, chosen), None

    @app.callback(
        Output("user", "data"),
        Output("item", "data"),
        Output("user-id", "value"),
        Input("address", "search"),
        State("user", "data"),
        State("item", "data"),
    )
    def follow(search: str | None, user: str | None, item: str | None) -> Any:
        wanted = _chosen(search)
        chosen_user, chosen_item = wanted.get("user"), wanted.get("item")
        return (
            no_update if chosen_user == user else chosen_user,
            no_update if chosen_item == item else chosen_item,
            no_update if chosen_user == user else chosen_user or "",
        )

    @app.callback(
        Output("item-matches", "children"),
        Input("item-text", "value"),
        Input("item", "data"),
        prevent_initial_call=True,
    )
    def find_items(text: str | None, _item: Any) -> Any:
        wanted = (text or "").strip()
        if not wanted or ctx.triggered_id == "item":  # one is chosen: the list has served
            return None
        return panels.matches(shop.catalogue.search(wanted, _MATCHES), wanted, limit=_MATCHES)


def _connect_panels(app: Dash, shop: Shop, server: Server, k: int) -> None:
    @app.callback(
        Output("user-panel", "children"),
        Output("marks", "data"),
        Input("user", "data"),
        Input("exclude-seen", "value"),
    )
    def show_user(user_id: str | None, exclude: list[str] | None) -> Any:
        nothing: dict = {"bought": [], "recommended": []}
        if not user_id:
            return panels.message(layout.PICK_USER), nothing
        try:
            history = shop.history(user_id)
            bought = list(dict.fromkeys(event.item.item_id for event in history.events))
            recommended = server.recommend(history, k=k, exclude_seen=bool(exclude))
            interests = server.of_each_interest(
                server.encode_user(history), k=k, without=bought if exclude else ()
            )
        except (HistoryError, AnswerError) as e:
            return _error(e), nothing
        ids = {r.item_id for r in recommended} | {one.item_id for f in interests for one in f}
        panel = panels.user_panel(
            history,
            recommended=recommended,
            interests=interests,
            items=shop.catalogue.by_id(ids),
        )
        return panel, {
            "bought": bought,
            "recommended": [[r.item_id, r.score, r.interest] for r in recommended],
        }

    @app.callback(Output("item-panel", "children"), Input("item", "data"), Input("user", "data"))
    def show_item(item_id: str | None, user_id: str | None) -> Any:
        if not item_id:
            return panels.message(layout.PICK_ITEM)
        item = shop.item(item_id)
        if item is None:
            return panels.message(
                f"No item {item_id!r} in the data set {shop.name}. Find one by its title.",
                kind="error",
            )
        try:
            neighbours = server.neighbours(item, k=k)
            why = explain(user_id, item_id) if user_id else None
        except AnswerError as e:
            return _error(e)
        items = shop.catalogue.by_id(one.item_id for one in neighbours)
        return panels.item_panel(item, neighbours, items, why=why)

    def explain(user_id: str, item_id: str) -> Any:
        try:
            explanation = server.explain(shop.history(user_id), item_id)
        except HistoryError:  # the user's own panel says so
            return None
        return explanation and panels.why_panel(user_id, explanation)


def _connect_map(app: Dash, atlas: Atlas) -> None:
    @app.callback(
        Output("map", "figure"),
        Output("map-error", "children"),
        Input("address", "pathname"),
    )
    def draw_map(_pathname: str) -> Any:
        try:
            return figure.draw(atlas.get()), None
        except AnswerError as e:
            return go.Figure(), _error(e)

    @app.callback(
        Output("map", "figure", allow_duplicate=True),
        Output("map-note", "children"),
        Input("marks", "data"),
        Input("item", "data"),
        Input("map-error", "children"),  # after the map is drawn
        prevent_initial_call=True,
    )
    def mark_map(marks: Mapping | None, item_id: str | None, error: Any) -> Any:
        if error or not marks:
            return no_update, no_update
        patch = dash.Patch()
        recommended = [client.Recommendation(*row) for row in marks["recommended"]]
        item_map = atlas.get()
        shown = figure.mark(
            item_map, patch, bought=marks["bought"], recommended=recommended, chosen=item_id
        )
        wanted = {
            figure.BOUGHT: len(marks["bought"]),
            figure.RECOMMENDED: len(recommended),
        }
        return patch, panels.map_note(len(item_map.items), shown=shown, wanted=wanted)


def _error(error: Exception) -> Any:
    text = str(error)
    return panels.message(text[:1].upper() + text[1:], kind="error")


def _chosen(search: str | None) -> dict[str, str]:
    return dict(urllib.parse.parse_qsl((search or "").removeprefix("?")))


def _address(search: str | None, changed: Mapping[str, str]) -> str:
    kept = {name: value for name, value in (_chosen(search) | dict(changed)).items() if value}
    return "?" + urllib.parse.urlencode(kept)
