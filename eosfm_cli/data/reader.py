"""Windows of rasters, read through a few open files per process."""

from __future__ import annotations

import os
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.enums import MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.session import DummySession
from rasterio.windows import Window

from eosfm_cli.data.arrays import GET_IT_AGAIN, SUFFIX, ArrayFile
from eosfm_cli.errors import DataError
from eosfm_cli.tiling import Tile

CACHE_BYTES = 64 * 2**20
"""What GDAL keeps of the blocks it decoded, per process; by itself it would take a twentieth of the
machine's memory in every worker. JPEG and PNG can only be decoded from the top: this holds three
images of 2448 × 2448 pixels in three bands, so that the windows of one are decoded once."""


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
        self._raster = raster = rasterio.open(path)
        self.header = Header(
            raster.count, *raster.shape, tuple(raster.dtypes), tuple(raster.nodatavals)
        )

    @cached_property
    def _opacity(self) -> bool:
        return any(MaskFlags.alpha in flags for flags in self._raster.mask_flag_enums)

    def read(
        self, bands: Sequence[int], tile: Tile, *, alpha_is_data: bool, date: int
    ) -> tuple[np.ndarray, np.ndarray]:
        window = Window(tile.col, tile.row, tile.width, tile.height)
        masked = not (self._opacity and alpha_is_data)
        pixels = self._raster.read(list(bands), window=window, masked=masked)
        return np.ma.getdata(pixels), ~np.ma.getmaskarray(pixels)

    def close(self) -> None:
        self._raster.close()


class _NumpyFile:
    """A file of NumPy's, which is not held open."""

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
    with _errors_of(path):
        file = _opened(path)
    file.close()
    return file.header


class RasterReader:
    """Reads windows and keeps the last few files open.

    Files are never shared between processes: a forked or spawned worker opens its own.

    However large the images are, a process holds no more than the window itself, GDAL's cache of
    decoded blocks (`CACHE_BYTES` for all readers together, or what the environment's
    `GDAL_CACHEMAX` says), and of each open file the block decoded last and the table of where its
    blocks are. A block is what the file is written in: a tile, some rows, one row of PNG and JPEG.
    Formats that know no parts are the exception: of an interlaced PNG or a progressive JPEG the
    decoder holds the whole. Arrays of NumPy's are neither cached nor held open.

    Args:
        capacity: How many files stay open.
    """

    def __init__(self, capacity: int = 32) -> None:
        self._capacity = capacity
        self._process = os.getpid()
        self._open: OrderedDict[Path, _GdalFile | _NumpyFile] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        """Travel to another process without open files."""
        return {**self.__dict__, "_open": OrderedDict()}

    def header(self, path: Path) -> Header:
        """Say what a raster is.

        Raises:
            DataError: It cannot be opened.
        """
        with _errors_of(path), _settings():
            return self._file(path).header

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
            nor masked, NaN or infinite.

        Raises:
            DataError: The file is damaged.
        """
        with _errors_of(path), _settings():
            file = self._file(path)
            values, valid = file.read(bands, tile, alpha_is_data=alpha_is_data, date=date)
        if np.issubdtype(values.dtype, np.floating):
            valid &= np.isfinite(values)
        return values, valid

    def _file(self, path: Path) -> _GdalFile | _NumpyFile:
        if self._process != os.getpid():
            self._process, self._open = os.getpid(), OrderedDict()
        if path not in self._open:
            with plain_images_allowed():
                self._open[path] = _opened(path)
            if len(self._open) > self._capacity:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(path)
        return self._open[path]


def _settings() -> AbstractContextManager[object]:
    """Keep GDAL to its share of memory, unless the user says how much it may take.

    Where GDAL reads a PNG in one go, the rest of a file that is cut short is whatever was in
    memory, without an error. No credentials are looked for, as rasterio would each time.
    """
    own = {} if "GDAL_CACHEMAX" in os.environ else {"GDAL_CACHEMAX": CACHE_BYTES}
    return rasterio.Env(DummySession(), GDAL_PNG_WHOLE_IMAGE_OPTIM=False, **own)


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
        raise DataError(f"Cannot read {path}: {reason}", hint=GET_IT_AGAIN) from None


@contextmanager
def plain_images_allowed() -> Iterator[None]:
    """Training tiles need no georeference: keep rasterio from warning about each.

    Warning filters belong to the process: where threads open files, use it around all of them.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield
