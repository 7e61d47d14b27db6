"""What the user names, as scenes: files, folders, patterns, lists and addresses."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from eosfm_cli.errors import DataError, UsageError
from eosfm_cli.progress import Progress, Silent
from eosfm_cli.raster.opening import is_remote, shown
from eosfm_cli.raster.stack import finest_of_each_band, stack_stem

SUFFIXES = frozenset(
    {".tif", ".tiff", ".gtiff", ".vrt", ".jp2", ".j2k", ".img", ".dat", ".png", ".jpg", ".jpeg"}
)
"""What rasters end in, where a folder is searched for them; what is named may end in anything."""

_PICTURES = frozenset({".png", ".jpg", ".jpeg"})
_SCHEMES = {
    "http": "/vsicurl/http://",
    "https": "/vsicurl/https://",
    "ftp": "/vsicurl/ftp://",
    "s3": "/vsis3/",
    "gs": "/vsigs/",
    "az": "/vsiaz/",
}
"""What an address begins with -> what GDAL calls it."""
_OWN = re.compile(r"(?P<scene>.+)_(pred|prob|conf|disagree)$")
"""Stems of what `predict` writes."""
_LONGEST_LIST = 16 * 2**20


@dataclass(frozen=True)
class SceneInput:
    """A scene that the user named."""

    name: str
    """For messages."""
    stem: str
    """What its maps' names begin with."""
    files: tuple[str, ...]
    """Paths, or names of GDAL's virtual file systems; the bands of all are the scene's."""
    folder: Path | None
    """Where its maps go; `None` for scenes that are not on this disk."""
    leads: int = 1
    """Of so many files, from the first on, that of the smallest pixels gives the grid."""

    @classmethod
    def of(cls, path: Path | str) -> SceneInput:
        """A single raster."""
        name = _virtual(str(path)) or str(path)
        if name.startswith("/vsi"):
            last = unquote(shown(name).rstrip("/").rpartition("/")[2])
            return cls(shown(name), Path(last).stem or "scene", (name,), None)
        return cls(str(path), Path(path).stem, (str(path),), Path(path).parent)

    @property
    def local_files(self) -> tuple[Path, ...]:
        """What must not be written over."""
        return tuple(Path(file) for file in self.files if not file.startswith("/vsi"))

    @property
    def identity(self) -> list[Any]:
        """What changes when the scene does: places, sizes and times of change."""
        return [_identity(file) for file in self.files]


def find_scenes(
    texts: Sequence[str | Path], *, stack: bool = False, progress: Progress | None = None
) -> list[SceneInput]:
    """Find the scenes that the user means.

    What is named is a scene even if it is missing or no raster: opening it says so, and the others
    are not stopped by it. Of folders and patterns only what looks like a raster is taken, and maps
    of an earlier run are not.

    Args:
        texts: Rasters, folders of them, patterns as in `scenes/*.tif`, addresses (`https://…`,
            `s3://…`, `/vsi…`), and lists of these in text files (`@list` or `list.txt`: one per
            line, from where the list is, with comments after #).
        stack: All files are one scene of several bands, with those of a folder if one is named;
            of several folders each is a scene.
        progress: Told what is left out.

    Raises:
        UsageError: A name is empty, as that of a shell's variable that is not set.
        DataError: There is not one scene, or a list cannot be read or points to the network.
    """
    finder = _Finder(stack, progress or Silent())
    for text in texts:
        if not str(text).strip():
            raise UsageError("An INPUT is empty.", hint="Name a raster, or . for this folder.")
        finder.take(str(text))
    found = finder.scenes()
    if not found:
        listed = ", ".join(str(text) for text in texts)
        raise DataError(
            f"There is no scene in {listed}.",
            hint="Name rasters, folders that hold them, or patterns in quotes, as in "
            "'scenes/*.tif'.",
        )
    return found


