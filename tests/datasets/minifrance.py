"""A tiny MiniFrance in its own layout, in which a swapped band or image shows.

Of image number n, red is n, green the row, blue the column.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.rasters import write_tif

PX = 64
NAMES = (
    *(
        f"06-2014-{east}-{north}-LA93-0M50-E080"
        for east in ("0995", "1000", "1005", "1010", "1015", "1020", "1030")
        for north in ("6310", "6315")
    ),
    *(
        f"44-2013-{east}-{north}-LA93-0M50-E080"
        for east in ("0290", "0295", "0300", "0305", "0315")
        for north in ("6690", "6695")
    ),
)
"""Images of 5 km by 5 km: department, year, kilometres east and north."""


def region(name: str) -> str:
    """The folder that an image lies in."""
    return f"D0{name[:2]}"


def labels(name: str) -> np.ndarray:
    """Urban Atlas classes `(64, 64)`: all from 0 to 15."""
    row, col = np.mgrid[:PX, :PX]
    return ((row // 4 + col // 16 + NAMES.index(name)) % 16).astype(np.uint8)


def pixels(name: str) -> np.ndarray:
    """Red, green, blue `(3, 64, 64)`."""
    row, col = np.mgrid[:PX, :PX]
    return np.stack([np.full((PX, PX), NAMES.index(name)), row, col]).astype(np.uint8)


def write(root: Path, *, suffix: str = ".jp2.tif", labels_in: str = "labels/labels") -> None:
    """Write all images and their labels.

    Args:
        root: The dataset's folder.
        suffix: What the images' names end in.
        labels_in: The folder that the regions' labels lie in.
    """
    for name in NAMES:
        folder = root / "labeled_training/labeled" / region(name)
        write_tif(folder / f"{name}{suffix}", pixels(name))
        write_tif(root / labels_in / region(name) / f"{name}_UA2012.tif", labels(name))
