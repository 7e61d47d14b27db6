"""What was found in the files of samples, remembered from one run to the next.

Looking into every file of a dataset takes minutes. What was found is kept in the user's cache
folder and holds as long as the files' sizes and times of change do.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from eosfm_cli import __version__
from eosfm_cli.data.reader import plain_images_allowed
from eosfm_cli.data.stamps import Stamps
from eosfm_cli.errors import EosfmError
from eosfm_cli.progress import Progress
from eosfm_cli.run_dir import write_text

WORTH_KEEPING = 500
"""From so many samples on, what was found is kept: fewer are looked at in a few seconds."""
_READERS = 4
"""Threads that look into files, each with a reader of its own."""
_BATCH = 64
"""Samples that a thread takes at a time."""

Written = list[list[int]]
"""Size and time of change of each file."""


def find_in_samples(
    files: Mapping[str, Sequence[Path]],
    finder: Callable[[], Callable[[str], Any]],
    *,
    setting: tuple[object, ...],
    title: str,
    progress: Progress,
    keep_from: int = WORTH_KEEPING,
) -> dict[str, Any]:
    """Look into the files of samples that have changed since the last time, or are new.

    Args:
        files: A sample's name -> the files that matter.
        finder: Makes what finds, by a sample's name, something that JSON can write. Each thread
            makes one for every batch of samples.
        setting: What else the findings depend on: where they are kept follows from it.
        title: What the user is told is going on.
        progress: Told how far it is.
        keep_from: From so many samples on, what was found is kept for the next time.

    Raises:
        DataError: A file cannot be read.
    """
    keeps = len(files) >= keep_from
    place = _place(setting)
    kept = _read(place) if keeps else {}
    stamps = _stamps(files) if keeps else {}
    found = {name: kept[name][1] for name in kept if kept[name][0] == stamps.get(name)}
    names = [name for name in files if name not in found]
    if not names:
        return found
    batches = [names[start : start + _BATCH] for start in range(0, len(names), _BATCH)]

    def look(batch: list[str]) -> dict[str, Any]:
        find = finder()
        return {name: find(name) for name in batch}

    with (
        plain_images_allowed(),
        ThreadPoolExecutor(_READERS) as pool,
        progress.step(title, len(names)) as step,
    ):
        for looked in pool.map(look, batches):
            found |= looked
            step.advance(len(looked))
    if keeps:
        with suppress(EosfmError):  # without it the next time takes longer, no more
            write_text(place, json.dumps({name: [stamps[name], found[name]] for name in files}))
    return found


def _stamps(files: Mapping[str, Sequence[Path]]) -> dict[str, Written]:
    """Of each sample the stamps of its files, as JSON gives them back."""
    stamps = Stamps()
    return {
        name: [[size, changed_ns] for path in paths for _, size, changed_ns in stamps.of(path)]
        for name, paths in files.items()
    }


def _place(setting: tuple[object, ...]) -> Path:
    """The file in the user's cache folder that belongs to a dataset and a setting.

    Another version of eosfm may find something else in the same files.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = hashlib.sha256(repr((__version__, *setting)).encode()).hexdigest()[:24]
    return cache / "eosfm" / "findings" / f"{name}.json"


def _read(place: Path) -> dict[str, tuple[Written, Any]]:
    """What was kept; nothing where there is no such file or it is damaged."""
    try:
        raw = json.loads(place.read_text(encoding="utf-8"))
        return {name: (stamp, value) for name, (stamp, value) in raw.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
