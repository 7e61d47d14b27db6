"""Tiles of a split as samples: read by windows, standardised, labels as class indices."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Collection, Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from eosfm_cli import tiling
from eosfm_cli.data.band_reader import BandReader
from eosfm_cli.data.folder import Sample
from eosfm_cli.data.label_reader import Covered, LabelReader
from eosfm_cli.data.splits import SplitName
from eosfm_cli.errors import DataError
from eosfm_cli.recipe import Recipe, TrainingSpec
from eosfm_cli.tiling import Tile

TileKey = int | tuple[int, int]
"""An index, or an epoch and an index."""

_DRAWS = 20
"""How often a random crop is drawn where it is to show a label; more often would take long."""


class TileDataset(Dataset[dict[str, Any]]):
    """The tiles of one split.

    A sample is `image` `(c, size, size)` float32, standardised, of change detection
    `(c, 2, size, size)`, and `filename`, with `mask` `(size, size)`, int64 classes or float32
    values, or `label`, an int64 scalar or of several labels `(classes,)` float32 of 0 and 1. What
    is drawn at random depends on the seed, epoch and index alone, not on workers or order.
    Validation and test tiles are a grid with the last one flush to the edge; labels that an earlier
    tile already has are left out of it, so that each counts once. Images larger than a tile give
    several samples of one label in classification.

    Args:
        samples: The split's samples.
        recipe: With statistics.
        split: Only `train` draws random crops and augments.
        spec: Seed, and whether to augment.
        areas: Whose labels belong to the split, where splits are areas; all if not given.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        recipe: Recipe,
        *,
        split: SplitName,
        spec: TrainingSpec,
        areas: Collection[int] | None = None,
    ) -> None:
        train = split == "train"
        self.samples = samples
        self._size = recipe.tile.size
        self._stride = recipe.tile.stride or self._size
        self._random = train and recipe.tile.train == "random"
        self._augment = train and spec.augment
        self._count_once = not train
        self._seed = spec.seed
        self._classes = len(recipe.classes)
        self._ends = list(accumulate(len(self.grid(sample)) for sample in samples))
        self._image_readers = [BandReader(recipe, date) for date in recipe.dates]
        self._label_reader = LabelReader(recipe, areas) if recipe.has_masks else None
        statistics = [recipe.statistics[band] for band in recipe.bands]
        self._mean = np.array([s.mean for s in statistics], np.float32)[:, None, None]
        self._std = np.array([s.std for s in statistics], np.float32)[:, None, None]
        self._labelled_only = recipe.tile.unlabelled == "skip"
        self._numbers: Sequence[int] = range(self._ends[-1] if self._ends else 0)

    def __len__(self) -> int:
        """Count the tiles; an epoch of random crops has as many as the grid."""
        return len(self._numbers)

    @property
    def sample_numbers(self) -> list[int]:
        """Of each tile, the position of the sample that it is cut from."""
        return [bisect_right(self._ends, number) for number in self._numbers]

    def keep(self, numbers: Sequence[int]) -> None:
        """Leave out all tiles but some, given by their numbers in the grids of all samples."""
        self._numbers = numbers

    def __getitem__(self, key: TileKey) -> dict[str, Any]:
        """Read one tile.

        Raises:
            DataError: A file is damaged, or has labels that the recipe does not list.
        """
        epoch, index = key if isinstance(key, tuple) else (0, key)
        rng = random.Random(f"{self._seed}/{epoch}/{index}")
        sample, tile, done = self._place(index, rng)
        turn = _drawn_turn(rng) if self._augment else (False, 0)
        item: dict[str, Any] = {
            "image": self._image(sample, tile, turn),
            "filename": str(sample.place),
        }
        if self._label_reader is None:
            item["label"] = self._label(sample)
        else:
            item["mask"] = self._mask(sample, tile, done, turn)
        return item

    def __getitems__(self, keys: Sequence[TileKey]) -> list[dict[str, Any]] | DataError:
        """Read a batch; what is wrong with the data comes back as a value.

        Raised in a worker process, an error would reach the user wrapped in a traceback.
        """
        try:
            return [self[key] for key in keys]
        except DataError as error:
            return error

    def grid(self, sample: Sample) -> tuple[tuple[Tile, Covered], ...]:
        """The tiles of a sample, with how many rows and columns of each others count already."""
        return _grid(sample.height, sample.width, self._size, self._stride, self._count_once)

    def _place(self, index: int, rng: random.Random) -> tuple[Sample, Tile, Covered]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = self._numbers[index]
        owner = bisect_right(self._ends, number)
        sample = self.samples[owner]
        if self._random:
            return sample, self._crop(sample, rng), (0, 0)
        tiles = self.grid(sample)
        return sample, *tiles[number - self._ends[owner] + len(tiles)]

    def _crop(self, sample: Sample, rng: random.Random) -> Tile:
        """A random tile, with a label where that is wanted and can be had."""
        for _ in range(_DRAWS if self._labelled_only else 1):
            tile = tiling.random_tile(sample.height, sample.width, self._size, rng)
            if self._labelled_only and self._label_reader.finds(sample, tile):
                break
        return tile

    def _image(self, sample: Sample, tile: Tile, turn: tuple[bool, int]) -> torch.Tensor:
        dates = []
        for reader in self._image_readers:
            values, valid = reader.read(sample, tile)
            dates.append(np.where(valid, (values - self._mean) / self._std, 0))
        pixels = dates[0] if len(dates) == 1 else np.stack(dates, axis=1)  # (c, t, h, w)
        return _square(pixels, self._size, 0, turn)

    def _label(self, sample: Sample) -> torch.Tensor:
        if not isinstance(sample.label, tuple):
            return torch.tensor(sample.label, dtype=torch.int64)
        label = torch.zeros(self._classes)
        label[list(sample.label)] = 1
        return label

    def _mask(
        self, sample: Sample, tile: Tile, done: Covered, turn: tuple[bool, int]
    ) -> torch.Tensor:
        labels = self._label_reader.read(sample, tile, done)
        return _square(labels, self._size, self._label_reader.unlabelled, turn)


