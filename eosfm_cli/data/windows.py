"""Where in its files a sample is, and how to go through it once."""

from __future__ import annotations

from functools import lru_cache

from eosfm_cli import tiling
from eosfm_cli.data.sample import Sample
from eosfm_cli.tiling import Tile

WINDOW_PX = 512
"""Edge of what is read at a time where every pixel counts."""


def in_files(sample: Sample, tile: Tile) -> Tile:
    """A tile of a sample, in the pixels of its files: the sample may be a part of them."""
    window = sample.window
    if window is None:
        return tile
    return Tile(tile.row + window.row, tile.col + window.col, tile.height, tile.width)


@lru_cache(maxsize=256)
def windows(height: int, width: int) -> tuple[Tile, ...]:
    """Tiles that cover an image, each pixel once."""
    return tuple(_without_overlap(tile) for tile in tiling.grid(height, width, WINDOW_PX))


def _without_overlap(tile: Tile) -> Tile:
    """Cut off what the flush last tile of a row or column shares with the one before."""
    row, col = (-(-start // WINDOW_PX) * WINDOW_PX for start in (tile.row, tile.col))
    return Tile(row, col, tile.height - (row - tile.row), tile.width - (col - tile.col))
