"""`eosfm ablate`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from eosfm_cli.commands import figures, options
from eosfm_cli.commands.console import ConsoleProgress, next_command, write_json, write_table
from eosfm_cli.commands.options import CHOICES, example, new_app
from eosfm_cli.errors import UsageError
from eosfm_cli.results import NONE_LEFT_OUT

if TYPE_CHECKING:
    from eosfm_cli.results import AblationResult, AblationRow

app = new_app()

MEASURING = "Measuring"

Run = Annotated[
    Path | None,
    typer.Argument(
        metavar="RUN",
        help="The run folder of a fit, or a pruned model in it.",
        show_default="the newest completed fit",
    ),
]
ModeOption = Annotated[
    Literal["leave-one-out", "only-one", "shapley"],
    typer.Option(
        "--mode",
        metavar="MODE",
        help="leave-one-out: the score without each one. only-one: with each one alone. "
        "shapley: what each one adds on average, in whatever order they join.",
        rich_help_panel=MEASURING,
    ),
]
Specialists = Annotated[
    str | None,
    typer.Option(
        metavar="A,B",
        help="Only these, by name or position (counted from 0), and all of them together.",
        show_default="all",
        rich_help_panel=CHOICES,
    ),
]
Permutations = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Orders of joining that are drawn for shapley.",
        show_default="200",
        rich_help_panel=MEASURING,
    ),
]
Bootstrap = Annotated[
    int,
    typer.Option(
        min=100,
        metavar="N",
        help="How often the test images are drawn anew for the 95 % intervals.",
        rich_help_panel=MEASURING,
    ),
]
Seed = Annotated[
    int,
    typer.Option(min=0, metavar="N", help="Seed of what is drawn.", rich_help_panel=MEASURING),
]


@app.command(epilog=example("eosfm ablate --mode shapley"))
def ablate(
    run: Run = None,
    mode: ModeOption = "leave-one-out",
    specialists: Specialists = None,
    permutations: Permutations = None,
    bootstrap: Bootstrap = 1000,
    seed: Seed = 0,
    data_root: options.DataRoot = None,
    plugin: options.Plugins = None,
    experiments: options.Experiments = None,
    json: options.Json = False,
) -> None:
    """Leave each specialist out and see what it is worth.

    Scores the fitted model on the test split as it is, and without each of its specialists, with
    95 % intervals. Nothing is trained again, and each tile is encoded once. Table, CSV, JSON and a
    chart are written beside the model.
    """
    if permutations is not None and mode != "shapley":
        raise UsageError("--permutations goes with --mode shapley.")
    from eosfm_cli.workflows.ablate import AblationSpec
    from eosfm_cli.workflows.ablate import ablate as leave_out

    progress = ConsoleProgress()
    options.load_plugins(plugin, progress)
    spec = AblationSpec(
        mode=mode,
        specialists=options.names(specialists),
        permutations=permutations or 200,
        bootstrap=bootstrap,
        seed=seed,
    )
    result = leave_out(
        run, spec, root=options.root(experiments), data_root=data_root, progress=progress
    )
    if json:
        write_json(result)
    else:
        _show(result)
    next_command(*_what_next(result, run, experiments))


def _what_next(result: AblationResult, run: Path | None, experiments: Path | None) -> list[str]:
    if result.suggestion:
        return [*_check_together(result), result.suggestion]
    model = f" --model {shlex.quote(str(run))}" if run else ""
    return [options.within(options.predict_command(result.task) + model, experiments)]


def _check_together(result: AblationResult) -> list[str]:
    """Specialists that can each be missed may stand in for each other: look at them together."""
    gone = result.dispensable
    measured = {row.specialist for row in result.rows}
    if result.mode != "leave-one-out" or len(gone) < 2 or " + ".join(gone) in measured:
        return []
    names = shlex.quote(",".join(gone))
    return [f"eosfm ablate {shlex.quote(str(result.model))} --specialists {names}"]


_FIRST = {"leave-one-out": "without", "only-one": "only", "shapley": "specialist"}


def _show(result: AblationResult) -> None:
    saved = " saved" if result.mode == "leave-one-out" else ""
    costs = ["verdict", "parameters", f"time{saved}", f"energy{saved}"]
    scored = [result.metric_name, "change"] if result.mode != "shapley" else ["adds"]
    full = [figures.score(result.full), *[None] * len(scored)]
    write_table(
        [_FIRST[result.mode], *scored, "95 % interval", *costs],
        [_cells(row) for row in result.rows],
        total=[NONE_LEFT_OUT, *full, None, figures.count(result.parameters), None, None],
    )
    for path in (result.csv, result.json, result.png):
        ConsoleProgress().say(f"wrote {path}")


def _cells(row: AblationRow) -> list[str | None]:
    return [
        row.specialist,
        *([] if row.metric is None else [figures.score(row.metric)]),
        figures.change(row.change),
        _interval(row),
        row.verdict,
        figures.count(row.parameters),
        figures.share(row.time_share),
        figures.energy(row.energy_kwh),
    ]


def _interval(row: AblationRow) -> str | None:
    if row.low is None or row.high is None:
        return None
    return f"{figures.change(row.low)} … {figures.change(row.high)}"
