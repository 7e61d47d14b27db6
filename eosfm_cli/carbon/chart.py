"""A picture of where a project's energy went."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from eosfm_cli.run_dir import replacing

_COLOUR = "#2f6f8f"


def draw_energy(path: Path, labels: Sequence[str], energy_kwh: Sequence[float]) -> None:
    """Draw one bar per stage, in the order given, as a PNG.

    Raises:
        OutputError: The file cannot be written.
    """
    figure = Figure(figsize=(7, 1.2 + 0.34 * len(labels)), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(labels, [kwh * 1000 for kwh in energy_kwh], color=_COLOUR)
    axes.bar_label(bars, fmt="%.3g", padding=3)
    axes.invert_yaxis()
    axes.set_xlabel("energy in Wh")
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.12)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
