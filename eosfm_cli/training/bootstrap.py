"""Scores of several variants of a model, and how far they depend on which samples were measured.

Every tile adds what its task's metric is made of, once as it is and once per bootstrap replicate,
weighted by how often the replicate draws its image. So no image has to be run twice, and nothing
but the sums is kept. Only a metric of rankings, mAP, keeps the model's answers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eosfm_cli.data.label_reader import NO_VALUE
from eosfm_cli.recipe import Recipe

Floats = NDArray[np.float64]
_CHUNK = 2_000_000
"""Values in memory at a time where rankings are resampled."""


def draw_weights(samples: int, replicates: int, seed: int) -> NDArray[np.uint16]:
    """How often each sample counts, `(1 + replicates, samples)`.

    The first row counts each sample once; each further one draws as many, with replacement.
    """
    rng = np.random.default_rng(seed)
    weights = np.ones((1 + replicates, samples), np.uint16)
    for row in weights[1:]:
        row[:] = np.bincount(rng.integers(samples, size=samples), minlength=samples)
    return weights


class Tally(Protocol):
    """Collects what a metric is made of, for each variant of a model."""

    def update(
        self, variants: Sequence[Hashable], answers: Tensor, truths: Tensor, samples: Sequence[int]
    ) -> None:
        """Add a batch.

        Args:
            variants: What answered.
            answers: Theirs, `(variants, tiles, …)`.
            truths: `(tiles, …)`
            samples: Which one each tile is of.
        """

    def scores(self) -> dict[Hashable, Floats]:
        """Per variant the score, `(1 + replicates,)`; NaN where nothing can be told."""


def build_tally(recipe: Recipe, weights: NDArray[np.uint16]) -> Tally:
    """What collects the metric by which a recipe's task is judged."""
    if recipe.task == "multilabel":
        return Rankings(weights)
    if recipe.task == "regression":
        return Sums(weights, _squared_errors, _root_mean_square)
    classes = len(recipe.classes)
    ignored = recipe.ignore_index if recipe.has_masks else None
    score = _mean_recall if recipe.task == "classification" else _mean_iou
    return Sums(weights, lambda found, true: _class_counts(found, true, classes, ignored), score)


