"""What many rasters say about themselves, remembered from one run to the next.

Opening half a million files takes minutes even where each takes a millisecond. What was found is
kept in the user's cache folder and holds as long as a file's size and time of change do.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path

from eosfm_cli.data.reader import Header, plain_images_allowed, read_header, reading
from eosfm_cli.errors import EosfmError
from eosfm_cli.progress import Progress
from eosfm_cli.run_dir import write_text

WORTH_KEEPING = 2000
"""From so many files on, headers are kept: fewer are opened in a few seconds."""
_READERS = 8
"""Threads that open files: on network file systems opening is all waiting."""
_BATCH = 64
"""Files that a thread takes at a time."""


@dataclass(frozen=True)
class _Known:
    """A header, and what the file looked like when it was read."""

    size: int
    changed_ns: int
    header: Header


def read_headers(
    paths: Sequence[Path], root: Path, progress: Progress, *, keep_from: int = WORTH_KEEPING
) -> dict[Path, Header]:
    """Say of every raster what it is; files that changed since the last time are opened.

    Args:
        paths: Rasters below `root`.
        root: The dataset's folder.
        progress: Told how far the check is.
        keep_from: From so many files on, what was found is kept for the next time.

    Raises:
        DataError: A file cannot be opened.
    """
    keeps = len(paths) >= keep_from
    kept = _read_kept(root) if keeps else {}
    batches = [paths[start : start + _BATCH] for start in range(0, len(paths), _BATCH)]
    found: dict[Path, _Known] = {}
    with (
        plain_images_allowed(),
        ThreadPoolExecutor(_READERS) as pool,
        progress.step("Checking files", len(paths)) as step,
    ):
        for batch in pool.map(partial(_look_at, kept=kept), batches):
            found |= batch
            step.advance(len(batch))
    if keeps and any(kept.get(path) is not known for path, known in found.items()):
        with suppress(EosfmError):  # without it the next time takes longer, no more
            _keep(root, kept | found)
    return {path: known.header for path, known in found.items()}


def _look_at(paths: Sequence[Path], kept: Mapping[Path, _Known]) -> dict[Path, _Known]:
    with reading():
        return {path: _known(path, kept.get(path)) for path in paths}


def _known(path: Path, before: _Known | None) -> _Known:
    try:
        status = path.stat()
    except OSError:
        return _Known(-1, -1, read_header(path))  # which says what is wrong
    if before and (before.size, before.changed_ns) == (status.st_size, status.st_mtime_ns):
        return before
    return _Known(status.st_size, status.st_mtime_ns, read_header(path))


# --------------------------------------------------------------------------- the cache


def _place(root: Path) -> Path:
    """The file in the user's cache folder that belongs to a dataset."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = hashlib.sha256(str(root.absolute()).encode()).hexdigest()[:24]
    return cache / "eosfm" / "headers" / f"{name}.json"


def _read_kept(root: Path) -> dict[Path, _Known]:
    """What was kept of a dataset; nothing where there is no such file or it is damaged."""
    try:
        raw = json.loads(_place(root).read_text(encoding="utf-8"))
        headers = [
            Header(count, height, width, tuple(dtypes), tuple(nodata), dates)
            for count, height, width, dtypes, nodata, dates in raw["headers"]
        ]
        return {
            root / folder / name: _Known(size, changed_ns, headers[number])
            for folder, files in raw["folders"].items()
            for name, (size, changed_ns, number) in files.items()
        }
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}


def _keep(root: Path, known: Mapping[Path, _Known]) -> None:
    """Write headers; most files of a dataset share a few."""
    headers: dict[str, Header] = {}
    numbers: dict[str, int] = {}
    folders: dict[str, dict[str, tuple[int, int, int]]] = defaultdict(dict)
    for path, one in known.items():
        text = repr(one.header)  # equal for equal headers, also where nodata is NaN
        headers.setdefault(text, one.header)
        number = numbers.setdefault(text, len(numbers))
        folder = path.parent.relative_to(root).as_posix()
        folders[folder][path.name] = (one.size, one.changed_ns, number)
    write_text(
        _place(root),
        json.dumps(
            {"headers": [astuple(header) for header in headers.values()], "folders": folders}
        ),
    )
