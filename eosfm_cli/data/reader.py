"""Windows of rasters, read through a few open files per process."""

from __future__ import annotations

import math
import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import rasterio
from rasterio.enums import Interleaving, MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader
from rasterio.session import DummySession
from rasterio.windows import Window

from eosfm_cli.data.arrays import GET_IT_AGAIN, SUFFIX, ArrayFile
from eosfm_cli.data.open_files import MOST_BYTES, OpenFiles
from eosfm_cli.data.png import is_sound
from eosfm_cli.errors import DataError
from eosfm_cli.tiling import Tile

CACHE_BYTES = 64 * 2**20
"""What GDAL keeps of the blocks it decoded, per process; by itself it would take a twentieth of the
machine's memory in every worker. JPEG and PNG can only be decoded from the top: this holds three
images of 2448 × 2448 pixels in three bands, so that the windows of one are decoded once."""


_TIFF = {".tif", ".tiff"}
_WHOLE = {"PNG", "JPEG"}
"""Formats of which the decoder may hold the whole image: interlaced, progressive."""
_IN_ONE_GO = {"GDAL_PNG_WHOLE_IMAGE_OPTIM": True}
_MOST_DECODED = MOST_BYTES // 3
_HANDLE_BYTES = 32 * 2**10
_BLOCK_ENTRY = 16
_LARGEST_VALUE = 16


@dataclass(frozen=True)
class Header:
    """What a raster says about itself without being read."""

    count: int
    height: int
    width: int
    dtypes: tuple[str, ...]
    nodata: tuple[float | None, ...]
    dates: int = 1
    """How many dates an array holds."""


class _GdalFile:
    """An open file of any format that GDAL reads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._raster = raster = _dataset(path)
        self.header = Header(
            raster.count, *raster.shape, tuple(raster.dtypes), tuple(raster.nodatavals)
        )
        self.held_bytes = _held_bytes(raster)

    @cached_property
    def _masking(self) -> tuple[bool, bool]:
        """Whether some pixels may not be valid, and whether a band is opacity."""
        flags = self._raster.mask_flag_enums
        masked = not all(MaskFlags.all_valid in one for one in flags)
        return masked, any(MaskFlags.alpha in one for one in flags)

    def read(
        self, bands: Sequence[int], tile: Tile, *, alpha_is_data: bool, date: int
    ) -> tuple[np.ndarray, np.ndarray]:
        masked, opacity = self._masking
        window = Window(tile.col, tile.row, tile.width, tile.height)
        if masked and not (opacity and alpha_is_data):
            values = self._raster.read(list(bands), window=window)
            return values, self._raster.read_masks(list(bands), window=window) != 0
        if self._decoded is None:
            values = self._raster.read(list(bands), window=window)
        else:
            values = np.stack([self._decoded[band - 1, *tile.slices] for band in bands])
        return values, np.ones(values.shape, bool)

    @cached_property
    def _decoded(self) -> np.ndarray | None:
        """All pixels of a PNG that is not too large: in one go takes half as long as by rows.

        Of one that is cut short that would give whatever was in memory, without an error: by rows,
        GDAL tells.
        """
        if self._raster.driver != "PNG" or self.held_bytes > _MOST_DECODED:
            return None
        if is_sound(self._path):
            with suppress(RasterioError), rasterio.Env(DummySession(), **_IN_ONE_GO):
                return self._raster.read()
        return None

    def close(self) -> None:
        self._raster.close()


def _dataset(path: Path) -> DatasetReader:
    """Open a raster, of TIFF without working out where on Earth it lies.

    Looking up coordinate systems takes six times as long as the rest of opening a small file.
    """
    if path.suffix.lower() in _TIFF:
        with suppress(RasterioError):  # it may be something else under this name
            return DatasetReader(str(path), driver="GTiff", GEOREF_SOURCES="PAM")
    return DatasetReader(str(path))


def _held_bytes(raster: DatasetReader) -> int:
    """About what GDAL keeps of an open raster: the block that it decoded last, where blocks are."""
    if not raster.count:
        return _HANDLE_BYTES
    rows, cols = raster.block_shapes[0]
    blocks = math.ceil(raster.height / rows) * math.ceil(raster.width / cols)
    if raster.driver in _WHOLE:
        rows, cols = raster.shape
    together = raster.count if raster.interleaving != Interleaving.band else 1
    dtype = raster.dtypes[0]
    value = np.dtype(dtype).itemsize if dtype in np.sctypeDict else _LARGEST_VALUE
    return _HANDLE_BYTES + rows * cols * value * together + blocks * _BLOCK_ENTRY


class _NumpyFile:
    """A file of NumPy's, which is not held open."""

    held_bytes = 0

    def __init__(self, path: Path) -> None:
        self._array = array = ArrayFile(path)
        self.header = Header(
            array.count,
            array.height,
            array.width,
            (array.dtype,) * array.count,
            (None,) * array.count,
            array.dates,
        )

    def read(
        self, bands: Sequence[int], tile: Tile, *, alpha_is_data: bool, date: int
    ) -> tuple[np.ndarray, np.ndarray]:
        values = self._array.read(bands, tile, date)
        return values, np.ones(values.shape, bool)

    def close(self) -> None:
        """Nothing is open between two windows."""


