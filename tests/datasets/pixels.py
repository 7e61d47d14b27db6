"""Values that tell where a pixel is."""

from __future__ import annotations

import numpy as np


def place(height: int, width: int | None = None) -> np.ndarray:
    """The number of each pixel `(h, w)`, row by row."""
    width = height if width is None else width
    return np.arange(height * width).reshape(height, width)
