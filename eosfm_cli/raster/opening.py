"""Open rasters, on disk or named by their address, with GDAL's memory and reach bounded."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import rasterio
from rasterio.io import DatasetReader

from eosfm_cli.errors import RasterError
from eosfm_cli.raster.gdal import GDAL_ERRORS, complaint, quiet_open
from eosfm_cli.raster.vrt import refuse_other_sources

BLOCK_CACHE_MB = 64
"""What GDAL may keep of decoded blocks, over all open rasters, unless a raster needs more."""
MOST_BLOCK_CACHE_MB = 512
"""The same for rasters whose blocks are as wide as they are."""

FORMATS = ("GTiff", "VRT", "JP2OpenJPEG", "HFA", "ENVI", "PNG", "JPEG")
"""What can be read; GDAL's other formats also read addresses out of files and follow them."""

_TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_START = 2**16
"""Bytes of a file in which a format tells itself."""
_MARKUP = re.compile(rb"<[?!]?[A-Za-z_]{3}|^\s*\{")
_LARGEST_BLOCK = 2**30
_MOST_PIXELS = 10**12
_REMOTE = re.compile(r"/vsi(curl|s3|gs|az|adls|oss|swift|hdfs|webhdfs)")

_PATIENCE = {
    "GDAL_HTTP_CONNECTTIMEOUT": 20,
    "GDAL_HTTP_TIMEOUT": 120,
    "GDAL_HTTP_MAX_RETRY": 3,
    "GDAL_HTTP_RETRY_DELAY": 1,
}
"""How long to wait for a server, where the environment does not say."""


_STRICT = {"GDAL_PNG_WHOLE_IMAGE_OPTIM": False, "GDAL_ERROR_ON_LIBJPEG_WARNING": True}
"""Else files that were cut short are read as if they were whole."""


def is_remote(name: str) -> bool:
    """Whether reading a file of this name goes over the network."""
    return _REMOTE.search(name) is not None


def shown(name: str) -> str:
    """A file as users name it: addresses without their end, which may hold a signature."""
    if not is_remote(name):
        return name
    bare = name.partition("?")[0]
    for virtual, address in (("/vsicurl/", ""), ("/vsis3/", "s3://"), ("/vsigs/", "gs://")):
        if bare.startswith(virtual):
            return f"{address}{bare.removeprefix(virtual)}"
    return bare


@contextmanager
def open_raster(path: Path | str) -> Iterator[DatasetReader]:
    """Open any raster, with GDAL's memory bounded and its messages turned into ours.

    The network is reached for a name that says so (`/vsicurl/…`, `/vsis3/…`), and for that alone:
    never because of what is in a file.

    Args:
        path: A file, or a name that GDAL's virtual file systems know.

    Raises:
        RasterError: There is no such file, or it is no raster.
    """
    name = str(path)
    if not name.startswith("/vsi"):
        _refuse_missing(Path(name))
    with rasterio.Env(GDAL_CACHEMAX=BLOCK_CACHE_MB * 2**20, **_STRICT, **_reach(name)):
        dataset = _open(name)
        try:
            yield dataset
        finally:
            dataset.close()


@contextmanager
def block_cache(megabytes: int) -> Iterator[None]:
    """Let GDAL keep so many megabytes of decoded blocks, in all threads."""
    with rasterio.Env(GDAL_CACHEMAX=megabytes * 2**20):
        yield


