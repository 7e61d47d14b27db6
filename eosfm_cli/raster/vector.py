"""A map of classes as polygons: traced by strips, and joined across them."""

from __future__ import annotations

import errno
import math
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyogrio
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.io import DatasetReader
from rasterio.windows import Window

from eosfm_cli.errors import RasterError, UsageError
from eosfm_cli.progress import Progress, Silent, Step
from eosfm_cli.raster.colours import class_colours
from eosfm_cli.raster.grid import Grid
from eosfm_cli.raster.ground import areas_of, placed
from eosfm_cli.raster.opening import open_raster, reading
from eosfm_cli.raster.outlines import Outlines, whole_outlines
from eosfm_cli.raster.qgis import vector_style
from eosfm_cli.recipe import ClassSpec
from eosfm_cli.run_dir import replacing

_DRIVERS = {".gpkg": "GPKG", ".geojson": "GeoJSON", ".fgb": "FlatGeobuf"}
_STRIP_PIXELS = 2**22
_BLOCK = 512
"""Rows of a map's tiles."""
_SCHEMA = pa.schema(
    [
        ("class", pa.string()),
        ("value", pa.int32()),
        ("colour", pa.string()),
        ("area_m2", pa.float64()),
        ("geometry", pa.binary()),
    ]
)


@dataclass(frozen=True)
class PolygonSummary:
    """What was written."""

    count: int
    left_out: int
    """Polygons smaller than asked for."""


def vector_path(asked: Path, output: Path) -> Path:
    """The file of polygons for a map.

    Args:
        asked: A file; or a suffix alone (`gpkg`), for one beside the map; or a folder.
        output: The map.

    Raises:
        UsageError: The format is not one that is written.
    """
    if asked.is_dir():
        return asked / f"{output.stem}.gpkg"
    alone = f".{asked.name.lstrip('.')}".lower()
    if asked.parent == Path() and alone in _DRIVERS:
        return output.with_suffix(alone)
    if asked.suffix.lower() not in _DRIVERS:
        raise UsageError(
            f"Polygons are written as {', '.join(_DRIVERS)}, not as {asked}.",
            hint=f"For example: --vector {asked.with_suffix('.gpkg')}",
        )
    return asked


def check_placed(grid: Grid, name: str) -> None:
    """Refuse polygons of a map that lies nowhere.

    Raises:
        RasterError: It has no coordinate reference system, or control points instead of a
            transform.
    """
    crs = grid.crs
    if crs is None or not (crs.is_projected or crs.is_geographic):
        lacks = "coordinate reference system on the earth"
    elif grid.transform is None:
        lacks = "transform, only control points"
    else:
        return
    raise RasterError(
        f"{name} has no {lacks}: its polygons would lie nowhere.",
        hint="Leave --vector out, or place the scene first, as gdalwarp does.",
    )


