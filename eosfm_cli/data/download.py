"""Fetching a file: in pieces if need be, and only under its own name once it is whole and right."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from eosfm_cli.data.servers import BLOCK, Answer, CutOffError, opened
from eosfm_cli.errors import DataError, OutputError
from eosfm_cli.progress import Progress, Step
from eosfm_cli.run_dir import write_text

_MEGABYTE = 1_000_000
_TRIES = 5
"""How often in a row a server may fail without sending anything new."""
_PATIENCE_S = 30.0


# ------------------------------------------------------------------------------ what to fetch


@dataclass(frozen=True)
class Checksum:
    """What the bytes of a file come to."""

    algorithm: Literal["md5", "sha256"]
    digest: str

    def start(self) -> hashlib._Hash:
        """A sum of nothing yet."""
        return hashlib.new(self.algorithm, usedforsecurity=False)

    def __str__(self) -> str:
        return f"{self.algorithm} {self.digest}"


@dataclass(frozen=True)
class RemoteFile:
    """A file to fetch."""

    url: str
    path: Path
    """Where it goes."""
    checksum: Checksum | None = None
    size: int | None = None
    """Bytes, where the recipe says so."""
    announced: int | None = None
    """Bytes, where its server has said so."""

    @property
    def partial(self) -> Path:
        """What has come of it so far."""
        return _beside(self.path, ".part")

    @property
    def begun(self) -> int:
        """How many bytes of it have come so far."""
        return self.partial.stat().st_size if self.partial.is_file() else 0


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


# ------------------------------------------------------------------------------ fetching


def remote_size(file: RemoteFile) -> int | None:
    """Ask a server how many bytes a file has; `None` if it does not say.

    Raises:
        DataError: It is not there or not what the recipe says, or the server cannot be reached.
    """
    for last in (False, True):
        try:
            with opened(file.url) as answer:
                _check_announced(file, answer)
                return answer.size
        except CutOffError as cut:
            if last:
                raise _given_up(file.url, cut) from None
    return None


class _Partial:
    """What has come of a file, on disk as `<name>.part` with a note of what it is a part of."""

    def __init__(self, file: RemoteFile) -> None:
        self._file = file
        self._note = _beside(file.path, ".part.json")
        self.path = file.partial
        self.validator: str | None = None
        self._sum = file.checksum and file.checksum.start()
        self.size = 0

    def take_up(self) -> None:
        """Go on with what an earlier run left, if it can be told to be of the same file."""
        note = self._read_note()
        self.validator = note.get("validator")
        known = self.validator is not None or self._file.checksum is not None
        if note.get("url") != self._file.url or not known or not self.path.is_file():
            self.clear()
            return
        for block in _blocks(self.path):
            self._count(block)

    def _read_note(self) -> dict[str, Any]:
        try:
            note = json.loads(self._note.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return note if isinstance(note, dict) else {}

    def clear(self) -> None:
        """Begin anew."""
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)
        self.size, self.validator = 0, None
        self._sum = self._file.checksum and self._file.checksum.start()

    def belongs_to(self, answer: Answer) -> bool:
        """Whether what the server sends goes on where this ends, in the same file."""
        changed = self.validator is not None and answer.validator not in {None, self.validator}
        return answer.start == self.size and not (self.size and changed)

    def append(self, answer: Answer, meter: _Meter) -> None:
        """Take what a server sends."""
        if self.validator is None:
            self.validator = answer.validator
            note = {"url": self._file.url, "validator": self.validator}
            write_text(self._note, json.dumps(note) + "\n")
        try:
            file = self.path.open("ab")
        except OSError as error:
            raise cannot_write(self.path, error) from None
        with file:
            for block in answer.blocks():
                _write(file, block, self.path)
                self._count(block)
                meter.at(self.size)

    def _count(self, block: bytes) -> None:
        self.size += len(block)
        if self._sum is not None:
            self._sum.update(block)

    @property
    def sum(self) -> str | None:
        """What the bytes come to."""
        return self._sum and self._sum.hexdigest()

    def finish(self) -> None:
        """Give the file its own name."""
        self.path.replace(self._file.path)
        self._note.unlink(missing_ok=True)

    def set_aside(self) -> Path:
        """Keep the file under a name that nothing takes for the right one."""
        wrong = _beside(self._file.path, ".wrong")
        self.path.replace(wrong)
        self._note.unlink(missing_ok=True)
        return wrong


def _write(file: IO[bytes], block: bytes, path: Path) -> None:
    try:
        file.write(block)
    except OSError as error:
        raise cannot_write(path, error) from None


def fetch(file: RemoteFile, progress: Progress) -> int:
    """Fetch a file, from where an earlier try ended; it has its name only when whole and right.

    Returns:
        Its bytes.

    Raises:
        DataError: It is not there, cannot be reached, or is not what the recipe says.
        OutputError: It cannot be written, or does not fit on the disk.
    """
    try:
        file.path.parent.mkdir(parents=True, exist_ok=True)
        partial = _Partial(file)
        partial.take_up()
        if partial.size:
            progress.say(f"{file.path.name}: going on after {_amount(partial.size)}.")
        whole = file.size or file.announced
        with progress.step(f"{file.path.name}, MB", _megabytes(whole)) as step:
            _fetch_all(file, partial, _Meter(step, partial.size, whole), progress)
        _check(file, partial)
        partial.finish()
    except OSError as error:
        raise cannot_write(file.path, error) from None
    return partial.size


def _fetch_all(file: RemoteFile, partial: _Partial, meter: _Meter, progress: Progress) -> None:
    if partial.size and partial.size == (file.size or file.announced):
        return  # the last run was stopped after the last byte
    tries = 0
    while True:
        before = partial.size
        try:
            _fetch_more(file, partial, meter, progress)
            return
        except CutOffError as cut:
            tries = 1 if partial.size > before else tries + 1
            if tries >= _TRIES:
                raise _given_up(file.url, cut) from None
            _wait(cut, tries)


def _fetch_more(file: RemoteFile, partial: _Partial, meter: _Meter, progress: Progress) -> None:
    with opened(file.url, partial.size, partial.validator) as answer:
        _check_announced(file, answer)
        if not partial.belongs_to(answer):
            progress.say(f"{file.path.name}: it has to be fetched from its start again.")
            partial.clear()
            if answer.start:
                raise CutOffError("the file has changed meanwhile")
        check_space(file.path.parent, (answer.size or 0) - partial.size)
        partial.append(answer, meter)
    if answer.size is not None and partial.size < answer.size:
        raise CutOffError(f"the connection ended after {_amount(partial.size)}")


def _check_announced(file: RemoteFile, answer: Answer) -> None:
    if file.size is not None and answer.size is not None and answer.size != file.size:
        raise DataError(
            f"{file.url} has {answer.size} bytes, the recipe says {file.size}: the file has "
            "changed, or something else is there now.",
            hint="See the dataset's homepage; `size`, `md5` and `sha256` stand in dataset.files.",
        )


def _wait(cut: CutOffError, tries: int) -> None:
    """Give the server time, none at first."""
    seconds = 2.0 ** (tries - 1) - 1 if cut.wait_s is None else cut.wait_s
    time.sleep(min(seconds, _PATIENCE_S))


def _given_up(url: str, cut: CutOffError) -> DataError:
    return DataError(
        f"Cannot fetch {url}: {cut}.",
        hint="Check the network (and HTTPS_PROXY, where there is a proxy). What has come is kept: "
        "the same command goes on with it.",
    )


def _check(file: RemoteFile, partial: _Partial) -> None:
    if file.size is not None and partial.size != file.size:
        problem = f"it has {partial.size} bytes, the recipe says {file.size}"
    elif file.checksum is not None and partial.sum != file.checksum.digest.lower():
        problem = f"its {file.checksum.algorithm} is {partial.sum}, the recipe says "
        problem += file.checksum.digest
    else:
        return
    wrong = partial.set_aside()
    raise DataError(
        f"What came from {file.url} is not the file: {problem}.",
        hint=f"It is kept as {wrong}, for you to look at or delete. Run the same command again; "
        "if that ends alike, the file on the server has changed.",
    )


def matches(file: RemoteFile, progress: Progress) -> bool:
    """Whether the file that stands at its place is the right one, as far as can be told."""
    if file.size is not None and file.path.stat().st_size != file.size:
        return False
    if file.checksum is None:
        return True
    total, size = file.checksum.start(), file.path.stat().st_size
    with progress.step(f"checking {file.path.name}, MB", _megabytes(size)) as step:
        meter, done = _Meter(step, 0, size), 0
        for block in _blocks(file.path):
            total.update(block)
            done += len(block)
            meter.at(done)
    return total.hexdigest() == file.checksum.digest.lower()


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            yield block


def check_space(folder: Path, wanted: int) -> None:
    """Refuse to begin what does not fit.

    Args:
        folder: Where it goes.
        wanted: Bytes.

    Raises:
        OutputError: The disk is too full.
    """
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.is_dir())
    free = shutil.disk_usage(there).free
    if wanted > free:
        raise OutputError(
            f"{_amount(wanted)} are needed in {folder}, and {_amount(free)} are free.",
            hint="Make room, or choose another disk with --data-root (or EOSFM_DATA).",
        )


def cannot_write(path: Path, error: OSError) -> OutputError:
    """Say that a dataset's folder cannot be written, and why."""
    return OutputError(
        f"Cannot write {path}: {error.strerror or error}.",
        hint="Check permissions and free space, or choose another place with --data-root (or "
        "EOSFM_DATA).",
    )


# ------------------------------------------------------------------------------ telling


class _Meter:
    """Tells how many megabytes are done, how fast they come, and when that will be all."""

    def __init__(self, step: Step, size: int, whole: int | None) -> None:
        self._step, self._whole = step, whole
        self._told, self._first, self._began = 0, size, time.monotonic()
        self.at(size)

    def at(self, size: int) -> None:
        """Tell that so many bytes are there."""
        megabytes = size // _MEGABYTE
        if megabytes != self._told:
            self._step.advance(megabytes - self._told, note=self._pace(size))
            self._told = megabytes

    def _pace(self, size: int) -> str:
        seconds = time.monotonic() - self._began
        if seconds < 1 or size <= self._first:
            return ""
        rate = (size - self._first) / seconds
        left = f", {_time((self._whole - size) / rate)} left" if self._whole else ""
        return f"{rate / _MEGABYTE:.1f} MB/s{left}"


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _megabytes(size: int | None) -> int:
    return max(1, (size or 0) // _MEGABYTE)


def _amount(size: int) -> str:
    for unit, power in (("GB", 9), ("MB", 6)):
        if size >= 10**power:
            return f"{size / 10**power:.3g} {unit}"
    return f"{size / 1000:.3g} kB"
