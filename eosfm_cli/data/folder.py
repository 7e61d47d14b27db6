"""Any dataset of rasters in folders, as a recipe's paths describe it."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from eosfm_cli.bands import nearest_word
from eosfm_cli.data.areas import draw_areas
from eosfm_cli.data.boxes import read_boxes
from eosfm_cli.data.completeness import (
    absent_listener,
    all_keys,
    complete,
    goes_on,
    tell_unused,
    whole_samples,
)
from eosfm_cli.data.completion import Completion
from eosfm_cli.data.division import Division, divide, named_scenes
from eosfm_cli.data.header_checks import HeaderCheck, Headers, Shape, rasters_of, readable
from eosfm_cli.data.kinds import AREAS, BOXES, MASKS, Files, Source, used_files
from eosfm_cli.data.labels import named_classes
from eosfm_cli.data.pairing import Paired, pair_files
from eosfm_cli.data.problems import Collected, Kind, Problem, Refused, Report, problem_of, refusing
from eosfm_cli.data.row_windows import same_ground, window_in, windows_of
from eosfm_cli.data.sample import Areas, FolderSource, Label, Packing, Sample
from eosfm_cli.data.splits import SPLIT_NAMES, Key, SplitName, few
from eosfm_cli.data.table import Table, check_rows, read_table
from eosfm_cli.data.table_files import Bounds
from eosfm_cli.data.templates import Listing
from eosfm_cli.errors import DataError
from eosfm_cli.progress import Progress
from eosfm_cli.recipe import AreaSplit, ColumnSplit, Recipe
from eosfm_cli.tiling import Tile
from eosfm_cli.words import counted

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class FolderSurvey:
    """All that was found on disk, right or wrong."""

    listings: Mapping[str, Listing]
    """Name of a source, as in `used_files` -> the files that its paths describe."""
    rows: Mapping[Key, Files]
    """The files of each sample, some incomplete."""
    samples: int
    """How many samples there are, in a split or not."""
    splits: Mapping[SplitName, tuple[Key, ...]]
    """The complete samples of each split."""
    source: FolderSource
    """The samples with which nothing is wrong."""
    headers: Headers
    """What the files that were looked at say about themselves."""
    problems: tuple[Problem, ...] = ()


def read_folder(recipe: Recipe, root: Path, progress: Progress) -> FolderSource:
    """Find, pair, split and check every sample of a dataset.

    Args:
        recipe: What the dataset looks like; image sources whose bands it does not use are left
            out.
        root: The dataset's folder, which exists.
        progress: Told about samples that are in no split.

    Raises:
        DataError: Files are missing, unmatched, damaged or not as the recipe says.
    """
    with _uncollected():
        source = _Survey(recipe, root, progress, refusing(progress)).all().source
    _tell_unlisted_labels(recipe, progress)
    return source


LookAt = Callable[[Mapping[SplitName, Sequence[Key]]], Collection[Key]]
"""Of the complete samples of each split, those whose files are to be looked at."""


def survey_folder(
    recipe: Recipe, root: Path, progress: Progress, *, look_at: LookAt | None = None
) -> FolderSurvey:
    """The same, but collect what is wrong instead of refusing it.

    Args:
        recipe: What the dataset looks like.
        root: The dataset's folder, which exists.
        progress: Told how far the check is.
        look_at: Chooses the samples whose files are opened, which `source` then consists of; as
            `read_folder` does if not given.
    """
    with _uncollected():
        return _Survey(recipe, root, progress, Collected(), look_at).all()


@contextmanager
def _uncollected() -> Iterator[None]:
    """Do not look for garbage among millions of new objects: it takes a third of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class _Survey:
    """Goes through a dataset once.

    Args:
        recipe: What the dataset looks like.
        root: The dataset's folder.
        progress: Told how far it is.
        report: Told of problems; where it returns, what they are about is left out.
        look_at: Chooses the samples whose files are opened.
    """

    def __init__(
        self,
        recipe: Recipe,
        root: Path,
        progress: Progress,
        report: Report,
        look_at: LookAt | None = None,
    ) -> None:
        self._recipe, self._root = recipe, root
        self._progress, self._report = progress, report
        self._look_at = look_at
        self._images = tuple(recipe.image_files)
        self._packing = Packing()
        self._headers: Headers = {}
        self._bounds: Mapping[Key, Bounds] = {}
        self._image_of: Mapping[Key, Key] = {}
        self._unlisted = 0

    def all(self) -> FolderSurvey:
        """What is there."""
        recipe, root, report = self._recipe, self._root, self._report
        table = self._tried("table", lambda: read_table(recipe, root))
        paired = self._tried("damaged", lambda: self._paired(table)) or Paired({}, {})
        rows, table = self._windowed(paired.rows, table)
        rows = self._listed(rows, table)
        there = [s for s in used_files(recipe).values() if _are_there(s.name, paired.listings)]
        keys = self._divided(rows, there, table)
        keys = complete(rows, keys, there, recipe, root, report, self._image_of)
        labels = self._labels(rows, all_keys(keys), table)
        samples = self._samples(rows, keys, labels, table)
        source = FolderSource(root, samples, self._areas(samples))
        splits = {name: tuple(keys[name]) for name in SPLIT_NAMES}
        return FolderSurvey(
            listings=paired.listings,
            rows=paired.rows,
            samples=len(rows) + self._unlisted,
            splits=splits,
            source=source,
            headers=self._headers,
            problems=report.problems if isinstance(report, Collected) else (),
        )

    def _tried(self, kind: Kind, work: Callable[[], _Result]) -> _Result | None:
        try:
            return work()
        except Refused:
            raise
        except DataError as error:
            self._report(problem_of(error, kind))
            return None

    def _paired(self, table: Table | None) -> Paired:
        completion = Completion(table) if table is not None and table.field_names else None
        return pair_files(self._recipe, self._root, self._report, completion, self._progress)

    # ----------------------------------------------------------------------- samples and splits

    def _windowed(
        self, rows: Mapping[Key, Files], table: Table | None
    ) -> tuple[Mapping[Key, Files], Table | None]:
        """The rows, one for each part of an image where the table says so."""
        if table is None or not self._recipe.dataset.labels.windows:
            return rows, table
        found = windows_of(rows, table)
        self._bounds, self._image_of = found.bounds, found.image_of
        return found.rows, found.table

    def _listed(self, rows: Mapping[Key, Files], table: Table | None) -> Mapping[Key, Files]:
        """The rows, without those that the table may leave out."""
        spec = self._recipe.dataset.labels
        if table is None or spec is None or spec.unlisted == "error":
            return rows
        kept = table.row_of(rows)
        if bare := [key for key in rows if key not in kept]:
            # Without a row, the files of one sample may not have found each other.
            per_source = Counter(name for key in bare for name in rows[key])
            self._unlisted = max(per_source.values())
            ids = sorted(key.id for key in bare)
            text = (
                f"{counted(self._unlisted, 'sample')} on disk without a row in {table.place}, "
                f"left out: {few(ids)}."
            )
            self._report(Problem("table", text, tuple(ids), is_note=True))
        return {key: files for key, files in rows.items() if key in kept}

    def _divided(
        self, rows: Mapping[Key, Files], there: Sequence[Source], table: Table | None
    ) -> Division:
        """The samples of each split, each with its row where there is a table."""
        nobody: Division = {name: [] for name in SPLIT_NAMES}
        if table is None and _is_by_table(self._recipe):
            return nobody  # why it cannot be read has been told
        split, everybody = self._recipe.dataset.split, sorted(rows)
        first = table is not None and (table.by_split or bool(table.field_names))
        if first:
            self._check_rows(table, rows, everybody)
        listener = absent_listener(self._recipe, self._root, self._report)
        column = table.splits if table else None
        partial = goes_on(split)
        whole = whole_samples(rows, there, self._recipe, self._image_of) if partial else None
        keys = self._tried(
            "split",
            lambda: divide(
                rows, split, self._root, listener, column=column, whole=whole, report=self._report
            ),
        )
        if table is not None and not first:
            self._check_rows(table, rows, all_keys(keys or nobody))
        if keys is not None:  # or it is not known which are in a split
            tell_unused(rows, keys, self._report)
        return keys or nobody

    def _check_rows(self, table: Table, rows: Mapping[Key, Files], used: Sequence[Key]) -> None:
        partial = goes_on(self._recipe.dataset.split)
        check_rows(table, rows, used, self._report, partial=partial)

    def _samples(
        self,
        rows: Mapping[Key, Files],
        keys: Division,
        labels: Mapping[Key, Label],
        table: Table | None,
    ) -> dict[SplitName, tuple[Sample, ...]]:
        """The samples of each split; those with which something is wrong are left out."""
        shapes = self._shapes(rows, keys)
        split = self._recipe.dataset.split
        scenes: Mapping[Key, str] = self._tried("split", lambda: named_scenes(keys, split)) or {}
        made = {
            key: self._sample(key, rows[key], labels.get(key), place, scenes.get(key, ""))
            for key, place in self._places(rows, shapes, table).items()
            if key in labels or self._recipe.has_masks
        }
        return {name: tuple(made[k] for k in keys[name] if k in made) for name in SPLIT_NAMES}

    def _sample(
        self, key: Key, files: Files, label: Label, place: Shape | Tile, scene: str
    ) -> Sample:
        images = self._packing.pack([files[name] for name in self._images])
        mask, areas = (files[name][0] if name in files else None for name in (MASKS, AREAS))
        window = place if isinstance(place, Tile) else None
        height, width = (window.height, window.width) if window else place
        return Sample(key.id, images, mask, areas, label, height, width, scene, window)

    def _places(
        self, rows: Mapping[Key, Files], shapes: Mapping[Key, Shape], table: Table | None
    ) -> Mapping[Key, Shape | Tile]:
        """The size of each sample, or the part of its files that it is."""
        if not self._bounds or table is None:
            return shapes
        found = {
            key: self._tried(
                "table",
                lambda key=key, shape=shape: self._window(rows[key], key, table.crs, shape),
            )
            for key, shape in shapes.items()
        }
        return {key: window for key, window in found.items() if window is not None}

    def _window(self, files: Files, key: Key, crs: str | None, shape: Shape) -> Tile:
        """The part of its files that a sample is; its labels reach so far."""
        images = [files[name][0].path for name in self._images]
        window = window_in(images[0], self._bounds[key], crs, shape)
        for name in (MASKS, AREAS):
            if name in files:
                same_ground(files[name][0].path, images, window)
        return window

    # ----------------------------------------------------------------------- what files say

    def _shapes(self, rows: Mapping[Key, Files], keys: Division) -> dict[Key, Shape]:
        """The size of each sample with which nothing is wrong."""
        known, chosen = self._recipe.dataset.shape, all_keys(keys)
        needed = [name for name in used_files(self._recipe) if name != BOXES]
        if self._look_at is not None:
            picked = set(self._look_at(keys))
            chosen = [key for key in chosen if key in picked]
        elif known is not None and not self._bounds:
            return {key: known for key in chosen if _has(rows[key], needed)}
        paths = list(dict.fromkeys(path for key in chosen for path in rasters_of(rows[key])))
        self._headers = readable(paths, self._root, self._report, self._progress)
        check = HeaderCheck(self._recipe, self._headers, self._root, self._report)
        found = {key: check.shape_of(rows[key]) for key in chosen}
        check.tell_all()
        return {k: shape for k, shape in found.items() if shape and _has(rows[k], needed)}

    def _areas(self, samples: Mapping[SplitName, Sequence[Sample]]) -> Areas:
        split = self._recipe.dataset.split
        if not isinstance(split, AreaSplit):
            return {}
        pairs = [(s.areas, s.mask) for s in samples["train"] if s.areas and s.mask]
        return (
            self._tried(
                "damaged",
                lambda: draw_areas(self._recipe, split, pairs, self._report, self._progress),
            )
            or {}
        )

    # ----------------------------------------------------------------------- labels

    def _labels(
        self, rows: Mapping[Key, Files], keys: Sequence[Key], table: Table | None
    ) -> Mapping[Key, Label]:
        recipe = self._recipe
        if recipe.labels_are_in_a_table:
            found = table.row_of(rows) if table else {}
            return {key: table.labels[found[key]] for key in keys if key in found}
        if recipe.task == "multilabel":
            files = {key: rows[key][BOXES][0].path for key in keys if BOXES in rows[key]}
            return read_boxes(recipe, files, self._root, self._report, self._progress)
        return self._folder_labels(keys) if recipe.task == "classification" else {}

    def _folder_labels(self, keys: Sequence[Key]) -> dict[Key, Label]:
        classes = named_classes(self._recipe)
        counts = Counter(key.class_name for key in keys)
        if unknown := sorted(set(counts) - set(classes)):
            near = nearest_word(unknown[0], classes)
            text = (
                f"{self._root} has class folders that the recipe does not list: {few(unknown)}."
                + (f" Is {unknown[0]!r} meant to be {near!r}?" if near else "")
            )
            hint = (
                "Add them to the recipe's classes (as a name, or under a class's values), or move "
                "them out of the folder."
            )
            self._report(Problem("class", text, tuple(unknown), hint))
        return {key: classes[key.class_name] for key in keys if key.class_name in classes}


def _is_by_table(recipe: Recipe) -> bool:
    """Whether a table says what files belong together, or which split they are in."""
    labels = recipe.dataset.labels
    return labels is not None and (
        bool(labels.fields) or isinstance(recipe.dataset.split, ColumnSplit)
    )


def _are_there(name: str, listings: Mapping[str, Listing]) -> bool:
    """Whether files of a source were found; no source has any where a folder cannot be read."""
    return name in listings and bool(listings[name].files)


def _has(files: Files, needed: Sequence[str]) -> bool:
    return all(name in files for name in needed)


def _tell_unlisted_labels(recipe: Recipe, progress: Progress) -> None:
    masks = recipe.dataset.masks
    if recipe.has_masks and masks is not None and masks.unknown == "ignore":
        progress.say("labels that no class lists count as without label (dataset.masks.unknown)")
