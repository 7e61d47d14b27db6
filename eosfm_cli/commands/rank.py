"""`eosfm rank`."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from eosfm_cli.commands import figures, options
from eosfm_cli.commands.console import ConsoleProgress, next_command, write_json, write_table
from eosfm_cli.commands.options import CHOICES, DATA, example, new_app
from eosfm_cli.words import counted

if TYPE_CHECKING:
    from eosfm_cli.results import RankResult, RankRow

app = new_app()


@app.command(epilog=example("eosfm rank mini-landcover"))
def rank(
    recipe: options.RecipeName,
    ensemble: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="An ensemble file; .safetensors, .pth or hf://OWNER/REPO/FILE.",
            show_default="the newest export",
            rich_help_panel=CHOICES,
        ),
    ] = None,
    samples: Annotated[
        int,
        typer.Option(
            min=2,
            metavar="N",
            help="Look at no more tiles than this of training, and of validation.",
            rich_help_panel=DATA,
        ),
    ] = 500,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="N",
            help="Seed of the draw of tiles.",
            show_default="the recipe's, 0",
            rich_help_panel=DATA,
        ),
    ] = None,
    data_root: options.DataRoot = None,
    set_: options.Set = None,
    plugin: options.Plugins = None,
    experiments: options.Experiments = None,
    json: options.Json = False,
) -> None:
    """Rank specialists for a dataset, before any training.

    A linear map from each specialist's frozen features to the labels is solved on training tiles
    and scored on validation tiles; the test split is not touched. Maps are scored in coarse
    cells, so compare these scores with each other, not with those of a fit.
    """
    from eosfm_cli.recipe import load_recipe

    loaded = load_recipe(recipe, options.overrides("fit", set_, ensemble=ensemble, seed=seed))
    from eosfm_cli.workflows.rank import rank as probe_all  # seconds

    root, progress = options.root(experiments), ConsoleProgress()
    options.load_plugins(plugin, progress)
    result = probe_all(loaded, samples=samples, root=root, data_root=data_root, progress=progress)
    if json:
        write_json(result)
    else:
        _show(result)
    if len(result.rows) > 1:
        next_command(options.within(_what_next(result, recipe, ensemble), experiments))


def _show(result: RankResult) -> None:
    columns = ["specialist", result.metric_name, "95 %", "bands", "parameters", "time"]
    write_table(columns, [_cells(row) for row in result.rows])
    train, val = result.tiles["train"], result.tiles["val"]
    ConsoleProgress().say(
        f"linear probes fitted on {counted(train, 'training tile')}, scored on "
        f"{counted(val, 'validation tile')}"
        f"{f' in cells of {result.cell} pixels' if result.cell else ''}, in "
        f"{figures.duration(result.cost.seconds)}"
    )


def _cells(row: RankRow) -> list[str | None]:
    return [
        row.specialist,
        figures.score(row.score),
        f"{figures.score(row.low)} to {figures.score(row.high)}",
        "exact" if row.exact else f"inexact ({', '.join(row.views)})",
        figures.count(row.parameters),
        figures.duration(row.seconds),
    ]


def _what_next(result: RankResult, recipe: str, ensemble: str | None) -> str:
    keep = max(1, len(result.rows) // 2)
    taken = f" --ensemble {shlex.quote(ensemble)}" if ensemble else ""
    return f"eosfm fit-ensemble {shlex.quote(recipe)} --select-by probe --top-k {keep}{taken}"
