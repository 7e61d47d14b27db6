"""Bring a scene's values into the units that a model was fitted on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from eosfm_cli.bands import BANDS, band_name, nearest_word
from eosfm_cli.errors import UsageError

DECIBELS, LINEAR = "db", "linear"
KINDS = {
    "optical": tuple(
        name
        for name, band in BANDS.items()
        if band.kind == "optical" and not name.startswith("lwir")
    ),
    "sar": tuple(name for name, band in BANDS.items() if band.kind == "sar"),
}
"""Words for several bands; thermal ones are in other units than reflectance."""
Step = float | str
"""What values are multiplied with, or what radar is turned into."""


@dataclass(frozen=True)
class Scale:
    """How values are changed before the model sees them."""

    every: Step = 1.0
    """For bands that are not named."""
    bands: dict[str, Step] = field(default_factory=dict)

    def of(self, band: str) -> Step:
        """What happens to one band."""
        return self.bands.get(band, self.every)

    def apply(self, bands: Sequence[str], values: NDArray[np.float32]) -> None:
        """Change values `(bands, …)` in place; decibels of what is not above 0 become NaN."""
        for values_of_band, band in zip(values, bands, strict=True):
            step = self.of(band)
            if step == DECIBELS:
                np.log10(values_of_band, out=values_of_band)
                values_of_band *= 10
                values_of_band[~np.isfinite(values_of_band)] = np.nan
            elif step == LINEAR:
                np.power(np.float32(10), values_of_band / 10, out=values_of_band)
            elif step != 1:
                values_of_band *= np.float32(step)

    def describe(self, bands: Sequence[str]) -> str:
        """Write what happens to bands as `× 10000`, or `red, nir × 10000; vv in decibels`."""
        by_step: dict[Step, list[str]] = {}
        for band in bands:
            by_step.setdefault(self.of(band), []).append(band)
        if len(by_step) == 1:
            return _told(*by_step)
        return "; ".join(
            f"{', '.join(named)} {_told(step)}" for step, named in by_step.items() if step != 1
        )


def parse_scale(text: str, sensor: str | None = None) -> Scale:
    """Read `10000`, or one step per band as in `red=10000,vv=db`.

    Args:
        text: A number for all bands; or bands by name, or `optical` or `sar` for all of a kind,
            with a number, `db` (from linear radar) or `linear` (from decibels).
        sensor: Whose own band names to know.

    Raises:
        UsageError: It is neither.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if len(parts) == 1 and "=" not in parts[0]:
        return Scale(_step(parts[0], text))
    bands: dict[str, Step] = {}
    for part in parts:
        word, equals, step = (piece.strip() for piece in part.partition("="))
        name = band_name(word, sensor)
        names = KINDS.get(word.lower()) or ((name,) if name else ())
        if not equals or not names:
            near = nearest_word(word, (*KINDS, *BANDS))
            wrong = f"knows no band {word!r}" if equals else f"has no band for {part!r}"
            raise UsageError(
                f"--scale {text} {wrong}." + (f" Did you mean {near!r}?" if near else ""),
                hint="Give one number for all bands, or bands by name: --scale red=10000,nir=10000",
            )
        bands.update(dict.fromkeys(names, _step(step, text)))
    if not bands:
        raise UsageError("--scale is empty.", hint="For example: --scale 10000")
    return Scale(bands=bands)


def _step(word: str, text: str) -> Step:
    if word.lower() in (DECIBELS, LINEAR):
        return word.lower()
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value <= 0:
        raise UsageError(
            f"--scale {text}: {word!r} is no number above 0.",
            hint="Give what the values are multiplied with, as in --scale 10000; or, of radar, db "
            "or linear, as in --scale vv=db,vh=db.",
        )
    return value


def _told(step: Step) -> str:
    if step == DECIBELS:
        return "in decibels"
    return "from decibels to linear" if step == LINEAR else f"× {step:g}"
