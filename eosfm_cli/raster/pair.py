"""One place before and after: two scenes on one grid, read as one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from eosfm_cli.manifest import ModelManifest
from eosfm_cli.raster.area import Area
from eosfm_cli.raster.inputs import SceneInput
from eosfm_cli.raster.scale import Scale
from eosfm_cli.raster.scene import Pixels, Scene, open_scene
from eosfm_cli.tiling import Tile


class ScenePair:
    """Two open scenes matched to a model of change.

    Args:
        before: The first date, on the grid of the second.
        after: The second, whose name and grid the map gets.
    """

    def __init__(self, before: Scene, after: Scene) -> None:
        self.dates = (before, after)
        self.path, self.name = after.path, after.name
        self.grid, self.bands = after.grid, after.bands
        self.matching = f"before: {before.matching}\nafter: {after.matching}"
        self.has_palette = before.has_palette or after.has_palette

    def read(self, tile: Tile) -> Pixels:
        """Read one window: values `(bands, 2, h, w)`, valid where both dates are.

        Raises:
            RasterError: A file is damaged there.
        """
        first, second = (scene.read(tile) for scene in self.dates)
        valid = first.valid & second.valid
        if not valid.any():
            return Pixels.nothing(valid)
        values = np.stack([first.values, second.values], axis=1)
        return Pixels(values, valid)


@contextmanager
def open_pair(
    before: SceneInput | Path,
    after: SceneInput | Path,
    manifest: ModelManifest,
    given: Sequence[str] | None = None,
    *,
    scale: Scale | None = None,
    area: Area | None = None,
) -> Iterator[ScenePair]:
    """Open two scenes for a model of change; the first is resampled if its grid is another.

    Args:
        before: The first date.
        after: The second.
        manifest: Which bands the model takes.
        given: Names of the bands of both in file order.
        scale: How values of both are changed before they are standardised.
        area: What of the place is wanted.

    Raises:
        RasterError: One is not there or no raster that can be mapped, or they show other places.
        OutsideAreaError: They have nothing of the area.
        BandError: A band that the model takes is not in both.
    """
    with (
        open_scene(after, manifest, given, scale=scale, area=area) as two,
        open_scene(before, manifest, given, scale=scale, area=area, onto=two) as one,
    ):
        yield ScenePair(one, two)
