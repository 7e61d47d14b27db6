"""Files on disk that make one sample, found by the fields that their paths share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from eosfm_cli.data.archives import unpack_advice
from eosfm_cli.data.completion import Completion
from eosfm_cli.data.problems import Problem, Report
from eosfm_cli.data.splits import Key, few
from eosfm_cli.data.templates import Found, Listing, find_files, first_of, read_fields
from eosfm_cli.errors import DataError
from eosfm_cli.progress import Progress, Silent
from eosfm_cli.recipe import AreaSplit, FileSpec, Recipe

_NOBODY = Silent()
MASKS, BOXES, AREAS = "masks", "boxes", "areas"

Files = dict[str, tuple[Found, ...]]
"""Name of a source -> its file of one sample, or those of its dates in the order of the series."""


@dataclass(frozen=True)
class Source:
    """Files of one kind, of which each sample has one, or one for each date."""

    name: str
    """As in `recipe.image_files`, or `MASKS`, `BOXES`, `AREAS`."""
    paths: tuple[str, ...]
    """Where they are: the first that exists."""
    fields: tuple[str, ...]
    """What tells a sample from others in the paths, in order; not the date of a series."""
    image: str | None = None
    """The images it belongs to: those with `{band}` in their path have a source for each band."""
    is_dated: bool = False
    """Whether a sample has a file for each date of a series."""
    is_shared: bool = False
    """Whether several samples may have the same file."""


@dataclass(frozen=True)
class Paired:
    """What was found on disk."""

    listings: Mapping[str, Listing]
    """Name of a source -> the files that its paths describe."""
    rows: dict[Key, Files]
    """The files of every sample; some may lack one."""


def used_files(recipe: Recipe) -> dict[str, Source]:
    """What each sample has: images with bands that the recipe uses, and where labels come from."""
    dataset, split = recipe.dataset, recipe.dataset.split
    image_of = {f.name: name for name, image in dataset.images.items() for f in image.files(name)}
    found = {
        name: _source(recipe, name, file.paths, file.fields, image_of[name])
        for name, file in recipe.image_files.items()
    }
    labels: dict[str, FileSpec | None] = {
        MASKS: dataset.masks if recipe.has_masks else None,
        BOXES: dataset.boxes if recipe.task == "multilabel" else None,
        AREAS: split if isinstance(split, AreaSplit) else None,
    }
    for name, spec in labels.items():
        if spec is not None:
            found[name] = _source(recipe, name, spec.paths, spec.fields)
    return found


def _source(
    recipe: Recipe,
    name: str,
    paths: tuple[str, ...],
    fields: tuple[str, ...],
    image: str | None = None,
) -> Source:
    is_dated = recipe.dataset.series is not None and "date" in fields
    own = tuple(field for field in fields if not (is_dated and field == "date"))
    return Source(name, paths, own, image, is_dated, is_shared=name == AREAS)


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
    rows = _Rows(root, report, completion).of(there, grouped)
    _refuse_double_use(rows, root, report)
    return Paired(listings, rows)


def contents(folder: Path) -> str:
    """What is in a folder, shortened to a line."""
    seen = (p for p in folder.iterdir() if not p.name.startswith("."))
    names = sorted(f"{p.name}/" if p.is_dir() else p.name for p in seen)
    return few(names, 8) or "nothing"


# --------------------------------------------------------------------------- what is on disk


def _listings(
    recipe: Recipe, root: Path, sources: Sequence[Source], report: Report, progress: Progress
) -> dict[str, Listing]:
    """The files of each source; what is not there at all is reported."""
    paths = [path for source in sources for path in source.paths]
    try:
        found = find_files(
            root, paths, recipe.dataset.fields, beside=_all_paths(recipe), progress=progress
        )
    except OSError as error:
        raise DataError(
            f"Cannot read {error.filename}: {error.strerror}.", hint="Check its permissions."
        ) from None
    listings = {s.name: first_of([found[path] for path in s.paths]) for s in sources}
    for source in sources:
        if not listings[source.name].files:
            report(_missing(source, root))
    return listings


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


def _all_paths(recipe: Recipe) -> list[str]:
    """Every path of the recipe, also of images and labels that it does not use, and others."""
    dataset = recipe.dataset
    files = (file for name, image in dataset.images.items() for file in image.files(name))
    area = dataset.split if isinstance(dataset.split, AreaSplit) else None
    specs = [spec for spec in (dataset.masks, dataset.boxes, area) if spec is not None]
    return [*(path for each in (*files, *specs) for path in each.paths), *dataset.others]


def _tell_strays(listings: Iterable[Listing], recipe: Recipe, root: Path, report: Report) -> None:
    """Tell about files among the samples that no path of the recipe describes."""
    strays = {path.relative_to(root).as_posix() for each in listings for path in each.strays}
    templates, expressions = _all_paths(recipe), recipe.dataset.fields
    odd = tuple(
        path
        for path in sorted(strays)
        if not any(read_fields(template, path, expressions) for template in templates)
    )
    if odd:
        text = (
            f"{len(odd)} files stand among the samples but are not named as the recipe says, and "
            f"are left out: {few(odd)}."
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


# --------------------------------------------------------------------------- rows


Group = tuple[Found, ...]
_Common = tuple[str, ...]


class _Rows:
    """Joins the files of several sources to samples.

    Args:
        root: The dataset's folder.
        report: Told what cannot be told apart.
        completion: What a table adds to the fields of the paths.
    """

    def __init__(self, root: Path, report: Report, completion: Completion | None) -> None:
        self._root, self._report, self._completion = root, report, completion
        self._rows: dict[Key, Files] = {}
        self._partners: dict[tuple[str, ...], dict[_Common, Files]] = {}

    def of(
        self, sources: Sequence[Source], groups: Mapping[str, Sequence[Group]]
    ) -> dict[Key, Files]:
        """Files that belong together, by the fields that their paths have in common.

        A file that matches none of the first source gets a row of its own, incomplete.
        """
        if not sources:
            return {}
        one, *others = sources
        self._rows = {self._key(g[0], one): {one.name: g} for g in groups[one.name]}
        firsts = list(self._rows.values())
        for other in others:
            if other.is_shared:
                self._add_shared(other, groups[other.name])
            else:
                self._add(one, firsts, other, groups[other.name])
        return self._rows

    def _add(
        self, one: Source, firsts: Sequence[Files], other: Source, groups: Sequence[Group]
    ) -> None:
        shared = tuple(sorted({*self._fields(one)} & {*self._fields(other)}))
        if shared not in self._partners:
            ones, _ = self._unique([files[one.name] for files in firsts], shared)
            rows = {id(files[one.name]): files for files in firsts}
            self._partners[shared] = {common: rows[id(g)] for common, g in ones.items()}
        partners = self._partners[shared]
        found, lone = self._unique(groups, shared)
        for common, group in found.items():
            row = partners.get(common)
            if row is None:
                row = self._rows.setdefault(self._key(group[0], other), {})
            row[other.name] = group
        for group in lone:
            self._rows.setdefault(self._key(group[0], other), {})[other.name] = group

    def _add_shared(self, other: Source, groups: Iterable[Group]) -> None:
        by_fields = {group[0].values(other.fields): group for group in groups}
        for key, files in self._rows.items():
            fields = key.fields
            group = by_fields.get(tuple(fields.get(name, "") for name in other.fields))
            if group is not None:
                files[other.name] = group

    def _fields(self, source: Source) -> tuple[str, ...]:
        """What tells a sample by the files of a source, with what a table adds."""
        added = self._completion.adds_to(source.fields) if self._completion else ()
        return (*source.fields, *added)

    def _unique(
        self, groups: Iterable[Group], shared: tuple[str, ...]
    ) -> tuple[dict[_Common, Group], list[Group]]:
        """Files by the fields that they share with others, and those that lack such a field.

        These have no row in the table that would add it: they are nobody's partner.
        """
        found: dict[_Common, Group] = {}
        lone: list[Group] = []
        twins: list[tuple[str, str]] = []
        for group in groups:
            try:
                twin = found.setdefault(group[0].values(shared), group)
            except KeyError:
                lone.append(group)
                continue
            if twin is not group:
                twins.append((self._said(group), self._said(twin)))
        if twins:
            self._report(_ambiguous(twins, shared))
        return found, lone

    def _said(self, group: Group) -> str:
        return group[0].path.relative_to(self._root).as_posix()

    def _key(self, found: Found, source: Source) -> Key:
        """What tells a sample from all others, by the fields of one of its files."""
        fields = found.fields
        own = [(f, fields[f]) for f in source.fields if f not in {"split", "class", "id"}]
        identifier = fields.get("id") or "_".join(text for _, text in own)
        added = [
            (name, fields[name])
            for name in self._fields(source)[len(source.fields) :]
            if name in fields and name != "id"
        ]
        return Key(fields.get("split", ""), fields.get("class", ""), identifier, (*own, *added))


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


def _ambiguous(twins: Sequence[tuple[str, str]], shared: tuple[str, ...]) -> Problem:
    one, other = twins[0]
    more = f" So it is with {len(twins) - 1} more." if len(twins) > 1 else ""
    return Problem(
        "ambiguous",
        f"{one} and {other} cannot be told apart by {' and '.join(shared)}.{more}",
        tuple(path for pair in twins for path in pair),
        "Put the fields that tell them apart, such as {split} or {class}, into all paths of the "
        "recipe, or rename the files.",
    )
