"""Map scenes with a fitted model: a class or a value for every pixel."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from eosfm_cli.bands import parse_bands
from eosfm_cli.errors import Interrupted, OutOfMemoryError, OutputError, UsageError
from eosfm_cli.manifest import ModelManifest
from eosfm_cli.precision import Precision
from eosfm_cli.progress import Progress, Silent
from eosfm_cli.raster.area import OutsideAreaError
from eosfm_cli.raster.inputs import SceneInput, find_scenes
from eosfm_cli.raster.layers import NODATA
from eosfm_cli.raster.products import Product, ProductOptions, products
from eosfm_cli.raster.scale import parse_scale
from eosfm_cli.raster.spool import throw_away
from eosfm_cli.recipe import MAP_TASKS
from eosfm_cli.results import MapPlan, PredictResult, SceneOutcome
from eosfm_cli.run_dir import check_makeable
from eosfm_cli.workflows.fitted import choose_model, tell_plan
from eosfm_cli.workflows.map_files import MapFiles, plan_files, refuse_begun, refuse_to_replace
from eosfm_cli.workflows.map_plan import rehearse_scene
from eosfm_cli.workflows.ready_model import ReadyModel
from eosfm_cli.workflows.scene_map import MapRun, make_maps
from eosfm_cli.workflows.wanted_area import wanted_area

if TYPE_CHECKING:
    from eosfm_cli.training.model import FittedModel


@dataclass(frozen=True)
class PredictSpec:
    """What to map, with what, and what to make of it."""

    inputs: tuple[str | Path, ...]
    """Scenes as `find_scenes` takes them."""
    before: str | Path | None = None
    """Of change detection, the same place at an earlier date."""
    model: Path | None = None
    """A fitted model or the run folder of one; the newest fit in `root` if not given."""
    root: Path = Path("experiments")
    """The experiments folder, for the newest model and the emissions ledger."""
    bands: str | None = None
    """Names of the scenes' bands in file order, separated by commas; the scenes' own descriptions
    if not given."""
    scale: str | None = None
    """What values are multiplied by, as `parse_scale` takes it."""
    stack: bool = False
    """Whether all files are one scene of several bands."""
    aoi: Path | None = None
    """Polygons of what is mapped; all of a scene if neither this nor `bbox` is given."""
    bbox: str | None = None
    bbox_crs: str | None = None
    output: str | Path | None = None
    """The map, or a folder; `<stem>_pred.tif` beside each scene if not given."""
    probabilities: bool = False
    """Whether the share of every class is mapped, too."""
    confidence: bool = False
    """Whether the share of the class that a pixel gets is mapped, too."""
    disagreement: bool = False
    """Whether it is mapped, too, how far the specialists differ."""
    nodata: int = NODATA
    """What stands in a map of classes where there is none."""
    vector: Path | None = None
    """Polygons of the map, as `vector_path` takes it."""
    min_area: float = 0.0
    """Of a polygon, in m²."""
    quicklook: bool = True
    """Whether a PNG is drawn beside each map."""
    overwrite: bool = False
    """Whether maps are replaced that are there already, or were begun."""
    resume: bool = False
    """Whether maps that were begun are gone on with, and finished ones left as they are."""
    window: int | None = None
    """The windows' edge in pixels."""
    batch_size: int | None = None
    """Windows at once; as many as go well if not given."""
    device: str = "auto"
    """`auto`, `cpu` or `cuda`."""
    precision: Precision = "32-true"
    """What a model from a file computes in."""

    @property
    def products(self) -> ProductOptions:
        """Which maps to make beside that of classes or values."""
        return ProductOptions(self.probabilities, self.confidence, self.disagreement, self.nodata)