def write_polygons(
    path: Path,
    map_: Path,
    classes: Sequence[ClassSpec],
    *,
    min_area: float = 0.0,
    strip_pixels: int = _STRIP_PIXELS,
    progress: Progress | None = None,
) -> PolygonSummary:
    """Write a finished map's classes as polygons; the file appears when it is complete.

    Pixels of a class that share an edge become one polygon with the class's name, value, colour
    and area. The area is that of the pixels in the map's projection; where that has no metres or
    none like those on the ground (degrees, Mercator), that on the ellipsoid. A polygon is in
    memory as long as it may go on below, all others only as long as their strip.

    Args:
        path: The polygons, in the format that its suffix says.
        map_: Class indices; other values make no polygons.
        classes: By index.
        min_area: Polygons of less, in m², are left out, and leave gaps.
        strip_pixels: How many pixels are traced at a time.
        progress: Told of finished rows.

    Raises:
        RasterError: The map lies nowhere, or is damaged.
        OutputError: The place cannot be written.
    """
    with open_raster(map_) as dataset:
        grid = Grid.of(dataset)
        check_placed(grid, map_.name)
        with (progress or Silent()).step("polygons", grid.height) as step:
            strips = _strips(dataset, strip_pixels // grid.width, step)
            table = _Table(
                whole_outlines(strips, grid.width, len(classes)), grid, classes, min_area
            )
            if path.suffix.lower() == ".geojson":
                table.transform = _within_one_turn(grid)
            with replacing(path) as temporary:
                _write(table, temporary, path, grid)
                if path.suffix.lower() == ".gpkg":
                    _add_style(temporary, path.stem, vector_style(classes, "class"))
    return PolygonSummary(table.count, table.left_out)


def _strips(
    dataset: DatasetReader, rows: int, step: Step
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """The map's rows from above, some at a time."""
    rows = max(rows - rows % _BLOCK, min(rows, _BLOCK), 1)
    for top in range(0, dataset.height, rows):
        height = min(rows, dataset.height - top)
        with reading(dataset.name):
            labels = dataset.read(1, window=Window(0, top, dataset.width, height))
        yield top, labels
        step.advance(height)


# --------------------------------------------------------------------------- the table


class _Table:
    """Polygons with what is said of each, some at a time."""

    def __init__(
        self,
        found: Iterator[Outlines],
        grid: Grid,
        classes: Sequence[ClassSpec],
        min_area: float,
    ) -> None:
        self._found, self._min_area = found, min_area
        self.transform = grid.transform
        """From pixels to the coordinates that are written."""
        self._area = areas_of(grid)
        self._names = np.array([spec.name for spec in classes], object)
        self._colours = np.array(class_colours(classes), object)
        self.count = self.left_out = 0
        self.failure: BaseException | None = None
        """What ended the table before its time: the library that reads it does not tell."""

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The rows; the failure is kept."""
        try:
            for outlines in self._found:
                yield self._batch(outlines)
        except BaseException as error:
            self.failure = error
            raise

    def _batch(self, outlines: Outlines) -> pa.RecordBatch:
        areas = self._area(outlines.shapes)
        large = areas >= self._min_area
        shapes, values = outlines.shapes[large], outlines.values[large]
        self.count += len(shapes)
        self.left_out += len(areas) - len(shapes)
        columns = (
            self._names[values],
            values,
            self._colours[values],
            areas[large],
            shapely.to_wkb(placed(shapes, self.transform)),
        )
        arrays = [pa.array(c, kind.type) for c, kind in zip(columns, _SCHEMA, strict=True)]
        return pa.record_batch(arrays, schema=_SCHEMA)


# --------------------------------------------------------------------------- the file


def _write(table: _Table, temporary: Path, path: Path, grid: Grid) -> None:
    driver = _DRIVERS[path.suffix.lower()]
    temporary.unlink()  # an empty file is none that could be written over
    try:
        pyogrio.write_arrow(
            pa.RecordBatchReader.from_batches(_SCHEMA, table.batches()),
            temporary,
            layer=path.stem,
            driver=driver,
            geometry_name="geometry",
            geometry_type="Polygon",
            crs=grid.crs.to_wkt(),
            # GeoJSON has longitudes and latitudes alone
            layer_options={"RFC7946": "YES"} if driver == "GeoJSON" else {},
        )
    except (RuntimeError, pa.ArrowException) as error:  # what pyogrio raises
        if table.failure is not None:
            raise table.failure from None
        raise OSError(errno.EIO, str(error)) from None


def _within_one_turn(grid: Grid) -> Affine:
    """A grid's transform to longitudes of which GDAL can make those of GeoJSON, -180 to 180.

    It takes them up to 360, and loses polygons beyond.
    """
    west, _, east, _ = grid.bounds
    if not grid.crs.is_geographic or (west >= -180 and east <= 360):
        return grid.transform
    turns = math.ceil(((west + east) / 2 - 180) / 360)
    return Affine.translation(-360 * turns, 0) @ grid.transform


def _add_style(geopackage: Path, layer: str, style: str) -> None:
    """Put the classes' colours where QGIS looks for them in a GeoPackage."""
    columns = {
        "f_table_catalog": "",
        "f_table_schema": "",
        "f_table_name": layer,
        "f_geometry_column": "geom",
        "styleName": layer,
        "styleQML": style,
        "styleSLD": "",
        "useAsDefault": 1,
        "description": "",
        "owner": "",
        "ui": "",
    }
    with closing(sqlite3.connect(geopackage)) as database, database:
        database.execute(
            "CREATE TABLE layer_styles (id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, "
            "f_table_catalog TEXT(256), f_table_schema TEXT(256), f_table_name TEXT(256), "
            "f_geometry_column TEXT(256), styleName TEXT(30), styleQML TEXT, styleSLD TEXT, "
            "useAsDefault BOOLEAN, description TEXT, owner TEXT(30), ui TEXT(30), "
            "update_time DATETIME DEFAULT CURRENT_TIMESTAMP)"
        )
        database.execute(
            f"INSERT INTO layer_styles ({', '.join(columns)}) "
            f"VALUES ({', '.join('?' * len(columns))})",
            tuple(columns.values()),
        )
        database.execute(
            "INSERT INTO gpkg_contents (table_name, data_type, identifier, description) "
            "VALUES ('layer_styles', 'attributes', 'layer_styles', '')"
        )
