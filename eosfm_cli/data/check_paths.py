"""Which of a recipe's files are there: expected beside found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from eosfm_cli.data.pairing import Source
from eosfm_cli.data.splits import SPLIT_NAMES
from eosfm_cli.data.templates import Found, Listing, read_fields
from eosfm_cli.recipe import ListSplit, Recipe


@dataclass(frozen=True)
class PathCheck:
    """One path of the recipe, and what is there."""

    kind: str
    """What the files are: an image's name, `masks`, `labels`, …"""
    path: str
    """As the recipe writes it."""
    found: int
    """How many files there are; of a series, how many samples have some."""
    expected: int | None
    """How many there should be; `None` where nobody knows."""
    needed: bool
    """Whether something has to be there: not where another path stands for it."""
    example: str | None

    @property
    def missing(self) -> bool:
        """Whether nothing is there where something has to be."""
        return self.needed and not self.found


def check_paths(
    sources: Mapping[str, Source],
    recipe: Recipe,
    root: Path,
    listings: Mapping[str, Listing],
    samples: int | None,
) -> tuple[PathCheck, ...]:
    """Count the files that each path of the recipe describes.

    Args:
        sources: Kind of file -> its paths.
        recipe: Names tables and lists.
        root: The dataset's folder.
        listings: What was found of each kind.
        samples: How many samples there should be, if anybody knows.
    """
    labels = recipe.dataset.labels
    windowed = labels is not None and labels.windows
    per_sample = [
        check
        for kind, source in sources.items()
        for check in _of_kind(
            source,
            _one_per_sample(source, listings[kind].files if kind in listings else ()),
            root,
            None if source.is_shared or windowed else samples,
        )
    ]
    return (*per_sample, *_single(recipe, root))


def _one_per_sample(source: Source, files: Sequence[Found]) -> Sequence[Found]:
    """Of each sample one file, where it has one for each date."""
    if not source.is_dated:
        return files
    return list({file.values(source.fields): file for file in reversed(files)}.values())[::-1]


def _of_kind(
    source: Source, files: Sequence[Found], root: Path, samples: int | None
) -> Iterator[PathCheck]:
    counts, examples = _by_template(source.paths, files, root)
    for path in source.paths:
        needed = counts[path] > 0 or not files
        yield PathCheck(source.name, path, counts[path], samples, needed, examples.get(path))


def _by_template(
    templates: Sequence[str], files: Sequence[Found], root: Path
) -> tuple[Counter[str], dict[str, str]]:
    """How many files each template has, and one of them."""
    counts: Counter[str] = Counter()
    examples: dict[str, str] = {}
    if len(templates) == 1 and files:
        return Counter({templates[0]: len(files)}), {templates[0]: _named(files[0], root)}
    for file in files:
        name = _named(file, root)
        owner = next((t for t in templates if read_fields(t, name)), templates[0])
        counts[owner] += 1
        examples.setdefault(owner, name)
    return counts, examples


def _named(file: Found, root: Path) -> str:
    return file.path.relative_to(root).as_posix()


def _single(recipe: Recipe, root: Path) -> Iterator[PathCheck]:
    """Tables and lists, of which there is one for all samples."""
    labels, split = recipe.dataset.labels, recipe.dataset.split
    if labels is not None:
        there = [path for path in labels.paths if (root / path).is_file()]
        for path in labels.paths:
            yield _one("labels", path, root, needed=path in there or not there)
    if isinstance(split, ListSplit):
        for name in SPLIT_NAMES:
            if isinstance(given := getattr(split, name), str):
                yield _one(f"{name} list", given, root, needed=True)


def _one(kind: str, path: str, root: Path, *, needed: bool) -> PathCheck:
    there = (root / path).is_file()
    return PathCheck(kind, path, int(there), 1, needed, path if there else None)
