"""One scene becomes its maps, or goes on becoming them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eosfm_cli import __version__
from eosfm_cli.carbon.tracker import Meter, track
from eosfm_cli.manifest import ModelManifest
from eosfm_cli.progress import Progress
from eosfm_cli.raster.area import Area
from eosfm_cli.raster.grid import Grid
from eosfm_cli.raster.ground import ground_km2
from eosfm_cli.raster.inputs import SceneInput
from eosfm_cli.raster.mapping import ClassTally, ValueTally, map_scene
from eosfm_cli.raster.mosaic import carried
from eosfm_cli.raster.pair import ScenePair, open_pair
from eosfm_cli.raster.products import Product, ProductOptions, depth_of, map_tags, write_product
from eosfm_cli.raster.quicklook import draw_quicklook, draw_values
from eosfm_cli.raster.ranges import check_units
from eosfm_cli.raster.rawfile import RawLayout
from eosfm_cli.raster.scale import Scale
from eosfm_cli.raster.scene import Scene, open_scene
from eosfm_cli.raster.spool import Spool
from eosfm_cli.raster.windows import WindowPlan, plan_windows, window_size
from eosfm_cli.recipe import TargetSpec
from eosfm_cli.results import Cost, PredictResult, ValueSummary
from eosfm_cli.workflows.expectation import Expectation
from eosfm_cli.workflows.map_files import MapFiles, refuse_full_disk, refuse_to_replace
from eosfm_cli.workflows.ready_model import ReadyModel

if TYPE_CHECKING:
    from eosfm_cli.workflows.predict import PredictSpec

_OVERVIEWS = 4 / 3
"""What a map takes with its overviews, before it is compressed."""
_COMPRESSED = 0.4
"""What is left of a map of whole numbers at most; values with fractions hardly shrink."""


@dataclass
class MapRun:
    """What all scenes of one run share."""

    spec: PredictSpec
    model: ReadyModel
    progress: Progress
    given: tuple[str, ...] | None
    """The names of the scenes' bands in file order, where the user says them."""
    scale: Scale | None
    area: Area | None
    before: SceneInput | None
    stack: ExitStack
    """Holds the meter until the run is over."""
    name: str
    """For the ledger."""
    alone: bool = True
    """Whether there is one scene."""
    told: set[str] = field(default_factory=set)
    """What need not be said again of the next scene."""
    spent: Cost = field(default_factory=Cost)
    """What the scenes that are mapped have taken."""

    @property
    def manifest(self) -> ModelManifest:
        """What the model says about itself."""
        return self.model.manifest

    @property
    def options(self) -> ProductOptions:
        """Which maps to make."""
        return self.spec.products

    @cached_property
    def meter(self) -> Meter:
        """Measures from the first scene on that can be mapped."""
        tracked = track(self.spec.root, command="predict", name=self.name, progress=self.progress)
        return self.stack.enter_context(tracked)

    def opened(self, scene: SceneInput) -> AbstractContextManager[Scene | ScenePair]:
        """Open a scene, with the earlier date if there is one."""
        how = {"scale": self.scale, "area": self.area}
        if self.before is None:
            return open_scene(scene, self.manifest, self.given, **how)
        return open_pair(self.before, scene, self.manifest, self.given, **how)

    def say_once(self, text: str) -> None:
        """Say what is the same of many scenes for the first of them."""
        if text not in self.told:
            self.told.add(text)
            self.progress.say(text)


def make_maps(files: MapFiles, products: Sequence[Product], run: MapRun) -> PredictResult:
    """Map a scene; its files appear when they are complete.

    Args:
        files: The scene, and where its maps go.
        products: The maps to make.
        run: What all scenes share.

    Raises:
        EosfmError: The scene cannot be read, its maps cannot be written, or memory ran out.
    """
    with run.opened(files.scene) as scene:
        refuse_full_disk(files, scene.grid, disk_bytes(usual_plan(scene, run), products, run))
        look_at(scene, files, run)
        before = _most(run.meter.cost, run.spent)
        plan = run.model.plan(scene.grid.height, scene.grid.width, run.spec.window)
        run.progress.say(f"mapping: {plan.describe()}")
        with _spool(files, products, plan, run) as spool:
            tally, estimate = _tally(run.manifest, spool), None
            if spool.row < len(plan.rows):
                estimate = _compute(scene, plan, spool, products, tally, run, before)
            cost = run.meter.settled_cost
            tags = _tags(files.scene, run, _since(before, cost))
            for product in products:
                raw = spool.raw(product.name)
                write_product(product, files.output, raw, scene.grid, tags=tags)
            polygons = None if files.vector is None else _write_polygons(files, run)
            if files.quicklook is not None:
                _draw(files.quicklook, files, run.manifest, tally)
        _note_area(scene.grid, tally, run)
    if tally.nodata_share == 1:
        run.progress.warn(
            f"{files.scene.name} has no pixel with a value in every band that is needed."
        )
    return _result(files, plan, tally, polygons, run, before, estimate)


