"""Rows of a raster as plain bytes: they can be appended, cut off and gone on with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
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
    """A raw file that grows by rows.

    Args:
        path: Where it is.
        layout: What it holds.
        rows: How many rows of what is there already stay; it is made anew if none.
    """

    def __init__(self, path: Path, layout: RawLayout, rows: int = 0) -> None:
        self.path, self.layout = path, layout
        self._file = path.open("r+b" if rows else "wb")
        self._file.truncate(rows * layout.row_bytes)
        self._file.seek(0, 2)

    def append(self, values: NDArray[np.generic]) -> None:
        """Take the next rows, `(count, rows, width)`."""
        for part in _by_rows(values):
            self._file.write(np.ascontiguousarray(part, self.layout.dtype).data)

    def flush(self) -> None:
        """Hand everything to the operating system."""
        self._file.flush()

    def close(self) -> None:
        """Close the file; it stays."""
        self._file.close()


def _by_rows(values: NDArray[np.generic]) -> Iterator[NDArray[np.generic]]:
    """A few rows at a time, `(rows, count, width)`."""
    for start in range(0, values.shape[1], _ROWS_AT_ONCE):
        yield values[:, start : start + _ROWS_AT_ONCE].transpose(1, 0, 2)
