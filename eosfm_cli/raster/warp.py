"""Read a raster on its own grid, or on another one's."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.io import DatasetReader
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_bounds
from rasterio.windows import Window

from eosfm_cli.errors import RasterError
from eosfm_cli.raster.gdal import GDAL_ERRORS, complaint
from eosfm_cli.raster.grid import Grid


class BandReader(Protocol):
    """Some bands of a raster."""

    def read(self, window: Window) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """Values `(bands, h, w)`, and `(h, w)` where nothing says that one of them is missing.

        NaN among the values may be all that says so.
        """


class OwnGrid:
    """Bands as the file has them.

    Args:
        dataset: The raster.
        indexes: Its bands to read, counted from 1.
    """

    def __init__(self, dataset: DatasetReader, indexes: Sequence[int]) -> None:
        self._dataset, self._indexes = dataset, list(indexes)
        self._masks = _mask_indexes(dataset, indexes)

    def read(self, window: Window) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """Read one window."""
        values = self._dataset.read(self._indexes, window=window)
        valid = np.ones(values.shape[1:], bool)
        for index in self._masks:
            valid &= self._dataset.read_masks(index, window=window) != 0
        return values, valid


class OtherGrid:
    """Bands resampled while they are read: bilinear, and only between pixels that have a value.

    A pixel is missing where the pixel that its centre lies in is.

    Args:
        smooth: The warped raster for each band, and the band.
        nearest: The same, without interpolation, of bands that have missing pixels.
    """

    def __init__(
        self,
        smooth: Sequence[tuple[WarpedVRT, int]],
        nearest: Sequence[tuple[WarpedVRT, int]],
    ) -> None:
        self._smooth, self._nearest = smooth, nearest

    def read(self, window: Window) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """Read one window."""
        values = np.stack([vrt.read(index, window=window) for vrt, index in self._smooth])
        valid = ~np.isnan(values).any(axis=0)
        for vrt, index in self._nearest:
            valid &= ~np.isnan(vrt.read(index, window=window))
        return values, valid


@contextmanager
def read_on(
    dataset: DatasetReader, indexes: Sequence[int], grid: Grid, name: str, other: str
) -> Iterator[tuple[BandReader, bool]]:
    """Read a raster's bands on a grid.

    Args:
        dataset: The raster.
        indexes: Its bands, counted from 1.
        grid: The grid that windows are of.
        name: The raster, as the user knows it.
        other: The raster whose grid it is.

    Yields:
        The bands, and whether they are resampled.

    Raises:
        RasterError: The raster cannot be brought onto that grid.
    """
    own = Grid.of(dataset)
    if own.matches(grid) or _fits_unplaced(own, grid):
        yield OwnGrid(dataset, indexes), False
        return
    _refuse_unrelated(own, grid, name, other)
    warped: list[WarpedVRT] = []
    try:
        smooth = _warped(dataset, indexes, grid, Resampling.bilinear, warped)
        gaps = _with_gaps(dataset, indexes)
        nearest = _warped(dataset, gaps, grid, Resampling.nearest, warped)
    except GDAL_ERRORS as error:
        _close(warped)
        raise RasterError(
            f"{name} cannot be brought onto the grid of {other}: {complaint(error, name)}."
        ) from None
    try:
        yield OtherGrid(smooth, nearest), True
    finally:
        _close(warped)


def _fits_unplaced(own: Grid, grid: Grid) -> bool:
    """Whether two rasters can be laid over each other though one does not say where it lies."""
    unplaced = not own.is_placed or not grid.is_placed
    return unplaced and (own.height, own.width) == (grid.height, grid.width)


def _refuse_unrelated(own: Grid, grid: Grid, name: str, other: str) -> None:
    if own.crs is None or grid.crs is None or grid.transform is None:
        unclear = name if own.crs is None else other
        raise RasterError(
            f"{name} ({own.width:,} × {own.height:,} pixels) and {other} ({grid.width:,} × "
            f"{grid.height:,}) differ in size, and {unclear} does not say where it lies.",
            hint="Give rasters that are georeferenced, or of equal size.",
        )
    if own.transform is not None and _is_elsewhere(own, grid):
        raise RasterError(
            f"{name} and {other} show different places.",
            hint=f"{name}: {own.place()}; {other}: {grid.place()}",
        )


def _is_elsewhere(own: Grid, grid: Grid) -> bool:
    try:
        bounds = transform_bounds(own.crs, grid.crs, *own.bounds)
    except GDAL_ERRORS:
        return False  # a place that the other projection does not know; warping tells
    if not all(map(math.isfinite, bounds)):
        return False
    left, bottom, right, top = grid.bounds
    return bounds[0] >= right or bounds[2] <= left or bounds[1] >= top or bounds[3] <= bottom


def _with_gaps(dataset: DatasetReader, indexes: Sequence[int]) -> list[int]:
    """The bands that may have missing pixels; the others are resampled once, not twice."""
    flags, types = dataset.mask_flag_enums, dataset.dtypes
    return [
        i
        for i in indexes
        if MaskFlags.all_valid not in flags[i - 1] or types[i - 1].startswith("float")
    ]


def _warped(
    dataset: DatasetReader,
    indexes: Sequence[int],
    grid: Grid,
    resampling: Resampling,
    opened: list[WarpedVRT],
) -> list[tuple[WarpedVRT, int]]:
    """The warped raster that each band is read from: one for every value that means no data."""
    by_nodata: dict[str, WarpedVRT] = {}
    # Of real numbers NaN is none, said or not, and must not spread to its neighbours.
    nodatas = [
        math.nan if nodata is None and kind.startswith("float") else nodata
        for nodata, kind in zip(dataset.nodatavals, dataset.dtypes, strict=True)
    ]
    for index in indexes:
        nodata = nodatas[index - 1]
        if repr(nodata) not in by_nodata:
            vrt = WarpedVRT(
                dataset,
                crs=grid.crs,
                transform=grid.transform,
                width=grid.width,
                height=grid.height,
                resampling=resampling,
                src_nodata=nodata,
                nodata=np.nan,
                dtype="float32",
                UNIFIED_SRC_NODATA="NO",  # each band by itself
            )
            opened.append(vrt)
            by_nodata[repr(nodata)] = vrt
    return [(by_nodata[repr(nodatas[i - 1])], i) for i in indexes]


def _close(warped: Sequence[WarpedVRT]) -> None:
    for vrt in warped:
        vrt.close()


def _mask_indexes(dataset: DatasetReader, used: Sequence[int]) -> tuple[int, ...]:
    """Bands whose masks together say where the used bands have values; one for a shared mask.

    Where NaN stands for no value, the values say it themselves, in half the time.
    """
    meanings, all_flags = dataset.colorinterp, dataset.mask_flag_enums
    alpha_is_data = any(meanings[i - 1] is ColorInterp.alpha for i in used)
    masks: list[int] = []
    shared = False
    for index in used:
        flags = all_flags[index - 1]
        if MaskFlags.all_valid in flags or (MaskFlags.alpha in flags and alpha_is_data):
            continue
        if flags == [MaskFlags.nodata] and math.isnan(dataset.nodatavals[index - 1]):
            continue
        if MaskFlags.per_dataset in flags:
            if not shared:
                masks.append(index)
            shared = True
        else:
            masks.append(index)
    return tuple(masks)
