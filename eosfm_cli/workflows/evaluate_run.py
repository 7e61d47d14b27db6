"""How good a run's model is on data it was not trained on, class by class."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchmetrics.classification import MulticlassConfusionMatrix

from eosfm_cli.carbon.tracker import track
from eosfm_cli.confusion import Confusion
from eosfm_cli.data.datamodule import TileDataModule, TileLoader, build_datamodule
from eosfm_cli.errors import BandError, BundleError, DataError, UsageError
from eosfm_cli.precision import Precision
from eosfm_cli.progress import Progress
from eosfm_cli.raster.colours import class_colours
from eosfm_cli.raster.scoring import best_device, describe_device, has_bf16
from eosfm_cli.recipe import Recipe, Task, TrainingSpec, load_recipe
from eosfm_cli.results import MAIN_METRICS, EvaluationResult, PrecisionChange
from eosfm_cli.run_dir import RunDir
from eosfm_cli.training.model import load_model
from eosfm_cli.training.trainer import library_messages_to, memory_errors
from eosfm_cli.workflows.evaluation import Products, conclude, prepare
from eosfm_cli.workflows.trained import Trained, find_trained, load_trained, run_recipe_file

Split = Literal["val", "test"]

_OF_READING = {"batch_size", "workers", "precision"}
_HALF = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}


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
        given: A run's folder, its model file, or the name of a specialist or recipe (its newest
            completed run); the newest completed run of all if not given.
        root: The experiments folder.
        split: Which part of the data.
        recipe: Other data with the same classes; the run's own recipe if not given.
        overrides: Dotted keys of the recipe.
        batch_size: Tiles at once; the recipe's if not given.
        precision: What a fitted model computes in; as its own test was computed if not given. Of
            `bf16` the result says what it changes.
        data_root: Where datasets are; `EOSFM_DATA` or `data` if not given.
        output: Where the results go; the run's folder if not given.
        progress: Who is told.

    Raises:
        DataError: There is no such run, or the data is missing or unusable.
        UsageError: The recipe has another task or other classes.
        BandError: The data lacks a band that the model takes.
        BundleError: The run's weights are damaged.
        OutputError: The results cannot be written.
    """
    trained = find_trained(given, root, progress)
    _refuse_without_confusion(trained)
    _refuse_precision(trained, precision)
    data_recipe = _data_recipe(trained, recipe, overrides or {}, progress)
    products = _products(trained.run, data_recipe.name if recipe else None, split, output)
    prepare(products.folder)
    spec = _spec(data_recipe, trained.kind, batch_size, precision)
    with (
        library_messages_to(trained.run.log if output is None else Path(os.devnull)),
        track(
            root,
            command="evaluate",
            name=trained.recipe.name,
            recipe=trained.recipe.name,
            progress=progress,
        ) as meter,
    ):
        data = build_datamodule(data_recipe, data_root, spec=spec, progress=progress)
        loader = _loader(data, split)
        models = [load_trained(trained, progress)]
        if precision == "bf16":
            models.append(load_model(trained.run.model, precision).module)
        counted = _count(models, loader, data_recipe, spec, progress)
    own = trained.recipe.class_names
    order = [data_recipe.class_names.index(name) for name in own]
    found = [Confusion.of(own, [counts[index] for index in order]) for counts in counted.counts]
    return conclude(
        found[-1],
        title=f"{trained.recipe.name} ({trained.run.path.name}) on {data_recipe.name}, {split}",
        subject=trained.run.path,
        reference=data_recipe.name,
        split=split,
        task=trained.recipe.task,
        products=products,
        colours=class_colours(trained.recipe.classes),
        cost=meter.cost,
        change=_change(*found, trained.recipe.task, counted) if precision == "bf16" else None,
    )


def _refuse_without_confusion(trained: Trained) -> None:
    """Refuse tasks in which one class is not taken for another."""
    if trained.recipe.task in ("multilabel", "regression"):
        raise UsageError(
            f"{trained.run.path} does {trained.recipe.task}; evaluate counts which class is taken "
            "for which, and here none is.",
            hint=f"The scores on its test split are in {trained.run.summary}.",
        )


