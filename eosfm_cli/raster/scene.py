"""A raster as a fitted model takes it: bands found by name, standardised, read by windows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.io import DatasetReader
from rasterio.windows import Window

from eosfm_cli.bands import band_name, match_bands
from eosfm_cli.errors import BundleError
from eosfm_cli.manifest import ModelManifest
from eosfm_cli.raster.area import Area, Cut
from eosfm_cli.raster.grid import Grid
from eosfm_cli.raster.inputs import SceneInput
from eosfm_cli.raster.opening import (
    BLOCK_CACHE_MB,
    MOST_BLOCK_CACHE_MB,
    block_cache,
    cache_needed,
    open_raster,
    reading,
    refuse_unreadable,
    shown,
)
from eosfm_cli.raster.scale import Scale
from eosfm_cli.raster.stack import band_of_file
from eosfm_cli.raster.warp import BandReader, read_on
from eosfm_cli.tiling import Tile

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


@dataclass(frozen=True)
class _Part:
    """One file of a scene, open on the scene's grid."""

    name: str
    reader: BandReader
    slots: list[int]
    """Which of the model's bands it gives, in the reader's order."""


class Scene:
    """An open raster, or several of one place, matched to a model; a scene of a single date.

    Only the thread that is told to reads it, one at a time.

    Args:
        source: What the user named.
        manifest: Which bands the model takes and how they are standardised.
        parts: The open files.
        grid: Of the whole scene.
        cut: What of it is wanted; all if not given.
        matching: How the bands were found, in lines.
        scale: How values are changed first.
        has_palette: Whether values may stand for colours.
    """

    def __init__(
        self,
        source: SceneInput,
        manifest: ModelManifest,
        parts: Sequence[_Part],
        *,
        grid: Grid,
        cut: Cut | None,
        matching: str,
        scale: Scale | None,
        has_palette: bool,
    ) -> None:
        self.path = Path(source.name)
        self.name = self.path.name
        self.dates = (self,)
        self.bands = manifest.bands
        self.whole = grid
        self.grid = grid if cut is None else cut.grid
        self.matching = matching
        self.scale = scale
        self.mean, self.std = _statistics(manifest)
        self.has_palette = has_palette
        self._parts, self._cut = parts, cut

    def read(self, tile: Tile) -> Pixels:
        """Read one window, in pixels of `grid`.

        Raises:
            RasterError: A file is damaged there.
        """
        inside = None if self._cut is None else self._cut.inside(tile)
        if inside is not None and not inside.any():
            return Pixels.nothing(inside)
        values, valid = self._read(tile)
        if inside is not None:
            valid &= inside
        if not valid.any():
            return Pixels.nothing(valid)
        return Pixels(values if valid.all() else np.where(valid, values, np.float32(0)), valid)

    def _read(self, tile: Tile) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        row, col = (0, 0) if self._cut is None else (self._cut.tile.row, self._cut.tile.col)
        window = Window(col + tile.col, row + tile.row, tile.width, tile.height)
        with np.errstate(all="ignore"):
            values, valid = self._raw(window)
            if self.scale is not None:
                self.scale.apply(self.bands, values)
            size = np.empty(valid.shape, np.float32)
            # A band at a time stays in the processor's cache.
            for band, mean, std in zip(values, self.mean, self.std, strict=True):
                band -= mean
                band /= std
                valid &= np.abs(band, out=size) < _ABSURD  # False for NaN as well
        return values, valid

    def _raw(self, window: Window) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Values as the files have them, in the model's order, and where they have any."""
        values = np.empty((len(self.bands), window.height, window.width), np.float32)
        valid = np.ones(values.shape[1:], bool)
        for part in self._parts:
            with reading(part.name):
                found, there = part.reader.read(window)
            if found.shape == values.shape and part.slots == list(range(len(values))):
                return found.astype(np.float32, copy=False), there
            values[part.slots] = found
            valid &= there
        return values, valid


