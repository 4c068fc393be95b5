"""The plots of an inspection, each a `data:` URI of an SVG."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from guim_tf import schema as names
from guim_tf.evaluation.plots import CONTRAST, INK, MODEL, OTHER, WIDTH, finish_axes, svg_uri
from guim_tf.inspection.statistics import Statistics


def plot_days(found: Statistics, as_of: int) -> str:
    """Events a day, with the cut-off."""
    figure = Figure(figsize=(WIDTH, 2.8), layout="constrained")
    ax = figure.subplots()
    dates = np.datetime64(0, "D") + found.first_day + np.arange(len(found.days))
    ax.fill_between(dates, found.days, step="mid", color=MODEL, alpha=0.18, linewidth=0)
    ax.step(dates, found.days, where="mid", color=MODEL, linewidth=1.2)
    cut_off = as_of / names.DAY  # matplotlib's dates are days since the epoch
    if found.first_day <= cut_off <= found.first_day + len(dates):
        ax.axvline(cut_off, color=CONTRAST, linewidth=1.4, linestyle="--")
        place = (cut_off, 1.16 * found.days.max())
        ax.annotate("cut-off ", place, color=CONTRAST, fontsize=8.5, ha="right", va="top")
    ax.set_ylim(0, 1.18 * found.days.max())
    finish_axes(ax, title="Events a day", x="", grid="y")
    return svg_uri(figure)


def plot_users(found: Statistics) -> str:
    """How many users have how many events, both on logarithmic axes."""
    figure = Figure(figsize=(WIDTH / 2, 2.9), layout="constrained")
    ax = figure.subplots()
    for counts, color, label in (
        (found.before, MODEL, "before the cut-off"),
        (found.after, OTHER, "from the cut-off on"),
    ):
        counts = counts[counts > 0]
        if not len(counts):
            continue
        edges = np.unique(np.geomspace(1, counts.max() + 1, 30).astype(int)).tolist()
        if len(edges) > 1:
            ax.hist(counts, bins=edges, color=color, histtype="step", linewidth=1.6, label=label)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.legend(fontsize=8, frameon=False, labelcolor=INK)
    finish_axes(ax, title="Users by number of events", x="events of a user", grid="y")
    return svg_uri(figure)


def plot_categories(categories: list[dict[str, Any]]) -> str:
    """Bars of the most bought categories."""
    figure = Figure(figsize=(WIDTH / 2, 2.9), layout="constrained")
    ax = figure.subplots()
    place = np.arange(len(categories))[::-1]
    ax.barh(place, [100 * each["share"] for each in categories], height=0.62, color=MODEL)
    ax.set_yticks(place, [_short(each["category"]) for each in categories])
    finish_axes(ax, title="Top categories", x="% of the events before the cut-off", grid="x")
    return svg_uri(figure)


def _short(text: str, length: int = 22) -> str:
    text = text.replace("$", r"\$")
    return text if len(text) <= length else text[: length - 1] + "…"