def _opened(path: Path) -> _GdalFile | _NumpyFile:
    return _NumpyFile(path) if path.suffix.lower() == SUFFIX else _GdalFile(path)


def read_header(path: Path) -> Header:
    """Open a raster and say what it is.

    Raises:
        DataError: It cannot be opened.
    """
    with _errors_of(path), reading():
        file = _opened(path)
        file.close()
    return file.header


class RasterReader:
    """Reads windows and keeps the last files open.

    Files are never shared between processes: a forked or spawned worker opens its own. A file that
    has changed on disk is opened again.

    However large the images are, a process holds no more than the window itself, GDAL's cache of
    decoded blocks (`CACHE_BYTES` for all readers together, or what the environment's
    `GDAL_CACHEMAX` says), and of its open files the blocks decoded last and the tables of where
    blocks are (`open_files.MOST_BYTES` for all readers together). A block is what the file is
    written in: a tile, some rows, one row of JPEG, a whole PNG unless it is large. What lies above
    a window is decoded with it in these two, once as long as there is room. Formats that know no
    parts are the exception: of a large interlaced PNG or progressive JPEG the decoder holds the
    whole. Arrays of NumPy's are neither cached nor held open.

    Args:
        capacity: How many files stay open; if not given, what `open_files` leaves to a process.
    """

    def __init__(self, capacity: int | None = None) -> None:
        self._files = OpenFiles(_opened_plain, capacity)

    def header(self, path: Path) -> Header:
        """Say what a raster is.

        Raises:
            DataError: It cannot be opened.
        """
        with _errors_of(path), reading():
            return self._files[path].header

    def read(
        self,
        path: Path,
        bands: Sequence[int],
        tile: Tile,
        *,
        alpha_is_data: bool = False,
        date: int = 0,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Read some bands of a window.

        Args:
            path: The raster.
            bands: Bands of the file, counted from 1.
            tile: A window inside the raster.
            alpha_is_data: Do not take a band that the file calls alpha for opacity: four-band
                aerial images often call their infrared so.
            date: Of an array of several dates, which one, counted from 0.

        Returns:
            Values `(c, h, w)` in the file's own type, and where they are valid: neither nodata
            nor masked, NaN, infinite or beyond what single precision holds.

        Raises:
            DataError: The file is damaged.
        """
        with _errors_of(path), reading():
            values, valid = self._files[path].read(
                bands, tile, alpha_is_data=alpha_is_data, date=date
            )
        if values.dtype == np.float64:
            valid &= np.abs(values) <= np.finfo(np.float32).max  # which NaN is not either
        elif np.issubdtype(values.dtype, np.floating):
            valid &= np.isfinite(values)
        return values, valid


def _opened_plain(path: Path) -> _GdalFile | _NumpyFile:
    with plain_images_allowed():
        return _opened(path)


class _Thread(threading.local):
    is_reading = False


_thread = _Thread()


@contextmanager
def reading() -> Iterator[None]:
    """Set GDAL up for reading; put it around many windows, as setting up takes longer than some.

    GDAL keeps to its share of memory, unless the user says how much it may take. Where GDAL reads a
    PNG in one go, the rest of a file that is cut short is whatever was in memory, without an error.
    What lies beside a file is asked for by name: listing its folder each time takes longer than
    opening. No credentials are looked for, as rasterio would each time.
    """
    if _thread.is_reading:
        yield
        return
    own = {name: value for name, value in _OWN.items() if name not in os.environ}
    with rasterio.Env(DummySession(), GDAL_PNG_WHOLE_IMAGE_OPTIM=False, **own):
        _thread.is_reading = True
        try:
            yield
        finally:
            _thread.is_reading = False


_OWN = {"GDAL_CACHEMAX": CACHE_BYTES, "GDAL_DISABLE_READDIR_ON_OPEN": "TRUE"}
"""Settings that the environment may override."""


@contextmanager
def _errors_of(path: Path) -> Iterator[None]:
    try:
        yield
    except UnicodeEncodeError:
        raise DataError(
            f"Cannot read {path}: its name is not UTF-8.", hint="Rename it, or take it away."
        ) from None
    except (RasterioError, OSError) as error:
        reason = str(error.__cause__ or error).replace(f"{path}: ", "")
        forbidden = os.path.exists(path) and not os.access(path, os.R_OK)
        hint = "Check its permissions." if forbidden else GET_IT_AGAIN
        raise DataError(f"Cannot read {path}: {reason}", hint=hint) from None


@contextmanager
def plain_images_allowed() -> Iterator[None]:
    """Training tiles need no georeference: keep rasterio from warning about each.

    Warning filters belong to the process: where threads open files, use it around all of them.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield
