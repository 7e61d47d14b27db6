"""How good a model is on data it was not trained on."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from eosfm_cli.carbon.tracker import track
from eosfm_cli.data.datamodule import TileDataModule, TileLoader, build_datamodule
from eosfm_cli.errors import BandError, DataError, UsageError
from eosfm_cli.precision import Precision
from eosfm_cli.progress import Progress
from eosfm_cli.raster.colours import class_colours
from eosfm_cli.recipe import Recipe, TargetSpec, Task, TrainingSpec, load_recipe
from eosfm_cli.results import MAIN_METRICS, EvaluationResult, PrecisionChange
from eosfm_cli.training.model import load_model
from eosfm_cli.training.trainer import library_messages_to
from eosfm_cli.workflows.evaluation import (
    Comparison,
    Products,
    conclude_classes,
    conclude_labels,
    conclude_values,
    prepare,
)
from eosfm_cli.workflows.measuring import ClassTally, LabelTally, Measured, Tally, measure
from eosfm_cli.workflows.trained import Trained, find_trained, load_trained

Split = Literal["val", "test"]

_OF_READING = {"batch_size", "workers", "precision"}


def evaluate_run(
    given: str | None,
    *,
    root: Path,
    split: Split = "test",
    recipe: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    batch_size: int | None = None,
    precision: Precision | None = None,
    data_root: Path | None = None,
    output: Path | None = None,
    progress: Progress,
) -> EvaluationResult:
    """Measure a fitted model, or a specialist's best epoch, on a split of a recipe's data.

    Args:
        given: A run's folder, a model file, also of a pruned model, or the name of a specialist or
            recipe (its newest completed run); the newest completed run of all if not given.
        root: The experiments folder.
        split: Which part of the data.
        recipe: Other data with the same classes; the run's own recipe if not given, and of a model
            that lies elsewhere the recipe of the name that its file says.
        overrides: Dotted keys of the recipe.
        batch_size: Tiles at once; the recipe's if not given.
        precision: What a fitted model computes in; as its own test was computed if not given. Of
            `bf16` the result says what it changes.
        data_root: Where datasets are; `EOSFM_DATA` or `data` if not given.
        output: Where the results go; the run's folder if not given.
        progress: Who is told.

    Raises:
        DataError: There is no such run, or the data is missing or unusable.
        UsageError: The recipe has another task, other classes or another unit.
        BandError: The data lacks a band that the model takes.
        BundleError: The run's weights are damaged.
        OutputError: The results cannot be written.
    """
    trained = find_trained(given, root, recipe, progress)
    _refuse_precision(trained, precision)
    data_recipe = _data_recipe(trained, recipe, overrides or {}, progress)
    products = _products(trained, data_recipe.name if recipe else None, split, output)
    prepare(products.folder)
    spec = _spec(data_recipe, trained.kind, batch_size, precision)
    log = trained.run.log if trained.is_the_runs and output is None else Path(os.devnull)
    with library_messages_to(log):
        with track(
            root,
            command="evaluate",
            name=trained.recipe.name,
            recipe=trained.recipe.name,
            progress=progress,
        ) as meter:
            data = build_datamodule(data_recipe, data_root, spec=spec, progress=progress)
            loader = _loader(data, split)
            models = [load_trained(trained, progress)]
            if precision == "bf16" and trained.model is not None:
                models.append(load_model(trained.model, precision).module)
            names = trained.recipe.class_names
            measured = measure(models, loader, data_recipe, names, spec, progress)
        comparison = Comparison(
            title=f"{trained.recipe.name} ({trained.subject.name}) on {data_recipe.name}, {split}",
            subject=trained.subject,
            reference=data_recipe.name,
            split=split,
            task=trained.recipe.task,
            products=products,
            cost=meter.cost,
            change=_change(measured, trained.recipe.task) if precision == "bf16" else None,
        )
        return _concluded(comparison, measured.tallies[-1], trained.recipe)


def _concluded(comparison: Comparison, tally: Tally, own: Recipe) -> EvaluationResult:
    if isinstance(tally, ClassTally):
        return conclude_classes(comparison, tally.confusion, class_colours(own.classes))
    if isinstance(tally, LabelTally):
        return conclude_labels(comparison, tally.scores, tally.metrics, tally.samples)
    target = own.target or TargetSpec(name=own.title)
    return conclude_values(comparison, tally.residuals, tally.metrics, target)


def _refuse_precision(trained: Trained, precision: Precision | None) -> None:
    """Refuse a precision where there is no fitted model that could compute in it."""
    if precision is not None and trained.kind != "fit":
        raise UsageError(
            f"{trained.run.path} is a specialist; --precision is for fitted models.",
            hint="Leave --precision out, or name the run of a fit.",
        )


def _products(trained: Trained, other: str | None, split: Split, output: Path | None) -> Products:
    """The plain names are those of the run's own model and test split."""
    model = None if trained.is_the_runs else trained.subject.stem
    parts = [part for part in (model, other, None if split == "test" else split) if part]
    return Products(output or trained.run.path, after="".join(f"-{part}" for part in parts))


