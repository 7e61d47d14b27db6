"""Fetching a recipe's dataset, as far as its terms and servers let a program do that."""

from __future__ import annotations

import glob
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from eosfm_cli.data.download import (
    Checksum,
    RemoteFile,
    cannot_write,
    check_space,
    fetch,
    matches,
    remote_size,
)
from eosfm_cli.data.fetched import Entry, Fetched, read_fetched
from eosfm_cli.data.servers import check_address, name_in
from eosfm_cli.data.sources import resolve_root
from eosfm_cli.data.unpacking import is_archive, unpack
from eosfm_cli.errors import DataError, Interrupted, UsageError
from eosfm_cli.progress import Progress
from eosfm_cli.recipe import Recipe
from eosfm_cli.recipe.dataset import DownloadSpec
from eosfm_cli.run_dir import RunDir, replacing

State = Literal["missing", "begun", "fetched", "there"]
"""Nothing of it is on disk; a part; all, to be checked or unpacked; all, as the recipe wants it."""


@dataclass(frozen=True)
class PlannedFile:
    """One file of `dataset.files`."""

    name: str
    """Where it goes below the dataset's folder."""
    parts: tuple[RemoteFile, ...]
    into: Path | None
    """Of an archive: the folder that it is unpacked into."""
    state: State
    size: int | None
    """Bytes, of all parts; `None` where nobody has said."""

    @property
    def sums(self) -> tuple[str, ...]:
        """What tells whether a file that came earlier is still the one that is wanted."""
        return tuple(str(part.checksum or part.url) for part in self.parts)

    @property
    def left(self) -> int:
        """Bytes to fetch, as far as is known."""
        if self.state == "there":
            return 0
        come = sum(
            part.path.stat().st_size if part.path.is_file() else part.begun for part in self.parts
        )
        return max(0, (self.size or 0) - come)


@dataclass(frozen=True)
class DownloadPlan:
    """What there is to fetch for a recipe, and where it goes."""

    recipe: str
    title: str
    root: Path
    licence: str | None
    homepage: str | None
    said_size: str | None
    """The dataset's size in the recipe's words."""
    files: tuple[PlannedFile, ...]
    found: Path | None
    """Data of this recipe that is there and was not fetched by eosfm."""
    steps: str | None
    """How to get the data by hand, where no program may or can fetch it."""

    @property
    def left(self) -> int:
        """Bytes to fetch, as far as is known."""
        return sum(file.left for file in self.files)

    @property
    def complete(self) -> bool:
        """Whether all is there."""
        return self.steps is None and all(file.state == "there" for file in self.files)


@dataclass(frozen=True)
class DownloadResult:
    """What was done."""

    root: Path
    sizes: dict[str, int]
    """Bytes, packed, of the files that were fetched or unpacked now."""
    kept: tuple[str, ...]
    """Files that were there already with other contents than in an archive."""


# ------------------------------------------------------------------------------ planning


def plan_download(recipe: Recipe, data_root: Path | None) -> DownloadPlan:
    """Say what there is to fetch, without asking any server.

    Raises:
        UsageError: An address that nothing can be fetched from.
    """
    dataset = recipe.dataset
    root = resolve_root(recipe, data_root)
    noted = read_fetched(root)
    by_hand = not dataset.files and dataset.loader != "mini"
    return DownloadPlan(
        recipe=recipe.name,
        title=recipe.title,
        root=root,
        licence=dataset.licence,
        homepage=dataset.homepage,
        said_size=dataset.size,
        files=tuple(_planned(spec, root, noted) for spec in dataset.files),
        found=None if noted.entries or by_hand else _data_there(recipe, root),
        steps=(dataset.download or "The recipe does not say how.") if by_hand else None,
    )


def _planned(spec: DownloadSpec, root: Path, noted: Fetched) -> PlannedFile:
    parts = tuple(_parts(spec, root))
    name = spec.to or _whole_name(name_in(spec.urls[0]), len(parts))
    archive = is_archive(parts[0].path.name)
    file = PlannedFile(name, parts, root / spec.into if archive else None, "missing", spec.size)
    if noted.has(name, file.sums, archive=archive):
        return replace(file, state="there", size=noted.entries[name].size)
    state = _state(parts)
    size = sum(part.path.stat().st_size for part in parts) if state == "fetched" else spec.size
    return replace(file, state=state, size=size)


def _state(parts: tuple[RemoteFile, ...]) -> State:
    come = [part.path.is_file() for part in parts]
    if all(come):
        return "fetched"
    return "begun" if any(come) or any(part.begun for part in parts) else "missing"


def _parts(spec: DownloadSpec, root: Path) -> Iterator[RemoteFile]:
    """The addresses of a file; a part keeps its name in its address."""
    sums = _sums(spec)
    folder = (root / spec.to).parent if spec.to else root
    for index, url in enumerate(spec.urls):
        check_address(url)
        alone = len(spec.urls) == 1
        if not name_in(url) and not (spec.to and alone):
            raise UsageError(
                f"{url} does not end in a file's name.",
                hint="Give it one in the recipe, with `to` in dataset.files.",
            )
        path = root / spec.to if spec.to and alone else folder / name_in(url)
        yield RemoteFile(url, path, sums[index], spec.size if alone else None)


def _sums(spec: DownloadSpec) -> tuple[Checksum | None, ...]:
    """The checksum of each part, the stronger where there are two."""
    if spec.sha256 is not None:
        return tuple(Checksum("sha256", each) for each in _as_tuple(spec.sha256))
    if spec.md5 is not None:
        return tuple(Checksum("md5", each) for each in _as_tuple(spec.md5))
    return (None,) * len(spec.urls)


def _as_tuple(text: str | tuple[str, ...]) -> tuple[str, ...]:
    return (text,) if isinstance(text, str) else text


