"""A picture of a map, beside the scene and the truth where they are given."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.io import DatasetReader

from eosfm_cli.bands import band_name
from eosfm_cli.raster.colours import NODATA_COLOUR, class_colours, to_rgb, value_span
from eosfm_cli.raster.grid import Grid
from eosfm_cli.raster.layers import NODATA
from eosfm_cli.raster.opening import open_raster
from eosfm_cli.recipe import ClassSpec, TargetSpec
from eosfm_cli.run_dir import replacing

_DPI = 100
_LONGEST = 14.5
"""Inches; the picture stays under 1500 pixels."""
_PANEL = 10.0
_LEGEND = 2.7
_GAP = 0.25
_HEAD = 0.8
_MOST_ENTRIES = 24
_BAR = 8
"""Lines of a legend that a colour bar is as high as."""
_VALUES = "viridis"
_LINE = 0.3
_GREY = "#666666"
_DARK = 0.3
"""A band whose middle value is darker than this share of white is lifted to it."""

_COMPOSITES = (
    ("red, green, blue", ("red", "green", "blue")),
    ("near infrared, red, green", ("nir", "red", "green")),
    ("VV, VH, VH", ("vv", "vh", "vh")),
)


@dataclass(frozen=True)
class _Panel:
    title: str
    picture: NDArray[np.uint8]
    """`(h, w, 3)`."""


@dataclass(frozen=True)
class _Entry:
    label: str
    colour: str | None
    share: str


def draw_quicklook(
    output_png: Path,
    *,
    prediction: Path,
    classes: Sequence[ClassSpec],
    title: str,
    scene: Path | None = None,
    scene_bands: Sequence[str] | None = None,
    truth: Path | None = None,
    shares: Mapping[str, float] | None = None,
) -> None:
    """Draw a map with its legend, beside the scene before it and the truth behind it.

    Rasters are read reduced to what the picture shows.

    Args:
        output_png: The picture.
        prediction: The map: class indices, 255 where there is none.
        classes: Names and colours by index.
        title: Stands above all.
        scene: The raster that was mapped, if it is to be shown.
        scene_bands: Its bands in file order; its own descriptions if not given.
        truth: Class indices to compare with; other values show as no data.
        shares: Class -> share of the mapped pixels; counted in the picture if not given.

    Raises:
        RasterError: One of the rasters cannot be read.
        OutputError: The place cannot be written.
    """
    panels, labels, caption = _read_panels(scene, scene_bands, prediction, truth, classes)
    shown = shares if shares is not None else _shares(labels, classes)
    missing = float((labels >= len(classes)).mean())
    legend = _entries(classes, shown, missing)
    figure = _figure(panels, title, caption, partial(_draw_legend, entries=legend), len(legend))
    _save(figure, output_png)


def draw_values(output_png: Path, *, prediction: Path, target: TargetSpec, title: str) -> None:
    """Draw a map of values with a colour bar.

    Args:
        output_png: The picture.
        prediction: The map.
        target: What the values are; its range is that of the colours, where it has one.
        title: Stands above all.

    Raises:
        RasterError: The map cannot be read.
        OutputError: The place cannot be written.
    """
    with open_raster(prediction) as dataset:
        size, caption = _reduced(dataset), Grid.of(dataset).describe()
        values = dataset.read(1, out_shape=size, masked=True, resampling=Resampling.average)
    norm = Normalize(*value_span(values, target.min, target.max), clip=True)
    picture = (colormaps[_VALUES](norm(values.filled(norm.vmin)))[..., :3] * 255).astype(np.uint8)
    picture[np.ma.getmaskarray(values)] = to_rgb(NODATA_COLOUR)
    bar = ScalarMappable(norm, _VALUES)
    figure = _figure(
        [_Panel("map", picture)], title, caption, partial(_draw_bar, bar=bar, target=target), _BAR
    )
    _save(figure, output_png)


def _save(figure: Figure, output_png: Path) -> None:
    with replacing(output_png) as temporary, warnings.catch_warnings():
        # A name in a script that the font lacks shows as boxes; nobody needs to be told twice.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing", category=UserWarning)
        figure.savefig(temporary, dpi=_DPI, facecolor="white", format="png")


# --------------------------------------------------------------------------- reading


def _read_panels(
    scene: Path | None,
    scene_bands: Sequence[str] | None,
    prediction: Path,
    truth: Path | None,
    classes: Sequence[ClassSpec],
) -> tuple[list[_Panel], NDArray[np.uint8], str]:
    """The panels in order, the map's labels, and a line on its grid."""
    panels = []
    if scene is not None:
        with open_raster(scene) as dataset:
            panels.append(_scene_panel(dataset, scene_bands))
    with open_raster(prediction) as dataset:
        labels, caption = _read_labels(dataset), Grid.of(dataset).describe()
    panels.append(_Panel("map", _paint(labels, classes)))
    if truth is not None:
        with open_raster(truth) as dataset:
            panels.append(_Panel("truth", _paint(_read_labels(dataset), classes)))
    return panels, labels, caption