def predict(
    spec: PredictSpec, *, progress: Progress | None = None, fitted: FittedModel | None = None
) -> tuple[SceneOutcome, ...]:
    """Map scenes: every pixel of them gets the class, or the value, that the model gives it.

    A scene that cannot be mapped does not stop the others; a single one raises its own error.

    Args:
        spec: What to do.
        progress: Who is told.
        fitted: A model that is already in memory.

    Returns:
        What became of each scene, in order.

    Raises:
        DataError: There is no such model, or not one scene.
        BundleError: The model's file is damaged.
        UsageError: A band's name is unknown, the model makes no maps or takes another number of
            dates, two scenes would have one map, or an option cannot be used as given.
        EosfmError: What went wrong with the only scene.
    """
    progress = progress or Silent()
    with ExitStack() as stack:
        run, made, work = _prepared(spec, fitted, progress, stack)
        outcomes: list[SceneOutcome] = []
        with _telling_how_to_go_on(outcomes, work, run):
            outcomes.extend(_outcomes(work, lambda files: _mapped(files, made, run), run))
        meter = run.meter if any(outcome.result for outcome in outcomes) else None
    if len(outcomes) == 1 and meter is not None:
        # a single scene has cost all that was measured, now that the measurement is over
        result = replace(outcomes[0].result, cost=meter.cost)
        return (replace(outcomes[0], result=result, seconds=meter.cost.seconds),)
    return tuple(outcomes)


def rehearse(
    spec: PredictSpec, *, progress: Progress | None = None, fitted: FittedModel | None = None
) -> tuple[SceneOutcome, ...]:
    """Tell what `predict` would do and what that takes, from a few windows; nothing is written.

    Raises:
        EosfmError: As `predict`.
    """
    progress = progress or Silent()
    with ExitStack() as stack:
        run, made, work = _prepared(spec, fitted, progress, stack)
        return tuple(_outcomes(work, lambda files: rehearse_scene(files, made, run), run))


def _prepared(
    spec: PredictSpec, fitted: FittedModel | None, progress: Progress, stack: ExitStack
) -> tuple[MapRun, list[Product], list[MapFiles]]:
    """All that can be found out, and refused, before a scene is opened."""
    source, manifest = (
        (None, fitted.manifest) if fitted else choose_model(spec.model, spec.root, progress)
    )
    _refuse_other_tasks(manifest)
    _refuse_other_dates(manifest, spec)
    _refuse_idle_options(spec, manifest)
    made = products(manifest, spec.products)
    scenes = find_scenes(spec.inputs, stack=spec.stack, progress=progress)
    if spec.before is not None and len(scenes) > 1:
        raise UsageError("--before goes with one INPUT, that of the later date.")
    work = plan_files(
        scenes,
        made,
        output=spec.output,
        vector=spec.vector,
        quicklook=spec.quicklook,
        progress=progress,
    )
    run = MapRun(
        spec=spec,
        model=ReadyModel(
            source,
            fitted,
            manifest,
            progress,
            disagreement=spec.disagreement,
            device=spec.device,
            batch_size=spec.batch_size,
            precision=spec.precision,
        ),
        progress=progress,
        given=None if spec.bands is None else parse_bands(spec.bands, manifest.sensor),
        scale=None if spec.scale is None else parse_scale(spec.scale, manifest.sensor),
        area=wanted_area(spec.aoi, spec.bbox, spec.bbox_crs),
        before=None if spec.before is None else SceneInput.of(spec.before),
        stack=stack,
        name=Path(scenes[0].name).name if len(scenes) == 1 else f"{len(scenes)} scenes",
        alone=len(scenes) == 1,
    )
    _refuse_to_replace_scenes(work, run)
    tell_plan(manifest, progress)
    return run, made, work


# --------------------------------------------------------------------------- scene by scene


Act = Callable[[MapFiles], PredictResult | MapPlan]
"""What is done for a scene whose maps are not there yet."""


def _outcomes(work: Sequence[MapFiles], act: Act, run: MapRun) -> Iterator[SceneOutcome]:
    for number, files in enumerate(work, start=1):
        if not run.alone:
            run.progress.say(f"\n{files.scene.name} ({number} of {len(work)})")
        yield _outcome(files, act, run)


