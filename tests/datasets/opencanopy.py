"""A tiny Open-Canopy in its own layout: whole scenes, of which a table says which squares count.

Of pixel (row, col) of scene number n, red is n, green the row, blue the column and infrared 200
less the row. Squares are 50 m wide, which is no whole number of pixels, as 1 km is not.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from rasterio.transform import from_origin

PIXEL_M, SQUARE_M = 1.5, 50
SQUARE_PX = 33
SHAPE = (101, 134)
SCENES = (("2021", "20210406371164"), ("2022", "20220611372210"), ("2023", "20230902374464"))
"""Year and id of each scene."""
LEFT_M, TOP_M = 836_000, 6_454_000
_SQUARES = (("train", "val", "train", "buffer"), ("buffer", "train", "", "test"))
"""The upper two rows of squares of each scene; one of them nobody flew over."""


@dataclass(frozen=True)
class Square:
    """A feature of the table."""

    scene: int
    split: str
    row: int
    """Of its upper left corner, in squares."""
    col: int

    @property
    def pixels(self) -> tuple[slice, slice]:
        """Rows and columns of the scene."""
        starts = [round(i * SQUARE_M / PIXEL_M) for i in (self.row, self.col)]
        return slice(starts[0], starts[0] + SQUARE_PX), slice(starts[1], starts[1] + SQUARE_PX)


SQUARES = tuple(
    Square(scene, split, row, col)
    for row, splits in enumerate(_SQUARES)
    for scene in range(len(SCENES))
    for col, split in enumerate(splits)
    if split
)
"""In the order of the table, where those of a scene do not follow each other."""


def pixels(scene: int) -> np.ndarray:
    """The bands `(4, 101, 134)` of a scene."""
    row, col = np.mgrid[: SHAPE[0], : SHAPE[1]]
    return np.stack([np.full(SHAPE, scene), row, col, 200 - row]).astype(np.uint8)


def decimetres(scene: int) -> np.ndarray:
    """The heights of a scene as its file has them: with a row more than the image."""
    row, col = np.mgrid[: SHAPE[0] + 1, : SHAPE[1]]
    return ((3 * row + 2 * col + 100 * scene) % 403).astype(np.uint16)


def write(root: Path, *, start: tuple[float, float] = (0, 0)) -> None:
    """Write all scenes and the table of squares.

    Args:
        root: The dataset's folder.
        start: Row and column of the images, in pixels and parts of them, at which heights begin.
    """
    row, col = (round(part) for part in start)
    for number, (year, scene) in enumerate(SCENES):
        folder = root / "canopy_height" / year
        _write(folder / "spot" / f"compressed_pansharpened_{scene}.tif", pixels(number))
        around = np.pad(decimetres(number), [(max(-row, 0), 0), (max(-col, 0), 0)])
        path = folder / "lidar" / f"compressed_lidar_{scene}.tif"
        _write(path, around[None, max(row, 0) :, max(col, 0) :], start)
    table = {
        "type": "FeatureCollection",
        "crs": {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::2154"}},
        "features": [_feature(square) for square in SQUARES],
    }
    (root / "canopy_height/geometries.geojson").write_text(json.dumps(table))


def _write(path: Path, layers: np.ndarray, start: tuple[float, float] = (0, 0)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = layers.shape
    left, top = LEFT_M + PIXEL_M * start[1], TOP_M - PIXEL_M * start[0]
    with rasterio.open(
        path, "w", driver="GTiff", count=count, height=height, width=width, dtype=layers.dtype,
        crs="EPSG:2154", transform=from_origin(left, top, PIXEL_M, PIXEL_M),
    ) as raster:  # fmt: skip
        raster.write(layers)


def _feature(square: Square) -> dict[str, object]:
    left, top = LEFT_M + SQUARE_M * square.col, TOP_M - SQUARE_M * square.row
    right, bottom = left + SQUARE_M, top - SQUARE_M
    ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
    year, scene = SCENES[square.scene]
    properties = {
        "lidar_url": f"https://example.org/LHD_FXX_{left // 1000:04}_{top // 1000}.copc.laz",
        "lidar_year": int(year),
        "image_name": f"compressed_pansharpened_{scene}.tif",
        "split": square.split,
    }
    geometry = {"type": "Polygon", "coordinates": [ring]}
    return {"type": "Feature", "properties": properties, "geometry": geometry}
