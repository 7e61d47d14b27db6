"""Look at a recipe's data and say everything that is missing or wrong."""

from __future__ import annotations

import os
import random
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from eosfm_cli.carbon.tracker import track
from eosfm_cli.data.archives import packed
from eosfm_cli.data.blank import Samples, without_blank
from eosfm_cli.data.check_paths import PathCheck, check_paths
from eosfm_cli.data.check_splits import Division, check_division
from eosfm_cli.data.check_values import Values, far_off, look_at_values
from eosfm_cli.data.folder import FolderSurvey, Sample, survey_folder
from eosfm_cli.data.pairing import contents, used_files
from eosfm_cli.data.problems import Problem
from eosfm_cli.data.reader import Header
from eosfm_cli.data.sources import folder_above, make_embedded, resolve_root
from eosfm_cli.data.splits import Key, SplitName, few
from eosfm_cli.data.statistics import compute_statistics
from eosfm_cli.errors import DataError
from eosfm_cli.progress import Progress
from eosfm_cli.recipe import BandStatistics, Recipe
from eosfm_cli.run_dir import experiments_dir
from eosfm_cli.words import counted

MOST_OPENED = 500
"""Of each split the files of so many samples are opened, unless all are."""


@dataclass(frozen=True)
class FileKind:
    """What the files of one kind say about themselves, without their pixels."""

    kind: str
    """An image's name, or `masks`."""
    opened: int
    sizes: tuple[tuple[int, int], ...]
    """Rows and columns, the most frequent first."""
    dtypes: tuple[str, ...]
    bands: tuple[int, ...]
    dates: tuple[int, int] | None
    """Fewest and most images of a sample, where it has several dates."""


@dataclass(frozen=True)
class DataCheck:
    """What a recipe's data is, and everything that is missing or wrong."""

    recipe: str
    title: str
    licence: str | None
    size: str | None
    homepage: str | None
    download: str | None
    fetchable: bool
    """Whether `eosfm data download` gets it."""
    root: Path
    holds: str | None
    """What stands in the root; `None` where it is not there."""
    archives: tuple[str, ...]
    """Downloads that are perhaps not unpacked."""
    paths: tuple[PathCheck, ...]
    division: Division | None
    files: tuple[FileKind, ...]
    values: Values | None
    statistics: dict[str, dict[str, float]] | None
    """Band -> mean and standard deviation of the training split, where they were asked for."""
    problems: tuple[Problem, ...]
    """What is missing or wrong."""
    notes: tuple[Problem, ...]
    """What is odd, and stops nothing."""

    @property
    def ok(self) -> bool:
        """Whether the recipe can be trained on what is there."""
        return not self.problems

    @property
    def absent(self) -> bool:
        """Whether nothing at all is there."""
        return all(path.missing for path in self.paths if path.needed)


def check_data(
    recipe: Recipe,
    data_root: Path | None,
    progress: Progress,
    *,
    everything: bool,
    statistics: bool,
) -> DataCheck:
    """Look at the data of a recipe; what is wrong with it is part of the result.

    Args:
        recipe: What the data should be.
        data_root: The folder of the datasets; `EOSFM_DATA` or `data` if not given.
        progress: Told how far it is.
        everything: Open every file and read every pixel, instead of a seeded choice.
        statistics: Compute those of the training split.
    """
    root = resolve_root(recipe, data_root)
    make_embedded(recipe, root, progress)
    if not os.path.isdir(root) or not os.access(root, os.R_OK | os.X_OK):
        return _nothing_there(recipe, root)
    choose = _Choice(None if everything else MOST_OPENED, whole_training=statistics)
    survey = survey_folder(recipe, root, progress, look_at=choose)
    problems = list(survey.problems)
    samples, found = _not_blank(survey.source.samples, recipe, root, progress)
    problems += found
    computed = None
    values = look_at_values(samples, recipe, root, progress, everything=everything)
    problems += _about_values(values, samples, recipe)
    if statistics:
        computed, found = _statistics(samples["train"], recipe, progress)
        problems += found
    return replace(
        _facts(recipe, root),
        holds=contents(root),
        archives=tuple(_archives(recipe, root, survey)),
        paths=check_paths(used_files(recipe), recipe, root, survey.listings, survey.samples),
        division=check_division(recipe.dataset.split, survey.splits, survey.source.areas),
        files=tuple(_kinds(survey, choose.keys)),
        values=values,
        statistics=computed,
        problems=_once(p for p in problems if not p.is_note),
        notes=_once(p for p in problems if p.is_note),
    )


