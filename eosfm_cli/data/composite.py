"""One image out of those of several dates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np

from eosfm_cli.tiling import Tile

Take = Literal["median", "mean", "min", "max"]
Pixels = tuple[np.ndarray, np.ndarray]
"""Values `(c, h, w)`, and where they are valid."""

_MOST_VALUES = 2**21
"""How many values of all dates are looked at together, 8 MiB; taller windows go by strips."""


def composite(
    dates: Sequence[Callable[[Tile], Pixels]], tile: Tile, bands: int, take: Take
) -> Pixels:
    """Median, mean, least or largest of the valid values of each pixel over the dates.

    Args:
        dates: Of each date, what reads a window of it.
        tile: The window.
        bands: How many bands each date has.
        take: What is made of the values.

    Returns:
        Float32 values, 0 where no date is valid, and where one is.
    """
    values = np.zeros((bands, tile.height, tile.width), np.float32)
    valid = np.zeros(values.shape, bool)
    for strip in _strips(tile, len(dates) * bands):
        rows = slice(strip.row - tile.row, strip.row - tile.row + strip.height)
        read = [date(strip) for date in dates]
        series = np.stack([one.astype(np.float32) for one, _ in read])
        known = np.stack([there for _, there in read])
        values[:, rows], valid[:, rows] = _TAKEN[take](series, known), known.any(axis=0)
    return np.where(valid, values, 0), valid


def _strips(tile: Tile, depth: int) -> Iterator[Tile]:
    """Cut a window into strips of full width, none of which holds too many values."""
    height = max(1, _MOST_VALUES // (depth * tile.width))
    for row in range(0, tile.height, height):
        yield Tile(tile.row + row, tile.col, min(height, tile.height - row), tile.width)


def _median(series: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The middle of the valid values `(t, c, h, w)`, or halfway between the two in the middle."""
    ordered = np.sort(np.where(known, series, np.inf), axis=0)  # what is not valid comes last
    last = np.maximum(known.sum(axis=0, keepdims=True) - 1, 0)
    low = np.take_along_axis(ordered, last // 2, axis=0)[0]
    high = np.take_along_axis(ordered, (last + 1) // 2, axis=0)[0]
    return low / 2 + high / 2


def _mean(series: np.ndarray, known: np.ndarray) -> np.ndarray:
    total = np.where(known, series, 0).sum(axis=0, dtype=np.float64)
    return total / np.maximum(known.sum(axis=0), 1)


def _min(series: np.ndarray, known: np.ndarray) -> np.ndarray:
    return np.where(known, series, np.inf).min(axis=0)


def _max(series: np.ndarray, known: np.ndarray) -> np.ndarray:
    return np.where(known, series, -np.inf).max(axis=0)


_TAKEN: dict[Take, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "median": _median,
    "mean": _mean,
    "min": _min,
    "max": _max,
}
