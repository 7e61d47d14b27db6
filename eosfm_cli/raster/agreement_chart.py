"""Pictures of how well values, or several labels, were found."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from eosfm_cli.raster.residuals import Residuals
from eosfm_cli.results import LabelScore
from eosfm_cli.run_dir import replacing

_BLUE, _GREY = "#0072b2", "#8a8a8a"
_CELLS = 60
_LONGEST_NAME = 40
_FEW = 400
"""Pixels up to which each is a point of its own."""


def draw_scatter(
    path: Path, residuals: Residuals, *, title: str, quantity: str, scores: str
) -> None:
    """Draw predicted over known values, with the line on which both are the same.

    Args:
        path: The picture.
        residuals: What was compared.
        title: Stands above it.
        quantity: What the values are, with their unit.
        scores: A line below the title.

    Raises:
        OutputError: The place cannot be written.
    """
    figure = Figure(figsize=(6.4, 6.0))
    figure.set_layout_engine("constrained")
    axes = figure.subplots()
    predicted, known = residuals.sample
    low = min(residuals.known[0], residuals.predicted[0])
    high = max(residuals.known[2], residuals.predicted[2])
    room = 0.03 * (high - low) or 1.0
    ends = (low - room, high + room)
    drawn = f", {len(known):,} drawn from {residuals.count:,}"
    if len(known) <= _FEW:
        axes.plot(known, predicted, ".", color=_BLUE, alpha=0.6)
    else:
        cells = axes.hexbin(
            known, predicted, gridsize=_CELLS, extent=(*ends, *ends), bins="log", mincnt=1
        )
        label = f"pixels{drawn if len(known) < residuals.count else ''}"
        figure.colorbar(cells, ax=axes, shrink=0.8, label=label)
    axes.axline((low, low), slope=1, color="black", linewidth=0.8)
    quantity = _plain(quantity)
    axes.set(xlim=ends, ylim=ends, xlabel=f"reference: {quantity}", ylabel=f"predicted: {quantity}")
    axes.set_aspect("equal")
    axes.set_title(_plain(scores), fontsize=9, loc="left")
    _save(figure, path, title)


def draw_labels(path: Path, scores: Sequence[LabelScore], *, title: str, samples: int) -> None:
    """Draw each label's average precision, and what guessing would have.

    Args:
        path: The picture.
        scores: Of each label.
        title: Stands above it.
        samples: How many there are.

    Raises:
        OutputError: The place cannot be written.
    """
    rows = list(scores)[::-1]  # bars go upwards
    figure = Figure(figsize=(7.5, min(1.6 + 0.27 * len(rows), 30.0)))
    figure.set_layout_engine("constrained")
    axes = figure.subplots()
    places = np.arange(len(rows))
    axes.barh(places, [row.ap or 0 for row in rows], color=_BLUE, height=0.7)
    for place, row in zip(places, rows, strict=True):
        axes.plot([row.reference / samples] * 2, [place - 0.35, place + 0.35], color="black")
        text = "–" if row.ap is None else f"{row.ap:.3f}"
        axes.text(1.01, place, text, transform=axes.get_yaxis_transform(), va="center", fontsize=8)
    names = [textwrap.shorten(row.name, _LONGEST_NAME, placeholder="…") for row in rows]
    axes.set_yticks(places, list(map(_plain, names)), fontsize=8)
    axes.set(xlim=(0, 1), xlabel="average precision")
    guess = Line2D([], [], color="black", label="share of samples that show it: guessing")
    figure.legend(handles=[guess], loc="outside lower center", frameon=False, fontsize=8)
    _tidy(axes)
    _save(figure, path, title)


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)


def _plain(text: str) -> str:
    return text.replace("$", r"\$")  # it would start a formula


def _save(figure: Figure, path: Path, title: str) -> None:
    wrapped = textwrap.fill(_plain(title), int(12 * figure.get_figwidth()))
    figure.suptitle(wrapped, x=0.01, ha="left", fontsize=10)
    with replacing(path) as temporary, warnings.catch_warnings():
        # A name in a script that the font lacks shows as boxes; nobody needs to be told twice.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing", category=UserWarning)
        figure.savefig(temporary, dpi=130, format="png")
