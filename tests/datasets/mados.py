"""A tiny MADOS in its own layout: a file per band, in folders by pixel size.

Of crop number n, layer k (B01 to B12) holds 20000 k + 100 n + 8 times the number of the pixel of
the file; names have the wavelengths of Sentinel-2A in scenes of even number, else of 2B.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.datasets.pixels import place
from tests.rasters import write_tif

PX = 48
SETTINGS: dict[str, Any] = {"dataset.shape": [PX, PX]}
NANOMETRES = (
    (443, 492, 560, 665, 704, 740, 783, 833, 865, 1614, 2202),  # Sentinel-2A
    (442, 492, 559, 665, 704, 739, 780, 833, 864, 1610, 2186),  # Sentinel-2B
)
METRES = (60, 10, 10, 10, 20, 20, 20, 10, 20, 20, 20)
LISTS: dict[str, tuple[tuple[int, int], ...]] = {
    "train": ((0, 1), (0, 12), (1, 1), (11, 2)),
    "val": ((2, 1), (13, 1)),
    "test": ((12, 1), (3, 12)),
}
"""Scene and crop of the samples of each split."""
CROPS = tuple(crop for crops in LISTS.values() for crop in crops)


def name(crop: tuple[int, int]) -> str:
    """How the lists write a crop."""
    return f"Scene_{crop[0]}_{crop[1]}"


def layer(crop: tuple[int, int], k: int) -> np.ndarray:
    """Layer k (0 to 10) of a crop as its file has it; one pixel of the first is not known."""
    size = PX * 10 // METRES[k]
    pixels = (20_000 * k + 100 * CROPS.index(crop) + 8 * place(size)).astype(np.float32)
    if k == 0:
        pixels[-1, -1] = np.nan
    return pixels


def pixels(crop: tuple[int, int]) -> np.ndarray:
    """The layers `(11, 48, 48)` of a crop, each pixel repeated over the fine ones in it."""
    return np.stack(
        [np.kron(layer(crop, k), np.ones((METRES[k] // 10,) * 2)) for k in range(len(METRES))]
    )


def labels(crop: tuple[int, int]) -> np.ndarray:
    """The labels of a crop as its file has them: 1 to 15, and 0 in half of the pixels."""
    row, col = np.mgrid[:PX, :PX]
    values = (row // 3 + col // 5 + CROPS.index(crop)) % 15 + 1
    return np.where((row + col) % 2, values, 0).astype(np.uint8)


def write(root: Path) -> None:
    """Write all crops, what else stands beside their files, and the lists."""
    for crop in CROPS:
        scene = root / "MADOS" / f"Scene_{crop[0]}"
        for k, metres in enumerate(METRES):
            nm = NANOMETRES[crop[0] % 2][k]
            file = scene / str(metres) / f"{scene.name}_L2R_rhorc_{nm}_{crop[1]}.tif"
            write_tif(file, layer(crop, k))
        for kind in ("cl", "conf", "rep"):
            values = labels(crop) if kind == "cl" else np.ones((PX, PX), np.uint8)
            write_tif(scene / "10" / f"{scene.name}_L2R_{kind}_{crop[1]}.tif", values)
    for split, crops in LISTS.items():
        path = root / "MADOS" / "splits" / f"{split}_X.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(f"{name(crop)}\n" for crop in crops))
