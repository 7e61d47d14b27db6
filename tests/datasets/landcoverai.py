"""A tiny LandCover.ai as whole map sheets and as chips, in which a swapped band or shift shows.

Of a sheet, red is 5 times its number, green and blue 60 times row and column in units of 16 pixels;
JPEG keeps that but for rounding. Its chips are the four quarters of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.rasters import write_image, write_tif

PX = 64
CHIP = 32
SETTINGS: dict[str, Any] = {"dataset.shape": None}
"""What all variants need to know of images that are smaller than the real ones."""
CHIP_SETTINGS: dict[str, Any] = {"dataset.shape": [CHIP, CHIP]}
"""The same for those of chips alone."""
SHEETS = (
    "M-33-20-D-c-4-2", "M-33-20-D-d-3-3", "M-33-32-B-b-4-4", "M-33-7-A-d-2-3", "M-33-7-A-d-3-2",
    "M-34-32-B-a-4-3", "M-34-5-D-d-4-2", "M-34-51-C-b-2-1", "M-34-6-A-d-2-2", "M-34-65-D-a-4-4",
    "M-34-65-D-c-4-2", "M-34-65-D-d-4-1", "N-33-139-C-d-2-2", "N-33-139-C-d-2-4",
    "N-34-106-A-b-3-4", "N-34-140-A-b-3-2",
)  # fmt: skip
"""Some of the 41; those that begin alike lie beside each other."""
OFFICIAL = {"train": (0, 1), "val": (2,), "test": (3,)}
"""Which quarters of each sheet the lists of chips name."""


def classes(sheet: str) -> np.ndarray:
    """Class indices `(64, 64)`."""
    row, col = np.mgrid[:PX, :PX]
    return ((row // 8 + col // 4 + SHEETS.index(sheet)) % 5).astype(np.uint8)


def pixels(sheet: str) -> np.ndarray:
    """Red, green, blue `(3, 64, 64)`."""
    row, col = np.mgrid[:PX, :PX]
    red = np.full((PX, PX), 5 * SHEETS.index(sheet))
    return np.stack([red, 60 * (row // 16), 60 * (col // 16)]).astype(np.uint8)


def chip(values: np.ndarray, number: int) -> np.ndarray:
    """A quarter `(…, 32, 32)` of a sheet `(…, 64, 64)`, counted row by row."""
    top, left = CHIP * (number // 2), CHIP * (number % 2)
    return values[..., top : top + CHIP, left : left + CHIP]


def write(root: Path) -> None:
    """Write sheets and chips, for all variants."""
    write_sheets(root)
    write_chips(root)


def write_sheets(root: Path) -> None:
    """Write the sheets, with the lists of chips that the archive has beside them."""
    for sheet in SHEETS:
        write_tif(root / "images" / f"{sheet}.tif", pixels(sheet))
        write_tif(root / "masks" / f"{sheet}.tif", classes(sheet))
    _write_lists(root)


def write_chips(root: Path) -> None:
    """Write the chips and the lists of them."""
    for sheet in SHEETS:
        for number in range(4):
            name = f"{sheet}_{number}"
            write_image(root / "output" / f"{name}.jpg", chip(pixels(sheet), number))
            write_image(root / "output" / f"{name}_m.png", chip(classes(sheet), number))
    _write_lists(root)


def _write_lists(root: Path) -> None:
    for split, numbers in OFFICIAL.items():
        names = [f"{sheet}_{number}\n" for sheet in SHEETS for number in numbers]
        (root / f"{split}.txt").write_text("".join(names))
