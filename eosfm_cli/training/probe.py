"""A linear probe: what frozen specialists' features tell of a task, in closed form.

Ridge regression from features to labels needs no training: sums over the training tiles are enough
to solve it, for all strengths of the penalty and on parts of the tiles too.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d, interpolate, one_hot
from torchmetrics.functional.classification import multilabel_average_precision

from eosfm_cli.bands import Plan
from eosfm_cli.data.datamodule import TileDataModule
from eosfm_cli.data.label_reader import NO_VALUE
from eosfm_cli.ensemble.encoder import EnsembleEncoder
from eosfm_cli.ensemble.specialist import Specialist, parameter_count
from eosfm_cli.manifest import EncoderInfo
from eosfm_cli.progress import Progress
from eosfm_cli.recipe import CLASS_MAP_TASKS, Recipe, Task
from eosfm_cli.results import ProbeScore, lower_is_better
from eosfm_cli.training.task import METRICS
from eosfm_cli.training.trainer import memory_errors

SAMPLES = 500
"""Tiles of a split that a probe looks at, unless told otherwise."""
_LARGE_TILE = 128
_PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)
"""Of which the one that predicts training tiles best from others is taken."""
_FOLDS = 3
_REDRAWS = 200


def probe(
    specialists: Sequence[Specialist],
    plan: Plan,
    data: TileDataModule,
    *,
    samples: int,
    seed: int,
    device: torch.device,
    progress: Progress,
) -> tuple[ProbeScore, ...]:
    """Score every specialist that the plan feeds by how well a linear map of its features does.

    Maps are told apart in cells, see `cell_size`; a cell is all of one class, or of one value.

    Args:
        specialists: With their weights.
        plan: What each of them sees of the recipe's bands.
        data: The probe is fitted on training tiles and scored on validation tiles, never on test.
        samples: At most so many tiles of either split.
        seed: Of the draw of tiles, and of the redraws behind the interval.
        device: Where to compute the features.
        progress: Who is told.

    Returns:
        The best first, by the task's own metric, with a 95 % interval over validation tiles.

    Raises:
        OutOfMemoryError: The batches do not fit into memory.
        DataError: A file is damaged.
    """
    recipe, views = data.recipe, {row.specialist: row.views for row in plan.usable}
    probes = [
        _Probe(_encoder(one, recipe, views[one.info.name], device), recipe)
        for one in specialists
        if one.info.name in views
    ]
    train = data.some_tiles("train", samples, seed=seed)
    val = data.some_tiles("val", samples, seed=seed)
    tiles = min(samples, data.tile_counts["train"])
    with progress.step(f"probe {recipe.name}", len(train) + len(val)) as step, memory_errors():
        done = 0
        for batch in train:
            folds = torch.arange(done, done + len(batch["image"])) * _FOLDS // tiles
            for one in probes:
                one.learn(batch, folds)
            done += len(batch["image"])
            step.advance()
        for batch in val:
            for one in probes:
                one.judge(batch)
            step.advance()
    scores = [one.score(seed) for one in probes]
    worst_first = lower_is_better(METRICS[recipe.task])
    return tuple(sorted(scores, key=lambda row: row.score, reverse=not worst_first))


def cell_size(recipe: Recipe) -> int:
    """Edge in pixels of the cells in which a probe sees maps: finer ones where tiles are small."""
    return 8 if recipe.tile.size <= _LARGE_TILE else 16


def _encoder(
    one: Specialist, recipe: Recipe, views: Sequence[object], device: torch.device
) -> EnsembleEncoder:
    """A specialist alone, on the views that it has of the bands."""
    options = EncoderInfo(views={one.info.name: tuple(views)}, normalize="none")
    encoder = EnsembleEncoder.with_weights([one], recipe.bands, options)
    return encoder.to(device).eval()


class _Probe:
    """One specialist's features, and what they tell."""

    def __init__(self, encoder: EnsembleEncoder, recipe: Recipe) -> None:
        self.encoder, self.recipe = encoder, recipe
        self.device = next(encoder.parameters()).device
        self.folds: dict[int, _Sums] = {}
        self.outcomes: list[Tensor] = []
        self.solution: Tensor | None = None
        self.seconds = 0.0

    @torch.inference_mode()
    def learn(self, batch: Mapping[str, Tensor], folds: Tensor) -> None:
        """Add a batch of training tiles, each to its part of the split."""
        began = time.perf_counter()
        features, targets = self._features(batch["image"]), _targets(batch, self.recipe)
        for fold in folds.unique().tolist():
            known = targets.known[folds == fold]
            x, y = features[folds == fold][known], targets.values[folds == fold][known]
            sums = _Sums.of(x, y)
            self.folds[fold] = self.folds[fold] + sums if fold in self.folds else sums
        self.seconds += time.perf_counter() - began

    @torch.inference_mode()
    def judge(self, batch: Mapping[str, Tensor]) -> None:
        """Add what the probe makes of a batch of validation tiles."""
        began = time.perf_counter()
        if self.solution is None:
            self.solution = solve(list(self.folds.values()))
        said = _with_one(self._features(batch["image"])) @ self.solution
        self.outcomes.append(_outcomes(self.recipe.task, said, _targets(batch, self.recipe)))
        self.seconds += time.perf_counter() - began

    def score(self, seed: int) -> ProbeScore:
        """The score over all validation tiles, and how far it moves if tiles are drawn anew."""
        outcomes = torch.cat(self.outcomes)
        generator = torch.Generator().manual_seed(seed)
        redraws = torch.randint(len(outcomes), (_REDRAWS, len(outcomes)), generator=generator)
        drawn = torch.tensor([_score(self.recipe.task, outcomes[some]) for some in redraws])
        low, high = drawn.nanquantile(torch.tensor([0.025, 0.975])).tolist()
        return ProbeScore(
            specialist=self.encoder.names[0],
            score=_score(self.recipe.task, outcomes),
            low=low,
            high=high,
            seconds=self.seconds,
            parameters=parameter_count(self.encoder.backbones),
        )

    def _features(self, image: Tensor) -> Tensor:
        """Features `(tiles, cells, channels)` float64; a tile of one label is a single cell."""
        x = image.to(self.device)
        dates = x.unbind(2) if x.ndim == 5 else (x,)
        pooled = [self._pooled(date) for date in dates]
        if len(pooled) == 1:
            return pooled[0]
        if self.recipe.pooling == "diff":
            return pooled[1] - pooled[0]
        return torch.cat(pooled, dim=2)

    def _pooled(self, x: Tensor) -> Tensor:
        cell = cell_size(self.recipe)
        cells = (x.shape[2] // cell, x.shape[3] // cell) if self.recipe.has_masks else (1, 1)
        levels = [level for view in self.encoder.extract(x) for level in view or ()]
        pooled = torch.cat([_to_cells(level, cells) for level in levels], dim=1)
        return pooled.flatten(2).transpose(1, 2).double().cpu()


def _to_cells(level: Tensor, cells: tuple[int, int]) -> Tensor:
    if level.shape[2] < cells[0]:
        return interpolate(level, size=cells, mode="bilinear", align_corners=False)
    return adaptive_avg_pool2d(level, cells)


# --------------------------------------------------------------------------- ridge regression


def _with_one(x: Tensor) -> Tensor:
    """Features with a first one that is always 1."""
    return torch.cat([torch.ones_like(x[..., :1]), x], dim=-1)


@dataclass(frozen=True)
class _Sums:
    """All that least squares need of features `(n, d)` and targets `(n, c)`."""

    xx: Tensor
    """`(1 + d, 1 + d)`, of features with a one before them; its first entry is `n`."""
    xy: Tensor
    yy: Tensor

    @classmethod
    def of(cls, x: Tensor, y: Tensor) -> _Sums:
        """The sums over rows."""
        x = _with_one(x)
        return cls(x.T @ x, x.T @ y, (y * y).sum())

    def __add__(self, other: _Sums) -> _Sums:
        return _Sums(self.xx + other.xx, self.xy + other.xy, self.yy + other.yy)

    def __sub__(self, other: _Sums) -> _Sums:
        return _Sums(self.xx - other.xx, self.xy - other.xy, self.yy - other.yy)

    def error(self, solution: Tensor) -> float:
        """Squared error of a solution over these rows."""
        fitted = (solution * (self.xx @ solution)).sum() - 2 * (solution * self.xy).sum()
        return float(self.yy + fitted)


def solve(folds: Sequence[_Sums]) -> Tensor:
    """The linear map `(1 + d, c)` from features with a one before them to targets.

    Args:
        folds: Sums over parts of the rows; they choose the penalty, each predicted from the rest.
    """
    total = sum(folds[1:], folds[0])
    parts = [fold for fold in folds if 0 < fold.xx[0, 0] < total.xx[0, 0]]
    errors = {
        penalty: sum(part.error(_ridge(total - part, penalty)) for part in parts)
        for penalty in _PENALTIES
    }
    return _ridge(total, min(errors, key=errors.__getitem__))


def _ridge(sums: _Sums, penalty: float) -> Tensor:
    """Ridge regression on standardised features; the mean target is not drawn to zero."""
    count = sums.xx[0, 0]
    mean, target = sums.xx[0, 1:] / count, sums.xy[:1] / count
    covariance = sums.xx[1:, 1:] / count - mean[:, None] * mean
    variance = covariance.diagonal()
    varies = variance > 1e-9 * (mean**2 + 1e-12)
    scale = torch.where(varies, variance.clamp_min(1e-300).rsqrt(), 0)
    system = scale[:, None] * covariance * scale + penalty * torch.eye(len(mean)).to(mean)
    shared = sums.xy[1:] / count - mean[:, None] * target
    slopes = scale[:, None] * torch.linalg.solve(system, scale[:, None] * shared)
    return torch.cat([target - mean[None] @ slopes, slopes])


# --------------------------------------------------------------------------- tasks


@dataclass(frozen=True)
class _Targets:
    """What is so, per tile and cell."""

    values: Tensor
    """`(tiles, cells, c)` float64: shares of the classes, labels as 0 and 1, or mean values."""
    weights: Tensor
    """`(tiles, cells)` float64: in how many pixels, or samples."""
    squares: Tensor | None = field(default=None)
    """`(tiles, cells)`: of values in pixels, the mean of their squares."""

    @property
    def known(self) -> Tensor:
        """Cells that have a label at all."""
        return self.weights > 0


def _targets(batch: Mapping[str, Tensor], recipe: Recipe) -> _Targets:
    if recipe.task in CLASS_MAP_TASKS:
        mask = batch["mask"]
        labelled = mask != recipe.ignore_index
        classes = one_hot(mask.where(labelled, 0), len(recipe.classes)).movedim(-1, 1)
        return _cells(classes * labelled[:, None], labelled, cell_size(recipe))
    if recipe.task == "regression":
        mask, labelled = batch["mask"], batch["mask"] != NO_VALUE
        values = mask.where(labelled, 0).double()[:, None]
        found = _cells(values, labelled, cell_size(recipe))
        squares = _cells(values**2, labelled, cell_size(recipe)).values[..., 0]
        return _Targets(found.values, found.weights, squares)
    label = batch["label"]
    values = label if recipe.task == "multilabel" else one_hot(label, len(recipe.classes))
    return _Targets(values.double()[:, None], torch.ones(len(label), 1, dtype=torch.float64))


def _cells(pixels: Tensor, labelled: Tensor, size: int) -> _Targets:
    """Means over the labelled pixels of each cell, from `(b, c, h, w)` and `(b, h, w)`."""
    sums = avg_pool2d(pixels.double(), size).flatten(2).transpose(1, 2)
    share = avg_pool2d(labelled.double()[:, None], size).flatten(1)
    return _Targets(sums / share.clamp_min(1e-12)[..., None], share * size**2)


def _outcomes(task: Task, said: Tensor, targets: _Targets) -> Tensor:
    """Per tile what the score is made of; scores of several tiles come from these alone."""
    if task == "multilabel":
        return torch.stack([said[:, 0], targets.values[:, 0]], dim=1)
    if task == "regression":
        said, mean = said[..., 0], targets.values[..., 0]
        errors = (said**2 - 2 * said * mean + targets.squares) * targets.weights
        return torch.stack([errors.sum(1), targets.weights.sum(1)], dim=1)
    chosen = one_hot(said.argmax(-1), said.shape[-1]).double()
    return (targets.values * targets.weights[..., None]).transpose(1, 2) @ chosen


def _score(task: Task, outcomes: Tensor) -> float:
    if task == "multilabel":
        said, labels = outcomes.unbind(1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of labels that none of these samples has
            found = multilabel_average_precision(
                said.sigmoid(), labels.long(), num_labels=labels.shape[1]
            )
        return float(found)
    total = outcomes.sum(0)
    if task == "regression":
        return float((total[0] / total[1]).clamp_min(0).sqrt())
    right, truth, answers = total.diagonal(), total.sum(1), total.sum(0)
    of = truth if task == "classification" else truth + answers - right
    return float((right / of)[of > 0].mean())