def _refuse_precision(trained: Trained, precision: Precision | None) -> None:
    """Refuse a precision where there is no fitted model that could compute in it."""
    if precision is not None and trained.kind != "fit":
        raise UsageError(
            f"{trained.run.path} is a specialist; --precision is for fitted models.",
            hint="Leave --precision out, or name the run of a fit.",
        )


def _products(run: RunDir, other: str | None, split: Split, output: Path | None) -> Products:
    """The plain names are those of the run's own test split."""
    parts = [part for part in (other, None if split == "test" else split) if part]
    return Products(output or run.path, after="".join(f"-{part}" for part in parts))


# ------------------------------------------------------------------------------ which data


def _data_recipe(
    trained: Trained, other: str | None, overrides: Mapping[str, Any], progress: Progress
) -> Recipe:
    """The recipe of the data to measure on, with the model's own bands and statistics."""
    _refuse_fixed(trained, overrides)
    recipe = load_recipe(other or str(run_recipe_file(trained.run)), overrides)
    if other is not None:
        progress.say(f"data: {recipe.name}, {recipe.title}; standardised as the model's own was")
    own = trained.recipe
    _refuse_other_classes(own, recipe)
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


@dataclass(frozen=True)
class _Counted:
    """What models say of the same data."""

    counts: list[list[list[int]]]
    """Per model its confusion matrix: rows are the recipe's classes, columns the model's."""
    changed: int
    """Pixels or samples with a label that the last model gives another class than the first."""


@torch.inference_mode()
def _count(
    models: Sequence[nn.Module],
    loader: TileLoader,
    recipe: Recipe,
    spec: TrainingSpec,
    progress: Progress,
) -> _Counted:
    device = best_device()
    progress.say(f"device: {describe_device(device)}")
    if len(models) > 1 and not has_bf16(device):
        progress.warn("this machine has no instructions for bf16: it imitates them, slowly")
    models = [model.to(device).eval() for model in models]
    ignored = recipe.ignore_index if recipe.has_masks else None
    matrix = partial(MulticlassConfusionMatrix, len(recipe.classes), ignore_index=ignored)
    matrices, changed = [matrix().to(device) for _ in models], 0
    label = "mask" if recipe.has_masks else "label"
    half = _HALF.get(spec.precision)  # as the run's own test was computed
    precision = torch.autocast(device.type, half) if half else nullcontext()
    with progress.step(f"evaluate {recipe.name}", len(loader)) as step, memory_errors(), precision:
        for batch in loader:
            x, true = batch["image"].to(device), batch[label].to(device)
            found = [_classes(model, x) for model in models]
            for one, counts in zip(found, matrices, strict=True):
                counts.update(one, true)
            changed += int(((found[0] != found[-1]) & (true != ignored)).sum())
            step.advance()
    counts = [matrix.compute() for matrix in matrices]
    if not counts[0].any():
        raise DataError(
            f"No {'pixel' if label == 'mask' else 'sample'} of this split has a label.",
            hint="Are the recipe's 'ignore' values right?",
        )
    return _Counted([matrix.tolist() for matrix in counts], changed)


def _classes(model: nn.Module, x: Tensor) -> Tensor:
    logits = model(x)
    _refuse_no_numbers(logits)
    return logits.argmax(dim=1)


def _change(precise: Confusion, found: Confusion, task: Task, counted: _Counted) -> PrecisionChange:
    ours, theirs = found.metrics(task), precise.metrics(task)
    metric = next(name for name in MAIN_METRICS if name in ours)
    share = counted.changed / found.total
    return PrecisionChange("bf16", metric, theirs[metric], ours[metric], share)


def _refuse_no_numbers(logits: torch.Tensor) -> None:
    if not logits.isfinite().all():
        raise BundleError(
            "The model gives scores that are no numbers.",
            hint="Its weights are damaged or its training diverged: train again, with a lower "
            "--lr.",
        )
