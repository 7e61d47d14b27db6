"""Pictures of runs: history, selection, ablation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from eosfm_cli.results import (
    AblationResult,
    SweepResult,
    SweepRow,
    TradeOff,
    Verdict,
    lower_is_better,
)
from eosfm_cli.run_dir import replacing
from eosfm_cli.sweeps import title as combination_title

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


_COSTS: dict[TradeOff, tuple[str, float]] = {
    "compute": ("compute in kFLOP per pixel", 1e-3),
    "parameters": ("parameters in millions", 1e-6),
    "latency": ("latency in ms per tile", 1e3),
    "energy": ("energy of the fit in Wh (what several share is in the first)", 1e3),
}
"""Cost -> what its axis says, and the factor to its unit."""
_SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_MARKERS = "osD^vPX"
_WIDE_RANGE = 8.0
"""From this ratio of the largest to the smallest value on, an axis is logarithmic."""


def draw_sweep(path: Path, result: SweepResult) -> None:
    """Draw the score against each cost; a line joins what nothing beats."""
    figure = Figure(figsize=(11, 8.4), layout="constrained")
    for axes, kind in zip(figure.subplots(2, 2).flat, get_args(TradeOff), strict=True):
        _draw_trade_off(axes, result, kind)
    handles = _legend(_series(result))
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle(f"{result.recipe}: what each combination gives, and what it costs")
    _save(figure, path)


def _series(result: SweepResult) -> list[str]:
    """What each row has in common with those that differ by the number of specialists alone."""
    keys = [key for key in result.axes if key != "top_k"]
    return [combination_title(row.settings, keys) for row in result.rows]


def _legend(series: Sequence[str]) -> list[Line2D]:
    names = sorted(set(series))
    shown = names if len(names) > 1 else []
    return [
        *(
            Line2D([], [], linestyle="", color=_style(i)[0], marker=_style(i)[1], label=name)
            for i, name in enumerate(shown)
        ),
        Line2D([], [], color=_GREY, label="filled, on the line: nothing beats it"),
    ]


def _style(number: int) -> tuple[str, str]:
    """Colour and marker of a series; the markers tell them apart without the colours."""
    return _SERIES[number % len(_SERIES)], _MARKERS[number % len(_MARKERS)]


def _draw_trade_off(axes: Axes, result: SweepResult, kind: TradeOff) -> None:
    words, factor = _COSTS[kind]
    where = f" ({result.machine})" if kind == "latency" else ""
    better = ", less is better" if lower_is_better(result.metric_name) else ""
    axes.set_xlabel(words + where, wrap=True)
    axes.set_ylabel(f"test {result.metric_name}{better}")
    _tidy(axes)
    costs = [factor * row.cost(kind) for row in result.rows]
    if not any(costs):
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", color=_GREY)
        return
    if min(costs) > 0 and max(costs) / min(costs) >= _WIDE_RANGE:
        _make_logarithmic(axes)
    axes.margins(0.12)
    points = list(zip(costs, (row.score for row in result.rows), strict=True))
    front = sorted(p for p, row in zip(points, result.rows, strict=True) if kind in row.pareto)
    axes.plot(*zip(*front, strict=True), color=_GREY, drawstyle="steps-post", zorder=1)
    series = _series(result)
    names = sorted(set(series))
    for row, point, name in zip(result.rows, points, series, strict=True):
        _draw_point(axes, row, point, _style(names.index(name)), best=kind in row.pareto)
        _write_label(axes, row, point, result, best=kind in row.pareto)


def _make_logarithmic(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _draw_point(
    axes: Axes, row: SweepRow, point: tuple[float, float], style: tuple[str, str], *, best: bool
) -> None:
    """Draw a row with its spread, filled where nothing beats it."""
    colour, marker = style
    axes.errorbar(
        *point,
        yerr=row.spread,
        fmt=marker,
        color=colour,
        markerfacecolor=colour if best else "white",
        markersize=8,
        elinewidth=1,
        zorder=3 if best else 2,
    )


def _write_label(
    axes: Axes, row: SweepRow, point: tuple[float, float], result: SweepResult, *, best: bool
) -> None:
    """Write what a point is on the side of the line where it belongs."""
    up = 1 if best != lower_is_better(result.metric_name) else -1
    axes.annotate(
        _label(row, result),
        point,
        (-6 if best else 6, 6 * up),
        textcoords="offset points",
        ha="right" if best else "left",
        va="bottom" if up > 0 else "top",
        fontsize=9,
        fontweight="bold" if best else "normal",
    )


def _label(row: SweepRow, result: SweepResult) -> str:
    """The number of specialists, where that is what differs; else the whole title."""
    if "top_k" not in result.axes:
        return row.title
    top_k = row.settings["top_k"]
    return "all" if top_k is None else f"k {top_k}"


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
