"""A collection of odd, damaged and hostile rasters, each written by a function of its own."""

from __future__ import annotations

import gzip
import random
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.control import GroundControlPoint
from rasterio.rpc import RPC
from rasterio.transform import from_origin

HEIGHT, WIDTH = 70, 90
PLACED = {"crs": "EPSG:32631", "transform": from_origin(5e5, 5e6, 10, 10)}

Writer = Callable[[Path], object]


def pixels(bands: int = 1, dtype: str = "uint8", top: int = 255) -> NDArray[Any]:
    """Values without two equal neighbours, the same each time."""
    values = np.random.default_rng(0).integers(0, top, (bands, HEIGHT, WIDTH), endpoint=True)
    return values.astype(dtype)


def write(path: Path, values: NDArray[Any], **profile: Any) -> None:
    """Write `(bands, h, w)` with whatever GDAL can be asked for."""
    count, height, width = values.shape
    size = {"count": count, "height": height, "width": width, "dtype": values.dtype}
    with rasterio.open(path, "w", **{"driver": "GTiff", **size, **PLACED, **profile}) as dataset:
        dataset.write(values)


# --------------------------------------------------------------------------- TIFFs by hand

_SHORT, _LONG, _ASCII = 3, 4, 2
_SIZES = {_SHORT: "H", _LONG: "I", _ASCII: "s"}

Entries = Mapping[int, tuple[int, Sequence[int] | bytes]]


def tiff(changes: Entries | None = None, *, loops: bool = False, without: int = 0) -> bytes:
    """An 8-bit TIFF of one strip, `WIDTH` by `HEIGHT`, with entries replaced.

    Args:
        changes: Tag -> type and values.
        loops: Whether the directory names itself as the next one.
        without: A tag to leave out.
    """
    entries: dict[int, tuple[int, Any]] = {
        256: (_LONG, [WIDTH]),
        257: (_LONG, [HEIGHT]),
        258: (_SHORT, [8]),
        259: (_SHORT, [1]),
        262: (_SHORT, [1]),
        273: (_LONG, [0]),
        277: (_SHORT, [1]),
        278: (_LONG, [HEIGHT]),
        279: (_LONG, [WIDTH * HEIGHT]),
        **(changes or {}),
    }
    entries.pop(without, None)
    after = 8 + 2 + 12 * len(entries) + 4
    packed = {tag: _packed(kind, values) for tag, (kind, values) in sorted(entries.items())}
    longer = b"".join(raw for raw in packed.values() if len(raw) > 4)
    if 273 in entries and 273 not in (changes or {}):
        packed[273] = struct.pack("<I", after + len(longer))
    directory = struct.pack("<H", len(packed))
    for tag, raw in packed.items():
        kind = entries[tag][0]
        count = len(raw) // struct.calcsize(_SIZES[kind])
        place = raw.ljust(4, b"\0") if len(raw) <= 4 else struct.pack("<I", after)
        after += len(raw) if len(raw) > 4 else 0
        directory += struct.pack("<HHI", tag, kind, count) + place
    directory += struct.pack("<I", 8 if loops else 0)
    return struct.pack("<2sHI", b"II", 42, 8) + directory + longer + pixels().tobytes()


def _packed(kind: int, values: Sequence[int] | bytes) -> bytes:
    if isinstance(values, bytes):
        return values
    return struct.pack(f"<{len(values)}{_SIZES[kind]}", *values)


def by_hand(changes: Entries | None = None, **options: Any) -> Writer:
    """A writer of such a file."""
    return lambda path: path.write_bytes(tiff(changes, **options))


# --------------------------------------------------------------------------- files to be mapped


def asked(values: NDArray[Any], **profile: Any) -> Writer:
    """A writer of values in a form that GDAL is asked for."""
    return lambda path: write(path, values, **profile)


def _palette(path: Path) -> None:
    write(path, pixels(), photometric="palette")
    with rasterio.open(path, "r+") as dataset:
        dataset.write_colormap(1, {i: (i, 255 - i, 0, 255) for i in range(256)})


