"""One place before and after: two rasters on one grid, read as one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from eosfm_cli.errors import RasterError
from eosfm_cli.manifest import ModelManifest
from eosfm_cli.raster.grid import Grid
from eosfm_cli.raster.scene import Pixels, Scene, open_scene
from eosfm_cli.tiling import Tile

_PIXELS_APART = 0.01
"""What two grids may differ by and still count as one."""


class ScenePair:
    """Two open rasters matched to a model of change.

    Args:
        before: The first date.
        after: The second, whose name and grid the map gets.

    Raises:
        RasterError: They are not on the same grid.
    """

    def __init__(self, before: Scene, after: Scene) -> None:
        _refuse_other_grids(before, after)
        self.dates = (before, after)
        self.path, self.grid, self.bands = after.path, after.grid, after.bands
        self.matching = f"before: {before.matching}\nafter: {after.matching}"
        self.has_palette = before.has_palette or after.has_palette

    def read(self, tile: Tile) -> Pixels:
        """Read one window: values `(bands, 2, h, w)`, valid where both dates are.

        Raises:
            RasterError: A file is damaged there.
        """
        first, second = (scene.read(tile) for scene in self.dates)
        values = np.stack([first.values, second.values], axis=1)
        return Pixels(values, first.valid & second.valid)


@contextmanager
def open_pair(
    before: Path, after: Path, manifest: ModelManifest, given: Sequence[str] | None = None
) -> Iterator[ScenePair]:
    """Open two rasters for a model of change.

    Raises:
        RasterError: One is not there or no raster that can be mapped, or their grids differ.
        BandError: A band that the model takes is not in both.
    """
    with open_scene(before, manifest, given) as one, open_scene(after, manifest, given) as two:
        yield ScenePair(one, two)


def _refuse_other_grids(before: Scene, after: Scene) -> None:
    one, two = before.grid, after.grid
    same_place = one.crs == two.crs and _points(one) == _points(two) and _close(one, two)
    if (one.height, one.width) == (two.height, two.width) and same_place:
        return
    raise RasterError(
        f"{before.path.name} and {after.path.name} are not on the same grid.\n"
        f"  before: {_where(one)}\n"
        f"  after:  {_where(two)}",
        hint="Bring one of them onto the other's grid first: "
        f"rio warp {before.path.name} OUT.tif --like {after.path.name}",
    )


def _close(one: Grid, two: Grid) -> bool:
    """Whether two transforms put every pixel in the same place, but for rounding."""
    if one.transform is None or two.transform is None:
        return one.transform is two.transform
    pixel = max(abs(one.transform.a), abs(one.transform.b))
    return all(
        abs(a - b) <= _PIXELS_APART * pixel
        for corner in ((0, 0), (one.width, 0), (0, one.height))
        for a, b in zip(_place(one, *corner), _place(two, *corner), strict=True)
    )


def _place(grid: Grid, col: float, row: float) -> tuple[float, float]:
    t = grid.transform
    return t.a * col + t.b * row + t.c, t.d * col + t.e * row + t.f


def _points(grid: Grid) -> list[tuple[float, ...]]:
    return [(p.row, p.col, p.x, p.y) for p in grid.gcps]


def _where(grid: Grid) -> str:
    if grid.transform is None:
        return grid.describe()
    return f"{grid.describe()}, upper left {grid.transform.c:.10g}, {grid.transform.f:.10g}"
