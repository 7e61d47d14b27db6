"""What the bands of a map mean: their type, their nodata, names, colours and units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eosfm_cli.recipe import ClassSpec, TargetSpec

NODATA = 255
"""In maps of classes and of shares, where there is none."""
NO_VALUE = -9999.0
"""In maps of values, where there is none."""
SHARE_STEPS = 254
"""What stands for a share of 1 in a map of shares; 255 is nodata."""


@dataclass(frozen=True)
class Layer:
    """The bands of one map."""

    dtype: str
    nodata: float
    names: tuple[str, ...]
    """The band's descriptions."""
    unit: str | None = None
    scale: float | None = None
    """What values are multiplied by to get what they stand for."""
    classes: tuple[ClassSpec, ...] = ()
    """Of a map of classes: a value is the index of one."""

    @property
    def count(self) -> int:
        """How many bands it has."""
        return len(self.names)


def class_layer(classes: Sequence[ClassSpec], title: str) -> Layer:
    """A band of class indices, 255 where there is none."""
    return Layer("uint8", NODATA, (title,), classes=tuple(classes))


def value_layer(target: TargetSpec) -> Layer:
    """A band of values in the target's unit, -9999 where there is none."""
    return Layer("float32", NO_VALUE, (target.name,), unit=target.unit)


def share_layer(names: Sequence[str]) -> Layer:
    """Bands of shares from 0 to 1, as whole numbers from 0 to 254; 255 where there is none."""
    return Layer("uint8", NODATA, tuple(names), scale=1 / SHARE_STEPS)