def _note_area(grid: Grid, tally: ClassTally | ValueTally, run: MapRun) -> None:
    """Count what was mapped on the ground, for the energy per square kilometre."""
    covered = ground_km2(grid)
    if covered is not None:
        run.meter.area_km2 = (run.meter.area_km2 or 0) + covered * (1 - tally.nodata_share)


@contextmanager
def _spool(
    files: MapFiles, products: Sequence[Product], plan: WindowPlan, run: MapRun
) -> Iterator[Spool]:
    """The finished rows of a scene, from where an earlier run has got to."""
    layers = {product.name: product.layer for product in products}
    depth = depth_of(run.manifest, run.options)
    was_begun = files.are_begun
    with Spool(files.folder, plan, layers, depth, _key(files.scene, plan, run)) as spool:
        files.clear_leftovers()
        if spool.row:
            run.progress.say(f"going on at row {spool.row + 1} of {len(plan.rows)} of windows")
        elif run.spec.resume and (was_begun or run.alone):
            run.progress.warn(
                f"There is nothing of {files.output.name} to go on with: it begins anew."
            )
        if not spool.row and not run.spec.overwrite:
            # what was begun was of another scene, model or option, and so may be what is there
            refuse_to_replace((), files.all, overwrite=False)
        yield spool


# --------------------------------------------------------------------------- before the work


def look_at(scene: Scene | ScenePair, files: MapFiles, run: MapRun) -> None:
    """Look at a scene before anything is computed, and say what is seen.

    Raises:
        RasterError: Its values are in other units than the model's, or polygons of it would lie
            nowhere.
    """
    grid, progress = scene.grid, run.progress
    progress.say(f"scene: {grid.describe()}")
    for line in scene.matching.splitlines():
        run.say_once(line)
    if not grid.is_placed:
        progress.warn(
            f"{files.scene.name} has no coordinate reference system; its map has none either."
        )
    if scene.has_palette:
        progress.warn(
            f"{files.scene.name} has a colour table: its values are read as measurements, not as "
            "colours. If they stand for colours, expand them to red, green and blue first."
        )
    if files.vector is not None:
        from eosfm_cli.raster.vector import check_placed  # not every map becomes polygons

        check_placed(grid, files.scene.name)
    for warning in check_units(scene, usual_plan(scene, run)):
        progress.warn(warning)


def usual_plan(scene: Scene | ScenePair, run: MapRun) -> WindowPlan:
    """The windows of most models, before this one is loaded and asked."""
    size = window_size(run.manifest.tile_size, run.spec.window)
    return plan_windows(scene.grid.height, scene.grid.width, size)


def disk_bytes(plan: WindowPlan, products: Sequence[Product], run: MapRun) -> int:
    """What mapping a scene takes of the disk, at most: rows, sums between rows, and maps."""
    depth = depth_of(run.manifest, run.options)
    slots, rows, cols = carried(plan, depth)
    sums = 2 * 4 * slots * rows * cols * len(plan.cols)
    for product in products:
        layout = RawLayout(plan.width, product.layer.count, product.layer.dtype)
        raw = plan.height * layout.row_bytes
        share = _COMPRESSED if product.layer.dtype == "uint8" else 1
        sums += raw + int(raw * _OVERVIEWS * share)
    return sums


def _key(scene: SceneInput, plan: WindowPlan, run: MapRun) -> dict[str, Any]:
    """What must be the same for a map that was begun to be gone on with."""
    spec, options = run.spec, run.options
    before = [] if run.before is None else run.before.identity
    return {
        "eosfm": __version__,
        "model": [run.manifest.recipe, run.manifest.created, *_identity(run.model.source)],
        "scenes": [before, scene.identity],
        "plan": [plan.height, plan.width, plan.size, plan.overlap, plan.fixed],
        "bands": spec.bands,
        "scale": spec.scale,
        "precision": spec.precision,
        "area": [str(spec.aoi), *_identity(spec.aoi), spec.bbox, spec.bbox_crs],
        "products": [
            options.probabilities,
            options.confidence,
            options.disagreement,
            options.nodata,
        ],
    }


def _identity(path: Path | None) -> list[Any]:
    """A file's place, size and time of change."""
    if path is None or not path.exists():
        return []
    status = path.stat()
    return [str(path.absolute()), status.st_size, status.st_mtime_ns]


