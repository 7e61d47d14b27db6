"""A tiny BigEarthNet v2 in its own layout, in which a swapped band, sensor or patch shows.

Of patch number n, VV is -n, and VH tells the place, both with decimals. Band k of Sentinel-2 (1 to
12) is 3000 k + 400 n + 2 row + column, counted in its own pixels, of which there are 120, 60 or 20.
Scenes of Sentinel-1 are ordered the other way round than tiles of Sentinel-2.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pyarrow import Table, parquet

from tests.datasets.pixels import place
from tests.rasters import write_tif

PX = 120
S2_SIZES = {
    "B01": 20, "B02": 120, "B03": 120, "B04": 120, "B05": 60, "B06": 60,
    "B07": 60, "B08": 120, "B8A": 60, "B09": 20, "B11": 60, "B12": 60,
}  # fmt: skip
S2_BANDS = tuple(S2_SIZES)

PATCHES = (
    "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_26_57",
    "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_26_58",
    "S2A_MSIL2A_20170614T102021_N9999_R122_T32TQT_45_38",
    "S2B_MSIL2A_20170615T102019_N9999_R122_T32TNS_45_23",
    "S2A_MSIL2A_20170618T101021_N9999_R022_T32TQR_89_34",
    "S2A_MSIL2A_20170618T101021_N9999_R022_T32TQR_03_04",
)
SPLITS = ("train", "train", "train", "validation", "test")
"""Of all but the last patch, which is not in the table."""
LABELS = (
    ["Urban fabric", "Arable land"],
    ["Transitional woodland, shrub"],
    ["Coniferous forest", "Mixed forest", "Inland waters"],
    [
        "Land principally occupied by agriculture, with significant areas of natural vegetation",
        "Beaches, dunes, sands",
    ],
    ["Moors, heathland and sclerophyllous vegetation", "Marine waters"],
)
INDICES = ([0, 2], [13], [9, 10, 17], [6, 14], [12, 18])
"""The classes of each patch in the official order."""


def s1_name(number: int) -> str:
    """What Sentinel-1 calls a patch: the later its tile, the earlier its scene."""
    tile, row, col = PATCHES[number].rsplit("_", 3)[1:]
    return f"S1B_IW_GRDH_1SDV_201706{20 - number:02}T165809_{tile[1:]}_{row}_{col}"


def s1_pixels(number: int) -> np.ndarray:
    """VV and VH `(2, 120, 120)` in dB."""
    vv = np.full((PX, PX), -number - 0.7)
    return np.stack([vv, -20.25 - place(PX) / 1000]).astype(np.float32)


def s2_band(number: int, band: str) -> np.ndarray:
    """One band in its own pixels."""
    row, col = np.mgrid[: S2_SIZES[band], : S2_SIZES[band]]
    return 3000 * (S2_BANDS.index(band) + 1) + 400 * number + 2 * row + col


def s2_pixels(number: int) -> np.ndarray:
    """All bands `(12, 120, 120)` at 10 m: between the pixels of the coarse ones, a ramp."""
    return np.stack([_at_ten_metres(number, band) for band in S2_BANDS])


def _at_ten_metres(number: int, band: str) -> np.ndarray:
    size = S2_SIZES[band]
    at = np.clip((np.arange(PX) + 0.5) * size / PX - 0.5, 0, size - 1)
    return s2_band(number, band)[0, 0] + 2 * at[:, None] + at


def write(root: Path) -> None:
    """Write three patches to train on, one to validate, one to test and one of no split."""
    for number, patch in enumerate(PATCHES):
        folder = root / "BigEarthNet-S2" / patch.rsplit("_", 2)[0] / patch
        for band in S2_BANDS:
            write_tif(folder / f"{patch}_{band}.tif", s2_band(number, band).astype(np.uint16))
        name = s1_name(number)
        folder = root / "BigEarthNet-S1" / name.rsplit("_", 3)[0] / name
        for band, pixels in zip(("VV", "VH"), s1_pixels(number), strict=True):
            write_tif(folder / f"{name}_{band}.tif", pixels)
    listed = range(len(SPLITS))
    columns = {
        "patch_id": [PATCHES[n] for n in listed],
        "labels": list(LABELS),
        "split": list(SPLITS),
        "country": ["Austria"] * len(SPLITS),
        "s1_name": [s1_name(n) for n in listed],
    }
    parquet.write_table(Table.from_pydict(columns), root / "metadata.parquet")
