"""GDAL without its chatter, and what it complains of in words for users."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.errors import NotGeoreferencedWarning, RasterioError

# What it logs of odd files is either an exception as well, or does not keep them from being read.
logging.getLogger("rasterio").setLevel(logging.CRITICAL)

GDAL_ERRORS = (RasterioError, CPLE_BaseError, OSError, ValueError)
"""All that opening and reading damaged files has been seen to raise."""


def quiet_open(path: Path | str, mode: str = "r", **options: Any) -> Any:  # noqa: ANN401 - as rasterio
    """`rasterio.open`, without its warning of rasters that lie nowhere: we say that ourselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return rasterio.open(path, mode, **options)


def complaint(error: BaseException, path: Path | str) -> str:
    """What GDAL complained of first, without the path that the message around it already has."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = getattr(error, "errmsg", None) or str(error)
    name = Path(path).name
    for prefix in (f"{path}:", f"{path},", f"{name}:", f"{name},", f"'{path}'"):
        text = text.removeprefix(prefix).strip()
    return text.rstrip(".")
