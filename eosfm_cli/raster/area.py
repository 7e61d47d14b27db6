"""The part of a scene that is wanted: polygons of a file, or a box."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.features import rasterize
from rasterio.warp import transform, transform_bounds
from shapely.geometry import shape

from eosfm_cli.errors import DataError, RasterError, UsageError
from eosfm_cli.raster.gdal import GDAL_ERRORS
from eosfm_cli.raster.grid import Grid
from eosfm_cli.tiling import Tile

_LONLAT = CRS.from_epsg(4326)
_LARGEST = 256 * 2**20
_MAGIC = {b"SQLite format 3\0": "GPKG", b"\x00\x00\x27\x0a": "ESRI Shapefile", b"fgb\x03": "FGB"}
"""What the files begin with that are read with GDAL."""
_MIXED = frozenset({"Unknown", "Unknown Z", "Geometry", "GeometryCollection"})
"""Kinds of layers whose shapes are of any kind."""
_PIECES = 200
"""Straight edges that a projection may bend are looked at in so many pieces along an area."""
_ROUNDING = 1e-4
"""Pixels by which a box may miss an edge of the grid and still mean it."""


class OutsideAreaError(RasterError):
    """A scene that has nothing of the area."""


@dataclass(frozen=True)
class Area:
    """What is wanted of the earth's surface."""

    name: str
    """As the user named it."""
    outline: shapely.Geometry
    """Polygons."""
    crs: CRS | None
    """Of the outline; `None` for the coordinates of whatever scene there is."""
    is_box: bool = False
    """Whether all pixels of the rectangle around it are wanted; else those inside alone."""

    def cut(self, grid: Grid, name: str) -> Cut:
        """Find the area in a scene.

        Args:
            grid: Of the scene.
            name: Of the scene.

        Raises:
            OutsideAreaError: The scene has nothing of it.
            RasterError: The scene does not say where it lies.
        """
        with np.errstate(all="ignore"):  # of boxes as large as numbers go
            outline = _in_pixels(self._on(grid, name), grid)
            part = _within(outline, 0, 0, grid.width, grid.height)
        if part.is_empty:
            raise OutsideAreaError(
                f"{name} has nothing of {self.name}.", hint=_hint(grid, self.crs)
            )
        left, top, right, bottom = part.bounds
        row, col = max(_floor(top), 0), max(_floor(left), 0)
        tile = Tile(
            row, col, min(_ceil(bottom), grid.height) - row, min(_ceil(right), grid.width) - col
        )
        if tile.height < 1 or tile.width < 1:
            raise OutsideAreaError(f"{name} has not one whole pixel of {self.name}.")
        cut = Cut(tile, grid.cut(tile), None if self.is_box else outline)
        cut.refuse_empty(name, self.name)
        return cut

    def _on(self, grid: Grid, name: str) -> shapely.Geometry:
        """The outline in the scene's coordinates."""
        if grid.transform is None:
            raise RasterError(
                f"{name} has no coordinates by which {self.name} could be found in it.",
                hint="Warp the scene to a projection first: rio warp IN OUT --dst-crs EPSG:4326",
            )
        if self.crs is None or self.crs == grid.crs:
            return self.outline
        if grid.crs is None:
            raise RasterError(
                f"{name} has no coordinate reference system, so {self.name} cannot be found in it.",
                hint="Give --bbox in the scene's own coordinates, with --bbox-crs scene.",
            )
        return self._projected(grid, name)

    def _projected(self, grid: Grid, name: str) -> shapely.Geometry:
        try:
            near = _clipped(self.outline, transform_bounds(grid.crs, self.crs, *grid.bounds))
            if near.is_empty:
                return near
            left, bottom, right, top = near.bounds
            near = shapely.segmentize(near, max(right - left, top - bottom) / _PIECES or 1)
            points = shapely.get_coordinates(near)
            xs, ys = transform(self.crs, grid.crs, points[:, 0], points[:, 1])
        except GDAL_ERRORS:
            xs = ys = [math.nan]
        moved = np.column_stack([xs, ys])
        if not np.isfinite(moved).all():
            raise RasterError(
                f"{self.name} cannot be brought into the projection of {name}.",
                hint="If it reaches far beyond the scene, cut it to the surroundings first.",
            )
        return shapely.set_coordinates(shapely.force_2d(near), moved)


