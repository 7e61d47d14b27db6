"""Whether one file of a sample is what the recipe says of it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from eosfm_cli.data.reader import Header
from eosfm_cli.data.resampling import Shape, covers
from eosfm_cli.errors import DataError
from eosfm_cli.recipe import ImageFile, Recipe
from eosfm_cli.words import counted

_MOST_PIXELS = 2**38
"""Of more, the mere list of windows would fill the memory."""


def finest(headers: Iterable[Header]) -> Shape:
    """Rows and columns of the finest grid among the files of a sample."""
    return max((header.height, header.width) for header in headers)


def check_image(path: Path, header: Header, file: ImageFile, recipe: Recipe) -> None:
    """Check the bands of an image.

    Raises:
        DataError: It has others than the recipe names, or several dates where there is no series.
    """
    bands = file.bands
    enough = header.count > len(bands) and (file.image.more_bands or file.image.spellings)
    if header.count != len(bands) and not enough:
        raise DataError(
            f"{path} has {_bands(header)}, the recipe names {len(bands)}: {', '.join(bands)}.",
            hint="dataset.images names every band of the file, in file order; choose among them "
            "with the recipe's 'bands'.",
        )
    if header.dates > 1 and recipe.dataset.series is None:
        raise DataError(
            f"{path} holds {header.dates} dates.",
            hint="Say what to make of them, as in 'series: {take: median}' in the recipe's "
            "dataset.",
        )
    _refuse_unreadable(path, header)


def _bands(header: Header) -> str:
    return counted(header.count, "band")


def check_size(
    path: Path,
    header: Header,
    shape: Shape,
    resampling: Literal["nearest", "bilinear"] | None,
    *,
    stated: bool = False,
) -> None:
    """Check the size of a file against its sample's.

    Args:
        path: The file.
        header: What it is.
        shape: Rows and columns of the sample's finest grid.
        resampling: Whether, and how, it may be brought to that grid.
        stated: Whether the recipe says what that grid is.

    Raises:
        DataError: It is neither of that size, nor coarser on both axes alike where it may be.
    """
    own = (header.height, header.width)
    if own == shape or (resampling is not None and covers(own, shape)):
        return
    whose = "by dataset.shape its sample has" if stated else "its sample"
    said = f"{path} has {own[1]} × {own[0]} pixels, {whose} {shape[1]} × {shape[0]} (width × height"
    correct = " If all files are like it, correct dataset.shape in the recipe." if stated else ""
    if resampling is not None:
        raise DataError(
            f"{said}): no grid of the same extent.",
            hint="Files that are resampled have larger pixels than others of their sample, by one "
            f"factor on both axes. Get it again, or cut it to the sample's extent.{correct}",
        )
    raise DataError(
        f"{said}).",
        hint="Get it again, or resample it to its sample's grid; images with larger pixels are "
        "resampled when they are read where the recipe has 'resampling: bilinear' for them."
        f"{correct}",
    )


def check_mask(path: Path, header: Header, recipe: Recipe) -> None:
    """Check that the labels are in the mask.

    Raises:
        DataError: The band that holds them is missing, or it holds no labels.
    """
    masks = recipe.dataset.masks
    _refuse_unreadable(path, header)
    if masks.encoding == "colours":
        _check_colours(path, header)
    elif masks.band > header.count:
        raise DataError(
            f"{path} has {_bands(header)}; the recipe takes labels from band {masks.band}.",
            hint="Change dataset.masks.band in the recipe.",
        )
    if header.dates > 1:
        raise DataError(
            f"{path} holds {header.dates} dates.", hint="Labels are of one date: cut it out."
        )


def check_areas(path: Path, header: Header) -> None:
    """Check that a raster can say which area each pixel belongs to.

    Raises:
        DataError: It has several bands, or no whole numbers.
    """
    if header.count != 1 or header.dates != 1 or "int" not in header.dtypes[0]:
        raise DataError(
            f"{path} has {_bands(header)} of {header.dtypes[0]}; areas are read from one band "
            "of whole numbers.",
            hint="dataset.split.path is a raster with the number of an area in each pixel, 0 "
            "where there is none.",
        )


def _check_colours(path: Path, header: Header) -> None:
    if header.count < 3 or set(header.dtypes[:3]) != {"uint8"}:
        raise DataError(
            f"{path} has {_bands(header)} of {', '.join(sorted(set(header.dtypes)))}; label "
            "colours are read from three bands of uint8.",
            hint="Where a band holds class numbers, set 'encoding: values' in dataset.masks.",
        )


def _refuse_unreadable(path: Path, header: Header) -> None:
    """Refuse what cannot be gone through by windows of numbers."""
    if header.height * header.width > _MOST_PIXELS:
        raise DataError(
            f"{path} says that it has {header.width} × {header.height} pixels (width × height), "
            "too many for an image.",
            hint="It may be damaged: get it again. Of a mosaic of half the world, cut out parts.",
        )
    if any("complex" in dtype for dtype in header.dtypes):
        raise DataError(
            f"{path} holds complex numbers.", hint="Convert it to amplitude, intensity or decibel."
        )