class _Finder:
    """Gathers scenes in the order in which they are named."""

    def __init__(self, stack: bool, progress: Progress) -> None:
        self._stack, self._progress = stack, progress
        self._files: list[str] = []
        self._folders: list[SceneInput] = []
        self._folder_first = False

    def take(self, text: str, base: Path | None = None) -> None:
        """Take what one argument, or one line of a list, names."""
        virtual = _virtual(text)
        path = (base or Path()) / os.path.expanduser(text)
        if virtual is not None:
            self._files.append(virtual)
        elif os.path.isdir(path):
            self._take_folder(path)
        elif base is None and text.startswith("@") and not os.path.exists(path):
            self._take_list(Path(os.path.expanduser(text[1:])))
        elif base is None and path.suffix.lower() == ".txt":
            self._take_list(path)
        elif not os.path.exists(path) and glob.has_magic(text):
            self._take_pattern(str(path))
        else:
            self._files.append(str(path))

    def scenes(self) -> list[SceneInput]:
        """All that was found, each once."""
        files = self._without_twins(self._without_own_maps(self._files))
        if not self._stack:
            return [SceneInput.of(file) for file in files]
        if files and len(self._folders) == 1:
            return [_with_others(self._folders[0], files, first=self._folder_first)]
        return [*([_stacked(files)] if files else []), *self._folders]

    # ------------------------------------------------------------------ what is named

    def _take_folder(self, folder: Path) -> None:
        if self._stack:
            self._stack_folder(folder)
            return
        rasters, others = _sorted_out(_listed(folder))
        self._say_left_out(f"in {folder}", others)
        self._files.extend(str(path) for path in rasters)
        if not rasters:
            self._progress.warn(
                f"There is no raster in {folder}; folders below it are not searched."
            )

    def _stack_folder(self, folder: Path) -> None:
        """A folder of files of one scene, or of folders of them, as Sentinel-2's products are."""
        rasters, _ = _sorted_out(_listed(folder))
        rasters = rasters or _sorted_out(sorted(folder.rglob("*"), key=_natural))[0]
        bands = finest_of_each_band(rasters)
        if bands:
            self._say_left_out(f"in {folder}", [path for path in rasters if path not in bands])
        files = tuple(str(path) for path in bands or rasters)
        if not files:
            self._progress.warn(f"There is no raster in {folder}.")
            return
        whole = folder.resolve()
        stem = whole.stem if whole.suffix.upper() == ".SAFE" else whole.name
        scene = SceneInput(str(folder), stem or "scene", files, whole.parent, leads=len(files))
        if scene not in self._folders:
            self._folder_first = self._folder_first or not self._files
            self._folders.append(scene)

    def _take_pattern(self, pattern: str) -> None:
        paths = sorted((Path(name) for name in glob.iglob(pattern, recursive=True)), key=_natural)
        if not paths:
            self._progress.warn(f"Nothing is called {pattern}.")
        folders = [path for path in paths if path.is_dir()]
        rasters, others = _sorted_out([path for path in paths if path not in set(folders)])
        self._say_left_out(f"of {pattern}", others)
        self._files.extend(str(path) for path in rasters)
        for folder in folders if self._stack or not rasters else ():
            self._take_folder(folder)

    def _take_list(self, path: Path) -> None:
        for number, line in enumerate(_lines(path), 1):
            text = line.partition("#")[0].strip() if not _virtual(line.strip()) else line.strip()
            if not text:
                continue
            if (virtual := _virtual(text)) is not None and is_remote(virtual):
                raise DataError(
                    f"{path}, line {number}, points to the network: {shown(virtual)}.",
                    hint="Only what is named on the command line is read from there: "
                    f"eosfm predict $(cat {path})",
                )
            self.take(text, path.parent)

    # ------------------------------------------------------------------ what is left out

    def _without_own_maps(self, files: Sequence[str]) -> list[str]:
        """Leave out the maps of scenes that are named too, as `*.tif` does in a shell."""
        stems = {(Path(file).parent, Path(file).stem) for file in files}
        own = [file for file in files if (_parent_of_map(Path(file))) in stems]
        self._say_left_out("", [Path(file) for file in own])
        return [file for file in files if file not in own]

    def _without_twins(self, files: Sequence[str]) -> list[str]:
        found: dict[str, str] = {}
        for file in files:
            key = file if file.startswith("/vsi") else os.path.realpath(file)
            if key in found:
                self._progress.say(f"{shown(file)} is named more than once and mapped once")
            found.setdefault(key, file)
        return list(found.values())

    def _say_left_out(self, where: str, paths: Sequence[Path]) -> None:
        told = [path.name for path in paths if not _is_sidecar(path)]
        if not told:
            return
        maps = sum(_OWN.fullmatch(Path(name).stem) is not None for name in told)
        what = "maps of an earlier run" if maps == len(told) else "no scenes"
        more = f" and {len(told) - 3} more" if len(told) > 3 else ""
        listed = f"{', '.join(told[:3])}{more}"
        self._progress.say(f"left out{where and f' {where}'}: {listed} ({what})")


