"""Tiles of a split as samples: read by windows, standardised, labels as class indices."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import Dataset

from eosfm_cli import tiling
from eosfm_cli.data.folder import Sample
from eosfm_cli.data.labels import UNKNOWN, colour_numbers, label_table
from eosfm_cli.data.pairing import used_images
from eosfm_cli.data.reader import RasterReader
from eosfm_cli.data.splits import SplitName, few
from eosfm_cli.errors import DataError
from eosfm_cli.recipe import Recipe, TrainingSpec
from eosfm_cli.tiling import Tile

TileKey = int | tuple[int, int]
"""An index, or an epoch and an index."""

NO_VALUE = -9999.0
"""What stands in a mask of values where there is none."""


class BandReader:
    """Reads a recipe's bands, by name, from a sample's rasters.

    Args:
        recipe: Says which bands are in which file, and which are wanted in what order.
        date: Which of its dates to read; `None` where it has none.
    """

    def __init__(self, recipe: Recipe, date: Literal[1, 2] | None = None) -> None:
        self.bands = recipe.bands
        self._raster = RasterReader()
        self._sources: list[tuple[int, list[int], list[int]]] = []
        for number, name in enumerate(used_images(recipe)):
            image = recipe.dataset.images[name]
            wanted = [band for band in recipe.bands if band in image.bands]
            in_file = [image.bands.index(band) + 1 for band in wanted]
            if image.date == date:
                channels = [recipe.bands.index(band) for band in wanted]
                self._sources.append((number, in_file, channels))

    def read(self, sample: Sample, tile: Tile) -> tuple[np.ndarray, np.ndarray]:
        """Values `(c, h, w)` float32 in the data's own units, and where they are valid.

        Values that are not valid are 0: what nodata is written as could overflow later.
        """
        shape = (len(self.bands), tile.height, tile.width)
        values, valid = np.empty(shape, np.float32), np.empty(shape, bool)
        for number, in_file, channels in self._sources:
            path = sample.images[number]
            # The recipe names every band of the file: none of them is opacity.
            pixels, valid[channels] = self._raster.read(path, in_file, tile, alpha_is_data=True)
            values[channels] = np.where(valid[channels], pixels, 0)
        return values, valid


class MaskReader:
    """Reads class indices from a sample's mask.

    Args:
        recipe: Says how the masks write classes and what means "no label".
    """

    def __init__(self, recipe: Recipe) -> None:
        masks = recipe.dataset.masks
        self._raster = RasterReader()
        self._colours = masks.encoding == "colours"
        self._bands = [1, 2, 3] if self._colours else [masks.band]
        self._table = label_table(recipe)
        self._unknown_is_an_error = masks.unknown == "error"
        self._ignore_index = recipe.ignore_index

    def read(self, path: Path, tile: Tile) -> np.ndarray:
        """Class indices `(h, w)` int64, the ignore index where there is no label.

        Raises:
            DataError: The mask holds a value or colour that the recipe does not mention.
        """
        pixels, valid = self._raster.read(path, self._bands, tile)
        raw = colour_numbers(pixels) if self._colours else pixels[0]
        labels = self._table(raw)
        # Nodata of one channel is a colour like others: black has it in all three.
        if (without := ~valid.any(axis=0)).any():
            labels[without & ~np.isin(raw, list(self._table.explicit))] = self._ignore_index
        unknown = labels == UNKNOWN
        if self._unknown_is_an_error and unknown.any():
            raise self._unlisted(path, np.unique(raw[unknown]))
        labels[unknown] = self._ignore_index
        return labels

    def _unlisted(self, path: Path, found: np.ndarray) -> DataError:
        written = [f"#{label:06x}" if self._colours else f"{label:g}" for label in found]
        closer = ", raise dataset.masks.tolerance" if self._colours else ""
        return DataError(
            f"{path} has {'colours' if self._colours else 'labels'} that no class of the recipe "
            f"lists: {few(written)}.",
            hint=f"Add them to a class's 'values' or to dataset.masks.ignore{closer}, or let all "
            "such labels count as no label: --set dataset.masks.unknown=ignore",
        )


class ValueReader:
    """Reads the values of a regression's target from a sample's mask.

    Args:
        recipe: Says what turns the mask's values into the target's unit, and which mean nothing.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._masks = recipe.dataset.masks
        self._raster = RasterReader()

    def read(self, path: Path, tile: Tile) -> np.ndarray:
        """Values `(h, w)` float32 in the target's unit, `NO_VALUE` where there is none."""
        (raw,), (valid,) = self._raster.read(path, [self._masks.band], tile)
        values = raw.astype(np.float64) * self._masks.scale + self._masks.offset
        valid &= ~np.isin(raw.astype(np.float64), self._masks.ignore)
        return np.where(valid, values, NO_VALUE).astype(np.float32)


