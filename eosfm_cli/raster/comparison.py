"""Two rasters of classes, or of values, laid over each other and compared window by window."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_bounds
from rasterio.windows import Window

from eosfm_cli.errors import RasterError
from eosfm_cli.progress import Step
from eosfm_cli.raster.gdal import GDAL_ERRORS, complaint
from eosfm_cli.raster.grid import Grid
from eosfm_cli.raster.opening import open_raster
from eosfm_cli.raster.residuals import Residuals
from eosfm_cli.words import counted

_WINDOW = 2048
_MOST_PAIRS = 2**16
_LARGEST = 2**30
_TOO_VARIOUS = "its values are too many or too large for classes"
_SHIFT_PX = 1e-3
"""Grids whose corners lie closer than this are the same; in pixels."""


# ------------------------------------------------------------------------------ one raster


@dataclass
class ClassRaster:
    """An open raster of classes: whole numbers in one band, or colours in three."""

    path: Path
    dataset: DatasetReader | WarpedVRT
    bands: tuple[int, ...]
    """One band, or red, green and blue, whose values are then read as `0xrrggbb`."""

    def read(self, window: Window) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Values `(h, w)`, and where there are any.

        Raises:
            RasterError: The file is damaged there, or holds something else than classes.
        """
        raw, masks = _pixels(self, window)
        # a colour such as pure red has channels that alone would pass for nodata
        valid = (masks != 0).any(axis=0) & np.isfinite(raw).all(axis=0)
        raw = np.where(valid, raw, 0)
        with np.errstate(invalid="ignore"):  # numbers beyond all integers
            values = raw.astype(np.int64)
        if (values != raw).any():
            raise _no_classes(self.path, "it holds fractions")
        if np.abs(values).max(initial=0) > _LARGEST:
            raise _no_classes(self.path, _TOO_VARIOUS)
        if len(self.bands) == 1:
            return values[0], valid
        return (values[0] << 16) + (values[1] << 8) + values[2], valid


@dataclass
class ValueRaster:
    """An open raster of a quantity: numbers of any kind in one band."""

    path: Path
    dataset: DatasetReader | WarpedVRT
    bands: tuple[int, ...]
    """The one that holds them."""
    scale: float = 1.0
    """What its numbers are multiplied by to get the values."""
    offset: float = 0.0
    """What is added after that."""
    ignored: tuple[float, ...] = ()
    """Numbers that stand for no value."""

    def read(self, window: Window) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Values `(h, w)`, and where there are any.

        Raises:
            RasterError: The file is damaged there.
        """
        raw, masks = _pixels(self, window)
        numbers = raw[0].astype(np.float64)
        valid = (masks[0] != 0) & np.isfinite(numbers) & ~np.isin(numbers, self.ignored)
        return np.where(valid, numbers * self.scale + self.offset, 0.0), valid


Raster = TypeVar("Raster", ClassRaster, ValueRaster)


def _pixels(raster: ClassRaster | ValueRaster, window: Window) -> tuple[NDArray, NDArray]:
    """What a raster's bands hold, and their masks, `(bands, h, w)` each."""
    try:
        return (
            raster.dataset.read(raster.bands, window=window),
            raster.dataset.read_masks(raster.bands, window=window),
        )
    except GDAL_ERRORS as error:
        raise RasterError(
            f"The pixels of {raster.path} cannot be read: {complaint(error, raster.path)}.",
            hint="The file is probably damaged: copy or download it again.",
        ) from None


@contextmanager
def open_values(
    path: Path,
    *,
    band: int | None = None,
    scale: float | None = None,
    offset: float | None = None,
    ignored: Sequence[float] = (),
) -> Iterator[ValueRaster]:
    """Open a raster of a quantity.

    Args:
        path: The raster.
        band: Which band holds it, counted from 1; if not given, there has to be one only.
        scale: What its numbers are multiplied by; what the file says itself if not given.
        offset: What is added after that; what the file says itself if not given.
        ignored: Numbers that stand for no value.

    Raises:
        RasterError: There is no such file, or it holds something else.
    """
    with open_raster(path) as dataset:
        (chosen,) = _one_band(path, dataset, band, "values")
        if dataset.dtypes[chosen - 1].startswith("complex"):
            raise RasterError(f"{path} holds complex numbers, and no values.")
        yield ValueRaster(
            path,
            dataset,
            (chosen,),
            dataset.scales[chosen - 1] if scale is None else scale,
            dataset.offsets[chosen - 1] if offset is None else offset,
            tuple(ignored),
        )


