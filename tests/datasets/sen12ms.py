"""A tiny SEN12MS in its real layout, in which a swapped band or sample shows.

Of patch number n, VV is -n, VH and all bands of Sentinel-2 but the first tell band and place, the
first is n.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from tests.rasters import write_tif

IGBP_TO_CLASS = [255, 0, 0, 0, 0, 0, 1, 1, 2, 2, 3, 4, 5, 6, 5, 7, 8, 9]
"""Class index of each IGBP value; 255 is no label."""
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


def write(root: Path) -> None:
    """Write two patches of three scenes in each season, two for training, and the lists."""
    write_sen12ms(root)


SETTINGS = {"dataset.shape": [SEN12MS_PX, SEN12MS_PX]}
