"""Tiles over an image, in whole pixels."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Tile:
    """A rectangle of pixels: `row`, `col` is its upper left corner."""

    row: int
    col: int
    height: int
    width: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Index a `(…, h, w)` array with `array[..., *tile.slices]`."""
        return slice(self.row, self.row + self.height), slice(self.col, self.col + self.width)


def offsets(length: int, size: int, stride: int) -> list[int]:
    """Starts of tiles of `size` over `length`, every `stride`, the last one flush to the end.

    Every pixel is covered; where `length <= size` there is one tile, at 0.
    """
    if length < 1 or not 1 <= stride <= size:
        raise ValueError(f"tiles of {size} px every {stride} px cannot cover {length} px")
    last = max(length - size, 0)
    starts = list(range(0, last, stride))
    return [*starts, last]


def grid(height: int, width: int, size: int, stride: int | None = None) -> Iterator[Tile]:
    """Tiles over an image, row by row; smaller than `size` only where the image is."""
    tile_h, tile_w = min(size, height), min(size, width)
    for row in offsets(height, size, stride or size):
        for col in offsets(width, size, stride or size):
            yield Tile(row, col, tile_h, tile_w)


def random_tile(height: int, width: int, size: int, rng: random.Random) -> Tile:
    """Draw one tile uniformly from all positions inside the image."""
    tile_h, tile_w = min(size, height), min(size, width)
    return Tile(rng.randint(0, height - tile_h), rng.randint(0, width - tile_w), tile_h, tile_w)


def round_up(length: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that is at least `length`."""
    return -(-length // multiple) * multiple
