"""The plots of a comparison, each a `data:` URI of an SVG, from the numbers of `results.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from guim_tf.benchmark.item_map import ItemMap
from guim_tf.evaluation.plots import INK, OTHER, WIDTH, finish_axes, svg_uri

# Okabe and Ito's colours, told apart by the colour-blind too; yellow is too pale for lines.
COLORS = ("#0b6e69", "#c2562d", "#3d6fb6", "#b98a00", "#8c4a8f", "#56a3c9", "#7a5230", "#6b7a3a")
MARKS = "osD^vPX*"
CATEGORIES = 8  # shown in colour on the map
MAX_POINTS = 5_000  # items drawn on the map
LEAST_USERS = 10  # of a slice that is drawn: the chance of one user would set the scale of all


def look(number: int) -> dict[str, str]:
    """Colour and mark of a line or of points: once all colours are used marks are hollow."""
    turn, i = divmod(number, len(COLORS))
    mark = MARKS[(i + turn // 2) % len(MARKS)]
    face = "white" if turn % 2 else COLORS[i]
    return {"color": COLORS[i], "marker": mark, "markerfacecolor": face}


def plot_against_interests(
    configurations: Sequence[dict[str, Any]],
    *,
    panels: Mapping[str, Sequence[str]],
    label: str,
    percent: bool = False,
) -> str | None:
    """Lines of families against C on a log2 axis (Figures 2 and 3); None with no family.

    Args:
      configurations: of `results.json`.
      panels: a pair of axes each: title -> where in a configuration its estimate is.
      label: what the estimates are, for the y axis.
      percent: whether they are improvements: axes about zero.
    """
    known = [x for x in configurations if x["family"] and (x["gain_percent"] or not percent)]
    families = list(dict.fromkeys(x["family"] for x in known))
    every = list(dict.fromkeys(x["family"] for x in configurations if x["family"]))
    numbers = [every.index(family) for family in families]  # the same in all plots of a page
    if not panels or not any(
        len({x["size"] for x in known if x["family"] == family}) > 1 for family in families
    ):
        return None
    figure = Figure(figsize=(WIDTH, 3.5), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    spread = 2 ** (0.05 * (np.arange(len(families)) - (len(families) - 1) / 2))
    places = sorted({x["size"] for x in known})
    for ax, (title, path) in zip(axes, panels.items(), strict=True):
        for shift, number, family in zip(spread, numbers, families, strict=True):
            points = sorted((x for x in known if x["family"] == family), key=lambda x: x["size"])
            ax.errorbar(
                shift * np.array([x["size"] for x in points]),  # side by side
                *_bars([_at(x, path) for x in points]),
                **look(number),
                markersize=5,
                linewidth=1.6,
                elinewidth=1,
                capsize=3,
                label=family,
            )
        estimates = [_at(x, path) for x in known]
        finish_axes(ax, title=title, x="vectors, C", grid="y")
        ax.set_xscale("log", base=2)
        ax.xaxis.set_major_locator(FixedLocator(places))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_xticks(places, [str(c) for c in places])
        ax.set_xlim(places[0] / 1.25, places[-1] * 1.25)
        if percent:
            ax.axhline(0, color=INK, linewidth=0.8)
            reach = _reach(estimates, least=1.0)
            ax.set_ylim(-reach, reach)
        else:
            ax.set_ylim(*_frame(estimates, least=0.01))
    axes[0].set_ylabel(label, fontsize=8.5, color=INK)
    figure.legend(
        *axes[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=min(len(families), 6),
        fontsize=8.5,
        frameon=False,
    )
    return svg_uri(figure)


def plot_slices(
    configurations: Sequence[dict[str, Any]], *, reference: str, task: str, label: str
) -> str | None:
    """Differences from the reference on slices of a task; None when there is no other.

    Slices of fewer than `LEAST_USERS` users are left out.

    Args:
      configurations: of `results.json`.
      reference: name of the one that the others are held to.
      task: whose slices.
      label: the metric's name.
    """
    others = [x for x in configurations if x["name"] != reference and x["slice_difference"]]
    if not others:
        return None
    divisions = {
        division: drawn
        for division, of in others[0]["slice_difference"][task].items()
        if (drawn := {part: x["users"] for part, x in of.items() if x["users"] >= LEAST_USERS})
    }
    if not divisions:
        return None
    parts = [len(of) for of in divisions.values()]
    height = 1.1 + max(parts) * (0.22 + 0.16 * len(others))
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots(1, len(divisions), squeeze=False, sharex=True)[0]
    for ax, (division, of) in zip(axes, divisions.items(), strict=True):
        places = np.arange(len(of))[::-1]
        step = 0.72 / len(others)
        for i, configuration in enumerate(others):
            differences = configuration["slice_difference"][task][division]
            values, widths = _bars([differences[part] for part in of])
            ax.errorbar(
                values,
                places + step * ((len(others) - 1) / 2 - i),
                xerr=widths,
                **look(i),
                linestyle="none",
                markersize=4.5,
                elinewidth=1.2,
                capsize=2.5,
                label=configuration["name"],
            )
        for place in places[:-1]:
            ax.axhline(place - 0.5, color="#e3e8ec", linewidth=0.9)
        ax.axvline(0, color=INK, linewidth=1)
        finish_axes(ax, title=division, x=f"{label} minus that of {reference}", grid="x")
        ax.set_yticks(places, [f"{part}\n{count:,} users" for part, count in of.items()])
        ax.set_ylim(-0.5, len(of) - 0.5)
        ax.xaxis.set_major_locator(MaxNLocator(nbins=5))
    every = [
        x["slice_difference"][task][division][part]
        for x in others
        for division, of in divisions.items()
        for part in of
    ]
    reach = min(_reach(every, least=0.01), 1.0)  # no two recalls are farther apart
    axes[0].set_xlim(-reach, reach)
    figure.legend(
        *axes[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=min(len(others), 6),
        fontsize=8.5,
        frameon=False,
    )
    return svg_uri(figure)


def plot_interests(configurations: Sequence[dict[str, Any]]) -> str | None:
    """Shares of wins, largest first, beside cosines; None where every C is 1."""
    many = [x for x in configurations if len(x["interests_summary"]["purchased"]) > 1]
    if not many:
        return None
    figure = Figure(figsize=(WIDTH, 1.35 + 0.34 * len(many)), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.5, 1), sharey=True)
    places = np.arange(len(many))[::-1]
    for place, configuration in zip(places, many, strict=True):
        shares = configuration["interests_summary"]["purchased"]
        ends = np.cumsum(shares)
        shades = [COLORS[0], "#7fb5b1"]  # neighbours alternate: any C stays legible
        for c, (share, end) in enumerate(zip(shares, ends, strict=True)):
            left.barh(place, share, left=end - share, height=0.62, color=shades[c % 2])
            if share >= 0.06:
                color = "white" if c % 2 == 0 else INK
                center = end - share / 2
                left.text(
                    center, place, f"{share:.0%}", ha="center", va="center", color=color, fontsize=8
                )
    left.set_xlim(0, 1)
    left.xaxis.set_major_formatter(lambda x, _: f"{x:.0%}")
    finish_axes(left, title="Share of bought items that each interest wins", x="share", grid=None)
    left.set_yticks(places, [x["name"] for x in many])
    lowest = 0.0
    for key, color, mark, name in (
        ("mean_cosine", COLORS[1], "o", "two interests of a user"),
        ("item_cosine", OTHER, "D", "two items"),
    ):
        values, widths = _bars([x["interests_summary"][key] for x in many])
        lowest = min(lowest, float(np.nanmin(values - np.nan_to_num(widths))))
        right.errorbar(
            values,
            places,
            xerr=widths,
            fmt=mark,
            color=color,
            elinewidth=1.2,
            capsize=3,
            label=name,
        )
    right.axvline(1, color=INK, linewidth=0.8, linestyle=":")
    right.axvline(0, color=INK, linewidth=0.8)
    right.set_xlim(max(-1.05, 1.15 * lowest - 0.02), 1.05)
    finish_axes(right, title="Mean cosine between", x="cosine; 1: collapsed into one", grid="x")
    right.set_ylim(-0.5, len(many) - 0.5)
    figure.legend(
        *right.get_legend_handles_labels(),
        loc="outside lower right",
        ncols=2,
        fontsize=8.5,
        frameon=False,
    )
    return svg_uri(figure)


def plot_map(found: ItemMap) -> str:
    """Items by category, and one user's interests and purchases among them."""
    figure = Figure(figsize=(WIDTH, 7.2), layout="constrained")
    ax = figure.subplots()
    shown = np.argsort(-found.count, kind="stable")[:MAX_POINTS]
    names, inverse = np.unique(found.category.astype(str), return_inverse=True)
    events = np.bincount(inverse, weights=found.count, minlength=len(names))
    frequent = np.argsort(-events, kind="stable")[:CATEGORIES]
    rest = shown[~np.isin(inverse[shown], frequent)]
    dots: dict[str, Any] = {
        "linewidths": 0,
        "rasterized": True,
    }  # thousands of them: a picture inside the SVG
    size = float(np.clip(12_000 / max(len(shown), 1), 14, 44))  # large where they are few
    ax.scatter(*found.items[rest].T, s=size, color=OTHER, alpha=0.6, label="other", **dots)
    for i, category in enumerate(frequent):
        rows = shown[inverse[shown] == category]
        label = _short(names[category]) or "no category"
        ax.scatter(*found.items[rows].T, s=1.5 * size, color=COLORS[i], label=label, **dots)
    for rows, color, label in (
        (found.bought, INK, "bought before"),
        (found.bought_next, "#d4145a", "bought next"),
    ):
        ring = 74 if color == INK else 128  # an item of both has both rings
        ax.scatter(
            *found.items[rows].T,
            s=ring,
            facecolors="none",
            edgecolors=color,
            linewidths=1.4,
            label=label,
        )
    ax.scatter(
        *found.interests.T,
        s=330,
        marker="*",
        color="#ffd23f",
        edgecolors=INK,
        linewidths=1.1,
        zorder=5,
        label="interests",
    )
    for c, point in enumerate(found.interests):
        # Each number on its own side: interests that fall together stay legible.
        angle = 2 * np.pi * (c + 0.5) / len(found.interests)
        ax.annotate(
            str(c + 1),
            point,
            xytext=(15 * np.cos(angle), 15 * np.sin(angle)),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=9,
            fontweight="bold",
            color=INK,
            zorder=6,
        )
    first, second = found.explained
    finish_axes(ax, title="", x=f"first component, {first:.0%} of the variance", grid="both")
    ax.set_ylabel(f"second component, {second:.0%} of the variance", fontsize=8.5, color=INK)
    ax.set_aspect("equal", adjustable="datalim")
    figure.legend(
        *ax.get_legend_handles_labels(),
        loc="outside right upper",
        fontsize=8.5,
        frameon=False,
        title="category of item",
        title_fontsize=8.5,
        alignment="left",
    )
    return svg_uri(figure)


