"""What mapping a scene would take, found out on a few of its windows."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

import torch

from eosfm_cli.carbon.power import power_of
from eosfm_cli.raster.pair import ScenePair
from eosfm_cli.raster.products import Product
from eosfm_cli.raster.scene import Scene
from eosfm_cli.raster.windows import WindowPlan, pad
from eosfm_cli.results import MapPlan
from eosfm_cli.tiling import Tile
from eosfm_cli.workflows.map_files import MapFiles, disk_of
from eosfm_cli.workflows.scene_map import MapRun, disk_bytes, look_at, window_shape

_SAMPLED_WINDOWS = 24
_BATCHES = 3
_PATIENCE_S = 20.0
"""No further window is tried after that."""


def rehearse_scene(files: MapFiles, products: Sequence[Product], run: MapRun) -> MapPlan:
    """Try a few windows of a scene; nothing is written.

    Args:
        files: The scene, and where its maps would go.
        products: The maps that would be made.
        run: What all scenes share.

    Raises:
        EosfmError: The scene cannot be mapped.
    """
    with run.opened(files.scene) as scene:
        look_at(scene, files, run)
        plan = run.model.plan(scene.grid.height, scene.grid.width, run.spec.window)
        run.model.scorer.fit_to(*window_shape(plan, run.manifest))
        tiles = plan.spread(_SAMPLED_WINDOWS)
        with power_of() as power, run.progress.step("trying windows", len(tiles)) as step:
            rehearsal = _Rehearsal(scene, plan, run)
            for tile in tiles:
                rehearsal.look_at(tile)
                step.advance()
    return MapPlan(
        input=files.scene.name,
        outputs=files.all,
        width=plan.width,
        height=plan.height,
        windows=len(plan),
        window=plan.padded,
        computed=round(rehearsal.share * len(plan)),
        batch_size=run.model.scorer.batch_size,
        seconds=rehearsal.seconds,
        energy_kwh=power.watts * rehearsal.seconds / 3.6e6,
        emissions_kg=power.watts * rehearsal.seconds / 3.6e6 * power.g_per_kwh / 1000,
        memory_bytes=_peak_memory(),
        disk_bytes=disk_bytes(plan, products, run),
        free_bytes=disk_of(files.output)[1],
    )


class _Rehearsal:
    """Reads windows that are spread over a scene, and computes some batches of them."""

    def __init__(self, scene: Scene | ScenePair, plan: WindowPlan, run: MapRun) -> None:
        self._scene, self._plan, self._scorer = scene, plan, run.model.scorer
        self._began = time.perf_counter()
        self._looked = self._with_data = 0
        self._reading = 0.0
        self._computing: list[float] = []
        """Seconds per window of each batch."""

    def look_at(self, tile: Tile) -> None:
        """Read a window, and compute it as often as a batch is large, if that was not done yet."""
        if self._looked and time.perf_counter() - self._began > _PATIENCE_S:
            return
        began = time.perf_counter()
        pixels = self._scene.read(tile)
        self._reading += time.perf_counter() - began
        self._looked += 1
        if not pixels.valid.any():
            return
        self._with_data += 1
        if len(self._computing) <= _BATCHES:
            window = pad(pixels.values, *self._plan.padded)
            began = time.perf_counter()
            self._scorer.score([window] * self._scorer.batch_size)
            self._computing.append((time.perf_counter() - began) / self._scorer.batch_size)

    @property
    def share(self) -> float:
        """Of windows that have data."""
        return self._with_data / max(self._looked, 1)

    @property
    def seconds(self) -> float:
        """Of all windows; reading goes on while others are computed."""
        # the first batch finds its memory and its kernels
        typical = min(self._computing, default=0.0)
        reading = self._reading / max(self._looked, 1)
        return len(self._plan) * max(reading, self.share * typical)


def _peak_memory() -> int:
    """The most memory that was in use at once: of the GPU where there is one, else of the process.

    Bytes; 0 where the system does not tell.
    """
    if torch.cuda.is_available() and torch.cuda.max_memory_reserved():
        return torch.cuda.max_memory_reserved()
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
