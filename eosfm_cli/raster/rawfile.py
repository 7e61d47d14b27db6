"""Rows of a raster as plain bytes: they can be appended, cut off and gone on with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_ROWS_AT_ONCE = 16


@dataclass(frozen=True)
class RawLayout:
    """What a raw file holds: row after row, of each row one band after the other."""

    width: int
    count: int
    dtype: str

    @property
    def line_bytes(self) -> int:
        """Bytes of one row of one band."""
        return self.width * np.dtype(self.dtype).itemsize

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of all bands."""
        return self.count * self.line_bytes


class RawFile:
    """A raw file that grows by rows, or is filled block by block.

    Args:
        path: Where it is.
        layout: What it holds.
        rows: How many rows of what is there already stay; it is made anew if none.
    """

    def __init__(self, path: Path, layout: RawLayout, rows: int = 0) -> None:
        self.path, self.layout = path, layout
        self._file = path.open("r+b" if rows else "wb", buffering=0)
        self._file.truncate(rows * layout.row_bytes)
        self._end = rows * layout.row_bytes

    def append(self, values: NDArray[np.generic]) -> None:
        """Take the next rows, `(count, rows, width)`."""
        for part in _by_rows(values):
            data = np.ascontiguousarray(part, self.layout.dtype)
            write_at(self._file, data, self._end)
            self._end += data.nbytes

    def put(self, row: int, col: int, values: NDArray[np.generic]) -> None:
        """Write pixels `(count, rows, cols)` where they belong, in any order."""
        values = np.ascontiguousarray(values, self.layout.dtype)
        place = row * self.layout.row_bytes + col * values.itemsize
        for number, line in np.ndindex(values.shape[:2]):
            offset = line * self.layout.row_bytes + number * self.layout.line_bytes
            write_at(self._file, values[number, line], place + offset)

    def flush(self) -> None:
        """Have everything on the disk, so that it outlives the machine going down."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file; it stays."""
        self._file.close()


def write_at(file: FileIO, values: NDArray[np.generic], place: int) -> None:
    """Write all of an array at a place of an unbuffered file, which may take less at a time."""
    file.seek(place)
    data = values.data.cast("B")
    while data:
        data = data[file.write(data) :]


def _by_rows(values: NDArray[np.generic]) -> Iterator[NDArray[np.generic]]:
    """A few rows at a time, `(rows, count, width)`."""
    for start in range(0, values.shape[1], _ROWS_AT_ONCE):
        yield values[:, start : start + _ROWS_AT_ONCE].transpose(1, 0, 2)