def _masked(internal: bool) -> Writer:
    def writer(path: Path) -> None:
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal):
            write(path, pixels(3))
            with rasterio.open(path, "r+") as dataset:
                dataset.write_mask(pixels()[0] > 100)

    return writer


def _per_band_nodata(path: Path) -> None:
    values = pixels(3, top=3)
    write(path, values)
    bands = "".join(
        f'<PAMRasterBand band="{i}"><NoDataValue>{i}</NoDataValue></PAMRasterBand>'
        for i in (1, 2, 3)
    )
    path.with_name(f"{path.name}.aux.xml").write_text(f"<PAMDataset>{bands}</PAMDataset>")


def _virtual(path: Path) -> None:
    source = path.with_name("source.tif")
    write(source, pixels(3, top=3))
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{i}"><NoDataValue>{i}</NoDataValue>'
        f'<SimpleSource><SourceFilename relativeToVRT="1">source.tif</SourceFilename>'
        f"<SourceBand>{i}</SourceBand></SimpleSource></VRTRasterBand>"
        for i in (1, 2, 3)
    )
    path.write_text(
        f'<VRTDataset rasterXSize="{WIDTH}" rasterYSize="{HEIGHT}">{bands}</VRTDataset>'
    )


def _sparse(nodata: int | None) -> Writer:
    def writer(path: Path) -> None:
        size = {"count": 1, "height": 400, "width": 300, "dtype": "uint8"}
        tiles = {"tiled": True, "blockxsize": 64, "blockysize": 64, "sparse_ok": True}
        with rasterio.open(
            path, "w", driver="GTiff", nodata=nodata, **size, **tiles, **PLACED
        ) as dataset:
            dataset.write(pixels()[:, :64, :64], window=((128, 192), (64, 128)))

    return writer


def _two_pages(path: Path) -> None:
    write(path, pixels())
    write(path, pixels(3)[:, :40], append_subdataset=True)


def _rpc(path: Path) -> None:
    numbers = [0.0, 1.0, *[0.0] * 18]
    ones = [1.0, *[0.0] * 19]
    rpcs = RPC(0, 1, 50, 1, numbers, ones, 35, 70, 3, 1, numbers, ones, 45, 90, None, None)
    write(path, pixels(), crs=None, transform=None, rpcs=rpcs)


def _long_text(path: Path) -> None:
    write(path, pixels())
    with rasterio.open(path, "r+") as dataset:
        dataset.update_tags(TIFFTAG_IMAGEDESCRIPTION="x" * 2_000_000, note="<&\x01\n]]>")


def _holes(value: float, dtype: str = "float32") -> NDArray[Any]:
    values = pixels(dtype=dtype)
    values[:, 5:40, 10:60] = value
    return values


_POINTS = [GroundControlPoint(r, c, 3 + c, 50 - r) for r in (0, HEIGHT) for c in (0, WIDTH)]
_LOCAL = 'LOCAL_CS["site",UNIT["metre",1]]'

