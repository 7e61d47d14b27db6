"""What the values of a class map stand for, as the map itself says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from rasterio.io import DatasetReader

from eosfm_cli.raster.geotiff import sidecar

_NAME_USAGE = "2"
_VALUE_USAGES = {"5", "3"}  # of one value, or of the smallest of a range


@dataclass(frozen=True)
class Legend:
    """Names and colours of a class map's values."""

    names: dict[int, str] = field(default_factory=dict)
    """Value -> class; empty where the map has no names."""
    colours: dict[int, str] = field(default_factory=dict)
    """Value -> `#rrggbb`, of the map's colour table."""


def read_legend(path: Path, dataset: DatasetReader, band: int = 1) -> Legend:
    """Read a map's class names, from the file beside it where GDAL keeps them, and its colours."""
    return Legend(dict(_names(sidecar(path), band)), _colours(dataset, band))


def _colours(dataset: DatasetReader, band: int) -> dict[int, str]:
    try:
        table = dataset.colormap(band)
    except ValueError:  # there is none
        return {}
    return {value: f"#{r:02x}{g:02x}{b:02x}" for value, (r, g, b, _) in table.items()}


def _names(path: Path, band: int) -> Iterator[tuple[int, str]]:
    """Value and name of each class; nothing from files that cannot be understood."""
    try:
        root = ElementTree.fromstring(path.read_bytes())
    except (OSError, ElementTree.ParseError):
        return
    for element in root.findall("PAMRasterBand"):
        if element.get("band", "1") != str(band):
            continue
        for value, category in enumerate(element.findall("CategoryNames/Category")):
            if category.text:
                yield value, category.text.strip()
        yield from _table_rows(element.find("GDALRasterAttributeTable"))


def _table_rows(table: ElementTree.Element | None) -> Iterator[tuple[int, str]]:
    """Value and name in each row of an attribute table."""
    if table is None:
        return
    usages = [column.findtext("Usage", "") for column in table.findall("FieldDefn")]
    value = next((i for i, usage in enumerate(usages) if usage in _VALUE_USAGES), None)
    name = next((i for i, usage in enumerate(usages) if usage == _NAME_USAGE), None)
    if value is None or name is None:
        return
    for row in table.findall("Row"):
        cells = [cell.text or "" for cell in row.findall("F")]
        if len(cells) == len(usages) and cells[value].lstrip("-").isdigit() and cells[name]:
            yield int(cells[value]), cells[name].strip()
