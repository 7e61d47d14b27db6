"""Files that stay open from one window to the next: few, and never those of another process."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any, Generic, Protocol, TypeVar
from weakref import WeakSet

MOST_BYTES = 64 * 2**20
"""What the open files of a process may hold in memory, beside GDAL's cache of blocks."""
_MOST_FILES = 256
_SHARE = 8
"""One in so many of the files that a process may have open: tensors on their way between processes
take some too, and so does whoever else is at work in this process."""

Stamp = tuple[int, int, int, int] | None
"""Which file it is, its size and time of change; nothing where there is no file."""


class OpenFile(Protocol):
    """A file that is open."""

    held_bytes: int
    """About what it keeps in memory."""

    def close(self) -> None:
        """Let go of it."""


_File = TypeVar("_File", bound=OpenFile)


def most_files() -> int:
    """How many files all readers of a process may keep open together."""
    try:
        import resource
    except ImportError:  # not on Windows
        return _MOST_FILES
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed == resource.RLIM_INFINITY:
        return _MOST_FILES
    return max(1, min(_MOST_FILES, allowed // _SHARE))


class OpenFiles(Generic[_File]):
    """The files that one reader has open, the least recently used of them closed first.

    One file at least stays open. Beyond it, the number of files and the memory that they hold are
    bounded for all readers of a process together. A file that has changed on disk is opened again,
    and one that has vanished is missed. What was opened before a fork is left alone: both processes
    would move the same position in the file.

    Args:
        opened: Opens a file.
        capacity: How many files this reader keeps open; as many as the process may if not given.
    """

    def __init__(self, opened: Callable[[Path], _File], capacity: int | None = None) -> None:
        self._opened = opened
        self._capacity = capacity
        self._forget()

    def __getstate__(self) -> dict[str, Any]:
        """Travel to another process without open files."""
        return {"_opened": self._opened, "_capacity": self._capacity}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Arrive without open files."""
        self.__dict__ |= state
        self._forget()

    def _forget(self) -> None:
        self._process = os.getpid()
        self._most = min(self._capacity or _MOST_FILES, most_files())
        self._files: OrderedDict[Path, tuple[Stamp, _File]] = OrderedDict()
        self._bytes = 0
        with _lock:
            _readers.add(self)

    def __getitem__(self, path: Path) -> _File:
        """The open file of a path.

        Raises:
            OSError: Or whatever else opening it raises.
        """
        if self._process != os.getpid():
            _of_parents.append(self._files)
            self._forget()
        stamp = _stamp(path)
        if path in self._files:
            before, file = self._files[path]
            if before == stamp:
                self._files.move_to_end(path)
                return file
            self._close(path)
        file = self._opened(path)
        self._files[path] = stamp, file
        self._bytes += file.held_bytes
        while len(self._files) > 1 and self._is_full():
            self._close(next(iter(self._files)))
        return file

    def _close(self, path: Path) -> None:
        _, file = self._files.pop(path)
        self._bytes -= file.held_bytes
        file.close()

    def _is_full(self) -> bool:
        if len(self._files) > self._most:
            return True
        with _lock:
            here = [one for one in _readers if one._process == self._process]
        if sum(len(one._files) for one in here) > most_files():
            return True
        return sum(one._bytes for one in here) > MOST_BYTES


def _stamp(path: Path) -> Stamp:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None  # whoever opens it says what is wrong
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


_readers: WeakSet[OpenFiles[Any]] = WeakSet()
_lock = Lock()
_of_parents: list[object] = []
"""Files that a parent process opened: kept from being closed by a child that has no use for them,
as the parent may have been in the midst of something."""
