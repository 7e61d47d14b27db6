"""From what the labels write to class indices."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

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
    """The values that a segmentation recipe's masks may hold."""
    table = {value: index for index, values in enumerate(recipe.class_values) for value in values}
    if recipe.dataset.masks is not None:
        table |= dict.fromkeys(recipe.dataset.masks.ignore, recipe.ignore_index)
    values = sorted(table)
    return LabelTable(
        np.array(values, dtype=np.int64),
        np.array([table[value] for value in values], dtype=np.int64),
        frozenset(int(v) for c in recipe.classes for v in c.values or ()),
    )


def folder_classes(recipe: Recipe) -> dict[str, int]:
    """Name of class folder -> class index."""
    return {
        str(value): index for index, values in enumerate(recipe.class_values) for value in values
    }