@contextmanager
def open_scene(
    source: SceneInput | Path,
    manifest: ModelManifest,
    given: Sequence[str] | None = None,
    *,
    scale: Scale | None = None,
    area: Area | None = None,
    onto: Scene | None = None,
) -> Iterator[Scene]:
    """Open a scene for a model; the thread that opens it closes it, another one may read.

    A scene of several files is on the grid of the first, or of the one with the smallest pixels
    where a folder was named; the others are resampled to it while they are read.

    GDAL keeps 64 MB of decoded blocks. Scenes of strips, or in JPEG 2000, get as much as keeps a
    block from being decoded once per window, at most 512 MB.

    Args:
        source: What the user named.
        manifest: Which bands the model takes.
        given: Names of the bands in file order, as `--bands` has them.
        scale: How values are changed before they are standardised.
        area: What of the scene is wanted; pixels outside are without value.
        onto: The open scene whose grid this one is read on.

    Raises:
        RasterError: There is no such file, it is no raster that can be mapped, or files do not go
            together.
        OutsideAreaError: The scene has nothing of the area.
        BandError: A band that the model takes is not there.
    """
    source = source if isinstance(source, SceneInput) else SceneInput.of(source)
    with ExitStack() as opened:
        files = [_File.of(name, opened.enter_context(open_raster(name))) for name in source.files]
        bands, matching = _match(files, source, manifest, given)
        reference = _reference(files, bands, source)
        grid, other = (reference.grid, reference.name) if onto is None else (onto.whole, onto.name)
        cut = None if area is None else area.cut(grid, Path(source.name).name)
        parts, notes = _parts(bands, grid, other, opened)
        needed = sum(_cache(file, bands, grid, manifest) for file in files)
        if needed > BLOCK_CACHE_MB:
            opened.enter_context(block_cache(min(needed, MOST_BLOCK_CACHE_MB)))
        if scale is not None:
            notes = [*notes, f"values: {scale.describe(manifest.bands)}"]
        yield Scene(
            source,
            manifest,
            parts,
            grid=grid,
            cut=cut,
            matching="\n".join([matching, *notes]),
            scale=scale,
            has_palette=any(
                band.file.meanings[band.index - 1] is ColorInterp.palette for band in bands
            ),
        )


# --------------------------------------------------------------------------- files and bands


@dataclass(frozen=True)
class _File:
    """One open file."""

    name: str
    stem: str
    dataset: DatasetReader
    grid: Grid
    descriptions: tuple[str | None, ...]
    """Of its bands, as is `meanings`; each look at them costs as much as there are bands."""
    meanings: tuple[ColorInterp, ...]

    @classmethod
    def of(cls, name: str, dataset: DatasetReader) -> _File:
        refuse_unreadable(dataset, shown(name))
        path = Path(shown(name))
        return cls(
            path.name,
            path.stem,
            dataset,
            Grid.of(dataset),
            tuple(dataset.descriptions),
            tuple(dataset.colorinterp),
        )


@dataclass(frozen=True)
class _FileBand:
    """One band of one file, counted from 1 as GDAL does."""

    file: _File
    index: int

    def described(self, sensor: str | None) -> str | None:
        """What it is called: by its description, else by the file's name where it has one band."""
        text = self.file.descriptions[self.index - 1]
        if text and band_name(text, sensor):
            return text
        alone = self.file.dataset.count == 1
        return (band_of_file(self.file.stem, sensor) if alone else None) or text


