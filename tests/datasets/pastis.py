"""A tiny PASTIS-R in its own layout: arrays of all dates, and a table with the folds.

Of patch number n, band k of Sentinel-2 is 2000 k + 400 n + something of the place, to which each
date adds something else. Of Sentinel-1, VV is -n - a hundredth of that, VH ten less; descending
orbits have 50 less than ascending ones.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

PX = 32
PATCHES = (10000, 10001, 10002, 20000, 20003, 30001, 30002)
FOLDS = (1, 2, 3, 1, 4, 5, 5)
"""The fold of each patch."""
DATES = (3, 5, 4, 2, 1, 4, 3)
"""How many dates each patch has."""


def _place() -> np.ndarray:
    row, col = np.mgrid[:PX, :PX]
    return (7 * row + 3 * col) % 350


def s2(patch: int) -> np.ndarray:
    """Sentinel-2 of a patch `(t, 10, 32, 32)`; the first date has a corner that is not known."""
    n = PATCHES.index(patch)
    bands = np.stack([2000 * k + 400 * n + _place() for k in range(10)])
    series = np.stack([bands + 7 * (t * t % 5) for t in range(DATES[n])]).astype(np.int16)
    series[0, :, :4, :4] = -10000
    return series


def s1(patch: int, orbit: str) -> np.ndarray:
    """Sentinel-1 of a patch `(t, 3, 32, 32)`: VV, VH and VV - VH; `orbit` is A or D."""
    n = PATCHES.index(patch)
    vv = -n - _place() / 64 - (50 if orbit == "D" else 0)
    bands = np.stack([vv, vv - 10, np.full_like(vv, 10)])
    dates = DATES[n] + 1
    return np.stack([bands + (t * t % 5) / 4 for t in range(dates)]).astype(np.float16)


def middle(series: np.ndarray) -> np.ndarray:
    """Median over the dates of what is known, NaN where nothing is."""
    known = np.where(series == -10000, np.nan, series.astype(float))
    there = ~np.isnan(known).all(axis=0)
    return np.where(there, np.nanmedian(np.where(there, known, 0), axis=0), np.nan)


def labels(patch: int) -> np.ndarray:
    """The crops of a patch: 0 to 18, and 19 for no label."""
    row, col = np.mgrid[:PX, :PX]
    return ((row // 2 + col // 3 + PATCHES.index(patch)) % 20).astype(np.uint8)


def write(root: Path, *, folder: str = "PASTIS-R") -> None:
    """Write all patches and the table.

    Args:
        root: The dataset's folder.
        folder: Where below it all is; empty for the root itself.
    """
    for patch in PATCHES:
        others = np.full((2, PX, PX), 77, np.uint8)
        for name, array in (
            ("DATA_S2/S2", s2(patch)),
            ("DATA_S1A/S1A", s1(patch, "A")),
            ("DATA_S1D/S1D", s1(patch, "D")),
            ("ANNOTATIONS/TARGET", np.concatenate([labels(patch)[None], others])),
        ):
            path = root / folder / f"{name}_{patch}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, array)
    rows = zip(PATCHES, FOLDS, DATES, strict=True)
    table = {"type": "FeatureCollection", "features": [_feature(*row) for row in rows]}
    (root / folder / "metadata.geojson").write_text(json.dumps(table))


def _feature(patch: int, fold: int, dates: int) -> dict[str, object]:
    properties = {
        "ID_PATCH": patch,
        "TILE": "t30uxv",
        "Fold": fold,
        "dates-S2": {str(t): 20180917 + t for t in range(dates)},
        "dates-S1A": {str(t): 20180902 + t for t in range(dates + 1)},
    }
    square = [[[0.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, 0.0], [0.0, 0.0]]]
    geometry = {"type": "MultiPolygon", "coordinates": [square]}
    return {"type": "Feature", "properties": properties, "geometry": geometry}