def refuse_unreadable(dataset: DatasetReader, name: str) -> None:
    """Refuse what no map can be made of, before memory is spent on it.

    Raises:
        RasterError: It has no bands, complex numbers, or sizes beyond reason.
    """
    if dataset.count == 0:
        raise RasterError(
            f"{name} has no bands of its own.",
            hint="Is it a container of several rasters? Extract one of them to a GeoTIFF first.",
        )
    complex_bands = [d for d in dataset.dtypes if d.startswith("complex")]
    if complex_bands:
        raise RasterError(
            f"{name} holds complex numbers ({complex_bands[0]}).",
            hint="Turn them into what the model was trained on first, as intensity or decibels.",
        )
    if dataset.width * dataset.height > _MOST_PIXELS:
        raise RasterError(
            f"{name} declares {dataset.width:,} × {dataset.height:,} pixels.",
            hint="If that is true, cut it into pieces first; else its header is damaged.",
        )
    if _largest_block(dataset) >= _LARGEST_BLOCK:
        raise RasterError(
            f"{name} is stored in blocks of {_largest_block(dataset) / 2**30:.1f} GiB, which must "
            "be read whole.",
            hint="Rewrite it in tiles: rio convert IN OUT --co tiled=yes --co compress=deflate",
        )


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turn what GDAL says of damaged pixels into our words.

    Raises:
        RasterError: The pixels cannot be read.
    """
    try:
        yield
    except GDAL_ERRORS as error:
        hint = (
            "The connection or the server may have failed: try again."
            if is_remote(name)
            else "The file is probably damaged: copy or download it again."
        )
        reason = complaint(error, name)
        raise RasterError(
            f"The pixels of {shown(name)} cannot be read: {reason}.", hint=hint
        ) from None


def cache_needed(dataset: DatasetReader, bands: int, rows: int) -> int:
    """Megabytes that keep every block from being decoded once per window.

    Windows go from left to right. Where blocks are as wide as the raster (strips), all blocks of a
    row of windows are needed again by each of its windows; JPEG 2000, which is slow to decode and
    stored in large tiles, needs them again in the rows of windows below. Else neighbours are
    enough, and memory does not grow with the width.

    Args:
        dataset: The raster.
        bands: How many of its bands are read.
        rows: The height of a window, in the raster's own pixels.
    """
    block_rows, block_cols = dataset.block_shapes[0]
    striped = block_cols >= dataset.width > rows
    if not striped and dataset.driver != "JP2OpenJPEG":
        return 0
    lines = rows + 2 * block_rows if block_rows <= rows else 2 * block_rows
    count = dataset.count if _is_pixel_interleaved(dataset) else bands
    size = np.dtype(dataset.dtypes[0]).itemsize
    return -(-min(lines, dataset.height + block_rows) * dataset.width * count * size // 2**20)


def _refuse_missing(path: Path) -> None:
    if os.path.isdir(path):
        raise RasterError(f"{path} is a folder.", hint="Name one raster in it.")
    if not os.path.isfile(path):  # which does not mind names that cannot be
        raise RasterError(f"There is no file {path}.")


def _reach(name: str) -> dict[str, object]:
    """GDAL's options for what opening this name may reach on the network, if anything."""
    if not is_remote(name):
        return {"CPL_VSIL_CURL_ALLOWED_FILENAME": "-", "GDAL_DISABLE_READDIR_ON_OPEN": "FALSE"}
    patience = {key: value for key, value in _PATIENCE.items() if key not in os.environ}
    # Else GDAL lists the whole folder, and asks for files beside this one.
    options = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", **patience}
    if _REMOTE.match(name) and "?" not in name.partition("://")[0]:
        options["CPL_VSIL_CURL_ALLOWED_FILENAME"] = name
    return options


def _open(name: str) -> DatasetReader:
    reasons = []
    for driver in _formats_of(name):
        try:
            return quiet_open(name, driver=driver)
        except GDAL_ERRORS as error:
            reasons.append(complaint(error, name))
    reason = f": {reasons[0]}" if len(reasons) == 1 or is_remote(name) else ""
    raise RasterError(f"{shown(name)} cannot be read as a raster{reason}.", hint=_hint(name))


def _hint(name: str) -> str:
    formats = f"Formats that can be read: {', '.join(FORMATS)}."
    if "/vsis3" in name:
        return (
            f"{formats} The store's keys are taken from the environment (AWS_ACCESS_KEY_ID and "
            "others); public ones need AWS_NO_SIGN_REQUEST=YES."
        )
    if is_remote(name):
        return (
            f"{formats} Check the address; the server must be in reach, and serve parts of files "
            "(range requests)."
        )
    return f"{formats} The file may be damaged, or cut short by a broken download."


def _formats_of(name: str) -> tuple[str, ...]:
    """The formats to try; what says what it is gets tried as that alone, for the message's sake."""
    others = tuple(format_ for format_ in FORMATS if format_ != "VRT")
    if name.startswith("/vsi"):
        _refuse_distant_vrt(name)
        return others
    start = _start_of(Path(name))
    if start.startswith(_TIFF_SIGNATURES):
        return ("GTiff",)
    if b"<VRTDataset" in start:
        refuse_other_sources(Path(name), _refuse_unknown)
        return ("VRT",)
    # What does not look like a VRT must not be taken for one: its sources were not looked at.
    return others


def _start_of(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_START)
    except OSError as error:
        raise RasterError(f"{path} cannot be read: {error.strerror}.") from None


def _refuse_distant_vrt(name: str) -> None:
    if shown(name).lower().endswith(".vrt"):
        raise RasterError(
            f"{shown(name)} is a VRT that is no plain file: where it points cannot be checked.",
            hint="Name the rasters that it is made of instead, or copy it and them to this disk.",
        )


def _refuse_unknown(name: str) -> None:
    """Refuse sources of a VRT that could not be opened as a scene of their own.

    GDAL opens them as whatever they look like, services of the network included.

    Raises:
        RasterError: It is in none of the formats that are read.
    """
    if not name.startswith("/vsi"):
        start = _start_of(Path(name))
        if start.startswith(_TIFF_SIGNATURES):
            return
        if _MARKUP.search(start.partition(b"\0")[0]):
            raise RasterError(f"{name}, which a VRT points to, is text and no raster.")
    with open_raster(name):
        pass


def _is_pixel_interleaved(dataset: DatasetReader) -> bool:
    return (dataset.profile.get("interleave") or "band") == "pixel"


def _largest_block(dataset: DatasetReader) -> int:
    """Bytes that GDAL holds to read a single pixel."""
    sizes = [
        rows * cols * np.dtype(dtype).itemsize
        for (rows, cols), dtype in zip(dataset.block_shapes, dataset.dtypes, strict=True)
    ]
    return sum(sizes) if _is_pixel_interleaved(dataset) else max(sizes)