def _reduced(dataset: DatasetReader) -> tuple[int, int]:
    """Height and width that fill a panel."""
    factor = min(1.0, _PANEL * _DPI / max(dataset.height, dataset.width))
    return max(round(dataset.height * factor), 1), max(round(dataset.width * factor), 1)


def _read_labels(dataset: DatasetReader) -> NDArray[np.uint8]:
    """Class indices, reduced by the most frequent one."""
    labels = dataset.read(1, out_shape=_reduced(dataset), resampling=Resampling.mode)
    inside = (labels >= 0) & (labels < NODATA)
    return np.where(inside, labels, NODATA).astype(np.uint8)


def _paint(labels: NDArray[np.uint8], classes: Sequence[ClassSpec]) -> NDArray[np.uint8]:
    palette = np.full((256, 3), to_rgb(NODATA_COLOUR), np.uint8)
    for i, colour in enumerate(class_colours(classes)):
        palette[i] = to_rgb(colour)
    return palette[labels]


def _scene_panel(dataset: DatasetReader, names: Sequence[str] | None) -> _Panel:
    """The scene in natural colours, or what comes nearest with its bands."""
    if names is None:
        names = [band_name(text) or "" if text else "" for text in dataset.descriptions]
    title, indexes = _composite(list(names), dataset.count)
    values = dataset.read(indexes, out_shape=(len(indexes), *_reduced(dataset)), masked=True)
    stretched = [_stretch(np.ma.masked_invalid(band.astype(np.float32))) for band in values]
    planes = stretched if len(stretched) == 3 else stretched * 3
    if title == "VV, VH, VH":
        planes = [planes[0], planes[1], planes[1]]
    return _Panel(f"scene ({title})", np.stack(planes, axis=-1))


def _composite(names: list[str], count: int) -> tuple[str, list[int]]:
    for title, wanted in _COMPOSITES:
        if set(wanted) <= set(names):
            return title, [names.index(band) + 1 for band in wanted]
    if not any(names) and count >= 3:
        return "bands 1, 2, 3", [1, 2, 3]
    return next((name for name in names if name), "band 1"), [1]


def _stretch(band: np.ma.MaskedArray) -> NDArray[np.uint8]:
    """Spread a band between its 2nd and 98th percentile; light grey where it has no value.

    Where a few bright pixels, such as clouds, leave the rest dark, the dark half is lifted.
    """
    valid = band.compressed()
    if not valid.size:
        return np.full(band.shape, to_rgb(NODATA_COLOUR)[0], np.uint8)
    low, high = np.percentile(valid, (2, 98))
    spread = np.clip((band.filled(low) - low) / max(high - low, 1e-12), 0, 1)
    middle = np.median(spread[~np.ma.getmaskarray(band)])
    if 0 < middle < _DARK:
        spread **= np.log(_DARK) / np.log(middle)
    grey = (spread * 255).astype(np.uint8)
    return np.where(np.ma.getmaskarray(band), to_rgb(NODATA_COLOUR)[0], grey).astype(np.uint8)


# --------------------------------------------------------------------------- legend


def _shares(labels: NDArray[np.uint8], classes: Sequence[ClassSpec]) -> dict[str, float]:
    counts = np.bincount(labels.ravel(), minlength=256)[: len(classes)]
    total = max(int(counts.sum()), 1)
    return {spec.name: float(n) / total for spec, n in zip(classes, counts, strict=True)}


def _entries(
    classes: Sequence[ClassSpec], shares: Mapping[str, float], missing: float
) -> list[_Entry]:
    """The legend in the order of the classes; where there are many, the largest of them."""
    ranked = sorted(classes, key=lambda spec: -shares.get(spec.name, 0.0))
    largest = {spec.name for spec in ranked[:_MOST_ENTRIES]}
    entries = [
        _Entry(spec.name, colour, _percent(shares.get(spec.name, 0.0)))
        for spec, colour in zip(classes, class_colours(classes), strict=True)
        if spec.name in largest
    ]
    if len(classes) > len(entries):
        entries.append(_Entry(f"and {len(classes) - len(entries)} smaller", None, ""))
    if missing > 0:
        entries.append(_Entry("no data", NODATA_COLOUR, ""))
    return entries


