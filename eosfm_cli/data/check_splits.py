"""How a dataset is divided: in words, in samples and in scenes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eosfm_cli.data.scenes import scenes_of
from eosfm_cli.data.splits import SPLIT_NAMES, Key, SplitName
from eosfm_cli.errors import DataError
from eosfm_cli.recipe import (
    AreaSplit,
    ColumnSplit,
    FolderSplit,
    FractionSplit,
    ListSplit,
    SceneSplit,
    Split,
)


@dataclass(frozen=True)
class SplitCheck:
    """One split as it is on disk."""

    name: SplitName
    samples: int
    """Of which all files are there."""
    scenes: int | None
    """`None` where the recipe does not say what a scene is."""
    areas: int | None
    """With a split by area: how many of them are this split's."""


@dataclass(frozen=True)
class Division:
    """The splits, and what divides them."""

    words: str
    splits: tuple[SplitCheck, ...]
    shared_scenes: int | None
    """Scenes that have samples in more than one split; `None` where nobody knows them."""


def check_division(
    split: Split,
    keys: Mapping[SplitName, Sequence[Key]],
    areas: Mapping[SplitName, frozenset[int]],
) -> Division:
    """Count what each split has.

    Args:
        split: How the recipe divides samples.
        keys: The samples of each split.
        areas: The areas of each split, where it divides areas.
    """
    scenes = {name: _scenes(keys[name], split) for name in SPLIT_NAMES}
    splits = tuple(
        SplitCheck(
            name,
            len(keys[name]),
            len(scenes[name]) if scenes[name] else None,
            len(areas[name]) if areas else None,
        )
        for name in SPLIT_NAMES
    )
    shared = sum(map(len, scenes.values())) - len(set().union(*scenes.values()))
    return Division(in_words(split), splits, shared if all(scenes.values()) else None)


def _scenes(keys: Sequence[Key], split: Split) -> set[str]:
    """The scenes of some samples; none where the recipe does not say what one is."""
    try:
        return set(scenes_of(keys, split).values())
    except DataError:  # told when samples were divided
        return set()


# --------------------------------------------------------------------------- in words


def in_words(split: Split) -> str:
    """Say what divides samples."""
    match split:
        case ListSplit():
            return _with_share(_lists(split), split)
        case FolderSplit():
            return _with_share(f"folders: {_named(split, ' ')}", split)
        case ColumnSplit():
            return _with_share(
                f"the table's column {split.column!r}: {_named(split, ' = ')}", split
            )
        case SceneSplit():
            return f"whole scenes: {_drawn(split, 'scenes')}"
        case FractionSplit():
            return f"a seeded draw: {_drawn(split, 'samples')}"
        case AreaSplit():
            return (
                "areas: every sample is in all splits, its labels only inside the areas of that "
                f"split; {_drawn(split, 'areas')}"
            )


def _lists(split: ListSplit) -> str:
    files = [given for name in SPLIT_NAMES if isinstance(given := getattr(split, name), str)]
    return f"lists: {', '.join(files)}" if files else "lists in the recipe"


def _named(split: FolderSplit | ColumnSplit, between: str) -> str:
    """Which folder, or value of a column, is which split."""
    given = {name: getattr(split, name) for name in SPLIT_NAMES}
    return ", ".join(
        f"{name}{between}{one if isinstance(one, str) else ' or '.join(one)}"
        for name, one in given.items()
        if not isinstance(one, float)
    )


def _with_share(text: str, split: ListSplit | FolderSplit | ColumnSplit) -> str:
    if not isinstance(split.val, float):
        return text
    by_scene = split.scene is not None or split.pattern is not None
    whole = "scenes" if by_scene else "samples"
    return f"{text}; val is {_percent(split.val)} of the training {whole} (seed {split.seed})"


def _drawn(split: SceneSplit | FractionSplit | AreaSplit, what: str) -> str:
    parts = [
        f"{name} is {_percent(one)} of the {what}"
        if isinstance(one, float)
        else f"{name} is {', '.join(one)}"
        for name in ("val", "test")
        for one in [getattr(split, name)]
    ]
    seeded = any(isinstance(getattr(split, name), float) for name in ("val", "test"))
    return " and ".join(parts) + (f" (seed {split.seed})" if seeded else "")


def _percent(share: float) -> str:
    return f"{share * 100:g} %"