def _facts(recipe: Recipe, root: Path) -> DataCheck:
    dataset = recipe.dataset
    return DataCheck(
        recipe=recipe.name,
        title=recipe.title,
        licence=dataset.licence,
        size=dataset.size,
        homepage=dataset.homepage,
        download=dataset.download,
        fetchable=bool(dataset.files),
        root=root,
        holds=None,
        archives=(),
        paths=(),
        division=None,
        files=(),
        values=None,
        statistics=None,
        problems=(),
        notes=(),
    )


def _once(problems: Iterator[Problem]) -> tuple[Problem, ...]:
    """Each problem once: a damaged file may be met when it is opened and when it is read."""
    return tuple({problem.text: problem for problem in problems}.values())


# --------------------------------------------------------------------------- what is there


def _nothing_there(recipe: Recipe, root: Path) -> DataCheck:
    problem = Problem(
        "missing",
        _why_nothing(root),
        (str(root),),
        f"Put the data there, or name the folder that holds {root.name!r} with --data-root; if it "
        "is called otherwise: --set dataset.root=NAME",
    )
    return replace(
        _facts(recipe, root),
        archives=tuple(packed(root.parent, [f"{root.name}/"], others=False)),
        paths=check_paths(used_files(recipe), recipe, root, {}, None),
        problems=(problem,),
    )


def _why_nothing(root: Path) -> str:
    if os.path.isdir(root):
        return f"The folder {root} cannot be read: its permissions forbid it."
    if os.path.exists(root):
        return f"{root} is a file, not a folder."
    folder = folder_above(root)
    return f"There is no folder {root}; {folder} holds {contents(folder)}."


def _archives(recipe: Recipe, root: Path, survey: FolderSurvey) -> list[str]:
    """Archives in the root that may hold what is missing there."""
    missing = [problem for problem in survey.problems if not problem.is_note]
    if not missing:
        return []
    wanted = [path for source in used_files(recipe).values() for path in source.paths]
    return packed(root, wanted)


class _Choice:
    """Chooses the samples whose files are opened.

    Args:
        most: How many of each split; all if not given.
        whole_training: Take all for training, of which statistics are to be computed.
    """

    def __init__(self, most: int | None, *, whole_training: bool) -> None:
        self._most, self._whole_training = most, whole_training
        self.keys: set[Key] = set()

    def __call__(self, splits: Mapping[SplitName, Sequence[Key]]) -> Collection[Key]:
        """The same of the same samples every time; they are remembered."""
        rng = random.Random(0)
        for name, keys in splits.items():
            most = None if self._whole_training and name == "train" else self._most
            every = most is None or len(keys) <= most
            self.keys.update(keys if every else rng.sample(list(keys), most))
        return self.keys


def _kinds(survey: FolderSurvey, chosen: Collection[Key]) -> Iterator[FileKind]:
    """What the opened rasters of each kind are."""
    groups: dict[str, set[tuple[Path, ...]]] = defaultdict(set)
    # Samples that are windows share the files of a row that is no sample itself.
    for key in [key for key in survey.rows if key in chosen] or survey.rows:
        for kind, files in survey.rows[key].items():
            groups[kind].add(tuple(file.path for file in files))
    for kind, group in groups.items():
        opened = (survey.headers.get(path) for paths in group for path in paths)
        headers = [header for header in opened if header is not None]
        if headers:
            yield FileKind(
                kind,
                len(headers),
                _frequent((header.height, header.width) for header in headers),
                _frequent(dtype for header in headers for dtype in set(header.dtypes)),
                _frequent(header.count for header in headers),
                _dates(group, headers),
            )


def _dates(
    groups: Collection[tuple[Path, ...]], headers: Sequence[Header]
) -> tuple[int, int] | None:
    """Fewest and most dates of a sample, in files of their own or within one."""
    for counts in ([len(paths) for paths in groups], [header.dates for header in headers]):
        if max(counts) > 1:
            return min(counts), max(counts)
    return None


def _frequent(found: Iterator) -> tuple:
    return tuple(value for value, _ in Counter(found).most_common())


# --------------------------------------------------------------------------- values


def _not_blank(
    samples: Samples, recipe: Recipe, root: Path, progress: Progress
) -> tuple[Samples, list[Problem]]:
    """The samples that show something, and a note on the others."""
    try:
        kept = without_blank(samples, recipe, root, progress)
    except DataError as error:
        return samples, [Problem("damaged", error.message, (), error.hint)]
    shown = {id(sample) for every in kept.values() for sample in every}
    blank = sorted(
        sample.place.relative_to(root).as_posix()
        for every in samples.values()
        for sample in every
        if id(sample) not in shown
    )
    if not blank:
        return samples, []
    count = sum(map(len, samples.values()))
    text = f"{len(blank)} of {count} samples show next to nothing and are left out: {few(blank)}."
    return kept, [Problem("unused", text, tuple(blank), "dataset.blank decides.", is_note=True)]