def _outcome(files: MapFiles, act: Act, run: MapRun) -> SceneOutcome:
    """Map a scene, or find out why it cannot be."""
    began = time.perf_counter()
    name, output = files.scene.name, files.output
    try:
        if _is_done(files, run):
            run.progress.say(f"{output} is already there")
            return SceneOutcome(name, "there", output)
        for folder in {path.parent for path in files.all}:
            check_makeable(folder)
        result = act(files)
    except Exception as error:
        if run.alone or run.model.failed:
            raise
        state = "skipped" if isinstance(error, OutsideAreaError) else "failed"
        run.progress.warn(f"{state}: {error}")
        return SceneOutcome(name, state, output, time.perf_counter() - began, error=error)
    state = "mapped" if isinstance(result, PredictResult) else "planned"
    return SceneOutcome(name, state, output, time.perf_counter() - began, result)


def _is_done(files: MapFiles, run: MapRun) -> bool:
    """Whether a scene's maps are there, and none are made anew.

    Raises:
        UsageError: Something is there or begun, and nobody said what to do with it.
    """
    spec = run.spec
    if spec.overwrite or (spec.resume and files.are_begun):
        return False
    if files.are_there and (spec.resume or not run.alone):
        return True
    refuse_to_replace((), files.all, overwrite=False)
    refuse_begun(files)
    return False


def _mapped(files: MapFiles, made: Sequence[Product], run: MapRun) -> PredictResult:
    if run.spec.overwrite and not run.spec.resume:
        throw_away(files.folder)
    return make_maps(files, made, run)


@contextmanager
def _telling_how_to_go_on(
    outcomes: Sequence[SceneOutcome], work: Sequence[MapFiles], run: MapRun
) -> Iterator[None]:
    instead = " instead of --overwrite" if run.spec.overwrite else ""
    try:
        yield
    except (Interrupted, KeyboardInterrupt):
        done = sum(outcome.state in ("mapped", "there") for outcome in outcomes)
        are = "is" if done == 1 else "are"
        scenes = "" if run.alone else f"{done} of {len(work)} scenes {are} mapped. "
        if done or any(files.are_begun for files in work):
            run.progress.say(f"{scenes}Go on with the same command and --resume{instead}.")
        raise
    except (OutputError, OutOfMemoryError):
        if any(files.are_begun for files in work):
            run.progress.say(
                f"What is done is kept: go on with the same command and --resume{instead}."
            )
        raise


# --------------------------------------------------------------------------- refusals


def _refuse_other_tasks(manifest: ModelManifest) -> None:
    if manifest.task not in MAP_TASKS:
        raise UsageError(
            f"The model {manifest.recipe!r} tells the class of whole images; it makes no maps.",
            hint="Name a model of a segmentation recipe with --model: "
            "`eosfm recipes list --task segmentation` shows them.",
        )


def _refuse_other_dates(manifest: ModelManifest, spec: PredictSpec) -> None:
    if manifest.task == "change" and spec.before is None:
        raise UsageError(
            f"The model {manifest.recipe!r} finds change between two dates.",
            hint="Name the earlier one too: eosfm predict AFTER.tif --before BEFORE.tif",
        )
    if manifest.task != "change" and spec.before is not None:
        raise UsageError(
            f"The model {manifest.recipe!r} takes one date; --before is for models of change.",
            hint="Leave --before out, or name a model of a change recipe with --model.",
        )


def _refuse_idle_options(spec: PredictSpec, manifest: ModelManifest) -> None:
    """Refuse options that would do nothing."""
    if spec.vector is not None and manifest.target is not None:
        raise UsageError(
            f"The model {manifest.recipe!r} gives values, not classes: they make no polygons.",
            hint="Leave --vector out.",
        )
    if not math.isfinite(spec.min_area):
        raise UsageError(f"--min-area cannot be {spec.min_area}.", hint="Give it in m², as in 500.")
    if spec.min_area and spec.vector is None:
        raise UsageError("--min-area does nothing without --vector.", hint="Add --vector gpkg.")


def _refuse_to_replace_scenes(work: Sequence[MapFiles], run: MapRun) -> None:
    """No scene is written over, be it another one than the map is of."""
    scenes = [path for files in work for path in files.scene.local_files]
    before = () if run.before is None else run.before.local_files
    for files in work:
        refuse_to_replace((*scenes, *before), files.all, overwrite=True)
