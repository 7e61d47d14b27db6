"""Pixels in NumPy's own files (`.npy`), read by windows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap

from eosfm_cli.errors import DataError
from eosfm_cli.tiling import Tile

SUFFIX = ".npy"

GET_IT_AGAIN = "It may be damaged or cut short: get it again, or take it out of the dataset."
"""What to do about a file that cannot be read."""
_REASONS = {
    "Python objects": "it holds Python objects, not numbers",
    "greater than file size": "it is cut short",
}


class ArrayFile:
    """An array `(h, w)`, `(c, h, w)` or `(t, c, h, w)` on disk.

    Opened anew for each window and read no further than that: what the system mapped of the file
    does not stay in memory.

    Args:
        path: The `.npy` file.

    Raises:
        DataError: It is damaged, or holds something else than pixels.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        pixels = self._pixels()
        self.dates, self.count, self.height, self.width = pixels.shape
        self.dtype = pixels.dtype.name

    def read(self, bands: Sequence[int], tile: Tile, date: int = 0) -> np.ndarray:
        """Some bands, counted from 1, of a window of one date `(c, h, w)`."""
        rows, cols = tile.slices
        chosen = self._pixels()[date, [band - 1 for band in bands], rows, cols]
        return np.array(chosen, dtype=chosen.dtype.newbyteorder("="))

    def _pixels(self) -> np.ndarray:
        """The array as `(t, c, h, w)`, on disk."""
        try:
            array = open_memmap(self._path, mode="r")
        except (ValueError, TypeError, EOFError, OverflowError) as error:
            found = (words for part, words in _REASONS.items() if part in str(error))
            reason = next(found, "this is no NumPy array")
            raise DataError(f"Cannot read {self._path}: {reason}.", hint=GET_IT_AGAIN) from None
        if array.dtype.kind not in "biufc" or not 2 <= array.ndim <= 4 or not array.size:
            shape = " × ".join(map(str, array.shape)) or "one value"
            raise DataError(
                f"{self._path} holds {array.dtype} of {shape}, which is no image.",
                hint="Images are numbers of rows × columns, bands × rows × columns, or dates × "
                "bands × rows × columns.",
            )
        return array[(None,) * (4 - array.ndim)]