# ------------------------------------------------------------------------------ which data


def _data_recipe(
    trained: Trained, other: str | None, overrides: Mapping[str, Any], progress: Progress
) -> Recipe:
    """The recipe of the data to measure on, with the model's own bands and statistics."""
    _refuse_fixed(trained, overrides)
    recipe = load_recipe(other or trained.data, overrides)
    if other is not None:
        progress.say(f"data: {recipe.name}, {recipe.title}; standardised as the model's own was")
    own = trained.recipe
    _refuse_other_classes(own, recipe)
    _refuse_other_values(own, recipe)
    _refuse_missing_bands(own, recipe)
    return recipe.model_copy(update={"bands": own.bands, "statistics": own.statistics})


def _refuse_fixed(trained: Trained, keys: Iterable[str]) -> None:
    """Refuse to set what only training could change."""
    section = "fit" if trained.kind == "fit" else "training"
    free = [f"{section}.{key}" for key in sorted(_OF_READING)]
    for key in keys:
        if not key.startswith(("dataset.", "tile.")) and key not in free:
            raise UsageError(
                f"--set {key} changes nothing here: the model is made.",
                hint=f"What can be set: dataset.…, tile.…, {', '.join(free)}.",
            )


def _refuse_other_classes(own: Recipe, recipe: Recipe) -> None:
    if own.task != recipe.task:
        raise UsageError(f"The model does {own.task}; {recipe.name} is a recipe of {recipe.task}.")
    mine, theirs = set(own.class_names), set(recipe.class_names)
    if mine == theirs:
        return
    lines = [f"The classes of {recipe.name} are not those of the model."]
    lines += [f"  only in the model: {', '.join(n for n in own.class_names if n not in theirs)}"]
    lines += [
        f"  only in {recipe.name}: {', '.join(n for n in recipe.class_names if n not in mine)}"
    ]
    raise UsageError(
        "\n".join(line for line in lines if not line.endswith(": ")),
        hint="Classes are compared by name: a copy of the recipe may rename them, or put several "
        "mask values into one class.",
    )


def _refuse_other_values(own: Recipe, recipe: Recipe) -> None:
    mine, theirs = own.target, recipe.target
    if mine is not None and theirs is not None and mine.unit != theirs.unit:
        raise UsageError(
            f"The model gives {mine.title}, and {recipe.name} has {theirs.title}.",
            hint="A copy of the recipe may turn its values into the model's unit: "
            "dataset.masks.scale and offset.",
        )


def _refuse_missing_bands(own: Recipe, recipe: Recipe) -> None:
    there = [band for image in recipe.dataset.images.values() for band in image.bands]
    missing = [band for band in own.bands if band not in there]
    if missing:
        raise BandError(
            f"{recipe.name} lacks bands that the model takes: {', '.join(missing)}.\n"
            f"  wanted: {', '.join(own.bands)}\n"
            f"  found:  {', '.join(there)}"
        )


# ------------------------------------------------------------------------------ measuring


def _spec(
    recipe: Recipe, kind: str, batch_size: int | None, precision: Precision | None
) -> TrainingSpec:
    spec: TrainingSpec = recipe.fit if kind == "fit" else recipe.training
    # what is asked for is computed as it is: the recipe mixes no other format into it
    given = {"batch_size": batch_size, "precision": precision and "32-true"}
    return spec.model_copy(update={key: value for key, value in given.items() if value})


def _loader(data: TileDataModule, split: Split) -> TileLoader:
    if not data.tile_counts[split]:
        raise DataError(
            f"The {split} split of {data.recipe.name} is empty.",
            hint=f"Measure on another: --split {'val' if split == 'test' else 'test'}",
        )
    return data.test_dataloader() if split == "test" else data.val_dataloader()


def _change(measured: Measured, task: Task) -> PrecisionChange:
    precise, found = measured.tallies[0].metrics, measured.tallies[-1].metrics
    metric = next(name for name in MAIN_METRICS if name in found)
    values = task == "regression"
    return PrecisionChange(
        precision="bf16",
        metric=metric,
        in_32_bits=precise[metric],
        found=found[metric],
        share_changed=None if values else measured.change,
        difference=measured.change if values else None,
    )
