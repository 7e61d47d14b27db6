"""How a scene is cut into overlapping windows, and how much each pixel of one counts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from eosfm_cli.tiling import Tile, grid, offsets, round_up

MULTIPLE = 32
"""Encoders halve their input five times; what they see must divide by this."""


@dataclass(frozen=True)
class WindowPlan:
    """Windows over a scene of `height` by `width` pixels, in reading order."""

    height: int
    width: int
    size: int
    """Edge of a window, as the model was fitted."""
    overlap: int
    """Pixels that neighbours share; a step is `size - overlap`."""

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

    @property
    def padded(self) -> tuple[int, int]:
        """Height and width of what the model sees of each window."""
        return (
            round_up(min(self.size, self.height), MULTIPLE),
            round_up(min(self.size, self.width), MULTIPLE),
        )

    def describe(self) -> str:
        """Write the plan as `9 windows of 256 × 256 pixels, overlapping by 64`."""
        count = len(self)
        height, width = self.padded
        windows = "1 window" if count == 1 else f"{count:,} windows"
        text = f"{windows} of {width} × {height} pixels"
        return text if count == 1 else f"{text}, overlapping by {self.overlap}"


def plan_windows(height: int, width: int, size: int) -> WindowPlan:
    """Plan windows of the size that the model was fitted on.

    Neighbours share about a quarter of it. The step stays a multiple of 32 where it can, so that
    neighbours put the encoder's coarse cells on the same pixels and agree with each other.
    """
    quarter = max(round(size / 4 / MULTIPLE), 1) * MULTIPLE
    return WindowPlan(height, width, size, min(quarter, size // 2))


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
