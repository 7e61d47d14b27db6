"""`eosfm export`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from eosfm_cli.commands import figures, options
from eosfm_cli.commands.console import ConsoleProgress, next_command, write_json, write_table
from eosfm_cli.commands.options import CHOICES, DATA, OUTPUT, example, new_app

app = new_app()


Runs = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="RUN",
        help="Run folders, checkpoints, specialists' names, or ensemble files, also on the hub "
        "as hf://OWNER/REPO/FILE.",
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
Specialists = Annotated[
    str | None,
    typer.Option(metavar="A,B", help="Take only these specialists.", rich_help_panel=CHOICES),
]
Exclude = Annotated[
    str | None,
    typer.Option(metavar="A,B", help="Take all but these.", rich_help_panel=CHOICES),
]
Append = Annotated[
    bool,
    typer.Option(
        "--append",
        help="Keep what is in the output already, and add what is not.",
        rich_help_panel=OUTPUT,
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
    specialists: Specialists = None,
    exclude: Exclude = None,
    encoders_folder: EncodersFolder = None,
    experiments: options.Experiments = None,
    output: Output = None,
    append: Append = False,
    card: options.Card = None,
    json: options.Json = False,
) -> None:
    """Gather trained specialists into one ensemble file.

    Takes the encoder out of each run's best checkpoint, with its bands, statistics, scores, licence
    and cost. A file that ends in .pth is written as a list of (channels, weights, config), which
    other tools for such ensembles read. Given an ensemble file, it writes that in the other format,
    or a choice of it. Specialists with the same weights are taken once.
    """
    from eosfm_cli.workflows.export import export as gather

    progress = ConsoleProgress()
    result = gather(
        runs,
        root=options.root(experiments),
        encoders_folder=encoders_folder,
        output=output,
        specialists=options.names(specialists),
        exclude=options.names(exclude) or (),
        append=append,
        card=card,
        progress=progress,
    )
    if json:
        write_json(result)
    else:
        write_table(
            ["ensemble", "specialists", "parameters"],
            [[str(result.path), str(len(result.specialists)), figures.count(result.parameters)]],
        )
    if result.card:
        progress.say(f"wrote {result.card}")
    named = "" if output is None else f" --ensemble {shlex.quote(str(result.path))}"
    next_command(options.within(f"eosfm fit-ensemble RECIPE{named}", experiments))
