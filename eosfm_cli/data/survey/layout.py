"""From paths to streams: files of one kind, one per sample, that one path template describes.

First the folders: those that differ only by a split, a class or a scene are laid together. Then
the file names in them: images and masks may stand side by side, told apart by an ending
(`a_mask.tif`), a beginning (`mask_a.tif`), the name itself (`a/mask.tif`) or the suffix.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from eosfm_cli.data.survey.tree import RasterFile
from eosfm_cli.data.survey.words import (
    Role,
    is_band,
    role_of,
    sensor_of,
    slug,
    split_of,
    split_pattern,
)

FOLDER = "folder"
"""Fields that folders stand for are called `folder1`, `folder2` … until their meaning is known."""
ID = "id"

Kind = tuple[int, bool]
"""Number of bands, and whether they are real numbers."""
KindOf = Callable[[str], Kind | None]
"""Says the kind of the file at a path, if it can be read."""

_MOST_NAMES = 40
"""File names up to this many, repeated in every folder, tell rasters apart and not samples."""


@dataclass(frozen=True)
class Place:
    """One file, and what the fields of its folders stand for."""

    file: RasterFile
    fields: Mapping[str, str] = field(default_factory=dict)

    def having(self, name: str, text: str) -> Place:
        """The same place with one more field."""
        return replace(self, fields={**self.fields, name: text})


@dataclass(frozen=True)
class Stream:
    """Files of one kind: `folders/prefix{id}suffix` plus one of the endings."""

    folders: tuple[str, ...]
    """Literal names and patterns such as `{split}`."""
    prefix: str
    suffix: str
    endings: tuple[str, ...]
    """`.tif` and the like, the most frequent one first."""
    places: tuple[Place, ...]
    """With their `id`."""
    affix: str = ""
    """What in the files' names tells them from others in the same folders."""
    middle: tuple[str, str] | None = None
    """Where something stands in the middle of the ids: the field before it, and it."""
    named_by_folder: bool = False
    """Whether the innermost folder is the `id` and all its files are called `prefix`."""

    @property
    def role(self) -> Role | None:
        """What the names say: the file's own first, then its folders from the inside out."""
        texts = (self.affix, *reversed(self.folders))
        return next((role for text in texts if (role := role_of(text))), None)

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of its paths, in order."""
        inside = re.findall(r"\{(\w+)\}", "/".join((*self.folders, self.stem)))
        return tuple(dict.fromkeys(inside))

    @property
    def stem(self) -> str:
        """The file names' pattern without ending."""
        if self.middle:
            left, text = self.middle
            return f"{self.prefix}{{{left}}}{text}{{tile}}{self.suffix}"
        return self.prefix if self.named_by_folder else f"{self.prefix}{{{ID}}}{self.suffix}"

    @property
    def templates(self) -> tuple[str, ...]:
        """The paths as a recipe has them, one per ending."""
        return tuple("/".join((*self.folders, f"{self.stem}{end}")) for end in self.endings)

    @property
    def words(self) -> str:
        """All literal text of folders and affix, to look for a sensor in."""
        return " ".join((*self.folders, self.affix or f"{self.prefix}{self.suffix}"))

    @property
    def name(self) -> str:
        """A short name: the affix, or the innermost folder that says something."""
        for text in (self.affix, *reversed(self.folders)):
            bare = slug(re.sub(r"\{\w*\}|^\d+_", "", text))
            if bare and not split_of(bare):
                return bare
        return "images"


def find_streams(files: Sequence[RasterFile], kind_of: KindOf) -> list[Stream]:
    """All streams of a folder, the one with most files first."""
    groups = _descend((), [Place(file) for file in files], kind_of)
    streams = [s for group in groups for s in _streams_of(*_fields_in_order(*group), kind_of)]
    return sorted(streams, key=lambda stream: -len(stream.places))


def _fields_in_order(folders: tuple[str, ...], places: Sequence[Place]) -> Group:
    """Fields numbered as they follow each other, so that `a/{…}` and `b/c/{…}` can be compared."""
    old = [name for part in folders for name in re.findall(rf"\{{({FOLDER}\d+)\}}", part)]
    names = {name: f"{FOLDER}{number}" for number, name in enumerate(old, 1)}
    parts = tuple(re.sub(r"\w+(?=\})", lambda m: names.get(m[0], m[0]), part) for part in folders)
    renamed = [
        replace(place, fields={names.get(k, k): text for k, text in place.fields.items()})
        for place in places
    ]
    return parts, renamed


# --------------------------------------------------------------------------- folders

Group = tuple[tuple[str, ...], list[Place]]