GOOD: dict[str, Writer] = {
    "strips": asked(pixels(3), blockysize=7),
    "one strip": by_hand(),
    "tiles of odd size": asked(pixels(3), tiled=True, blockxsize=16, blockysize=48),
    "tiles larger than the scene": asked(pixels(), tiled=True, blockxsize=256, blockysize=256),
    "BigTIFF": asked(pixels(3), bigtiff="YES"),
    "big-endian": asked(pixels(dtype="uint16"), endianness="BIG"),
    "bands apart": asked(pixels(3), interleave="band"),
    **{
        dtype: asked(pixels(dtype=dtype, top=127))
        for dtype in ("int8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float64")
    },
    "float16": asked(pixels(dtype="float32"), nbits=16),
    "1 bit": asked(pixels(top=1), nbits=1),
    "12 bits": asked(pixels(dtype="uint16", top=4000), nbits=12),
    "palette": _palette,
    "grey and alpha": asked(pixels(2), alpha="yes"),
    "colours and alpha": asked(pixels(4), photometric="rgb", alpha="yes"),
    "CMYK": asked(pixels(4), photometric="cmyk"),
    "JPEG": asked(pixels(3), compress="jpeg", photometric="ycbcr"),
    "LZW": asked(pixels(dtype="float32"), compress="lzw", predictor=3),
    "Zstandard": asked(pixels(3), compress="zstd"),
    "mask within": _masked(True),
    "mask beside": _masked(False),
    "nodata per band": _per_band_nodata,
    "virtual": _virtual,
    "nodata": asked(_holes(-9999), nodata=-9999),
    "nodata NaN": asked(_holes(np.nan), nodata=np.nan),
    "nodata that the type cannot hold": by_hand({42113: (_ASCII, b"-9999\0")}),
    "nodata that is no number": by_hand({42113: (_ASCII, b"none\0")}),
    "NaN everywhere": asked(np.full((1, HEIGHT, WIDTH), np.nan, "float32")),
    "infinite values": asked(_holes(np.inf)),
    "a fill value that nobody declared": asked(_holes(-3.4e38)),
    "numbers too large to subtract": asked(_holes(-1.7e308, "float64")),
    "sparse": _sparse(None),
    "sparse with nodata": _sparse(0),
    "rotated": asked(pixels(), crs="EPSG:3857", transform=Affine(8, 3, 5e5, 3, -8, 5e6)),
    "south-up": asked(pixels(), transform=Affine(10, 0, 5e5, 0, 10, 5e6)),
    "pixels of no size": asked(pixels(), transform=Affine(0, 0, 5e5, 0, 0, 5e6)),
    "far away": asked(pixels(), transform=from_origin(1e300, 1e300, 1e-300, 1e-300)),
    "pixels larger than the world": asked(pixels(), transform=from_origin(0, 0, 1e200, 1e200)),
    "no place": asked(pixels(), crs=None, transform=None),
    "a local place": asked(pixels(), crs=_LOCAL),
    "control points": asked(pixels(), crs="EPSG:4326", transform=None, gcps=_POINTS),
    "RPCs": _rpc,
    "one pixel": asked(pixels()[:, :1, :1]),
    "one row": asked(pixels()[:, :1]),
    "one column": asked(pixels()[:, :, :1]),
    "two pages": _two_pages,
    "long text": _long_text,
    "a directory that names itself as the next": by_hand(loops=True),
    "rows that are not counted": by_hand(without=278),
}


# --------------------------------------------------------------------------- files to be refused


def _bytes(content: bytes) -> Writer:
    return lambda path: path.write_bytes(content)


def _cut_png(path: Path) -> None:
    write(path, pixels(), driver="PNG", crs=None, transform=None)
    path.with_name(f"{path.name}.aux.xml").unlink(missing_ok=True)
    path.write_bytes(path.read_bytes()[:3000])


def _vrt(source: str) -> Writer:
    text = (
        f'<VRTDataset rasterXSize="{WIDTH}" rasterYSize="{HEIGHT}">'
        f'<VRTRasterBand dataType="Byte" band="1"><SimpleSource><SourceFilename '
        f'relativeToVRT="{int(":" not in source)}">{source}</SourceFilename></SimpleSource>'
        "</VRTRasterBand></VRTDataset>"
    )
    return lambda path: path.write_text(text)


def _odd_names(path: Path) -> None:
    write(path, pixels(2))
    with rasterio.open(path, "r+") as dataset:
        for i in (1, 2):
            dataset.set_band_description(i, "\x1b[31m" + "name " * 100_000)


def _bad_block(path: Path) -> None:
    write(path, pixels(dtype="uint16"), compress="deflate", blockysize=10)
    content = bytearray(path.read_bytes())
    content[-4000:-3000] = bytes(1000)
    path.write_bytes(content)


