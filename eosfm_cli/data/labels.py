"""From what the labels write to class indices."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from eosfm_cli.errors import RecipeError
from eosfm_cli.recipe import Recipe

UNKNOWN = -1


@dataclass(frozen=True)
class LabelTable:
    """Mask values and the class index of each."""

    values: np.ndarray
    """Known values, ascending."""
    indices: np.ndarray
    """Class index of each value; the ignore index for those without a label."""
    explicit: frozenset[int]
    """The values that the recipe writes out in a class; nodata does not override these."""

    def __call__(self, raw: np.ndarray) -> np.ndarray:
        """Class indices of mask values, int64, `UNKNOWN` where a value is in no class."""
        place = np.searchsorted(self.values, raw).clip(max=len(self.values) - 1)
        return np.where(self.values[place] == raw, self.indices[place], UNKNOWN)


def label_table(recipe: Recipe) -> LabelTable:
    """The values that a segmentation recipe's masks may hold.

    Raises:
        RecipeError: A class's value is no whole number, or a value stands for two things.
    """
    table: dict[int, tuple[int, str]] = {}
    for value, index, meaning in _rows(recipe):
        if value in table and table[value][0] != index:
            raise RecipeError(
                f"classes: the mask value {value} stands for both {table[value][1]} and {meaning}.",
                hint="Give each class its own values; a class without any has its position.",
            )
        table[value] = index, meaning
    values = sorted(table)
    return LabelTable(
        np.array(values, dtype=np.int64),
        np.array([table[value][0] for value in values], dtype=np.int64),
        frozenset(int(v) for c in recipe.classes for v in c.values or ()),
    )


def _rows(recipe: Recipe) -> Iterator[tuple[int, int, str]]:
    for index, entry in enumerate(recipe.classes):
        for value in (index,) if entry.values is None else entry.values:
            if not isinstance(value, int):
                raise RecipeError(
                    f"classes: {entry.name} has the value {value!r}; masks hold whole numbers.",
                    hint="Names as values are for class folders.",
                )
            yield value, index, entry.name
    for value in recipe.dataset.masks.ignore if recipe.dataset.masks else ():
        yield value, recipe.ignore_index, "'no label'"


def folder_classes(recipe: Recipe) -> dict[str, int]:
    """Name of class folder -> class index.

    Raises:
        RecipeError: Two classes claim the same folder.
    """
    found: dict[str, int] = {}
    for index, entry in enumerate(recipe.classes):
        for value in entry.values or (entry.name,):
            if found.setdefault(str(value), index) != index:
                other = recipe.class_names[found[str(value)]]
                raise RecipeError(
                    f"classes: the folder {value!r} stands for both {other} and {entry.name}."
                )
    return found
