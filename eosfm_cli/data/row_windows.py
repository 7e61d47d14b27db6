"""Rows of a table that are parts of images, each where the row's feature lies."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath

import rasterio
from rasterio.crs import CRS
from rasterio.errors import CRSError, RasterioError
from rasterio.warp import transform_bounds
from rasterio.windows import WindowError, from_bounds

from eosfm_cli.data.kinds import Files
from eosfm_cli.data.reader import plain_images_allowed
from eosfm_cli.data.splits import Key
from eosfm_cli.data.table import Table
from eosfm_cli.data.table_files import Bounds
from eosfm_cli.errors import DataError
from eosfm_cli.tiling import Tile


@dataclass(frozen=True)
class Windowed:
    """Samples that are parts of images."""

    rows: Mapping[Key, Files]
    """The files of each; of the images that have no row, the images themselves."""
    table: Table
    """Its rows called as the samples."""
    bounds: Mapping[Key, Bounds]
    """Where each lies, in the features' coordinates."""
    image_of: Mapping[Key, Key]
    """The image that each is a part of."""


def windows_of(rows: Mapping[Key, Files], table: Table) -> Windowed:
    """Make a sample of every row, called `<id of the image>#<number of the row, from 1>`."""
    by_image = _rows_by_image(table)
    names = {row: row for row in table.rows}
    files: dict[Key, Files] = {}
    bounds: dict[Key, Bounds] = {}
    image_of: dict[Key, Key] = {}
    for key, own in rows.items():
        name = PurePosixPath(next(iter(own.values()))[0].path)
        called = next((t for t in (key.id, name.name, name.stem) if t in by_image), None)
        if called is None:
            files[key] = own
            continue
        for number, row in enumerate(by_image[called], 1):
            part = key._replace(id=f"{key.id}#{number}")
            files[part], names[row], bounds[part] = own, part.id, table.bounds[row]
            image_of[part] = key
    return Windowed(files, _renamed(table, names), bounds, image_of)


def _rows_by_image(table: Table) -> Mapping[str, list[str]]:
    """What may call an image -> its rows, in their order."""
    found: dict[str, list[str]] = defaultdict(list)
    for row in table.rows:
        path = PurePosixPath(row.rpartition("#")[0])
        for text in dict.fromkeys((str(path), path.name, path.stem)):
            found[text].append(row)
    return found


def _renamed(table: Table, names: Mapping[str, str]) -> Table:
    return replace(
        table,
        rows=tuple(names[row] for row in table.rows),
        splits={names[row]: split for row, split in table.splits.items()},
        labels={names[row]: label for row, label in table.labels.items()},
        fields={names[row]: fields for row, fields in table.fields.items()},
    )


def window_in(path: Path, bounds: Bounds, crs: str | None, shape: tuple[int, int]) -> Tile:
    """The part of an image where something lies, in whole pixels.

    Args:
        path: A georeferenced raster.
        bounds: Where it lies: least and largest x and y.
        crs: Of these coordinates; the image's own if not given.
        shape: Rows and columns of the grid to count in, which covers the same ground.

    Raises:
        DataError: The image is not georeferenced, or that place is not in it.
    """
    try:
        own, transform, size = _georeference(path)
        if crs is not None and CRS.from_user_input(crs) != own:
            bounds = transform_bounds(crs, own, *bounds)
        if not all(map(math.isfinite, bounds)):
            raise WindowError(f"a feature lies at no place in its coordinates ({crs or own})")
        window = from_bounds(*bounds, transform)
    except (RasterioError, CRSError, WindowError, OSError) as error:
        raise DataError(
            f"Cannot find the windows of {path}: {error}.",
            hint="With dataset.labels.windows, images are georeferenced and not rotated, and "
            "features are in their coordinates or say in which they are.",
        ) from None
    down, across = (fine / coarse for fine, coarse in zip(shape, size, strict=True))
    row, height = _clipped(window.row_off * down, window.height * down, shape[0])
    col, width = _clipped(window.col_off * across, window.width * across, shape[1])
    if height < 1 or width < 1:
        raise DataError(
            f"A feature lies outside of its image {path}.",
            hint="dataset.labels.id names the column that says which image a feature is in; "
            "features are in the image's coordinates, or say in which they are ('crs').",
        )
    return Tile(row, col, height, width)


def _clipped(start: float, length: float, most: int) -> tuple[int, int]:
    """The first pixel and the number of pixels, inside an image of `most`."""
    first, count = round(start), round(length)
    begin = max(first, 0)
    return begin, min(first + count, most) - begin


@lru_cache(maxsize=1024)
def _georeference(path: Path) -> tuple[CRS, rasterio.Affine, tuple[int, int]]:
    with plain_images_allowed(), rasterio.open(path) as raster:
        if raster.crs is None:
            raise CRSError("it has no coordinate system")
        return raster.crs, raster.transform, raster.shape
