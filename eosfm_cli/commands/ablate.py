"""`eosfm ablate`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eosfm_cli.commands import figures, options
from eosfm_cli.commands.console import ConsoleProgress, next_command, write_json, write_table
from eosfm_cli.commands.options import example, new_app
from eosfm_cli.results import NONE_LEFT_OUT

if TYPE_CHECKING:
    from eosfm_cli.results import AblationResult

app = new_app()


@app.command(epilog=example("eosfm ablate"))
def ablate(
    run: Annotated[
        Path | None,
        typer.Argument(
            metavar="RUN",
            help="The run folder of a fit.",
            show_default="the newest completed fit",
        ),
    ] = None,
    data_root: options.DataRoot = None,
    experiments: options.Experiments = None,
    json: options.Json = False,
) -> None:
    """Leave each specialist out and see what it is worth.

    Scores the fitted model on the test split as it is, and once without each of its specialists.
    Nothing is trained again. Table, CSV, JSON and a chart are written beside the model.
    """
    from eosfm_cli.workflows.ablate import ablate as leave_out

    result = leave_out(
        run, root=options.root(experiments), data_root=data_root, progress=ConsoleProgress()
    )
    if json:
        write_json(result)
    else:
        _show(result)
    next_command(options.within(_what_next(result, run), experiments))


def _what_next(result: AblationResult, run: Path | None) -> str:
    if result.task != "segmentation":
        return "eosfm emissions"
    return "eosfm predict scene.tif" + (f" --model {shlex.quote(str(run))}" if run else "")


def _show(result: AblationResult) -> None:
    write_table(
        ["without", result.metric_name, "change", "parameters"],
        [
            [
                row.specialist,
                figures.score(row.metric),
                figures.change(row.change),
                figures.count(row.parameters),
            ]
            for row in result.rows
        ],
        total=[NONE_LEFT_OUT, figures.score(result.full), None, None],
    )
    for path in (result.csv, result.json, result.png):
        ConsoleProgress().say(f"wrote {path}")
