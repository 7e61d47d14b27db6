"""A tiny LEVIR-CD+ in its own layout, in which a swapped band, date or pair shows.

Of pair number n, red is n mod 250, green the row and blue the column; afterwards green and blue are
100 larger.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.rasters import write_image

PX = 64
TRAIN = (1, 2, 13, 14, 25, 26, 107, 108, 630, 637)
"""Pairs to train on, in blocks of ten numbers."""
TEST = (638, 639, 985)


def pixels(number: int) -> np.ndarray:
    """Bands of both dates `(3, 2, 64, 64)`."""
    row, col = np.mgrid[:PX, :PX]
    before = np.stack([np.full((PX, PX), number % 250), row, col])
    after = before + np.array([0, 100, 100])[:, None, None]
    return np.stack([before, after], axis=1)


def labels(number: int) -> np.ndarray:
    """0 no change and 1 change `(64, 64)`."""
    row, col = np.mgrid[:PX, :PX]
    return (row // 7 + col // 5 + number) % 2


def write(root: Path, *, folder: str = "LEVIR-CD+") -> None:
    """Write ten pairs to train on and three to test; all are called train, as in the original."""
    for split, numbers in (("train", TRAIN), ("test", TEST)):
        for number in numbers:
            for date, kind in enumerate("AB"):
                path = root / folder / split / kind / f"train_{number}.png"
                write_image(path, pixels(number)[:, date])
            path = root / folder / split / "label" / f"train_{number}.png"
            write_image(path, 255 * labels(number))
