"""From what the labels write to class indices."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from eosfm_cli.recipe import Recipe

UNKNOWN = -1


@dataclass(frozen=True)
class LabelTable:
    """Mask values, or colours as numbers, and the class index of each."""

    values: np.ndarray
    """Known values, ascending."""
    indices: np.ndarray
    """Class index of each value; the ignore index for those without a label."""
    explicit: frozenset[int]
    """The values that the recipe writes out in a class; nodata does not override these."""
    tolerance: int = 0
    """Of colours: the largest difference per channel that counts as the same."""

    def __call__(self, raw: np.ndarray) -> np.ndarray:
        """Class indices of mask values, int64, `UNKNOWN` where a value is in no class."""
        if raw.dtype == np.uint8:
            return self._of_bytes[raw]
        return self._found(raw)

    @cached_property
    def _of_bytes(self) -> np.ndarray:
        """Class indices of 0 to 255."""
        return self._found(np.arange(256))

    def _found(self, raw: np.ndarray) -> np.ndarray:
        place = np.searchsorted(self.values, raw).clip(max=len(self.values) - 1)
        labels = np.where(self.values[place] == raw, self.indices[place], UNKNOWN)
        if self.tolerance and (odd := labels == UNKNOWN).any():
            labels[odd] = self._nearest(raw[odd])
        return labels

    def _nearest(self, colours: np.ndarray) -> np.ndarray:
        """Class indices of the nearest known colours within the tolerance."""
        found, places = np.unique(colours, return_inverse=True)
        apart = abs(_channels(found)[:, None] - _channels(self.values)).max(axis=-1)
        nearest = apart.argmin(axis=1)
        close = apart[np.arange(len(found)), nearest] <= self.tolerance
        return np.where(close, self.indices[nearest], UNKNOWN)[places]


def label_table(recipe: Recipe) -> LabelTable:
    """The values that the masks of a recipe with classes may hold."""
    table = {
        _number(value): index
        for index, values in enumerate(recipe.class_values)
        for value in values
    }
    masks = recipe.dataset.masks
    if masks is not None:
        table |= {_number(value): recipe.ignore_index for value in masks.ignore}
    values = sorted(table)
    return LabelTable(
        np.array(values, dtype=np.int64),
        np.array([table[value] for value in values], dtype=np.int64),
        frozenset(map(_number, _written(recipe))),
        masks.tolerance if masks is not None else 0,
    )


def _written(recipe: Recipe) -> Iterator[int | str]:
    """The values and colours that stand in the recipe, not taken from a class's position."""
    for spec, values in zip(recipe.classes, recipe.class_values, strict=True):
        if spec.values is not None or recipe.dataset.masks.encoding == "colours":
            yield from values


def colour_numbers(pixels: np.ndarray) -> np.ndarray:
    """Colours `(3, …)` uint8 as one number each, as "#rrggbb" writes it."""
    red, green, blue = pixels.astype(np.int64)
    return (red << 16) + (green << 8) + blue


def written(label: float, *, as_colour: bool) -> str:
    """A mask's value in full, or a colour as "#rrggbb"."""
    if as_colour:
        return f"#{label:06x}"
    return str(int(label)) if float(label).is_integer() else f"{label:g}"


def named_classes(recipe: Recipe) -> dict[str, int]:
    """Name of a class folder, label or column -> class index."""
    return {
        str(value): index for index, values in enumerate(recipe.class_values) for value in values
    }


def _number(value: int | str) -> int:
    """A mask value as it is, a colour as a number."""
    return int(value[1:], 16) if isinstance(value, str) else value


def _channels(numbers: np.ndarray) -> np.ndarray:
    """Red, green and blue `(…, 3)` of colours as numbers."""
    return np.stack([numbers >> 16, numbers >> 8 & 255, numbers & 255], axis=-1)
