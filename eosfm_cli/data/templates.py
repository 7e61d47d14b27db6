"""Files that a path template such as `{split}/{class}/{id}.tif` describes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
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


def field_names(template: str) -> frozenset[str]:
    """The fields of a template, without braces."""
    return frozenset(_FIELD.findall(template))


def find_files(root: Path, template: str) -> list[Found]:
    """All files under `root` that a template describes, in the order of their names.

    A field stands for text within one folder's or file's name; a field that stands there twice
    means the same text both times. Hidden files are left out.
    """
    *folders, name = PurePosixPath(template).parts
    places = [Found(root, MappingProxyType({}))]
    for part in folders:
        places = [deeper for place in places for deeper in _inside(place, part) if _is_dir(deeper)]
    return [file for place in places for file in _inside(place, name) if file.path.is_file()]


def _is_dir(found: Found) -> bool:
    return found.path.is_dir()


def _inside(place: Found, part: str) -> Iterator[Found]:
    """What in a folder is named as one part of the template says."""
    if not _FIELD.search(part):
        yield Found(place.path / part, place.fields)
        return
    pattern = _pattern(part, place.fields)
    for name in sorted(os.listdir(place.path)):
        match = pattern.fullmatch(name)
        if match and (part.startswith(".") or not name.startswith(".")):
            yield Found(place.path / name, {**place.fields, **match.groupdict()})


def _pattern(part: str, known: Mapping[str, str]) -> re.Pattern[str]:
    """A regular expression for one part, where some fields are known from the folders above."""
    pieces, seen = [], set()
    for i, text in enumerate(_FIELD.split(part)):
        is_field = i % 2 == 1
        if not is_field:
            pieces.append(re.escape(text))
        elif text in known:
            pieces.append(re.escape(known[text]))
        elif text in seen:
            pieces.append(f"(?P={text})")
        else:
            seen.add(text)
            pieces.append(f"(?P<{text}>.+?)")
    return re.compile("".join(pieces))
