"""Where a raster's pixels lie on the earth."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.io import DatasetReader
from rasterio.rpc import RPC

from eosfm_cli.tiling import Tile

_DEGREE = 111_320.0
"""Metres, along a meridian."""
_PIXELS_APART = 0.01
"""What two grids may differ by and still count as one."""


@dataclass(frozen=True)
class Grid:
    """Size and georeferencing of a raster, whichever way it is georeferenced."""

    height: int
    width: int
    crs: CRS | None
    """Of the transform, or of the ground control points where there is no transform."""
    transform: Affine | None
    """Pixel to map; `None` for rasters that have ground control points or nothing."""
    gcps: tuple[GroundControlPoint, ...] = ()
    rpcs: RPC | None = None

    @classmethod
    def of(cls, dataset: DatasetReader) -> Grid:
        """Read the grid of an open raster."""
        size = {"height": dataset.height, "width": dataset.width, "rpcs": dataset.rpcs}
        # GDAL gives the identity for rasters that have no transform.
        if not dataset.transform.is_identity:
            return cls(**size, crs=dataset.crs, transform=dataset.transform)
        gcps, gcp_crs = dataset.gcps
        return cls(**size, crs=dataset.crs or gcp_crs, transform=None, gcps=tuple(gcps))

    @property
    def is_placed(self) -> bool:
        """Whether anything says where on the earth the pixels lie."""
        return self.crs is not None or self.rpcs is not None

    @property
    def profile(self) -> dict[str, Any]:
        """What `rasterio.open` needs to write a raster on the same grid."""
        profile: dict[str, Any] = {"height": self.height, "width": self.width, "crs": self.crs}
        if self.transform is not None:
            profile["transform"] = self.transform
        if self.gcps:
            profile["gcps"] = list(self.gcps)
        if self.rpcs is not None:
            profile["rpcs"] = self.rpcs
        return profile

    def coarser(self, size: int, height: int, width: int) -> Grid:
        """The grid whose pixels are squares of `size` pixels of this one, from its upper left.

        Args:
            size: Pixels of this grid on a side.
            height: Rows of the new one.
            width: Columns of the new one.
        """
        t = self.transform
        transform = t and Affine(t.a * size, t.b * size, t.c, t.d * size, t.e * size, t.f)
        gcps = tuple(
            GroundControlPoint(p.row / size, p.col / size, p.x, p.y, p.z) for p in self.gcps
        )
        return Grid(height, width, self.crs, transform, gcps)

    def cut(self, tile: Tile) -> Grid:
        """The grid of a part of it."""
        t, transform = self.transform, None
        if t is not None:
            x, y = self.point(tile.col, tile.row)
            transform = Affine(t.a, t.b, x, t.d, t.e, y)
        gcps = tuple(
            GroundControlPoint(p.row - tile.row, p.col - tile.col, p.x, p.y, p.z) for p in self.gcps
        )
        rpcs = copy.copy(self.rpcs)
        if rpcs is not None:
            rpcs.line_off -= tile.row
            rpcs.samp_off -= tile.col
        return Grid(tile.height, tile.width, self.crs, transform, gcps, rpcs)

    def matches(self, other: Grid) -> bool:
        """Whether both put every pixel in the same place, but for rounding."""
        same_size = (self.height, self.width) == (other.height, other.width)
        return same_size and self.crs == other.crs and self._meets(other)

    def _meets(self, other: Grid) -> bool:
        if self.transform is None or other.transform is None:
            return self.transform is other.transform and _points(self) == _points(other)
        pixel = max(abs(self.transform.a), abs(self.transform.b))
        return all(
            abs(a - b) <= _PIXELS_APART * pixel
            for corner in ((0, 0), (self.width, 0), (0, self.height))
            for a, b in zip(self.point(*corner), other.point(*corner), strict=True)
        )

    def point(self, col: float, row: float) -> tuple[float, float]:
        """Where a place between pixels is in the CRS; of grids that have a transform."""
        t = self.transform
        return t.a * col + t.b * row + t.c, t.d * col + t.e * row + t.f

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Left, bottom, right and top in the CRS; of grids that have a transform."""
        corners = ((0, 0), (self.width, 0), (0, self.height), (self.width, self.height))
        xs, ys = zip(*(self.point(*corner) for corner in corners), strict=True)
        return min(xs), min(ys), max(xs), max(ys)

    def place(self) -> str:
        """Write the grid as `describe` does, with its upper left corner."""
        if self.transform is None:
            return self.describe()
        return f"{self.describe()}, upper left {self.transform.c:.10g}, {self.transform.f:.10g}"

    @property
    def pixel_size(self) -> float:
        """The edge of a pixel in metres, about; infinite where nothing tells."""
        if self.transform is None or self.crs is None:
            return math.inf
        t = self.transform
        edge = abs(t.a * t.e - t.b * t.d) ** 0.5
        return edge * _DEGREE if self.crs.is_geographic else edge

    @property
    def pixels(self) -> str:
        """Write its pixels as `20 m`, or how many there are."""
        return self._pixel_size().removeprefix(" of ") or f"{self.width:,} × {self.height:,} pixels"

    def describe(self) -> str:
        """Write the grid as `512 × 300 pixels of 10 m, EPSG:32631`."""
        parts = [f"{self.width:,} × {self.height:,} pixels{self._pixel_size()}"]
        code = self.crs.to_authority() if self.crs else None
        if code:
            parts.append(":".join(code))
        return ", ".join(parts)

    def _pixel_size(self) -> str:
        if self.transform is None or self.crs is None or not self.crs.is_projected:
            return ""
        column = math.hypot(self.transform.a, self.transform.d)
        try:
            metres = column * self.crs.linear_units_factor[1]
        except CRSError:  # an odd unit is no reason to describe nothing
            return ""
        return f" of {metres:,.4g} m"


def _points(grid: Grid) -> list[tuple[float, ...]]:
    return [(p.row, p.col, p.x, p.y) for p in grid.gcps]
