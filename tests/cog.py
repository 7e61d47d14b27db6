"""Whether a GeoTIFF is laid out so that a viewer gets what it shows in a few reads."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

_WIDTH, _HEIGHT, _TILE_WIDTH, _TILE_OFFSETS, _TILE_BYTES = 256, 257, 322, 324, 325
_TYPES = {1: "B", 2: "B", 3: "H", 4: "I", 12: "d", 13: "I", 16: "Q"}
_LARGEST_UNTILED = 512


@dataclass(frozen=True)
class Image:
    """One image of a TIFF: the raster itself, or a reduced one."""

    at: int
    tags: dict[int, tuple[int | float, ...]]

    @property
    def size(self) -> tuple[int, int]:
        return int(self.tags[_WIDTH][0]), int(self.tags[_HEIGHT][0])

    @property
    def first_data(self) -> int | None:
        """Where its pixels begin; `None` where all of its tiles are left out."""
        tiles = zip(self.tags[_TILE_OFFSETS], self.tags[_TILE_BYTES], strict=True)
        return min((int(offset) for offset, size in tiles if size), default=None)


def images(path: Path) -> list[Image]:
    """Read all directories of a TIFF, classic or big, of either byte order."""
    data = path.read_bytes()
    order = {b"II": "<", b"MM": ">"}[data[:2]]
    big = struct.unpack(order + "H", data[2:4])[0] == 43
    count, entry, offset = ("Q", "HHQ8s", "Q") if big else ("H", "HHI4s", "I")
    (at,) = struct.unpack_from(order + offset, data, 8 if big else 4)
    found = []
    while at:
        (entries,) = struct.unpack_from(order + count, data, at)
        start, length = at + struct.calcsize(count), struct.calcsize(order + entry)
        tags = {}
        for i in range(entries):
            tag, kind, number, raw = struct.unpack_from(order + entry, data, start + i * length)
            if kind not in _TYPES:
                continue
            form = f"{order}{number}{_TYPES[kind]}"
            inside = struct.calcsize(form) <= len(raw)
            source, place = (raw, 0) if inside else (data, struct.unpack(order + offset, raw)[0])
            tags[tag] = struct.unpack_from(form, source, place)
        found.append(Image(at, tags))
        (at,) = struct.unpack_from(order + offset, data, start + entries * length)
    return found


def faults(path: Path) -> list[str]:
    """What keeps a file from being a Cloud Optimized GeoTIFF; nothing if it is one."""
    whole, *reduced = images(path)
    found = []
    if max(whole.size) > _LARGEST_UNTILED:
        if not reduced:
            found.append("no overviews")
        elif max(reduced[-1].size) > _LARGEST_UNTILED:
            found.append(f"the smallest overview has {reduced[-1].size} pixels")
    if any(_TILE_WIDTH not in image.tags for image in (whole, *reduced)):
        return [*found, "not tiled"]
    places = [image.at for image in (whole, *reduced)]
    if places != sorted(places):
        found.append("directories are not in order")
    widths = [image.size for image in (whole, *reduced)]
    if widths != sorted(widths, reverse=True):
        found.append("overviews are not ordered by size")
    begins = [image.first_data for image in (whole, *reduced) if image.first_data is not None]
    if begins != sorted(begins, reverse=True):
        found.append("pixels of overviews do not come before those of the raster")
    if begins and min(begins) < max(places):
        found.append("a directory comes after pixels")
    if path.with_name(path.name + ".ovr").exists():
        found.append("overviews are in another file")
    return found
