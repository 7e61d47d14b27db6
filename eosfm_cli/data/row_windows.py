"""Rows of a table that are parts of images, each where the row's feature lies."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath

import rasterio
from rasterio.crs import CRS
from rasterio.errors import CRSError, RasterioError
from rasterio.warp import transform, transform_bounds
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
        own, grid, size = _georeference(path)
        if own is None:
            raise CRSError("it has no coordinate system")
        if crs is not None and CRS.from_user_input(crs) != own:
            bounds = transform_bounds(crs, own, *bounds)
        if not all(map(math.isfinite, bounds)):
            raise WindowError(f"a feature lies at no place in its coordinates ({crs or own})")
        window = from_bounds(*bounds, grid)
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


def same_ground(path: Path, images: Sequence[Path], window: Tile) -> Tile:
    """The part of a raster that shows what a window of images shows.

    It is found to half a pixel, and where the raster ends, to one.
    The raster may have been cut from another grid, and begin before the images or after them.

    Args:
        path: A raster with pixels as large as those of the images; where it is not georeferenced,
            it shows all that they show.
        images: The images of a sample, which cover the same ground.
        window: A part of them, in pixels of the finest of their grids.

    Raises:
        DataError: Its pixels are of another size, or it does not reach so far.
    """
    crs, grid, whole = _finest(tuple(images))
    own, own_grid, size = _georeference(path)
    if own_grid.is_identity and size == whole:
        return window
    _check_pixels(path, own_grid, grid, max(window.height, window.width))
    x, y = grid @ (window.col, window.row)
    if own is not None and own != crs:
        (x,), (y,) = transform(crs, own, [x], [y])
    across, down = ~own_grid @ (x, y)
    row = _kept_inside(down, window.height, size[0])
    col = _kept_inside(across, window.width, size[1])
    tile = Tile(row, col, window.height, window.width)
    if row < 0 or col < 0 or row + tile.height > size[0] or col + tile.width > size[1]:
        raise DataError(
            f"{path} has {size[1]} × {size[0]} pixels (width × height), and does not show all that "
            f"the table lists of {images[0]}.",
            hint="Get it again, or take the features that it does not reach out of the table.",
        )
    return tile


def _check_pixels(path: Path, own: rasterio.Affine, grid: rasterio.Affine, length: int) -> None:
    """Check that so many pixels of a raster are as long as those of its image, to half a pixel."""
    if own.is_identity:
        raise DataError(
            f"{path} is not georeferenced, and not of its image's size.",
            hint="Get it again, or resample it to its image's grid.",
        )
    ratios = own.a / grid.a, own.e / grid.e
    if own.b or own.d or any(abs(ratio - 1) * length > 0.5 for ratio in ratios):
        raise DataError(
            f"{path} has pixels of {own.a:g} × {-own.e:g}, its image of {grid.a:g} × {-grid.e:g}.",
            hint="Resample it to its image's grid.",
        )


def _kept_inside(start: float, length: int, most: int) -> int:
    """The pixel where something starts; the one beside it where rounding led out of the raster."""
    first = round(start)
    return min(max(first, 0), most - length) if -1 < start < most - length + 1 else first


_Georeference = tuple[CRS | None, rasterio.Affine, tuple[int, int]]
"""Coordinate system, what turns columns and rows into coordinates, and rows and columns."""


def _finest(images: tuple[Path, ...]) -> _Georeference:
    """The finest grid of images that cover the same ground."""
    crs, grid, coarse = _georeference(images[0])
    fine = max(_georeference(path)[2] for path in images)
    return crs, grid @ rasterio.Affine.scale(coarse[1] / fine[1], coarse[0] / fine[0]), fine


def _georeference(path: Path) -> _Georeference:
    try:
        status = path.stat()
    except OSError:  # opening it says what is wrong
        return _read_georeference(path, (0, 0))
    return _read_georeference(path, (status.st_size, status.st_mtime_ns))


@lru_cache(maxsize=1024)
def _read_georeference(path: Path, _changed: tuple[int, int]) -> _Georeference:
    with plain_images_allowed(), rasterio.open(path) as raster:
        return raster.crs, raster.transform, raster.shape
