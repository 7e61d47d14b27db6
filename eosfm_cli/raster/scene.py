"""A raster as a fitted model takes it: bands found by name, standardised, read by windows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.io import DatasetReader
from rasterio.windows import Window

from eosfm_cli.bands import match_bands
from eosfm_cli.errors import BundleError, RasterError
from eosfm_cli.manifest import ModelManifest
from eosfm_cli.raster.gdal import GDAL_ERRORS, complaint, quiet_open
from eosfm_cli.raster.grid import Grid
from eosfm_cli.tiling import Tile

BLOCK_CACHE_MB = 256
"""What GDAL may keep of blocks already read, over all open rasters."""

_FORMATS = ("GTiff", "VRT", "JP2OpenJPEG", "HFA", "ENVI", "PNG", "JPEG")
"""Formats of files on disk; GDAL's others also read addresses out of files and follow them."""

_TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_LARGEST_BLOCK = 2**31
_MOST_PIXELS = 10**12
_ABSURD = 1e6
"""Standard deviations from the mean that no measurement reaches: fill values nobody declared."""


@dataclass(frozen=True)
class Pixels:
    """One window of a scene."""

    values: NDArray[np.float32]
    """`(bands, h, w)`, standardised, in the model's order; 0, the mean, where not valid."""
    valid: NDArray[np.bool_]
    """`(h, w)`: every band that the model takes has a value there."""

    @classmethod
    def nothing(cls, valid: NDArray[np.bool_]) -> Pixels:
        """A window without data, which needs no room for values."""
        return cls(np.empty((0, *valid.shape), np.float32), valid)


class Scene:
    """An open raster matched to a model; a scene of a single date.

    Args:
        dataset: The raster.
        path: As the user named it.
        manifest: Which bands the model takes and how they are standardised.
        given: Names of the raster's bands in file order, as `--bands` has them.

    Raises:
        BandError: A band that the model takes is not there.
        RasterError: The raster holds something that no map can be made of.
    """

    def __init__(
        self,
        dataset: DatasetReader,
        path: Path,
        manifest: ModelManifest,
        given: Sequence[str] | None,
    ) -> None:
        _refuse_unreadable(dataset, path)
        self.path = path
        self.dates = (self,)
        self.bands = manifest.bands
        self.grid = Grid.of(dataset)
        self.indexes, self.matching = _match(dataset, path, manifest, given)
        self.mean, self.std = _statistics(manifest)
        self.has_palette = any(
            dataset.colorinterp[i - 1] is ColorInterp.palette for i in self.indexes
        )
        self._dataset = dataset
        self._masks = _mask_indexes(dataset, self.indexes)

    def read(self, tile: Tile) -> Pixels:
        """Read one window.

        Raises:
            RasterError: The file is damaged there.
        """
        window = Window(tile.col, tile.row, tile.width, tile.height)
        with _reading(self.path):
            raw = self._dataset.read(list(self.indexes), window=window)
            masks = [self._dataset.read_masks(i, window=window) for i in self._masks]
        with np.errstate(all="ignore"):
            values = (raw.astype(np.float32) - self.mean) / self.std
            valid = (np.abs(values) < _ABSURD).all(axis=0)  # False for NaN as well
        for mask in masks:
            valid &= mask != 0
        return Pixels(np.where(valid, values, np.float32(0)), valid)


@contextmanager
def open_scene(
    path: Path, manifest: ModelManifest, given: Sequence[str] | None = None
) -> Iterator[Scene]:
    """Open a raster for a model.

    Raises:
        RasterError: There is no such file, or it is no raster that can be mapped.
        BandError: A band that the model takes is not there.
    """
    with open_raster(path) as dataset:
        yield Scene(dataset, path, manifest, given)


@contextmanager
def open_raster(path: Path) -> Iterator[DatasetReader]:
    """Open any raster, with GDAL's memory bounded and its messages turned into ours.

    Raises:
        RasterError: There is no such file, or it is no raster.
    """
    if path.is_dir():
        raise RasterError(f"{path} is a folder.", hint="Name one raster in it.")
    if not path.is_file():
        raise RasterError(f"There is no file {path}.")
    with rasterio.Env(GDAL_CACHEMAX=BLOCK_CACHE_MB):
        dataset = _open(path)
        try:
            yield dataset
        finally:
            dataset.close()


def _open(path: Path) -> DatasetReader:
    reasons = []
    for driver in _formats_of(path):
        try:
            return quiet_open(path, driver=driver)
        except GDAL_ERRORS as error:
            reasons.append(complaint(error, path))
    reason = f": {reasons[0]}" if len(reasons) == 1 else ""
    raise RasterError(
        f"{path} cannot be read as a raster{reason}.",
        hint=f"Formats that can be read: {', '.join(_FORMATS)}. The file may be damaged, or cut "
        "short by a broken download.",
    )


