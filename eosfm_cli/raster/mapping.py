"""A scene becomes a map: windows in, scores blended, finished rows out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from eosfm_cli.progress import Step
from eosfm_cli.raster.geotiff import NO_VALUE, NODATA, MapWriter
from eosfm_cli.raster.mosaic import ScoredTile, Strip, blend
from eosfm_cli.raster.pair import ScenePair
from eosfm_cli.raster.scene import Scene
from eosfm_cli.raster.scoring import Scorer
from eosfm_cli.raster.windows import WindowPlan, pad
from eosfm_cli.recipe import ClassSpec, TargetSpec


@dataclass(frozen=True)
class Tally:
    """How many pixels went to which class."""

    classes: Sequence[ClassSpec]
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, np.int64))
    """By value in the map."""

    def add(self, labels: NDArray[np.uint8]) -> None:
        """Count some rows of the map."""
        self.counts[:] += np.bincount(labels.ravel(), minlength=256)

    @property
    def shares(self) -> dict[str, float]:
        """Class -> share of the mapped pixels."""
        mapped = max(int(self.counts[:NODATA].sum()), 1)
        return {spec.name: float(self.counts[i]) / mapped for i, spec in enumerate(self.classes)}

    @property
    def nodata_share(self) -> float:
        """Share of all pixels that have no value."""
        return float(self.counts[NODATA] / max(int(self.counts.sum()), 1))


@dataclass
class ValueTally:
    """What values the pixels of a map have."""

    count: int = 0
    pixels: int = 0
    """With those that have no value."""
    total: float = 0.0
    min: float = math.nan
    max: float = math.nan

    def add(self, values: NDArray[np.float32], valid: NDArray[np.bool_]) -> None:
        """Take some rows of the map into account."""
        self.pixels += valid.size
        known = values[valid]
        if known.size:
            self.count += known.size
            self.total += float(known.sum(dtype=np.float64))
            self.min = float(np.fmin(self.min, known.min()))
            self.max = float(np.fmax(self.max, known.max()))

    @property
    def mean(self) -> float:
        """Over the pixels that have a value."""
        return self.total / self.count if self.count else math.nan

    @property
    def nodata_share(self) -> float:
        """Share of all pixels that have no value."""
        return 1 - self.count / max(self.pixels, 1)


def map_scene(
    scene: Scene | ScenePair,
    plan: WindowPlan,
    classes: Sequence[ClassSpec],
    scorer: Scorer,
    writer: MapWriter,
    step: Step,
) -> Tally:
    """Map a scene in memory that does not grow with its height.

    Raises:
        RasterError: The scene is damaged somewhere.
        OutOfMemoryError: Not even a single window fits.
    """
    tally = Tally(classes)
    for strip in blend(_scored(scene, plan, scorer, step), plan, len(classes)):
        labels = _labels(strip)
        writer.write(labels)
        tally.add(labels)
    return tally


def map_values(
    scene: Scene,
    plan: WindowPlan,
    target: TargetSpec,
    scorer: Scorer,
    writer: MapWriter,
    step: Step,
) -> ValueTally:
    """Map a scene's values, in memory that does not grow with its height.

    Values beyond what the target can have are the nearest that it can.

    Raises:
        RasterError: The scene is damaged somewhere.
        OutOfMemoryError: Not even a single window fits.
    """
    low = -np.inf if target.min is None else target.min
    high = np.inf if target.max is None else target.max
    tally = ValueTally()
    for strip in blend(_scored(scene, plan, scorer, step), plan, 1):
        values = np.clip(strip.scores[0], low, high)
        writer.write(np.where(strip.valid, values, np.float32(NO_VALUE)))
        tally.add(values, strip.valid)
    return tally


def _scored(
    scene: Scene | ScenePair, plan: WindowPlan, scorer: Scorer, step: Step
) -> Iterator[ScoredTile]:
    """The windows of the plan in order, scored by batches; those without data are passed by."""
    tiles = iter(plan)
    while batch := list(itertools.islice(tiles, scorer.batch_size)):
        read = [scene.read(tile) for tile in batch]
        full = [pad(pixels.values, *plan.padded) for pixels in read if pixels.valid.any()]
        scores = iter(scorer.score(full))
        for tile, pixels in zip(batch, read, strict=True):
            found = next(scores)[:, : tile.height, : tile.width] if pixels.valid.any() else None
            yield ScoredTile(tile, found, pixels.valid)
            step.advance()


def _labels(strip: Strip) -> NDArray[np.uint8]:
    best = strip.scores.argmax(axis=0).astype(np.uint8)
    return np.where(strip.valid, best, np.uint8(NODATA))
