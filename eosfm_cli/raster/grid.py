"""Where a raster's pixels lie on the earth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.io import DatasetReader
from rasterio.rpc import RPC


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
        column = (self.transform.a**2 + self.transform.d**2) ** 0.5
        try:
            metres = column * self.crs.linear_units_factor[1]
        except CRSError:  # an odd unit is no reason to describe nothing
            return ""
        return f" of {metres:,.4g} m"
