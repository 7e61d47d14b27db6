"""The maps that a scene can become: classes or values, and how sure the model is of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eosfm_cli import __version__
from eosfm_cli.errors import UsageError
from eosfm_cli.licences import strictest
from eosfm_cli.lineage import map_costs
from eosfm_cli.manifest import ModelManifest
from eosfm_cli.raster.geotiff import sidecar, write_map
from eosfm_cli.raster.grid import Grid
from eosfm_cli.raster.layers import (
    NO_VALUE,
    NODATA,
    SHARE_STEPS,
    Layer,
    class_layer,
    share_layer,
    spread_layer,
    value_layer,
)
from eosfm_cli.raster.mosaic import Block
from eosfm_cli.raster.qgis import write_style
from eosfm_cli.recipe import TargetSpec
from eosfm_cli.results import Cost


@dataclass(frozen=True)
class ProductOptions:
    """Which maps to make beside that of classes or values."""

    probabilities: bool = False
    """The share of every class."""
    confidence: bool = False
    """The share of the class that a pixel gets."""
    disagreement: bool = False
    """How far the specialists differ."""
    nodata: int = NODATA
    """What stands in a map of classes where there is none."""


@dataclass(frozen=True)
class Product:
    """One of the maps that are made of a scene."""

    name: str
    layer: Layer
    values: Callable[[Block], NDArray[np.generic]]
    """Finished pixels as the map holds them, `(bands, h, w)`."""
    suffix: str = ""
    """What its file's name ends in; nothing for the map itself."""

    def path(self, output: Path) -> Path:
        """Its file, beside the map `output`: `scene_prob.tif` beside `scene_pred.tif`."""
        if not self.suffix:
            return output
        stem = output.stem.removesuffix("_pred")
        return output.with_name(f"{stem}{self.suffix}{output.suffix}")


def products(manifest: ModelManifest, options: ProductOptions | None = None) -> list[Product]:
    """The maps to make, that of classes or values first.

    Args:
        manifest: The model.
        options: What to make besides; nothing if not given.

    Raises:
        UsageError: The model cannot say what is asked for, or nodata would be taken for a class.
    """
    options = options or ProductOptions()
    _refuse_disagreement_of_one(manifest, options)
    if manifest.target is not None:
        return _of_values(manifest, manifest.target, options)
    return _of_classes(manifest, options)


def depth_of(manifest: ModelManifest, options: ProductOptions | None = None) -> int:
    """How many scores a pixel has: of every class, or the value; then the disagreement."""
    return (len(manifest.classes) or 1) + bool(options and options.disagreement)


def write_product(
    product: Product, output: Path, raw: Path, grid: Grid, *, tags: Mapping[str, str]
) -> list[Path]:
    """Write one map from its finished rows, with what a GIS shows it with.

    Args:
        product: The map.
        output: The map of classes or values, beside which the others go.
        raw: Its rows, laid out as `raw_layout` says.
        grid: Size and georeferencing.
        tags: Metadata of the file.

    Returns:
        What was written, the map first.

    Raises:
        OutputError: The place cannot be written.
    """
    path = product.path(output)
    write_map(path, raw, grid, product.layer, tags=tags)
    written = [path, *([sidecar(path)] if product.layer.classes else [])]
    style = write_style(path, product.layer)
    return [*written, style] if style else written


def map_tags(
    manifest: ModelManifest,
    *,
    model: str | None,
    input: str,
    before: str | None = None,
    cost: Cost | None = None,
) -> dict[str, str]:
    """What a map's file says about where it comes from.

    Args:
        manifest: The model.
        model: The name of its file.
        input: The name of the scene.
        before: The name of the scene at the earlier date.
        cost: What the work took up to where the file is written: it cannot be changed after.
    """
    licences = (manifest.licence, *(s.licence for s in manifest.specialists))
    found = {
        "TIFFTAG_SOFTWARE": f"eosfm {__version__}",
        "TIFFTAG_IMAGEDESCRIPTION": f"{manifest.title}: {input}",
        "TIFFTAG_COPYRIGHT": strictest(licences),
        "TIFFTAG_DATETIME": datetime.now(UTC).strftime("%Y:%m:%d %H:%M:%S"),
        "EOSFM_INPUT": input,
        "EOSFM_BEFORE": before,
        "EOSFM_MODEL": model,
        "EOSFM_MODEL_CREATED": manifest.created,
        "EOSFM_RECIPE": manifest.recipe,
        "EOSFM_BANDS": ", ".join(manifest.bands),
        "EOSFM_SPECIALISTS": ", ".join(s.name for s in manifest.specialists),
        **map_costs(manifest, cost or Cost()),
    }
    return {key: value for key, value in found.items() if value}


