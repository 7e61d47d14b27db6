"""What models say of a split, set against what is so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchmetrics.classification import (
    MulticlassConfusionMatrix,
    MultilabelAveragePrecision,
    MultilabelStatScores,
)

from eosfm_cli.confusion import Confusion
from eosfm_cli.data.datamodule import TileLoader
from eosfm_cli.data.label_reader import NO_VALUE
from eosfm_cli.errors import BundleError, DataError
from eosfm_cli.progress import Progress
from eosfm_cli.raster.residuals import Residuals
from eosfm_cli.raster.scoring import best_device, describe_device, has_bf16
from eosfm_cli.recipe import Recipe, TrainingSpec
from eosfm_cli.results import LabelScore
from eosfm_cli.training.task import answers, metrics_on_test, truths
from eosfm_cli.training.trainer import memory_errors

_HALF = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}
_LIKELY = 0.5
"""The probability above which a label is said to be there, as TerraTorch has it."""

_OF_ONE_LABEL = "Class_"
"""How TerraTorch's names of the scores of single labels begin."""


class ClassTally:
    """Which class is taken for which.

    Args:
        recipe: Of the data.
        names: The model's classes, in its order.
    """

    def __init__(self, recipe: Recipe, names: Sequence[str]) -> None:
        self._recipe, self._names = recipe, names
        ignored = recipe.ignore_index if recipe.has_masks else None
        self._matrix = MulticlassConfusionMatrix(len(names), ignore_index=ignored)

    def to(self, device: torch.device) -> ClassTally:
        """Count there."""
        self._matrix = self._matrix.to(device)
        return self

    def update(self, said: Tensor, true: Tensor) -> None:
        """Add the classes of a batch."""
        self._matrix.update(said, true)

    @property
    def confusion(self) -> Confusion:
        """Its rows are the recipe's classes; both are in the model's order."""
        counts = self._matrix.compute().tolist()
        rows = [counts[self._recipe.class_names.index(name)] for name in self._names]
        return Confusion.of(self._names, rows)

    @property
    def metrics(self) -> dict[str, float]:
        """The scores over all classes."""
        return self.confusion.metrics(self._recipe.task)


class LabelTally:
    """How well each of several labels is found.

    Args:
        recipe: Of the data.
        names: The model's labels, in its order.
    """

    def __init__(self, recipe: Recipe, names: Sequence[str]) -> None:
        self._names = names
        self._order = [recipe.class_names.index(name) for name in names]
        self._all = metrics_on_test(recipe)
        self._ap = MultilabelAveragePrecision(len(names), average=None)
        self._hits = MultilabelStatScores(len(names), average=None)
        self.samples = 0

    def to(self, device: torch.device) -> LabelTally:
        """Count there."""
        for metric in (self._all, self._ap, self._hits):
            metric.to(device)
        return self

    def update(self, said: Tensor, true: Tensor) -> None:
        """Add the probabilities of a batch."""
        true = true[:, self._order]
        self.samples += len(true)
        for metric in (self._all, self._ap, self._hits):
            metric.update(said, true)

    @property
    def scores(self) -> tuple[LabelScore, ...]:
        """Of each label."""
        counts = self._hits.compute().tolist()
        return tuple(
            _label_score(name, ap, *(int(count) for count in row))
            for name, ap, row in zip(self._names, self._ap.compute().tolist(), counts, strict=True)
        )

    @property
    def metrics(self) -> dict[str, float]:
        """The scores over all labels, as the task has them."""
        found = _numbers(self._all.compute())
        return {name: value for name, value in found.items() if not name.startswith(_OF_ONE_LABEL)}


def _label_score(
    name: str, ap: float, hits: int, false: int, _: int, missed: int, shown: int
) -> LabelScore:
    return LabelScore(
        name=name,
        ap=ap if shown else None,
        f1=_ratio(2 * hits, 2 * hits + false + missed),
        precision=_ratio(hits, hits + false),
        recall=_ratio(hits, shown),
        reference=shown,
        predicted=hits + false,
    )


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


