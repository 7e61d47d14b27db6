"""A tiny Sen1Floods11 in the layout of its bucket.

Of chip number n, VV is -n, VH minus a hundredth of the pixel's number; band k of Sentinel-2 is
4500 k + the pixel's number, but the first is n.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.datasets.pixels import place
from tests.rasters import write_tif

PX = 64
LISTS = {
    "train": ("Ghana_103272", "Ghana_1", "Sri-Lanka_101973", "USA_1082482"),
    "valid": ("Ghana_10", "Mekong_1111068"),
    "test": ("Ghana_1032720", "Spain_7370579"),
    "bolivia": ("Bolivia_103757",),
}
"""The chips that the official lists name. Some names begin as others do."""
CHIPS = tuple(chip for chips in LISTS.values() for chip in chips)
HAND = "v1.1/data/flood_events/HandLabeled"


def pixels(chip: str) -> np.ndarray:
    """The bands `(15, 64, 64)` of a chip: VV, VH, B01 to B12; one pixel of VV is not known."""
    number = CHIPS.index(chip)
    s1 = np.stack([np.full((PX, PX), -number), -place(PX) / 100]).astype(np.float32)
    s1[0, 3, 5] = np.nan
    s2 = np.stack([np.full((PX, PX), number), *(4500 * k + place(PX) for k in range(1, 13))])
    return np.concatenate([s1, s2])


def labels(chip: str) -> np.ndarray:
    """The labels of a chip: water, none, and -1."""
    row, col = np.mgrid[:PX, :PX]
    return ((row // 4 + col // 6 + CHIPS.index(chip)) % 3 - 1).astype(np.int16)


def write(root: Path) -> None:
    """Write all chips and the four lists."""
    for chip in CHIPS:
        values = pixels(chip)
        for kind, layers in (
            ("S1Hand", values[:2].astype(np.float32)),
            ("S2Hand", values[2:].astype(np.uint16)),
            ("LabelHand", labels(chip)),
        ):
            write_tif(root / HAND / kind / f"{chip}_{kind}.tif", layers)
    folder = root / "v1.1/splits/flood_handlabeled"
    folder.mkdir(parents=True)
    for split, chips in LISTS.items():
        lines = [f"{chip}_S1Hand.tif,{chip}_LabelHand.tif\n" for chip in chips]
        (folder / f"flood_{split}_data.csv").write_text("".join(lines))
