"""Where the user's features are, without anything heavy."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from eosfm_cli.results import Finding
from eosfm_cli.words import amount


def user_folder() -> Path:
    """Where the user's features are: where `EOSFM_FEATURES` says, else in the cache folder."""
    if chosen := os.environ.get("EOSFM_FEATURES"):
        return Path(chosen).expanduser()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "eosfm" / "features"


def entries(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """Time of last use, bytes and place of every entry."""
    for place in folder.glob("??/*"):
        with suppress(OSError):  # other processes tidy up too
            facts = place / "entry.json"
            used = (facts if facts.exists() else place).stat().st_mtime
            yield used, sum(path.stat().st_size for path in place.iterdir()), place


def free_bytes(folder: Path) -> int:
    """What is free on the disk of a folder, which need not be there yet."""
    return shutil.disk_usage(next(p for p in (folder, *folder.parents) if p.exists())).free


def stored() -> Iterator[Finding]:
    """How much the stored features take."""
    folder = user_folder()
    sizes = [size for _, size, _ in entries(folder)]
    text = f"{amount(sum(sizes))} in {folder}" if sizes else f"none stored yet in {folder}"
    yield Finding("ok", text)