def _about_values(values: Values, samples: Samples, recipe: Recipe) -> Iterator[Problem]:
    """What the pixels and labels that were read say against the recipe."""
    yield from values.problems
    if values.unknown:
        yield _unknown(values, recipe)
    if lines := far_off(values.bands, recipe.statistics or {}):
        yield Problem(
            "values",
            "\n".join(
                ["Values are far from the recipe's statistics:", *(f"  {line}" for line in lines)]
            ),
            tuple(lines),
            "Is this the data that the recipe is about, in the same unit? If so, take the "
            "statistics out of the recipe, or those that --stats prints in their place.",
        )
    yield from _nothing_to_see(values, samples, recipe)
    yield from _beyond_target(values, recipe)


def _unknown(values: Values, recipe: Recipe) -> Problem:
    masks = recipe.dataset.masks
    kind = "colours" if recipe.by_colour else "values"
    lines = [
        f"  {each.label}: {counted(each.pixels, 'pixel')} in {counted(len(each.files), 'file')}, "
        f"as {each.files[0]}"
        for each in values.unknown
    ]
    more = [f"  and {len(lines) - 8} more"] if len(lines) > 8 else []
    closer = ", raise dataset.masks.tolerance" if recipe.by_colour else ""
    return Problem(
        "class",
        "\n".join([f"Masks have {kind} that no class of the recipe lists:", *lines[:8], *more]),
        tuple(each.label for each in values.unknown),
        f"Add them to a class's 'values' or to dataset.masks.ignore{closer}, or let all such "
        "labels count as no label: --set dataset.masks.unknown=ignore",
        is_note=masks.unknown == "ignore",
    )


def _nothing_to_see(values: Values, samples: Samples, recipe: Recipe) -> Iterator[Problem]:
    """Bands without a value and masks without a label: a note where not all was read."""
    everything = values.windows == values.of_windows and all(
        count == len(samples[name]) for name, count in values.samples.items()
    )
    read = "" if everything else " that was read"
    if not values.windows or values.problems:
        return
    for band in values.bands:
        if band.mean is None:
            date = "" if band.date is None else f" of date {band.date}"
            yield Problem(
                "values",
                f"Band {band.band}{date} has no value in any pixel{read}: all is nodata or NaN.",
                (band.band,),
                "Check the files' nodata value and dataset.images, or leave the band out with "
                "'bands'.",
                is_note=not everything,
            )
    if recipe.has_masks and (1.0 in (values.unlabelled, values.target and values.target.nodata)):
        yield Problem(
            "values",
            f"No pixel of the masks{read} has a label.",
            (),
            "Check dataset.masks and the values of the classes in the recipe, and the masks.",
            is_note=not everything,
        )


def _beyond_target(values: Values, recipe: Recipe) -> Iterator[Problem]:
    """Note targets that maps will never show, as the recipe gives their range."""
    found, target = values.target, recipe.target
    if found is None or found.min is None or target is None:
        return
    low = target.min is not None and found.min < target.min
    high = target.max is not None and found.max > target.max
    if low or high:
        yield Problem(
            "values",
            f"The target {target.title} goes from {found.min:g} to {found.max:g}, the recipe says "
            f"from {_or_open(target.min)} to {_or_open(target.max)}.",
            (),
            "Check dataset.masks.scale, .offset and .ignore, or change target.min and target.max.",
            is_note=True,
        )


def _or_open(bound: float | None) -> str:
    return "anything" if bound is None else f"{bound:g}"


def _statistics(
    train: Sequence[Sample], recipe: Recipe, progress: Progress
) -> tuple[dict[str, dict[str, float]] | None, list[Problem]]:
    """Statistics of the training split, or why there are none."""
    if not train:
        return None, []
    try:
        with track(
            experiments_dir(),
            command="data check",
            name=recipe.name,
            recipe=recipe.name,
            progress=progress,
        ):
            found = compute_statistics(train, recipe, progress)
    except DataError as error:
        return None, [Problem("damaged", error.message, (), error.hint)]
    return {band: _rounded(one) for band, one in found.items()}, []


def _rounded(statistics: BandStatistics) -> dict[str, float]:
    """Mean and spread with the digits that a recipe needs."""
    return {key: float(f"{value:.6g}") for key, value in statistics.model_dump().items()}
