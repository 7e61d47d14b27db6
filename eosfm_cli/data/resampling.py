"""Coarser rasters on a finer grid of the same extent, window by window and seamless.

Pixel centres lie as in GDAL: pixel `i` of `n` is at `(i + 0.5) / n` of the extent. What a window
holds depends on the place in the whole grid alone, so that neighbouring windows fit together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from eosfm_cli.tiling import Tile

Shape = tuple[int, int]
"""Rows and columns."""
Pixels = tuple[np.ndarray, np.ndarray]
"""Values `(c, h, w)`, and where they are valid."""


def covers(coarse: Shape, fine: Shape) -> bool:
    """Whether both can be grids of one extent: coarser by one factor, up to a pixel of rounding."""
    if coarse[0] > fine[0] or coarse[1] > fine[1]:
        return False
    factor = max(fine[0] / coarse[0], fine[1] / coarse[1])
    return all(abs(many / factor - few) < 1 for few, many in zip(coarse, fine, strict=True))


@dataclass(frozen=True)
class _Axis:
    """Of each wanted row or column, the two of the file between whose centres it lies."""

    start: int
    stop: int
    before: np.ndarray
    after: np.ndarray
    nearest: np.ndarray
    """All three counted from `start`."""
    share: np.ndarray
    """Of the one after, float32."""

    @classmethod
    def of(cls, start: int, length: int, *, coarse: int, fine: int) -> _Axis:
        centres = (np.arange(start, start + length) + 0.5) * (coarse / fine)
        below = np.floor(centres - 0.5).astype(int)
        before, after = below.clip(0), (below + 1).clip(max=coarse - 1)
        nearest = centres.astype(int).clip(max=coarse - 1)
        share = (centres - 0.5 - below).astype(np.float32)
        first = int(before[0])
        return cls(first, int(after[-1]) + 1, before - first, after - first, nearest - first, share)


def resampled(
    read: Callable[[Tile], Pixels],
    tile: Tile,
    *,
    coarse: Shape,
    fine: Shape,
    method: Literal["nearest", "bilinear"],
) -> Pixels:
    """A window of the finer grid, made of what the file has there.

    Args:
        read: Reads a window of the file.
        tile: The window of the finer grid.
        coarse: The file's size.
        fine: The finer grid's size.
        method: `bilinear` weighs the four pixels around by their distance, those that are not
            valid left out.

    Returns:
        Valid is what the nearest pixel of the file is. Float32 where bilinear, else the file's
        type.
    """
    rows, cols = _axes(tile, coarse, fine)
    values, valid = read(
        Tile(rows.start, cols.start, rows.stop - rows.start, cols.stop - cols.start)
    )
    whole = bool(valid.all())
    nearest_valid = _nearest(valid, rows, cols)
    if method == "nearest":
        return _nearest(values, rows, cols), nearest_valid
    known = values if whole else np.where(valid, values, 0)
    total = _weighed(known.astype(np.float32), rows, cols)
    if whole:
        return np.divide(total, _whole_weight(tile, coarse, fine), out=total), nearest_valid
    weight = _weighed(valid.astype(np.float32), rows, cols)
    # The nearest pixel weighs a quarter at least: where it is valid, nothing is divided by 0.
    found = np.divide(total, weight, out=np.zeros_like(total), where=nearest_valid)
    return found, nearest_valid


@lru_cache(maxsize=64)
def _axes(tile: Tile, coarse: Shape, fine: Shape) -> tuple[_Axis, _Axis]:
    return (
        _Axis.of(tile.row, tile.height, coarse=coarse[0], fine=fine[0]),
        _Axis.of(tile.col, tile.width, coarse=coarse[1], fine=fine[1]),
    )


@lru_cache(maxsize=8)
def _whole_weight(tile: Tile, coarse: Shape, fine: Shape) -> np.ndarray:
    """Sums of the weights `(1, h, w)` where all is valid: 1, but for rounding."""
    rows, cols = _axes(tile, coarse, fine)
    return _weighed(
        np.ones((1, rows.stop - rows.start, cols.stop - cols.start), np.float32), rows, cols
    )


def _nearest(values: np.ndarray, rows: _Axis, cols: _Axis) -> np.ndarray:
    return values.take(rows.nearest, axis=1).take(cols.nearest, axis=2)


def _weighed(values: np.ndarray, rows: _Axis, cols: _Axis) -> np.ndarray:
    """Sums of the four pixels around, times their weights; one axis after the other."""
    down = rows.share[:, None]
    return _between(_between(values, rows, down, axis=1), cols, cols.share, axis=2)


def _between(values: np.ndarray, along: _Axis, share: np.ndarray, axis: int) -> np.ndarray:
    before, after = values.take(along.before, axis), values.take(along.after, axis)
    before *= 1 - share
    after *= share
    before += after
    return before
