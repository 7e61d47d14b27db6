"""Which sample belongs to training, validation or test."""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple, TypeVar

from eosfm_cli.errors import DataError
from eosfm_cli.recipe import (
    ColumnSplit,
    FolderSplit,
    FractionSplit,
    ListSplit,
    SceneSplit,
    Split,
    fill_template,
)

SplitName = Literal["train", "val", "test"]
SPLIT_NAMES: tuple[SplitName, ...] = ("train", "val", "test")

_Item = TypeVar("_Item")


class Key(NamedTuple):
    """What tells one sample from all others; fields that the paths do not have are empty."""

    split: str
    class_name: str
    id: str
    others: tuple[tuple[str, str], ...] = ()
    """Further fields of the paths, by name."""

    @property
    def fields(self) -> dict[str, str]:
        """What the fields of a path stand for; those that are not known are left out."""
        own = {"split": self.split, "class": self.class_name, "id": self.id}
        return {name: text for name, text in own.items() if text} | dict(self.others)


Absent = Callable[[Sequence[str], int], None]
"""Told the listed entries that no sample on disk answers to, and how many are listed."""


def split_keys(
    keys: Iterable[Key],
    split: Split,
    root: Path,
    absent: Absent,
    *,
    column: Mapping[str, SplitName] | None = None,
) -> dict[SplitName, list[Key]]:
    """Assign samples to splits; the same ones on every machine and in every run.

    Args:
        keys: All samples, in any order.
        split: How the recipe divides them.
        root: Where text files with lists are.
        absent: Told what lists name and is not there.
        column: What a table says of each row that is in a split.

    Returns:
        The samples of each split, sorted. Samples that a list, column or folder split does not
        name are in none.

    Raises:
        DataError: A split is empty, splits overlap, or a split names what is not there.
    """
    ordered = sorted(keys)
    found = _assigned(ordered, split, root, absent, column or {})
    refuse_empty(found, split, len(ordered))
    return found


def refuse_empty(found: Mapping[SplitName, Sequence[Key]], split: Split, count: int) -> None:
    """Refuse a split of samples that leaves nothing to train on, to validate or to test.

    Raises:
        DataError: A split is empty.
    """
    for name in SPLIT_NAMES:
        if not found[name]:
            raise DataError(
                f"The {name} split is empty: {_reason(split, name)} ({count} samples on disk).",
                hint="Change dataset.split in the recipe, or add data.",
            )


def _assigned(
    keys: Sequence[Key],
    split: Split,
    root: Path,
    absent: Absent,
    column: Mapping[str, SplitName],
) -> dict[SplitName, list[Key]]:
    match split:
        case ColumnSplit():
            return _owned(keys, _owners(_answering(keys, None), column, absent))
        case ListSplit():
            return _by_list(keys, split, root, absent)
        case SceneSplit():
            return _by_scene(keys, split)
        case FractionSplit():
            val, test = draw(keys, split.val, split.test, split.seed)
            return _sorted_out(keys, {**dict.fromkeys(val, "val"), **dict.fromkeys(test, "test")})
        case FolderSplit():
            return _by_folder(keys, split)


def _sorted_out(keys: Iterable[Key], held_out: Mapping[Key, str]) -> dict[SplitName, list[Key]]:
    found: dict[SplitName, list[Key]] = {name: [] for name in SPLIT_NAMES}
    for key in keys:
        found[held_out.get(key, "train")].append(key)
    return found


def _reason(split: Split, name: str) -> str:
    match split:
        case ListSplit():
            return f"dataset.split.{name} leaves nothing for it"
        case ColumnSplit():
            return f"no row with files has {getattr(split, name)!r} in the column {split.column!r}"
        case FolderSplit():
            return f"the folder {getattr(split, name)!r} holds nothing"
        case SceneSplit():
            return "there are too few scenes for the shares or names given"
        case FractionSplit():
            return "there are too few samples for the shares given"


# --------------------------------------------------------------------------- lists


def _by_list(
    keys: Sequence[Key], split: ListSplit, root: Path, absent: Absent
) -> dict[SplitName, list[Key]]:
    found = _owned(keys, _owners(_answering(keys, split.entry), read_lists(split, root), absent))
    if isinstance(split.val, float):
        found["val"] = _drawn_scenes(found["train"], split, split.val)
        held_out = set(found["val"])
        found["train"] = [key for key in found["train"] if key not in held_out]
    return found


def _owned(keys: Iterable[Key], owner: Mapping[Key, SplitName]) -> dict[SplitName, list[Key]]:
    """The samples of each split, those that none owns left out."""
    found: dict[SplitName, list[Key]] = {name: [] for name in SPLIT_NAMES}
    for key in keys:
        if key in owner:
            found[owner[key]].append(key)
    return found


def _drawn_scenes(keys: Sequence[Key], split: ListSplit, share: float) -> list[Key]:
    """The samples of a share of the scenes that lists leave together."""
    scene_of = {
        key: key.id if split.scene is None else fill_template(split.scene, key.fields)
        for key in keys
    }
    drawn, _ = draw(sorted(set(scene_of.values())), share, (), split.seed)
    chosen = set(drawn)
    return [key for key in keys if scene_of[key] in chosen]


