"""Map a scene with a fitted model: a class or a value for every pixel."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eosfm_cli import __version__
from eosfm_cli.bands import parse_bands
from eosfm_cli.carbon.tracker import track
from eosfm_cli.errors import UsageError
from eosfm_cli.manifest import ModelManifest
from eosfm_cli.progress import Progress, Silent
from eosfm_cli.raster.geotiff import write_map
from eosfm_cli.raster.layers import class_layer, value_layer
from eosfm_cli.raster.mapping import (
    ClassTally,
    Product,
    ValueTally,
    labels_of,
    map_scene,
    values_of,
)
from eosfm_cli.raster.pair import ScenePair, open_pair
from eosfm_cli.raster.quicklook import draw_quicklook, draw_values
from eosfm_cli.raster.ranges import doubtful_bands
from eosfm_cli.raster.scene import Scene, open_scene
from eosfm_cli.raster.scoring import Scorer, best_device, describe_device
from eosfm_cli.raster.spool import Spool, begun
from eosfm_cli.raster.windows import WindowPlan, plan_windows
from eosfm_cli.recipe import MAP_TASKS, TargetSpec
from eosfm_cli.results import Cost, PredictResult, ValueSummary
from eosfm_cli.workflows.fitted import choose_model, tell_plan

if TYPE_CHECKING:
    from eosfm_cli.training.model import FittedModel

_BATCH_SIZE = 8
_SAMPLED_WINDOWS = 5
_MAP = "map"


def predict(
    input: Path,
    *,
    before: Path | None = None,
    model: Path | None = None,
    output: Path | None = None,
    bands: str | None = None,
    root: Path = Path("experiments"),
    overwrite: bool = False,
    resume: bool = False,
    quicklook: bool = True,
    progress: Progress | None = None,
    fitted: FittedModel | None = None,
) -> PredictResult:
    """Map a scene: every pixel of it gets the class, or the value, that the model gives it.

    Args:
        input: The scene, any raster that has the model's bands.
        before: Of change detection, the same place at an earlier date, on the same grid.
        model: A fitted model or the run folder of one; the newest fit in `root` if not given.
        output: The map; `<stem>_pred.tif` beside the scene if not given.
        bands: Names of the scene's bands in file order, separated by commas, as `parse_bands` reads
            them; the scene's own descriptions if not given.
        root: The experiments folder, for the newest model and the emissions ledger.
        overwrite: Replace a map that is already there, or was begun.
        resume: Go on with a map that was begun.
        quicklook: Draw a PNG beside the map.
        progress: Who is told.
        fitted: A model that is already in memory.

    Raises:
        DataError: There is no such model.
        RasterError: The scene cannot be read.
        BandError: The scene lacks a band that the model takes.
        UsageError: A band's name is unknown, the model makes no maps or takes another number of
            dates, the map would replace something, or was begun and nobody says what to do.
        OutputError: The map cannot be written.
    """
    progress = progress or Silent()
    source, manifest = (None, fitted.manifest) if fitted else choose_model(model, root, progress)
    _refuse_other_tasks(manifest)
    _refuse_other_dates(manifest, before)
    given = None if bands is None else parse_bands(bands, manifest.sensor)
    output = _choose_output(input, output, progress)
    picture = output.with_suffix(".png") if quicklook else None
    refuse_to_replace((input, before), (output, picture), overwrite=overwrite)
    folder = output.with_name(f"{output.name}.part")
    _refuse_begun(folder, output, overwrite=overwrite, resume=resume)
    if overwrite and not resume:
        shutil.rmtree(folder, ignore_errors=True)
    tags = map_tags(source, manifest, input, before)
    with _opened(input, before, manifest, given) as scene:
        plan = _plan(scene, manifest, progress)
        product = _product(manifest)
        key = _key(source, manifest, input, before, plan, bands)
        with (
            track(root, command="predict", name=input.name, progress=progress) as meter,
            Spool(folder, plan, {_MAP: product.layer}, _depth(manifest), key) as spool,
        ):
            if resume and not spool.row:
                progress.warn(f"There is nothing of {output.name} to go on with: it begins anew.")
            if spool.row:
                progress.say(f"going on at row {spool.row + 1} of {len(plan.rows)} of windows")
            tally = _tally(manifest, spool)
            scorer = load_scorer(source, fitted, progress)
            warn_of_values(scene, plan, progress)
            with progress.step("mapping", len(plan)) as step:
                map_scene(scene, plan, scorer, spool, [product], tally, _depth(manifest), step)
            write_map(output, spool.raw(_MAP), scene.grid, product.layer, tags=tags)
    if tally.nodata_share == 1:
        progress.warn(f"{input.name} has no pixel with a value in every band that is needed.")
    if picture is not None:
        _draw(picture, output, manifest, tally, f"{manifest.title}: {input.name}")
    return _result(input, output, picture, plan, tally, manifest, meter.cost)


def _refuse_begun(folder: Path, output: Path, *, overwrite: bool, resume: bool) -> None:
    """Do not throw away what a run that was stopped has computed, unless told to."""
    if resume or overwrite or not begun(folder):
        return
    raise UsageError(
        f"{output} was begun before and not finished.",
        hint="Go on with it with --resume, or begin anew with --overwrite.",
    )


def _product(manifest: ModelManifest) -> Product:
    """The map that the model makes."""
    if (target := manifest.target) is not None:
        return Product(_MAP, value_layer(target), lambda block: values_of(block, target)[None])
    count = len(manifest.classes)
    layer = class_layer(manifest.classes, manifest.title)
    return Product(_MAP, layer, lambda block: labels_of(block, count)[None])


def _depth(manifest: ModelManifest) -> int:
    return len(manifest.classes) or 1


def _tally(manifest: ModelManifest, spool: Spool) -> ClassTally | ValueTally:
    if manifest.target is not None:
        return ValueTally.of(manifest.target, spool.tally)
    return ClassTally.of(manifest.classes, spool.tally)


def _key(
    source: Path | None,
    manifest: ModelManifest,
    scene: Path,
    before: Path | None,
    plan: WindowPlan,
    bands: str | None,
) -> dict[str, Any]:
    """What must be the same for a map that was begun to be gone on with."""
    return {
        "eosfm": __version__,
        "model": [manifest.recipe, manifest.created, *_identity(source)],
        "scenes": [_identity(path) for path in (before, scene)],
        "plan": [plan.height, plan.width, plan.size, plan.overlap],
        "bands": bands,
    }


def _identity(path: Path | None) -> list[Any]:
    """A file's place, size and time of change."""
    if path is None or not path.exists():
        return []
    status = path.stat()
    return [str(path.absolute()), status.st_size, status.st_mtime_ns]


