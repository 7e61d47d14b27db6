"""Reading the columns of tables: CSV, Parquet, and the properties of GeoJSON features."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from eosfm_cli.bands import nearest_word
from eosfm_cli.data.splits import few
from eosfm_cli.errors import DataError

Columns = Mapping[str, Sequence[Any]]
"""Name of a column -> its cells."""
Bounds = tuple[float, float, float, float]
"""Least x and y, largest x and y."""

_NO_GEOJSON = "it is no GeoJSON of features with properties"
_DELIMITERS = ",;\t|"
"""What may stand between the columns: what the heading has most of."""


def read_columns(paths: Sequence[Path], columns: Sequence[str]) -> Columns:
    """Read columns of one table, or of several of the same columns, one after the other.

    Raises:
        DataError: A table cannot be read, or a column is missing.
    """
    frames = [_read(path, columns) for path in paths]
    return {name: list(chain.from_iterable(frame[name] for frame in frames)) for name in columns}


def _reader(path: Path) -> Callable[[Path, Sequence[str]], Columns]:
    suffix = path.suffix.lower()
    if suffix in {".parquet", ".pq"}:
        return _read_parquet
    return _read_geojson if suffix in {".geojson", ".json"} else _read_csv


def _read(path: Path, columns: Sequence[str]) -> Columns:
    try:
        return _reader(path)(path, columns)
    except ImportError:
        raise DataError(
            f"Reading {path} takes pyarrow, which is not installed.",
            hint="Install it (pip install pyarrow), or turn the table into a CSV file.",
        ) from None
    except (OSError, ValueError, csv.Error) as error:  # pyarrow's errors are one of these
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0].rstrip(".")
        raise DataError(
            f"Cannot read the table {path}: {reason}.",
            hint="dataset.labels.path names a CSV, Parquet or GeoJSON file relative to the "
            "dataset's root.",
        ) from None


def _read_parquet(path: Path, columns: Sequence[str]) -> Columns:
    from pyarrow import parquet  # seconds, and most recipes have no table

    _refuse_missing(path, columns, parquet.read_schema(path).names)
    return parquet.read_table(path, columns=list(columns)).to_pydict()


def _read_csv(path: Path, columns: Sequence[str]) -> Columns:
    with path.open(encoding="utf-8-sig", newline="") as file:
        heading = file.readline()
        file.seek(0)
        rows = csv.reader(file, delimiter=max(_DELIMITERS, key=heading.count), strict=True)
        there = [name.strip() for name in next(rows, [])]
        _refuse_missing(path, columns, there)
        places = [there.index(column) for column in columns]
        found: list[list[str]] = [[] for _ in columns]
        for row in filter(any, rows):
            if len(row) != len(there):
                cells = f"line {rows.line_num} has {len(row)} cells, the heading {len(there)}"
                raise ValueError(cells)
            for cells, place in zip(found, places, strict=True):
                cells.append(row[place])
    return dict(zip(columns, found, strict=True))


def _read_geojson(path: Path, columns: Sequence[str]) -> Columns:
    try:
        rows = [each["properties"] or {} for each in _features(path)["features"]]
        there = list(dict.fromkeys(name for row in rows for name in row))
    except (LookupError, TypeError):
        raise ValueError(_NO_GEOJSON) from None
    _refuse_missing(path, columns, there)
    return {column: [row.get(column) for row in rows] for column in columns}


def _features(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError):
        raise ValueError(_NO_GEOJSON) from None


def read_bounds(paths: Sequence[Path]) -> tuple[list[Bounds], str | None]:
    """Where the features of GeoJSON files lie, and in which coordinates if they say so.

    Raises:
        DataError: A file cannot be read, or a feature lies nowhere.
    """
    bounds: list[Bounds] = []
    systems: set[str | None] = set()
    for path in paths:
        try:
            found = _features(path)
            bounds += [_bounds(each["geometry"]["coordinates"]) for each in found["features"]]
            systems.add(found["crs"]["properties"]["name"] if found.get("crs") else None)
        except (OSError, ValueError, LookupError, TypeError) as error:
            reason = getattr(error, "strerror", None) or "its features have no coordinates"
            raise DataError(
                f"Cannot read the places of the rows in {path}: {reason}.",
                hint="With dataset.labels.windows, the table is GeoJSON of polygons.",
            ) from None
    if len(systems) > 1:
        raise DataError(
            f"{' and '.join(map(str, paths))} are in different coordinates.",
            hint="Bring them to one coordinate system.",
        )
    return bounds, systems.pop() if systems else None


def _bounds(coordinates: Sequence[Any]) -> Bounds:
    """The least rectangle around nested lists of points."""
    if isinstance(coordinates[0], int | float):
        x, y = map(float, coordinates[:2])
        return x, y, x, y
    parts = [_bounds(part) for part in coordinates]
    west, south, east, north = zip(*parts, strict=True)
    return min(west), min(south), max(east), max(north)


def _refuse_missing(path: Path, columns: Sequence[str], there: Sequence[str]) -> None:
    missing = [column for column in columns if column not in there]
    if not missing:
        return
    near = nearest_word(missing[0], there)
    raise DataError(
        f"{path} has no column {', '.join(map(repr, missing))}."
        + (f" Did you mean {near!r}?" if near else "")
        + f"\n  columns: {few(there, 12)}",
        hint="dataset.labels and dataset.split name the table's columns; where each class has a "
        "column of its own, it is called as the class or one of its 'values'.",
    )
