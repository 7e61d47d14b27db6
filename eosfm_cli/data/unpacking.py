"""Unpacking archives: into a folder of their own first, and never over files that are there."""

from __future__ import annotations

import filecmp
import io
import lzma
import re
import secrets
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

from eosfm_cli.data.download import cannot_write, check_space
from eosfm_cli.data.servers import BLOCK
from eosfm_cli.errors import DataError
from eosfm_cli.progress import Progress, Step

_ARCHIVE = re.compile(r"\.(zip|tar|tgz|tar\.(gz|bz2|xz))(\.?[a-z]{2}|\.\d{3})?$", re.IGNORECASE)
"""What names of archives end in; behind it, what numbers their parts."""
_MEGABYTE = 1_000_000
_DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,
)


def is_archive(name: str) -> bool:
    """Whether a file, or a part of it, is one to unpack, by its name."""
    return _ARCHIVE.search(name) is not None


@dataclass(frozen=True)
class Unpacked:
    """What came of an archive."""

    holds: tuple[str, ...]
    """What it has at its top."""
    kept: tuple[str, ...]
    """Files that were there already, with other contents, and stayed as they were."""


def unpack(parts: Sequence[Path], into: Path, progress: Progress) -> Unpacked:
    """Unpack an archive, or one that is cut into parts, into a folder.

    Args:
        parts: The archive's files, in order.
        into: The folder; what is there stays as it is.
        progress: Who is told.

    Raises:
        DataError: It is damaged, no archive, or would write outside the folder; nothing of it is
            there then.
        OutputError: The folder cannot be written, or the disk is too full.
    """
    beside = into / f".unpacking-{secrets.token_hex(8)}"
    try:
        into.mkdir(parents=True, exist_ok=True)
        for left in into.glob(".unpacking-*"):
            shutil.rmtree(left)
        beside.mkdir()
        _unpack_all(parts, beside, progress)
        holds = tuple(sorted(path.name for path in beside.iterdir()))
        return Unpacked(holds, tuple(_move_in(beside, into, into)))
    except OSError as error:
        raise cannot_write(into, error) from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _unpack_all(parts: Sequence[Path], into: Path, progress: Progress) -> None:
    name, size = parts[0].name, sum(part.stat().st_size for part in parts)
    title = f"unpacking {name}, MB"
    with ExitStack() as stack:
        archive = stack.enter_context(io.BufferedReader(_Joined(parts, stack), BLOCK))
        step = stack.enter_context(progress.step(title, max(1, size // _MEGABYTE)))
        try:
            if _is_zip(archive):
                _unpack_zip(archive, into, step, name)
            else:
                check_space(into, size)
                _unpack_tar(archive, into, step, name)
        except _DAMAGE as error:
            raise _no_archive(parts[0], error) from None


def _is_zip(archive: IO[bytes]) -> bool:
    """Whether it is a zip: a tar whose last file is one ends like a zip itself."""
    try:
        return not tarfile.is_tarfile(archive) and zipfile.is_zipfile(archive)
    finally:
        archive.seek(0)


class _Joined(io.RawIOBase):
    """Several files read as one."""

    def __init__(self, parts: Sequence[Path], stack: ExitStack) -> None:
        self._files = [stack.enter_context(part.open("rb", buffering=0)) for part in parts]
        sizes = [part.stat().st_size for part in parts]
        self._ends = [sum(sizes[: index + 1]) for index in range(len(sizes))]
        self._position = 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Where it is read next."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to another place."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._ends[-1]}
        self._position = max(0, start[whence] + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - bytearray or memoryview
        """Read up to the end of a part."""
        for file, end in zip(self._files, self._ends, strict=True):
            if self._position < end:
                file.seek(self._position - end, io.SEEK_END)
                count = file.readinto(memoryview(buffer)[: end - self._position])
                self._position += count
                return count
        return 0


# ------------------------------------------------------------------------------ kinds


@dataclass
class _Done:
    """Tells how much of an archive has been read."""

    step: Step
    told: int = field(default=0)

    def at(self, position: int) -> None:
        megabytes = position // _MEGABYTE
        self.step.advance(megabytes - self.told)
        self.told = megabytes


def _unpack_zip(archive: IO[bytes], into: Path, step: Step, name: str) -> None:
    with zipfile.ZipFile(archive) as packed:
        entries = packed.infolist()
        for entry in entries:
            _refuse_odd(entry, name)
        check_space(into, sum(entry.file_size for entry in entries))
        done, read = _Done(step), 0
        for entry in entries:
            packed.extract(entry, into)
            read += entry.compress_size
            done.at(read)


def _refuse_odd(entry: zipfile.ZipInfo, archive: str) -> None:
    path = PurePosixPath(entry.filename.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or re.match(r"[A-Za-z]:", entry.filename):
        raise _hostile(archive, entry.filename, "would be written outside the dataset's folder")
    if stat.S_ISLNK(entry.external_attr >> 16):
        raise _hostile(archive, entry.filename, "is a link")
    if entry.flag_bits & 1:
        raise DataError(
            f"{archive} wants a password.",
            hint="Unpack it by hand, as the dataset's homepage says.",
        )


def _unpack_tar(archive: IO[bytes], into: Path, step: Step, name: str) -> None:
    done = _Done(step)
    with tarfile.open(fileobj=archive, mode="r|*") as packed:
        while (entry := packed.next()) is not None:
            try:
                packed.extract(entry, into, filter="data")
            except tarfile.FilterError as error:
                raise _hostile(name, entry.name, f"was refused ({error})") from None
            packed.members.clear()  # of millions of files, they fill the memory
            done.at(archive.tell())


def _hostile(archive: str, entry: str, why: str) -> DataError:
    return DataError(
        f"{archive} was not unpacked: {entry!r} in it {why}.",
        hint="Datasets have no such files: look at the archive before you do anything with it.",
    )


def _no_archive(path: Path, error: Exception) -> DataError:
    with path.open("rb") as file:
        start = file.read(200).lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return DataError(
            f"{path} is a web page, not an archive.",
            hint="The server may want a login. Delete it, and fetch the file by hand.",
        )
    return DataError(
        f"{path} cannot be unpacked ({error or type(error).__name__}).",
        hint="It may be damaged, or of a kind that eosfm does not know: try another program on it, "
        "or delete it, and run the same command again.",
    )


# ------------------------------------------------------------------------------ moving in


def _move_in(source: Path, into: Path, root: Path) -> Iterator[str]:
    """Move what is in a folder into another; what is there stays, and is named if it differs."""
    for path in sorted(source.iterdir()):
        target = into / path.name
        if not target.exists() and not target.is_symlink():
            shutil.move(path, target)  # folders may be links to another disk
        elif path.is_dir() and target.is_dir():
            yield from _move_in(path, target, root)
        elif path.is_dir() or not _same(path, target):
            yield str(target.relative_to(root))


def _same(path: Path, target: Path) -> bool:
    return target.is_file() and filecmp.cmp(path, target, shallow=False)
