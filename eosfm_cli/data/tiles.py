"""Tiles of a split as samples: read by windows, standardised, labels as class indices."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from eosfm_cli import tiling
from eosfm_cli.data.band_reader import BandReader
from eosfm_cli.data.folder import Sample
from eosfm_cli.data.label_reader import Covered, LabelReader
from eosfm_cli.data.reader import reading
from eosfm_cli.data.splits import SplitName
from eosfm_cli.data.stamps import Stamps
from eosfm_cli.errors import DataError
from eosfm_cli.recipe import Recipe, TrainingSpec
from eosfm_cli.tiling import Tile

TileKey = int | tuple[int, int]
"""An index, or an epoch and an index."""

_DRAWS = 20
"""How often a random crop is drawn where it is to show a label; more often would take long."""


class _Place(NamedTuple):
    """Which tile an index means."""

    sample: Sample
    tile: Tile
    done: Covered
    """How much of it others count."""
    turn: tuple[bool, int]


class TileDataset(Dataset[dict[str, Any]]):
    """The tiles of one split.

    A sample is `image` `(c, size, size)` float32, standardised, of change detection
    `(c, 2, size, size)`, and `filename`, with `mask` `(size, size)`, int64 classes or float32
    values, or `label`, an int64 scalar or of several labels `(classes,)` float32 of 0 and 1. What
    is drawn at random depends on the seed, epoch and index alone, not on workers or order; the
    epoch does not matter where the recipe fixes the tiles.
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
        self._recipe = recipe
        self._size = recipe.tile.size
        self._stride = recipe.tile.stride or self._size
        self._random = train and recipe.tile.train == "random"
        self._augment = train and spec.augment
        self._fixed = spec.fixed_tiles
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
        self._areas = None if areas is None else sorted(areas)
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
        place = self._place(key)
        image = self._image(place.sample, place.tile, place.turn)
        return {"image": image, **self._described(place)}

    def _described(self, place: _Place) -> dict[str, Any]:
        named = {"filename": str(place.sample.place)}
        if self._label_reader is None:
            return {**named, "label": self._label(place.sample)}
        return {**named, "mask": self._mask(place.sample, place.tile, place.done, place.turn)}

    def __getitems__(self, keys: Sequence[TileKey]) -> list[dict[str, Any]] | DataError:
        """Read a batch; what is wrong with the data comes back as a value.

        Raised in a worker process, an error would reach the user wrapped in a traceback.
        """
        try:
            with reading():
                return [self[key] for key in keys]
        except DataError as error:
            return error

    def described(self, keys: Sequence[TileKey]) -> list[dict[str, Any]]:
        """Tiles without their images: `filename`, and `mask` or `label`.

        Raises:
            DataError: A file is damaged, or has labels that the recipe does not list.
        """
        with reading():
            return [self._described(self._place(key)) for key in keys]

    def facts(self, chosen: Sequence[int] | None = None) -> Iterator[object]:
        """All that the pixels of the tiles follow from, the files' sizes and times of change too.

        Args:
            chosen: Only of these tiles, by index.
        """
        dataset, tile, bands = self._recipe.dataset, self._recipe.tile, self._recipe.bands
        images = {name: image.model_dump() for name, image in dataset.images.items()}
        yield (
            self._recipe.dates,
            images,
            dataset.series,
            bands,
            [self._recipe.statistics[band] for band in bands],
        )
        yield self._size, self._stride, list(self._numbers), chosen and list(chosen)
        drawn = self._random and self._labelled_only
        if self._random:
            yield self._seed
        if drawn:
            yield dataset.masks, self._recipe.classes, tile.unlabelled, self._areas
        stamps = Stamps()
        for sample in self.samples:
            files = [path for dates in sample.images for path in dates]
            files += [path for path in (sample.mask, sample.areas) if path and drawn]
            yield sample.window, [stamp for path in files for stamp in stamps.of(path)]

    def grid(self, sample: Sample) -> tuple[tuple[Tile, Covered], ...]:
        """The tiles of a sample, with how many rows and columns of each others count already."""
        return _grid(sample.height, sample.width, self._size, self._stride, self._count_once)

    def _place(self, key: TileKey) -> _Place:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        if not 0 <= index < len(self):
            raise IndexError(index)
        rng = random.Random(f"{self._seed}/{0 if self._fixed else epoch}/{index}")
        number = self._numbers[index]
        owner = bisect_right(self._ends, number)
        sample, done = self.samples[owner], (0, 0)
        if self._random:
            tile = self._crop(sample, rng)
        else:
            tiles = self.grid(sample)
            tile, done = tiles[number - self._ends[owner] + len(tiles)]
        return _Place(sample, tile, done, _drawn_turn(rng) if self._augment else (False, 0))

    def _crop(self, sample: Sample, rng: random.Random) -> Tile:
        """A random tile, with a label where that is wanted and can be had."""
        for _ in range(_DRAWS if self._labelled_only else 1):
            tile = tiling.random_tile(sample.height, sample.width, self._size, rng)
            if self._labelled_only and self._label_reader.finds(sample, tile):
                break
        return tile

    def _image(self, sample: Sample, tile: Tile, turn: tuple[bool, int]) -> torch.Tensor:
        dates = [self._standardised(*reader.read(sample, tile)) for reader in self._image_readers]
        pixels = dates[0] if len(dates) == 1 else np.stack(dates, axis=1)  # (c, t, h, w)
        return _square(pixels, self._size, 0, turn)

    def _standardised(self, values: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """The values `(c, h, w)` in place: standardised, 0 where they are not valid."""
        values -= self._mean
        values /= self._std
        if not valid.all():
            values[~valid] = 0
        return values

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
    if (height, width) != (size, size):
        around = [(0, 0)] * (pixels.ndim - 2) + [(0, size - height), (0, size - width)]
        pixels = np.pad(pixels, around, constant_values=fill)
    flip, quarters = turn
    turned = np.rot90(pixels[..., ::-1] if flip else pixels, quarters, axes=(-2, -1))
    return torch.from_numpy(np.ascontiguousarray(turned))