def holds_values(path: Path) -> bool:
    """Whether a raster's only band is of a quantity rather than of classes: one with fractions.

    Maps of values that eosfm wrote are known by their number format.

    Raises:
        RasterError: There is no such file, or it is damaged.
    """
    with open_raster(path) as dataset:
        if dataset.count != 1 or not dataset.dtypes[0].startswith("float"):
            return dataset.count == 1 and dataset.scales[0] != 1
        if "EOSFM_RECIPE" in dataset.tags():
            return True
        raster = ValueRaster(path, dataset, (1,))
        for window in _windows(dataset):
            values, valid = raster.read(window)
            if (values[valid] % 1 != 0).any():
                return True
    return False


@contextmanager
def open_classes(
    path: Path, *, band: int | None = None, colours: bool = False
) -> Iterator[ClassRaster]:
    """Open a raster of classes.

    Args:
        path: The raster.
        band: Which band holds them, counted from 1; if not given, there has to be one only.
        colours: Whether they are colours in the first three bands instead.

    Raises:
        RasterError: There is no such file, or it holds something else than classes.
    """
    with open_raster(path) as dataset:
        bands = _class_bands(path, dataset, band, colours=colours)
        yield ClassRaster(path, dataset, bands)


def _class_bands(
    path: Path, dataset: DatasetReader, band: int | None, *, colours: bool
) -> tuple[int, ...]:
    wanted = (1, 2, 3) if colours else _one_band(path, dataset, band, "classes")
    _refuse_lacking(path, dataset, wanted, "classes")
    if any(dataset.dtypes[i - 1].startswith("complex") for i in wanted):
        raise _no_classes(path, "it holds complex numbers")
    if colours and any(dataset.dtypes[i - 1] != "uint8" for i in wanted):
        raise _no_classes(path, "its bands are no colours of 8 bits")
    return wanted


def _one_band(
    path: Path, dataset: DatasetReader, band: int | None, what: Literal["classes", "values"]
) -> tuple[int]:
    """The band that is asked for, or else the only one."""
    _refuse_lacking(path, dataset, (band or 1,), what)
    opaque = [kind for kind in dataset.colorinterp if kind is not ColorInterp.alpha]
    if len(opaque) > 1 and band is None:
        why = f"it has {len(opaque)} bands"
        if what == "classes":
            raise _no_classes(path, why)
        raise RasterError(
            f"{path} is no raster of {what}: {why}.",
            hint="Name a recipe that says in which of them they are: --classes RECIPE",
        )
    return (band or 1,)


def _refuse_lacking(path: Path, dataset: DatasetReader, wanted: tuple[int, ...], what: str) -> None:
    if max(wanted) > dataset.count:
        raise RasterError(
            f"{path} has {counted(dataset.count, 'band')}, and {what} are expected in band "
            f"{', '.join(map(str, wanted))}.",
            hint="Is it the right file, and the right recipe with --classes?",
        )


def _no_classes(path: Path, why: str) -> RasterError:
    return RasterError(
        f"{path} is no raster of classes: {why}.",
        hint="A map has one band of whole numbers, one for each class. For masks in another form, "
        "and for values in whole numbers, name their recipe with --classes.",
    )


# ------------------------------------------------------------------------------ two rasters


