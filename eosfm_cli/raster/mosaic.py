"""Join the scores of overlapping windows into whole rows, from the top of a scene down."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eosfm_cli.raster.windows import WindowPlan, blend_weights
from eosfm_cli.tiling import Tile

_ROWS_AT_ONCE = 64


@dataclass(frozen=True)
class ScoredTile:
    """What the model says of one window."""

    tile: Tile
    scores: NDArray[np.float32] | None
    """`(depth, h, w)`; `None` where the window has no valid pixel and was not computed."""
    valid: NDArray[np.bool_]
    """`(h, w)`."""


@dataclass(frozen=True)
class Strip:
    """Finished rows of the scene, over its whole width."""

    row: int
    """The first of them."""
    scores: NDArray[np.float32]
    """`(depth, rows, width)`; 0 where nothing was computed."""
    valid: NDArray[np.bool_]
    """`(rows, width)`."""


def memory_needed(plan: WindowPlan, depth: int) -> int:
    """Bytes that `blend` holds: it grows with the scene's width, not with its height."""
    return 4 * (depth + 1) * min(plan.size, plan.height) * plan.width


def blend(scored: Iterable[ScoredTile], plan: WindowPlan, depth: int) -> Iterator[Strip]:
    """Average overlapping windows by weight and hand out each row once, in order, when finished.

    Args:
        scored: One item for each window of the plan, in its order.
        plan: Where the windows lie.
        depth: How many scores a pixel has.
    """
    band = _Band(plan, depth)
    for item in scored:
        yield from band.release(item.tile.row)
        band.add(item)
    yield from band.release(plan.height)


class _Band:
    """The rows that windows still add to: sums of weighted scores, and of the weights."""

    def __init__(self, plan: WindowPlan, depth: int) -> None:
        rows, cols = min(plan.size, plan.height), min(plan.size, plan.width)
        self.top = 0
        self.sums = np.zeros((depth, rows, plan.width), np.float32)
        self.weights = np.zeros((rows, plan.width), np.float32)
        self.valid = np.zeros((rows, plan.width), bool)
        self.window = blend_weights(rows, cols, plan.overlap)

    def add(self, item: ScoredTile) -> None:
        """Lay one window over the band."""
        rows, cols = item.tile.slices
        rows = slice(rows.start - self.top, rows.stop - self.top)
        self.valid[rows, cols] = item.valid
        if item.scores is not None:
            self.sums[:, rows, cols] += item.scores * self.window
            self.weights[rows, cols] += self.window

    def release(self, until: int) -> Iterator[Strip]:
        """Hand out the rows above `until` and move the band down to it."""
        count = until - self.top
        for start in range(0, count, _ROWS_AT_ONCE):
            rows = slice(start, min(start + _ROWS_AT_ONCE, count))
            # Rows without weight have sums of 0, which any divisor leaves as they are.
            weights = np.where(self.weights[rows] > 0, self.weights[rows], 1)
            yield Strip(self.top + start, self.sums[:, rows] / weights, self.valid[rows].copy())
        if count:
            self._move_down(count)

    def _move_down(self, count: int) -> None:
        for plane in (self.sums, self.weights, self.valid):
            kept = plane.shape[-2] - count
            plane[..., :kept, :] = plane[..., count:, :].copy()
            plane[..., kept:, :] = 0
        self.top += count
