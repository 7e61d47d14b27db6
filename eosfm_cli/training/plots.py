"""Pictures of runs: history, selection, ablation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from eosfm_cli.results import AblationResult, Verdict
from eosfm_cli.run_dir import replacing

_BLUE, _ORANGE, _GREY, _RED = "#0072b2", "#e69f00", "#8a8a8a", "#c2452d"

_VERDICTS: dict[Verdict | None, str] = {
    "helps": _BLUE,
    "unclear": _GREY,
    "harms": _RED,
    None: _BLUE,
}

Rows = Sequence[dict[str, str]]


def draw_history(path: Path, rows: Rows, metric: str) -> None:
    """Draw loss and score over the epochs of a run; a search stands before its fit."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    loss, score = figure.subplots(1, 2)
    for axes, names, title in (
        (loss, ("train/loss", "val/loss"), "loss"),
        (score, (f"train/{metric}", f"val/{metric}"), metric),
    ):
        for name, colour in zip(names, (_GREY, _BLUE), strict=True):
            _line(axes, rows, name, label=name.partition("/")[0], colour=colour)
        _mark_phases(axes, rows)
        axes.set(title=title, xlabel="epoch")
        axes.legend(frameon=False)
        _tidy(axes)
    _save(figure, path)


def draw_selection(path: Path, rows: Rows, chosen: Sequence[str]) -> None:
    """Draw every specialist's gate over the epochs of the search; the chosen ones in colour."""
    search = [row for row in rows if row.get("phase") == "search"]
    names = sorted({key for row in search for key in row if key.startswith("gate/")})
    figure = Figure(figsize=(7, 3.8), layout="constrained")
    axes = figure.subplots()
    for name in names:
        specialist = name.removeprefix("gate/")
        kept = specialist in chosen
        label = f"{specialist} (kept)" if kept else specialist
        _line(axes, search, name, label=label, colour=None if kept else _GREY)
    axes.set(title="Selection: gates while they learn", xlabel="epoch", ylabel="gate", ylim=(0, 1))
    _tidy(axes)
    figure.legend(loc="outside right upper", frameon=False)
    _save(figure, path)


def draw_ablation(path: Path, result: AblationResult) -> None:
    """Draw what each specialist is worth with its 95 % interval, the most needed on top."""
    rows = result.rows[::-1]  # bars go upwards
    figure = Figure(figsize=(7, 1.5 + 0.36 * len(rows)), layout="constrained")
    axes = figure.subplots()
    changes = [row.change for row in rows]
    colours = [_VERDICTS[row.verdict] for row in rows]
    axes.barh([row.specialist for row in rows], changes, color=colours, height=0.7)
    for height, row in enumerate(rows):
        if row.low is not None and row.high is not None:
            axes.plot([row.low, row.high], [height, height], color="black", linewidth=1.2)
        axes.text(
            1.01, height, f"{row.change:+.3f}", transform=axes.get_yaxis_transform(), va="center"
        )
    axes.axvline(0, color="black", linewidth=0.8)
    axes.margins(x=0.06)
    _name_verdicts(figure, result)
    _title_ablation(axes, result)
    _tidy(axes)
    _save(figure, path)


def _title_ablation(axes: Axes, result: AblationResult) -> None:
    metric = result.metric_name
    title, label = {
        "leave-one-out": ("Leaving specialists out", f"change of {metric} without it"),
        "only-one": ("One specialist alone", f"change of {metric} with it alone"),
        "shapley": ("Shapley values of the specialists", f"what it adds to {metric} on average"),
    }[result.mode]
    axes.set_title(f"{title} (all together: {metric} {result.full:.3f})", wrap=True)
    axes.set_xlabel(f"{label}; line: 95 % interval")


def _name_verdicts(figure: Figure, result: AblationResult) -> None:
    """Say what the colours mean, where there are several."""
    named = dict.fromkeys(row.verdict for row in result.rows if row.verdict)
    patches = [Patch(color=_VERDICTS[verdict], label=verdict) for verdict in named]
    if patches:
        figure.legend(handles=patches, loc="outside right upper", frameon=False)


def _line(axes: Axes, rows: Rows, name: str, *, label: str, colour: str | None) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    points = [(i + 1, float(row[name])) for i, row in enumerate(rows) if row.get(name)]
    if points:
        x, y = zip(*points, strict=True)
        axes.plot(x, y, label=label, color=colour, marker="." if len(points) < 30 else None)


def _mark_phases(axes: Axes, rows: Rows) -> None:
    phases = [row.get("phase") for row in rows]
    for index in range(1, len(phases)):
        if phases[index] != phases[index - 1]:
            axes.axvline(index + 0.5, color=_ORANGE, linewidth=1, linestyle="--")


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)


def _save(figure: Figure, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png")
