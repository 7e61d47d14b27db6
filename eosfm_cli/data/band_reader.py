"""The bands that a recipe uses, by name, out of a sample's files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from eosfm_cli.data.composite import composite
from eosfm_cli.data.fitness import check_image, check_size, finest
from eosfm_cli.data.folder import Sample
from eosfm_cli.data.reader import RasterReader, reading
from eosfm_cli.data.resampling import Pixels, Shape, resampled
from eosfm_cli.data.windows import in_files
from eosfm_cli.recipe import ImageFile, Recipe
from eosfm_cli.tiling import Tile


@dataclass(frozen=True)
class _Source:
    """A file of each sample, and what is taken from it."""

    number: int
    """Its place in `Sample.images`."""
    file: ImageFile
    in_file: tuple[int, ...]
    """Bands to read, counted from 1."""
    channels: slice | list[int]
    """Where they go."""

    @classmethod
    def of(cls, number: int, file: ImageFile, bands: tuple[str, ...]) -> _Source:
        wanted = [band for band in bands if band in file.bands]
        return cls(
            number,
            file,
            tuple(file.bands.index(band) + 1 for band in wanted),
            _together([bands.index(band) for band in wanted]),
        )


def _together(numbers: list[int]) -> slice | list[int]:
    """The same as a slice if they follow one another: a block is faster to write than a choice."""
    first, count = min(numbers, default=0), len(numbers)
    return slice(first, first + count) if numbers == [*range(first, first + count)] else numbers


class BandReader:
    """Reads a recipe's bands from a sample's rasters: on one grid, of one date.

    Files that hold none of the bands are not opened.

    Args:
        recipe: Says which bands are in which file, and which are wanted in what order.
        date: Of change detection, which of its dates to read; `None` elsewhere.
    """

    def __init__(self, recipe: Recipe, date: Literal[1, 2] | None = None) -> None:
        self.bands = recipe.bands
        self._recipe = recipe
        self._raster = RasterReader()
        self._is_stated = recipe.dataset.shape is not None
        self._sources = [
            _Source.of(number, file, recipe.bands)
            for number, file in enumerate(recipe.image_files.values())
            if file.image.date == date
        ]

    def read(self, sample: Sample, tile: Tile) -> Pixels:
        """Values `(c, h, w)` float32 in the data's own units, and where they are valid.

        Values that are not valid are 0: what nodata is written as could overflow later.

        Raises:
            DataError: A file is damaged, or not as the recipe says.
        """
        with reading():
            return self._read(sample, in_files(sample, tile))

    def _read(self, sample: Sample, tile: Tile) -> Pixels:
        shape = (len(self.bands), tile.height, tile.width)
        values, valid = np.empty(shape, np.float32), np.empty(shape, bool)
        images = sample.images
        fine = self._grid(sample, images)
        for source in self._sources:
            pixels, known = self._on_finest_grid(source, images[source.number], tile, fine)
            values[source.channels] = pixels if known.all() else np.where(known, pixels, 0)
            valid[source.channels] = known
        return values, valid

    def _grid(self, sample: Sample, images: tuple[tuple[Path, ...], ...]) -> Shape:
        """Rows and columns of the finest grid of the sample's files."""
        if sample.window is None:
            return sample.height, sample.width
        return finest(self._raster.header(paths[0]) for paths in images)

    def _on_finest_grid(
        self, source: _Source, paths: tuple[Path, ...], tile: Tile, fine: Shape
    ) -> Pixels:
        dates, coarse = self._dates(source, paths, fine)
        series, method = self._recipe.dataset.series, source.file.image.resampling
        read = dates[0]
        if len(dates) > 1 and series is not None:
            read = partial(composite, dates, bands=len(source.in_file), take=series.take)
        if coarse == fine or method is None:
            return read(tile)
        return resampled(read, tile, coarse=coarse, fine=fine, method=method)

    def _dates(
        self, source: _Source, paths: tuple[Path, ...], fine: Shape
    ) -> tuple[list[Callable[[Tile], Pixels]], Shape]:
        """What reads each date, and the size of them all."""
        size, method, dates = fine, source.file.image.resampling, []
        for path in paths:
            header = self._raster.header(path)
            # Those of recipes with a `shape` were not looked at before.
            check_image(path, header, source.file, self._recipe)
            check_size(path, header, size, None if dates else method, stated=self._is_stated)
            size = header.height, header.width
            dates += [partial(self._date, source, path, date) for date in range(header.dates)]
        return dates, size

    def _date(self, source: _Source, path: Path, date: int, tile: Tile) -> Pixels:
        # The recipe names every band of the file: none of them is opacity.
        values, valid = self._raster.read(path, source.in_file, tile, alpha_is_data=True, date=date)
        for nothing in source.file.image.nodata:
            valid &= values != nothing
        return values, valid
