"""Maps as Cloud Optimized GeoTIFF: what a GIS shows with names, colours and units."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree

import numpy as np
import rasterio
from rasterio.errors import RasterioError
from rasterio.shutil import copy
from rasterio.windows import Window

from eosfm_cli.errors import unwritable
from eosfm_cli.raster.colours import class_colours, to_rgb
from eosfm_cli.raster.gdal import complaint, quiet_open
from eosfm_cli.raster.grid import Grid
from eosfm_cli.raster.layers import Layer
from eosfm_cli.raster.rawfile import RawFile, RawLayout
from eosfm_cli.recipe import ClassSpec
from eosfm_cli.run_dir import replacing, write_text

_GDAL_TYPES = {"uint8": "Byte", "float32": "Float32"}
_CACHE_MB = 64
_LARGEST_BLOCK, _SMALLEST_BLOCK = 512, 128

# Numbers of GDAL's attribute table: what a column's values are, and what they are for.
_INTEGER, _TEXT = 0, 2
_COLUMNS = (
    ("Value", _INTEGER, 5),
    ("Class", _TEXT, 2),
    ("Red", _INTEGER, 6),
    ("Green", _INTEGER, 7),
    ("Blue", _INTEGER, 8),
)


def raw_layout(grid: Grid, layer: Layer) -> RawLayout:
    """How the rows of a map are kept until it is written."""
    return RawLayout(grid.width, layer.count, layer.dtype)


def write_map(path: Path, raw: Path, grid: Grid, layer: Layer, *, tags: Mapping[str, str]) -> None:
    """Write a map from its finished rows; it appears under its name when it is complete.

    Tiled, compressed, with overviews of the most frequent class or the mean value; larger than
    4 GB where it has to be. Class names go to `<path>.aux.xml`, where GDAL and QGIS look for them.

    Args:
        path: The file.
        raw: All rows, laid out as `raw_layout` says.
        grid: Size and georeferencing.
        layer: What the bands mean.
        tags: Metadata of the file.

    Raises:
        OutputError: The place cannot be written.
    """
    description = raw.with_suffix(".vrt")
    try:
        description.write_text(_described(raw, grid, layer, tags), encoding="utf-8")
        with replacing(path) as temporary, _writing(path):
            copy(str(description), str(temporary), **map_options(grid, layer))
            _check_complete(temporary)
    finally:
        description.unlink(missing_ok=True)
    # Overviews of a map that stood here before would show the old one.
    path.with_name(path.name + ".ovr").unlink(missing_ok=True)
    if layer.classes:
        write_text(sidecar(path), _class_names(layer.classes))
    else:
        sidecar(path).unlink(missing_ok=True)


@contextmanager
def new_map(path: Path, grid: Grid, layer: Layer, *, tags: Mapping[str, str]) -> Iterator[RawFile]:
    """Write a map by rows, `(bands, rows, width)`; it appears when all of its rows are there.

    Raises:
        OutputError: The place cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=path.parent, prefix=f".{path.stem}-") as folder:
            raw = RawFile(Path(folder) / "map.raw", raw_layout(grid, layer))
            try:
                yield raw
            finally:
                raw.close()
            write_map(path, raw.path, grid, layer, tags=tags)
    except OSError as error:
        raise unwritable(path, error) from error


def map_options(grid: Grid, layer: Layer) -> dict[str, str]:
    """How GDAL writes the file."""
    block = _LARGEST_BLOCK
    while block > _SMALLEST_BLOCK and block // 2 >= max(grid.height, grid.width):
        block //= 2
    return {
        "driver": "COG",
        "COMPRESS": "DEFLATE",
        "PREDICTOR": "YES" if layer.dtype == "float32" else "NO",
        "BLOCKSIZE": str(block),
        "OVERVIEW_RESAMPLING": "MODE" if layer.classes else "AVERAGE",
        "SPARSE_OK": "TRUE",
        "BIGTIFF": "IF_SAFER",
        "NUM_THREADS": str(min(os.cpu_count() or 1, 4)),
    }


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Keep GDAL's messages off the terminal and say in ours what it could not write."""
    with rasterio.Env(GDAL_CACHEMAX=_CACHE_MB * 2**20):
        try:
            yield
        except RasterioError as error:
            raise OSError(errno.EIO, complaint(error, path)) from None


def sidecar(path: Path) -> Path:
    """The file beside a map in which GDAL and QGIS look for class names."""
    return path.with_name(path.name + ".aux.xml")


