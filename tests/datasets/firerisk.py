"""A tiny FireRisk in its own layout, in which a swapped band or photograph shows.

Red is the photograph's number, green the row, blue 4 times the column.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.rasters import write_image

PX = 32
GRADES = (
    "Very_Low", "Low", "Moderate", "High", "Very_High", "Non-burnable", "Water",
)  # fmt: skip
"""Folders in the order of the map that the labels come from; they count from 1."""
DEGREES = (-123, -118, -103, -98, -74)
"""Whole degrees of longitude of the photographs to train on."""
TEST_DEGREE = -80


def name(grade: int, degree: int) -> str:
    """The id of a photograph: a number, the grade, longitude, latitude."""
    number = 27030000 + 1000 * grade - degree
    return f"{number}_{grade}_{degree}.5470518302{grade}_41.546300498626{grade}"


def pixels(grade: int, degree: int) -> np.ndarray:
    """Red, green, blue `(3, 32, 32)`."""
    row, col = np.mgrid[:PX, :PX]
    return np.stack([np.full((PX, PX), 20 * grade + abs(degree) % 17), row, 4 * col])


def write(root: Path, *, folder: str = "FireRisk") -> None:
    """Write five photographs of each grade in `train` and one in `val`."""
    for split, degrees in (("train", DEGREES), ("val", (TEST_DEGREE,))):
        for grade, kind in enumerate(GRADES, start=1):
            for degree in degrees:
                path = root / folder / split / kind / f"{name(grade, degree)}.png"
                write_image(path, pixels(grade, degree))
