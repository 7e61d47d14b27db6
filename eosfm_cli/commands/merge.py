"""`eosfm merge`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from eosfm_cli.commands import figures, options
from eosfm_cli.commands.console import ConsoleProgress, next_command, write_json, write_table
from eosfm_cli.commands.options import OUTPUT, example, new_app

app = new_app()


Ensembles = Annotated[
    list[str],
    typer.Argument(
        metavar="ENSEMBLE", help="Ensemble files, or hf://OWNER/REPO/FILE for one on the hub."
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="The merged ensemble; .safetensors or .pth.",
        show_default="experiments/merged.safetensors",
        rich_help_panel=OUTPUT,
    ),
]


@app.command(epilog=example("eosfm merge ours.safetensors theirs.pth --output all.safetensors"))
def merge(
    ensembles: Ensembles,
    experiments: options.Experiments = None,
    output: Output = None,
    overwrite: options.Overwrite = False,
    card: options.Card = None,
    json: options.Json = False,
) -> None:
    """Make one ensemble of several.

    Those of several institutions, for instance. Specialists keep their order and remember the file
    that they came from, with their licence, scores and energy. Those with the same weights are
    taken once; those with the same name become name, name-2 and so on.
    """
    from eosfm_cli.workflows.merge import merge as join

    progress = ConsoleProgress()
    result = join(
        ensembles,
        root=options.root(experiments),
        output=output,
        overwrite=overwrite,
        card=card,
        progress=progress,
    )
    if json:
        write_json(result)
    else:
        write_table(
            ["ensemble", "specialists", "parameters", "strictest licence"],
            [
                [
                    str(result.path),
                    str(len(result.specialists)),
                    figures.count(result.parameters),
                    result.licence,
                ]
            ],
        )
    if result.unlicensed:
        progress.warn(f"no licence is stated for {', '.join(result.unlicensed)}")
    if result.card:
        progress.say(f"wrote {result.card}")
    next_command(f"eosfm fit-ensemble RECIPE --ensemble {shlex.quote(str(result.path))}")