# --------------------------------------------------------------------------- what is made


def _of_classes(manifest: ModelManifest, options: ProductOptions) -> list[Product]:
    classes = manifest.classes
    _refuse_nodata(options.nodata, len(classes))
    made = [
        Product(
            "map",
            class_layer(classes, manifest.title, options.nodata),
            lambda block: labels_of(block, len(classes), options.nodata)[None],
        )
    ]
    if options.probabilities:
        layer = share_layer([spec.name for spec in classes])
        made.append(_shares("probabilities", "_prob", layer, slice(len(classes))))
    if options.confidence:
        layer = share_layer(["share of the likeliest class"])
        made.append(Product("confidence", layer, partial(_best_share, len(classes)), "_conf"))
    if options.disagreement:
        # Specialists rarely differ as far as they could: the colours span what there is.
        layer = replace(share_layer(["disagreement of the specialists"]), high=None)
        made.append(_shares("disagreement", "_disagree", layer, slice(len(classes), None)))
    return made


def _of_values(
    manifest: ModelManifest, target: TargetSpec, options: ProductOptions
) -> list[Product]:
    for asked, name in (
        (options.probabilities, "probabilities"),
        (options.confidence, "confidence"),
    ):
        if asked:
            raise UsageError(
                f"The model {manifest.recipe!r} gives values, not classes: it has no {name}.",
                hint=f"Leave --{name} out; --disagreement shows how far its specialists differ.",
            )
    if options.nodata != NODATA:
        raise UsageError(
            f"The model {manifest.recipe!r} gives values; where there are none, its maps hold "
            f"{NO_VALUE:g}.",
            hint="Leave --nodata out: it is for maps of classes.",
        )
    made = [Product("map", value_layer(target), lambda block: values_of(block, target)[None])]
    if options.disagreement:
        made.append(Product("disagreement", spread_layer(target), _spread, "_disagree"))
    return made


def _shares(name: str, suffix: str, layer: Layer, planes: slice) -> Product:
    return Product(name, layer, lambda block: shares_of(block, block.scores[planes]), suffix)


def _refuse_nodata(nodata: int, classes: int) -> None:
    if classes <= nodata <= NODATA:
        return
    why = (
        f"it stands for a class of the map (0 to {classes - 1})"
        if 0 <= nodata < classes
        else ("a pixel of the map holds 0 to 255")
    )
    raise UsageError(
        f"--nodata cannot be {nodata}: {why}.",
        hint=f"Choose {classes} to {NODATA}; {NODATA} if not given.",
    )


def _refuse_disagreement_of_one(manifest: ModelManifest, options: ProductOptions) -> None:
    if options.disagreement and len(manifest.specialists) < 2:
        raise UsageError(
            f"The model {manifest.recipe!r} has a single specialist, which nobody disagrees with.",
            hint="Leave --disagreement out, or name a model of several specialists with --model.",
        )


# --------------------------------------------------------------------------- pixels of maps


def labels_of(block: Block, classes: int, nodata: int = NODATA) -> NDArray[np.uint8]:
    """The class of each pixel `(h, w)`, `nodata` where there is none."""
    return np.where(block.valid, _largest(block.scores[:classes]), np.uint8(nodata))


def _largest(scores: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Which of `(classes, h, w)` is the largest, the first of equals: `argmax`, but quick.

    NumPy looks at one pixel after the other where classes are the first axis.
    """
    best, index = scores[0].copy(), np.zeros(scores.shape[1:], np.uint8)
    for number, plane in enumerate(scores[1:], start=1):
        larger = (plane > best).view(np.uint8)
        np.maximum(best, plane, out=best)
        larger *= np.uint8(number)
        np.maximum(index, larger, out=index)
    return index


def values_of(block: Block, target: TargetSpec) -> NDArray[np.float32]:
    """The value of each pixel `(h, w)`, the nearest that it can have; -9999 where there is none."""
    low = -np.inf if target.min is None else target.min
    high = np.inf if target.max is None else target.max
    return np.where(block.valid, np.clip(block.scores[0], low, high), np.float32(NO_VALUE))


def shares_of(block: Block, shares: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Shares from 0 to 1 `(bands, h, w)` as a map holds them; 255 where there is none."""
    steps = np.rint(np.clip(shares, 0, 1) * SHARE_STEPS).astype(np.uint8)
    return np.where(block.valid, steps, np.uint8(NODATA))


def _best_share(classes: int, block: Block) -> NDArray[np.uint8]:
    return shares_of(block, block.scores[:classes].max(axis=0, keepdims=True))


def _spread(block: Block) -> NDArray[np.float32]:
    """The specialists' standard deviation, the second score of a model of values."""
    return np.where(block.valid, block.scores[1:2], np.float32(NO_VALUE))
