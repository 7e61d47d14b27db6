"""Which sample belongs to training, validation or test."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple, TypeVar

from eosfm_cli.errors import DataError
from eosfm_cli.recipe import FolderSplit, FractionSplit, ListSplit, SceneSplit, Split

SplitName = Literal["train", "val", "test"]
SPLIT_NAMES: tuple[SplitName, ...] = ("train", "val", "test")

_Item = TypeVar("_Item")


class Key(NamedTuple):
    """What tells one sample from all others; fields that the paths do not have are empty."""

    split: str
    class_name: str
    id: str


def split_keys(keys: Iterable[Key], split: Split, root: Path) -> dict[SplitName, list[Key]]:
    """Assign samples to splits; the same ones on every machine and in every run.

    Args:
        keys: All samples, in any order.
        split: How the recipe divides them.
        root: Where text files with lists are.

    Returns:
        The samples of each split, sorted. Samples that a list or folder split does not name are
        in none.

    Raises:
        DataError: A split is empty, splits overlap, or a split names what is not there.
    """
    ordered = sorted(keys)
    found = _assigned(ordered, split, root)
    for name in SPLIT_NAMES:
        if not found[name]:
            raise DataError(
                f"The {name} split is empty: {_reason(split, name)} ({len(ordered)} samples).",
                hint="Change dataset.split in the recipe, or add data.",
            )
    return found


def _assigned(keys: Sequence[Key], split: Split, root: Path) -> dict[SplitName, list[Key]]:
    match split:
        case ListSplit():
            return _by_list(keys, read_lists(split, root))
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
            return f"its list (dataset.split.{name}) names nothing"
        case FolderSplit():
            return f"the folder {getattr(split, name)!r} holds nothing"
        case SceneSplit():
            return "there are too few scenes for the shares or names given"
        case FractionSplit():
            return "there are too few samples for the shares given"


# --------------------------------------------------------------------------- lists


def read_lists(split: ListSplit, root: Path) -> dict[str, SplitName]:
    """Which split each listed entry belongs to.

    Raises:
        DataError: A list cannot be read, or two lists share an entry.
    """
    owner: dict[str, SplitName] = {}
    for name in SPLIT_NAMES:
        for entry in _entries(getattr(split, name), root):
            if owner.setdefault(entry, name) != name:
                raise DataError(
                    f"Splits overlap: {entry!r} stands in both {owner[entry]} and {name}.",
                    hint=f"Take it out of one of dataset.split.{owner[entry]} and .{name}.",
                )
    return owner


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
            hint="dataset.split names text files relative to the dataset's root, one id per line.",
        ) from None
    stripped = (line.strip() for line in lines)
    return [line for line in stripped if line and not line.startswith("#")]


def by_id(owner: Mapping[str, SplitName], ids: Iterable[str]) -> dict[str, SplitName]:
    """Lists keyed by id: an entry may also be a file name or path, as official lists often are.

    Raises:
        DataError: An entry names nothing on disk, or two entries of different splits one id.
    """
    known = set(ids)
    owner_of_id: dict[str, SplitName] = {}
    missing = []
    for entry, name in owner.items():
        identifier = entry if entry in known else PurePosixPath(entry).stem
        if identifier not in known:
            missing.append(entry)
        elif owner_of_id.setdefault(identifier, name) != name:
            raise DataError(
                f"Splits overlap: {identifier!r} is in {owner_of_id[identifier]} and in {name}.",
                hint="Take it out of one of the lists.",
            )
    if missing:
        raise DataError(
            f"The split lists name {len(missing)} samples that are not on disk: {few(missing)}.",
            hint="Complete the download, or take them out of the lists.",
        )
    return owner_of_id


def _by_list(keys: Sequence[Key], owner: Mapping[str, SplitName]) -> dict[SplitName, list[Key]]:
    owner_of_id = by_id(owner, (key.id for key in keys))
    found: dict[SplitName, list[Key]] = {name: [] for name in SPLIT_NAMES}
    for key in keys:
        if key.id in owner_of_id:
            found[owner_of_id[key.id]].append(key)
    return found


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
    scene_of = {key: _scene(key.id, split.pattern) for key in keys}
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


def _scene(identifier: str, pattern: str) -> str:
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