def _descend(folders: tuple[str, ...], places: Sequence[Place], kind_of: KindOf) -> Iterator[Group]:
    """Groups of files in the same folders, folders that only differ by a field taken as one."""
    depth = len(folders)
    here = [place for place in places if len(place.file.folders) == depth]
    if here:
        yield folders, here
    below: dict[str, list[Place]] = defaultdict(list)
    for place in places:
        if len(place.file.folders) > depth:
            below[place.file.folders[depth]].append(place)
    for pattern, members in _laid_together(below, depth, kind_of):
        yield from _descend((*folders, pattern), members, kind_of)


def _laid_together(
    below: Mapping[str, list[Place]], depth: int, kind_of: KindOf
) -> Iterator[tuple[str, list[Place]]]:
    left = dict(below)
    labelled = [_inside(places, depth) for n, places in below.items() if role_of(n) == "label"]
    for pattern, words in _split_folders(left).items():
        members = {name: left.pop(name) for name in words}
        yield pattern, [p.having("split", words[n]) for n, ps in members.items() for p in ps]
    by_pattern: dict[str, list[str]] = defaultdict(list)
    for name in left:
        by_pattern[_numbered(name) if role_of(name) else ""].append(name)
    field = f"{FOLDER}{depth + 1}"
    for pattern, names in by_pattern.items():
        together = {name: left[name] for name in names}
        shared = len(labelled) == 1 and _all_hold(together, depth, labelled[0])
        if len(names) > 1 and not shared and _differ_by_a_field(together, depth, kind_of):
            for text, members in _field_values(together, pattern):
                together[text[0]] = [p.having(field, text[1]) for p in members]
            shape = pattern.replace("#", f"{{{field}}}") if pattern else f"{{{field}}}"
            yield shape, [place for members in together.values() for place in members]
        else:
            yield from together.items()


def _field_values(
    together: Mapping[str, list[Place]], pattern: str
) -> list[tuple[tuple[str, str], list[Place]]]:
    """Folder -> what the pattern's field stands for in it, and its files."""
    start, _, end = pattern.partition("#")
    return [
        ((name, name[len(start) : len(name) - len(end)]), members)
        for name, members in together.items()
    ]


def _split_folders(names: Mapping[str, object]) -> dict[str, dict[str, str]]:
    """Pattern with `{split}` -> folder -> its word; where at least two splits are there, once."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for name in names:
        if pattern := split_pattern(name):
            found[pattern[0]][name] = pattern[1]
    return {
        pattern: words
        for pattern, words in found.items()
        if len(words) > 1 and len({split_of(w) for w in words.values()}) == len(words)
    }


def _numbered(name: str) -> str:
    """A name with the one number in it replaced, as in `s1_#` or `image#`; else itself."""
    pattern, count = re.subn(r"(?<=[_\-. ])\d+(?=$|[_\-. ])", "#", name)
    return pattern if count == 1 else re.sub(r"(?<=[A-Za-z])\d+$", "#", name)


def _differ_by_a_field(folders: Mapping[str, list[Place]], depth: int, kind_of: KindOf) -> bool:
    """Whether folders are classes or scenes, and not sensors of the same samples."""
    below = {name: _inside(places, depth) for name, places in folders.items()}
    overlap = _overlap_mostly(list(below.values()))
    found = (_kind_in(places, kind_of) for places in folders.values())
    kinds = Counter(kind for kind in found if kind)
    if not overlap:
        return 2 * max(kinds.values(), default=0) > kinds.total()
    if len(kinds) > 1:
        return False
    own = all(any(map(role_of, path)) for paths in below.values() for path in paths)
    if own and (not any(map(role_of, folders)) or len(set(map(sensor_of, folders))) == 1):
        return True  # each has its own images and labels
    return all(path[-1].isdecimal() for paths in below.values() for path in paths)


def _all_hold(folders: Mapping[str, list[Place]], depth: int, files: set[tuple[str, ...]]) -> bool:
    """Whether each has the one label folder's files: then they are no scenes, but show the same."""
    return all(_inside(places, depth) == files for places in folders.values())


def _inside(places: Sequence[Place], depth: int) -> set[tuple[str, ...]]:
    """The paths below folders of some depth, without the files' endings."""
    return {(*place.file.folders[depth + 1 :], place.file.stem) for place in places}


def _kind_in(places: Sequence[Place], kind_of: KindOf) -> Kind | None:
    """The kind of the first few files that can be read."""
    return next((kind for place in places[:3] if (kind := kind_of(place.file.path))), None)


def _overlap_mostly(sets: Sequence[set[Any]]) -> bool:
    biggest = max(sets, key=len)
    others = [each for each in sets if each is not biggest]
    shares = [len(biggest & each) / len(each) for each in others if each]
    return bool(shares) and sum(shares) / len(shares) >= 0.5


