"""`eosfm train-specialist`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eosfm_cli.commands import figures, options
from eosfm_cli.commands.console import ConsoleProgress, next_command, write_json, write_table
from eosfm_cli.commands.options import TRAINING, example, new_app
from eosfm_cli.commands.plan import show_plans, tell_estimate
from eosfm_cli.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from eosfm_cli.budget import Budget
    from eosfm_cli.commands.failure import Failure
    from eosfm_cli.lightning_yaml import LightningYaml
    from eosfm_cli.recipe import Recipe
    from eosfm_cli.results import TrainResult, WorkPlan
    from eosfm_cli.run_dir import RunDir

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
    recipes: options.RecipeNames = None,
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
    resume: options.Resume = None,
    max_energy: options.MaxEnergy = None,
    max_co2: options.MaxCo2 = None,
    dry_run: options.DryRun = False,
    output: options.ExperimentsOutput = None,
    json: options.Json = False,
) -> None:
    """Train one small encoder per recipe.

    Every recipe gives one specialist: an encoder for one dataset and one set of bands, in a run
    folder of its own with its checkpoints, curves, scores and cost. All recipes are checked before
    the first one starts; if one then fails, the others still run.

    A YAML of the Lightning or TerraTorch command line is trained as well. It names Python classes
    to run: take only files that you trust.

    With --json: {"results": [one object per specialist], "failed": {recipe: its error}}.
    """
    given = {
        "epochs": epochs,
        "batch_size": batch_size,
        "lr": lr,
        "backbone": backbone,
        "pretrained": pretrained,
        "devices": options.devices(devices),
        "precision": precision,
        "seed": seed,
    }
    from eosfm_cli.budget import parse_budget

    budget = parse_budget(max_energy, max_co2)
    run, loaded = _chosen(resume, recipes or (), given, set_, data_root)
    root, progress = options.root(output, run), ConsoleProgress()
    if dry_run:
        show_plans([_plan(one, data_root, progress) for one in loaded], as_json=json)
        return
    results, failed = train_each(
        loaded, lambda one: _train(one, root, data_root, progress, run, budget)
    )
    show(results, failed, as_json=json)
    if any(not result.specialists for result in results):
        next_command(options.within("eosfm export", root))
    if failed:
        raise typer.Exit(next(iter(failed.values())).exit_code)


def _chosen(
    resume: Path | None,
    names: Sequence[str],
    given: Mapping[str, Any],
    pairs: Sequence[str] | None,
    data_root: Path | None,
) -> tuple[RunDir | None, list[Recipe | LightningYaml]]:
    """The run to go on with, if any, and what to train: recipes and Lightning YAMLs."""
    from eosfm_cli.lightning_yaml import is_lightning_yaml
    from eosfm_cli.recipe import parse_overrides
    from eosfm_cli.seed_datamodules import load_lightning_yaml

    overrides = options.overrides("training", pairs, **given)
    said = {option: value for option, value in given.items() if value is not None}

    def read(name: str | Path) -> LightningYaml:
        return load_lightning_yaml(Path(name), said, parse_overrides(pairs or ()), data_root)

    if resume is not None and is_lightning_yaml(resume / "config.yaml"):
        from eosfm_cli.workflows.resuming import unfinished_run

        run = unfinished_run(resume, "train")
        if len(names) > 1 or not all(map(is_lightning_yaml, names)):
            raise UsageError(
                f"{resume} is a run of one Lightning YAML, not of {', '.join(map(str, names))}.",
                hint=f"Name nothing beside it: {run.resume_command}",
            )
        return run, [read(name) for name in names or [run.config]]
    if resume is None and any(map(is_lightning_yaml, names)):
        from eosfm_cli.recipe import load_recipe

        return None, [
            read(name) if is_lightning_yaml(name) else load_recipe(name, overrides)
            for name in names
        ]
    return options.chosen(resume, "train", names, overrides)


def _train(
    one: Recipe | LightningYaml,
    root: Path,
    data_root: Path | None,
    progress: ConsoleProgress,
    run: RunDir | None,
    budget: Budget,
) -> TrainResult:
    from eosfm_cli.recipe import Recipe

    if isinstance(one, Recipe):
        from eosfm_cli.workflows.train_specialist import train_specialist as train  # seconds

        return train(
            one, root=root, data_root=data_root, progress=progress, resume=run, budget=budget
        )
    from eosfm_cli.workflows.train_config import train_config  # seconds

    return train_config(one, root=root, progress=progress, resume=run, budget=budget)


def _plan(
    one: Recipe | LightningYaml, data_root: Path | None, progress: ConsoleProgress
) -> WorkPlan:
    from eosfm_cli.recipe import Recipe

    if isinstance(one, Recipe):
        from eosfm_cli.workflows.train_specialist import plan_training  # seconds

        return plan_training(one, data_root=data_root, progress=progress)
    from eosfm_cli.workflows.train_config import plan_config  # seconds

    return plan_config(one, progress=progress)


def train_each(
    recipes: Sequence[Recipe | LightningYaml],
    train: Callable[[Recipe | LightningYaml], TrainResult],
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
        tested = all(result.split == "test" for result in results)
        score = "test" if tested else "score"
        write_table(
            ["specialist", "metric", score, "parameters", "time", "energy", "run"],
            [_row(result) for result in results],
        )
    for result in results:
        tell_estimate(result.specialist, result.estimate, result.cost)
    for failure in failed.values():
        report(failure, as_json=False)


def _row(result: TrainResult) -> list[str | None]:
    metric, score = figures.main_metric(result.metrics)
    return [
        result.specialist,
        metric,
        f"{score} (validation)" if result.split == "val" else score,
        figures.count(result.parameters),
        figures.duration(result.cost.seconds),
        figures.energy(result.cost.energy_kwh),
        str(result.run),
    ]
