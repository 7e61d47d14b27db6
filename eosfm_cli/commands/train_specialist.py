"""`eosfm train-specialist`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from eosfm_cli.commands import figures, options
from eosfm_cli.commands.console import ConsoleProgress, next_command, write_json, write_table
from eosfm_cli.commands.options import TRAINING, example, new_app

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from eosfm_cli.commands.failure import Failure
    from eosfm_cli.recipe import Recipe
    from eosfm_cli.results import TrainResult

app = new_app()


Backbone = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="A timm model that gives a pyramid of features.",
        show_default="the recipe's, convnextv2_atto",
        rich_help_panel=TRAINING,
    ),
]
Pretrained = Annotated[
    bool | None,
    typer.Option(
        "--pretrained/--no-pretrained",
        help="Start from timm's published weights; downloads them.",
        show_default="the recipe's, no-pretrained",
        rich_help_panel=TRAINING,
    ),
]


@app.command(epilog=example("eosfm train-specialist mini-rgb mini-s1 --epochs 5"))
def train_specialist(
    recipes: options.RecipeNames,
    epochs: options.Epochs = None,
    batch_size: options.BatchSize = None,
    lr: options.LearningRate = None,
    backbone: Backbone = None,
    pretrained: Pretrained = None,
    devices: options.Devices = None,
    precision: options.PrecisionOption = None,
    seed: options.Seed = None,
    data_root: options.DataRoot = None,
    set_: options.Set = None,
    output: options.ExperimentsOutput = None,
    json: options.Json = False,
) -> None:
    """Train one small encoder per recipe.

    Every recipe gives one specialist: an encoder for one dataset and one set of bands, in a run
    folder of its own with its checkpoints, curves, scores and cost. All recipes are checked before
    the first one starts; if one then fails, the others still run.

    With --json: {"results": [one object per specialist], "failed": {recipe: its error}}.
    """
    from eosfm_cli.recipe import load_recipe

    overrides = options.overrides(
        "training",
        set_,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        backbone=backbone,
        pretrained=pretrained,
        devices=options.devices(devices),
        precision=precision,
        seed=seed,
    )
    loaded = [load_recipe(name, overrides) for name in recipes]
    from eosfm_cli.workflows.train_specialist import train_specialist as train  # seconds

    root, progress = options.root(output), ConsoleProgress()
    results, failed = train_each(
        loaded, lambda one: train(one, root=root, data_root=data_root, progress=progress)
    )
    show(results, failed, as_json=json)
    if results:
        next_command(options.within("eosfm export", output))
    if failed:
        raise typer.Exit(next(iter(failed.values())).exit_code)


def train_each(
    recipes: Sequence[Recipe], train: Callable[[Recipe], TrainResult]
) -> tuple[list[TrainResult], dict[str, Failure]]:
    """Train one after the other; a failure ends its own recipe only."""
    from eosfm_cli.commands.failure import explain

    results, failed = [], {}
    for recipe in recipes:
        try:
            results.append(train(recipe))
        except Exception as error:
            if len(recipes) == 1:
                raise
            failed[recipe.name] = explain(error)
            ConsoleProgress().warn(f"{recipe.name} failed: {failed[recipe.name].message}")
    return results, failed


def show(results: Sequence[TrainResult], failed: dict[str, Failure], *, as_json: bool) -> None:
    """Write what was trained to stdout, and what failed to stderr."""
    from eosfm_cli.commands.failure import as_entry, report

    if as_json:
        write_json(
            {"results": results, "failed": {name: as_entry(f) for name, f in failed.items()}}
        )
    elif results:
        write_table(
            ["specialist", "metric", "test", "parameters", "time", "energy", "run"],
            [_row(result) for result in results],
        )
    for failure in failed.values():
        report(failure, as_json=False)


def _row(result: TrainResult) -> list[str | None]:
    return [
        result.specialist,
        *figures.main_metric(result.metrics),
        figures.count(result.parameters),
        figures.duration(result.cost.seconds),
        figures.energy(result.cost.energy_kwh),
        str(result.run),
    ]