def _formats_of(path: Path) -> tuple[str, ...]:
    """The formats to try; what says what it is gets tried as that alone, for the message's sake."""
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        raise RasterError(f"{path} cannot be read: {error.strerror}.") from None
    if start.startswith(_TIFF_SIGNATURES):
        return ("GTiff",)
    return ("VRT",) if b"<VRTDataset" in start else _FORMATS


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except GDAL_ERRORS as error:
        raise RasterError(
            f"The pixels of {path} cannot be read: {complaint(error, path)}.",
            hint="The file is probably damaged: copy or download it again.",
        ) from None


def _refuse_unreadable(dataset: DatasetReader, path: Path) -> None:
    if dataset.count == 0:
        raise RasterError(
            f"{path} has no bands of its own.",
            hint="Is it a container of several rasters? Extract one of them to a GeoTIFF first.",
        )
    complex_bands = [d for d in dataset.dtypes if d.startswith("complex")]
    if complex_bands:
        raise RasterError(
            f"{path} holds complex numbers ({complex_bands[0]}).",
            hint="Turn them into what the model was trained on first, as intensity or decibels.",
        )
    if dataset.width * dataset.height > _MOST_PIXELS:
        raise RasterError(
            f"{path} declares {dataset.width:,} × {dataset.height:,} pixels.",
            hint="If that is true, cut it into pieces first; else its header is damaged.",
        )
    if _largest_block(dataset) >= _LARGEST_BLOCK:
        raise RasterError(
            f"{path} is stored in blocks of {_largest_block(dataset) / 2**30:.1f} GiB, which must "
            "be read whole.",
            hint="Rewrite it in tiles: rio convert IN OUT --co tiled=yes --co compress=deflate",
        )


def _largest_block(dataset: DatasetReader) -> int:
    """Bytes that GDAL holds to read a single pixel."""
    sizes = [
        rows * cols * np.dtype(dtype).itemsize
        for (rows, cols), dtype in zip(dataset.block_shapes, dataset.dtypes, strict=True)
    ]
    pixel_interleaved = (dataset.profile.get("interleave") or "band") == "pixel"
    return sum(sizes) if pixel_interleaved else max(sizes)


def _match(
    dataset: DatasetReader, path: Path, manifest: ModelManifest, given: Sequence[str] | None
) -> tuple[tuple[int, ...], str]:
    """Find the model's bands; the result counts bands from 1, as GDAL does."""
    candidates = _candidates(dataset, len(manifest.bands), given)
    found, matching = match_bands(
        manifest.bands,
        count=len(candidates),
        described=[dataset.descriptions[i - 1] for i in candidates],
        given=given,
        where=path.name,
        sensor=manifest.sensor,
    )
    return tuple(candidates[i] for i in found), matching


def _candidates(
    dataset: DatasetReader, wanted: int, given: Sequence[str] | None
) -> tuple[int, ...]:
    """The bands that may hold measurements: all but transparency.

    GDAL marks the fourth band of many 8-bit files as transparency though it is near infrared, so it
    counts as data where it has a name, or where the number of names or bands says so.
    """
    bands = tuple(dataset.indexes)
    opaque = tuple(i for i in bands if dataset.colorinterp[i - 1] is not ColorInterp.alpha)
    if len(opaque) == len(bands):
        return bands
    if given is not None:
        return opaque if len(given) == len(opaque) else bands
    named = any(dataset.descriptions[i - 1] for i in bands if i not in opaque)
    return bands if named or wanted == len(bands) else opaque


def _statistics(manifest: ModelManifest) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    missing = [band for band in manifest.bands if band not in manifest.statistics]
    if missing:
        raise BundleError(
            f"The model says nothing about the values of {', '.join(missing)}.",
            hint="The file was changed after it was written; fit the model again.",
        )
    found = [manifest.statistics[band] for band in manifest.bands]
    mean = np.array([s.mean for s in found], np.float32)[:, None, None]
    std = np.array([s.std for s in found], np.float32)[:, None, None]
    return mean, std


def _mask_indexes(dataset: DatasetReader, used: Sequence[int]) -> tuple[int, ...]:
    """Bands whose masks together say where the used bands have values; one for a shared mask."""
    alpha_is_data = any(dataset.colorinterp[i - 1] is ColorInterp.alpha for i in used)
    masks: list[int] = []
    shared = False
    for index in used:
        flags = dataset.mask_flag_enums[index - 1]
        if MaskFlags.all_valid in flags or (MaskFlags.alpha in flags and alpha_is_data):
            continue
        if MaskFlags.per_dataset in flags:
            if not shared:
                masks.append(index)
            shared = True
        else:
            masks.append(index)
    return tuple(masks)
