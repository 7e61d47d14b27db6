"""A tiny ETCI 2021 in its own layout, in which a swapped band, tile or shift shows.

Of tile number n, VV is 20 + 2 n plus the column, VH 120 + 2 n plus the row: never 0 or 255. Of each
event, one more tile has a fifth of VV without data (0), another a fifth of VH (255).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.rasters import write_image

PX = 64
SETTINGS: dict[str, Any] = {"dataset.shape": [PX, PX]}
"""What the recipe needs to know of tiles that are smaller than the real ones."""
TRAIN = (
    "bangladesh_20170314t115609",
    "bangladesh_20170606t115612",
    "nebraska_20170108t002112",
    "northal_20190302t234651",
)
TEST = ("florence_20180510t231343", "florence_20180522t231344")
WITHHELD = ("redrivernorth_20190104t002247",)
EVENTS = (*TRAIN, *TEST, *WITHHELD)
TILES = ("x-0_y-0", "x-0_y-1")
NO_VV, NO_VH = "x-1_y-0", "x-1_y-1"
"""Tiles that are in part without VV or VH."""


def number(event: str, tile: str) -> int:
    """The number n of a tile."""
    return 4 * EVENTS.index(event) + (*TILES, NO_VV, NO_VH).index(tile)


def pixels(event: str, tile: str) -> np.ndarray:
    """VV, VH `(2, 64, 64)`."""
    row, col = np.mgrid[:PX, :PX]
    shift = 2 * number(event, tile)
    values = np.stack([20 + shift + col, 120 + shift + row]).astype(np.uint8)
    edge = PX // 5
    if tile == NO_VV:
        values[0, :edge] = 0
    if tile == NO_VH:
        values[1, :, -edge:] = 255
    return values


def flood(event: str, tile: str) -> np.ndarray:
    """Where there is a flood `(64, 64)`: 0 or 1."""
    row, col = np.mgrid[:PX, :PX]
    return ((row // 8 + col // 16 + number(event, tile)) % 3 == 0).astype(np.uint8)


def write(root: Path) -> None:
    """Write all three parts; the last has no labels of floods."""
    for split, events in (("train", TRAIN), ("test", TEST), ("test_internal", WITHHELD)):
        for event in events:
            for tile in (*TILES, NO_VV, NO_VH):
                _write_tile(root / split / event / "tiles", event, tile, split != "test_internal")


def _write_tile(folder: Path, event: str, tile: str, labelled: bool) -> None:
    name = f"{event}_{tile}"
    for band, values in zip(("vv", "vh"), pixels(event, tile), strict=True):
        write_image(folder / band / f"{name}_{band}.png", np.stack([values] * 3))
    # Water that is always there covers what the flood does not: taken for it, that would show.
    wet = 255 * flood(event, tile)
    write_image(folder / "water_body_label" / f"{name}.png", np.stack([255 - wet] * 3))
    if labelled:
        write_image(folder / "flood_label" / f"{name}.png", np.stack([wet] * 3))
