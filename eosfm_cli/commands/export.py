"""`eosfm export`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from eosfm_cli.commands import figures, options
from eosfm_cli.commands.console import ConsoleProgress, next_command, write_json, write_table
from eosfm_cli.commands.options import DATA, OUTPUT, example, new_app

app = new_app()


Runs = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="RUN",
        help="Run folders, checkpoints, or specialists' names.",
        show_default="the newest completed run of every specialist",
    ),
]
EncodersFolder = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Where to look for runs and checkpoints, at any depth.",
        show_default="experiments/train",
        rich_help_panel=DATA,
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "--output-path",
        "-o",
        metavar="FILE",
        help="The ensemble file; .safetensors or .pth.",
        show_default="experiments/ensemble.safetensors",
        rich_help_panel=OUTPUT,
    ),
]


@app.command(epilog=example("eosfm export --output experiments/ensemble.safetensors"))
def export(
    runs: Runs = None,
    encoders_folder: EncodersFolder = None,
    experiments: options.Experiments = None,
    output: Output = None,
    json: options.Json = False,
) -> None:
    """Gather trained specialists into one ensemble file.

    Takes the encoder out of each run's best checkpoint, with its bands, statistics, scores, licence
    and cost. A file that ends in .pth is written as a list of (channels, weights, config), which
    other tools for such ensembles read.
    """
    from eosfm_cli.workflows.export import export as gather

    result = gather(
        runs,
        root=options.root(experiments),
        encoders_folder=encoders_folder,
        output=output,
        progress=ConsoleProgress(),
    )
    if json:
        write_json(result)
    else:
        write_table(
            ["ensemble", "specialists", "parameters"],
            [[str(result.path), str(len(result.specialists)), figures.count(result.parameters)]],
        )
    named = "" if output is None else f" --ensemble {shlex.quote(str(result.path))}"
    next_command(options.within(f"eosfm fit-ensemble RECIPE{named}", experiments))
