"""`eosfm fit-ensemble`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from eosfm_cli.commands import figures, options
from eosfm_cli.commands.console import ConsoleProgress, next_command, write_json, write_table
from eosfm_cli.commands.options import CHOICES, example, new_app

if TYPE_CHECKING:
    from eosfm_cli.recipe import Task
    from eosfm_cli.results import FitResult

app = new_app()

Fusion = Literal["concat", "conv1x1"]
Normalize = Literal["batch", "layer", "none"]


Ensemble = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="An ensemble file; .safetensors or .pth.",
        show_default="the newest export",
        rich_help_panel=CHOICES,
    ),
]
FusionOption = Annotated[
    Fusion | None,
    typer.Option(
        help="How the specialists' features are joined.",
        show_default="the recipe's, concat",
        rich_help_panel=CHOICES,
    ),
]
TopK = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="K",
        help="Learn which specialists help, and keep this many.",
        show_default="the recipe's, all",
        rich_help_panel=CHOICES,
    ),
]
Strict = Annotated[
    bool,
    typer.Option(
        "--strict",
        help="Fail, instead of warn, if --top-k is more than can be used.",
        rich_help_panel=CHOICES,
    ),
]
NormalizeOption = Annotated[
    Normalize | None,
    typer.Option(
        help="How each specialist's features are normalised.",
        show_default="the recipe's, batch",
        rich_help_panel=CHOICES,
    ),
]
Specialists = Annotated[
    str | None,
    typer.Option(metavar="A,B", help="Only these specialists.", rich_help_panel=CHOICES),
]
Exclude = Annotated[
    str | None,
    typer.Option(metavar="C,D", help="All but these specialists.", rich_help_panel=CHOICES),
]
Freeze = Annotated[
    bool | None,
    typer.Option(
        "--freeze/--no-freeze",
        help="Keep the specialists' weights as they are.",
        show_default="the recipe's, freeze",
        rich_help_panel=CHOICES,
    ),
]


@app.command(epilog=example("eosfm fit-ensemble mini-landcover --fusion conv1x1 --top-k 2"))
def fit_ensemble(
    recipe: options.RecipeName,
    ensemble: Ensemble = None,
    fusion: FusionOption = None,
    top_k: TopK = None,
    strict: Strict = False,
    normalize: NormalizeOption = None,
    specialists: Specialists = None,
    exclude: Exclude = None,
    freeze: Freeze = None,
    epochs: options.Epochs = None,
    batch_size: options.BatchSize = None,
    lr: options.LearningRate = None,
    devices: options.Devices = None,
    precision: options.PrecisionOption = None,
    seed: options.Seed = None,
    data_root: options.DataRoot = None,
    set_: options.Set = None,
    output: options.ExperimentsOutput = None,
    json: options.Json = False,
) -> None:
    """Fit the frozen ensemble to a recipe's task.

    Feeds every specialist from the recipe's bands, joins their features and trains a decoder on
    top. The model is one file that `eosfm predict` takes. Bands are matched by name; which
    specialist runs on which bands is printed before the work begins.
    """
    from eosfm_cli.recipe import load_recipe

    overrides = options.overrides(
        "fit",
        set_,
        ensemble=None if ensemble is None else str(ensemble),
        fusion=fusion,
        top_k=top_k,
        normalize=normalize,
        specialists=options.names(specialists),
        exclude=options.names(exclude),
        freeze=freeze,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        devices=options.devices(devices),
        precision=precision,
        seed=seed,
    )
    loaded = load_recipe(recipe, overrides)
    from eosfm_cli.workflows.fit_ensemble import fit_ensemble as fit  # seconds

    result = fit(
        loaded,
        root=options.root(output),
        data_root=data_root,
        strict=strict,
        progress=ConsoleProgress(),
    )
    if json:
        write_json(result)
    else:
        write_table(["fitted", result.recipe], _rows(result))
    next_command(*(options.within(command, output) for command in what_next(loaded.task, result)))


def what_next(task: Task, result: FitResult) -> list[str]:
    """The commands that can follow this fit."""
    found = ["eosfm ablate"] if len(result.specialists) > 1 else []
    found += ["eosfm predict scene.tif"] if task == "segmentation" else []
    return found or ["eosfm emissions"]


def _rows(result: FitResult) -> list[list[str | None]]:
    searched = result.scores.items()
    metric, value = figures.main_metric(result.metrics)
    classes = {k.removeprefix("IoU_"): v for k, v in result.metrics.items() if k[:4] == "IoU_"}
    return [
        [f"test {metric}", value],
        *([f"IoU of {name}", figures.score(iou)] for name, iou in classes.items()),
        ["specialists", ", ".join(result.specialists)],
        *([f"gate of {name}", figures.score(value)] for name, value in searched),
        ["parameters", figures.count(result.parameters)],
        ["trainable", figures.count(result.trainable)],
        ["time", figures.duration(result.cost.seconds)],
        ["energy", figures.energy(result.cost.energy_kwh)],
        ["ensemble", None if result.ensemble is None else str(result.ensemble)],
        ["model", str(result.model)],
    ]
