"""What one row of windows leaves to the next, in files: it grows with the width of a scene."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eosfm_cli.errors import unwritable
from eosfm_cli.raster.rawfile import write_at

Shape = tuple[int, int, int]


class Carry:
    """Arrays by column: written while one row of windows is computed, read during the next.

    Two files take turns, so that a row that breaks off can be done again.

    Args:
        folder: Where the files are; it exists.
        largest: The shape that no array exceeds.
        state: What `state` gave, to go on after that row.
    """

    def __init__(self, folder: Path, largest: Shape, state: dict[str, Any] | None = None) -> None:
        self._slot = 4 * int(np.prod(largest))
        self._files = [(folder / f"carry-{turn}.f32") for turn in (0, 1)]
        self._turn = state["turn"] if state else 0
        """Which file is being read; the other one is written."""
        self._there: dict[int, Shape] = {}
        """Column -> shape of what the last row left."""
        self._next: dict[int, Shape] = {}
        if state:
            self._there = {int(column): tuple(shape) for column, shape in state["there"].items()}
        else:
            for file in self._files:
                file.write_bytes(b"")
        self._open = [file.open("r+b", buffering=0) for file in self._files]

    def take(self, column: int) -> NDArray[np.float32] | None:
        """What the last row of windows left for a column; `None` if nothing."""
        shape = self._there.get(column)
        if shape is None:
            return None
        file = self._open[self._turn]
        file.seek(column * self._slot)
        data = bytearray(4 * int(np.prod(shape)))
        file.readinto(data)
        return np.frombuffer(data, np.float32).reshape(shape)

    def put(self, column: int, values: NDArray[np.float32]) -> None:
        """Leave something to the next row of windows.

        Raises:
            OutputError: The disk is full.
        """
        file = self._open[1 - self._turn]
        try:
            write_at(file, np.ascontiguousarray(values, np.float32), column * self._slot)
        except OSError as error:
            raise unwritable(self._files[0].parent, error) from error
        self._next[column] = values.shape

    def next_row(self) -> None:
        """Begin the next row of windows: what was written is read from now on."""
        self._turn = 1 - self._turn
        self._there, self._next = self._next, {}

    @property
    def state(self) -> dict[str, Any]:
        """All that is needed, beside the files, to go on at the beginning of a row."""
        return {"turn": self._turn, "there": self._there}

    def flush(self) -> None:
        """Have everything on the disk."""
        for file in self._open:
            os.fsync(file.fileno())

    def close(self) -> None:
        """Close the files; they stay."""
        for file in self._open:
            file.close()
