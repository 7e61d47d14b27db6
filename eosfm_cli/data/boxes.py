"""Classes of the objects that Pascal VOC files (XML) list for each sample."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

from eosfm_cli.bands import nearest_word
from eosfm_cli.data.labels import named_classes
from eosfm_cli.data.problems import Problem, Report, problem_of
from eosfm_cli.data.splits import Key
from eosfm_cli.errors import DataError
from eosfm_cli.progress import Progress
from eosfm_cli.recipe import Recipe
from eosfm_cli.words import counted

_MOST_BYTES = 2**24
"""Longer files are no list of an image's objects."""


def read_boxes(
    recipe: Recipe, files: Mapping[Key, Path], root: Path, report: Report, progress: Progress
) -> dict[Key, tuple[int, ...]]:
    """The classes of each sample's objects, each once.

    Args:
        recipe: Its classes.
        files: The file of each sample.
        root: The dataset's folder.
        report: Told of files that cannot be read, which are left out, and, at once, of all names
            that no class lists.
        progress: Told how many are read.
    """
    classes = named_classes(recipe)
    labels: dict[Key, tuple[int, ...]] = {}
    unknown: Counter[str] = Counter()
    with progress.step("Reading boxes", len(files)) as step:
        for key, path in files.items():
            step.advance()
            try:
                names = set(object_names(path))
            except DataError as error:
                report(problem_of(error, "damaged", (path.relative_to(root).as_posix(),)))
                continue
            unknown.update(names - classes.keys())
            labels[key] = tuple(sorted({classes[name] for name in names if name in classes}))
    if unknown:
        report(_unlisted(unknown, classes))
    return labels


def object_names(path: Path) -> list[str]:
    """The names of the objects in a Pascal VOC file.

    Raises:
        DataError: It cannot be read, or is no such file.
    """
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from None
    if len(text) > _MOST_BYTES or b"<!DOCTYPE" in text or b"<!ENTITY" in text:
        raise _unreadable(path, "it is no list of objects")
    try:
        objects = ElementTree.fromstring(text).findall("object")
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise _unreadable(path, f"it is no XML ({error})") from None
    names = [(each.findtext("name") or "").strip() for each in objects]
    if not all(names):
        raise _unreadable(path, "one of its objects has no name")
    return names


def _unreadable(path: Path, reason: str) -> DataError:
    return DataError(
        f"Cannot read the boxes in {path}: {reason}.",
        hint="dataset.boxes names files in the format of Pascal VOC, one per image: get it again, "
        "or take the image out of the dataset.",
    )


def _unlisted(unknown: Mapping[str, int], classes: Mapping[str, int]) -> Problem:
    lines = []
    for name, count in sorted(unknown.items(), key=lambda item: -item[1])[:8]:
        near = nearest_word(name, classes)
        meant = f", is it meant to be {near!r}?" if near else ""
        lines.append(f"  {name!r} in {counted(count, 'file')}{meant}")
    more = [f"  and {len(unknown) - 8} more"] if len(unknown) > 8 else []
    return Problem(
        "class",
        "\n".join(["There are objects that no class of the recipe lists:", *lines, *more]),
        tuple(sorted(unknown)),
        "Add them to the recipe's classes (as a name, or under a class's 'values').",
    )
