"""Files on disk that make one sample, found by the fields that their paths share."""

from __future__ import annotations

import errno
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from eosfm_cli.data.archives import unpack_advice
from eosfm_cli.data.completion import Completion
from eosfm_cli.data.kinds import AREAS, Files, Group, Source, all_paths, used_files
from eosfm_cli.data.problems import Problem, Report
from eosfm_cli.data.rows import Rows
from eosfm_cli.data.splits import Key, few
from eosfm_cli.data.templates import Found, Listing, find_files, first_of, read_fields
from eosfm_cli.progress import Progress, Silent
from eosfm_cli.recipe import Recipe
from eosfm_cli.words import counted

_NOBODY = Silent()


@dataclass(frozen=True)
class Paired:
    """What was found on disk."""

    listings: Mapping[str, Listing]
    """Name of a source -> the files that its paths describe."""
    rows: dict[Key, Files]
    """The files of every sample; some may lack one."""


def pair_files(
    recipe: Recipe,
    root: Path,
    report: Report,
    completion: Completion | None = None,
    progress: Progress = _NOBODY,
) -> Paired:
    """Find the files of every sample; some may lack one.

    Image sources that the recipe does not use are not looked at.

    Args:
        recipe: What the dataset looks like.
        root: The dataset's folder.
        report: Told which kinds of files are not there at all, what cannot be told apart, and
            about files among the samples that no path of the recipe describes.
        completion: What a table adds to the fields of the paths.
        progress: Told how far the search is, where there are many folders.
    """
    sources = used_files(recipe)
    listings = _listings(recipe, root, list(sources.values()), report, progress)
    _tell_strays(listings.values(), recipe, root, report)
    there = [source for source in sources.values() if listings[source.name].files]
    if completion is not None:
        for source in there:
            _complete(listings[source.name].files, source, completion)
        completion.tell_contradictions(report)
    grouped = {s.name: list(_groups(s, listings[s.name], recipe)) for s in there}
    rows = Rows(root, report, completion).of(there, grouped)
    _refuse_double_use(rows, root, report)
    return Paired(listings, rows)


def contents(folder: Path) -> str:
    """What is in a folder, shortened to a line."""
    try:
        seen = [p for p in folder.iterdir() if not p.name.startswith(".")]
    except OSError as error:
        return f"what cannot be listed ({error.strerror})"
    names = sorted(f"{p.name}/" if os.path.isdir(p) else p.name for p in seen)
    return few(names, 8) or "nothing"


# --------------------------------------------------------------------------- what is on disk


def _listings(
    recipe: Recipe, root: Path, sources: Sequence[Source], report: Report, progress: Progress
) -> dict[str, Listing]:
    """The files of each source; what is not there at all is reported."""
    paths = [path for source in sources for path in source.paths]
    closed: list[Problem] = []

    def unread(error: OSError) -> None:
        closed.append(_closed(error, root))
        report(closed[-1])

    found = find_files(
        root,
        paths,
        recipe.dataset.fields,
        beside=all_paths(recipe),
        unread=unread,
        progress=progress,
    )
    listings = {s.name: first_of([found[path] for path in s.paths]) for s in sources}
    for source in sources:
        if not listings[source.name].files and not closed:  # what is missing may be in there
            report(_missing(source, root))
    return listings


def _closed(error: OSError, root: Path) -> Problem:
    """What is said of a folder, or of what a link leads to, that cannot be looked at."""
    path = Path(error.filename)
    loops = error.errno == errno.ELOOP
    return Problem(
        "damaged",
        f"Cannot read {path}: {error.strerror}.",
        (path.relative_to(root).as_posix(),),
        "It is a link that leads back to itself: take it away." if loops else _PERMISSIONS,
    )


_PERMISSIONS = "Check its permissions."


def _missing(source: Source, root: Path) -> Problem:
    return Problem(
        "missing",
        f"No file in {root} is named as the recipe says: {' or '.join(source.paths)}\n"
        f"found there: {contents(root)}",
        source.paths,
        unpack_advice(root, source.paths)
        or "Compare the folder with dataset.images and dataset.masks in the recipe; "
        "--data-root says where the datasets are.",
    )


def _tell_strays(listings: Iterable[Listing], recipe: Recipe, root: Path, report: Report) -> None:
    """Tell about files among the samples that no path of the recipe describes."""
    strays = {path.relative_to(root).as_posix() for each in listings for path in each.strays}
    templates, expressions = all_paths(recipe), recipe.dataset.fields
    odd = tuple(
        path
        for path in sorted(strays)
        if not any(read_fields(template, path, expressions) for template in templates)
    )
    if odd:
        text = (
            f"{counted(len(odd), 'file')} among the samples left out, not named as the recipe "
            f"says: {few(odd)}."
        )
        report(Problem("stray", text, odd, is_note=True))


# --------------------------------------------------------------------------- dates and tables


def _groups(source: Source, listing: Listing, recipe: Recipe) -> Iterator[Group]:
    """The files of each sample: one, or those of the dates that the recipe takes."""
    if not source.is_dated:
        yield from ((file,) for file in listing.files)
        return
    groups: dict[tuple[str, ...], list[Found]] = defaultdict(list)
    for file in listing.files:
        groups[file.values(source.fields)].append(file)
    wanted = recipe.dataset.series.dates
    for files in groups.values():
        by_date = {file.fields["date"]: file for file in files}
        dates = [date for date in wanted if date in by_date] if wanted else sorted(by_date)
        if dates:
            yield tuple(by_date[date] for date in dates)


def _complete(files: list[Found], source: Source, completion: Completion) -> None:
    """Complete the fields of files by those of a table."""
    for place, file in enumerate(files):
        files[place] = Found(file.folder, file.name, completion(file.fields, source.fields))


_LOOKED_AT = 200
"""Samples that tell whether paths of the recipe overlap: if they do, it is so of all of them."""


def _refuse_double_use(rows: Mapping[Key, Files], root: Path, report: Report) -> None:
    """Report a file that stands for two things at once: a field may mean too much."""
    for files in islice(rows.values(), _LOOKED_AT):
        used: dict[Path, str] = {}
        for name, group in files.items():
            for path in (found.path for found in group if name != AREAS):
                if used.setdefault(path, name) != name:
                    said = path.relative_to(root).as_posix()
                    text = f"{said} is taken for a file of both {used[path]} and {name}."
                    hint = "Say in dataset.fields what a field may stand for, as in 'date: \\d{8}'."
                    report(Problem("ambiguous", text, (said,), hint))
                    return
