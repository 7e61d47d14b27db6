"""How far predicted values lie from known ones."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

_SAMPLE = 100_000
"""Pixels that are kept to be drawn."""

Floats = NDArray[np.float64]


class Residuals:
    """Adds up predicted and known values, in memory that does not grow with their number.

    Args:
        sample: How many pairs to keep, drawn from all of them alike.
    """

    def __init__(self, sample: int = _SAMPLE) -> None:
        self.count = 0
        self._most = sample
        self._rng = np.random.default_rng(0)
        self._keys = np.empty(0)
        self._pairs = np.empty((2, 0))
        self._sums = np.zeros(5)
        self._low, self._high = np.full(2, math.inf), np.full(2, -math.inf)
        self._origin = 0.0

    def add(self, predicted: NDArray, known: NDArray) -> None:
        """Add pixels that have both values, `(n,)` each."""
        if not predicted.size:
            return
        pairs = np.stack([predicted, known]).astype(np.float64)
        if not self.count:
            self._origin = float(pairs[1].mean())  # squares of what is far from 0 lose digits
        error, centred = pairs[0] - pairs[1], pairs[1] - self._origin
        self.count += error.size
        self._sums += [
            error.sum(),
            np.abs(error).sum(),
            error @ error,
            centred.sum(),
            centred @ centred,
        ]
        self._low = np.minimum(self._low, pairs.min(axis=1))
        self._high = np.maximum(self._high, pairs.max(axis=1))
        self._draw(pairs)

    def _draw(self, pairs: Floats) -> None:
        """Keep those pairs to which chance gives the smallest keys."""
        keys = self._rng.random(pairs.shape[1])
        if len(self._keys) == self._most:
            better = keys < self._keys.max()
            keys, pairs = keys[better], pairs[:, better]
        keys = np.concatenate([self._keys, keys])
        pairs = np.concatenate([self._pairs, pairs], axis=1)
        if len(keys) > self._most:
            chosen = np.argpartition(keys, self._most)[: self._most]
            keys, pairs = keys[chosen], pairs[:, chosen]
        self._keys, self._pairs = keys, pairs

    @property
    def sample(self) -> tuple[Floats, Floats]:
        """Predicted and known values of some of the pixels, or of all where they are few."""
        return self._pairs[0], self._pairs[1]

    @property
    def bias(self) -> float:
        """How much more is predicted than known, on average."""
        return float(self._sums[0] / self.count)

    @property
    def known(self) -> tuple[float, float, float]:
        """Least, mean and largest known value."""
        mean = self._origin + self._sums[3] / self.count
        return float(self._low[1]), float(mean), float(self._high[1])

    @property
    def predicted(self) -> tuple[float, float, float]:
        """Least, mean and largest predicted value."""
        return float(self._low[0]), self.known[1] + self.bias, float(self._high[0])

    def metrics(self) -> dict[str, float]:
        """The scores, by TerraTorch's names."""
        _, absolute, squared, centred, centred_squared = (self._sums / self.count).tolist()
        variance = centred_squared - centred**2
        explained = 1 - squared / variance if variance > 0 else math.nan
        return {
            "RMSE": math.sqrt(squared),
            "MSE": squared,
            "MAE": absolute,
            "R2_Score": explained if math.isfinite(explained) else math.nan,
        }
