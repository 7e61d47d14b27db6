"""Say what images show as a whole: their class, or all classes that are there."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from eosfm_cli.bands import parse_bands
from eosfm_cli.carbon.tracker import track
from eosfm_cli.errors import UsageError
from eosfm_cli.manifest import ModelManifest
from eosfm_cli.progress import Progress, Silent, Step
from eosfm_cli.raster.geotiff import new_map
from eosfm_cli.raster.grid import Grid
from eosfm_cli.raster.layers import NODATA, SHARE_STEPS, class_layer, share_layer
from eosfm_cli.raster.scene import Pixels, open_scene
from eosfm_cli.raster.scoring import Scorer
from eosfm_cli.raster.windows import WindowPlan
from eosfm_cli.recipe import MAP_TASKS
from eosfm_cli.results import LabelledImage, LabelResult
from eosfm_cli.run_dir import write_csv
from eosfm_cli.tiling import offsets
from eosfm_cli.workflows.fitted import choose_model, tell_plan
from eosfm_cli.workflows.predict import load_scorer, map_tags, refuse_to_replace, warn_of_values

if TYPE_CHECKING:
    from eosfm_cli.training.model import FittedModel

_THERE = 0.5
"""Probability from which one of several labels counts as there."""


def label(
    inputs: Sequence[Path],
    *,
    model: Path | None = None,
    output: Path | None = None,
    bands: str | None = None,
    root: Path = Path("experiments"),
    overwrite: bool = False,
    progress: Progress | None = None,
    fitted: FittedModel | None = None,
) -> LabelResult:
    """Tell the class, or the classes, of each image, in a table.

    An image larger than the model's tile is looked at tile by tile, and becomes a map besides, with
    a pixel for each tile. Of the whole image the probability of a class is then the mean over its
    tiles; where several labels can be there at once, the largest, since one tile is enough to show
    that something is there.

    Args:
        inputs: The images, any rasters that have the model's bands.
        model: A fitted model or the run folder of one; the newest fit in `root` if not given.
        output: The table; `<stem>_pred.csv` beside a single image, else `predictions.csv`, if not
            given. Maps go to the same folder.
        bands: Names of the images' bands in file order; their own descriptions if not given.
        root: The experiments folder, for the newest model and the emissions ledger.
        overwrite: Replace what is already there.
        progress: Who is told.
        fitted: A model that is already in memory.

    Raises:
        DataError: There is no such model.
        RasterError: An image cannot be read.
        BandError: An image lacks a band that the model takes.
        UsageError: The model makes maps, a band's name is unknown, or something would be replaced.
        OutputError: The table cannot be written.
    """
    progress = progress or Silent()
    source, manifest = (None, fitted.manifest) if fitted else choose_model(model, root, progress)
    if manifest.task in MAP_TASKS:
        raise UsageError(
            f"The model {manifest.recipe!r} makes maps; it does not tell whole images.",
            hint="Map each scene with it: eosfm predict SCENE",
        )
    given = None if bands is None else parse_bands(bands, manifest.sensor)
    table = _choose_table(inputs, output, progress)
    images = _plan(inputs, table.parent, manifest, given, progress)
    maps = [image.map for image in images if image.map is not None]
    refuse_to_replace(inputs, [table, *maps], overwrite=overwrite)
    tell_plan(manifest, progress)
    with track(root, command="predict", name=table.stem, progress=progress) as meter:
        scorer = load_scorer(source, fitted, progress)
        with open_scene(images[0].path, manifest, given) as scene:
            warn_of_values(scene, images[0].plan, progress, product="label")
        windows = sum(len(image.plan) for image in images)
        with progress.step("labelling", windows) as step:
            _score(images, manifest, given, scorer, step)
        found = tuple(_concluded(image, source, manifest, progress) for image in images)
        _write(table, found, manifest)
    return LabelResult(found, table, meter.cost)


# --------------------------------------------------------------------------- what goes where


@dataclass
class _Image:
    """One image that is looked at, and what has been found so far."""

    path: Path
    grid: Grid
    plan: WindowPlan
    """Tiles side by side, the last ones flush with the edge."""
    map: Path | None
    scores: list[NDArray[np.float32] | None] = field(default_factory=list)
    """`(classes,)` of each tile, in order; `None` where it has no pixel with data."""


def _choose_table(inputs: Sequence[Path], output: Path | None, progress: Progress) -> Path:
    name = f"{inputs[0].stem}_pred.csv" if len(inputs) == 1 else "predictions.csv"
    if output is None:
        folder = inputs[0].parent if len(inputs) == 1 else Path()
        if folder.is_dir() and not os.access(folder, os.W_OK):
            progress.say(f"{folder} cannot be written: the table goes to the current folder")
            return Path(name)
        return folder / name
    if output.is_dir():
        return output / name
    if output.suffix.lower() != ".csv":
        raise UsageError(
            f"The model tells the class of whole images, and --output {output} does not end in "
            ".csv.",
            hint=f"For example: --output {output.with_suffix('.csv')}",
        )
    return output


def _plan(
    inputs: Sequence[Path],
    folder: Path,
    manifest: ModelManifest,
    given: Sequence[str] | None,
    progress: Progress,
) -> list[_Image]:
    """Look at every image before the work begins."""
    images, size = [], manifest.tile_size
    for path in inputs:
        with open_scene(path, manifest, given) as scene:
            if not images:
                progress.say(scene.matching)
            plan = WindowPlan(scene.grid.height, scene.grid.width, size, 0)
            map_ = folder / f"{path.stem}_pred.tif" if len(plan) > 1 else None
            images.append(_Image(path, scene.grid, plan, map_))
    maps = [image.map for image in images if image.map]
    if twice := sorted({str(path) for path in maps if maps.count(path) > 1}):
        raise UsageError(
            f"Two images would have one map: {twice[0]}.",
            hint="Label images of the same name one at a time, each with its own --output.",
        )
    return images


# --------------------------------------------------------------------------- looking


def _score(
    images: Sequence[_Image],
    manifest: ModelManifest,
    given: Sequence[str] | None,
    scorer: Scorer,
    step: Step,
) -> None:
    """Fill in the scores of all tiles, by batches across images."""
    tiles = _tiles(images, manifest, given)
    size = manifest.tile_size
    while batch := list(itertools.islice(tiles, scorer.batch_size)):
        full = [_square(pixels.values, size) for _, pixels in batch if pixels.valid.any()]
        scores = iter(scorer.score(full))
        for image, pixels in batch:
            image.scores.append(next(scores) if pixels.valid.any() else None)
            step.advance()


def _tiles(
    images: Sequence[_Image], manifest: ModelManifest, given: Sequence[str] | None
) -> Iterator[tuple[_Image, Pixels]]:
    for image in images:
        with open_scene(image.path, manifest, given) as scene:
            for tile in image.plan:
                yield image, scene.read(tile)


def _square(values: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Pad `(bands, h, w)` with the bands' means, as the tiles were that the model was fitted on."""
    _, height, width = values.shape
    return np.pad(values, ((0, 0), (0, size - height), (0, size - width)))


