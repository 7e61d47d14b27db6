"""How a scene is cut into overlapping windows, and how much each pixel of one counts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from eosfm_cli.tiling import Tile, grid, offsets, round_up

MULTIPLE = 32
"""Encoders halve their input five times; what they see must divide by this."""

_SIZE, _OVERLAP = 768, 64
"""Windows larger than the tiles that a model was fitted on know more of each pixel's surroundings,
and compute fewer pixels twice."""
_SMALLEST = 64
"""What a model sees at least: below it, its coarsest features are single pixels."""


@dataclass(frozen=True)
class WindowPlan:
    """Windows over a scene of `height` by `width` pixels, in reading order."""

    height: int
    width: int
    size: int
    """Edge of a window."""
    overlap: int
    """Pixels that neighbours share; a step is `size - overlap`."""
    fixed: bool = False
    """Whether the model sees `size` by `size` pixels even of a smaller scene."""

    def __iter__(self) -> Iterator[Tile]:
        """Row by row, the last row and column flush with the scene's edge."""
        return grid(self.height, self.width, self.size, self.size - self.overlap)

    def __len__(self) -> int:
        return len(self.rows) * len(self.cols)

    @cached_property
    def rows(self) -> list[int]:
        """Where rows of windows begin, from the top down."""
        return offsets(self.height, self.size, self.size - self.overlap)

    @cached_property
    def cols(self) -> list[int]:
        """Where the windows of a row begin, from left to right."""
        return offsets(self.width, self.size, self.size - self.overlap)

    def starting_at(self, row: int) -> Iterator[Tile]:
        """The windows from the one row of windows on, counted from 0."""
        return islice(iter(self), row * len(self.cols), None)

    def spread(self, count: int) -> list[Tile]:
        """Some of the windows, at most `count`, from all over the scene."""
        height, width = min(self.size, self.height), min(self.size, self.width)
        stride = -(-len(self) // count)
        places = (
            divmod(number, len(self.cols)) for number in range(stride // 2, len(self), stride)
        )
        return [Tile(self.rows[row], self.cols[col], height, width) for row, col in places]

    @property
    def padded(self) -> tuple[int, int]:
        """Height and width of what the model sees of each window."""
        if self.fixed:
            return self.size, self.size
        height, width = (
            round_up(max(min(self.size, length), min(self.size, _SMALLEST)), MULTIPLE)
            for length in (self.height, self.width)
        )
        return height, width

    def describe(self) -> str:
        """Write the plan as `9 windows of 256 × 256 pixels, overlapping by 64`."""
        count = len(self)
        height, width = self.padded
        windows = "1 window" if count == 1 else f"{count:,} windows"
        text = f"{windows} of {width} × {height} pixels"
        return text if count == 1 else f"{text}, overlapping by {self.overlap}"


def window_size(tile: int, window: int | None = None) -> int:
    """How large windows are: as asked for, else the usual size, or the tile where that is larger.

    Args:
        tile: The size of tile that the model was fitted on.
        window: The edge that was asked for.
    """
    return window or max(tile, _SIZE)


def plan_windows(height: int, width: int, size: int) -> WindowPlan:
    """Plan windows of a size over a scene.

    Neighbours share 64 pixels, small windows about a quarter of their edge. The step stays a
    multiple of 32 where it can, so that neighbours put the encoder's coarse cells on the same
    pixels and agree with each other.
    """
    quarter = max(round(size / 4 / MULTIPLE), 1) * MULTIPLE
    return WindowPlan(height, width, size, min(quarter, _OVERLAP, size // 2))


def plan_fitting_windows(height: int, width: int, size: int) -> WindowPlan:
    """Plan windows of about a size, so that the last ones of rows and columns shift back little.

    Of a scene of 2000 × 2000 pixels, windows of 736 compute 1.22 times as many pixels, those of 768
    1.33 times.
    """
    nearby = range(round_up(size * 2 // 3, MULTIPLE), size * 17 // 16 + 1, MULTIPLE)
    plans = [plan_windows(height, width, edge) for edge in (size, *nearby)]
    return min(plans, key=lambda plan: len(plan) * math.prod(plan.padded))


def blend_weights(height: int, width: int, overlap: int) -> NDArray[np.float32]:
    """How much each pixel of a window counts, `(height, width)`, above 0 everywhere.

    Full in the middle, falling to the edges over `overlap` pixels as a raised cosine, so that two
    neighbours' weights sum to one and a window's rim, where it knows least, hardly counts.
    """
    return np.outer(_ramps(height, overlap), _ramps(width, overlap)).astype(np.float32)


def _ramps(length: int, overlap: int) -> NDArray[np.float64]:
    position = np.arange(length) + 0.5
    from_edge = np.minimum(position, length - position)
    rising = np.clip(from_edge / max(overlap, 1), 0, 1)
    return np.sin(np.pi / 2 * rising) ** 2


def pad(values: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Grow `(…, h, w)` to `height` by `width` by mirroring it at its lower and right edge."""
    *others, h, w = values.shape
    if (h, w) == (height, width):
        return values
    around = [*((0, 0) for _ in others), (0, height - h), (0, width - w)]
    return np.pad(values, around, mode="reflect")