def _percent(share: float) -> str:
    if 0 < share < 0.001:
        return "< 0.1 %"
    return f"{100 * share:.1f} %"


# --------------------------------------------------------------------------- drawing


def _figure(
    panels: list[_Panel], title: str, caption: str, draw_legend: Callable[[Axes], None], lines: int
) -> Figure:
    """Lay panels and a legend of some lines out in inches, so that nothing ever overlaps."""
    width, height = _panel_size(panels)
    legend_height = _LINE * lines
    total_height = max(height, legend_height) + _HEAD + 0.6
    total_width = len(panels) * (width + _GAP) + _GAP + _LEGEND
    figure = Figure(figsize=(total_width, total_height), dpi=_DPI)
    FigureCanvasAgg(figure)
    for i, panel in enumerate(panels):
        left = _GAP + i * (width + _GAP)
        _draw_panel(_axes(figure, left, _HEAD, width, height), panel, titled=len(panels) > 1)
    left = _GAP + len(panels) * (width + _GAP)
    draw_legend(_axes(figure, left, _HEAD, _LEGEND - _GAP, legend_height))
    heading = _write(figure, title, 0.36, size=13, weight="bold")
    _fit(heading, total_width - 2 * _GAP)
    _fit(_write(figure, caption, total_height - 0.22, size=9, color=_GREY), total_width - 2 * _GAP)
    return figure


def _panel_size(panels: list[_Panel]) -> tuple[float, float]:
    """Inches of a panel; strips longer than 1 : 4 are shown wider than they are."""
    rows, cols, _ = panels[0].picture.shape
    ratio = min(max(cols / rows, 0.25), 4.0)
    room = (_LONGEST - _LEGEND - _GAP) / len(panels) - _GAP
    width = min(room, _PANEL, _PANEL * ratio)
    return width, width / ratio


def _axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes at a place in inches from the upper left corner."""
    total_width, total_height = figure.get_size_inches()
    return figure.add_axes(
        (
            left / total_width,
            1 - (top + height) / total_height,
            width / total_width,
            height / total_height,
        )
    )


def _write(figure: Figure, text: str, top: float, **style: object) -> Text:
    """Write a line at the left edge, its baseline `top` inches from the upper one."""
    width, height = figure.get_size_inches()
    return figure.text(_GAP / width, 1 - top / height, text, parse_math=False, **style)


def _fit(text: Text, room: float) -> None:
    """Cut a text off where it would be longer than `room` inches."""
    whole = text.get_text()
    for length in range(len(whole) - 1, 0, -1):
        if text.get_window_extent().width <= room * text.get_figure().dpi:
            return
        text.set_text(whole[:length].rstrip() + "…")


def _draw_panel(axes: Axes, panel: _Panel, *, titled: bool) -> None:
    axes.imshow(panel.picture, interpolation="nearest", aspect="auto")
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(linewidth=0.6, color=_GREY)
    if titled:
        axes.set_title(panel.title, fontsize=10, loc="left", pad=4)


def _draw_bar(axes: Axes, bar: ScalarMappable, target: TargetSpec) -> None:
    """A colour bar at the left of its axes, its words at the right."""
    axes.axis("off")
    inside = axes.inset_axes((0, 0, 0.12, 1))
    axes.get_figure().colorbar(bar, cax=inside)
    inside.set_ylabel(target.title, fontsize=9, parse_math=False)
    inside.tick_params(labelsize=8)


def _draw_legend(axes: Axes, entries: list[_Entry]) -> None:
    axes.set(xlim=(0, 1), ylim=(len(entries), 0))
    axes.axis("off")
    for row, entry in enumerate(entries):
        if entry.colour is not None:
            axes.add_patch(
                Rectangle(
                    (0, row + 0.2), 0.09, 0.6, facecolor=entry.colour, edgecolor=_GREY, lw=0.4
                )
            )
        style = {"va": "center", "fontsize": 9, "parse_math": False}
        _fit(axes.text(0.13, row + 0.5, entry.label, **style), 0.6 * (_LEGEND - _GAP))
        axes.text(1, row + 0.5, entry.share, ha="right", color=_GREY, **style)
