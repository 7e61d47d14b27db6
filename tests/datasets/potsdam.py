"""A tiny Potsdam in its real layout, in which a swapped band or sample shows.

Of pixel (row, col) of image number n, red is n, green the row, blue the column (modulo 256) and
infrared 40 times the class.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import rasterio

from eosfm_cli.recipe import load_recipe
from tests.rasters import write_tif

_LISTS = load_recipe("potsdam").dataset.split
POTSDAM_TRAIN: tuple[str, ...] = _LISTS.train
POTSDAM_VAL: tuple[str, ...] = _LISTS.val
POTSDAM_TEST: tuple[str, ...] = _LISTS.test
POTSDAM = (*POTSDAM_TRAIN, *POTSDAM_VAL, *POTSDAM_TEST)

_POTSDAM_COLOURS = np.array(
    [(255, 0, 0), (255, 255, 255), (0, 0, 255), (0, 255, 255), (0, 255, 0), (255, 255, 0)], np.uint8
)


def potsdam_classes(number: int, shape: tuple[int, int]) -> np.ndarray:
    """The classes `(h, w)` of image number n."""
    row, col = np.mgrid[: shape[0], : shape[1]]
    return (row // 7 + col // 5 + number) % 6


def potsdam_pixels(number: int, shape: tuple[int, int]) -> np.ndarray:
    """The bands `(4, h, w)` of image number n."""
    row, col = np.mgrid[: shape[0], : shape[1]]
    bands = [np.full(shape, number), row % 256, col % 256, 40 * potsdam_classes(number, shape)]
    return np.stack(bands).astype(np.uint8)


def write_potsdam(
    root: Path,
    names: Iterable[str] = POTSDAM,
    *,
    labels: str = "5_Labels_all",
    sizes: Mapping[str, tuple[int, int]] | None = None,
) -> Path:
    """Write images and labels; image number n is the n-th of all 38.

    Args:
        root: The dataset's folder.
        names: Which images.
        labels: The labels' folder; empty for the root itself.
        sizes: Height and width of some; 40 × 50 otherwise.
    """
    for name in names:
        number, shape = POTSDAM.index(name), (sizes or {}).get(name, (40, 50))
        image = root / "4_Ortho_RGBIR" / f"top_potsdam_{name}_RGBIR.tif"
        write_tif(image, potsdam_pixels(number, shape))
        with rasterio.open(image, "r+") as raster:  # the real ones call their infrared alpha, too
            raster.colorinterp = [rasterio.enums.ColorInterp(i) for i in (3, 4, 5, 6)]
        colours = _POTSDAM_COLOURS[potsdam_classes(number, shape)].transpose(2, 0, 1)
        write_tif(root / labels / f"top_potsdam_{name}_label.tif", colours)
    return root


def write(root: Path) -> None:
    """Write all 38 images, with the labels and those without the objects' boundaries."""
    write_potsdam(root)
    for number, name in enumerate(POTSDAM):
        colours = _POTSDAM_COLOURS[potsdam_classes(number, (40, 50))].transpose(2, 0, 1)
        colours[:, ::9] = 0
        place = root / "5_Labels_all_noBoundary" / f"top_potsdam_{name}_label_noBoundary.tif"
        write_tif(place, colours)
