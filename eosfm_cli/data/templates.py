"""Files that path templates such as `{split}/{class}/{id}.tif` describe."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from eosfm_cli.progress import Progress, Silent

_FIELD = re.compile(r"\{(\w+)\}")
_ANY = "[^/]+?"
"""What a field may stand for where nothing else is said."""

_MANY = 2000
"""From so many folders on, looking into them takes long enough to be told."""
_NOBODY = Silent()

Unread = Callable[[OSError], None]
Expressions = Mapping[str, str]
"""Field -> a regular expression of what it may stand for."""


class Found(NamedTuple):
    """One file, and what the template's fields stand for in its path.

    There may be millions: the parts are shared between files, and the path is made when asked for.
    """

    folder: str
    name: str
    """The file's name as a template."""
    fields: Mapping[str, str]

    @property
    def path(self) -> Path:
        """Where the file is."""
        return Path(self.folder, filled(self.name, self.fields))

    def values(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """The values of some fields, in that order."""
        return tuple([self.fields[name] for name in names])


@dataclass(frozen=True)
class Listing:
    """What stands where a template says."""

    files: list[Found] = field(default_factory=list)
    strays: list[Path] = field(default_factory=list)
    """Files of the same kind in the same folders, named otherwise."""


def filled(part: str, fields: Mapping[str, str]) -> str:
    """A name with the fields that are known filled in; others stay as they are."""
    pieces = _pieces(part)
    return "".join([t if i % 2 == 0 else fields.get(t, f"{{{t}}}") for i, t in enumerate(pieces)])


@lru_cache(maxsize=1024)
def _pieces(part: str) -> tuple[str, ...]:
    """Text, field, text, field, … text."""
    return tuple(_FIELD.split(part))


class _Place(NamedTuple):
    """A folder, and what the fields stand for in its path."""

    path: str
    fields: Mapping[str, str]


def _raised(error: OSError) -> None:
    raise error


def find_files(
    root: Path,
    templates: Sequence[str],
    expressions: Expressions | None = None,
    *,
    beside: Iterable[str] = (),
    unread: Unread = _raised,
    progress: Progress = _NOBODY,
) -> dict[str, Listing]:
    """All files under `root` that templates describe, in the order of their names.

    A field stands for text within one folder's or file's name; a field that stands there twice
    means the same text both times. Hidden files are left out. Each folder is looked at once,
    however many templates name files in it.

    Args:
        root: A folder.
        templates: Paths below it.
        expressions: What fields may stand for; any text if not given, as short as can be.
        beside: Templates of files that may stand there too: they are no strays.
        unread: Told of folders and links that cannot be looked at; they are left out then.
        progress: Told how many folders are done, where there are many.
    """
    known = tuple((expressions or {}).items())
    listings = {template: Listing() for template in templates}
    others = _by_folder(beside)
    for folder, names in _by_folder(listings).items():
        files = [(name, listings[template]) for name, template in names]
        extra = [name for name, _ in others.get(folder, [])]
        places = _places(root, PurePosixPath(folder).parts, known, unread)
        teller = progress if len(places) >= _MANY else _NOBODY
        with teller.step(f"Looking into {folder}", len(places)) as step:
            for place in places:
                _list_into(files, extra, place, known, unread)
                step.advance()
    return listings


def first_of(listings: Sequence[Listing]) -> Listing:
    """Files that one of several templates describes: of the same fields the first one's."""
    strays = [path for each in listings for path in each.strays]
    found = [listing.files for listing in listings if listing.files]
    if len(found) < 2:
        return Listing(found[0] if found else [], strays)
    first: dict[frozenset[tuple[str, str]], Found] = {}
    for file in (file for files in found for file in files):
        first.setdefault(frozenset(file.fields.items()), file)
    return Listing(list(first.values()), strays)


def read_fields(
    template: str, text: str, expressions: Expressions | None = None
) -> dict[str, str] | None:
    """What a template's fields stand for in a text; `None` if it says something else."""
    match = _pattern(template, (), tuple((expressions or {}).items())).fullmatch(text)
    return match.groupdict() if match else None


def _by_folder(templates: Iterable[str]) -> dict[str, list[tuple[str, str]]]:
    """The names that templates describe in each folder, and the whole templates."""
    names: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for template in templates:
        path = PurePosixPath(template)
        names[str(path.parent)].append((path.name, template))
    return names


# --------------------------------------------------------------------------- folders


_Known = tuple[tuple[str, str], ...]


def _places(
    root: Path, folders: Sequence[str], expressions: _Known, unread: Unread
) -> list[_Place]:
    """The folders that a template's folder part describes."""
    places = [_Place(str(root), {})]
    for part in folders:
        places = [
            deeper for place in places for deeper in _deeper(place, part, expressions, unread)
        ]
    return places


def _deeper(place: _Place, part: str, expressions: _Known, unread: Unread) -> Iterator[_Place]:
    """The folders in a folder that are named as one part of the template says."""
    name = filled(part, place.fields)
    if not _FIELD.search(name):
        if os.path.isdir(path := os.path.join(place.path, name)):
            yield _Place(path, place.fields)
        return
    read = _reader(part, place.fields, expressions)
    for entry in _entries(place.path, unread):
        fields = None if _hidden(entry.name, part) else read(entry.name)
        if fields is not None and _answer(entry.is_dir, unread):
            yield _Place(entry.path, {**place.fields, **fields})


def _entries(folder: str, unread: Unread) -> list[os.DirEntry[str]]:
    """What is in a folder, by name; an entry knows its kind without another look at the disk."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        unread(error)
        return []


def _answer(is_one: Callable[[], bool], unread: Unread) -> bool:
    """Whether an entry is a file, or a folder: where it is a link, the disk is asked."""
    try:
        return is_one()
    except OSError as error:
        unread(error)
        return False


def _hidden(name: str, part: str) -> bool:
    """Whether a name is one that people do not see, or that macOS puts into archives."""
    return name == "__MACOSX" or (name.startswith(".") and not part.startswith("."))


# --------------------------------------------------------------------------- files


def _list_into(
    names: Sequence[tuple[str, Listing]],
    beside: Sequence[str],
    place: _Place,
    expressions: _Known,
    unread: Unread,
) -> None:
    """Add the files of one folder to the listings of the templates that name them."""
    entries = {entry.name: entry for entry in _entries(place.path, unread)}
    rest = dict(entries)
    for name, listing in names:
        for file, fields in _named(name, entries, place.fields, expressions):
            rest.pop(file, None)
            if _answer(entries[file].is_file, unread):
                listing.files.append(Found(place.path, name, fields))
    if rest and any(_FIELD.search(name) for name, _ in names):
        for name in beside:
            for file, _ in list(_named(name, rest, place.fields, expressions)):
                rest.pop(file)
        _list_strays(rest, names, place)


def _named(
    name: str, there: Mapping[str, object], known: Mapping[str, str], expressions: _Known
) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Those of a folder's files that are named as a template says, with their fields."""
    if all(field in known for field in _pieces(name)[1::2]):
        if (file := filled(name, known)) in there:  # one look instead of many
            yield file, known
        return
    read = _reader(name, known, expressions)
    for file in there:
        fields = None if _hidden(file, name) else read(file)
        if fields is not None:
            yield file, {**known, **fields}


def _list_strays(
    rest: Mapping[str, os.DirEntry[str]], names: Sequence[tuple[str, Listing]], place: _Place
) -> None:
    """Note what looks like the files of a template without being named as it says."""
    kinds = {suffix: listing for name, listing in reversed(names) if (suffix := _suffix(name))}
    for file, entry in rest.items():
        listing = kinds.get(PurePosixPath(file).suffix.lower())
        if listing is not None and not _hidden(file, "") and _is_stray(entry):
            listing.strays.append(Path(entry.path))


def _is_stray(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link that leads nowhere, among files that nobody reads
        return True


def _suffix(name: str) -> str:
    """The kind of a file, in small letters; empty where a field says it."""
    suffix = PurePosixPath(name).suffix
    return "" if _FIELD.search(suffix) else suffix.lower()


# --------------------------------------------------------------------------- names


def _reader(
    part: str, known: Mapping[str, str], expressions: _Known
) -> Callable[[str], Mapping[str, str] | None]:
    """What reads the fields that one part of a path adds to those known from above."""
    fields = _pieces(part)[1::2]
    new = [name for name in fields if name not in known]
    if len(new) == 1:  # what stands before and after it is known: no need for an expression
        before, _, after = filled(part, known).partition(f"{{{new[0]}}}")
        return _Between(before, new[0], after, dict(expressions).get(new[0]))
    used = tuple((name, known[name]) for name in fields if name in known)
    pattern = _pattern(part, used, expressions)

    def read(text: str) -> Mapping[str, str] | None:
        match = pattern.fullmatch(text)
        return match.groupdict() if match else None

    return read


@dataclass(frozen=True)
class _Between:
    """Reads one field that stands between known texts."""

    before: str
    field: str
    after: str
    expression: str | None

    def __call__(self, text: str) -> Mapping[str, str] | None:
        end = len(text) - len(self.after)
        if end <= len(self.before):
            return None
        if not (text.startswith(self.before) and text.endswith(self.after)):
            return None
        value = text[len(self.before) : end]
        if self.expression is not None and not re.fullmatch(self.expression, value):
            return None
        return {self.field: value}


@lru_cache(maxsize=256)
def _pattern(part: str, known: _Known, expressions: _Known) -> re.Pattern[str]:
    """A regular expression for a template, where some fields are known from the folders above."""
    values, allowed, pieces, seen = dict(known), dict(expressions), [], set()
    for i, text in enumerate(_pieces(part)):
        is_field = i % 2 == 1
        if not is_field:
            pieces.append(re.escape(text))
        elif text in values:
            pieces.append(re.escape(values[text]))
        elif text in seen:
            pieces.append(f"(?P={text})")
        else:
            seen.add(text)
            pieces.append(f"(?P<{text}>{allowed.get(text, _ANY)})")
    return re.compile("".join(pieces))
