"""A tiny CV4A Kenya in its own layout: a file per band and date, a map of fields and one of crops.

Band k (B01 to B12) of tile t is 4000 k + 1100 t + the pixel's number, to which each date adds
something else; over all dates that is 0 in the middle. The files hold floats, as the real ones do.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.datasets.pixels import place
from tests.rasters import write_tif

PX = 32
TILES = (0, 1)
DATES = (
    "20190606", "20190701", "20190706", "20190711", "20190721", "20190805", "20190815",
    "20190825", "20190909", "20190919", "20190924", "20191004", "20191103",
)  # fmt: skip
BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
_ADDED = (100, -60, 40, 0, -20, 60, -80, 20, -40, 80, -100, 12, -12)


def pixels(tile: int, date: str | None = None) -> np.ndarray:
    """The bands `(12, 32, 32)` of a tile at a date, or what is in the middle of all dates."""
    added = 0 if date is None else _ADDED[DATES.index(date)]
    return np.stack([4000 * k + 1100 * tile + place(PX) + 200 + added for k in range(12)])


def fields(tile: int) -> np.ndarray:
    """Which field each pixel is in: 16 fields with paths between them, which are 0."""
    row, col = np.mgrid[:PX, :PX]
    ids = 1 + 16 * tile + 4 * (row // 8) + col // 8
    return np.where((row % 8 == 0) | (col % 8 == 0), 0, ids).astype(np.int32)


def labels(tile: int) -> np.ndarray:
    """The crop of each pixel, 1 to 7; 0 between fields and in the competition's test fields."""
    ids = fields(tile)
    return np.where((ids == 0) | (ids % 5 == 4), 0, ids % 7 + 1).astype(np.uint8)


def write(root: Path) -> None:
    """Write all tiles."""
    for tile in TILES:
        folder = root / "data" / str(tile)
        write_tif(folder / f"{tile}_field_id.tif", fields(tile))
        write_tif(folder / f"{tile}_label.tif", labels(tile))
        for date in DATES:
            for band, layer in zip(BANDS, pixels(tile, date), strict=True):
                write_tif(folder / date / f"{tile}_{band}_{date}.tif", layer.astype(np.float32))
            clouds = np.zeros((PX, PX), np.uint8)
            write_tif(folder / date / f"{tile}_CLD_{date}.tif", clouds)
    ids = sorted({int(i) for tile in TILES for i in np.unique(fields(tile)) if i})
    test = [i for i in ids if i % 5 == 4]
    train = [i for i in ids if i % 5 != 4]
    rows = [f"{i},{test[k] if k < len(test) else ''}\n" for k, i in enumerate(train)]
    (root / "FieldIds.csv").write_text("train,test\n" + "".join(rows))
