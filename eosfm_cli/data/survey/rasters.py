"""What rasters say about themselves, and what is in some of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.enums import ColorInterp
from rasterio.errors import RasterioError

from eosfm_cli.data.reader import RasterReader, plain_images_allowed
from eosfm_cli.errors import DataError
from eosfm_cli.progress import Progress
from eosfm_cli.tiling import Tile

_Item = TypeVar("_Item")

_GDAL_ERRORS = (RasterioError, CPLE_BaseError, OSError, ValueError)
"""All that opening and reading damaged files has been seen to raise."""
_READERS = 8
WHOLE_PX = 2048 * 2048
"""Rasters up to this size are read whole, of bigger ones a few windows."""
_WINDOW_PX = 1024


@dataclass(frozen=True)
class Facts:
    """A raster's header."""

    count: int
    height: int
    width: int
    dtype: str
    """Of the first band."""
    nodata: float | None
    crs: str | None
    bounds: tuple[float, float, float, float] | None
    """Left, bottom, right, top in the raster's own system; `None` without georeference."""
    descriptions: tuple[str | None, ...]
    colours: tuple[str, ...]
    """What each band is for, as GDAL says: `red`, `alpha`, `palette`, `undefined`."""
    palette: dict[int, str] = field(default_factory=dict, compare=False)
    """Value -> "#rrggbb" of a colour table."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.height, self.width

    @property
    def is_float(self) -> bool:
        """Whether pixels are real numbers."""
        return "float" in self.dtype


def _complaint(error: BaseException, path: Path) -> str:
    """What GDAL complained of, without the path that the message around it has already."""
    text = " ".join(str(error.__cause__ or error).removeprefix("Cannot read ").split())
    for start in (f"{path}: ", f"{path}, ", f"{path.name}: ", f"{path.name}, "):
        text = text.removeprefix(start)
    return text.rstrip(".")


def _read_facts(path: Path) -> Facts:
    with rasterio.open(path) as raster:
        placed = raster.crs is not None and not raster.transform.is_identity
        return Facts(
            raster.count,
            *raster.shape,
            raster.dtypes[0],
            raster.nodata,
            raster.crs.to_string() if raster.crs else None,
            tuple(raster.bounds) if placed else None,
            tuple(raster.descriptions),
            tuple(colour.name for colour in raster.colorinterp),
            _palette(raster),
        )


def _palette(raster: rasterio.DatasetReader) -> dict[int, str]:
    if not raster.count or raster.colorinterp[0] != ColorInterp.palette:
        return {}
    table = raster.colormap(1)
    return {value: "#{:02x}{:02x}{:02x}".format(*rgba[:3]) for value, rgba in table.items()}


class Rasters:
    """Headers and pixels of the rasters of one folder; what cannot be read is remembered.

    Args:
        root: The folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._facts: dict[str, Facts] = {}
        self._reader = RasterReader()
        self.unreadable: dict[str, str] = {}
        """Path -> why."""

    def facts(self, path: str) -> Facts | None:
        """A raster's header, or `None` if it cannot be read."""
        if path not in self._facts and path not in self.unreadable:
            with plain_images_allowed():
                self._note(path, self._look(path))
        return self._facts.get(path)

    def known(self, path: str) -> Facts | None:
        """A raster's header, if it has been read already."""
        return self._facts.get(path)

    def look_at(self, paths: Iterable[str], progress: Progress) -> None:
        """Read many headers at once."""
        new = [path for path in paths if path not in self._facts and path not in self.unreadable]
        with (
            plain_images_allowed(),
            ThreadPoolExecutor(_READERS) as pool,
            progress.step("Reading headers", len(new)) as step,
        ):
            for path, found in zip(new, pool.map(self._look, new), strict=True):
                self._note(path, found)
                step.advance()

    def _look(self, path: str) -> Facts | str:
        """A raster's header, or why it cannot be read."""
        try:
            return _read_facts(self._root / path)
        except _GDAL_ERRORS as error:
            return _complaint(error, self._root / path)

    def _note(self, path: str, found: Facts | str) -> None:
        if isinstance(found, Facts):
            self._facts[path] = found
        else:
            self.unreadable[path] = found

    def pixels(self, path: str, most_bands: int = 4) -> list[tuple[np.ndarray, np.ndarray]]:
        """The first bands of a raster, or of a few windows of a big one.

        Returns:
            Values `(c, h, w)` and where they are valid, per window; nothing if it is damaged.
        """
        facts = self.facts(path)
        if facts is None:
            return []
        bands = range(1, min(facts.count, most_bands) + 1)
        try:
            with rasterio.Env():  # warnings about files go to its log, not to the terminal
                return [
                    self._reader.read(self._root / path, bands, tile)
                    for tile in _windows(*facts.size)
                ]
        except (DataError, *_GDAL_ERRORS) as error:
            del self._facts[path]
            self.unreadable[path] = _complaint(error, self._root / path)
            return []


def _windows(height: int, width: int) -> list[Tile]:
    if height * width <= WHOLE_PX:
        return [Tile(0, 0, height, width)]
    tall, wide = min(_WINDOW_PX, height), min(_WINDOW_PX, width)
    places = {(row * (height - tall) // 2, col * (width - wide) // 2) for row, col in _FIVE}
    return [Tile(row, col, tall, wide) for row, col in sorted(places)]


_FIVE = ((0, 0), (0, 2), (1, 1), (2, 0), (2, 2))
"""The corners and the middle, in halves of what is left beside a window."""


@dataclass
class Counts:
    """How often values occur, in pixels and in files."""

    pixels: Counter[int | float] = field(default_factory=Counter)
    files: Counter[int | float] = field(default_factory=Counter)

    def add(self, values: Iterable[np.ndarray]) -> None:
        """Count one file's values."""
        of_file: Counter[int | float] = Counter()
        for block in values:
            of_file.update(_occurrences(block))
        self.pixels.update(of_file)
        self.files.update(of_file.keys())

    @property
    def total(self) -> int:
        """All pixels counted."""
        return sum(self.pixels.values())


def _occurrences(block: np.ndarray) -> dict[int | float, int]:
    if block.dtype == np.uint8:  # a good deal faster than sorting
        counts = np.bincount(block.ravel(), minlength=256)
        return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}
    found, counts = np.unique(block, return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))


def packed_colours(pixels: np.ndarray) -> np.ndarray:
    """Colours `(3…, h, w)` uint8 as whole numbers `0xrrggbb`, `(h, w)`."""
    red, green, blue = pixels[:3].astype(np.int64)
    return red << 16 | green << 8 | blue


def spread(items: Sequence[_Item], most: int) -> list[_Item]:
    """At most so many items, evenly spread over all."""
    if len(items) <= most:
        return list(items)
    return [items[index * len(items) // most] for index in range(most)]
