"""A tiny OSCD in its own layout, in which a swapped band, date or city shows.

Band k (0 to 12) of a city is 4600 k + its place, 2300 more on the second date; the first one is
100 times the city's number instead, and 1 more on the second date. Cities are of different sizes,
and the labels of every second one are pictures in colour with an opacity.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from tests.datasets.pixels import place
from tests.rasters import write_image, write_tif

ROOT = "Onera Satellite Change Detection dataset - "
BANDS = (
    "B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12",
)  # fmt: skip
TRAIN = (
    "aguasclaras", "bercy", "bordeaux", "nantes", "paris", "rennes", "saclay_e", "abudhabi",
    "cupertino", "pisa", "beihai", "hongkong", "beirut", "mumbai",
)  # fmt: skip
TEST = (
    "brasilia", "montpellier", "norcia", "rio", "saclay_w", "valencia", "dubai", "lasvegas",
    "milano", "chongqing",
)  # fmt: skip
CITIES = (*TRAIN, *TEST)


def shape(city: str) -> tuple[int, int]:
    """Rows and columns: no two cities have the same."""
    number = CITIES.index(city)
    return 32 + number % 10, 34 + number


def pixels(city: str) -> np.ndarray:
    """Bands of both dates `(13, 2, h, w)`."""
    number, (height, width) = CITIES.index(city), shape(city)
    bands = np.stack([4600 * k + place(height, width) % 2300 for k in range(13)])
    dates = np.stack([bands, bands + 2300], axis=1)
    dates[0, 0], dates[0, 1] = 100 * number, 100 * number + 1
    return dates


def labels(city: str) -> np.ndarray:
    """0 no change and 1 change `(h, w)`."""
    row, col = np.mgrid[: shape(city)[0], : shape(city)[1]]
    return (row // 5 + col // 4 + CITIES.index(city)) % 2


def write(root: Path, cities: Iterable[str] = CITIES) -> None:
    """Write cities, all 24 as a rule, each with the files that nobody needs here as well."""
    for city in cities:
        folder = root / f"{ROOT}Images" / city
        for date, values in enumerate(pixels(city).swapaxes(0, 1), start=1):
            for band, layer in zip(BANDS, values.astype(np.uint16), strict=True):
                write_tif(folder / f"imgs_{date}_rect" / f"{band}.tif", layer)
        (folder / "dates.txt").write_text("date_1: 20161130\ndate_2: 20170829\n")
        side = "Train" if city in TRAIN else "Test"
        path = root / f"{ROOT}{side} Labels" / city / "cm" / "cm.png"
        grey = 255 * labels(city)
        write_image(
            path, np.stack([grey] * 3 + [grey * 0 + 255]) if CITIES.index(city) % 2 else grey
        )
        write_tif(path.with_name(f"{city}-cm.tif"), (labels(city) + 1).astype(np.uint8))
    for split, listed in (("train", TRAIN), ("test", TEST)):
        (root / f"{ROOT}Images" / f"{split}.txt").write_text(",".join(listed) + "\n")