BAD: dict[str, Writer] = {
    "nothing in it": _bytes(b""),
    "text": _bytes(b"not a TIFF at all\n"),
    "zeros": _bytes(bytes(5000)),
    "a page of the web": _bytes(b"<!DOCTYPE html><html><body>404 Not Found</body></html>"),
    "packed": lambda path: path.write_bytes(gzip.compress(tiff())),
    "HDF5": _bytes(b"\x89HDF\r\n\x1a\n" + bytes(500)),
    "a folder": Path.mkdir,
    "not there": lambda path: None,
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a header only": _bytes(tiff()[:8]),
    "half a directory": _bytes(tiff()[:60]),
    "a directory beyond the end": _bytes(b"II*\0" + struct.pack("<I", 2**31) + bytes(99)),
    "no bands": by_hand({277: (_SHORT, [0])}),
    "65535 bands": by_hand({277: (_SHORT, [65535])}),
    "no width": by_hand({256: (_LONG, [0])}),
    "a width of 2³²": by_hand({256: (_LONG, [2**32 - 1])}),
    "huge": by_hand({256: (_LONG, [2**31 - 1]), 257: (_LONG, [2**31 - 1])}),
    "huge in strips": by_hand({256: (_LONG, [10**6]), 257: (_LONG, [10**6]), 278: (_LONG, [1])}),
    "a block of 2 GB": by_hand(
        {256: (_LONG, [50_000]), 257: (_LONG, [50_000]), 278: (_LONG, [50_000])}
    ),
    "no bits": by_hand({258: (_SHORT, [0])}),
    "many bits": by_hand({258: (_SHORT, [999])}),
    "unknown compression": by_hand({259: (_SHORT, [60_000])}),
    "a codec that its pixels are not of": by_hand({259: (_SHORT, [5])}),
    "no offsets": by_hand(without=273),
    "an offset beyond the end": by_hand({273: (_LONG, [2**30])}),
    "complex integers": asked(pixels(dtype="complex64"), dtype="complex_int16"),
    "complex numbers": asked(pixels(dtype="complex64")),
    "bands with odd names": _odd_names,
    "a damaged block": _bad_block,
    "a PNG cut short": _cut_png,
    "virtual over itself": _vrt("scene.tif"),
    "virtual over nothing": _vrt("nothing.tif"),
    "virtual over the network": _vrt("/vsicurl/http://127.0.0.1:9/scene.tif"),
    "virtual over a device": _vrt("/dev/zero"),
}


# --------------------------------------------------------------------------- damage


def _layouts(folder: Path) -> dict[str, bytes]:
    """Small files of several layouts, to be spoilt."""
    tiles = {"tiled": True, "blockxsize": 32, "blockysize": 32}
    layouts: dict[str, dict[str, Any]] = {
        "strips": {"blockysize": 16},
        "tiles": {**tiles, "compress": "deflate", "nodata": 7},
        "big": {**tiles, "bigtiff": "YES", "interleave": "band", "compress": "lzw"},
    }
    found = {}
    for name, profile in layouts.items():
        write(folder / "whole.tif", pixels(3), **profile)
        found[name] = (folder / "whole.tif").read_bytes()
    return found


def truncated(folder: Path) -> dict[str, bytes]:
    """Files cut at every tenth of their length."""
    return {
        f"{name} cut at {tenth}0 %": whole[: len(whole) * tenth // 10]
        for name, whole in _layouts(folder).items()
        for tenth in range(1, 10)
    }


def mutated(folder: Path, seeds: Sequence[int]) -> dict[str, bytes]:
    """Files with a few bytes of their header or directory changed."""
    layouts = _layouts(folder)
    return {
        f"{name} spoilt by {seed}": _spoilt(whole, random.Random(f"{name} {seed}"))
        for seed in seeds
        for name, whole in layouts.items()
    }


def _spoilt(whole: bytes, chance: random.Random) -> bytes:
    content = bytearray(whole)
    for _ in range(chance.choice((1, 1, 2, 4, 8))):
        place = chance.randrange(min(len(content), 700))
        content[place] = chance.choice((0, 1, 127, 128, 255, chance.randrange(256)))
    return bytes(content)
