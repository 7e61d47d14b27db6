"""Which band a file holds, by its name, where a scene is several files."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from eosfm_cli.bands import SENSORS, band_name

_BETWEEN = re.compile(r"[^A-Za-z0-9]+")
_RESOLUTION = re.compile(r"(\d+)m")


def band_of_file(stem: str, sensor: str | None = None) -> str | None:
    """The common name of the band that a file's name says, as `T31UDQ_20240601_B04_10m` does."""
    token = _token(stem, (sensor,))
    return token and band_name(token, sensor)


def finest_of_each_band(paths: Iterable[Path]) -> list[Path]:
    """The files whose names say a band; of those that differ in resolution alone, the finest.

    Masks of Sentinel-2's products say a band too and are none.
    """
    best: dict[tuple[str, ...], tuple[int, Path]] = {}
    for path in paths:
        token = _token(path.stem, (None, *SENSORS))
        if token is None or path.stem.startswith("MSK_") or "QI_DATA" in path.parts:
            continue
        resolution = next((int(m[1]) for m in map(_RESOLUTION.fullmatch, _parts(path)) if m), 0)
        key = tuple(part for part in _parts(path) if not _RESOLUTION.fullmatch(part))
        if key not in best or resolution < best[key][0]:
            best[key] = (resolution, path)
    return [path for _, path in best.values()]


def stack_stem(stems: Sequence[str]) -> str:
    """What the files of a scene are called together.

    The words that all begin with, else the first one's name; nothing where the names say no more
    than bands.
    """
    bare = [_without_band(stem) for stem in stems]
    words = zip(*map(_BETWEEN.split, bare), strict=False)
    alike = itertools.takewhile(lambda column: len(set(column)) == 1, words)
    return "_".join(column[0] for column in alike) or next(filter(None, bare), "")


def _without_band(stem: str) -> str:
    token = _token(stem, (None, *SENSORS))
    if token is None:
        return stem
    start = stem.rindex(token)
    return f"{stem[:start].rstrip('_-. ')}{stem[start + len(token) :]}".strip("_-. ")


def _token(stem: str, sensors: Iterable[str | None]) -> str | None:
    sensors = tuple(sensors)
    for part in reversed(_BETWEEN.split(stem)):
        if part and any(band_name(part, sensor) for sensor in sensors):
            return part
    return None


def _parts(path: Path) -> list[str]:
    return [part for part in _BETWEEN.split(path.stem) if part]
