"""Whether GDAL and PROJ work here."""

from __future__ import annotations

import os
from collections.abc import Iterator

from eosfm_cli.results import Finding

_OLDEST = (3, 9)
_WRITES = ("GTiff", "COG")
_READS = ("VRT", "JP2OpenJPEG", "HFA", "ENVI", "PNG", "JPEG")
_AGAIN = "pip install --force-reinstall rasterio"
_PLACES_OF_PROJ = ("PROJ_DATA", "PROJ_LIB")
_METRE = 1.0


def gdal() -> Iterator[Finding]:
    """Which GDAL there is, and whether it has the formats that we read and write."""
    try:
        import rasterio
    except (ImportError, OSError) as error:
        yield Finding("error", f"rasterio cannot be imported: {error}", _AGAIN)
        return
    version = rasterio.__gdal_version__
    text = f"{version}, rasterio {rasterio.__version__}"
    if tuple(map(int, version.split(".")[:2])) < _OLDEST:
        yield Finding("warning", text, f"It is older than any that eosfm was tested on: {_AGAIN}")
    else:
        yield Finding("ok", text)


def formats() -> Iterator[Finding]:
    """Whether GDAL has the drivers for what we read and write."""
    import rasterio

    with rasterio.Env() as env:
        there = env.drivers()
    for name in _WRITES:
        if name not in there:
            yield Finding("error", f"GDAL cannot write {name}: its driver is missing", _AGAIN)
    missing = [name for name in _READS if name not in there]
    if missing:
        listed = ", ".join(missing)
        yield Finding("warning", f"GDAL cannot read {listed}: drivers are missing", _AGAIN)
    if not missing and set(_WRITES) <= set(there):
        yield Finding("ok", f"{', '.join(_WRITES)} and others, {len(there)} drivers")


def proj() -> Iterator[Finding]:
    """Whether PROJ finds its data, by moving a point from one system to another."""
    import rasterio
    from rasterio.warp import transform

    try:
        with rasterio.Env():
            (east,), (north,) = transform("EPSG:4326", "EPSG:32631", [3.0], [0.0])
    except Exception as error:  # GDAL's errors have no common class
        yield Finding("error", f"coordinates cannot be transformed: {error}", _mend_proj())
        return
    if abs(east - 500_000) > _METRE or abs(north) > _METRE:
        found = f"3° E on the equator came out at {east:.0f}, {north:.0f} m"
        yield Finding("error", f"coordinates come out wrong: {found}", _mend_proj())
    else:
        yield Finding("ok", "its data is found: coordinates can be transformed")


def _mend_proj() -> str:
    """What most often is in PROJ's way: another installation's data."""
    given = [name for name in _PLACES_OF_PROJ if name in os.environ]
    if not given:
        return _AGAIN
    listed = ", ".join(f"{name}={os.environ[name]}" for name in given)
    return f"unset {' '.join(given)} ({listed} may belong to another installation)"