@lru_cache(maxsize=256)
def _grid(
    height: int, width: int, size: int, stride: int, count_once: bool
) -> tuple[tuple[Tile, Covered], ...]:
    """Tiles, with how many of each one's first rows and columns lie in tiles before it."""
    tiles = tiling.grid(height, width, size, stride)
    if not count_once:
        return tuple((tile, (0, 0)) for tile in tiles)
    rows = _shared(tiling.offsets(height, size, stride), size)
    cols = _shared(tiling.offsets(width, size, stride), size)
    return tuple((tile, (rows[tile.row], cols[tile.col])) for tile in tiles)


def _shared(starts: Sequence[int], size: int) -> dict[int, int]:
    """Start of a tile -> how much of it the tile before covers."""
    return {start: max(before + size - start, 0) for before, start in pairwise([-size, *starts])}


def _drawn_turn(rng: random.Random) -> tuple[bool, int]:
    """Whether to flip, and how many quarter turns: each of a square's eight symmetries alike."""
    return rng.random() < 0.5, rng.randrange(4)


def _square(pixels: np.ndarray, size: int, fill: float, turn: tuple[bool, int]) -> torch.Tensor:
    """Pad `(…, h, w)` at the bottom and right to a square, flip and turn it."""
    height, width = pixels.shape[-2:]
    around = [(0, 0)] * (pixels.ndim - 2) + [(0, size - height), (0, size - width)]
    padded = np.pad(pixels, around, constant_values=fill)
    flip, quarters = turn
    turned = np.rot90(padded[..., ::-1] if flip else padded, quarters, axes=(-2, -1))
    return torch.from_numpy(np.ascontiguousarray(turned))
