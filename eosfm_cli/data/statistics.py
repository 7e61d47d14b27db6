"""Mean and standard deviation of each band over the training split."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from eosfm_cli.data.band_reader import BandReader
from eosfm_cli.data.folder import Sample
from eosfm_cli.data.label_reader import NO_VALUE, LabelReader
from eosfm_cli.data.reader import reading
from eosfm_cli.data.windows import windows
from eosfm_cli.errors import DataError
from eosfm_cli.progress import Progress, Silent
from eosfm_cli.recipe import BandStatistics, Recipe
from eosfm_cli.tiling import Tile

_FOR_A_START = 200
"""Windows that tell the mean of a target well enough to start from."""
MOST_WINDOWS = 2000
"""Of larger datasets so many windows are read: means settle long before."""
_CONSTANT = 1e-6
"""Spread relative to the mean below which float32 values are one value and its rounding."""


@dataclass
class Moments:
    """Count, mean and sum of squared deviations per band, merged block by block (Chan et al.)."""

    count: np.ndarray
    mean: np.ndarray
    squares: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, valid: np.ndarray) -> Moments:
        """Moments of one block `(c, h, w)`, in float64."""
        exact = np.where(valid, values, 0).astype(np.float64)
        count = valid.sum(axis=(1, 2)).astype(np.float64)
        mean = exact.sum(axis=(1, 2)) / np.maximum(count, 1)
        deviations = np.where(valid, exact - mean[:, None, None], 0)
        return cls(count, mean, (deviations**2).sum(axis=(1, 2)))

    def __add__(self, other: Moments) -> Moments:
        count = self.count + other.count
        share = other.count / np.maximum(count, 1)
        apart = other.mean - self.mean
        return Moments(
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
    """Statistics of the recipe's bands, over both dates of change detection.

    They are those of the values that the loader yields: nodata and NaN left out, one image made of
    a series, coarser files on the finest grid. Every pixel is read once, by windows; of more than
    `most_windows` a seeded choice, spread over all samples. The standard deviation is that of the
    population.

    Raises:
        DataError: A band has no valid pixel, or a file is damaged.
    """
    chosen = chosen_windows(samples, most_windows, progress)
    readers = [BandReader(recipe, date) for date in recipe.dates]
    zeros = np.zeros(len(recipe.bands))
    total = Moments(zeros, zeros, zeros)
    with reading(), progress.step("Computing statistics", len(chosen)) as step:
        for sample, tile in chosen:
            for reader in readers:
                total += Moments.of(*reader.read(sample, tile))
            step.advance()
    return _named(recipe.bands, total, progress)


def target_mean(
    samples: Sequence[Sample], recipe: Recipe, areas: Collection[int] | None = None
) -> float:
    """About the mean of a regression's target; 0 where no pixel has a value.

    Args:
        samples: Of the training split.
        recipe: Says what the masks' values mean.
        areas: The training split's areas; all labels count if not given.

    Raises:
        DataError: A file is damaged.
    """
    reader, total, count = LabelReader(recipe, areas), 0.0, 0
    for sample, tile in chosen_windows(samples, _FOR_A_START, Silent()):
        values = reader.read(sample, tile)
        known = values[values != NO_VALUE]
        total, count = total + float(known.sum(dtype=np.float64)), count + known.size
    return total / count if count else 0.0


def chosen_windows(
    samples: Sequence[Sample], most: int, progress: Progress
) -> list[tuple[Sample, Tile]]:
    """The windows to read: all, or one drawn from each of `most` equal stretches of them."""
    ends = list(accumulate(len(windows(sample.height, sample.width)) for sample in samples))
    count = ends[-1]
    numbers: Iterable[int] = range(count)
    if count > most:
        rng = random.Random(0)
        numbers = [int((stretch + rng.random()) * count / most) for stretch in range(most)]
        progress.say(f"statistics from {most:,} of {count:,} windows of the training split")
    chosen = []
    for number in numbers:
        sample = samples[place := bisect_right(ends, number)]
        tiles = windows(sample.height, sample.width)
        chosen.append((sample, tiles[number - ends[place] + len(tiles)]))
    return chosen


def _named(bands: Sequence[str], total: Moments, progress: Progress) -> dict[str, BandStatistics]:
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
