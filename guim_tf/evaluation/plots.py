"""The report's plots, each a `data:` URI of an SVG, so that a page needs no other file."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from guim_tf.evaluation.curves import Curves

GridAxis = Literal["both", "x", "y"]

WIDTH = 11.1  # inches, the width of the page's text
MODEL, OTHER, INK, FAINT = "#0b6e69", "#a9b4bd", "#1f2933", "#e3e8ec"
CONTRAST = "#c2562d"


def plot_means(
    means: Mapping[str, Mapping[str, Mapping[str, Any]]], *, models: Sequence[str], label: str
) -> str:
    """Bars with 95 % intervals.

    Args:
      means: `{task: {method: {"mean", "half_width"}}}`, the same methods in all tasks.
      models: methods to paint as models.
      label: what the bars measure.
    """
    methods = list(next(iter(means.values())))
    roomy = ConstrainedLayoutEngine(w_pad=0.12)
    figure = Figure(figsize=(WIDTH, 0.62 + 0.36 * len(methods)), layout=roomy)
    axes = figure.subplots(1, len(means), sharey=True, sharex=True, squeeze=False)[0]
    place = np.arange(len(methods))[::-1]
    for ax, (task, of) in zip(axes, means.items(), strict=True):
        values = np.array([of[name]["mean"] for name in methods], float)
        widths = np.array([of[name]["half_width"] for name in methods], float)
        colors = [MODEL if name in models else OTHER for name in methods]
        ax.barh(place, values, height=0.62, color=colors)
        ax.errorbar(values, place, xerr=widths, fmt="none", ecolor=INK, elinewidth=1, capsize=2.5)
        finish_axes(ax, title=task, x=label, grid="x")
        ax.set_yticks(place, methods)
    ends = [of["mean"] + (of["half_width"] or 0) for row in means.values() for of in row.values()]
    axes[0].set_xlim(0, 1.04 * max(ends) or 1)
    return svg_uri(figure)


def plot_curves(curves: Curves) -> str:
    """One pair of axes for each value, against the epoch; validation is dashed."""
    columns = min(3, len(curves.panels))
    rows = -(-len(curves.panels) // columns)
    figure = Figure(figsize=(WIDTH * columns / 3, 2.7 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes[len(curves.panels) :]:
        ax.set_visible(False)
    for ax, (title, keys) in zip(axes, curves.panels.items(), strict=False):
        for key in keys:
            epochs, values = zip(*curves.series[key], strict=True)
            dash, color = ("--", CONTRAST) if key.startswith("val_") else ("-", MODEL)
            mark = "o" if len(epochs) == 1 else None
            ax.plot(
                epochs,
                values,
                dash,
                marker=mark,
                color=color,
                linewidth=1.6,
                label="validation" if dash == "--" else "training",
            )
        finish_axes(ax, title=title.replace("_", " "), x="epoch", grid="y")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        ax.ticklabel_format(axis="y", useOffset=False)
        if keys != [title]:
            ax.legend(fontsize=8, frameon=False)
    return svg_uri(figure)


def plot_interests(interests: Mapping[str, Any]) -> str:
    """Shares of wins beside the cosines of C > 1 interests; keys are those of `Interests`."""
    recommended, purchased, cosines = (
        np.asarray(interests[key], float) for key in ("recommended", "purchased", "pair_cosines")
    )
    count = len(recommended)
    figure = Figure(figsize=(WIDTH, 3.1), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.7, 1))
    place = np.arange(1, count + 1)
    bars = ((recommended, MODEL, "recommended"), (purchased, OTHER, "bought"))
    for i, (shares, color, name) in enumerate(bars):
        left.bar(place + 0.36 * (i - 0.5), shares, 0.34, color=color, label=f"items {name}")
    left.axhline(1 / count, color=INK, linewidth=1, linestyle=":", label=f"even share, 1/{count}")
    finish_axes(left, title="Share of wins", x="interest", grid="y")
    left.set_ylim(0, max(0.01, 1.25 * max(x.max() for x, _, _ in bars)))
    left.legend(fontsize=8, ncols=3, loc="upper center", edgecolor="none", framealpha=1)

    edges = (0.5, count + 0.5, count + 0.5, 0.5)  # interests count from 1
    image = right.imshow(cosines, vmin=-1, vmax=1, cmap="PuOr_r", extent=edges)
    figure.colorbar(image, ax=right, shrink=0.85).ax.tick_params(labelsize=7.5)
    if count <= 8:
        for (row, column), value in np.ndenumerate(cosines):
            color = "white" if abs(value) > 0.6 else INK
            right.text(
                column + 1,
                row + 1,
                f"{value:.2f}",
                ha="center",
                va="center",
                color=color,
                fontsize=8,
            )
    for axis in (left.xaxis, right.xaxis, right.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True, nbins=12, min_n_ticks=1))
    finish_axes(right, title="Mean cosine between interests", x="interest", grid=None)
    right.set_ylabel("interest", fontsize=8.5, color=INK)
    return svg_uri(figure)


def finish_axes(ax: Axes, *, title: str, x: str, grid: GridAxis | None) -> None:
    """The look of all plots: title to the left, label of the x axis, no frame, a faint grid."""
    ax.set_title(title, fontsize=10, color=INK, loc="left", fontweight="bold")
    ax.set_xlabel(x, fontsize=8.5, color=INK)
    ax.tick_params(labelsize=8.5, colors=INK, length=0)
    ax.spines[:].set_visible(False)
    if grid:
        ax.grid(axis=grid, color=FAINT, linewidth=0.9)
        ax.set_axisbelow(True)


def svg_uri(figure: Figure) -> str:
    """A figure as `data:` URI; the same figure gives the same text."""
    out = io.BytesIO()
    figure.savefig(out, format="svg", metadata={"Date": None}, transparent=True)
    return "data:image/svg+xml;base64," + base64.b64encode(out.getvalue()).decode("ascii")
