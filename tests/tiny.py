"""A tiny dataset of two sensors, and its recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.rasters import write_tif

RECIPE: dict[str, Any] = {
    "title": "Tiny land cover",
    "task": "segmentation",
    "dataset": {
        "root": "tiny",
        "licence": "CC0-1.0",
        "images": {
            "s2": {"path": "s2/{id}.tif", "bands": ["blue", "green", "red", "nir"]},
            "s1": {"path": "s1/{id}.tif", "bands": ["vv", "vh"]},
        },
        "masks": {"path": "masks/{id}.tif"},
        "split": {"by": "scene", "pattern": r"(\w)-", "val": ["c"], "test": ["d"]},
    },
    "classes": [
        {"name": "water", "colour": "#0000ff"},
        {"name": "field", "colour": "#00ff00"},
        {"name": "town", "colour": "#ff0000"},
    ],
    "tile": {"size": 32},
    "training": {
        "backbone": "test_convnext",
        "epochs": 2,
        "batch_size": 4,
        "decoder_channels": 8,
        "workers": 0,
    },
    "fit": {"epochs": 2, "batch_size": 4, "decoder_channels": 8, "workers": 0},
    "default_variant": "all",
    "variants": {
        "all": {},
        "rgb": {"bands": ["red", "green", "blue"]},
        "s1": {"bands": ["vv", "vh"]},
    },
}


def write_scenes(root: Path) -> None:
    """Four scenes of two tiles; what is water only radar tells, what is field only optics."""
    rng = np.random.default_rng(0)
    for name in ("a-1", "a-2", "b-1", "b-2", "c-1", "d-1", "d-2"):
        cover = np.repeat(np.repeat(rng.integers(0, 3, (2, 4)), 16, 0), 16, 1)
        s2 = rng.normal(1000, 100, (4, 32, 64)) + 800 * (cover == 1)
        s1 = rng.normal(-10, 1, (2, 32, 64)) - 8 * (cover == 0)
        write_tif(root / "s2" / f"{name}.tif", s2.astype(np.uint16))
        write_tif(root / "s1" / f"{name}.tif", s1.astype(np.float32))
        write_tif(root / "masks" / f"{name}.tif", cover.astype(np.uint8))
