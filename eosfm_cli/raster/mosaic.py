"""Join the scores of overlapping windows into finished blocks, in reading order."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from eosfm_cli.raster.carry import Carry, Shape
from eosfm_cli.raster.windows import WindowPlan, blend_weights
from eosfm_cli.tiling import Tile


@dataclass(frozen=True)
class ScoredTile:
    """What the model says of one window."""

    tile: Tile
    scores: NDArray[np.float32] | None
    """`(depth, h, w)`; `None` where the window has no valid pixel and was not computed."""
    valid: NDArray[np.bool_]
    """`(h, w)`."""


@dataclass(frozen=True)
class Block:
    """Finished pixels of the scene: each is in one block."""

    tile: Tile
    """Where they are."""
    scores: NDArray[np.float32]
    """`(depth, h, w)`; 0 where nothing was computed."""
    valid: NDArray[np.bool_]
    """`(h, w)`."""


class Mosaic:
    """Averages overlapping windows by weight.

    A pixel is finished when the last window that covers it was added. Of what is not, the columns
    to the right are held in memory, as many as a window has, and the rows below in a file, so that
    memory grows neither with the scene's height nor with its width.

    Args:
        plan: Where the windows lie.
        depth: How many scores a pixel has.
        carry: Keeps sums from one row of windows to the next.
    """

    def __init__(self, plan: WindowPlan, depth: int, carry: Carry) -> None:
        rows, cols = min(plan.size, plan.height), min(plan.size, plan.width)
        self._plan, self._carry = plan, carry
        self._row_ends = _ends(plan.rows, plan.height)
        self._col_ends = _ends(plan.cols, plan.width)
        self._columns = {start: number for number, start in enumerate(plan.cols)}
        self._window = blend_weights(rows, cols, plan.overlap)
        # The last plane holds the sum of the weights.
        self._sums = np.zeros((depth + 1, rows, cols), np.float32)
        self._weighted = np.empty_like(self._sums[:-1])
        self._empty = True

    def add(self, item: ScoredTile) -> Block:
        """Lay the next window of the plan over the scene.

        Returns:
            The block that it finishes: down and right to where the next windows begin.
        """
        tile = item.tile
        height, width = self._row_ends[tile.row] - tile.row, self._col_ends[tile.col] - tile.col
        if item.scores is not None:
            self._sums[:-1] += np.multiply(item.scores, self._window, out=self._weighted)
            self._sums[-1] += self._window
            self._empty = False
        column = self._columns[tile.col]
        done = self._with_rows_above(column, width)
        self._keep_rows_below(column, done, height)
        place = Tile(tile.row, tile.col, height, width)
        valid = item.valid[:height, :width]
        if done is None:
            return Block(place, self._nothing[:, :height, :width], valid)
        # Pixels without weight have sums of 0, which any divisor leaves as they are.
        weights = np.where(done[-1, :height] > 0, done[-1, :height], 1)
        scores = done[:-1, :height]
        return Block(place, np.divide(scores, weights, out=scores), valid)

    @cached_property
    def _nothing(self) -> NDArray[np.float32]:
        return np.zeros_like(self._sums[:-1])

    def _with_rows_above(self, column: int, width: int) -> NDArray[np.float32] | None:
        """Take the finished columns off the left, with what earlier rows of windows gave them."""
        above = self._carry.take(column)
        done = None if self._empty and above is None else self._sums[:, :, :width].copy()
        if above is not None:
            done[:, : above.shape[1]] += above
        if not self._empty:
            kept = self._sums.shape[2] - width
            self._sums[:, :, :kept] = self._sums[:, :, width:].copy()
            self._sums[:, :, kept:] = 0
            self._empty = not self._sums[-1].any()
        return done

    def _keep_rows_below(self, column: int, done: NDArray[np.float32] | None, height: int) -> None:
        # Where nothing was computed, no weight is left either.
        if done is not None and (below := done[:, height:])[-1].any():
            self._carry.put(column, below)
        if column == len(self._plan.cols) - 1:
            self._carry.next_row()


def carried(plan: WindowPlan, depth: int) -> Shape:
    """The largest array that one row of windows leaves to the next for a column."""
    rows, cols = min(plan.size, plan.height), min(plan.size, plan.width)
    finished = min(end - start for start, end in _ends(plan.rows, plan.height).items())
    return depth + 1, max(rows - finished, 1), cols


def _ends(starts: list[int], length: int) -> dict[int, int]:
    """Start of a window -> start of the next, or the end of the scene."""
    return dict(zip(starts, [*starts[1:], length], strict=True))