class TileDataset(Dataset[dict[str, Any]]):
    """The tiles of one split.

    A sample is `image` `(c, size, size)` float32, standardised, of change detection
    `(c, 2, size, size)`, and `filename`, with `mask` `(size, size)`, int64 classes or float32
    values, or `label`, an int64 scalar or of several labels `(classes,)` float32 of 0 and 1. What
    is drawn at random depends on the seed, epoch
    and index alone, not on workers or order. Validation and test tiles are a grid with the last
    one flush to the edge; labels that an earlier tile already has are left out of it, so that
    each counts once. Images larger than a tile give several samples of one label in
    classification.

    Args:
        samples: The split's samples.
        recipe: With statistics.
        split: Only `train` draws random crops and augments.
        spec: Seed, and whether to augment.
    """

    def __init__(
        self, samples: Sequence[Sample], recipe: Recipe, *, split: SplitName, spec: TrainingSpec
    ) -> None:
        train = split == "train"
        self._samples = samples
        self._size = recipe.tile.size
        self._stride = recipe.tile.stride or self._size
        self._random = train and recipe.tile.train == "random"
        self._augment = train and spec.augment
        self._count_once = not train
        self._seed = spec.seed
        self._classes = len(recipe.classes)
        self._ends = list(accumulate(len(self._grid(sample)) for sample in samples))
        self._image_readers = [BandReader(recipe, date) for date in recipe.dates]
        self._mask_reader = _mask_reader(recipe)
        self._unlabelled = NO_VALUE if recipe.task == "regression" else recipe.ignore_index
        statistics = [recipe.statistics[band] for band in recipe.bands]
        self._mean = np.array([s.mean for s in statistics], np.float32)[:, None, None]
        self._std = np.array([s.std for s in statistics], np.float32)[:, None, None]

    def __len__(self) -> int:
        """Count the tiles; an epoch of random crops has as many as the grid."""
        return self._ends[-1] if self._ends else 0

    @property
    def sample_numbers(self) -> list[int]:
        """Of each tile, the position of the sample that it is cut from."""
        counts = (end - start for start, end in pairwise([0, *self._ends]))
        return [number for number, count in enumerate(counts) for _ in range(count)]

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
            "filename": str(sample.images[0]),
        }
        if self._mask_reader is None:
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

    def _grid(self, sample: Sample) -> tuple[tuple[Tile, tuple[int, int]], ...]:
        return _grid(sample.height, sample.width, self._size, self._stride)

    def _place(self, index: int, rng: random.Random) -> tuple[Sample, Tile, tuple[int, int]]:
        """The sample and tile of an index, and how many rows and columns others count already."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = bisect_right(self._ends, index)
        sample = self._samples[number]
        if self._random:
            return sample, tiling.random_tile(sample.height, sample.width, self._size, rng), (0, 0)
        tiles = self._grid(sample)
        tile, done = tiles[index - self._ends[number] + len(tiles)]
        return sample, tile, done if self._count_once else (0, 0)

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
        self, sample: Sample, tile: Tile, done: tuple[int, int], turn: tuple[bool, int]
    ) -> torch.Tensor:
        labels = self._mask_reader.read(sample.mask, tile)
        labels[: done[0]] = self._unlabelled
        labels[:, : done[1]] = self._unlabelled
        return _square(labels, self._size, self._unlabelled, turn)


def _mask_reader(recipe: Recipe) -> MaskReader | ValueReader | None:
    if not recipe.has_masks:
        return None
    return ValueReader(recipe) if recipe.task == "regression" else MaskReader(recipe)


@lru_cache(maxsize=256)
def _grid(
    height: int, width: int, size: int, stride: int
) -> tuple[tuple[Tile, tuple[int, int]], ...]:
    """Tiles, with how many of each one's first rows and columns lie in tiles before it."""
    rows = _shared(tiling.offsets(height, size, stride), size)
    cols = _shared(tiling.offsets(width, size, stride), size)
    tiles = tiling.grid(height, width, size, stride)
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
