"""Mean and standard deviation of each band over the training split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eosfm_cli import tiling
from eosfm_cli.data.folder import Sample
from eosfm_cli.data.sources import open_source
from eosfm_cli.data.tiles import BandReader
from eosfm_cli.errors import DataError
from eosfm_cli.progress import Progress
from eosfm_cli.recipe import BandStatistics, Recipe

_WINDOW_PX = 1024
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
    samples: Sequence[Sample], recipe: Recipe, progress: Progress
) -> dict[str, BandStatistics]:
    """Statistics of the recipe's bands, nodata and NaN left out.

    Reads every image once, by windows; the standard deviation is that of the population.

    Raises:
        DataError: A band has no valid pixel, or a file is damaged.
    """
    reader = BandReader(recipe)
    zeros = np.zeros(len(recipe.bands))
    total = _Moments(zeros, zeros, zeros)
    with progress.step("Computing statistics", len(samples)) as step:
        for sample in samples:
            for tile in tiling.grid(sample.height, sample.width, _WINDOW_PX):
                total += _Moments.of(*reader.read(sample, _without_overlap(tile)))
            step.advance()
    return _named(recipe.bands, total, progress)


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


def with_statistics(recipe: Recipe, data_root: Path | None, progress: Progress) -> Recipe:
    """The recipe with statistics: its own, or else those of its training split.

    Raises:
        DataError: They have to be computed and the data is missing or unusable.
    """
    if recipe.statistics is not None:
        return recipe
    source = open_source(recipe, data_root, progress)
    return recipe.with_statistics(compute_statistics(source.samples["train"], recipe, progress))