# --------------------------------------------------------------------------- files


def _virtual(text: str) -> str | None:
    """What GDAL calls an address, if it is one."""
    if text.startswith("/vsi"):
        return text
    scheme, found, rest = text.partition("://")
    prefix = _SCHEMES.get(scheme.lower()) if found else None
    return None if prefix is None else f"{prefix}{rest}"


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted((path for path in folder.iterdir() if path.is_file()), key=_natural)
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror}.") from None


def _sorted_out(paths: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """The scenes among files, and the others."""
    paths = [path for path in paths if path.is_file() and not path.name.startswith(".")]
    rasters = {path for path in paths if path.suffix.lower() in SUFFIXES}
    rasters |= {path for path in paths if path.with_name(f"{path.name}.hdr") in set(paths)}
    full = {(path.parent, path.stem) for path in rasters if path.suffix.lower() not in _PICTURES}
    found = [path for path in paths if path in rasters and not _is_beside(path, full)]
    chosen = set(found)
    return found, [path for path in paths if path not in chosen]


def _is_beside(path: Path, full: set[tuple[Path, str]]) -> bool:
    """Whether a raster is a map of an earlier run, or a picture of another raster."""
    if _OWN.fullmatch(path.stem):
        return True
    return path.suffix.lower() in _PICTURES and (path.parent, path.stem) in full


def _parent_of_map(path: Path) -> tuple[Path, str] | None:
    """Where the scene would be that a map of an earlier run belongs to."""
    found = _OWN.fullmatch(path.stem)
    return (path.parent, found["scene"]) if found else None


_SIDECARS = (
    ".xml",
    ".ovr",
    ".msk",
    ".hdr",
    ".prj",
    ".qml",
    ".tfw",
    ".tifw",
    ".j2w",
    ".wld",
    ".rrd",
)


def _is_sidecar(path: Path) -> bool:
    """What lies beside rasters and nobody takes for one."""
    return path.suffix.lower() in _SIDECARS


def _natural(path: Path) -> list[Any]:
    """Sort `a2` before `a10`."""
    parts = re.split(r"(\d+)", str(path).lower())
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part]


def _lines(path: Path) -> list[str]:
    try:
        if path.stat().st_size > _LONGEST_LIST:
            raise DataError(f"{path} is too large for a list of scenes.")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"The list {path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise DataError(f"The list {path} is no text.", hint="Write one raster per line, in UTF-8.")
    return text.splitlines()


def _identity(file: str) -> list[Any]:
    path = Path(file)
    if file.startswith("/vsi") or not os.path.exists(path):
        return [shown(file)]
    status = path.stat()
    return [str(path.absolute()), status.st_size, status.st_mtime_ns]


def _stacked(files: Sequence[str]) -> SceneInput:
    """One scene of the files that were named."""
    first = SceneInput.of(files[0])
    if len(files) == 1:
        return first
    stem = stack_stem([SceneInput.of(file).stem for file in files])
    if not stem and first.folder is not None:
        stem = first.folder.resolve().name
    name = f"{first.name} + {len(files) - 1} more"
    return SceneInput(name, stem or first.stem, tuple(files), first.folder)


def _with_others(folder: SceneInput, files: Sequence[str], *, first: bool) -> SceneInput:
    """One scene of a folder and of files, on the grid of what was named first."""
    others = [file for file in files if file not in folder.files]
    if not others:
        return folder
    more = Path(shown(others[0])).name + (f" + {len(others) - 1} more" if others[1:] else "")
    if first:
        joined = (*folder.files, *others)
        return replace(folder, name=f"{folder.name} + {more}", files=joined)
    joined, name = (*others, *folder.files), f"{more} + {folder.name}"
    return replace(folder, name=name, files=joined, leads=1)
