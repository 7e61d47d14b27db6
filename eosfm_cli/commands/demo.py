"""`eosfm demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eosfm_cli.commands import figures, options
from eosfm_cli.commands.console import ConsoleProgress, next_command, write_json, write_table
from eosfm_cli.commands.options import example, new_app

app = new_app()


@app.command(epilog=example("eosfm demo"))
def demo(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where everything goes.")] = Path(
        "eosfm-demo"
    ),
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Seed of all training.")] = 0,
    json: options.Json = False,
) -> None:
    """Run the whole job on made-up scenes, offline, in minutes.

    Makes small georeferenced scenes, trains specialists on them, gathers, fits, ablates and maps,
    and prints each command as you would type it. It ends with a table that sets the ensembles
    beside each specialist alone, one encoder trained from scratch, and random specialists.
    """
    from eosfm_cli.workflows.demo import demo as run_demo

    result = run_demo(folder, seed=seed, progress=ConsoleProgress())
    if json:
        write_json(result)
        return
    write_table(
        ["model", "test mIoU", "parameters", "trainable", "time", "energy"],
        [
            [
                row.model,
                figures.score(row.miou),
                figures.count(row.parameters),
                figures.count(row.trainable),
                figures.duration(row.seconds),
                figures.energy(row.energy_kwh),
            ]
            for row in result.rows
        ],
    )
    for what, path in result.files.items():
        ConsoleProgress().say(f"{what}: {path}")
    next_command(options.within("eosfm emissions", result.folder / "experiments"))
