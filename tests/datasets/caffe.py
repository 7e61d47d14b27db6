"""A tiny CaFFe in the layout of its patches, in which a swapped patch or shift shows.

Of patch number n, the radar's picture is 3 n plus the row plus twice the column.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.rasters import write_image

PX = 32
SETTINGS: dict[str, Any] = {"dataset.shape": [PX, PX]}
"""What the recipe needs to know of patches that are smaller than the real ones."""
SCENES = {
    "train": ("Crane_2002-11-09_ERS_20_2_061", "JAC_2015-12-23_TSX_6_1_005"),
    "val": ("Crane_2007-09-22_ENVISAT_20_1_467",),
    "test": ("COL_2015-12-18_S1_20_1_094", "Mapple_2018-06-11_S1_20_2_009"),
}
PATCHES = ("93_102_0_0_0", "93_102_8_1024_0")
"""Pixels added at the bottom and right of the scene, number, row and column of the patch."""
ZONES = (0, 64, 127, 254)
"""How the labels write nothing, rock, glacier, sea."""


def number(scene: str, patch: str) -> int:
    """The number n of a patch."""
    scenes = [each for part in SCENES.values() for each in part]
    return 2 * scenes.index(scene) + PATCHES.index(patch)


def pixels(scene: str, patch: str) -> np.ndarray:
    """The picture `(32, 32)`."""
    row, col = np.mgrid[:PX, :PX]
    return (3 * number(scene, patch) + row + 2 * col).astype(np.uint8)


def zones(scene: str, patch: str) -> np.ndarray:
    """Which of `ZONES` `(32, 32)`: 0 to 3."""
    row, col = np.mgrid[:PX, :PX]
    return (row // 4 + col // 8 + number(scene, patch)) % 4


def write(root: Path, *, folder: str = "caffe") -> None:
    """Write pictures, zones and fronts below a folder, as the archive has them."""
    for split, scenes in SCENES.items():
        for scene in scenes:
            for patch in PATCHES:
                labels = np.array(ZONES, np.uint8)[zones(scene, patch)]
                for kind, name, values in (
                    ("sar_images", scene, pixels(scene, patch)),
                    ("zones", f"{scene}_zones", labels),
                    ("fronts", f"{scene}_front", 255 * (labels == 0)),
                ):
                    write_image(root / folder / kind / split / f"{name}__{patch}.png", values)
