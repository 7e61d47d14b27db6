"""Which bands files hold: as they say themselves, or else by sensor and number."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eosfm_cli.bands import BANDS, SENSORS, band_name
from eosfm_cli.data.survey.rasters import Facts
from eosfm_cli.data.survey.words import is_band, sensor_of, tokens
from eosfm_cli.errors import DataError


@dataclass(frozen=True)
class BandGuess:
    """The bands of a kind of files."""

    bands: tuple[str, ...]
    """Common names, in file order."""
    sensor: str | None
    why: str
    sure: bool
    """Whether the files say so themselves."""
    unused: tuple[str, ...] = ()
    """Names that only hold the place of what is no band, such as transparency."""


@dataclass(frozen=True)
class Look:
    """What pixels of one file tell about its bands."""

    negative: bool = False
    """Whether there are values below zero."""
    opaque: bool = False
    """Whether the fourth or last band holds but 0 and 255, as transparency does."""


def look(blocks: Sequence[np.ndarray]) -> Look:
    """Look at the first bands `(c, h, w)` of a few windows."""
    return Look(
        any((block[:2] < 0).any() for block in blocks),
        all(np.isin(block[-1], (0, 255)).all() for block in blocks),
    )


_S2 = ("coastal", "blue", "green", "red", "rededge071", "rededge075", "rededge078", "nir")
_S2_12 = (*_S2, "nir08", "nir09", "swir16", "swir22")
_S2_13 = (*_S2, "nir08", "nir09", "cirrus", "swir16", "swir22")
_S2_10 = (*_S2[1:], "nir08", "swir16", "swir22")
_RADAR = ("vv", "vh")
_LANDSAT_7 = ("coastal", "blue", "green", "red", "nir08", "swir16", "swir22")

_BY_COUNT: dict[int, tuple[tuple[str, ...], str]] = {
    1: (("pan",), "one band"),
    2: (_RADAR, "two bands, as radar has"),
    3: (("red", "green", "blue"), "three bands, as colour pictures have"),
    4: (("red", "green", "blue", "nir"), "four bands, as aerial images have"),
    5: (("blue", "green", "red", "rededge071", "nir"), "five bands, as drone cameras have"),
    6: (
        ("blue", "green", "red", "nir", "swir16", "swir22"),
        "six bands, as Landsat has",
    ),
    7: (_LANDSAT_7, "seven bands, as Landsat 8 and 9 have at 30 m"),
    8: (
        ("coastal", "blue", "green", "pan", "red", "rededge071", "nir", "nir08"),
        "eight bands, as WorldView has; 'pan' holds the place of yellow, which has no name here",
    ),
    10: (_S2_10, "ten bands, as Sentinel-2 has at 10 and 20 m"),
    11: (tuple(SENSORS["landsat-8"].values()), "eleven bands, as Landsat 8 and 9 have"),
    12: (_S2_12, "twelve bands, as Sentinel-2 has at level 2A"),
    13: (_S2_13, "thirteen bands, as Sentinel-2 has at level 1C"),
    14: ((*_RADAR, *_S2_12), "fourteen bands, as Sentinel-1 with Sentinel-2 at level 2A"),
    15: ((*_RADAR, *_S2_13), "fifteen bands, as Sentinel-1 with Sentinel-2 at level 1C"),
}
_SPARE = ("lwir12", "lwir11", "cirrus", "nir09")
"""Names that pictures hardly ever need."""
_SENTINEL_2_COUNTS = frozenset({10, 12, 13})
_FALSE_COLOUR = re.compile(r"(^|[^a-z])(irrg|cir|nirrg|nrg)([^a-z]|$)")
_HEIGHT = re.compile(r"(^|[^a-z])(dem|dsm|dtm|elevation|height|rgealti)([^a-z]|$)")


def guess_bands(words: str, facts: Facts, seen: Look) -> BandGuess:
    """Guess the bands of files.

    Args:
        words: What folders and file names say.
        facts: A file's header.
        seen: What its pixels tell.

    Raises:
        DataError: There are more bands than names for them.
    """
    sensor = sensor_of(words)
    named = _described(facts, sensor)
    if named is None and facts.count == 3 and _FALSE_COLOUR.search(words.lower()):
        return _with_sensor(("nir", "red", "green"), sensor, "by the name")
    named = named or _by_colour(facts)
    if named:
        return _with_sensor(named, sensor, "as the files themselves say", sure=True)
    if facts.colours[-1:] == ("alpha",) and facts.count in {2, 4} and seen.opaque:
        return _without_alpha(words, facts, seen)
    return _by_words(words, facts, sensor, seen) or _by_number(facts.count, sensor)


def _with_sensor(
    bands: tuple[str, ...], sensor: str | None, why: str, *, sure: bool = False
) -> BandGuess:
    radar = all(BANDS[band].kind == "sar" for band in bands)
    if radar != (sensor == "sentinel-1"):
        sensor = "sentinel-1" if radar else None
    return BandGuess(bands, sensor, why, sure)


def _described(facts: Facts, sensor: str | None) -> tuple[str, ...] | None:
    """The bands as their descriptions say; `None` if not all of them say it."""
    names = [_described_band(text or "", sensor) for text in facts.descriptions]
    return tuple(names) if all(names) and len(set(names)) == len(names) else None


def _described_band(text: str, sensor: str | None) -> str | None:
    first = re.split(r"[ ,;:(]", text.strip())[0]
    return band_name(text, sensor) or band_name(first, sensor)


def _by_colour(facts: Facts) -> tuple[str, ...] | None:
    known = all(colour in BANDS for colour in facts.colours)
    return facts.colours if known and len(set(facts.colours)) == facts.count else None


def _without_alpha(words: str, facts: Facts, seen: Look) -> BandGuess:
    """Bands of a picture whose last band is transparency: a name that is free holds its place."""
    inner = Facts(
        facts.count - 1,
        *(facts.height, facts.width, facts.dtype, facts.nodata, facts.crs, facts.bounds),
        facts.descriptions[:-1],
        facts.colours[:-1],
    )
    guess = guess_bands(words, inner, seen)
    spare = next(name for name in _SPARE if name not in guess.bands)
    why = f"{guess.why}; '{spare}' holds the place of the transparency, which is not used"
    return BandGuess((*guess.bands, spare), guess.sensor, why, guess.sure, (spare,))


def _by_words(words: str, facts: Facts, sensor: str | None, seen: Look) -> BandGuess | None:
    if facts.count == 1:
        return _single(words, sensor)
    if facts.count == 4 and sensor not in {None, "aerial", "sentinel-1"}:
        return _with_sensor(("blue", "green", "red", "nir"), sensor, "by the sensor's name")
    if facts.count == 2 and facts.is_float and seen.negative:
        return _with_sensor(_RADAR, "sentinel-1", "two bands with negative values, as decibels are")
    return None


def _single(words: str, sensor: str | None) -> BandGuess | None:
    if _HEIGHT.search(words.lower()):
        return _with_sensor(("dem",), None, "by the name")
    for word in reversed(tokens(words)):
        if is_band(word):
            band = band_name(word, sensor) or "pan"
            return _with_sensor((band,), sensor, "by the name", sure=True)
    return _with_sensor(("vv",), sensor, "radar by its name") if sensor == "sentinel-1" else None


def _by_number(count: int, sensor: str | None) -> BandGuess:
    if count in _BY_COUNT:
        bands, why = _BY_COUNT[count]
        if sensor is None and count in _SENTINEL_2_COUNTS:
            sensor = "sentinel-2"
        return _with_sensor(bands, sensor, why)
    names = tuple(BANDS)
    if count > len(names):
        raise DataError(
            f"The images have {count} bands; there are names for {len(names)}.",
            hint="Keep the bands that matter: gdal_translate -b 1 -b 2 … in.tif out.tif",
        )
    why = f"no sensor with {count} bands is known: names in the order of wavelengths"
    return BandGuess(names[:count], sensor, why, sure=False)
