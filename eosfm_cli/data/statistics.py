"""Mean and standard deviation of each band over the training split."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

import numpy as np

from eosfm_cli import tiling
from eosfm_cli.data.folder import Sample
from eosfm_cli.data.tiles import NO_VALUE, BandReader, ValueReader
from eosfm_cli.errors import DataError
from eosfm_cli.progress import Progress, Silent
from eosfm_cli.recipe import BandStatistics, Recipe

_WINDOW_PX = 1024
_FOR_A_START = 200
"""Windows that tell the mean of a target well enough to start from."""
MOST_WINDOWS = 2000
"""Of larger datasets so many windows are read: means settle long before."""
_CONSTANT = 1e-6
"""Spread relative to the mean below which float32 values are one value and its rounding."""


@dataclass
class _Moments:
    """Count, mean and sum of squared deviations per band, merged block by block (Chan et al.)."""

    count: np.ndarray
    mean: np.ndarray
    squares: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, valid: np.ndarray) -> _Moments:
        """Moments of one block `(c, h, w)`, in float64."""
        exact = np.where(valid, values, 0).astype(np.float64)
        count = valid.sum(axis=(1, 2)).astype(np.float64)
        mean = exact.sum(axis=(1, 2)) / np.maximum(count, 1)
        deviations = np.where(valid, exact - mean[:, None, None], 0)
        return cls(count, mean, (deviations**2).sum(axis=(1, 2)))

    def __add__(self, other: _Moments) -> _Moments:
        count = self.count + other.count
        share = other.count / np.maximum(count, 1)
        apart = other.mean - self.mean
        return _Moments(
            count,
            self.mean + apart * share,
            self.squares + other.squares + apart**2 * self.count * share,
        )


def compute_statistics(
    samples: Sequence[Sample],
    recipe: Recipe,
    progress: Progress,
    *,
    most_windows: int = MOST_WINDOWS,
) -> dict[str, BandStatistics]:
    """Statistics of the recipe's bands, over all dates, nodata and NaN left out.

    Reads every pixel once, by windows; of more than `most_windows` a seeded choice, spread over
    all samples. The standard deviation is that of the population.

    Raises:
        DataError: A band has no valid pixel, or a file is damaged.
    """
    windows = _windows(samples, most_windows, progress)
    readers = [BandReader(recipe, date) for date in recipe.dates]
    zeros = np.zeros(len(recipe.bands))
    total = _Moments(zeros, zeros, zeros)
    with progress.step("Computing statistics", len(windows)) as step:
        for sample, tile in windows:
            for reader in readers:
                total += _Moments.of(*reader.read(sample, tile))
            step.advance()
    return _named(recipe.bands, total, progress)


def target_mean(samples: Sequence[Sample], recipe: Recipe) -> float:
    """About the mean of a regression's target; 0 where no pixel has a value.

    Raises:
        DataError: A file is damaged.
    """
    reader, total, count = ValueReader(recipe), 0.0, 0
    for sample, tile in _windows(samples, _FOR_A_START, Silent()):
        values = reader.read(sample.mask, tile)
        known = values[values != NO_VALUE]
        total, count = total + float(known.sum(dtype=np.float64)), count + known.size
    return total / count if count else 0.0


def _windows(
    samples: Sequence[Sample], most: int, progress: Progress
) -> list[tuple[Sample, tiling.Tile]]:
    """The windows to read: all, or one drawn from each of `most` equal stretches of them."""
    ends = list(accumulate(len(_grid(sample.height, sample.width)) for sample in samples))
    count = ends[-1]
    numbers: Iterable[int] = range(count)
    if count > most:
        rng = random.Random(0)
        numbers = [int((stretch + rng.random()) * count / most) for stretch in range(most)]
        progress.say(f"statistics from {most:,} of {count:,} windows of the training split")
    chosen = []
    for number in numbers:
        sample = samples[place := bisect_right(ends, number)]
        tiles = _grid(sample.height, sample.width)
        chosen.append((sample, tiles[number - ends[place] + len(tiles)]))
    return chosen


@lru_cache(maxsize=256)
def _grid(height: int, width: int) -> tuple[tiling.Tile, ...]:
    """Windows that cover an image, each pixel once."""
    return tuple(_without_overlap(tile) for tile in tiling.grid(height, width, _WINDOW_PX))


def _without_overlap(tile: tiling.Tile) -> tiling.Tile:
    """Cut off what the flush last tile of a row or column shares with the one before."""
    row, col = (-(-start // _WINDOW_PX) * _WINDOW_PX for start in (tile.row, tile.col))
    return tiling.Tile(row, col, tile.height - (row - tile.row), tile.width - (col - tile.col))


def _named(bands: Sequence[str], total: _Moments, progress: Progress) -> dict[str, BandStatistics]:
    found = {}
    for band, count, mean, squares in zip(
        bands, total.count, total.mean, total.squares, strict=True
    ):
        if not count:
            raise DataError(
                f"Band {band} has no valid pixel in the training split: all is nodata or NaN.",
                hint="Check the files' nodata value, or leave the band out with 'bands'.",
            )
        std = float(np.sqrt(squares / count))
        if std <= _CONSTANT * abs(mean):
            progress.warn(
                f"Band {band} has the same value everywhere ({mean:g}): it tells nothing."
            )
            std = 1.0
        found[band] = BandStatistics(mean=float(mean), std=std)
    return found
