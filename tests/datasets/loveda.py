"""A tiny LoveDA in its own layout, in which a swapped band or image shows.

Of image number n, red is n mod 250, green the row and blue the column.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.rasters import write_image

PX = 64
NUMBERS = {
    ("Train", "Rural"): (5, 17, 120, 121, 1301, 1365),
    ("Train", "Urban"): (1366, 1399, 1402, 2000, 2521),
    ("Val", "Rural"): (2522, 2523),
    ("Val", "Urban"): (3514,),
    ("Test", "Rural"): (4191,),
    ("Test", "Urban"): (5167,),
}
"""Split and area -> the images; Test has no labels."""


def pixels(number: int) -> np.ndarray:
    """Red, green, blue `(3, 64, 64)`."""
    row, col = np.mgrid[:PX, :PX]
    return np.stack([np.full((PX, PX), number % 250), row, col])


def values(number: int) -> np.ndarray:
    """What the masks hold `(64, 64)`: 0 no data, 1 background to 7 agriculture."""
    row, col = np.mgrid[:PX, :PX]
    return (row // 7 + col // 5 + number) % 8


def write(root: Path) -> None:
    """Write eleven images to train on, three to test and two without labels."""
    for (split, area), numbers in NUMBERS.items():
        for number in numbers:
            folder = root / split / area
            write_image(folder / "images_png" / f"{number}.png", pixels(number))
            if split != "Test":
                write_image(folder / "masks_png" / f"{number}.png", values(number))
