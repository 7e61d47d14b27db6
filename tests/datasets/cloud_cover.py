"""A tiny cloud cover dataset in its own layout, in which a swapped band or chip shows.

Band k (0 to 3) of chip number n is 13000 k + 1024 n + the pixel's number.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.datasets.pixels import place
from tests.rasters import write_tif

PX = 32
SETTINGS: dict[str, Any] = {"dataset.shape": [PX, PX], "tile.size": PX}
"""What makes the recipe fit: real chips are larger."""
BANDS = ("B02", "B03", "B04", "B08")
TRAIN = {
    "adwp": "Chifunfu", "adwu": "Chifunfu", "adwz": "Lusaka", "adxp": "Lusaka",
    "aeaj": "Australia - Central East", "aeam": "Australia - Central East",
    "aebh": "Jaboatao dos Guararapes", "aebi": "Jaboatao dos Guararapes", "aegb": "Braga, PT",
}  # fmt: skip
"""Chip -> where it is."""
TEST = {"zzav": "Lusaka", "zzaw": "Malawi"}
CHIPS = (*TRAIN, *TEST)


def pixels(chip: str) -> np.ndarray:
    """The bands `(4, 32, 32)` of a chip."""
    return np.stack([13000 * k + 1024 * CHIPS.index(chip) + place(PX) for k in range(4)])


def labels(chip: str) -> np.ndarray:
    """0 clear and 1 cloud `(32, 32)`."""
    row, col = np.mgrid[:PX, :PX]
    return (row // 5 + col // 3 + CHIPS.index(chip)) % 2


def write(root: Path, *, train: str = "train", test: str = "test") -> None:
    """Write nine chips to train on, of five places, and two to test.

    Args:
        root: The dataset's folder.
        train: The folder of the former; `public` in the bucket.
        test: Of the latter; `private` there.
    """
    for folder, split, chips in ((train, "train", TRAIN), (test, "test", TEST)):
        for chip in chips:
            for band, values in zip(BANDS, pixels(chip), strict=True):
                path = root / folder / f"{split}_features" / chip / f"{band}.tif"
                write_tif(path, values.astype(np.uint16))
            path = root / folder / f"{split}_labels" / f"{chip}.tif"
            write_tif(path, labels(chip).astype(np.uint8))
        rows = [f'{chip},"{where}",2020-04-29T08:20:47Z\n' for chip, where in chips.items()]
        text = "".join(["chip_id,location,datetime\n", *rows])
        (root / folder / f"{split}_metadata.csv").write_text(text)