def _reach(found: Sequence[Mapping[str, Any]], *, least: float) -> float:
    """Half of an axis about zero: all means, and intervals as far as they leave those legible."""
    means, widths = _bars(found)
    largest = np.nanmax(np.abs(means), initial=least)
    ends = np.nanmax(np.abs(means) + np.nan_to_num(widths), initial=least)
    return float(1.06 * min(ends, 4 * largest))


def _frame(found: Sequence[Mapping[str, Any]], *, least: float) -> tuple[float, float]:
    """An axis of all means, and of intervals as far as they leave those legible; inside 0 to 1."""
    means, widths = _bars(found)
    widths = np.nan_to_num(widths)
    low, high = float(np.nanmin(means)), float(np.nanmax(means))
    room = 3 * max(high - low, least)
    bottom = max(float(np.nanmin(means - widths)), low - room)
    top = min(float(np.nanmax(means + widths)), high + room)
    margin = 0.06 * max(top - bottom, least)
    return max(0.0, bottom - margin), min(1.0, top + margin)


def _at(configuration: Mapping[str, Any], path: Sequence[str]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = configuration
    for key in path:
        found = found[key]
    return found


def _bars(found: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Means and half-widths, NaN where there is none."""
    return (
        np.array([x["mean"] for x in found], float),
        np.array([x["half_width"] for x in found], float),
    )


def _short(text: str, length: int = 24) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
