"""The embedded dataset: small georeferenced scenes of imagined places, made by our own code.

Two sets that share no scene: `upstream` for training specialists, and `landcover`, in a region
where surfaces look a little different, for fitting an ensemble with few labels. `landcover` also
has one larger scene to map, with the bands of both sensors in one file.

    <root>/upstream/{s2,s1,masks}/north-01.tif …
    <root>/landcover/{s2,s1,masks}/south-01.tif …
    <root>/landcover/scenes/south-map.tif, south-map-truth.tif
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from rasterio.transform import from_origin

from eosfm_cli.data.download import check_space
from eosfm_cli.data.landscape import Landscape, Shape, imagine
from eosfm_cli.data.signatures import OPTICAL, RADAR, Region, optical, radar
from eosfm_cli.errors import OutputError, unwritable

NO_LABEL = 255
_PIXEL_M = 10
_BYTES = 36_000_000
"""About what all files take."""
_MARGIN_PX = 16
"""Made and cut off again: smoothing wraps around the edges."""
_SIZE: Shape = (256, 256)
_MAP_SIZE: Shape = (508, 598)


@dataclass(frozen=True)
class _Set:
    name: str
    prefix: str
    scenes: int
    region: Region
    crs: str
    origin: tuple[float, float]
    """Easting and northing of the first scene's upper left corner, in metres."""


_UPSTREAM = _Set("upstream", "north", 8, Region(), "EPSG:32632", (500_000, 5_800_000))
_LANDCOVER = _Set(
    "landcover",
    "south",
    5,
    Region(vigour=0.78, soil=1.12, dryness=1.1, backscatter_db=0.8),
    "EPSG:32631",
    (420_000, 4_600_000),
)


@dataclass(frozen=True)
class _Scene:
    """What the sensors saw, and what is there."""

    s2: np.ndarray
    s1: np.ndarray
    cover: np.ndarray


def mapping_scene(root: Path) -> tuple[Path, Path]:
    """The scene to map, with 15 bands, and its true land cover.

    Args:
        root: The folder of the embedded dataset.
    """
    folder = root / _LANDCOVER.name / "scenes"
    return folder / "south-map.tif", folder / "south-map-truth.tif"


def make_mini(root: Path, *, seed: int = 0) -> None:
    """Make the embedded dataset; the same one from the same seed.

    It is made under a temporary name beside `root`, which therefore is complete or not there.

    Raises:
        OutputError: The place cannot be written, or the disk is too full.
    """
    check_space(root.parent, _BYTES)  # GDAL would not say why it cannot write
    temporary: Path | None = None
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{root.name}-", dir=root.parent))
        for number, scenes in enumerate((_UPSTREAM, _LANDCOVER)):
            _write_set(temporary, scenes, [seed, number])
        _write_mapping_scene(temporary, [seed, 2])
        _move(temporary, root)
    except OSError as error:
        raise OutputError(
            unwritable(root, error).message,
            hint="Name another folder for datasets with --data-root, or check permissions and "
            "free space.",
        ) from None
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _move(temporary: Path, root: Path) -> None:
    temporary.chmod(0o755)
    try:
        temporary.replace(root)
    except OSError:
        # Another process was faster: what it made is the same.
        if not root.is_dir():
            raise


def _write_set(root: Path, scenes: _Set, seed: Sequence[int]) -> None:
    for number in range(1, scenes.scenes + 1):
        rng = np.random.default_rng([*seed, number])
        scene = _scene(_SIZE, scenes.region, rng, swath_edge=number == 1)
        name = f"{scenes.prefix}-{number:02d}.tif"
        place = _Place(scenes, number)
        folder = root / scenes.name
        place.write(folder / "s2" / name, scene.s2, OPTICAL, nodata=0)
        place.write(folder / "s1" / name, scene.s1, RADAR, nodata=np.nan)
        place.write(folder / "masks" / name, scene.cover[None], ("land cover",), nodata=NO_LABEL)


def _write_mapping_scene(root: Path, seed: Sequence[int]) -> None:
    scene = _scene(_MAP_SIZE, _LANDCOVER.region, np.random.default_rng(seed), swath_edge=True)
    s2 = np.where(scene.s2 == 0, np.nan, scene.s2)
    image, truth = mapping_scene(root)
    place = _Place(_LANDCOVER, _LANDCOVER.scenes + 1)
    stack = np.concatenate([s2, scene.s1]).astype(np.float32)
    place.write(image, stack, OPTICAL + RADAR, nodata=np.nan)
    place.write(truth, scene.cover[None], ("land cover",), nodata=NO_LABEL)


def _scene(shape: Shape, region: Region, rng: np.random.Generator, *, swath_edge: bool) -> _Scene:
    """Make up a place and look at it with both sensors."""
    larger = (shape[0] + 2 * _MARGIN_PX, shape[1] + 2 * _MARGIN_PX)
    place: Landscape = imagine(larger, rng)
    inside = (..., slice(_MARGIN_PX, -_MARGIN_PX), slice(_MARGIN_PX, -_MARGIN_PX))
    s2, s1 = optical(place, region, rng)[inside], radar(place, region, rng)[inside]
    cover = place.cover[inside]
    if swath_edge:
        row, col = np.mgrid[: shape[0], : shape[1]]
        outside = row + 3 * col < shape[0] // 4
        s2[:, outside], s1[:, outside], cover[outside] = 0, np.nan, NO_LABEL
    return _Scene(s2, s1, cover)


@dataclass(frozen=True)
class _Place:
    """Where a scene lies: scenes of one set stand in a row, a kilometre apart."""

    scenes: _Set
    number: int

    def write(self, path: Path, pixels: np.ndarray, bands: Sequence[str], *, nodata: float) -> None:
        """Write `(c, h, w)` as a GeoTIFF with band descriptions."""
        path.parent.mkdir(parents=True, exist_ok=True)
        east, north = self.scenes.origin
        step = _SIZE[1] * _PIXEL_M + 1000
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
            crs=self.scenes.crs,
            transform=from_origin(east + (self.number - 1) * step, north, _PIXEL_M, _PIXEL_M),
            tiled=True,
            blockxsize=128,
            blockysize=128,
            compress="deflate",
            zlevel=1,
        ) as raster:
            raster.write(pixels)
            raster.descriptions = tuple(bands)