def read_lists(split: ListSplit, root: Path) -> dict[str, SplitName]:
    """Which split each listed entry belongs to.

    Raises:
        DataError: A list cannot be read, or two lists share an entry.
    """
    owner: dict[str, SplitName] = {}
    for name in SPLIT_NAMES:
        given = getattr(split, name)
        for entry in () if isinstance(given, float) else _entries(given, root):
            if owner.setdefault(entry, name) != name:
                raise _overlap(repr(entry), owner[entry], name)
    return owner


def _overlap(what: str, one: SplitName, other: SplitName) -> DataError:
    return DataError(
        f"Splits overlap: {what} stands in both {one} and {other}.",
        hint=f"Take it out of one of dataset.split.{one} and .{other}.",
    )


def _entries(given: str | tuple[str, ...], root: Path) -> list[str]:
    if not isinstance(given, str):
        return list(given)
    path = root / given
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text file"
        raise DataError(
            f"Cannot read the split list {path}: {reason}.",
            hint="dataset.split names text files relative to the dataset's root, one sample per "
            "line; `eosfm recipes show` says where a dataset's lists come from.",
        ) from None
    stripped = (line.strip() for line in lines)
    return [line for line in stripped if line and not line.startswith("#")]


def _answering(keys: Iterable[Key], entry: str | None) -> dict[str, list[Key]]:
    """What lists may call a sample -> the samples; their ids, and as `entry` writes them."""
    known: dict[str, list[Key]] = defaultdict(list)
    for key in keys:
        known[key.id].append(key)
        if entry is not None and (name := fill_template(entry, key.fields)) != key.id:
            known[name].append(key)
    return known


def _owners(
    known: Mapping[str, list[Key]], listed: Mapping[str, SplitName], absent: Absent
) -> dict[Key, SplitName]:
    """Which split each sample belongs to: lists may also give file names or paths."""
    owner: dict[Key, SplitName] = {}
    missing = []
    for entry, name in listed.items():
        path = PurePosixPath(entry)
        called = next((text for text in (entry, path.name, path.stem) if text in known), None)
        if called is None:
            missing.append(entry)
        for key in known.get(called, ()) if called else ():
            if owner.setdefault(key, name) != name:
                raise _overlap(repr(key.id), owner[key], name)
    if missing:
        absent(missing, len(listed))
    return owner


# --------------------------------------------------------------------------- folders


def _by_folder(keys: Sequence[Key], split: FolderSplit) -> dict[SplitName, list[Key]]:
    folders = {name: getattr(split, name) for name in SPLIT_NAMES}
    if len(set(folders.values())) < len(folders):
        raise DataError(
            f"Splits overlap: two of them read the same folder ({', '.join(folders.values())}).",
            hint="Give dataset.split three different folders, or split by scene or fraction.",
        )
    return {name: [key for key in keys if key.split == folders[name]] for name in SPLIT_NAMES}


# --------------------------------------------------------------------------- scenes and shares


def _by_scene(keys: Sequence[Key], split: SceneSplit) -> dict[SplitName, list[Key]]:
    scene_of = {key: scene_name(key.id, split.pattern) for key in keys}
    scenes = sorted(set(scene_of.values()))
    named = [name for part in (split.val, split.test) if isinstance(part, tuple) for name in part]
    missing = sorted(set(named) - set(scenes))
    if missing:
        raise DataError(
            f"dataset.split names scenes that are not there: {few(missing)}.",
            hint=f"Scenes found: {few(scenes)}.",
        )
    if len(set(named)) < len(named):
        raise DataError("Splits overlap: dataset.split names a scene in both val and test.")
    val, test = draw(scenes, split.val, split.test, split.seed)
    held_out = {**dict.fromkeys(val, "val"), **dict.fromkeys(test, "test")}
    return _sorted_out(keys, {k: held_out[s] for k, s in scene_of.items() if s in held_out})


def scene_name(identifier: str, pattern: str) -> str:
    """The scene that a sample belongs to.

    Raises:
        DataError: The pattern finds none in its id.
    """
    match = re.search(pattern, identifier)
    if match is None or match.group(1) is None:
        raise DataError(
            f"dataset.split.pattern {pattern!r} finds no scene in the id {identifier!r}.",
            hint="The pattern's first group must match in every id, as in '^(.*?)_'.",
        )
    return match.group(1)


def draw(
    items: Sequence[_Item],
    val: float | tuple[_Item, ...],
    test: float | tuple[_Item, ...],
    seed: int,
) -> tuple[list[_Item], list[_Item]]:
    """Draw validation and test items: named ones as they are, shares at random but seeded.

    A share above zero takes at least one item, as long as there are any.
    """
    named = {item for part in (val, test) if isinstance(part, tuple) for item in part}
    pool = [item for item in items if item not in named]
    random.Random(seed).shuffle(pool)
    drawn = []
    for part in (val, test):
        if isinstance(part, tuple):
            drawn.append(list(part))
        else:
            count = min(max(round(part * len(items)), 1), len(pool)) if part > 0 else 0
            drawn.append([pool.pop() for _ in range(count)])
    return drawn[0], drawn[1]


def few(names: Sequence[str], most: int = 5) -> str:
    """The first few names, and how many more there are."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
