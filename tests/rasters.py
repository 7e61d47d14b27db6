"""Tiny real rasters and recipes over them, for tests that read data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.transform import from_origin

from eosfm_cli.data.reader import plain_images_allowed
from eosfm_cli.recipe import Recipe


def write_tif(path: Path, pixels: np.ndarray, *, nodata: float | None = None) -> Path:
    """Write `(c, h, w)` or `(h, w)` as a GeoTIFF in UTM, 10 m."""
    pixels = pixels[None] if pixels.ndim == 2 else pixels
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = pixels.shape
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=count,
        height=height,
        width=width,
        dtype=pixels.dtype,
        nodata=nodata,
        crs="EPSG:32631",
        transform=from_origin(500_000, 4_600_000, 10, 10),
    ) as raster:
        raster.write(pixels)
    return path


def write_image(path: Path, pixels: np.ndarray) -> Path:
    """Write `(c, h, w)` or `(h, w)` uint8 as PNG or JPEG, whichever the name ends in."""
    pixels = pixels[None] if pixels.ndim == 2 else pixels
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = pixels.shape
    jpeg = path.suffix.lower() in {".jpg", ".jpeg"}
    kind = {"driver": "JPEG", "quality": 100} if jpeg else {"driver": "PNG"}
    with (
        plain_images_allowed(),
        rasterio.open(
            path, "w", **kind, count=count, height=height, width=width, dtype=np.uint8
        ) as raster,
    ):
        raster.write(pixels.astype(np.uint8))
    # GDAL puts what it knows beside the image; real datasets have no such files.
    path.with_name(f"{path.name}.aux.xml").unlink(missing_ok=True)
    return path


def folder_recipe(**changes: Any) -> Recipe:
    """A segmentation recipe over `images/{id}.tif` and `masks/{id}.tif`, with keys replaced."""
    dataset: dict[str, Any] = {
        "root": "data",
        "images": {"rgb": {"path": "images/{id}.tif", "bands": ["red", "green", "blue"]}},
        "masks": {"path": "masks/{id}.tif"},
        "split": {"by": "list", "train": ["a"], "val": ["b"], "test": ["c"]},
        **changes.pop("dataset", {}),
    }
    bands = changes.get("bands") or [b for i in dataset["images"].values() for b in i["bands"]]
    raw: dict[str, Any] = {
        "name": "tiny",
        "title": "Tiny",
        "task": "segmentation",
        "dataset": dataset,
        "classes": [{"name": "no"}, {"name": "yes"}],
        "statistics": {band: {"mean": 0, "std": 1} for band in bands},
        "tile": {"size": 32},
        "training": {"workers": 0, "batch_size": 2, "augment": False},
        **changes,
    }
    return Recipe.model_validate(raw)


def write_sample(root: Path, name: str, shape: tuple[int, int] = (40, 50), bands: int = 3) -> None:
    """Write one image of distinct values and its mask of zeros and ones."""
    pixels = np.arange(bands * shape[0] * shape[1], dtype=np.float32).reshape(bands, *shape)
    write_tif(root / "images" / f"{name}.tif", pixels)
    write_tif(root / "masks" / f"{name}.tif", (pixels[0] % 2).astype(np.uint8))