@contextmanager
def laid_over(reference: Raster, target: Raster) -> Iterator[tuple[Raster, str]]:
    """The reference on the target's grid, and in words how it came there.

    Of classes a pixel gets the nearest, of values the mean of those that lie in it.

    Raises:
        RasterError: Nothing says where one of them lies, or they lie apart.
    """
    own, other = Grid.of(target.dataset), Grid.of(reference.dataset)
    name = reference.path.name
    if _same_grid(own, other):
        yield reference, f"{name} lies on the same grid"
        return
    same_size = (own.height, own.width) == (other.height, other.width)
    if same_size and not (own.is_placed and other.is_placed):
        lost = reference.path.name if own.is_placed else target.path.name
        yield reference, f"{lost} does not say where it lies: compared pixel by pixel"
        return
    _refuse_unplaced(target, own)
    _refuse_unplaced(reference, other)
    _refuse_apart(target, reference)
    by_mean = isinstance(reference, ValueRaster) and _can_average(reference)
    how = "by the mean of what lies in each pixel" if by_mean else "by nearest neighbour"
    with _warped(reference, own, by_mean=by_mean) as warped:
        yield (
            replace(reference, dataset=warped),
            f"{name} ({other.describe()}) is read onto the map's grid, {how}",
        )


def _can_average(reference: ValueRaster) -> bool:
    """Whether GDAL can leave out every number that stands for no value: it knows of one."""
    declared = reference.dataset.nodata
    return set(reference.ignored) <= ({declared} if declared is not None else set()) or (
        declared is None and len(reference.ignored) == 1
    )


def _same_grid(one: Grid, other: Grid) -> bool:
    if (one.height, one.width, one.crs) != (other.height, other.width, other.crs):
        return False
    if one.transform is None or other.transform is None:
        return _gcps(one) == _gcps(other) and one.transform is other.transform
    near = _SHIFT_PX * abs(complex(one.transform.a, one.transform.d))
    return all(
        abs(place - other_place) < near
        for corner in ((0, 0), (one.width, 0), (0, one.height))
        for place, other_place in zip(
            _place(one.transform, *corner), _place(other.transform, *corner), strict=True
        )
    )


def _place(transform: Affine, col: float, row: float) -> tuple[float, float]:
    """Where a pixel's upper left corner lies."""
    t = transform
    return t.a * col + t.b * row + t.c, t.d * col + t.e * row + t.f


def _gcps(grid: Grid) -> list[tuple[float, ...]]:
    return [(point.row, point.col, point.x, point.y) for point in grid.gcps]


def _refuse_unplaced(raster: ClassRaster | ValueRaster, grid: Grid) -> None:
    if grid.crs is None or grid.transform is None:
        raise RasterError(
            f"{raster.path} does not say where its pixels lie, and the two differ in size or grid.",
            hint="Georeference it first, or give two rasters of the same size.",
        )


def _refuse_apart(target: Raster, reference: Raster) -> None:
    """Refuse rasters that share no ground, before any pixel of them is read."""
    crs = target.dataset.crs
    mine, theirs = target.dataset.bounds, _bounds_in(reference.dataset, crs)
    if theirs is None:
        return
    apart = max(mine[0], theirs[0]) >= min(mine[2], theirs[2]) or max(mine[1], theirs[1]) >= min(
        mine[3], theirs[3]
    )
    if apart:
        raise RasterError(
            f"{target.path} and {reference.path} do not overlap. In {crs.to_string()} (left, "
            "bottom, right, top):\n"
            f"  map:       {_box(mine)}\n"
            f"  reference: {_box(theirs)}",
            hint="Are they of the same place, and is the coordinate reference system of both "
            "right?",
        )


def _bounds_in(dataset: DatasetReader, crs: CRS) -> tuple[float, float, float, float] | None:
    """Where a raster lies in another system; `None` where that cannot be computed."""
    try:
        found = transform_bounds(dataset.crs, crs, *dataset.bounds)
    except RasterioError:
        return None
    return found if np.isfinite(found).all() else None


def _box(bounds: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.6g}" if abs(value) < 1000 else f"{value:.0f}" for value in bounds)


