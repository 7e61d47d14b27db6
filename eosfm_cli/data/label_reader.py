"""What the masks of a sample say: class indices, or a regression's values."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np

from eosfm_cli.data.fitness import check_areas, check_mask, check_size
from eosfm_cli.data.labels import UNKNOWN, colour_numbers, label_table, written
from eosfm_cli.data.reader import Header, RasterReader, reading
from eosfm_cli.data.row_windows import same_ground
from eosfm_cli.data.sample import Sample
from eosfm_cli.data.splits import few
from eosfm_cli.errors import DataError
from eosfm_cli.recipe import Recipe
from eosfm_cli.tiling import Tile

NO_VALUE = -9999.0
"""What stands in a mask of values where there is none."""
Covered = tuple[int, int]
"""How many of a tile's first rows and columns lie in tiles before it."""


class MaskReader:
    """Reads class indices from a mask.

    Args:
        recipe: Says how the masks write classes and what means "no label".
        raster: What reads files; one of its own if not given.
    """

    def __init__(self, recipe: Recipe, raster: RasterReader | None = None) -> None:
        masks = recipe.dataset.masks
        self._raster = raster or RasterReader()
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
        labels, raw = self.look(path, tile)
        if (unknown := labels == UNKNOWN).any():
            if self._unknown_is_an_error:
                raise self._unlisted(path, np.unique(raw[unknown]))
            labels[unknown] = self._ignore_index
        return labels

    def look(self, path: Path, tile: Tile) -> tuple[np.ndarray, np.ndarray]:
        """Class indices `(h, w)` with `UNKNOWN` where no class lists the value, and the values.

        Colours are numbers, as "#rrggbb" writes them.
        """
        pixels, valid = self._raster.read(path, self._bands, tile)
        raw = colour_numbers(pixels) if self._colours else pixels[0]
        labels = self._table(raw)
        # Nodata of one channel is a colour like others: black has it in all three.
        if (without := ~valid.any(axis=0)).any():
            labels[without & ~np.isin(raw, list(self._table.explicit))] = self._ignore_index
        return labels, raw

    def _unlisted(self, path: Path, found: np.ndarray) -> DataError:
        labels = [written(label, as_colour=self._colours) for label in found.tolist()]
        closer = ", raise dataset.masks.tolerance" if self._colours else ""
        return DataError(
            f"{path} has {'colours' if self._colours else 'labels'} that no class of the recipe "
            f"lists: {few(labels)}.",
            hint=f"Add them to a class's 'values' or to dataset.masks.ignore{closer}, or let all "
            "such labels count as no label: --set dataset.masks.unknown=ignore",
        )


class ValueReader:
    """Reads the values of a regression's target from a mask.

    Args:
        recipe: Says what turns the mask's values into the target's unit, and which mean nothing.
        raster: What reads files; one of its own if not given.
    """

    def __init__(self, recipe: Recipe, raster: RasterReader | None = None) -> None:
        self._masks = recipe.dataset.masks
        self._raster = raster or RasterReader()

    def read(self, path: Path, tile: Tile) -> np.ndarray:
        """Values `(h, w)` float32 in the target's unit, `NO_VALUE` where there is none."""
        (raw,), (valid,) = self._raster.read(path, [self._masks.band], tile)
        values = raw.astype(np.float64) * self._masks.scale + self._masks.offset
        valid &= ~np.isin(raw.astype(np.float64), self._masks.ignore)
        return np.where(valid, values, NO_VALUE).astype(np.float32)


class LabelReader:
    """Reads what is known of each pixel of a sample, in one split.

    Args:
        recipe: Says what the masks mean.
        areas: The areas whose labels belong to the split; all labels if not given.
    """

    def __init__(self, recipe: Recipe, areas: Collection[int] | None = None) -> None:
        self._recipe = recipe
        self._areas = None if areas is None else np.array(sorted(areas), np.int64)
        self._raster = RasterReader()
        by_value = recipe.task == "regression"
        self._masks = (ValueReader if by_value else MaskReader)(recipe, self._raster)
        self.unlabelled = NO_VALUE if by_value else recipe.ignore_index

    def read(self, sample: Sample, tile: Tile, done: Covered = (0, 0)) -> np.ndarray:
        """Labels `(h, w)`, int64 classes or float32 values; `unlabelled` where there is none.

        Args:
            sample: Whose labels.
            tile: A window of it.
            done: Rows and columns at the start whose labels are left out.

        Raises:
            DataError: A file is damaged or not as the recipe says, or holds unknown labels.
        """
        with reading():
            labels = self._masks.read(sample.mask, self._in_mask(sample, tile))
            if self._areas is not None:
                labels[~self._inside(sample, tile)] = self.unlabelled
        labels[: done[0]] = self.unlabelled
        labels[:, : done[1]] = self.unlabelled
        return labels

    def finds(self, sample: Sample, tile: Tile, done: Covered = (0, 0)) -> bool:
        """Whether a tile has any label."""
        return bool((self.read(sample, tile, done) != self.unlabelled).any())

    def look(self, sample: Sample, tile: Tile) -> tuple[np.ndarray, np.ndarray]:
        """Class indices `(h, w)` of all areas, `UNKNOWN` among them, and the mask's values.

        Raises:
            DataError: The mask is damaged or not as the recipe says.
        """
        return self._masks.look(sample.mask, self._in_mask(sample, tile))

    def _in_mask(self, sample: Sample, tile: Tile) -> Tile:
        """A tile in the pixels of the mask, which is checked.

        Masks of recipes with a `shape` were not looked at before.
        """
        header = self._raster.header(sample.mask)
        check_mask(sample.mask, header, self._recipe)
        return self._place(sample.mask, header, sample, tile)

    def _inside(self, sample: Sample, tile: Tile) -> np.ndarray:
        """Where the areas of the split are `(h, w)`."""
        header = self._raster.header(sample.areas)
        check_areas(sample.areas, header)
        place = self._place(sample.areas, header, sample, tile)
        (numbers,), (valid,) = self._raster.read(sample.areas, [1], place)
        return valid & np.isin(numbers, self._areas)

    def _place(self, path: Path, header: Header, sample: Sample, tile: Tile) -> Tile:
        """A tile of a sample in the pixels of a raster, which may begin elsewhere than images."""
        window, stated = sample.window, self._recipe.dataset.shape is not None
        if window is None:
            check_size(path, header, (sample.height, sample.width), None, stated=stated)
            return tile
        own = same_ground(path, [dates[0] for dates in sample.images], window)
        return Tile(own.row + tile.row, own.col + tile.col, tile.height, tile.width)
