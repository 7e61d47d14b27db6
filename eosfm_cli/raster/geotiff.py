"""Maps as GeoTIFF: classes that a GIS shows with names and colours, and values with their unit."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import RasterioError
from rasterio.io import DatasetWriter
from rasterio.windows import Window

from eosfm_cli.raster.colours import class_colours, to_rgb
from eosfm_cli.raster.gdal import complaint, quiet_open
from eosfm_cli.raster.grid import Grid
from eosfm_cli.recipe import ClassSpec, TargetSpec
from eosfm_cli.run_dir import replacing, write_text

NODATA = 255
"""In a map of classes, where there is none."""
NO_VALUE = -9999.0
"""In a map of values, where there is none."""
_BLOCK = 256

# Numbers of GDAL's attribute table: what a column's values are, and what they are for.
_INTEGER, _TEXT = 0, 2
_COLUMNS = (
    ("Value", _INTEGER, 5),
    ("Class", _TEXT, 2),
    ("Red", _INTEGER, 6),
    ("Green", _INTEGER, 7),
    ("Blue", _INTEGER, 8),
)


class MapWriter:
    """Takes a map's rows from the top down and writes them by whole blocks."""

    def __init__(self, dataset: DatasetWriter) -> None:
        self._dataset = dataset
        self._rows = np.empty((_BLOCK, dataset.width), dataset.dtypes[0])
        self._row = 0
        self._waiting = 0

    def write(self, rows: NDArray[np.generic]) -> None:
        """Take the next rows, `(rows, width)`."""
        while len(rows):
            count = min(len(rows), _BLOCK - self._waiting)
            self._rows[self._waiting : self._waiting + count] = rows[:count]
            self._waiting += count
            rows = rows[count:]
            if self._waiting == _BLOCK:
                self.flush()

    def flush(self) -> None:
        """Write the rows that wait for their block to fill."""
        window = Window(0, self._row, self._dataset.width, self._waiting)
        if self._waiting:
            self._dataset.write(self._rows[: self._waiting], 1, window=window)
        self._row += self._waiting
        self._waiting = 0


@contextmanager
def new_map(
    path: Path, grid: Grid, classes: Sequence[ClassSpec], *, title: str, tags: Mapping[str, str]
) -> Iterator[MapWriter]:
    """Write a map of classes; it appears under its name when all of its rows are there.

    Args:
        path: The file; `<path>.aux.xml` with the class names is written beside it.
        grid: Size and georeferencing.
        classes: A pixel's value is the index of its class, 255 where there is none.
        title: What the map shows; the description of its band.
        tags: Metadata of the file.

    Raises:
        OutputError: The place cannot be written.
    """
    with _created(path, grid, tags, dtype="uint8", nodata=NODATA) as dataset:
        dataset.write_colormap(1, _colour_table(classes))
        dataset.set_band_description(1, title)
        writer = MapWriter(dataset)
        yield writer
        writer.flush()
    write_text(sidecar(path), _class_names(classes))


@contextmanager
def new_value_map(
    path: Path, grid: Grid, target: TargetSpec, *, tags: Mapping[str, str]
) -> Iterator[MapWriter]:
    """Write a map of values; it appears under its name when all of its rows are there.

    Args:
        path: The file.
        grid: Size and georeferencing.
        target: What the values are: description and unit of the band.
        tags: Metadata of the file.

    Raises:
        OutputError: The place cannot be written.
    """
    with _created(path, grid, tags, dtype="float32", nodata=NO_VALUE) as dataset:
        dataset.set_band_description(1, target.name)
        dataset.units = (target.unit or "",)
        writer = MapWriter(dataset)
        yield writer
        writer.flush()
    sidecar(path).unlink(missing_ok=True)


def write_probabilities(
    path: Path,
    grid: Grid,
    names: Sequence[str],
    values: NDArray[np.float32],
    *,
    tags: Mapping[str, str],
) -> None:
    """Write a small map with a band of probability for each class.

    Args:
        path: The file.
        grid: Size and georeferencing.
        names: The classes: descriptions of the bands.
        values: `(classes, rows, columns)`, NaN where there is none.
        tags: Metadata of the file.

    Raises:
        OutputError: The place cannot be written.
    """
    count = len(names)
    with _created(path, grid, tags, dtype="float32", nodata=NO_VALUE, count=count) as dataset:
        dataset.write(np.where(np.isnan(values), np.float32(NO_VALUE), values))
        dataset.descriptions = tuple(names)
    sidecar(path).unlink(missing_ok=True)


@contextmanager
def _created(
    path: Path,
    grid: Grid,
    tags: Mapping[str, str],
    *,
    dtype: str,
    nodata: float,
    count: int = 1,
) -> Iterator[DatasetWriter]:
    """A new GeoTIFF that takes its place when it is complete."""
    profile = {**_PROFILE, "dtype": dtype, "nodata": nodata, "count": count, **grid.profile}
    with replacing(path) as temporary, _writing(path):
        with quiet_open(temporary, "w", **profile) as dataset:
            dataset.update_tags(**tags)
            yield dataset
        _check_complete(temporary)
    # Overviews of a map that stood here before would show the old one.
    path.with_name(path.name + ".ovr").unlink(missing_ok=True)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Keep GDAL's messages off the terminal and say in ours what it could not write."""
    with rasterio.Env():
        try:
            yield
        except RasterioError as error:
            raise OSError(errno.EIO, complaint(error, path)) from None


def sidecar(path: Path) -> Path:
    """The file beside a map in which GDAL and QGIS look for class names."""
    return path.with_name(path.name + ".aux.xml")


_PROFILE = {
    "driver": "GTiff",
    "tiled": True,
    "blockxsize": _BLOCK,
    "blockysize": _BLOCK,
    "compress": "deflate",
    "BIGTIFF": "IF_SAFER",
}


def _check_complete(path: Path) -> None:
    """Read the last pixel: GDAL does not say so when the disk fills up while it closes a file."""
    with quiet_open(path) as dataset:
        dataset.read(1, window=Window(dataset.width - 1, dataset.height - 1, 1, 1))


def _colour_table(classes: Sequence[ClassSpec]) -> dict[int, tuple[int, int, int, int]]:
    colours = class_colours(classes)
    return {i: (*to_rgb(colour), 255) for i, colour in enumerate(colours)}


def _class_names(classes: Sequence[ClassSpec]) -> str:
    root = ElementTree.Element("PAMDataset")
    band = ElementTree.SubElement(root, "PAMRasterBand", band="1")
    names = ElementTree.SubElement(band, "CategoryNames")
    table = ElementTree.SubElement(band, "GDALRasterAttributeTable", tableType="thematic")
    for i, (name, kind, usage) in enumerate(_COLUMNS):
        column = ElementTree.SubElement(table, "FieldDefn", index=str(i))
        for tag, value in (("Name", name), ("Type", kind), ("Usage", usage)):
            ElementTree.SubElement(column, tag).text = str(value)
    for i, (spec, colour) in enumerate(zip(classes, class_colours(classes), strict=True)):
        name = "".join(c for c in spec.name if c.isprintable())
        ElementTree.SubElement(names, "Category").text = name
        row = ElementTree.SubElement(table, "Row", index=str(i))
        for value in (i, name, *to_rgb(colour)):
            ElementTree.SubElement(row, "F").text = str(value)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"