@contextmanager
def _warped(
    reference: ClassRaster | ValueRaster, grid: Grid, *, by_mean: bool
) -> Iterator[WarpedVRT]:
    dataset = reference.dataset
    nodata = dataset.nodata
    if by_mean and nodata is None:
        nodata = next(iter(reference.ignored), None)
    # What lies outside of the reference has to be told apart from what is inside.
    has_outside = nodata is not None or ColorInterp.alpha in dataset.colorinterp
    with WarpedVRT(
        dataset,
        crs=grid.crs,
        transform=grid.transform,
        height=grid.height,
        width=grid.width,
        resampling=Resampling.average if by_mean else Resampling.nearest,
        add_alpha=not has_outside,
        src_nodata=nodata,
        nodata=nodata,
        dtype="float64" if by_mean else None,
    ) as warped:
        yield warped


@dataclass
class Overlay:
    """How often which value of a map lies on which value of its reference."""

    pairs: Counter[tuple[int, int]] = field(default_factory=Counter)
    """(map, reference) -> pixels, where both have a value."""
    no_map: int = 0
    """Pixels without a value in the map."""
    no_reference: int = 0
    """Pixels of the map without a value in the reference."""


def window_count(target: ClassRaster | ValueRaster) -> int:
    """How many steps `count_pairs` and `add_residuals` take."""
    return sum(1 for _ in _windows(target.dataset))


def count_pairs(target: ClassRaster, reference: ClassRaster, step: Step) -> Overlay:
    """Count over all of the map, in memory that does not grow with it.

    Raises:
        RasterError: A file is damaged, or holds something else than classes.
    """
    overlay = Overlay()
    for window in _windows(target.dataset):
        (values, mapped), (truth, known) = target.read(window), reference.read(window)
        both = mapped & known
        overlay.no_map += int((~mapped).sum())
        overlay.no_reference += int((mapped & ~known).sum())
        overlay.pairs.update(_pairs(values[both], truth[both]))
        if len(overlay.pairs) > _MOST_PAIRS:
            raise _no_classes(_most_various(overlay, target, reference), _TOO_VARIOUS)
        step.advance()
    return overlay


@dataclass
class Deviation:
    """How far the values of a map lie from those of its reference."""

    residuals: Residuals = field(default_factory=Residuals)
    no_map: int = 0
    """Pixels without a value in the map."""
    no_reference: int = 0
    """Pixels of the map without a value in the reference."""


def add_residuals(target: ValueRaster, reference: ValueRaster, step: Step) -> Deviation:
    """Go over all of the map, in memory that does not grow with it.

    Raises:
        RasterError: A file is damaged.
    """
    found = Deviation()
    for window in _windows(target.dataset):
        (values, mapped), (truth, known) = target.read(window), reference.read(window)
        both = mapped & known
        found.no_map += int((~mapped).sum())
        found.no_reference += int((mapped & ~known).sum())
        found.residuals.add(values[both], truth[both])
        step.advance()
    return found


def _most_various(overlay: Overlay, target: ClassRaster, reference: ClassRaster) -> Path:
    values, truth = (len(set(column)) for column in zip(*overlay.pairs, strict=True))
    return target.path if values > truth else reference.path


def _windows(dataset: DatasetReader | WarpedVRT) -> Iterator[Window]:
    for row in range(0, dataset.height, _WINDOW):
        for col in range(0, dataset.width, _WINDOW):
            height = min(_WINDOW, dataset.height - row)
            yield Window(col, row, min(_WINDOW, dataset.width - col), height)


def _pairs(values: NDArray[np.int64], truth: NDArray[np.int64]) -> dict[tuple[int, int], int]:
    """How often each value goes with each of the other raster."""
    if values.size == 0:
        return {}
    first, start = int(values.min()), int(truth.min())
    rows, columns = int(np.ptp(values)) + 1, int(np.ptp(truth)) + 1
    codes = (values - first) * columns + (truth - start)
    if rows * columns <= _MOST_PAIRS:  # no need to sort
        every = np.bincount(codes)
        found = every.nonzero()[0]
        counts = every[found]
    else:
        found, counts = np.unique(codes, return_counts=True)
    return {
        (int(code) // columns + first, int(code) % columns + start): int(count)
        for code, count in zip(found, counts, strict=True)
    }
