"""What `eosfm data download` has put into a dataset's folder: a note in the folder itself."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eosfm_cli.run_dir import write_text

NAME = ".eosfm-download.json"


@dataclass(frozen=True)
class Entry:
    """One file of `dataset.files`."""

    sums: tuple[str, ...]
    """The checksums it came with, or its addresses where none are known."""
    size: int
    """Bytes, packed."""
    holds: tuple[str, ...] | None = None
    """Of an archive: what it was unpacked to, below the root; `None` while it is not."""


@dataclass(frozen=True)
class Fetched:
    """The note: file's name below the root -> what came of it."""

    root: Path
    entries: dict[str, Entry]

    def has(self, name: str, sums: tuple[str, ...], *, archive: bool) -> bool:
        """Whether a file came, was unpacked if it is an archive, and all of that is still there."""
        entry = self.entries.get(name)
        if entry is None or entry.sums != sums or (archive and entry.holds is None):
            return False
        holds = (name,) if entry.holds is None else entry.holds
        return all((self.root / each).exists() for each in holds)

    def came(self, name: str, sums: tuple[str, ...]) -> bool:
        """Whether a file is one that was fetched, and not put there by somebody."""
        entry = self.entries.get(name)
        return entry is not None and entry.sums == sums

    def note(self, name: str, entry: Entry) -> Fetched:
        """Write down what came of a file.

        Raises:
            OutputError: The folder cannot be written.
        """
        noted = replace(self, entries={**self.entries, name: entry})
        rows = {key: _row(each) for key, each in noted.entries.items()}
        write_text(self.root / NAME, json.dumps({"files": rows}, indent=2) + "\n")
        return noted


def read_fetched(root: Path) -> Fetched:
    """Read a folder's note; an empty one where there is none that can be read."""
    try:
        rows = json.loads((root / NAME).read_text(encoding="utf-8"))["files"]
        return Fetched(root, {str(name): _entry(row) for name, row in rows.items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Fetched(root, {})


def _row(entry: Entry) -> dict[str, Any]:
    return {"sums": entry.sums, "size": entry.size, "holds": entry.holds}


def _entry(row: dict[str, Any]) -> Entry:
    holds = row["holds"]
    return Entry(
        tuple(map(str, row["sums"])),
        int(row["size"]),
        None if holds is None else tuple(map(str, holds)),
    )
