"""How QGIS shows a map: a style file beside it, which QGIS takes by itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from rasterio.enums import Resampling

from eosfm_cli.raster.colours import RAMP, class_colours, value_span
from eosfm_cli.raster.layers import Layer
from eosfm_cli.raster.opening import open_raster
from eosfm_cli.recipe import ClassSpec
from eosfm_cli.run_dir import write_text

_VERSION = "3.28"
_LOOKED_AT = 1000
"""Pixels on the longer side in which the range of values is looked for."""
_OURS = "<!-- written by eosfm; kept when QGIS has saved another style over it -->"
_DOCTYPE = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>"


def style_path(map_: Path) -> Path:
    """The file in which QGIS looks for a map's style."""
    return map_.with_suffix(".qml")


def write_style(map_: Path, layer: Layer) -> Path | None:
    """Write a finished map's style: its classes, or a ramp of colours over its values.

    Args:
        map_: The map.
        layer: What its bands mean; of several, the first is shown.

    Returns:
        The file; `None` where another style was saved there.

    Raises:
        OutputError: The place cannot be written.
    """
    path = style_path(map_)
    if path.exists() and not _is_ours(path):
        return None
    renderer = _palette(layer.classes) if layer.classes else _ramp(layer, *_span(map_, layer))
    write_text(path, _document(renderer))
    return path


def vector_style(classes: Sequence[ClassSpec], column: str) -> str:
    """The style of polygons whose `column` holds the name of a class."""
    renderer = ElementTree.Element("renderer-v2", type="categorizedSymbol", attr=column)
    categories = ElementTree.SubElement(renderer, "categories")
    symbols = ElementTree.SubElement(renderer, "symbols")
    for number, (spec, colour) in enumerate(zip(classes, class_colours(classes), strict=True)):
        facts = {"value": spec.name, "label": spec.name, "symbol": str(number), "render": "true"}
        ElementTree.SubElement(categories, "category", type="string", **facts)
        symbol = ElementTree.SubElement(symbols, "symbol", type="fill", name=str(number), alpha="1")
        fill = ElementTree.SubElement(symbol, "layer", {"class": "SimpleFill"}, enabled="1")
        options = ElementTree.SubElement(fill, "Option", type="Map")
        for name, value in _fill(colour).items():
            ElementTree.SubElement(options, "Option", type="QString", name=name, value=value)
    return _document(renderer, in_pipe=False)


def _fill(colour: str) -> dict[str, str]:
    rgb = ",".join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5))
    return {"color": f"{rgb},255", "style": "solid", "outline_style": "no"}


def _is_ours(path: Path) -> bool:
    """Whether nobody has saved another style: QGIS does not write the comment again."""
    try:
        return _OURS in path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


def _span(map_: Path, layer: Layer) -> tuple[float, float]:
    """What the ends of the colours stand for."""
    if layer.low is not None and layer.high is not None:
        return layer.low, layer.high
    with open_raster(map_) as dataset:
        factor = min(1.0, _LOOKED_AT / max(dataset.shape))
        size = tuple(max(round(length * factor), 1) for length in dataset.shape)
        values = dataset.read(1, out_shape=size, masked=True, resampling=Resampling.average)
    return value_span(values * (layer.scale or 1), layer.low, layer.high)


def _palette(classes: Sequence[ClassSpec]) -> ElementTree.Element:
    renderer = _renderer("paletted")
    palette = ElementTree.SubElement(renderer, "colorPalette")
    for value, (spec, colour) in enumerate(zip(classes, class_colours(classes), strict=True)):
        facts = {"value": str(value), "label": spec.name, "color": colour, "alpha": "255"}
        ElementTree.SubElement(palette, "paletteEntry", facts)
    return renderer


def _ramp(layer: Layer, low: float, high: float) -> ElementTree.Element:
    """A ramp in the unit that QGIS shows, which is after the band's scale."""
    renderer = _renderer("singlebandpseudocolor")
    renderer.set("classificationMin", f"{low:.6g}")
    renderer.set("classificationMax", f"{high:.6g}")
    shader = ElementTree.SubElement(
        ElementTree.SubElement(renderer, "rastershader"),
        "colorrampshader",
        colorRampType="INTERPOLATED",
        classificationMode="1",
        clip="0",
        minimumValue=f"{low:.6g}",
        maximumValue=f"{high:.6g}",
    )
    unit = f" {layer.unit}" if layer.unit else ""
    for value, colour in zip(np.linspace(low, high, len(RAMP)), RAMP, strict=True):
        facts = {"value": f"{value:.6g}", "label": f"{value:.4g}{unit}"}
        ElementTree.SubElement(shader, "item", facts, color=colour, alpha="255")
    return renderer


def _renderer(kind: str) -> ElementTree.Element:
    return ElementTree.Element(
        "rasterrenderer", type=kind, band="1", opacity="1", alphaBand="-1", nodataColor=""
    )


def _document(renderer: ElementTree.Element, *, in_pipe: bool = True) -> str:
    root = ElementTree.Element("qgis", version=_VERSION, styleCategories="Symbology")
    (ElementTree.SubElement(root, "pipe") if in_pipe else root).append(renderer)
    for element in renderer.iter():
        for key, value in element.items():
            element.set(key, "".join(c for c in value if c.isprintable()))
    ElementTree.indent(root)
    return f"{_DOCTYPE}\n{_OURS}\n{ElementTree.tostring(root, encoding='unicode')}\n"
