"""Notice scenes whose values are in other units than the model was fitted on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_FAR = 20.0
"""Standard deviations between a scene's median and the model's mean that no season explains."""
_TINY = 0.02
"""Below this share of the expected mean and spread, values are in a larger unit."""


@dataclass(frozen=True)
class Doubt:
    """A band that looks wrong."""

    band: str
    median: float
    """Of the scene."""
    mean: float
    """Of the data that the model was fitted on, as is `std`."""
    std: float

    def describe(self) -> str:
        """Write it as `blue: median 0.08 here, about 1350 ± 240 expected`."""
        return (
            f"{self.band}: median {self.median:.3g} here, about {self.mean:.3g} ± {self.std:.2g} "
            "expected"
        )


def doubtful_bands(
    bands: Sequence[str],
    values: NDArray[np.float32],
    mean: NDArray[np.float32],
    std: NDArray[np.float32],
) -> tuple[Doubt, ...]:
    """The bands whose values are far from those that the model was fitted on.

    Args:
        bands: Their names.
        values: Standardised sample of the scene, `(bands, pixels)`.
        mean: Of the data that the model was fitted on, one per band.
        std: Likewise.
    """
    if values.shape[1] == 0:
        return ()
    medians = np.median(values, axis=1)
    spreads = values.std(axis=1)
    original = medians * std + mean
    shrunk = (np.abs(original) < _TINY * np.abs(mean)) & (spreads < _TINY)
    return tuple(
        Doubt(band, float(original[i]), float(mean[i]), float(std[i]))
        for i, band in enumerate(bands)
        if abs(medians[i]) > _FAR or shrunk[i]
    )
