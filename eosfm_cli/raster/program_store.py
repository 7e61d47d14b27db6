"""Where programs are kept: a folder of the user's cache that nobody else can write.

Reading a program can run code that is in it. So only files are read that this user wrote and that
no other user can have changed, and never one that lies beside a model.
"""

from __future__ import annotations

import os
import stat
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from eosfm_cli.errors import OutputError, unwritable
from eosfm_cli.run_dir import replacing, write_text

_OFF = "off"
_MOST = 20
_MOST_BYTES = 2_000_000_000
_STALE_S = 86_400
"""After this long nobody is still writing a file under its temporary name."""
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH


class UntrustedError(Exception):
    """Something that this user did not write, or that others can write; its text says which."""


class DamagedError(Exception):
    """A program that is not whole."""


@dataclass(frozen=True)
class ProgramStore:
    """The programs in a folder, each under a key, and why some could not be made."""

    folder: Path

    @classmethod
    def of_user(cls) -> ProgramStore | None:
        """The user's own; `None` if the user keeps none, by `EOSFM_PROGRAMS=off`."""
        if os.environ.get("EOSFM_PROGRAMS", "").lower() == _OFF:
            return None
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return cls(cache / "eosfm" / "programs")

    def open(self, key: str) -> BinaryIO | None:
        """The program of a key, checked to be this user's and whole; `None` if there is none.

        Raises:
            UntrustedError: Somebody else may have written it.
            DamagedError: It is not as it was written.
        """
        try:
            _check_owner(self.folder, os.lstat(self.folder))
            descriptor = os.open(self._program(key), os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return None
        except OSError as error:
            raise DamagedError(error.strerror) from None
        file = os.fdopen(descriptor, "rb")
        try:
            _check_owner(self._program(key), os.fstat(descriptor))
            _check_whole(file)
        except Exception:
            file.close()
            raise
        return file

    def prepare(self) -> None:
        """Make the folder, if it is not there, so that only this user can write it.

        Raises:
            OutputError: It cannot be made or written, or is not this user's.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            _check_owner(self.folder, os.lstat(self.folder), writers=False)
            self.folder.chmod(0o700)
            if not os.access(self.folder, os.W_OK | os.X_OK):
                raise PermissionError(13, "Permission denied")
        except UntrustedError as error:
            raise OutputError(f"{error}.") from None
        except OSError as error:
            raise unwritable(self.folder, error) from None

    def write(self, key: str, make: Callable[[Path], None]) -> None:
        """Keep a program, and let the oldest go where there are too many.

        Args:
            key: Its key.
            make: Writes it to a path; what it raises leaves the store as it was.

        Raises:
            OutputError: It cannot be written.
        """
        with replacing(self._program(key)) as temporary:
            temporary.chmod(0o600)
            make(temporary)
            try:
                _check_owner(temporary, os.lstat(temporary))
            except UntrustedError as error:  # some network drives give files to somebody else
                raise OutputError(f"{error}.") from None
        self._reason(key).unlink(missing_ok=True)
        self._trim()

    def note_failure(self, key: str, reason: str) -> None:
        """Remember why there can be no program of a key, so that nobody tries in vain again.

        Raises:
            OutputError: It cannot be written.
        """
        write_text(self._reason(key), reason)
        self._reason(key).chmod(0o600)
        self._trim()

    def failure(self, key: str) -> str | None:
        """Why there can be no program of a key; `None` if nobody has tried, or it went well."""
        try:
            return self._reason(key).read_text(encoding="utf-8")
        except (OSError, ValueError):
            return None

    def used(self, key: str) -> None:
        """Note that a program is in use: those that are go last."""
        try:
            os.utime(self._program(key))
        except OSError:
            return  # a cache that can only be read serves as well

    def _program(self, key: str) -> Path:
        return self.folder / f"{key}.pt2"

    def _reason(self, key: str) -> Path:
        return self.folder / f"{key}.txt"

    def _trim(self) -> None:
        """Keep the newest, up to a number and a size, and what is being written now."""
        total = number = 0
        for modified, size, path in _newest_first(self.folder):
            if path.name.startswith("."):
                too_old = modified < time.time() - _STALE_S
            else:
                total, number = total + size, number + 1
                too_old = number > _MOST or (number > 1 and total > _MOST_BYTES)
            if too_old:
                with suppress(OSError):  # another process tidies up too
                    path.unlink()


def _newest_first(folder: Path) -> list[tuple[float, int, Path]]:
    found = []
    for path in folder.iterdir():
        try:
            status = path.lstat()
        except FileNotFoundError:  # another process tidies up too
            continue
        found.append((status.st_mtime, status.st_size, path))
    return sorted(found, reverse=True)


def _check_owner(path: Path, status: os.stat_result, *, writers: bool = True) -> None:
    """Refuse what is not this user's, or what others may have written.

    Raises:
        UntrustedError: It is so.
    """
    if not hasattr(os, "geteuid"):
        return  # Windows: the cache lies in the user's own profile
    if stat.S_ISLNK(status.st_mode):
        raise UntrustedError(f"{path} is a link")
    if status.st_uid != os.geteuid():
        raise UntrustedError(f"{path} belongs to another user")
    if writers and status.st_mode & _OTHERS_MAY_WRITE:
        raise UntrustedError(f"{path} can be written by others")


def _check_whole(file: BinaryIO) -> None:
    """Compare every part of an archive with its checksum.

    Raises:
        DamagedError: One differs, or it is no archive.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, OSError, ValueError, EOFError, RuntimeError) as error:
        raise DamagedError(str(error)) from None
    if damaged:
        raise DamagedError(f"{damaged} is damaged")
    file.seek(0)
