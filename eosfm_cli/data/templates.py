"""Files that a path template such as `{split}/{class}/{id}.tif` describes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from types import MappingProxyType

_FIELD = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Found:
    """One file, and what the template's fields stand for in its path."""

    path: Path
    fields: Mapping[str, str]

    def values(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """The values of some fields, in that order."""
        return tuple(self.fields[name] for name in names)


@dataclass(frozen=True)
class Listing:
    """What stands where a template says."""

    files: list[Found]
    strays: list[Path]
    """Files of the same kind in the same folders, named otherwise."""


def find_files(root: Path, template: str) -> Listing:
    """All files under `root` that a template describes, in the order of their names.

    A field stands for text within one folder's or file's name; a field that stands there twice
    means the same text both times. Hidden files are left out.
    """
    *folders, name = PurePosixPath(template).parts
    places = [Found(root, MappingProxyType({}))]
    for part in folders:
        places = [deeper for place in places for deeper in _folders(place, part)]
    listing = Listing([], [])
    for place in places:
        _list_into(listing, place, name)
    return listing


def find_first(root: Path, templates: Iterable[str]) -> Listing:
    """Files that one of several templates describes: of the same fields the first one's."""
    listings = [find_files(root, template) for template in templates]
    if len(listings) == 1:
        return listings[0]
    first: dict[frozenset[tuple[str, str]], Found] = {}
    for listing in listings:
        for found in listing.files:
            first.setdefault(frozenset(found.fields.items()), found)
    return Listing(list(first.values()), [path for each in listings for path in each.strays])


def read_fields(template: str, text: str) -> dict[str, str] | None:
    """What a template's fields stand for in a text; `None` if it says something else."""
    match = _pattern(template, ()).fullmatch(text)
    return match.groupdict() if match else None


def _folders(place: Found, part: str) -> Iterator[Found]:
    """The folders in a folder that are named as one part of the template says."""
    if not _FIELD.search(part):
        if (place.path / part).is_dir():
            yield Found(place.path / part, place.fields)
        return
    pattern = _pattern(part, tuple(place.fields.items()))
    for entry in _entries(place.path):
        match = pattern.fullmatch(entry.name)
        if match and not _hidden(entry.name, part) and entry.is_dir():
            yield Found(place.path / entry.name, {**place.fields, **match.groupdict()})


def _list_into(listing: Listing, place: Found, name: str) -> None:
    """Add the files of one folder to a listing."""
    if not _FIELD.search(name):
        if (place.path / name).is_file():
            listing.files.append(Found(place.path / name, place.fields))
        return
    pattern, suffix = _pattern(name, tuple(place.fields.items())), _suffix(name)
    for entry in _entries(place.path):
        if _hidden(entry.name, name):
            continue
        if match := pattern.fullmatch(entry.name):
            if entry.is_file():
                fields = {**place.fields, **match.groupdict()}
                listing.files.append(Found(place.path / entry.name, fields))
        elif suffix and entry.name.lower().endswith(suffix) and entry.is_file():
            listing.strays.append(place.path / entry.name)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What is in a folder, by name; an entry knows its kind without another look at the disk."""
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def _hidden(name: str, part: str) -> bool:
    return name.startswith(".") and not part.startswith(".")


def _suffix(name: str) -> str:
    """The kind of a file, in small letters; empty where a field says it."""
    suffix = PurePosixPath(name).suffix
    return "" if _FIELD.search(suffix) else suffix.lower()


@lru_cache(maxsize=256)
def _pattern(part: str, known: tuple[tuple[str, str], ...]) -> re.Pattern[str]:
    """A regular expression for one part, where some fields are known from the folders above."""
    values, pieces, seen = dict(known), [], set()
    for i, text in enumerate(_FIELD.split(part)):
        is_field = i % 2 == 1
        if not is_field:
            pieces.append(re.escape(text))
        elif text in values:
            pieces.append(re.escape(values[text]))
        elif text in seen:
            pieces.append(f"(?P={text})")
        else:
            seen.add(text)
            pieces.append(f"(?P<{text}>.+?)")
    return re.compile("".join(pieces))
