"""A tiny DeepGlobe land cover, as the contest and as a repack lay it out.

Image number n is of squares of 16 pixels in one colour each: red 5 n, green 60 times the square's
row, blue 60 times its column. So a swapped band, image or shift shows, for all that JPEG rounds.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.rasters import write_image

PX = 64
IDS = (
    "119", "606", "855", "2334", "2774", "3484", "6399", "7791", "10452", "69582", "137214",
    "411176", "668465", "808681", "867030", "952345", "972516", "989953", "998002", "999380",
)  # fmt: skip
COLOURS = np.array(
    [(0, 255, 255), (255, 255, 0), (255, 0, 255), (0, 255, 0), (0, 0, 255), (255, 255, 255),
     (0, 0, 0)],
    np.int16,
)  # fmt: skip
"""Of the six classes, and of what is unknown."""


def classes(name: str) -> np.ndarray:
    """Class indices `(64, 64)`, 6 where it is unknown."""
    row, col = np.mgrid[:PX, :PX]
    return (row // 8 + col // 4 + IDS.index(name)) % 7


def pixels(name: str) -> np.ndarray:
    """Red, green, blue `(3, 64, 64)`, which JPEG keeps but for rounding."""
    row, col = np.mgrid[:PX, :PX]
    return np.stack([np.full((PX, PX), 5 * IDS.index(name)), 60 * (row // 16), 60 * (col // 16)])


def colours(name: str) -> np.ndarray:
    """The labels' colours `(3, 64, 64)`, softened by up to 127 as some of the real ones are."""
    soft = np.random.default_rng(IDS.index(name)).integers(0, 128, (PX, PX, 3))
    hard = COLOURS[classes(name)]
    return np.where(hard > 0, 255 - soft, soft).transpose(2, 0, 1).astype(np.uint8)


def write(root: Path) -> None:
    """Write the contest's layout; of its images for others to map, there are no labels."""
    for name in IDS:
        write_image(root / "train" / f"{name}_sat.jpg", pixels(name))
        write_image(root / "train" / f"{name}_mask.png", colours(name))
    for folder, name in (("valid", "100877"), ("test", "100393")):
        write_image(root / folder / f"{name}_sat.jpg", pixels(IDS[0]))


def write_repack(root: Path) -> None:
    """Write the repack's layout."""
    for number, name in enumerate(IDS):
        folder = root / "data" / ("test_data" if number % 5 == 0 else "training_data")
        write_image(folder / "images" / f"{name}_sat.jpg", pixels(name))
        write_image(folder / "masks" / f"{name}_mask.png", colours(name))
