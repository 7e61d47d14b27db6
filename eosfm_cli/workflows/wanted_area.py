"""The part of scenes that the user wants."""

from __future__ import annotations

from pathlib import Path

from eosfm_cli.errors import UsageError
from eosfm_cli.raster.area import Area, parse_bbox, read_area


def wanted_area(aoi: Path | None, bbox: str | None, bbox_crs: str | None) -> Area | None:
    """What `--aoi` or `--bbox` say; `None` for all of every scene.

    Raises:
        UsageError: Both are given, or one cannot be used as given.
        DataError: The file cannot be read.
    """
    if aoi is not None and bbox is not None:
        raise UsageError("--aoi and --bbox both say what to map.", hint="Leave one of them out.")
    if bbox_crs is not None and bbox is None:
        raise UsageError("--bbox-crs does nothing without --bbox.", hint="Add --bbox W,S,E,N.")
    if aoi is not None:
        return read_area(aoi)
    return None if bbox is None else parse_bbox(bbox, bbox_crs)
