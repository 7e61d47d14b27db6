"""A picture of where a project's energy went."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from eosfm_cli.run_dir import replacing
from eosfm_cli.words import counted

_COLOUR = "#2f6f8f"
_MOST_BARS = 40
_LONGEST_LABEL = 40


def draw_energy(path: Path, labels: Sequence[str], energy_kwh: Sequence[float]) -> None:
    """Draw one bar per stage, in the order given, as a PNG; of very many, the smaller ones as one.

    Raises:
        OutputError: The file cannot be written.
    """
    labels, energy_kwh = _fewer(labels, energy_kwh)
    unit, size = ("kWh", 1) if max(energy_kwh, default=0) >= 1 else ("Wh", 1000)
    figure = Figure(figsize=(7, 1.2 + 0.34 * len(labels)), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(range(len(labels)), [kwh * size for kwh in energy_kwh], color=_COLOUR)
    axes.bar_label(bars, [f"{kwh * size:.3g}" for kwh in energy_kwh], padding=3)
    axes.set_yticks(range(len(labels)), map(_short, labels), parse_math=False)
    axes.invert_yaxis()
    axes.set_xlabel(f"energy in {unit}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.12)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


def _short(label: str) -> str:
    """Without the middle of what is too long; names of files begin and end alike."""
    if len(label) <= _LONGEST_LABEL:
        return label
    half = _LONGEST_LABEL // 2
    return f"{label[:half]}…{label[1 - half :]}"


def _fewer(labels: Sequence[str], energy_kwh: Sequence[float]) -> tuple[list[str], list[float]]:
    """The largest, as they stand, and the sum of all others."""
    if len(labels) <= _MOST_BARS:
        return list(labels), list(energy_kwh)
    kept = sorted(sorted(range(len(labels)), key=lambda n: -energy_kwh[n])[: _MOST_BARS - 1])
    others = set(range(len(labels))) - set(kept)
    return (
        [*(labels[n] for n in kept), counted(len(others), "other")],
        [*(energy_kwh[n] for n in kept), sum(energy_kwh[n] for n in others)],
    )