class Sums:
    """A metric of sums over tiles.

    Args:
        weights: Of the samples, `(1 + replicates, samples)`.
        statistics: What answers `(variants, tiles, …)` and truths `(tiles, …)` add,
            `(variants, tiles, k)`.
        score: The metric of `(1 + replicates, k)` sums.
    """

    def __init__(
        self,
        weights: NDArray[np.uint16],
        statistics: Callable[[Tensor, Tensor], Tensor],
        score: Callable[[Floats], Floats],
    ) -> None:
        self._weights, self._statistics, self._score = weights, statistics, score
        self._sums: dict[Hashable, Floats] = {}

    def update(
        self, variants: Sequence[Hashable], answers: Tensor, truths: Tensor, samples: Sequence[int]
    ) -> None:
        """Add a batch, whose tiles are of these samples."""
        added = self._statistics(answers, truths).cpu().numpy().astype(np.float64)
        drawn = self._weights[:, samples].astype(np.float64)
        for variant, statistics in zip(variants, added, strict=True):
            self._sums[variant] = self._sums.get(variant, 0.0) + drawn @ statistics

    def scores(self) -> dict[Hashable, Floats]:
        """Per variant the score, `(1 + replicates,)`."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return {variant: self._score(sums) for variant, sums in self._sums.items()}


def _class_counts(found: Tensor, true: Tensor, classes: int, ignored: int | None) -> Tensor:
    """Per tile: agreed, reference and predicted pixels of each class.

    Args:
        found: `(variants, tiles, …)`
        true: `(tiles, …)`
        classes: How many there are.
        ignored: What stands for no label.

    Returns:
        `(variants, tiles, 3 · classes)`
    """
    variants, tiles = found.shape[:2]
    if ignored is not None:
        true = torch.where(true == ignored, classes, true)  # a class of its own, dropped below
    pairs = true * classes + found
    shape = (variants, tiles, classes + 1, classes)
    first = torch.arange(variants * tiles, device=found.device) * (shape[2] * shape[3])
    pairs = pairs.reshape(variants * tiles, -1) + first[:, None]
    counts = torch.bincount(pairs.flatten(), minlength=math.prod(shape)).view(shape)[:, :, :classes]
    return torch.cat([counts.diagonal(dim1=2, dim2=3), counts.sum(3), counts.sum(2)], dim=2)


def _mean_iou(sums: Floats) -> Floats:
    agreed, reference, predicted = np.split(sums, 3, axis=1)
    return _mean_of_classes(agreed, reference + predicted - agreed, reference + predicted > 0)


def _mean_recall(sums: Floats) -> Floats:
    agreed, reference, predicted = np.split(sums, 3, axis=1)
    return _mean_of_classes(agreed, reference, reference + predicted > 0)


def _mean_of_classes(part: Floats, whole: Floats, there: NDArray[np.bool_]) -> Floats:
    """The mean ratio of the classes that occur; without any reference it is 0, as elsewhere."""
    ratios = np.where(whole > 0, part / whole, 0.0)
    return np.where(there, ratios, 0.0).sum(axis=1) / there.sum(axis=1)


def _squared_errors(found: Tensor, true: Tensor) -> Tensor:
    """Per tile: the squared errors' sum and how many pixels have a value.

    Args:
        found: `(variants, tiles, …)`
        true: `(tiles, …)`

    Returns:
        `(variants, tiles, 2)`
    """
    known = true != NO_VALUE
    squares = torch.where(known, (found - true) ** 2, 0)
    sums = squares.flatten(2).sum(2, dtype=torch.float64)
    return torch.stack([sums, known.flatten(1).sum(1).double().expand_as(sums)], dim=2)


def _root_mean_square(sums: Floats) -> Floats:
    return np.sqrt(sums[:, 0] / sums[:, 1])


class Rankings:
    """Mean average precision over the labels.

    Args:
        weights: Of the samples, `(1 + replicates, samples)`.
    """

    def __init__(self, weights: NDArray[np.uint16]) -> None:
        self._weights = weights
        self._answers: dict[Hashable, list[NDArray[np.float32]]] = {}
        self._truths: dict[Hashable, list[NDArray[np.bool_]]] = {}
        self._samples: dict[Hashable, list[int]] = {}

    def update(
        self, variants: Sequence[Hashable], answers: Tensor, truths: Tensor, samples: Sequence[int]
    ) -> None:
        """Add a batch, whose tiles are of these samples."""
        true = truths.bool().cpu().numpy()
        for variant, found in zip(variants, answers.float().cpu().numpy(), strict=True):
            self._answers.setdefault(variant, []).append(found)
            self._truths.setdefault(variant, []).append(true)
            self._samples.setdefault(variant, []).extend(samples)

    def scores(self) -> dict[Hashable, Floats]:
        """Per variant the score, `(1 + replicates,)`."""
        return {variant: self._score(variant) for variant in self._answers}

    def _score(self, variant: Hashable) -> Floats:
        answers = np.concatenate(self._answers[variant])
        truths = np.concatenate(self._truths[variant])
        weights = self._weights[:, self._samples[variant]]
        step = max(1, _CHUNK // len(answers))
        parts = [weights[i : i + step].astype(np.float64) for i in range(0, len(weights), step)]
        labels = [
            np.concatenate([average_precision(answers[:, i], truths[:, i], part) for part in parts])
            for i in range(answers.shape[1])
        ]
        return np.nanmean(np.stack(labels), axis=0)


def average_precision(answers: NDArray, truths: NDArray[np.bool_], weights: Floats) -> Floats:
    """The area under each replicate's curve of precision over recall, as steps.

    Args:
        answers: How likely a label is, `(n,)`.
        truths: Whether it is so, `(n,)`.
        weights: How often each counts, `(replicates, n)`.

    Returns:
        `(replicates,)`; 0 of labels that are nowhere, and NaN in replicates that miss them all.
    """
    if not truths.any():
        return np.zeros(len(weights))
    order = np.argsort(-answers, kind="stable")
    last = np.append(np.diff(answers[order]) != 0, True)  # of those that are equally likely
    drawn = weights[:, order]
    hits = np.cumsum(drawn * truths[order], axis=1)[:, last]
    called = np.cumsum(drawn, axis=1)[:, last]
    precision = np.divide(hits, called, out=np.zeros_like(hits), where=called > 0)
    steps = np.diff(hits, axis=1, prepend=0.0)
    total = hits[:, -1]
    area = (steps * precision).sum(axis=1)
    return np.divide(area, total, out=np.full_like(total, np.nan), where=total > 0)


def interval(replicates: Floats, level: float = 0.95) -> tuple[float, float] | None:
    """Where the middle of the replicates lies; `None` where fewer than two say anything."""
    known = replicates[np.isfinite(replicates)]
    if len(known) < 2:
        return None
    rest = 100 * (1 - level) / 2
    low, high = np.percentile(known, [rest, 100 - rest])
    return float(low), float(high)
