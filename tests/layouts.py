"""Tiny datasets in the layouts of real ones, in which a swapped band or sample shows.

Potsdam: of pixel (row, col) of image number n, red is n, green the row, blue the column (modulo
256) and infrared 40 times the class. SEN12MS: of patch number n, VV is -n, VH and all bands of
Sentinel-2 but the first tell band and place, the first is n.
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
IGBP_TO_CLASS = [255, 0, 0, 0, 0, 0, 1, 1, 2, 2, 3, 4, 5, 6, 5, 7, 8, 9]
"""Class index of each IGBP value; 255 is no label."""


# --------------------------------------------------------------------------- Potsdam


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


# --------------------------------------------------------------------------- SEN12MS

SEASONS = ("ROIs1158_spring", "ROIs1868_summer", "ROIs1970_fall", "ROIs2017_winter")
SEN12MS_PX = 32


def sen12ms_number(season: str, scene: int, patch: int) -> int:
    """The number n of a patch, different for each of up to 10 scenes and 10 patches."""
    return 100 * SEASONS.index(season) + 10 * scene + patch


def sen12ms_labels(number: int) -> np.ndarray:
    """IGBP values `(32, 32)` of patch number n: all of them, and 255."""
    row, col = np.mgrid[:SEN12MS_PX, :SEN12MS_PX]
    values = (row + col + number) % 19
    return np.where(values == 18, 255, values)


def sen12ms_pixels(number: int) -> np.ndarray:
    """The bands `(15, 32, 32)` of patch number n: VV, VH, B01 to B12."""
    place = np.arange(SEN12MS_PX**2).reshape(SEN12MS_PX, SEN12MS_PX)
    bands = [np.full_like(place, -number), -place, np.full_like(place, number)]
    return np.stack([*bands, *(2000 * band + place for band in range(1, 13))])


def write_sen12ms(
    root: Path,
    train: Iterable[tuple[str, int]] = tuple((s, scene) for s in SEASONS for scene in (1, 2)),
    test: Iterable[tuple[str, int]] = tuple((season, 3) for season in SEASONS),
    *,
    patches: int = 2,
) -> Path:
    """Write all patches of the given (season, scene) pairs, and the two lists of them."""
    for name, scenes in (("train", train), ("test", test)):
        listed = [(*each, patch) for each in scenes for patch in range(1, patches + 1)]
        for season, scene, patch in listed:
            write_triplet(root, season, scene, patch)
        lines = [f"{season}_s2_{scene}_p{patch}.tif\n" for season, scene, patch in listed]
        (root / f"{name}_list.txt").write_text("".join(lines))
    return root


def write_triplet(root: Path, season: str, scene: int, patch: int) -> None:
    """Write Sentinel-1, Sentinel-2 and land cover of one patch."""
    number = sen12ms_number(season, scene, patch)
    pixels, labels = sen12ms_pixels(number), sen12ms_labels(number)
    layers = np.stack([labels, *[np.full_like(labels, 99)] * 3])
    for kind, values in (
        ("s1", pixels[:2].astype(np.float32)),
        ("s2", pixels[2:].astype(np.uint16)),
        ("lc", layers.astype(np.uint16)),
    ):
        write_tif(
            root / season / f"{kind}_{scene}" / f"{season}_{kind}_{scene}_p{patch}.tif", values
        )
