"""What files look like before they are read, to tell the next time whether they have changed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from rasterio.errors import RasterioError
from rasterio.io import DatasetReader

from eosfm_cli.data.reader import plain_images_allowed, reading

Stamp = tuple[str, int, int]
"""A file's place, size and time of change."""

_OF_ONE_FILE = {".tif", ".tiff", ".png", ".jpg", ".jpeg", ".jp2", ".npy"}
_BESIDE = (".aux.xml", ".msk")
"""What GDAL reads beside these: what counts as nodata, and where a file is valid."""


class Stamps:
    """Stamps of rasters, and of all files that their pixels come from. Folders are listed once."""

    def __init__(self) -> None:
        self._names: dict[str, frozenset[str]] = {}

    def of(self, path: Path) -> list[Stamp]:
        """The raster's own stamp first, then those of files beside it and of a VRT's sources."""
        if path.suffix.lower() in _OF_ONE_FILE:
            there = self._in(os.path.dirname(path))
            beside = [path.name + ending for ending in _BESIDE if path.name + ending in there]
            return [_stamp(path), *(_stamp(path.with_name(name)) for name in beside)]
        return [_stamp(each) for each in dict.fromkeys([path, *_sources(path, {path})])]

    def _in(self, folder: str) -> frozenset[str]:
        if folder not in self._names:
            try:
                self._names[folder] = frozenset(os.listdir(folder))
            except OSError:  # whoever reads a file there says what is wrong
                self._names[folder] = frozenset()
        return self._names[folder]


def _sources(path: Path, known: set[Path]) -> Iterator[Path]:
    """The files that GDAL says a raster is made of, and what these are made of."""
    files: list[str] = []
    with (
        suppress(RasterioError, UnicodeEncodeError),
        plain_images_allowed(),
        reading(),
        DatasetReader(str(path)) as raster,
    ):
        files = raster.files
    for file in sorted(set(map(Path, files)) - known):
        known.add(file)
        yield file
        if file.suffix.lower() not in _OF_ONE_FILE:
            yield from _sources(file, known)


def _stamp(path: Path) -> Stamp:
    try:
        status = path.stat()
    except OSError:  # whoever reads it says what is wrong with it
        return str(path.absolute()), -1, -1
    return str(path.absolute()), status.st_size, status.st_mtime_ns
