"""Windows of rasters, read through a few open files per process."""

from __future__ import annotations

import os
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.enums import MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window

from eosfm_cli.errors import DataError
from eosfm_cli.tiling import Tile


@dataclass(frozen=True)
class Header:
    """What a raster says about itself without being read."""

    count: int
    height: int
    width: int
    dtypes: tuple[str, ...]
    nodata: tuple[float | None, ...]


def read_header(path: Path) -> Header:
    """Open a raster and say what it is.

    Raises:
        DataError: It cannot be opened.
    """
    with _errors_of(path), rasterio.open(path) as raster:
        return Header(raster.count, *raster.shape, tuple(raster.dtypes), tuple(raster.nodatavals))


class RasterReader:
    """Reads windows and keeps the last few files open.

    Files are never shared between processes: a forked or spawned worker opens its own.

    Args:
        capacity: How many files stay open.
    """

    def __init__(self, capacity: int = 32) -> None:
        self._capacity = capacity
        self._process = os.getpid()
        self._open: OrderedDict[Path, rasterio.DatasetReader] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        """Travel to another process without open files."""
        return {**self.__dict__, "_open": OrderedDict()}

    def read(
        self, path: Path, bands: Sequence[int], tile: Tile, *, alpha_is_data: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Read some bands of a window.

        Args:
            path: The raster.
            bands: Bands of the file, counted from 1.
            tile: A window inside the raster.
            alpha_is_data: Do not take a band that the file calls alpha for opacity: four-band
                aerial images often call their infrared so.

        Returns:
            Values `(c, h, w)` in the file's own type, and where they are valid: neither nodata
            nor masked, NaN or infinite.

        Raises:
            DataError: The file is damaged.
        """
        window = Window(tile.col, tile.row, tile.width, tile.height)
        with _errors_of(path):
            raster = self._file(path)
            opacity = any(MaskFlags.alpha in flags for flags in raster.mask_flag_enums)
            masked = not (opacity and alpha_is_data)
            pixels = raster.read(list(bands), window=window, masked=masked)
        valid = ~np.ma.getmaskarray(pixels)
        values = np.ma.getdata(pixels)
        if np.issubdtype(values.dtype, np.floating):
            valid &= np.isfinite(values)
        return values, valid

    def _file(self, path: Path) -> rasterio.DatasetReader:
        if self._process != os.getpid():
            self._process, self._open = os.getpid(), OrderedDict()
        if path not in self._open:
            with plain_images_allowed():
                self._open[path] = rasterio.open(path)
            if len(self._open) > self._capacity:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(path)
        return self._open[path]


@contextmanager
def _errors_of(path: Path) -> Iterator[None]:
    try:
        yield
    except (RasterioError, OSError) as error:
        reason = str(error.__cause__ or error).replace(f"{path}: ", "")
        raise DataError(
            f"Cannot read {path}: {reason}",
            hint="It may be damaged or cut short: get it again, or take it out of the dataset.",
        ) from None


@contextmanager
def plain_images_allowed() -> Iterator[None]:
    """Training tiles need no georeference: keep rasterio from warning about each.

    Warning filters belong to the process: where threads open files, use it around all of them.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield
