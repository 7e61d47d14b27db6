"""Lists of samples, one per line in a text file or in the recipe itself."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from eosfm_cli.data.archives import absent_advice
from eosfm_cli.data.problems import Problem, Report
from eosfm_cli.data.splits import SPLIT_NAMES, Key, SplitName, few
from eosfm_cli.errors import DataError
from eosfm_cli.recipe import ListSplit, fill_template
from eosfm_cli.words import counted

Absent = Callable[[Sequence[str], int], None]
"""Told the listed entries that no sample on disk answers to, and how many are listed."""


def read_lists(split: ListSplit, root: Path, report: Report) -> dict[str, SplitName]:
    """Which split each listed entry belongs to.

    Args:
        split: Names the lists, or holds them.
        root: Where text files are.
        report: Told of lists that cannot be read, or share an entry.
    """
    owner: dict[str, SplitName] = {}
    shared: dict[str, tuple[SplitName, SplitName]] = {}
    for name in SPLIT_NAMES:
        given = getattr(split, name)
        for entry in () if isinstance(given, float) else _entries(given, root, report):
            if owner.setdefault(entry, name) != name:
                shared[repr(entry)] = (owner[entry], name)
    _refuse_overlap(shared, report)
    return owner


def _refuse_overlap(shared: Mapping[str, tuple[SplitName, SplitName]], report: Report) -> None:
    """Report what stands in two lists, if anything does."""
    if not shared:
        return
    what, (one, other) = next(iter(shared.items()))
    more = f", and {len(shared) - 1} more stand in two" if len(shared) > 1 else ""
    report(
        Problem(
            "split",
            f"Splits overlap: {what} stands in both {one} and {other}{more}.",
            tuple(shared),
            f"Take it out of one of dataset.split.{one} and .{other}.",
        )
    )


def _entries(given: str | tuple[str, ...], root: Path, report: Report) -> list[str]:
    if not isinstance(given, str):
        return list(given)
    try:
        return _lines(root / given)
    except DataError as error:
        advice = absent_advice(root / given, root) or error.hint
        report(Problem("split", error.message, (given,), advice))
        return []


def _lines(path: Path) -> list[str]:
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


def answering(keys: Iterable[Key], entry: str | None) -> dict[str, list[Key]]:
    """What lists may call a sample -> the samples; their ids, and as `entry` writes them."""
    known: dict[str, list[Key]] = defaultdict(list)
    for key in keys:
        known[key.id].append(key)
        if entry is not None and (name := fill_template(entry, key.fields)) != key.id:
            known[name].append(key)
    return known


def owners(
    known: Mapping[str, list[Key]],
    listed: Mapping[str, SplitName],
    absent: Absent,
    report: Report,
) -> dict[Key, SplitName]:
    """Which split each sample belongs to: lists may also give file names or paths.

    Args:
        known: What lists may call the samples.
        listed: Which split each entry is in.
        absent: Told of entries that call no sample.
        report: Told of samples that two splits name, in different words, and of paths that do not
            tell samples apart.
    """
    owner: dict[Key, SplitName] = {}
    missing: list[str] = []
    shared: dict[str, tuple[SplitName, SplitName]] = {}
    paths: dict[str, list[str]] = defaultdict(list)
    for entry, name in listed.items():
        called = _called(entry, known)
        if called is None:
            missing.append(entry)
        elif called != entry and len(known[called]) > 1:
            paths[called].append(entry)
        for key in known.get(called, ()) if called else ():
            if owner.setdefault(key, name) != name:
                shared[repr(key.id)] = (owner[key], name)
    _refuse_overlap(shared, report)
    _tell_vague(
        [e for called, es in paths.items() if len(es) < len(known[called]) for e in es], report
    )
    if missing:
        absent(missing, len(listed))
    return owner


def _tell_vague(paths: Sequence[str], report: Report) -> None:
    """Tell of listed paths that call samples of one id in several folders."""
    if paths:
        text = f"{counted(len(paths), 'listed path')} for samples of one id in several folders: "
        hint = (
            "Say to the letter how lists write a sample, as in dataset.split.entry: "
            "'{folder}/{id}.tif'."
        )
        report(Problem("split", f"{text}{few(paths)}.", tuple(paths), hint, is_note=True))


def _called(entry: str, known: Mapping[str, list[Key]]) -> str | None:
    """What of an entry is the name of a sample."""
    if entry in known:  # nearly always, and there may be half a million
        return entry
    path = PurePosixPath(entry)
    return next((text for text in (path.name, path.stem) if text in known), None)
