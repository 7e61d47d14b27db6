"""Whether a PNG is all there."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHUNK = struct.Struct(">I4s")
_AROUND = 12
"""Bytes of a chunk beside its data: how long it is, what it is, and its checksum."""


def is_sound(path: Path) -> bool:
    """Whether each chunk is as long as it says and has the checksum that it says, to the last."""
    try:
        data = memoryview(path.read_bytes())
    except OSError:
        return False
    at = len(_SIGNATURE)
    if data[:at] != _SIGNATURE:
        return False
    while at + _AROUND <= len(data):
        length, kind = _CHUNK.unpack_from(data, at)
        end = at + _AROUND + length
        stated = int.from_bytes(data[end - 4 : end], "big")
        if end > len(data) or zlib.crc32(data[at + 4 : end - 4]) != stated:
            return False
        if kind == b"IEND":
            return True
        at = end
    return False
