"""How large what a raster shows is on the ground."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.warp import transform as reproject

from eosfm_cli.raster.gdal import GDAL_ERRORS
from eosfm_cli.raster.grid import Grid

_EQUAL_AREA = {"proj": "cea", "lat_ts": 30, "units": "m"}
_BODY = ("datum", "ellps", "R", "a", "b", "rf")
_STRETCHED = {"merc", "webmerc", "eqc", "mill"}
"""Projections whose metres are far from those on the ground."""


def ground_km2(grid: Grid) -> float | None:
    """What a raster covers; `None` where nothing tells."""
    if grid.crs is None or grid.transform is None:
        return None
    whole = np.array([shapely.box(0, 0, grid.width, grid.height)], object)
    try:
        found = float(areas_of(grid)(whole)[0]) / 1e6
    except (*GDAL_ERRORS, CRSError):  # a map of an odd place is a map all the same
        return None
    return found if np.isfinite(found) else None


def areas_of(grid: Grid) -> Callable[[NDArray[np.object_]], NDArray[np.float64]]:
    """What gives the areas in m² of polygons in pixels."""
    crs, t = grid.crs, grid.transform
    facts = crs.to_dict()
    if not crs.is_geographic and facts.get("proj") not in _STRETCHED:
        metres = abs(t.a * t.e - t.b * t.d) * crs.linear_units_factor[1] ** 2
        return lambda shapes: shapely.area(shapes) * metres
    level = _equal_area(crs, facts)
    return lambda shapes: shapely.area(shapely.transform(placed(shapes, t), level))


def _equal_area(
    crs: CRS, facts: Mapping[str, object]
) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """What turns coordinates of degrees, or of a cylindrical projection, into metres of true area.

    Meridians and parallels stay straight, and so do the edges of pixels. Columns are as wide
    everywhere, also where longitudes go up to 360.
    """
    body = {key: facts[key] for key in _BODY if key in facts}
    if not body or "nadgrids" in facts:  # the web's maps call the earth a sphere
        body = {"datum": "WGS84"}
    flat = CRS.from_dict({**_EQUAL_AREA, **body, "lon_0": facts.get("lon_0", 0)})
    (begin, end), _ = reproject(crs, flat, [0, 1], [0, 0])

    def level(points: NDArray[np.float64]) -> NDArray[np.float64]:
        _, north = reproject(crs, flat, np.zeros(len(points)), points[:, 1])
        return np.column_stack([points[:, 0] * (end - begin), north])

    return level


def placed(shapes: NDArray[np.object_], t: Affine) -> NDArray[np.object_]:
    """Polygons in pixels -> in the map's coordinates."""
    linear = np.array([[t.a, t.d], [t.b, t.e]])
    return shapely.transform(shapes, lambda points: points @ linear + (t.c, t.f))
