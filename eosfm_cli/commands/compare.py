"""`eosfm compare`."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eosfm_cli.commands import figures, options
from eosfm_cli.commands.console import (
    ConsoleProgress,
    fits,
    next_command,
    write_json,
    write_table,
)
from eosfm_cli.commands.options import OUTPUT, example, new_app

if TYPE_CHECKING:
    from eosfm_cli.results import CompareGroup, CompareResult

app = new_app()

_ALWAYS = ("encoder", "score", "run")
_COLUMNS = (
    "encoder",
    "score",
    "fusion",
    "top-k",
    "label fraction",
    "seed",
    "parameters",
    "trained",
    "time",
    "energy",
    "run",
    "differs",
    "test split",
)
_FEWER = (
    (),
    ("energy",),
    ("energy", "parameters"),
    ("energy", "parameters", "time", "trained"),
    ("energy", "parameters", "time", "trained", "seed", "label fraction"),
)
"""What is left out where the terminal is narrower and narrower, before all but `_ALWAYS` is."""


@app.command(epilog=example("eosfm compare"))
def compare(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN",
            help="Run folders of fits, or a recipe's name for all of its completed fits.",
            show_default="all fits of the newest fit's recipe",
        ),
    ] = None,
    csv: Annotated[
        Path | None,
        typer.Option(metavar="FILE.csv", help="Also write a row per run.", rich_help_panel=OUTPUT),
    ] = None,
    experiments: options.Experiments = None,
    json: options.Json = False,
) -> None:
    """Put fits side by side: ensembles, baselines, seeds.

    The best comes first. Ensembles stand beside what they have to beat: one specialist alone, one
    encoder trained from scratch, a model of timm (`eosfm fit-ensemble RECIPE --ensemble …`). Runs
    that differ by their seed alone share a row, with the mean and the standard deviation of their
    scores. All scores are those of the test split.
    """
    from eosfm_cli.workflows.compare import compare as side_by_side

    result = side_by_side(runs or (), root=options.root(experiments), csv=csv)
    if json:
        write_json(result)
    else:
        _show(result)
    _tell(result)
    best = result.groups[0].runs[0].run
    next_command(f"{options.predict_command(result.task)} --model {shlex.quote(str(best))}")


def _tell(result: CompareResult) -> None:
    progress = ConsoleProgress()
    for run, reason in result.left_out.items():
        progress.warn(f"left out: {reason if run in reason else f'{run}: {reason}'}")
    if len(result.tests) > 1:
        progress.warn(
            "these were not all measured on the same test split: compare within one "
            f"({'; '.join(result.tests)})"
        )
    if result.csv is not None:
        progress.say(f"wrote {result.csv}")


def _show(result: CompareResult) -> None:
    folders = {row.run.parent for group in result.groups for row in group.runs}
    rows = [_cells(group, short=len(folders) == 1) for group in result.groups]
    for columns in _choices(rows, several_tests=len(result.tests) > 1):
        headings = [result.metric_name if c == "score" else c for c in columns]
        cells = [[row[c] for c in columns] for row in rows]
        if fits(headings, cells):
            break
    write_table(headings, cells)
    if len(folders) == 1:
        ConsoleProgress().say(f"runs in {folders.pop()}")


def _choices(
    rows: Sequence[dict[str, str | None]], *, several_tests: bool
) -> list[tuple[str, ...]]:
    """The columns to show, widest choice first; those that tell nothing are in none."""
    silent = {"differs"} if not any(row["differs"] for row in rows) else set()
    silent |= set() if several_tests else {"test split"}
    choices = [tuple(c for c in _COLUMNS if c not in {*fewer, *silent}) for fewer in _FEWER]
    return [*choices, _ALWAYS]


def _cells(group: CompareGroup, *, short: bool) -> dict[str, str | None]:
    row = group.runs[0]
    spread = "" if group.spread is None else f" ± {figures.score(group.spread)}"
    run = row.run.name if short else str(row.run)
    chosen = None if row.top_k is None else f"{row.top_k} by {row.select_by}"
    return {
        "encoder": row.encoder,
        "score": f"{figures.score(group.score)}{spread}",
        "fusion": row.fusion,
        "top-k": chosen,
        "label fraction": f"{row.label_fraction:g}",
        "seed": ", ".join(map(str, group.seeds)),
        "parameters": figures.count(row.parameters),
        "trained": figures.count(row.trainable),
        "time": figures.duration(group.seconds),
        "energy": figures.energy(group.energy_kwh),
        "run": run if len(group.runs) == 1 else f"{run} and {len(group.runs) - 1} more",
        "differs": row.differs or None,
        "test split": row.test,
    }
