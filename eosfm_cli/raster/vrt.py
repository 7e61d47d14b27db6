"""What a VRT points to, looked at before GDAL follows it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

from eosfm_cli.errors import RasterError

_LARGEST = 64 * 2**20
_DEEPEST = 16
_TOLD = {"Metadata", "SRS", "TargetSRS", "SourceSRS", "Description", "CategoryNames", "GCPList"}
"""Parts of a VRT whose text points nowhere, and often holds addresses."""
_SOURCES = {"SourceFilename", "SourceDataset"}
_ADDRESS = re.compile(r"://|/vsi(curl|s3|gs|az|adls|oss|swift|hdfs|webhdfs)", re.IGNORECASE)
_SERVICE = re.compile(r"<|[a-z][a-z0-9_]+:", re.IGNORECASE)
"""How GDAL names what is no file: descriptions in place, and `WMS:…`."""


def refuse_other_sources(path: Path, refuse_unknown: Callable[[str], None]) -> None:
    """Refuse a VRT that points to the network, or to anything that is no raster on this disk.

    Args:
        path: The VRT.
        refuse_unknown: Refuses a source that is in none of the formats that are read.

    Raises:
        RasterError: It points there, or is damaged.
    """
    _Check(refuse_unknown).check(path, 0)


class _Check:
    def __init__(self, refuse_unknown: Callable[[str], None]) -> None:
        self._refuse_unknown = refuse_unknown
        self._seen: set[Path] = set()

    def check(self, path: Path, depth: int) -> None:
        """Look at one VRT, and at those that it points to."""
        if path.resolve() in self._seen:
            return
        if depth > _DEEPEST:
            raise RasterError(f"{path} is a VRT of VRTs, {_DEEPEST} deep.")
        self._seen.add(path.resolve())
        root = _parsed(path)
        for text in _texts(root):
            if _ADDRESS.search(text):
                raise _elsewhere(path, text)
        for element in (e for tag in sorted(_SOURCES) for e in root.iter(tag)):
            self._check_source(path, element, depth)

    def _check_source(self, path: Path, element: ElementTree.Element, depth: int) -> None:
        name = (element.text or "").strip()
        beside = element.get("relativeToVRT") == "1" and not name.startswith("/vsi")
        source = path.parent / name if beside else Path(name)
        if os.path.isfile(source):
            if _is_vrt(source):
                self.check(source, depth + 1)
            else:
                self._refuse_unknown(str(source))
        elif name.startswith("/vsi"):
            self._refuse_unknown(name)
        elif _SERVICE.match(name):
            raise _elsewhere(path, name)


def _elsewhere(path: Path, text: str) -> RasterError:
    return RasterError(
        f"{path} points to {text.strip()[:80].partition('?')[0]}, which is no file on this disk.",
        hint="Only what is named on the command line is read from the network: name the rasters "
        "themselves, for example: eosfm predict https://host/scene.tif",
    )


def _parsed(path: Path) -> ElementTree.Element:
    try:
        if path.stat().st_size > _LARGEST:
            raise RasterError(f"{path} is too large for a VRT ({path.stat().st_size:,} bytes).")
        text = path.read_bytes()
        if b"<!DOCTYPE" in text or b"<!ENTITY" in text:
            raise RasterError(f"{path} is no plain VRT: it declares a document type.")
        return ElementTree.fromstring(text)
    except OSError as error:
        raise RasterError(f"{path} cannot be read: {error.strerror}.") from None
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise RasterError(f"{path} cannot be read as a VRT: {error}.") from None


def _texts(root: ElementTree.Element) -> Iterator[str]:
    """All that a VRT says, but for what is told about it."""
    waiting = [root]
    while waiting:
        element = waiting.pop()
        if element.tag in _TOLD:
            continue
        yield from filter(None, (element.text, element.tail, *element.attrib.values()))
        waiting.extend(element)


def _is_vrt(path: Path) -> bool:
    with path.open("rb") as file:
        return b"<VRTDataset" in file.read(2**16)
