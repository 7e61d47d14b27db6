"""Features on disk: shards of rows under a key, safe under concurrent runs and crashes.

An entry is a folder that holds what one view of a specialist makes of the tiles of a split. Its
shards appear under their names only when complete, with a checksum in the name; so what a run that
was killed has finished is there for the next one. Locks keep two runs from computing the same, and
entries that are in use from being deleted; where a file system knows no locks, work may be done
twice, and a fit whose features another run deletes ends with a message.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import time
import weakref
import zlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from eosfm_cli.errors import DataError, OutputError
from eosfm_cli.run_dir import write_text
from eosfm_cli.training.feature_folder import entries as all_entries
from eosfm_cli.training.feature_folder import free_bytes
from eosfm_cli.training.stored_features import Layout
from eosfm_cli.words import amount

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_POLL_S = 0.2
_CHUNK = 2**22
_SHARD = re.compile(r"shard-(\d{5})\.([0-9a-f]{8})\.npy")
_RESERVE = 10**9
"""What stays free on the disk."""
_SMALL = 2**25
"""Bytes up to which an entry stays in memory once it was read."""


class StoreError(Exception):
    """Features cannot be stored, or are not there any more; the text says why."""


@dataclass(frozen=True)
class Facts:
    """What an entry says about itself."""

    layout: Layout
    tiles: int
    per_shard: int
    about: str
    """Whose features of what, for who looks into the folder."""

    @property
    def shard_count(self) -> int:
        """How many shards a complete entry has."""
        return -(-self.tiles // self.per_shard)

    def rows_in(self, shard: int) -> int:
        """Tiles in a shard."""
        return min(self.per_shard, self.tiles - shard * self.per_shard)

    @property
    def bytes(self) -> int:
        """Of a complete entry."""
        return 2 * self.tiles * self.layout.values

    @classmethod
    def read(cls, path: Path) -> Facts:
        """Read what `write` wrote.

        Raises:
            OSError: There is no such file.
            ValueError, TypeError, KeyError: It is something else.
        """
        raw = json.loads(path.read_text(encoding="utf-8"))
        levels = [(int(c), int(h), int(w)) for c, h, w in raw["levels"]]
        mean, std = (np.array(raw[key], np.float32) for key in ("mean", "std"))
        layout = Layout(levels, int(raw["dates"]), mean, std, raw["pixels"])
        return cls(layout, int(raw["tiles"]), int(raw["per_shard"]), str(raw["about"]))

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        layout = self.layout
        statistics = {"mean": layout.mean.tolist(), "std": layout.std.tolist()}
        counts = {"tiles": self.tiles, "per_shard": self.per_shard, "dates": layout.dates}
        shapes = {"levels": layout.levels, "pixels": layout.pixels}
        raw = {"about": self.about, **counts, **shapes, **statistics}
        write_text(path, json.dumps(raw) + "\n")


class Entry:
    """The features of a split's tiles, on disk.

    Args:
        folder: Its own.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = folder.name
        self._facts: Facts | None = None
        self._paths: dict[int, Path] = {}
        self._checked: set[Path] = set()
        self._lock: IO[bytes] | None = None
        self._whole: np.ndarray | None = None

    def __getstate__(self) -> dict[str, object]:
        """Travel to a worker without the lock, which its process holds for it."""
        return {**self.__dict__, "_lock": None}

    # -------------------------------------------------------------------- what is there

    @property
    def facts(self) -> Facts | None:
        """What it says about itself; `None` where it was not begun or cannot be understood."""
        if self._facts is None:
            with suppress(OSError, ValueError, TypeError, KeyError):
                self._facts = Facts.read(self.folder / "entry.json")
        return self._facts

    @property
    def layout(self) -> Layout:
        """How its rows are written."""
        return self._begun.layout

    @property
    def _begun(self) -> Facts:
        if self.facts is None:
            raise _gone(self.folder)
        return self.facts

    def exists(self) -> bool:
        """Whether it was begun, and nobody has deleted it since."""
        if not (self.folder / "entry.json").is_file():
            self._facts = None
        if not self.folder.is_dir():
            self._lock = None
        return self.facts is not None

    def missing(self, *, check: bool = True) -> list[int]:
        """The shards that are not there, or damaged: these are deleted. None before it is begun.

        Args:
            check: Whether to compare checksums of shards that this process has not looked at yet.

        Raises:
            StoreError: They cannot be looked at.
        """
        if self.facts is None:
            return []
        with _storing(self.folder):
            self._paths = {
                number: path
                for number, path in self._found().items()
                if self._is_whole(number, path, check=check)
            }
        return [n for n in range(self.facts.shard_count) if n not in self._paths]

    def _found(self) -> dict[int, Path]:
        matches = ((_SHARD.fullmatch(path.name), path) for path in sorted(self.folder.iterdir()))
        return {int(match[1]): path for match, path in matches if match}

    def _is_whole(self, number: int, path: Path, *, check: bool) -> bool:
        rows = self._begun.rows_in(number)
        header = _header(rows, self.layout.values)
        whole = rows > 0 and path.stat().st_size == len(header) + 2 * rows * self.layout.values
        if whole and check and path not in self._checked:
            whole = _checksum(path, len(header)) == _SHARD.fullmatch(path.name)[2]
            self._checked.add(path)
        if not whole:
            self._checked.discard(path)
            path.unlink(missing_ok=True)
        return whole

    def read(self, tiles: Sequence[int]) -> np.ndarray:
        """Rows `(tiles, values)` float16.

        Raises:
            DataError: They are not there any more.
        """
        if self._begun.bytes > _SMALL:
            return self._read(tiles)
        if self._whole is None:
            self._whole = self._read(range(self._begun.tiles))
        return self._whole[list(tiles)]

    def _read(self, tiles: Sequence[int]) -> np.ndarray:
        facts = self._begun
        rows = np.empty((len(tiles), facts.layout.values), np.float16)
        wanted: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for row, tile in enumerate(tiles):
            shard, place = divmod(tile, facts.per_shard)
            wanted[shard].append((place, row))
        try:
            for shard, places in wanted.items():
                self._read_from(shard, sorted(places), rows)
        except (OSError, KeyError):
            raise _gone(self.folder) from None
        return rows

    def _read_from(self, shard: int, places: Sequence[tuple[int, int]], rows: np.ndarray) -> None:
        """Read tiles of a shard, each into its row.

        By reading, not by mapping: each row is read once a batch, into place and without a fault
        for every page of it, and no file stays open.
        """
        values = rows.shape[1]
        start = len(_header(self._begun.rows_in(shard), values))
        with self._paths[shard].open("rb", buffering=0) as file:
            for place, row in places:
                file.seek(start + 2 * values * place)
                if file.readinto(memoryview(rows[row]).cast("B")) != 2 * values:
                    raise _gone(self._paths[shard])

    # -------------------------------------------------------------------- writing

    def begin(self, facts: Facts) -> None:
        """Start it, or start again what was damaged.

        Raises:
            StoreError: It cannot be written.
        """
        with _storing(self.folder):
            for path in self.folder.glob("shard-*"):
                path.unlink(missing_ok=True)
            facts.write(self.folder / "entry.json")
        self._facts = None

    def clean(self) -> None:
        """Delete what a run that was killed has left unfinished; only while `writing`."""
        for path in self.folder.glob(".shard-*"):
            path.unlink(missing_ok=True)

    @contextmanager
    def shard(self, number: int) -> Iterator[Callable[[np.ndarray], None]]:
        """Write a shard: call what it gives with rows, all of them in order.

        Raises:
            StoreError: It cannot be written.
        """
        facts = self._begun
        temporary = self.folder / f".shard-{number:05d}.{os.getpid()}"
        checksum = 0

        def add(rows: np.ndarray) -> None:
            nonlocal checksum
            written = memoryview(np.ascontiguousarray(rows, np.float16)).cast("B")
            checksum = zlib.crc32(written, checksum)
            file.write(written)

        try:
            with _storing(self.folder):
                with temporary.open("wb") as file:
                    file.write(_header(facts.rows_in(number), facts.layout.values))
                    yield add
                path = self.folder / f"shard-{number:05d}.{checksum:08x}.npy"
                temporary.replace(path)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        self._checked.add(path)
        self._paths[number] = path

    # -------------------------------------------------------------------- locks

    def use(self) -> None:
        """Make the folder if need be, and keep it from being deleted while this process lives.

        Raises:
            StoreError: It cannot be made.
        """
        with _storing(self.folder):
            while self._lock is None:
                self._take_lock()
        with suppress(OSError):
            os.utime(self.folder / "entry.json")

    def close(self) -> None:
        """Let it be deleted from now on."""
        if self._lock is not None:
            self._lock.close()
        self._lock = self._whole = None

    def _take_lock(self) -> None:
        """Lock it, if it was not deleted by another process meanwhile."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with suppress(FileNotFoundError):
            lock = (self.folder / "in-use").open("ab")
            weakref.finalize(self, lock.close)
            _flock(lock, "LOCK_SH")
            if _is_still(lock, self.folder / "in-use"):
                self._lock, self._facts = lock, None

    @contextmanager
    def writing(self, waiting: Callable[[], None]) -> Iterator[None]:
        """Be the only run that writes here.

        Args:
            waiting: Called once if another run does so: this one waits for it.

        Raises:
            StoreError: It cannot be written.
        """
        with _storing(self.folder):
            file = (self.folder / "writing").open("ab")
        with file as lock:
            if not _flock(lock, "LOCK_EX", wait=False):
                waiting()
                while not _flock(lock, "LOCK_EX", wait=False):
                    time.sleep(_POLL_S)
            self.clean()
            yield

    def delete(self) -> bool:
        """Delete it, unless a process uses it; whether it has gone."""
        try:
            with (self.folder / "in-use").open("ab") as lock:
                if not _flock(lock, "LOCK_EX", wait=False):
                    return False
                trash = self.folder.with_name(f".{self.folder.name}.{os.getpid()}")
                self.folder.rename(trash)
                shutil.rmtree(trash, ignore_errors=True)
        except OSError:
            return not self.folder.exists()
        return True


def make_room(folder: Path, wanted: int, most: int, keep: Collection[Path]) -> str | None:
    """Delete the entries that were used longest ago, until there is room for more.

    Args:
        folder: Of all entries.
        wanted: Bytes that will be written.
        most: Bytes that all entries together may have.
        keep: Entries that stay.

    Returns:
        Why there is no room, if there is none.
    """
    entries = sorted(all_entries(folder))
    total = sum(size for _, size, _ in entries)
    others = [(size, place) for _, size, place in entries if place not in keep]
    gain = sum(size for size, _ in others)
    if problem := _lack(folder, total + wanted, wanted, most, gain):
        return problem  # nothing is deleted where that does not help
    for size, place in others:
        if _lack(folder, total + wanted, wanted, most) is None:
            break
        total -= size if Entry(place).delete() else 0
    return _lack(folder, total + wanted, wanted, most)


def _lack(folder: Path, total: int, wanted: int, most: int, gain: int = 0) -> str | None:
    """Why there is no room, if there is none once so many bytes more are free."""
    if total - gain > most:
        return f"they would take {amount(total - gain)} of --cache-size {amount(most)}"
    if free_bytes(folder) + gain < wanted + _RESERVE:
        return f"{amount(wanted)} do not fit on the disk of {folder}"
    return None


def _header(rows: int, values: int) -> bytes:
    """What stands before the numbers in a file of NumPy's."""
    buffer = io.BytesIO()
    shape = {"descr": "<f2", "fortran_order": False, "shape": (rows, values)}
    np.lib.format.write_array_header_1_0(buffer, shape)
    return buffer.getvalue()


def _checksum(path: Path, start: int) -> str:
    checksum = 0
    with path.open("rb") as file:
        file.seek(start)
        while part := file.read(_CHUNK):
            checksum = zlib.crc32(part, checksum)
    return f"{checksum:08x}"


def _flock(file: IO[bytes], kind: str, *, wait: bool = True) -> bool:
    """Lock a file, where the system can; whether nobody else has locked it."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, getattr(fcntl, kind) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:  # no locks on this file system
        return True
    return True


def _is_still(file: IO[bytes], path: Path) -> bool:
    """Whether an open file is the one of that name."""
    with suppress(OSError):
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    return False


@contextmanager
def _storing(folder: Path) -> Iterator[None]:
    """Say in one way that something cannot be written."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"{folder} cannot be written: {error.strerror or error}") from None
    except OutputError as error:
        raise StoreError(error.message) from None


def _gone(place: Path) -> DataError:
    return DataError(
        f"The stored features in {place} cannot be read any more.",
        hint="Something else deleted or changed them. Run it again, or with --cache off.",
    )
