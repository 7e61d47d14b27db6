"""A confusion matrix as a picture."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from eosfm_cli.confusion import Confusion
from eosfm_cli.run_dir import replacing

_BLUES = LinearSegmentedColormap.from_list("shares", ["#ffffff", "#9ecae1", "#08519c"])
_MOST_NUMBERS = 30
"""Classes up to which the shares can be read as numbers."""
_MOST_LABELS = 80
_LONGEST_NAME = 24
_DARK = 0.6
_STRIPE = 0.023
"""How wide the classes' colours stand along the edges, as a share of the matrix."""


def draw_confusion(
    path: Path,
    confusion: Confusion,
    *,
    title: str,
    unit: str,
    colours: Sequence[str] = (),
) -> None:
    """Draw which class was taken for which, as shares of each reference class.

    Args:
        path: The picture.
        confusion: What to draw.
        title: Stands above it.
        unit: What was counted: pixels or samples.
        colours: Of the classes on maps, `#rrggbb` each; shown beside their names.

    Raises:
        OutputError: The place cannot be written.
    """
    count = len(confusion.names)
    edge = min(max(0.42 * count, 2.6), 16.0)
    longest = min(max(map(len, confusion.names)), _LONGEST_NAME)
    figure = Figure(figsize=(edge + 0.09 * longest + 2.4, edge + 0.09 * longest + 1.5))
    figure.set_layout_engine("constrained")
    axes = figure.subplots()
    shares = [[100 * (share or 0) for share in row] for row in confusion.shares]
    image = axes.imshow(shares, cmap=_BLUES, vmin=0, vmax=100)
    figure.colorbar(image, ax=axes, shrink=0.8, label=f"% of the reference class's {unit}")
    _label(axes, confusion.names)
    if count <= _MOST_NUMBERS:
        _write_shares(axes, confusion)
    if len(colours) == count <= _MOST_LABELS:
        _paint(axes, colours)
    wrapped = textwrap.fill(title.replace("$", r"\$"), int(12 * figure.get_figwidth()))
    figure.suptitle(wrapped, x=0.01, ha="left", fontsize=10)
    with replacing(path) as temporary, warnings.catch_warnings():
        # A name in a script that the font lacks shows as boxes; nobody needs to be told twice.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing", category=UserWarning)
        figure.savefig(temporary, dpi=130, format="png")


def _label(axes: Axes, names: Sequence[str]) -> None:
    places = range(len(names)) if len(names) <= _MOST_LABELS else ()
    shown = [_short(names[place]) for place in places]
    axes.set_xticks(places, shown, rotation=45, ha="right", rotation_mode="anchor", fontsize=8)
    axes.set_yticks(places, shown, fontsize=8)
    axes.set(xlabel="predicted", ylabel="reference")
    axes.tick_params(length=0, pad=9)
    axes.spines[:].set_visible(False)


def _short(name: str) -> str:
    # a dollar sign would start a formula
    text = name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
    return text.replace("$", r"\$")


def _write_shares(axes: Axes, confusion: Confusion) -> None:
    for row, shares in enumerate(confusion.shares):
        for column, share in enumerate(shares):
            if share is None:
                text, colour = "–", "#888888"
            else:
                text = f"{share * 100:.0f}" if share >= 0.005 else ""
                colour = "white" if share > _DARK else "black"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)


def _paint(axes: Axes, colours: Sequence[str]) -> None:
    """Show each class's colour on maps along both edges."""
    last, stripe = len(colours) - 0.5, _STRIPE * len(colours)
    for place, colour in enumerate(colours):
        for x, y, width, height in (
            (-0.5, place - 0.5, -stripe, 1.0),
            (place - 0.5, last, 1.0, stripe),
        ):
            patch = Rectangle((x, y), width, height, color=colour, clip_on=False, linewidth=0)
            axes.add_patch(patch)
