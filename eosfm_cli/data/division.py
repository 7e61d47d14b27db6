"""Which sample belongs to training, validation or test."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from eosfm_cli.data.archives import unpack_advice
from eosfm_cli.data.lists import Absent, answering, owners, read_lists
from eosfm_cli.data.problems import Problem, Report
from eosfm_cli.data.scenes import Shared, drawn_scenes, scenes_of
from eosfm_cli.data.splits import SPLIT_NAMES, Key, SplitName, draw, few
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
from eosfm_cli.words import counted

Division = dict[SplitName, list[Key]]
"""The samples of each split."""


def _refuse(problem: Problem) -> None:
    if not problem.is_note:
        raise problem.error()


def divide(
    keys: Iterable[Key],
    split: Split,
    root: Path,
    absent: Absent,
    *,
    column: Mapping[str, SplitName] | None = None,
    whole: Collection[Key] | None = None,
    report: Report = _refuse,
) -> Division:
    """Assign samples to splits; the same ones on every machine and in every run.

    Args:
        keys: All samples, in any order.
        split: How the recipe divides them.
        root: Where text files with lists are.
        absent: Told what lists name and is not there.
        column: What a table says of each row that is in a split.
        whole: The samples that shares are drawn from, where others lack files; all if not given.
        report: Told of splits that are empty or overlap, and of what they name and is not there.

    Returns:
        The samples of each split, sorted. Samples that a list, column or folder split does not
        name are in none; where areas are divided, every sample is in all.

    Raises:
        DataError: A sample's scene cannot be told.
    """
    ordered = sorted(keys)
    drawn_from = _those_in(whole, ordered)
    found = _assigned(ordered, drawn_from, split, root, absent, column or {}, report)
    if isinstance(split, Shared) and isinstance(split.val, float):
        found["val"] = drawn_scenes(_those_in(whole, found["train"]), split, split.val)
        held_out = set(found["val"])
        found["train"] = [key for key in found["train"] if key not in held_out]
    report_empty(found, split, root, len(ordered), report)
    return found


def _those_in(whole: Collection[Key] | None, keys: Sequence[Key]) -> Sequence[Key]:
    return keys if whole is None else [key for key in keys if key in whole]


def report_empty(
    found: Mapping[SplitName, Sequence[Key]],
    split: Split,
    root: Path,
    count: int,
    report: Report,
) -> None:
    """Report each split that has no samples: nothing to train on, to validate or to test."""
    for name in SPLIT_NAMES:
        if not found[name]:
            drawn = name == "val" or (name == "train" and bool(found["val"]))
            reason = _too_few(split) if drawn else None
            text = (
                f"The {name} split is empty: {reason or _reason(split, name)} "
                f"({counted(count, 'sample')} on disk)."
            )
            folder = getattr(split, name) if isinstance(split, FolderSplit) else None
            advice = unpack_advice(root, [f"{folder}/"]) if isinstance(folder, str) else None
            hint = advice or "Change dataset.split in the recipe, or add data."
            report(Problem("split", text, (name,), hint))


def _assigned(
    keys: Sequence[Key],
    drawn_from: Sequence[Key],
    split: Split,
    root: Path,
    absent: Absent,
    column: Mapping[str, SplitName],
    report: Report,
) -> Division:
    match split:
        case ColumnSplit():
            return _owned(keys, owners(answering(keys, None), column, absent, report))
        case ListSplit():
            listed = read_lists(split, root, report)
            return _owned(keys, owners(answering(keys, split.entry), listed, absent, report))
        case SceneSplit():
            return _sorted_out(keys, _held_out_by_scene(drawn_from, split, report))
        case FractionSplit():
            val, test = draw(drawn_from, split.val, split.test, split.seed)
            return _sorted_out(keys, {**dict.fromkeys(val, "val"), **dict.fromkeys(test, "test")})
        case FolderSplit():
            return _by_folder(keys, split, report)
        case AreaSplit():
            return {name: list(keys) for name in SPLIT_NAMES}


def _sorted_out(keys: Iterable[Key], held_out: Mapping[Key, SplitName]) -> Division:
    found: Division = {name: [] for name in SPLIT_NAMES}
    for key in keys:
        found[held_out.get(key, "train")].append(key)
    return found


def _owned(keys: Iterable[Key], owner: Mapping[Key, SplitName]) -> Division:
    """The samples of each split, those that none owns left out."""
    found: Division = {name: [] for name in SPLIT_NAMES}
    for key in keys:
        if key in owner:
            found[owner[key]].append(key)
    return found


def named_scenes(keys: Division, split: Split) -> Mapping[Key, str]:
    """The scene of each sample that the division took by its scene.

    Raises:
        DataError: A sample's scene cannot be told.
    """
    taken: tuple[SplitName, ...] = SPLIT_NAMES
    if isinstance(split, Shared):
        taken = ("train", "val") if isinstance(split.val, float) else ()
    return scenes_of([key for name in taken for key in keys[name]], split)


def _by_folder(keys: Sequence[Key], split: FolderSplit, report: Report) -> Division:
    folders = {
        name: folder
        for name in SPLIT_NAMES
        if not isinstance(folder := getattr(split, name), float)
    }
    if len(set(folders.values())) < len(folders):
        text = f"Splits overlap: two of them read the same folder ({', '.join(folders.values())})."
        hint = "Give dataset.split different folders, or split by scene or fraction."
        report(Problem("split", text, tuple(folders.values()), hint))
    return {
        name: [key for key in keys if name in folders and key.split == folders[name]]
        for name in SPLIT_NAMES
    }


def _held_out_by_scene(
    keys: Sequence[Key], split: SceneSplit, report: Report
) -> dict[Key, SplitName]:
    scene_of = scenes_of(keys, split)
    scenes = sorted(set(scene_of.values()))
    named = [name for part in (split.val, split.test) if isinstance(part, tuple) for name in part]
    if missing := sorted(set(named) - set(scenes)):
        report(_absent_scenes(missing, scenes, split))
    if len(set(named)) < len(named):
        raise DataError("Splits overlap: dataset.split names a scene in both val and test.")
    val, test = draw(scenes, split.val, split.test, split.seed)
    held_out: dict[str, SplitName] = {**dict.fromkeys(val, "val"), **dict.fromkeys(test, "test")}
    return {key: held_out[scene] for key, scene in scene_of.items() if scene in held_out}


def _absent_scenes(missing: Sequence[str], scenes: Sequence[str], split: SceneSplit) -> Problem:
    """What is said of scenes that the recipe names and of which there is no sample."""
    text = f"dataset.split names scenes that are not there: {few(missing)}"
    if split.absent == "skip":
        return Problem("absent", f"{text}; they are left out.", tuple(missing), is_note=True)
    hint = f"Scenes found: {few(scenes) or 'none'}."
    if scenes:
        hint += " To go on without the others: --set dataset.split.absent=skip"
    return Problem("absent", f"{text}.", tuple(missing), hint)


def _too_few(split: Split) -> str | None:
    """What is said where validation takes a share of the training scenes and leaves nothing."""
    if not isinstance(split, Shared) or not isinstance(split.val, float):
        return None
    return "dataset.split.val is a share of the training scenes, of which there are too few"


def _reason(split: Split, name: str) -> str:
    match split:
        case ListSplit():
            return f"dataset.split.{name} leaves nothing for it"
        case ColumnSplit():
            values = " or ".join(map(repr, split.values[name]))
            return f"no row with files has {values} in the column {split.column!r}"
        case FolderSplit():
            return f"the folder {getattr(split, name)!r} holds nothing"
        case SceneSplit():
            return "there are too few scenes for the shares or names given"
        case FractionSplit() | AreaSplit():
            return "there are too few samples for the shares given"