def _refuse_other_tasks(manifest: ModelManifest) -> None:
    if manifest.task not in MAP_TASKS:
        raise UsageError(
            f"The model {manifest.recipe!r} tells the class of whole images; it makes no maps.",
            hint="Name a model of a segmentation recipe with --model: "
            "`eosfm recipes list --task segmentation` shows them.",
        )


def _refuse_other_dates(manifest: ModelManifest, before: Path | None) -> None:
    if manifest.task == "change" and before is None:
        raise UsageError(
            f"The model {manifest.recipe!r} finds change between two dates.",
            hint="Name the earlier one too: eosfm predict AFTER.tif --before BEFORE.tif",
        )
    if manifest.task != "change" and before is not None:
        raise UsageError(
            f"The model {manifest.recipe!r} takes one date; --before is for models of change.",
            hint="Leave --before out, or name a model of a change recipe with --model.",
        )


def _opened(
    input: Path, before: Path | None, manifest: ModelManifest, given: Sequence[str] | None
) -> AbstractContextManager[Scene | ScenePair]:
    if before is None:
        return open_scene(input, manifest, given)
    return open_pair(before, input, manifest, given)


def _draw(
    picture: Path,
    output: Path,
    manifest: ModelManifest,
    tally: ClassTally | ValueTally,
    heading: str,
) -> None:
    if isinstance(tally, ValueTally):
        draw_values(picture, prediction=output, target=manifest.target, title=heading)
        return
    draw_quicklook(
        picture, prediction=output, classes=manifest.classes, title=heading, shares=tally.shares
    )


def _choose_output(scene: Path, output: Path | None, progress: Progress) -> Path:
    name = f"{scene.stem}_pred.tif"
    if output is None:
        if scene.parent.is_dir() and not os.access(scene.parent, os.W_OK):
            progress.say(f"{scene.parent} cannot be written: the map goes to the current folder")
            return Path(name)
        return scene.with_name(name)
    if output.is_dir():
        return output / name
    if output.suffix.lower() not in (".tif", ".tiff"):
        raise UsageError(
            f"A map is a GeoTIFF, and --output {output} does not end in .tif.",
            hint=f"For example: --output {output.with_suffix('.tif')}",
        )
    return output


def refuse_to_replace(
    scenes: Sequence[Path | None], products: Sequence[Path | None], *, overwrite: bool
) -> None:
    """Refuse to write over what is there, and over the scenes in any case.

    Raises:
        UsageError: A product is there already.
    """
    for product in filter(None, products):
        if not product.exists():
            continue
        if any(scene.exists() and product.samefile(scene) for scene in filter(None, scenes)):
            raise UsageError(f"{product} is the scene itself.", hint="Choose another --output.")
        if not overwrite:
            raise UsageError(
                f"{product} is already there.",
                hint="Replace it with --overwrite, or name --output.",
            )


