"""Colours of classes: those that the recipe gives, and well-separated ones for the rest."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np

from eosfm_cli.recipe import ClassSpec

NODATA_COLOUR = "#e6e6e6"
RAMP = ("#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30",
        "#fde725")  # fmt: skip
"""Viridis, from low values to high ones: also grey, it grows lighter evenly."""

_FIRST = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#4d4d4d")
"""Okabe and Ito's colours, which people with any kind of colour vision tell apart."""

_SEPARATE = 0.1
"""OKLab distance from which two map colours are plainly different."""

_Lab = tuple[float, float, float]


def class_colours(classes: Sequence[ClassSpec]) -> tuple[str, ...]:
    """The colour of each class as `#rrggbb`, the same for the same classes every time.

    Classes without a colour get one that stands out from all others, also in red-green blindness.
    """
    free = _free_colours([spec.colour for spec in classes if spec.colour])
    return tuple(spec.colour or next(free) for spec in classes)


def to_rgb(colour: str) -> tuple[int, int, int]:
    """Split `#rrggbb` into three values of 0 to 255."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def value_span(
    values: np.ma.MaskedArray, low: float | None, high: float | None
) -> tuple[float, float]:
    """What the ends of a ramp stand for: as given, else all but the most extreme values."""
    known = values.compressed()
    least, most = np.percentile(known, (2, 98)) if known.size else (0.0, 1.0)
    low = float(least) if low is None else low
    high = float(most) if high is None else high
    return low, high if high > low else low + 1


def _free_colours(taken: Sequence[str]) -> Iterator[str]:
    """Familiar colours as long as one stands out, then the one farthest from all so far."""
    nearest = {
        colour: min((_distance(colour, other) for other in taken), default=math.inf)
        for colour in (*_FIRST, *_candidates())
    }
    while True:
        familiar = (colour for colour in _FIRST if nearest[colour] > _SEPARATE)
        chosen = next(familiar, None) or max(nearest, key=lambda colour: nearest[colour])
        yield chosen
        for colour, distance in nearest.items():
            nearest[colour] = min(distance, _distance(colour, chosen))


@cache
def _candidates() -> tuple[str, ...]:
    """A coarse grid over all colours, without those that pass for black, paper or no data."""
    steps = range(0, 256, 32)
    grid = (f"#{r:02x}{g:02x}{b:02x}" for r, g, b in itertools.product(steps, repeat=3))
    return tuple(colour for colour in grid if 0.35 < _seen(colour)[0][0] < 0.9)


def _distance(one: str, other: str) -> float:
    """OKLab distance as seen with full or with deuteranope vision, whichever is less."""
    return min(
        sum((a - b) ** 2 for a, b in zip(left, right, strict=True)) ** 0.5
        for left, right in zip(_seen(one), _seen(other), strict=True)
    )


@cache
def _seen(colour: str) -> tuple[_Lab, _Lab]:
    """A colour in OKLab, with full colour vision and without the green receptor."""
    red, green, blue = (_linear(value / 255) for value in to_rgb(colour))
    yellow = 0.29275 * red + 0.70725 * green
    bluish = blue + 0.02234 * (green - red)
    return _oklab(red, green, blue), _oklab(yellow, yellow, max(bluish, 0.0))


def _linear(value: float) -> float:
    return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4


def _oklab(red: float, green: float, blue: float) -> _Lab:
    long = (0.4122214708 * red + 0.5363325363 * green + 0.0514459929 * blue) ** (1 / 3)
    medium = (0.2119034982 * red + 0.6806995451 * green + 0.1073969566 * blue) ** (1 / 3)
    short = (0.0883024619 * red + 0.2817188376 * green + 0.6299787005 * blue) ** (1 / 3)
    return (
        0.2104542553 * long + 0.7936177850 * medium - 0.0040720468 * short,
        1.9779984951 * long - 2.4285922050 * medium + 0.4505937099 * short,
        0.0259040371 * long + 0.7827717662 * medium - 0.8086757660 * short,
    )