def _check_complete(path: Path) -> None:
    """Read the last pixel: GDAL does not say so when the disk fills up while it closes a file."""
    with quiet_open(path) as dataset:
        dataset.read(1, window=Window(dataset.width - 1, dataset.height - 1, 1, 1))


# --------------------------------------------------------------------------- what GDAL is told


def _described(raw: Path, grid: Grid, layer: Layer, tags: Mapping[str, str]) -> str:
    """The rows as a virtual raster: with it GDAL reads them as any other."""
    root = ElementTree.Element(
        "VRTDataset", rasterXSize=str(grid.width), rasterYSize=str(grid.height)
    )
    _place(root, grid)
    _metadata(root, tags)
    layout = raw_layout(grid, layer)
    for number, name in enumerate(layer.names, start=1):
        band = ElementTree.SubElement(
            root,
            "VRTRasterBand",
            dataType=_GDAL_TYPES[layer.dtype],
            band=str(number),
            subClass="VRTRawRasterBand",
        )
        for key, value in _band_facts(layer, name, first=number == 1):
            ElementTree.SubElement(band, key).text = value
        if layer.classes:
            _colour_table(band, layer.classes)
        source = ElementTree.SubElement(band, "SourceFilename", relativeToVRT="1")
        source.text = raw.name
        for key, value in (
            ("ImageOffset", (number - 1) * layout.line_bytes),
            ("PixelOffset", np.dtype(layer.dtype).itemsize),
            ("LineOffset", layout.row_bytes),
            ("ByteOrder", sys.byteorder[0].upper() + "SB"),
        ):
            ElementTree.SubElement(band, key).text = str(value)
    return ElementTree.tostring(root, encoding="unicode")


def _place(root: ElementTree.Element, grid: Grid) -> None:
    """Where the pixels lie, whichever way it is said."""
    wkt = grid.crs.to_wkt() if grid.crs is not None else None
    if wkt and not grid.gcps:
        ElementTree.SubElement(root, "SRS").text = wkt
    if grid.transform is not None:
        numbers = ", ".join(repr(number) for number in grid.transform.to_gdal())
        ElementTree.SubElement(root, "GeoTransform").text = numbers
    if grid.gcps:
        points = ElementTree.SubElement(root, "GCPList", Projection=wkt or "")
        for number, point in enumerate(grid.gcps, start=1):
            facts = {"Pixel": point.col, "Line": point.row, "X": point.x, "Y": point.y}
            shown = {key: repr(float(value)) for key, value in facts.items()}
            ElementTree.SubElement(
                points, "GCP", Id=str(number), **shown, Z=repr(float(point.z or 0))
            )
    if grid.rpcs is not None:
        _metadata(root, grid.rpcs.to_gdal(), domain="RPC")


def _metadata(root: ElementTree.Element, tags: Mapping[str, str], domain: str = "") -> None:
    facts = ElementTree.SubElement(root, "Metadata", {"domain": domain} if domain else {})
    for key, value in tags.items():
        ElementTree.SubElement(facts, "MDI", key=key).text = _printable(str(value))


def _band_facts(layer: Layer, name: str, *, first: bool) -> Iterator[tuple[str, str]]:
    yield "Description", _printable(name)
    yield "NoDataValue", repr(layer.nodata)
    if layer.unit:
        yield "UnitType", _printable(layer.unit)
    if layer.scale is not None:
        yield "Offset", "0"
        yield "Scale", repr(layer.scale)
    # A TIFF has one grey band; what it cannot hold, GDAL would put into a file beside it.
    yield "ColorInterp", "Palette" if layer.classes else "Gray" if first else "Undefined"


def _printable(text: str) -> str:
    return "".join(c for c in text if c.isprintable())


def _colour_table(band: ElementTree.Element, classes: Sequence[ClassSpec]) -> None:
    table = ElementTree.SubElement(band, "ColorTable")
    for colour in class_colours(classes):
        parts = zip(("c1", "c2", "c3"), map(str, to_rgb(colour)), strict=True)
        ElementTree.SubElement(table, "Entry", dict(parts), c4="255")


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
        name = _printable(spec.name)
        ElementTree.SubElement(names, "Category").text = name
        row = ElementTree.SubElement(table, "Row", index=str(i))
        for value in (i, name, *to_rgb(colour)):
            ElementTree.SubElement(row, "F").text = str(value)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"