def _match(
    files: Sequence[_File],
    source: SceneInput,
    manifest: ModelManifest,
    given: Sequence[str] | None,
) -> tuple[list[_FileBand], str]:
    """Find the model's bands, and say how."""
    single = files[0] if len(files) == 1 else None
    candidates = [
        _FileBand(file, index)
        for file in files
        for index in _candidates(file, len(manifest.bands), given if single else None)
    ]
    described = [
        one.file.descriptions[one.index - 1] if single else one.described(manifest.sensor)
        for one in candidates
    ]
    found, matching = match_bands(
        manifest.bands,
        count=len(candidates),
        described=described,
        given=given,
        where=Path(source.name).name,
        sensor=manifest.sensor,
    )
    bands = [candidates[i] for i in found]
    if single is None:
        matching = _told(manifest.bands, bands)
    return bands, matching


def _told(names: Sequence[str], bands: Sequence[_FileBand]) -> str:
    """Where each band is, by files: `bands: B04.tif as red; S1.tif 1, 2 as vv, vh`."""
    by_file: dict[str, list[tuple[str, int]]] = {}
    for name, band in zip(names, bands, strict=True):
        by_file.setdefault(band.file.name, []).append((name, band.index))
    several = {band.file.name for band in bands if len(band.file.meanings) > 1}
    listed = [
        f"{file}{_numbers([i for _, i in found]) if file in several else ''} as "
        f"{', '.join(name for name, _ in found)}"
        for file, found in by_file.items()
    ]
    return f"bands: {'; '.join(listed)}"


def _numbers(indexes: Sequence[int]) -> str:
    in_order = list(range(indexes[0], indexes[0] + len(indexes)))
    if len(indexes) > 2 and list(indexes) == in_order:
        return f" {indexes[0]} to {indexes[-1]}"
    return f" {', '.join(map(str, indexes))}"


def _candidates(file: _File, wanted: int, given: Sequence[str] | None) -> tuple[int, ...]:
    """The bands that may hold measurements: all but transparency.

    GDAL marks the fourth band of many 8-bit files as transparency though it is near infrared, so it
    counts as data where it has a name, or where the number of names or bands says so.
    """
    bands = tuple(range(1, len(file.meanings) + 1))
    opaque = tuple(i for i in bands if file.meanings[i - 1] is not ColorInterp.alpha)
    if len(opaque) == len(bands):
        return bands
    if given is not None:
        return opaque if len(given) == len(opaque) else bands
    clear = set(bands) - set(opaque)
    named = any(file.descriptions[i - 1] for i in clear)
    return bands if named or wanted == len(bands) else opaque


def _reference(files: Sequence[_File], bands: Sequence[_FileBand], source: SceneInput) -> _File:
    """The file whose grid the scene is on."""
    leading = files[: source.leads]
    used = [file for file in leading if any(band.file is file for band in bands)]
    return min(used or leading[:1], key=lambda file: file.grid.pixel_size)


def _parts(
    bands: Sequence[_FileBand], grid: Grid, other: str, opened: ExitStack
) -> tuple[list[_Part], list[str]]:
    """Open the files that are needed on one grid, and say which of them are resampled."""
    slots: dict[int, list[int]] = {}
    for slot, band in enumerate(bands):
        slots.setdefault(id(band.file), []).append(slot)
    parts, moved = [], []
    for numbers in slots.values():
        file = bands[numbers[0]].file
        indexes = [bands[slot].index for slot in numbers]
        reader, resampled = opened.enter_context(
            read_on(file.dataset, indexes, grid, file.name, other)
        )
        parts.append(_Part(file.dataset.name, reader, numbers))
        if resampled:
            moved.append(f"{file.name} ({file.grid.pixels})")
    if not moved:
        return parts, []
    return parts, [f"resampled to the grid of {other}, bilinear: {', '.join(moved)}"]


_WINDOW = 512
"""Rows of pixels that are read at once, if not more."""


def _cache(file: _File, bands: Sequence[_FileBand], grid: Grid, manifest: ModelManifest) -> int:
    used = sum(band.file is file for band in bands)
    if not used:
        return 0
    finer = max(file.grid.height / grid.height, 1)
    return cache_needed(file.dataset, used, round(max(manifest.tile_size, _WINDOW) * finer))


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