# --------------------------------------------------------------------------- the work


def _compute(
    scene: Scene | ScenePair,
    plan: WindowPlan,
    spool: Spool,
    products: Sequence[Product],
    tally: ClassTally | ValueTally,
    run: MapRun,
    before: Cost,
) -> Cost | None:
    """Map the windows that are left; what all were expected to take."""
    scorer = run.model.scorer
    scorer.fit_to(*window_shape(plan, run.manifest))
    depth = depth_of(run.manifest, run.options)
    with run.progress.step("mapping", len(plan)) as step:
        # comparing precisions falls into the first row of windows, and is done once
        special = spool.row > 0 or scorer.compare is not None
        expected = Expectation(step, plan, lambda: run.meter.cost, before, special=special)
        map_scene(scene, plan, scorer, spool, products, tally, depth, expected)
    return expected.cost


def window_shape(plan: WindowPlan, manifest: ModelManifest) -> tuple[int, ...]:
    """The shape of what the model sees of one window: `(bands, h, w)`, or `(bands, 2, h, w)`."""
    dates = (2,) if manifest.task == "change" else ()
    return (len(manifest.bands), *dates, *plan.padded)


def _tally(manifest: ModelManifest, spool: Spool) -> ClassTally | ValueTally:
    if manifest.target is not None:
        return ValueTally.of(manifest.target, spool.tally)
    return ClassTally.of(manifest.classes, spool.tally)


def _tags(scene: SceneInput, run: MapRun, cost: Cost) -> dict[str, str]:
    source = run.model.source
    return map_tags(
        run.manifest,
        model=source.name if source else None,
        input=Path(scene.name).name,
        before=Path(run.before.name).name if run.before else None,
        cost=cost,
    )


def _write_polygons(files: MapFiles, run: MapRun) -> int:
    from eosfm_cli.raster.vector import write_polygons

    summary = write_polygons(
        files.vector,
        files.output,
        run.manifest.classes,
        min_area=run.spec.min_area,
        progress=run.progress,
    )
    if summary.left_out:
        some = "1 polygon" if summary.left_out == 1 else f"{summary.left_out:,} polygons"
        run.progress.say(f"left out: {some} of less than {run.spec.min_area:g} m²")
    return summary.count


def _draw(
    picture: Path, files: MapFiles, manifest: ModelManifest, tally: ClassTally | ValueTally
) -> None:
    title = f"{manifest.title}: {Path(files.scene.name).name}"
    if isinstance(tally, ValueTally):
        draw_values(picture, prediction=files.output, target=manifest.target, title=title)
        return
    draw_quicklook(
        picture,
        prediction=files.output,
        classes=manifest.classes,
        title=title,
        shares=tally.shares,
    )


# --------------------------------------------------------------------------- after the work


def _result(
    files: MapFiles,
    plan: WindowPlan,
    tally: ClassTally | ValueTally,
    polygons: int | None,
    run: MapRun,
    before: Cost,
    estimate: Cost | None,
) -> PredictResult:
    classes = isinstance(tally, ClassTally)
    run.spent = run.meter.settled_cost
    return PredictResult(
        input=files.scene.name,
        output=files.output,
        quicklook=files.quicklook,
        width=plan.width,
        height=plan.height,
        windows=len(plan),
        shares=tally.shares if classes else {},
        nodata_share=tally.nodata_share,
        cost=_since(before, run.spent),
        values=None if classes else _summary(tally, run.manifest.target),
        products=files.products,
        vector=files.vector,
        polygons=polygons,
        estimate=estimate,
    )


def _most(one: Cost, other: Cost) -> Cost:
    """The larger figures of two: short work is settled before it is measured."""
    return Cost(
        max(one.seconds, other.seconds),
        max(one.energy_kwh, other.energy_kwh),
        max(one.emissions_kg, other.emissions_kg),
    )


def _since(before: Cost, now: Cost) -> Cost:
    """What a scene has taken; one between two looks at the meter, at the run's mean power."""
    seconds, energy = now.seconds - before.seconds, now.energy_kwh - before.energy_kwh
    if energy > 0:
        return Cost(seconds, energy, max(now.emissions_kg - before.emissions_kg, 0.0))
    return replace(now.times(seconds / max(now.seconds, 1e-9)), seconds=seconds)


def _summary(tally: ValueTally, target: TargetSpec) -> ValueSummary | None:
    """What the map holds; nothing where no pixel has a value."""
    if not tally.count:
        return None
    return ValueSummary(target.name, target.unit, tally.min, tally.mean, tally.max)
