"""A scene becomes maps: windows in, scores blended, finished rows out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import rasterio
from numpy.typing import NDArray

from eosfm_cli.progress import Step
from eosfm_cli.raster.layers import NODATA
from eosfm_cli.raster.mosaic import Block, Mosaic, ScoredTile
from eosfm_cli.raster.pair import ScenePair
from eosfm_cli.raster.products import Product, labels_of, values_of
from eosfm_cli.raster.scene import Pixels, Scene
from eosfm_cli.raster.scoring import Scorer
from eosfm_cli.raster.spool import Spool
from eosfm_cli.raster.windows import WindowPlan, pad
from eosfm_cli.recipe import ClassSpec, TargetSpec
from eosfm_cli.tiling import Tile

_MOST_AT_ONCE = 64
"""Windows that are looked at for one batch, most of which may have no data."""


class Tally(Protocol):
    """What is counted while a scene is mapped."""

    def add(self, block: Block) -> None:
        """Take finished pixels into account."""

    @property
    def state(self) -> dict[str, Any]:
        """All that was counted, to go on from."""


# --------------------------------------------------------------------------- tallies


@dataclass
class ClassTally:
    """How many pixels went to which class."""

    classes: Sequence[ClassSpec]
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, np.int64))
    """By value in the map."""

    @classmethod
    def of(cls, classes: Sequence[ClassSpec], state: Mapping[str, Any]) -> ClassTally:
        """Go on from what was counted before."""
        counts = np.zeros(256, np.int64)
        for value, count in state.items():
            counts[int(value)] = count
        return cls(classes, counts)

    def add(self, block: Block) -> None:
        """Count finished pixels."""
        self.counts += np.bincount(labels_of(block, len(self.classes)).ravel(), minlength=256)

    @property
    def state(self) -> dict[str, Any]:
        """Value -> count of those that there are."""
        return {str(value): int(self.counts[value]) for value in np.flatnonzero(self.counts)}

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

    target: TargetSpec
    count: int = 0
    pixels: int = 0
    """With those that have no value."""
    total: float = 0.0
    min: float = math.nan
    max: float = math.nan

    @classmethod
    def of(cls, target: TargetSpec, state: Mapping[str, Any]) -> ValueTally:
        """Go on from what was counted before."""
        return cls(target, **state)

    def add(self, block: Block) -> None:
        """Take finished pixels into account."""
        self.pixels += block.valid.size
        known = values_of(block, self.target)[block.valid]
        if known.size:
            self.count += known.size
            self.total += float(known.sum(dtype=np.float64))
            self.min = float(np.fmin(self.min, known.min()))
            self.max = float(np.fmax(self.max, known.max()))

    @property
    def state(self) -> dict[str, Any]:
        """All that was counted."""
        return {key: getattr(self, key) for key in ("count", "pixels", "total", "min", "max")}

    @property
    def mean(self) -> float:
        """Over the pixels that have a value."""
        return self.total / self.count if self.count else math.nan

    @property
    def nodata_share(self) -> float:
        """Share of all pixels that have no value."""
        return 1 - self.count / max(self.pixels, 1)


# --------------------------------------------------------------------------- the stream


def map_scene(
    scene: Scene | ScenePair,
    plan: WindowPlan,
    scorer: Scorer,
    spool: Spool,
    products: Sequence[Product],
    tally: Tally,
    depth: int,
    step: Step,
) -> None:
    """Map a scene in memory that does not grow with it, from where the spool has got to.

    The next windows are read and the last ones written while a batch is computed.

    Args:
        scene: What to map.
        plan: Its windows.
        scorer: The model.
        spool: Takes finished rows.
        products: The maps to make.
        tally: Counts.
        depth: How many scores the model gives for a pixel.
        step: Told of finished windows.

    Raises:
        RasterError: The scene is damaged somewhere.
        OutOfMemoryError: Not even a single window fits.
        OutputError: The disk is full.
    """
    mosaic = Mosaic(plan, depth, spool.carry)
    step.advance(spool.row * len(plan.cols))
    tiles = plan.starting_at(spool.row)

    def read() -> list[tuple[Tile, Pixels]]:
        with rasterio.Env():  # belongs to a thread
            return _read_batch(scene, tiles, scorer.batch_size)

    def write(batch: Sequence[ScoredTile]) -> None:
        for item in batch:
            _finish(mosaic.add(item), plan, spool, products, tally)

    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        coming: Future[list[tuple[Tile, Pixels]]] = reader.submit(read)
        written: Future[None] | None = None
        while batch := coming.result():
            coming = reader.submit(read)
            scored = _scored(batch, plan, scorer)
            if written is not None:
                written.result()
            written = writer.submit(write, scored)
            step.advance(len(batch))
        if written is not None:
            written.result()


def _read_batch(
    scene: Scene | ScenePair, tiles: Iterator[Tile], count: int
) -> list[tuple[Tile, Pixels]]:
    """The next windows, until there are enough with data."""
    found: list[tuple[Tile, Pixels]] = []
    with_data = 0
    for tile in itertools.islice(tiles, _MOST_AT_ONCE):
        pixels = scene.read(tile)
        has_data = bool(pixels.valid.any())
        found.append((tile, pixels if has_data else Pixels.nothing(pixels.valid)))
        with_data += has_data
        if with_data == count:
            break
    return found


def _scored(
    batch: Sequence[tuple[Tile, Pixels]], plan: WindowPlan, scorer: Scorer
) -> list[ScoredTile]:
    """Scores of windows; those without data are passed by."""
    full = [pad(pixels.values, *plan.padded) for _, pixels in batch if pixels.valid.any()]
    scores = iter(scorer.score(full))
    return [
        ScoredTile(
            tile,
            next(scores)[:, : tile.height, : tile.width] if pixels.valid.any() else None,
            pixels.valid,
        )
        for tile, pixels in batch
    ]


def _finish(
    block: Block, plan: WindowPlan, spool: Spool, products: Sequence[Product], tally: Tally
) -> None:
    for product in products:
        spool.add(product.name, block.tile, product.values(block))
    tally.add(block)
    if block.tile.col + block.tile.width == plan.width:
        spool.finish_row(tally.state)
