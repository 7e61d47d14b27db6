"""Names of classes, where a dataset brings them along."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

_ABOUT_CLASSES = re.compile(r"class|label|legend|colou?r|categor|names", re.IGNORECASE)
_NAME = frozenset(
    {"name", "class", "class_name", "classname", "label", "label_name", "category", "landcover"}
)
_VALUE = frozenset({"value", "id", "index", "code", "class_id", "label_id", "pixel", "pixel_value"})
_COLOUR = frozenset({"color", "colour", "hex"})
_CHANNELS = (frozenset({"r", "red"}), frozenset({"g", "green"}), frozenset({"b", "blue"}))
_MOST_BYTES = 100_000


@dataclass(frozen=True)
class Legend:
    """What values and colours are called."""

    source: str = ""
    by_value: Mapping[int, str] = field(default_factory=dict)
    by_colour: Mapping[str, str] = field(default_factory=dict)
    counted: bool = False
    """Whether values only count the lines of a list."""

    def name_of(self, value: int, values: Sequence[int]) -> str | None:
        """What a value is called; a bare list of as many names as values names them in order."""
        if self.counted and len(values) == len(self.by_value):
            return self.by_value[list(values).index(value)]
        return self.by_value.get(value)


def read_legend(root: Path, texts: Iterable[str], masks: Iterable[str]) -> Legend:
    """The first legend found: beside a mask as GDAL writes it, or a table or list of classes."""
    for mask in masks:
        if names := _gdal_names(root / f"{mask}.aux.xml"):
            return Legend(f"{mask}.aux.xml", names)
    for path in texts:
        if _ABOUT_CLASSES.search(PurePosixPath(path).stem):
            legend = _from_table(root / path, path) or _from_list(root / path, path)
            if legend:
                return legend
    return Legend()


def _gdal_names(path: Path) -> dict[int, str]:
    """Category names, or the names of an attribute table, from GDAL's sidecar file."""
    try:
        if not path.is_file() or path.stat().st_size > _MOST_BYTES:
            return {}
        root = ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError):
        return {}
    names = [(i, (e.text or "").strip()) for i, e in enumerate(root.findall(".//Category"))]
    return {i: text for i, text in names if text} or _attribute_table(root)


def _attribute_table(root: ElementTree.Element) -> dict[int, str]:
    usages = [(e.findtext("Usage") or "").strip() for e in root.findall(".//FieldDefn")]
    if "2" not in usages or not {"5", "3"} & set(usages):  # GFU_Name; GFU_MinMax or GFU_Min
        return {}
    value, name = usages.index("5" if "5" in usages else "3"), usages.index("2")
    rows = [[cell.text or "" for cell in row.findall("F")] for row in root.findall(".//Row")]
    return {
        int(float(row[value])): row[name].strip()
        for row in rows
        if len(row) == len(usages) and _is_number(row[value]) and row[name].strip()
    }


def _is_number(text: str) -> bool:
    return re.fullmatch(r"\s*-?\d+(\.\d*)?\s*", text) is not None


def _lines(path: Path) -> list[str]:
    try:
        if path.stat().st_size > _MOST_BYTES:
            return []
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return []
    return [line.strip() for line in text.splitlines() if line.strip()]


def _from_table(path: Path, shown: str) -> Legend | None:
    """A table with a heading: name with red, green and blue, or with a value or colour."""
    rows = list(csv.reader(_lines(path), skipinitialspace=True))
    if len(rows) < 2:
        return None
    heading = [cell.strip().lower() for cell in rows[0]]
    name = _column(heading, _NAME)
    channels = [_column(heading, words) for words in _CHANNELS]
    value, colour = _column(heading, _VALUE), _column(heading, _COLOUR)
    if name is None:
        return None
    by_value, by_colour = {}, {}
    for row in (row for row in rows[1:] if len(row) == len(heading)):
        if value is not None and _is_number(row[value]):
            by_value[int(float(row[value]))] = row[name].strip()
        text = _channel_colour(row, channels) or (_hex(row[colour]) if colour is not None else None)
        if text:
            by_colour[text] = row[name].strip()
    return Legend(shown, by_value, by_colour) if by_value or by_colour else None


def _column(heading: list[str], words: frozenset[str]) -> int | None:
    return next((i for i, cell in enumerate(heading) if cell in words), None)


def _channel_colour(row: list[str], channels: list[int | None]) -> str | None:
    if None in channels or not all(_is_number(row[i]) for i in channels if i is not None):
        return None
    values = [int(float(row[i])) for i in channels if i is not None]
    return "#{:02x}{:02x}{:02x}".format(*values) if all(0 <= v <= 255 for v in values) else None


def _hex(text: str) -> str | None:
    text = text.strip().lower()
    text = text if text.startswith("#") else f"#{text}"
    return text if re.fullmatch(r"#[0-9a-f]{6}", text) else None


def _from_list(path: Path, shown: str) -> Legend | None:
    """One name per line, from 0 on; or a value and a name, as in `3: forest`."""
    lines = _lines(path)
    numbered = [re.fullmatch(r"(-?\d+)\s*[:,;=\t ]\s*(\D.*)", line) for line in lines]
    if lines and all(numbered):
        return Legend(shown, {int(match[1]): match[2].strip() for match in numbered if match})
    words = [re.fullmatch(r"[A-Za-z][\w '()&/-]*", line) for line in lines]
    if 1 < len(lines) < 256 and all(words):
        return Legend(shown, dict(enumerate(lines)), counted=True)
    return None