# --------------------------------------------------------------------------- what was found


def _concluded(
    image: _Image, source: Path | None, manifest: ModelManifest, progress: Progress
) -> LabelledImage:
    """What the tiles say of the whole image, and their map."""
    known = [scores for scores in image.scores if scores is not None]
    if not known:
        progress.warn(f"{image.path.name} has no pixel with a value in every band that is needed.")
        return LabelledImage(image.path, (), {}, None)
    if image.map is not None:
        _write_map(image, image.map, source, manifest)
    several = manifest.task == "multilabel"
    whole = np.max(known, axis=0) if several else np.mean(known, axis=0)
    names = [spec.name for spec in manifest.classes]
    there = [i for i, p in enumerate(whole) if p >= _THERE] if several else [int(whole.argmax())]
    return LabelledImage(
        image.path,
        tuple(names[i] for i in there),
        {name: float(p) for name, p in zip(names, whole, strict=True)},
        image.map,
    )


def _write_map(image: _Image, path: Path, source: Path | None, manifest: ModelManifest) -> None:
    """One pixel for each tile; a tile that is moved to end at the edge stands for what is left."""
    plan = image.plan
    rows = len(offsets(plan.height, plan.size, plan.size))
    cols = len(offsets(plan.width, plan.size, plan.size))
    coarse = image.grid.coarser(plan.size, rows, cols)
    none = np.full(len(manifest.classes), np.nan, np.float32)
    cells = np.stack([none if scores is None else scores for scores in image.scores], axis=-1)
    cells = cells.reshape(-1, rows, cols)
    tags = map_tags(source, manifest, image.path)
    without = np.isnan(cells[0])
    if manifest.task == "multilabel":
        layer = share_layer([spec.name for spec in manifest.classes])
        found = np.rint(np.nan_to_num(cells) * SHARE_STEPS)
    else:
        layer = class_layer(manifest.classes, manifest.title)
        found = np.nan_to_num(cells).argmax(axis=0)[None]
    with new_map(path, coarse, layer, tags=tags) as writer:
        writer.append(np.where(without, NODATA, found).astype(np.uint8))


def _write(table: Path, images: Sequence[LabelledImage], manifest: ModelManifest) -> None:
    """A row per image: what it shows, and the probability of every class."""
    names = [spec.name for spec in manifest.classes]
    several = manifest.task == "multilabel"
    columns = ["file", *(["classes"] if several else ["class", "probability"]), *names]
    rows = []
    for image in images:
        found: list[object] = [";".join(image.classes)]
        if not several:
            found.append(max(image.probabilities.values(), default=None))
        rows.append([image.input, *found, *(image.probabilities.get(name) for name in names)])
    write_csv(table, columns, rows)
