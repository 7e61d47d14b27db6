"""A tiny EuroSAT in its own layout, in which a swapped band or patch shows.

Layer k (0 to 12) of a patch is 4500 k + the pixel's number, but the first is the patch's own
number, different for each patch.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.datasets.pixels import place
from tests.rasters import write_tif

PX = 64
FOLDER = "ds/images/remote_sensing/otherDatasets/sentinel_2/tif"
CLASSES = (
    "AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial", "Pasture",
    "PermanentCrop", "Residential", "River", "SeaLake",
)  # fmt: skip
LAYERS = (
    "coastal", "blue", "green", "red", "rededge071", "rededge075", "rededge078", "nir", "nir09",
    "cirrus", "swir16", "swir22", "nir08",
)  # fmt: skip
"""Common names in file order: B8A is the last."""
LISTS = {
    "": {"train": (1, 2), "val": (3,), "test": (4,)},
    "spatial-": {"train": (2, 4), "val": (1,), "test": (3,)},
}
"""Which patches of each class the usual and the spatial lists name."""


def number(name: str, patch: int) -> int:
    """The number of a patch of a class."""
    return 10 * CLASSES.index(name) + patch


def pixels(name: str, patch: int) -> np.ndarray:
    """The layers `(13, 64, 64)` of a patch of a class."""
    layers = np.stack([4500 * k + place(PX) for k in range(13)])
    layers[0] = number(name, patch)
    return layers


def write(root: Path, *, folder: str = FOLDER) -> None:
    """Write four patches of each class, and both sets of lists."""
    for name in CLASSES:
        for patch in (1, 2, 3, 4):
            path = root / folder / name / f"{name}_{patch}.tif"
            write_tif(path, pixels(name, patch).astype(np.uint16))
    for prefix, lists in LISTS.items():
        for split, patches in lists.items():
            # The real lists name pictures in true colour.
            lines = [f"{name}_{patch}.jpg\n" for name in CLASSES for patch in patches]
            (root / f"eurosat-{prefix}{split}.txt").write_text("".join(lines))