class ValueTally:
    """How far values are off.

    Args:
        recipe: Of the data.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._all = metrics_on_test(recipe)
        self.residuals = Residuals()

    def to(self, device: torch.device) -> ValueTally:
        """Count there."""
        self._all.to(device)
        return self

    def update(self, said: Tensor, true: Tensor) -> None:
        """Add the values of a batch."""
        self._all.update(said, true)
        known = true != NO_VALUE
        self.residuals.add(said[known].cpu().numpy(), true[known].cpu().numpy())

    @property
    def metrics(self) -> dict[str, float]:
        """The scores, as the task has them, and the bias."""
        return {**_numbers(self._all.compute()), "Bias": self.residuals.bias}


Tally = ClassTally | LabelTally | ValueTally


def _numbers(metrics: Mapping[str, Tensor]) -> dict[str, float]:
    return {name.removeprefix("test/"): float(value) for name, value in metrics.items()}


@dataclass(frozen=True)
class Measured:
    """What models say of the same data."""

    tallies: tuple[Tally, ...]
    """One for each model."""
    change: float
    """Of all that is known the share that the last model tells otherwise than the first; of values
    their mean difference."""


@torch.inference_mode()
def measure(
    models: Sequence[nn.Module],
    loader: TileLoader,
    recipe: Recipe,
    names: Sequence[str],
    spec: TrainingSpec,
    progress: Progress,
) -> Measured:
    """Have models answer to all of a split.

    Args:
        models: From standardised tiles to logits or values, all of the same classes.
        loader: The split.
        recipe: Of the data.
        names: The models' classes, in their order.
        spec: How the run's own test was computed.
        progress: Told of the device, and of the batches.

    Raises:
        DataError: Nothing of the split has a label.
        BundleError: A model gives no numbers.
        OutOfMemoryError: A batch does not fit into memory.
    """
    device = best_device()
    progress.say(f"device: {describe_device(device)}")
    if len(models) > 1 and not has_bf16(device):
        progress.warn("this machine has no instructions for bf16: it imitates them, slowly")
    models = [model.to(device).eval() for model in models]
    tallies = tuple(_tally(recipe, names).to(device) for _ in models)
    known, changed = 0, 0.0
    half = _HALF.get(spec.precision)  # as the run's own test was computed
    precision = torch.autocast(device.type, half) if half else nullcontext()
    with progress.step(f"evaluate {recipe.name}", len(loader)) as step, memory_errors(), precision:
        for batch in loader:
            x, true = batch["image"].to(device), truths(recipe.task, batch).to(device)
            found = [_answers(model, x, recipe) for model in models]
            for said, tally in zip(found, tallies, strict=True):
                tally.update(said, true)
            there = _known(recipe, true)
            known += int(there.sum())
            changed += float(_change(recipe, found[0], found[-1])[there].sum())
            step.advance()
    if not known:
        raise _nothing_known(recipe)
    return Measured(tallies, changed / known)


def _tally(recipe: Recipe, names: Sequence[str]) -> Tally:
    if recipe.task == "regression":
        return ValueTally(recipe)
    return (LabelTally if recipe.task == "multilabel" else ClassTally)(recipe, names)


def _known(recipe: Recipe, true: Tensor) -> Tensor:
    """Where there is a label."""
    if not recipe.has_masks:
        return torch.ones_like(true, dtype=torch.bool)
    return true != (NO_VALUE if recipe.task == "regression" else recipe.ignore_index)


def _change(recipe: Recipe, one: Tensor, other: Tensor) -> Tensor:
    """How far two answers are apart."""
    if recipe.task == "regression":
        return (one - other).abs()
    return (one > _LIKELY) != (other > _LIKELY) if recipe.task == "multilabel" else one != other


def _answers(model: nn.Module, x: Tensor, recipe: Recipe) -> Tensor:
    output = model(x)
    if not output.isfinite().all():
        raise BundleError(
            "The model gives scores that are no numbers.",
            hint="Its weights are damaged or its training diverged: train again, with a lower "
            "--lr.",
        )
    return answers(recipe.task, output)


def _nothing_known(recipe: Recipe) -> DataError:
    what = "value" if recipe.task == "regression" else "label"
    return DataError(
        f"No {'pixel' if recipe.has_masks else 'sample'} of this split has a {what}.",
        hint="Are the recipe's 'ignore' values right?",
    )