def _whole_name(part: str, count: int) -> str:
    """The name of a file that is cut into parts: `a.tar.gzaa` -> `a.tar.gz`."""
    return part if count == 1 else re.sub(r"(\.\d{3}|\.?[a-z]{2})$", "", part)


def _data_there(recipe: Recipe, root: Path) -> Path | None:
    """An image of the recipe that is on disk, if there is one."""
    if not root.is_dir():
        return None
    for image in recipe.dataset.images.values():
        for path in image.paths:
            texts = re.split(r"\{[^}]*\}", path)
            found = next(root.glob("*".join(map(glob.escape, texts))), None)
            if found is not None:
                return found
    return None


def by_hand(plan: DownloadPlan) -> DataError:
    """Say how to get data that no program may or can fetch."""
    return DataError(
        f"No program can fetch the data of {plan.recipe}.",
        hint=f"By hand: {plan.steps} Then: eosfm data check {plan.recipe}",
    )


def ask_sizes(plan: DownloadPlan, progress: Progress) -> DownloadPlan:
    """Ask the servers for what is missing, and so learn early whether all of it is there.

    Raises:
        DataError: A file is not there, or its server cannot be reached.
    """
    wanted = [file for file in plan.files if file.state in {"missing", "begun"}]
    for file in wanted:
        for part in file.parts:
            if not part.url.startswith("https://"):
                kind = part.url.partition(":")[0]
                progress.say(f"{part.path.name} comes over {kind}, which is not encrypted.")
    with progress.step("asking for sizes", max(1, len(wanted))) as step:
        asked = {}
        for file in wanted:
            asked[file.name] = _asked(file)
            step.advance()
    return replace(plan, files=tuple(asked.get(file.name, file) for file in plan.files))


def _asked(file: PlannedFile) -> PlannedFile:
    parts = tuple(replace(part, announced=remote_size(part)) for part in file.parts)
    sizes = [part.announced for part in parts]
    known = sum(size for size in sizes if size) if all(sizes) else file.size
    return replace(file, parts=parts, size=known)


# ------------------------------------------------------------------------------ doing


def download(
    plan: DownloadPlan, progress: Progress, *, keep_archives: bool = False
) -> DownloadResult:
    """Fetch and unpack what is missing; what is there stays as it is.

    Args:
        plan: What to fetch.
        progress: Who is told.
        keep_archives: Keep archives after they are unpacked.

    Raises:
        DataError: A file cannot be had, is not what the recipe says, or cannot be unpacked.
        OutputError: The folder cannot be written, or the disk is too full.
    """
    todo = [file for file in plan.files if file.state != "there"]
    check_space(plan.root, _most(todo, keep_archives))
    sizes: dict[str, int] = {}
    kept: list[str] = []
    with _alone(plan.root), _told_how_to_go_on(plan, progress):
        for file in todo:
            entry, stayed = _get(file, plan.root, progress, keep_archives)
            sizes[file.name] = entry.size
            kept += stayed
    return DownloadResult(plan.root, sizes, tuple(kept))


def _most(files: Sequence[PlannedFile], keep_archives: bool) -> int:
    """The most bytes that are taken at any time; what is unpacked is at least as large as packed.

    Args:
        files: What is fetched, one after the other.
        keep_archives: Whether archives stay.
    """
    most = taken = 0
    for file in files:
        size = file.size or 0
        taken += file.left + (size if file.into else 0)
        most = max(most, taken)
        if file.into and not keep_archives:
            taken -= size
    return most


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Keep a second process from fetching into the same folder, as runs are kept apart."""
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(root, error) from None
    with RunDir(root).hold():
        yield


@contextmanager
def _told_how_to_go_on(plan: DownloadPlan, progress: Progress) -> Iterator[None]:
    try:
        yield
    except Interrupted:
        progress.say(f"What has come is kept in {plan.root}: the same command goes on with it.")
        raise


def _get(
    file: PlannedFile, root: Path, progress: Progress, keep_archives: bool
) -> tuple[Entry, tuple[str, ...]]:
    """Fetch one file, unpack it, and write that down; names also what stayed as it was."""
    came = [_get_part(part, progress) for part in file.parts]
    noted = read_fetched(root)
    ours = any(came) or noted.came(file.name, file.sums)
    entry = Entry(file.sums, sum(part.path.stat().st_size for part in file.parts))
    if file.into is None:
        _join(file, root / file.name)
        noted.note(file.name, entry)
        return entry, ()
    if ours:  # whoever put the archive there may want it: only those that came from here go again
        noted = noted.note(file.name, entry)
    done = unpack([part.path for part in file.parts], file.into, progress)
    inside = file.into.relative_to(root)
    entry = replace(entry, holds=tuple((inside / each).as_posix() for each in done.holds))
    noted.note(file.name, entry)
    if ours and not keep_archives:
        for part in file.parts:
            part.path.unlink(missing_ok=True)
    return entry, tuple((inside / each).as_posix() for each in done.kept)


def _get_part(part: RemoteFile, progress: Progress) -> int:
    """Fetch a file that is not there; returns the bytes that came."""
    if not part.path.is_file():
        return fetch(part, progress)
    if not matches(part, progress):
        raise DataError(
            f"{part.path} is there, but is not what the recipe means ({part.checksum}).",
            hint="It may be another version, or damaged: move it away, and run the same command "
            "again to fetch it.",
        )
    return 0


def _join(file: PlannedFile, target: Path) -> None:
    """Make one file of several."""
    if [part.path for part in file.parts] == [target]:
        return
    with replacing(target) as temporary, temporary.open("wb") as whole:
        for part in file.parts:
            with part.path.open("rb") as piece:
                shutil.copyfileobj(piece, whole)
    for part in file.parts:
        part.path.unlink()
