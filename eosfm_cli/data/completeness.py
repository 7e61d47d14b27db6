"""Samples that lack a file, and those that are listed and not on disk at all."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from eosfm_cli.data.archives import unpack_advice
from eosfm_cli.data.division import Division, report_empty
from eosfm_cli.data.kinds import Files, Source, used_files
from eosfm_cli.data.lists import Absent
from eosfm_cli.data.problems import Problem, Report
from eosfm_cli.data.splits import SPLIT_NAMES, Key, few
from eosfm_cli.data.templates import read_fields
from eosfm_cli.recipe import Recipe, Split, fill_template
from eosfm_cli.words import counted

Lacking = Mapping[Key, list[tuple[str, ...]]]
"""Sample -> of each file that it should have and does not, the paths where it could be."""

_SKIP = (
    "Complete the download, take them out of the lists, or go on without them: "
    "--set dataset.split.absent=skip"
)
_TIDY = (
    "Complete the download, move what has no partner out of the folder, or name the samples to use "
    "with 'split: {by: list}'."
)


def goes_on(split: Split) -> bool:
    """Whether listed samples may lack their files."""
    return getattr(split, "absent", "error") == "skip"


def all_keys(keys: Division) -> list[Key]:
    """The samples of all splits, each once."""
    return list(dict.fromkeys(key for name in SPLIT_NAMES for key in keys[name]))


# --------------------------------------------------------------------------- listed, not there


def absent_listener(recipe: Recipe, root: Path, report: Report) -> Absent:
    """What to do about listed samples of which there is no file."""

    def tell(entries: Sequence[str], listed: int) -> None:
        if goes_on(recipe.dataset.split):
            text = (
                f"{len(entries)} of {listed} listed samples are not on disk and are left out: "
                f"{few(entries)}."
            )
            report(Problem("absent", text, tuple(entries), is_note=True))
            return
        wanted = _expected(entries, recipe)
        lines = [
            f"{len(entries)} of {listed} listed samples are not on disk: {few(entries)}.",
            *_absent_folders(wanted, root),
        ]
        advice = unpack_advice(root, wanted) or _SKIP
        report(Problem("absent", "\n".join(lines), tuple(entries), advice))

    return tell


def _expected(entries: Iterable[str], recipe: Recipe) -> list[str]:
    """Where the first file of each listed sample should be, as far as its entry tells."""
    template = next(iter(used_files(recipe).values())).paths[0]
    entry = getattr(recipe.dataset.split, "entry", None)
    found = (_fields_of(text, entry) for text in entries)
    return [fill_template(template, fields) for fields in found if fields]


def _fields_of(text: str, entry: str | None) -> dict[str, str] | None:
    path = PurePosixPath(text)
    if entry is None:
        return {"id": path.stem}
    return read_fields(entry, text) or read_fields(entry, path.name)


def _absent_folders(wanted: Iterable[str], root: Path) -> list[str]:
    """Lines for the folders at the root that are missing, with how many samples need each."""
    tops = Counter(path.split("/")[0] for path in wanted if "/" in path)
    missing = {
        top: count
        for top, count in sorted(tops.items())
        if "{" not in top and not (root / top).is_dir()
    }
    return [f"  {top}/ is not there: {counted(count, 'sample')}" for top, count in missing.items()]


# --------------------------------------------------------------------------- incomplete


def whole_samples(
    rows: Mapping[Key, Files],
    sources: Sequence[Source],
    recipe: Recipe,
    image_of: Mapping[Key, Key],
) -> set[Key]:
    """The samples that lack no file; the arguments are those of `complete`."""
    lacking = _lacking_of(recipe, sources)
    return {key for key, files in rows.items() if not lacking(files, image_of.get(key, key))}


def complete(
    rows: Mapping[Key, Files],
    keys: Division,
    sources: Sequence[Source],
    recipe: Recipe,
    root: Path,
    report: Report,
    image_of: Mapping[Key, Key],
) -> Division:
    """The division without samples that lack a file, which are reported.

    Args:
        rows: The files of each sample.
        keys: The samples of each split.
        sources: What each should have.
        recipe: Says whether listed samples may lack files, and dates of a series.
        root: The dataset's folder.
        report: Told of those that lack something.
        image_of: The images that samples are parts of, where they are.
    """
    split = recipe.dataset.split
    lacking = _lacking_of(recipe, sources)
    whole = {image_of.get(key, key): rows[key] for key in all_keys(keys)}
    lacks = {key: paths for key, files in whole.items() if (paths := lacking(files, key))}
    if not lacks:
        return keys
    report(_left_out(lacks) if goes_on(split) else _incomplete(lacks, split, root))
    kept: Division = {
        name: [key for key in keys[name] if image_of.get(key, key) not in lacks]
        for name in SPLIT_NAMES
    }
    if all(keys.values()):  # or that has been reported
        report_empty(kept, split, root, len(rows), report)
    return kept


def _lacking_of(
    recipe: Recipe, sources: Sequence[Source]
) -> Callable[[Files, Key], list[tuple[str, ...]]]:
    """What finds out which files a sample lacks."""
    series = recipe.dataset.series
    needs_dates = series is not None and series.absent == "error"
    dated = [source for source in sources if source.is_dated] if needs_dates else []

    def lacking(files: Files, key: Key) -> list[tuple[str, ...]]:
        missing = [source for source in sources if source.name not in files]
        paths = [
            _filled(source, fields)
            for source in missing
            for fields in _with_dates(source, key.fields, series.dates if needs_dates else ())
        ]
        if dated:
            paths += _lacking_dates(files, key, dated, series.dates)
        return paths

    return lacking


def _with_dates(
    source: Source, fields: Mapping[str, str], dates: Sequence[str]
) -> list[Mapping[str, str]]:
    """The fields of the files that a sample should have: with each date, where these are told."""
    return [{**fields, "date": date} for date in dates if source.is_dated] or [fields]


def _lacking_dates(
    files: Files, key: Key, sources: Sequence[Source], dates: Sequence[str]
) -> list[tuple[str, ...]]:
    """Where the files of missing dates could be; all bands of an image have the same dates."""
    own = {
        source: {found.fields["date"] for found in files[source.name]}
        for source in sources
        if source.name in files
    }
    of_image: dict[str | None, set[str]] = defaultdict(set)
    for source, found in own.items():
        of_image[source.image] |= found
    return [
        _filled(source, {**key.fields, "date": date})
        for source, found in own.items()
        for date in sorted((set(dates) or of_image[source.image]) - found)
    ]


def _filled(source: Source, fields: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(fill_template(path, fields) for path in source.paths)


def _left_out(lacks: Lacking) -> Problem:
    text = (
        f"{counted(len(lacks), 'listed sample')} left out for lack of a file: "
        f"{few([f'{key.id} ({paths[0][0]})' for key, paths in lacks.items()], 3)}."
    )
    return Problem("unpaired", text, _items(lacks), is_note=True)


def _incomplete(lacks: Lacking, split: Split, root: Path) -> Problem:
    lines = [
        f"  {key.id} lacks {few([' or '.join(paths) for paths in files], 3)}"
        for key, files in lacks.items()
    ]
    more = [f"  and {len(lines) - 5} more"] if len(lines) > 5 else []
    wanted = (path for files in lacks.values() for paths in files for path in paths)
    return Problem(
        "unpaired",
        "\n".join([f"{counted(len(lacks), 'sample')} incomplete:", *lines[:5], *more]),
        _items(lacks),
        unpack_advice(root, wanted) or (_SKIP if hasattr(split, "absent") else _TIDY),
    )


def _items(lacks: Lacking) -> tuple[str, ...]:
    return tuple(" or ".join(paths) for files in lacks.values() for paths in files)


def tell_unused(rows: Iterable[Key], keys: Division, report: Report) -> None:
    """Tell about samples on disk that are in no split."""
    used = set(all_keys(keys))
    unused = sorted(key.id for key in rows if key not in used)
    if unused:
        text = f"{counted(len(unused), 'sample')} on disk in no split: {few(unused)}."
        report(Problem("unused", text, tuple(unused), is_note=True))
