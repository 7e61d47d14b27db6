"""The files of a folder, told apart by what they may be for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from eosfm_cli.errors import DataError

MOST_FILES = 1_000_000

_RASTERS = frozenset({".tif", ".tiff", ".png", ".jpg", ".jpeg", ".jp2", ".img", ".bmp"})
_TEXTS = frozenset({".txt", ".csv", ".lst", ".list", ".tsv"})
_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".7z", ".rar", ".tar.bz2", ".gz")
_SIDECARS = (
    *(".aux.xml", ".ovr", ".msk", ".prj", ".qml", ".cpg", ".wld", ".md5", ".sha256"),
    *(".tfw", ".tifw", ".pgw", ".jgw", ".jpgw", ".pngw", ".bpw"),
)
_NOT_DATA = frozenset({"__MACOSX", "@eaDir", "Thumbs.db", "desktop.ini"})


@dataclass(frozen=True)
class RasterFile:
    """One raster below the folder."""

    path: str
    """Relative, with `/`."""
    folders: tuple[str, ...]
    stem: str
    suffix: str
    """As it is written, `.TIF` for instance."""


@dataclass(frozen=True)
class Tree:
    """All files of a folder; hidden ones and sidecars of rasters are left out."""

    root: Path
    rasters: tuple[RasterFile, ...]
    texts: tuple[str, ...]
    """Text files and tables: lists of splits, perhaps."""
    archives: tuple[str, ...]
    others: tuple[str, ...]
    closed: tuple[str, ...]
    """Folders that cannot be read."""


def read_tree(root: Path) -> Tree:
    """List a folder and all folders below it.

    Raises:
        DataError: There are more than `MOST_FILES`.
    """
    closed: list[str] = []
    kinds: dict[str, list[str]] = {"raster": [], "text": [], "archive": [], "other": []}
    for number, path in enumerate(_files(root, "", closed, frozenset())):
        if number == MOST_FILES:
            raise DataError(
                f"{root} holds more than {MOST_FILES:,} files.",
                hint="Name the folder of one dataset.",
            )
        if kind := _kind(path):
            kinds[kind].append(path)
    return Tree(
        root,
        tuple(_raster(path) for path in sorted(kinds["raster"])),
        *(tuple(sorted(kinds[kind])) for kind in ("text", "archive", "other")),
        tuple(closed),
    )


def _files(
    folder: Path, below: str, closed: list[str], above: frozenset[tuple[int, int]]
) -> Iterator[str]:
    """Relative paths of all files; links are followed, but never round in circles."""
    try:
        status = folder.stat()
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError:
        closed.append(below or ".")
        return
    here = above | {(status.st_dev, status.st_ino)}
    for entry in entries:
        if entry.name.startswith(".") or entry.name in _NOT_DATA:
            continue
        path = f"{below}/{entry.name}" if below else entry.name
        if not entry.is_dir():
            yield path
        elif not entry.is_symlink() or _identity(entry) not in here:
            yield from _files(folder / entry.name, path, closed, here)


def _identity(entry: os.DirEntry[str]) -> tuple[int, int]:
    status = entry.stat()
    return status.st_dev, status.st_ino


def _kind(path: str) -> str | None:
    lower = path.lower()
    if lower.endswith(_SIDECARS):
        return None
    suffix = PurePosixPath(lower).suffix
    if suffix in _RASTERS:
        return "raster" if _can_stand_in_a_recipe(path) else "other"
    if suffix in _TEXTS:
        return "text"
    return "archive" if lower.endswith(_ARCHIVES) else "other"


def _can_stand_in_a_recipe(path: str) -> bool:
    """Whether a path can be written into YAML and braces in it are no fields."""
    return path.isprintable() and not set("{}\\") & set(path)


def _raster(path: str) -> RasterFile:
    pure = PurePosixPath(path)
    return RasterFile(path, pure.parts[:-1], pure.stem, pure.suffix)
