"""Pixels in NumPy's own files (`.npy`), read by windows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
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

    Mapped anew for each window and read no further than that: what the system mapped of the file
    does not stay in memory.

    Args:
        path: The `.npy` file.

    Raises:
        DataError: It is damaged, or holds something else than pixels.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        array = self._opened()
        shape = (1,) * (4 - array.ndim) + array.shape
        self.dates, self.count, self.height, self.width = shape
        self.dtype = array.dtype.name
        order = "C" if array.flags.c_contiguous else "F"
        self._mapped = partial(np.memmap, path, array.dtype, "r", array.offset, shape, order)

    def read(self, bands: Sequence[int], tile: Tile, date: int = 0) -> np.ndarray:
        """Some bands, counted from 1, of a window of one date `(c, h, w)`."""
        try:
            pixels = self._mapped().view(np.ndarray)[date]
        except ValueError:
            raise self._bad("it is cut short") from None
        chosen = np.stack([pixels[band - 1, *tile.slices] for band in bands])
        return chosen.astype(chosen.dtype.newbyteorder("="), copy=False)

    def _bad(self, reason: str) -> DataError:
        return DataError(f"Cannot read {self._path}: {reason}.", hint=GET_IT_AGAIN)

    def _opened(self) -> np.ndarray:
        """The array as it is, on disk."""
        try:
            array = open_memmap(self._path, mode="r")
        except (ValueError, TypeError, EOFError, OverflowError) as error:
            found = (words for part, words in _REASONS.items() if part in str(error))
            raise self._bad(next(found, "this is no NumPy array")) from None
        if array.dtype.kind not in "biufc" or not 2 <= array.ndim <= 4 or not array.size:
            shape = " × ".join(map(str, array.shape)) or "one value"
            raise DataError(
                f"{self._path} holds {array.dtype} of {shape}, which is no image.",
                hint="Images are numbers of rows × columns, bands × rows × columns, or dates × "
                "bands × rows × columns.",
            )
        return array