@dataclass(frozen=True)
class Cut:
    """The part of a scene that is wanted."""

    tile: Tile
    """In the scene's pixels: all that is read."""
    grid: Grid
    """Of that part."""
    outline: shapely.Geometry | None
    """In the scene's pixels; `None` where the whole tile is wanted."""

    def inside(self, tile: Tile) -> NDArray[np.bool_]:
        """Which pixels of a tile have their centre in the area, `(h, w)`.

        Args:
            tile: In pixels of `grid`.
        """
        if self.outline is None:
            return np.ones((tile.height, tile.width), bool)
        row, col = self.tile.row + tile.row, self.tile.col + tile.col
        corners = (col, row, col + tile.width, row + tile.height)
        box = shapely.box(*corners)
        if self._prepared.contains(box):
            return np.ones((tile.height, tile.width), bool)
        found = np.zeros((tile.height, tile.width), np.uint8)
        if self._prepared.intersects(box):
            pieces = [
                piece for piece in _polygons(_within(self.outline, *corners)) if piece.area > 0
            ]
            if pieces:
                place = Affine.translation(col, row)
                rasterize(pieces, out=found, transform=place, default_value=1)
        return found.astype(bool)

    @cached_property
    def _prepared(self) -> shapely.Geometry:
        shapely.prepare(self.outline)
        return self.outline

    def refuse_empty(self, name: str, area: str) -> None:
        """Refuse an area so small that no pixel has its centre in it."""
        small = self.tile.height * self.tile.width <= 2**16
        if small and not self.inside(Tile(0, 0, self.tile.height, self.tile.width)).any():
            raise OutsideAreaError(f"{name} has not one whole pixel of {area}.")


# --------------------------------------------------------------------------- what users name


def parse_bbox(text: str, crs: str | None = None) -> Area:
    """Read a box.

    Args:
        text: `W,S,E,N`; a box in longitudes whose west is above its east crosses the date line.
        crs: What the numbers are in, as in `EPSG:32631`, or `scene` for the scene's own
            coordinates; if not given, longitude and latitude where they can be that, else the
            scene's.

    Raises:
        UsageError: It is no box, or there is no such system.
    """
    west, south, east, north = _numbers(text)
    if crs is not None and crs != "scene":
        system = _system(crs)
    else:
        degrees = max(abs(west), abs(east)) <= 180 and max(abs(south), abs(north)) <= 90
        system = _LONLAT if degrees and crs is None else None
    geographic = system is not None and system.is_geographic
    if south >= north or west == east or (west > east and not geographic):
        raise UsageError(
            f"--bbox {text} is no box: it has no width or no height.",
            hint="Give west, south, east and north in this order, as in 4.1,52.0,4.3,52.2.",
        )
    if west > east:
        halves = [shapely.box(west, south, 180, north), shapely.box(-180, south, east, north)]
        return Area(f"--bbox {text}", shapely.MultiPolygon(halves), system)
    return Area(f"--bbox {text}", shapely.box(west, south, east, north), system, is_box=True)


def read_area(path: Path) -> Area:
    """Read the polygons of a file: GeoJSON, GeoPackage, Shapefile or FlatGeobuf.

    Raises:
        DataError: The file is not there or damaged, has no polygons, or does not say where it lies.
    """
    try:
        with path.open("rb") as file:
            start = file.read(16)
        size = path.stat().st_size
    except OSError as error:
        raise DataError(f"The area {path} cannot be read: {error.strerror}.") from None
    if size > _LARGEST:
        raise DataError(
            f"The area {path} is too large ({size / 2**20:,.0f} MB).", hint="Simplify it first."
        )
    known = any(start.startswith(magic) for magic in _MAGIC)
    shapes, crs = _read_with_gdal(path) if known else _read_geojson(path)
    polygons = [polygon for one in shapes for polygon in _polygons(one)]
    if not polygons:
        raise DataError(
            f"The area {path} has no polygons.",
            hint="Lines and points have no inside: buffer them.",
        )
    outline = shapely.union_all(shapely.make_valid(shapely.force_2d(polygons)))
    return Area(path.name, shapely.MultiPolygon(list(_polygons(outline))), crs)


