"""Areas, such as fields, that go to one split as a whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from eosfm_cli.data.label_reader import NO_VALUE, MaskReader, ValueReader
from eosfm_cli.data.problems import Problem, Report
from eosfm_cli.data.reader import RasterReader, plain_images_allowed, read_header
from eosfm_cli.data.sample import Areas
from eosfm_cli.data.splits import SPLIT_NAMES, draw
from eosfm_cli.data.windows import windows
from eosfm_cli.progress import Progress
from eosfm_cli.recipe import AreaSplit, Recipe
from eosfm_cli.tiling import Tile


def draw_areas(
    recipe: Recipe,
    split: AreaSplit,
    pairs: Iterable[tuple[Path, Path]],
    report: Report,
    progress: Progress,
) -> Areas:
    """Divide the areas that have labels; the same way on every machine and in every run.

    Args:
        recipe: Says what in a mask is a label.
        split: The shares and the seed.
        pairs: Rasters of areas' numbers, 0 where there is none, each with the mask of its place.
        report: Told of splits without an area.
        progress: Told how many rasters are read.

    Raises:
        DataError: A raster cannot be read.
    """
    found: set[int] = set()
    pairs = sorted(set(pairs))
    with plain_images_allowed(), progress.step("Reading areas", len(pairs)) as step:
        reader = _AreaReader(recipe)
        for areas, mask in pairs:
            found |= reader.labelled(areas, mask)
            step.advance(note=f"{len(found)} areas")
    val, test = draw(sorted(found), split.val, split.test, split.seed)
    train = found.difference(val, test)
    division: Areas = {"train": frozenset(train), "val": frozenset(val), "test": frozenset(test)}
    for name in SPLIT_NAMES:
        if not division[name]:
            text = f"The {name} split has no areas: of {len(found)} with labels too few are left."
            hint = "Change the shares of dataset.split in the recipe, or add data."
            report(Problem("split", text, (name,), hint))
    return division


class _AreaReader:
    """Reads which areas of a raster have labels, window by window.

    Args:
        recipe: Says what in a mask is a label.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._raster = RasterReader()
        self._is_labelled = _values(recipe) if recipe.task == "regression" else _classes(recipe)

    def labelled(self, areas: Path, mask: Path) -> set[int]:
        """The numbers of areas with at least one labelled pixel."""
        header = read_header(areas)
        found: set[int] = set()
        for tile in windows(header.height, header.width):
            (numbers,), (valid,) = self._raster.read(areas, [1], tile)
            inside = valid & (numbers != 0) & self._is_labelled(mask, tile)
            found.update(np.unique(numbers[inside]).tolist())
        return found


def _classes(recipe: Recipe) -> Callable[[Path, Tile], np.ndarray]:
    """What finds labels in masks of classes; also those that no class lists, told when read."""
    masks = MaskReader(recipe)
    return lambda path, tile: masks.look(path, tile)[0] != recipe.ignore_index


def _values(recipe: Recipe) -> Callable[[Path, Tile], np.ndarray]:
    """What finds labels in masks of values."""
    masks = ValueReader(recipe)
    return lambda path, tile: masks.read(path, tile) != NO_VALUE
