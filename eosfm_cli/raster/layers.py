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
    low: float | None = None
    """What the first of its colours stands for, where it has a ramp of them; by its values if not
    given."""
    high: float | None = None
    """What the last one stands for."""

    @property
    def count(self) -> int:
        """How many bands it has."""
        return len(self.names)


def class_layer(classes: Sequence[ClassSpec], title: str, nodata: int = NODATA) -> Layer:
    """A band of class indices, `nodata` where there is none."""
    return Layer("uint8", nodata, (title,), classes=tuple(classes))


def value_layer(target: TargetSpec) -> Layer:
    """A band of values in the target's unit, -9999 where there is none."""
    low, high = target.min, target.max
    return Layer("float32", NO_VALUE, (target.name,), unit=target.unit, low=low, high=high)


def spread_layer(target: TargetSpec) -> Layer:
    """A band of standard deviations in the target's unit, -9999 where there is none."""
    name = f"disagreement of the specialists on {target.name}"
    return Layer("float32", NO_VALUE, (name,), unit=target.unit, low=0)


def share_layer(names: Sequence[str]) -> Layer:
    """Bands of shares from 0 to 1, as whole numbers from 0 to 254; 255 where there is none."""
    return Layer("uint8", NODATA, tuple(names), scale=1 / SHARE_STEPS, low=0, high=1)
