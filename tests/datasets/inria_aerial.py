"""A tiny Inria Aerial Image Labeling in its own layout, in which a swapped band or image shows.

Of image number n, red is n, green the row, blue the column.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.rasters import write_tif

PX = 64
CITIES = ("austin", "chicago", "kitsap", "tyrol-w", "vienna")
NUMBERS = (1, 2, 3, 4, 5, 6, 7, 10, 15, 36)
NAMES = tuple(f"{city}{number}" for city in CITIES for number in NUMBERS)
WITHHELD = ("bellingham1", "sfo10", "tyrol-e2")
"""Images without labels."""


def buildings(name: str) -> np.ndarray:
    """Where there are buildings `(64, 64)`: 0 or 1."""
    row, col = np.mgrid[:PX, :PX]
    return ((row // 4 + col // 8 + NAMES.index(name)) % 3 == 0).astype(np.uint8)


def pixels(name: str) -> np.ndarray:
    """Red, green, blue `(3, 64, 64)`."""
    row, col = np.mgrid[:PX, :PX]
    number = (*NAMES, *WITHHELD).index(name)
    return np.stack([np.full((PX, PX), number), row, col]).astype(np.uint8)


def write(root: Path, *, folder: str = "AerialImageDataset") -> None:
    """Write images and labels below a folder, as the archive has them."""
    for name in NAMES:
        write_tif(root / folder / "train/images" / f"{name}.tif", pixels(name))
        write_tif(root / folder / "train/gt" / f"{name}.tif", 255 * buildings(name))
    for name in WITHHELD:
        write_tif(root / folder / "test/images" / f"{name}.tif", pixels(name))