def _plan(scene: Scene | ScenePair, manifest: ModelManifest, progress: Progress) -> WindowPlan:
    grid = scene.grid
    plan = plan_windows(grid.height, grid.width, manifest.tile_size)
    progress.say(f"scene: {grid.describe()}")
    for line in scene.matching.splitlines():
        progress.say(line)
    tell_plan(manifest, progress)
    if not grid.is_placed:
        progress.warn(
            f"{scene.path.name} has no coordinate reference system; its map has none either."
        )
    if scene.has_palette:
        progress.warn(
            f"{scene.path.name} has a colour table: its values are read as measurements, not as "
            "colours. If they stand for colours, expand them to red, green and blue first."
        )
    progress.say(f"mapping: {plan.describe()}")
    return plan


def map_tags(
    source: Path | None, manifest: ModelManifest, scene: Path, before: Path | None = None
) -> dict[str, str]:
    """What the map's file says about where it comes from."""
    found = {
        "TIFFTAG_SOFTWARE": f"eosfm {__version__}",
        "TIFFTAG_IMAGEDESCRIPTION": f"{manifest.title}: {scene.name}",
        "TIFFTAG_COPYRIGHT": manifest.licence,
        "TIFFTAG_DATETIME": datetime.now(UTC).strftime("%Y:%m:%d %H:%M:%S"),
        "EOSFM_INPUT": scene.name,
        "EOSFM_BEFORE": before.name if before else None,
        "EOSFM_MODEL": source.name if source else None,
        "EOSFM_MODEL_CREATED": manifest.created,
        "EOSFM_RECIPE": manifest.recipe,
        "EOSFM_BANDS": ", ".join(manifest.bands),
        "EOSFM_SPECIALISTS": ", ".join(s.name for s in manifest.specialists),
    }
    return {key: value for key, value in found.items() if value}


def load_scorer(source: Path | None, fitted: FittedModel | None, progress: Progress) -> Scorer:
    """Make a model ready to compute: the one that is in memory, or the file's.

    Raises:
        BundleError: The file is damaged.
    """
    device = best_device()
    progress.say(f"device: {describe_device(device)}")
    if fitted is None:
        # TerraTorch takes long to import: not before the scene and the output are found good, and
        # not at all for callers that bring their model.
        from eosfm_cli.training.model import load_model

        fitted = load_model(source)
    return Scorer(
        fitted.module,
        device,
        _BATCH_SIZE,
        lambda size: progress.warn(f"Memory ran out; going on with {size} windows at once."),
        fitted.manifest.task,
    )


def warn_of_values(
    scene: Scene | ScenePair, plan: WindowPlan, progress: Progress, *, product: str = "map"
) -> None:
    """Look at a few windows before computing all of them, and warn of other units."""
    for date in scene.dates:
        _warn_of_date(date, plan, progress, product)


def _warn_of_date(scene: Scene, plan: WindowPlan, progress: Progress, product: str) -> None:
    step = -(-len(plan) // _SAMPLED_WINDOWS)
    tiles = itertools.islice(plan, step // 2, None, step)
    sample = [pixels.values[:, pixels.valid] for pixels in map(scene.read, tiles)]
    mean, std = scene.mean.ravel(), scene.std.ravel()
    doubts = doubtful_bands(scene.bands, np.concatenate(sample, axis=1), mean, std)
    if doubts:
        listed = "".join(f"\n  {doubt.describe()}" for doubt in doubts)
        progress.warn(
            f"The values of {scene.path.name} are not those that the model was fitted on, so its "
            f"{product} will hardly be right:{listed}\nConvert the scene to the same units first "
            "(reflectance from 0 to 1 or from 0 to 10000, radar in decibels or linear)."
        )


def _result(
    scene: Path,
    output: Path,
    picture: Path | None,
    plan: WindowPlan,
    tally: ClassTally | ValueTally,
    manifest: ModelManifest,
    cost: Cost,
) -> PredictResult:
    classes = isinstance(tally, ClassTally)
    return PredictResult(
        input=scene,
        output=output,
        quicklook=picture,
        width=plan.width,
        height=plan.height,
        windows=len(plan),
        shares=tally.shares if classes else {},
        nodata_share=tally.nodata_share,
        cost=cost,
        values=None if classes else _summary(tally, manifest.target),
    )


def _summary(tally: ValueTally, target: TargetSpec) -> ValueSummary | None:
    """What the map holds; nothing where no pixel has a value."""
    if not tally.count:
        return None
    return ValueSummary(target.name, target.unit, tally.min, tally.mean, tally.max)
