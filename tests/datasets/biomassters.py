"""Tiny BioMassters in their own layout: a file per month and sensor, and one of biomass.

Of chip number n, band k of Sentinel-2 is 4000 k + 300 n + the pixel's number, to which each month
adds something else; Sentinel-1 has decibels with fractions, and twenty less in descending orbits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.datasets.pixels import place
from tests.rasters import write_tif

PX = 32
SETTINGS: dict[str, Any] = {"dataset.shape": [PX, PX]}
TRAIN = ("0003d2eb", "000aa810", "000d9c33", "001b0634", "0b1c2d3e", "a1f1bf0f")
TEST = ("00060b12", "0003d2ec")
CHIPS = (*TRAIN, *TEST)
MONTHS = ("00", "01", "02", "03", "11")
WITHOUT = {"000aa810": ("01", "11"), "00060b12": ("00", "01", "02", "03")}
"""The months of which a chip has no Sentinel-2."""
_ADDED = {"00": 9, "01": 0, "02": -5, "03": 4, "11": 2}


def s1(chip: str, month: str) -> np.ndarray:
    """Sentinel-1 of a chip and month: VV, VH ascending, then descending.

    A corner of the first month is not known, and one pixel of all months.
    """
    vv = -5.7 - CHIPS.index(chip) - place(PX) / 1000 - _ADDED[month] / 10
    bands = np.stack([vv, vv - 7.3, vv - 20, vv - 27.3]).astype(np.float32)
    if month == "00":
        bands[:, :3, :3] = -9999
    bands[:, -1, -1] = -9999
    return bands


def s2(chip: str, month: str) -> np.ndarray:
    """Sentinel-2 of a chip and month: ten bands and the probability of clouds."""
    base = 300 * CHIPS.index(chip) + place(PX) + 100 + _ADDED[month]
    bands = [4000 * k + base for k in range(10)]
    return np.stack([*bands, np.full((PX, PX), 255)]).astype(np.uint16)


def biomass(chip: str) -> np.ndarray:
    """Biomass of a chip in t/ha."""
    return (10 * CHIPS.index(chip) + place(PX) / 16).astype(np.float32)


def months_of(chip: str) -> tuple[str, ...]:
    """The months of which a chip has Sentinel-2."""
    return tuple(month for month in MONTHS if month not in WITHOUT.get(chip, ()))


def pixels(chip: str) -> np.ndarray:
    """Medians over the months `(12, 32, 32)`: VV, VH, B02 to B12; NaN where nothing is known."""
    radar = np.stack([s1(chip, month)[:2] for month in MONTHS]).astype(float)
    radar[radar == -9999] = np.nan
    there = ~np.isnan(radar).all(axis=0)
    middle = np.where(there, np.nanmedian(np.where(there, radar, 0), axis=0), np.nan)
    optical = np.stack([s2(chip, month)[:10] for month in months_of(chip)])
    return np.concatenate([middle, np.median(optical, axis=0)])


def write(root: Path) -> None:
    """Write the chips of both splits, biomass of all of them, and the table of files."""
    for split, chips in (("train", TRAIN), ("test", TEST)):
        for chip in chips:
            write_tif(root / f"{split}_agbm" / f"{chip}_agbm.tif", biomass(chip))
            for month in MONTHS:
                write_tif(root / f"{split}_features" / f"{chip}_S1_{month}.tif", s1(chip, month))
            for month in months_of(chip):
                write_tif(root / f"{split}_features" / f"{chip}_S2_{month}.tif", s2(chip, month))
    (root / "biomassters_features_metadata.csv").write_text("filename,chip_id,satellite\n")