def _numbers(text: str) -> tuple[float, float, float, float]:
    try:
        west, south, east, north = (
            float(part) for part in text.replace(" ", ",").split(",") if part
        )
    except ValueError:
        west = south = east = north = math.nan
    if not all(map(math.isfinite, (west, south, east, north))):
        raise UsageError(
            f"--bbox {text} is not four numbers.",
            hint="Give west, south, east and north, as in --bbox 4.1,52.0,4.3,52.2.",
        )
    return west, south, east, north


def _system(crs: str) -> CRS:
    try:
        with rasterio.Env():  # else PROJ complains on the terminal as well
            return CRS.from_user_input(crs)
    except (CRSError, ValueError):
        raise UsageError(
            f"There is no coordinate reference system {crs!r}.",
            hint="Name it as in --bbox-crs EPSG:32631, or --bbox-crs scene.",
        ) from None


def _read_geojson(path: Path) -> tuple[list[shapely.Geometry], CRS]:
    try:
        content = json.loads(path.read_bytes())
        shapes = [shape(geometry) for geometry in _geometries(content)]
        crs = _declared(content)
    except UnicodeDecodeError:
        raise _unknown_format(path) from None
    except json.JSONDecodeError as error:
        if path.suffix.lower() not in {".json", ".geojson"}:
            raise _unknown_format(path) from None
        raise DataError(f"The area {path} is no GeoJSON: {error}.") from None
    except (TypeError, KeyError, IndexError, AttributeError, RecursionError):
        raise DataError(f"The area {path} is damaged GeoJSON: it is not made as one is.") from None
    except (ValueError, shapely.errors.ShapelyError, CRSError) as error:
        reason = str(error).rstrip(".")
        raise DataError(f"The area {path} is damaged GeoJSON: {reason}.") from None
    for one in shapes:
        _refuse_metres(path, one, crs)
    return shapes, crs


def _geometries(content: dict[str, Any]) -> Iterator[dict[str, Any]]:
    kind = content["type"]
    if kind == "FeatureCollection":
        for feature in content["features"]:
            yield from _geometries(feature)
    elif kind == "Feature":
        if content["geometry"] is not None:
            yield content["geometry"]
    else:
        yield content


def _declared(content: dict[str, Any]) -> CRS:
    """The system of an older GeoJSON; the newer ones are in longitude and latitude."""
    declared = content.get("crs")
    if not declared:
        return _LONLAT
    return CRS.from_user_input(declared["properties"]["name"])


def _refuse_metres(path: Path, one: shapely.Geometry, crs: CRS) -> None:
    if one.is_empty or not crs.is_geographic:
        return
    left, bottom, right, top = one.bounds
    if max(abs(left), abs(right)) > 360 or max(abs(bottom), abs(top)) > 90:
        raise DataError(
            f"The area {path} is not in degrees ({left:.10g}, {bottom:.10g}), as GeoJSON is that "
            "names no coordinate reference system.",
            hint="Save it as GeoPackage, or reproject it to EPSG:4326.",
        )