# --------------------------------------------------------------------------- file names

Named = dict[tuple[str, str], list[Place]]
"""Beginning and ending of file names -> the files, with their `id`."""


def _streams_of(
    folders: tuple[str, ...], places: Sequence[Place], kind_of: KindOf
) -> Iterator[Stream]:
    whole = _by_whole_name(folders, places)
    if whole:
        *outer, inner = folders
        folders = (*outer, re.sub(rf"\{{{FOLDER}\d+\}}", f"{{{ID}}}", inner))
    named = (
        whole
        or _by_affix(places, _ENDING, kind_of)
        or _by_affix(places, _BEGINNING, kind_of)
        or {("", ""): [place.having(ID, place.file.stem) for place in places]}
    )
    for (prefix, suffix), members in named.items():
        affix = f"{prefix} {suffix}".strip() if len(named) > 1 or whole else ""
        for endings, files in _by_suffix(members):
            told_apart = affix or (endings[0] if len(files) < len(members) else "")
            yield Stream(
                *(folders, prefix, suffix, endings, tuple(files), told_apart),
                named_by_folder=whole is not None,
            )


def _by_whole_name(folders: tuple[str, ...], places: Sequence[Place]) -> Named | None:
    """Folders that are samples: `a/image.tif`, `a/mask.tif`."""
    field = re.search(rf"\{{({FOLDER}\d+)\}}", folders[-1]) if folders else None
    if field is None:
        return None
    counts = Counter(place.file.stem for place in places)
    repeated = len(counts) <= _MOST_NAMES and min(counts.values()) > 1
    if not repeated or not any(role_of(stem) for stem in counts):
        return None
    named: Named = defaultdict(list)
    for place in places:
        named[place.file.stem, ""].append(place.having(ID, place.fields[field[1]]))
    return dict(named)


_ENDING = re.compile(r"(?P<id>.+?)(?P<affix>[_\-. ]+[A-Za-z][A-Za-z0-9]*)")
_BEGINNING = re.compile(r"(?P<affix>[A-Za-z][A-Za-z0-9]*[_\-. ]+)(?P<id>.+)")


def _by_affix(places: Sequence[Place], pattern: re.Pattern[str], kind_of: KindOf) -> Named | None:
    """Files whose names differ by an ending or a beginning only, and otherwise come in pairs."""
    matches = [(place, pattern.fullmatch(place.file.stem)) for place in places]
    cut: dict[str, set[str]] = defaultdict(set)
    for _, match in matches:
        if match:
            cut[match["affix"]].add(match["id"])
    affixes = _pairing_affixes(cut, {place.file.stem for place in places})
    named: Named = defaultdict(list)
    for place, match in matches:
        affix = match["affix"] if match and match["affix"] in affixes else ""
        key = ("", affix) if pattern is _ENDING else (affix, "")
        named[key].append(place.having(ID, match["id"] if match and affix else place.file.stem))
    return dict(named) if len(named) > 1 and _tell_rasters_apart(named, kind_of) else None


def _pairing_affixes(cut: Mapping[str, set[str]], stems: set[str]) -> set[str]:
    """The affixes without which most names equal another file's."""
    owners = Counter(identifier for ids in cut.values() for identifier in ids)
    return {
        affix
        for affix, ids in cut.items()
        if (len(ids) > 1 or len(stems) <= _MOST_NAMES)
        and 2 * sum(1 for text in ids if owners[text] > 1 or text in stems) >= len(ids)
    }


def _tell_rasters_apart(named: Named, kind_of: KindOf) -> bool:
    """Whether affixes stand for kinds of rasters, and not for scenes, classes or dates."""
    words = ["".join(key) for key in named]
    roles = {role_of(word) for word in words if word}
    if "label" in roles or all(is_band(word.strip("_-. ")) for word in words if word):
        return True
    kinds = {_kind_in(places, kind_of) for places in named.values()}
    return len(kinds) == len(named)


def _by_suffix(places: Sequence[Place]) -> Iterator[tuple[tuple[str, ...], list[Place]]]:
    """Files by `.tif`, `.png` … where the same sample has several; else all together."""
    suffixes: dict[str, list[Place]] = defaultdict(list)
    for place in places:
        suffixes[place.file.suffix].append(place)
    ordered = sorted(suffixes, key=lambda suffix: -len(suffixes[suffix]))
    if len(ordered) > 1:
        samples = [{_sample(place) for place in suffixes[suffix]} for suffix in ordered]
        if _overlap_mostly(samples):
            yield from (((suffix,), suffixes[suffix]) for suffix in ordered)
            return
    yield tuple(ordered), list(places)


def _sample(place: Place) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(place.fields.items()))
