"""Tiny HLS Burn Scars in their own layout: a folder each for training and validation.

Of scene number n, band k (B02 to B12) holds reflectance: 0.1 n + 0.01 k + a hundredth of a
millionth of the pixel's number.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.datasets.pixels import place
from tests.rasters import write_tif

PX = 64
TRAINING = (
    "T10SEH.2018190", "T10SEH.2018245", "T10TFM.2020255", "T11SKB.2019300", "T12SVG.2021160",
    "T12SVG.2021165",
)  # fmt: skip
VALIDATION = ("T10SEH.2018280", "T13TDE.2020280")
SCENES = (*TRAINING, *VALIDATION)


def pixels(scene: str) -> np.ndarray:
    """The bands `(6, 64, 64)` of a scene; of three pixels, one or all bands are not known."""
    number = SCENES.index(scene)
    bands = [0.1 * number + 0.01 * k + 1e-6 * place(PX) for k in range(6)]
    values = np.stack(bands).astype(np.float32)
    values[:, 0, 0] = 9999
    values[:, 0, 1] = -9999
    values[2, 0, 2] = np.nan
    return values


def labels(scene: str) -> np.ndarray:
    """The mask of a scene: burnt, not burnt, and rows and columns that are not known."""
    row, col = np.mgrid[:PX, :PX]
    values = (row // 4 + col // 6 + SCENES.index(scene)) % 3 - 1
    return values.astype(np.int16)


def id_of(scene: str) -> str:
    """What the sample of a scene is called."""
    return f"HLS.S30.{scene}.v1.4"


def write(root: Path) -> None:
    """Write the scenes of both folders."""
    for folder, scenes in (("training", TRAINING), ("validation", VALIDATION)):
        for scene in scenes:
            file = root / folder / f"subsetted_512x512_{id_of(scene)}"
            write_tif(file.with_name(f"{file.name}_merged.tif"), pixels(scene))
            write_tif(file.with_name(f"{file.name}.mask.tif"), labels(scene))
