"""A tiny DFC2022 in its own layout, in which a swapped band, image or shift shows.

Of image number n, red is n, green the row, blue the column. The elevation has pixels of double
edge and is 100 n plus the column of the image, but for a hole in that of number 0.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.rasters import write_tif

PX = 64
CITIES = {"06": "Nice", "44": "Nantes_Saint-Nazaire"}
NAMES = (
    *(
        f"06-2014-{east}-{north}-LA93-0M50-E080"
        for east in ("0994", "0995", "1007", "1008", "1013", "1021")
        for north in ("6311", "6318")
    ),
    *(f"44-2013-{east}-6713-LA93-0M50-E080" for east in ("0286", "0295", "0296", "0301", "0312")),
)
"""Images of 1 km by 1 km: department, year, kilometres east and north."""
HOLE = slice(8, 16)
"""Rows and columns of the elevation of number 0 that hold nothing."""


def labels(name: str) -> np.ndarray:
    """Urban Atlas classes `(64, 64)`: all from 0 to 15."""
    row, col = np.mgrid[:PX, :PX]
    return ((row // 4 + col // 16 + NAMES.index(name)) % 16).astype(np.uint8)


def pixels(name: str) -> np.ndarray:
    """Red, green, blue `(3, 64, 64)`."""
    row, col = np.mgrid[:PX, :PX]
    return np.stack([np.full((PX, PX), NAMES.index(name)), row, col]).astype(np.uint8)


def elevation(name: str) -> np.ndarray:
    """Metres `(32, 32)`, -99999 where there is none."""
    number = NAMES.index(name)
    # The middle of a pixel of double edge lies between columns 2 i and 2 i + 1 of the image.
    row = 100 * number + 2 * np.arange(PX // 2) + 0.5
    metres = np.tile(row, (PX // 2, 1)).astype(np.float32)
    if number == 0:
        metres[HOLE, HOLE] = -99999
    return metres


def write(root: Path) -> None:
    """Write the labelled part, the only one with labels."""
    for name in NAMES:
        city = root / "labeled_train" / CITIES[name[:2]]
        write_tif(city / "BDORTHO" / f"{name}.tif", pixels(name))
        write_tif(city / "RGEALTI" / f"{name}_RGEALTI.tif", elevation(name))
        write_tif(city / "UrbanAtlas" / f"{name}_UA2012.tif", labels(name))
