"""Archives that stand where their contents should: a download that was not unpacked."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from eosfm_cli.data.splits import few

_ARCHIVE = re.compile(
    r"(.+?)\.(zip|tar|tgz|7z|rar|tar\.(gz|bz2|xz|zst))([a-z]{2}|\.\d{3}|\.part\d+)?",
    re.IGNORECASE,
)
"""A name without and with its ending; downloads in parts have something behind that."""


def unpack_advice(folder: Path, wanted: Iterable[str]) -> str | None:
    """Say which archives in a folder to unpack, if there are any.

    Args:
        folder: Where the archives may be.
        wanted: Paths that are missing below it; archives named like their first folders are meant,
            or else all archives without a folder of their name.
    """
    names = packed(folder, wanted)
    if not names:
        return None
    there = f"{few(names)} {'is' if len(names) == 1 else 'are'} there"
    return f"{there}, perhaps not unpacked: unpack into {folder}"


def absent_advice(path: Path, root: Path) -> str | None:
    """Say which archives may hold a file that is not there, if there are any."""
    if path.exists():
        return None
    return unpack_advice(root, [path.relative_to(root).as_posix()])


def packed(folder: Path, wanted: Iterable[str], *, others: bool = True) -> list[str]:
    """Names of the archives in a folder that may hold what is wanted.

    Args:
        folder: Where they may be.
        wanted: Paths that are missing.
        others: Where none is named like those paths, take all that have no folder of their name.
    """
    if not os.path.isdir(folder) or not os.access(folder, os.R_OK | os.X_OK):
        return []
    there = sorted(p.name for p in folder.iterdir() if _ARCHIVE.fullmatch(p.name))
    starts = {PurePosixPath(path).parts[0].lower() for path in wanted if "/" in path}
    for meant in (
        [name for name in there if _stem(name) in starts],
        [name for name in there if any(_stem(name).startswith(start) for start in starts)],
    ):
        if meant:
            return meant
    return [name for name in there if others and not (folder / name[: len(_stem(name))]).is_dir()]


def _stem(name: str) -> str:
    return _ARCHIVE.fullmatch(name)[1].lower()