def _read_with_gdal(path: Path) -> tuple[list[shapely.Geometry], CRS]:
    import pyogrio.raw  # more than a second, and most areas are GeoJSON
    from pyogrio.errors import DataLayerError, DataSourceError

    try:
        with warnings.catch_warnings(action="ignore"):
            layer = _layer(path, pyogrio.list_layers(path))
            if layer is None:
                return [], _LONLAT
            meta, _, geometries, _ = pyogrio.raw.read(path, layer=layer, columns=[])
        shapes = [one for one in shapely.from_wkb(geometries, on_invalid="ignore") if one]
        crs = meta["crs"] and CRS.from_user_input(meta["crs"])
    except (DataSourceError, DataLayerError, CRSError, ValueError, RuntimeError) as error:
        raise DataError(f"The area {path} cannot be read: {str(error).rstrip('.')}.") from None
    if not crs:
        raise DataError(
            f"The area {path} has no coordinate reference system.",
            hint="A Shapefile has it in a .prj file beside it; GeoJSON is in longitude and "
            "latitude without saying so.",
        )
    return shapes, crs


def _layer(path: Path, layers: Iterable[tuple[str, str | None]]) -> str | None:
    """The layer that has polygons, or may have some."""
    kinds = {str(name): str(kind) for name, kind in layers}
    named = [name for name, kind in kinds.items() if "Polygon" in kind]
    found = named or [name for name, kind in kinds.items() if kind in _MIXED]
    if len(found) > 1:
        raise DataError(
            f"The area {path} has {len(found)} layers with polygons: {', '.join(found[:5])}.",
            hint="Save the one that is meant to a file of its own.",
        )
    return found[0] if found else None


def _unknown_format(path: Path) -> DataError:
    return DataError(
        f"The area {path} is no file of polygons that can be read.",
        hint="Give GeoJSON, GeoPackage, Shapefile or FlatGeobuf.",
    )


# --------------------------------------------------------------------------- geometry


def _polygons(one: shapely.Geometry) -> Iterator[shapely.Polygon]:
    """The parts of a geometry that have an inside."""
    for part in shapely.get_parts(one):
        if part.geom_type == "Polygon":
            if not part.is_empty:
                yield part
        elif part.geom_type in {"MultiPolygon", "GeometryCollection"}:
            yield from _polygons(part)


def _clipped(
    outline: shapely.Geometry, bounds: tuple[float, float, float, float]
) -> shapely.Geometry:
    """What of an outline is near a scene; far parts may have no place in its projection."""
    left, bottom, right, top = bounds
    if not all(map(math.isfinite, bounds)) or left >= right:  # across the date line
        return outline
    margin = max(right - left, top - bottom)
    return _within(outline, left - margin, bottom - margin, right + margin, top + margin)


def _within(
    outline: shapely.Geometry, left: float, low: float, right: float, high: float
) -> shapely.Geometry:
    """The part of an outline in a rectangle, quickly where it can be."""
    try:
        return shapely.clip_by_rect(outline, left, low, right, high)
    except shapely.errors.GEOSException:  # slivers thinner than numbers can tell
        return shapely.intersection(
            shapely.make_valid(outline), shapely.box(left, low, right, high)
        )


def _in_pixels(outline: shapely.Geometry, grid: Grid) -> shapely.Geometry:
    """From the scene's coordinates to its columns and rows."""
    if outline.is_empty:
        return outline
    t = ~grid.transform
    points = shapely.get_coordinates(outline)
    cols = t.a * points[:, 0] + t.b * points[:, 1] + t.c
    rows = t.d * points[:, 0] + t.e * points[:, 1] + t.f
    moved = shapely.set_coordinates(shapely.force_2d(outline), np.column_stack([cols, rows]))
    return moved if moved.is_valid else shapely.make_valid(moved)


def _floor(value: float) -> int:
    return math.floor(value + _ROUNDING)


def _ceil(value: float) -> int:
    return math.ceil(value - _ROUNDING)


def _hint(grid: Grid, crs: CRS | None) -> str:
    """Where a scene is, in the coordinates of an area that is elsewhere."""
    bounds, system = grid.bounds, "its own coordinates"
    if crs is not None and grid.crs is not None:
        with suppress(*GDAL_ERRORS):
            bounds, system = transform_bounds(grid.crs, crs, *grid.bounds), crs.to_string()[:40]
    place = ", ".join(f"{value:.8g}" for value in bounds)
    return f"The scene's west, south, east and north are {place} ({system})."
