"""Say what images show as a whole: their class, or all classes that are there."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from eosfm_cli.bands import parse_bands
from eosfm_cli.carbon.tracker import track
from eosfm_cli.errors import DataError, UsageError
from eosfm_cli.manifest import ModelManifest
from eosfm_cli.precision import Precision
from eosfm_cli.progress import Progress, Silent, Step
from eosfm_cli.raster.area import Area, OutsideAreaError
from eosfm_cli.raster.geotiff import new_map
from eosfm_cli.raster.grid import Grid
from eosfm_cli.raster.inputs import SceneInput, find_scenes
from eosfm_cli.raster.layers import NODATA, SHARE_STEPS, class_layer, share_layer
from eosfm_cli.raster.products import map_tags
from eosfm_cli.raster.qgis import write_style
from eosfm_cli.raster.ranges import check_units
from eosfm_cli.raster.scale import Scale, parse_scale
from eosfm_cli.raster.scene import Pixels, Scene, open_scene
from eosfm_cli.raster.scoring import Scorer
from eosfm_cli.raster.windows import WindowPlan
from eosfm_cli.recipe import MAP_TASKS
from eosfm_cli.results import Cost, LabelledImage, LabelResult
from eosfm_cli.run_dir import write_csv, write_text
from eosfm_cli.tiling import offsets
from eosfm_cli.words import counted
from eosfm_cli.workflows.fitted import choose_model, tell_plan
from eosfm_cli.workflows.map_files import refuse_to_replace
from eosfm_cli.workflows.ready_model import load_scorer

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from eosfm_cli.training.model import FittedModel

_THERE = 0.5
"""Probability from which one of several labels counts as there."""
_TABLES = (".csv", ".json")


def label(
    inputs: Sequence[str | Path],
    *,
    model: Path | None = None,
    output: Path | None = None,
    bands: str | None = None,
    scale: str | None = None,
    area: Area | None = None,
    stack: bool = False,
    root: Path = Path("experiments"),
    overwrite: bool = False,
    device: str = "auto",
    batch_size: int | None = None,
    precision: Precision = "32-true",
    progress: Progress | None = None,
    fitted: FittedModel | None = None,
) -> LabelResult:
    """Tell the class, or the classes, of each image, in a table.

    An image larger than the model's tile is looked at tile by tile, and becomes a map besides, with
    a pixel for each tile. Of the whole image the probability of a class is then the mean over its
    tiles; where several labels can be there at once, the largest, since one tile is enough to show
    that something is there.

    Of several images, one that cannot be read does not stop the others.

    Args:
        inputs: The images, as `find_scenes` takes them.
        model: A fitted model or the run folder of one; the newest fit in `root` if not given.
        output: The table, `.csv` or `.json`; `<stem>_pred.csv` beside a single image, else
            `predictions.csv`, if not given. Maps go to the same folder.
        bands: Names of the images' bands in file order; their own descriptions if not given.
        scale: How values are changed first, as `parse_scale` reads it.
        area: What of the images is wanted; all if not given.
        stack: Whether the inputs are single bands of one image.
        root: The experiments folder, for the newest model and the emissions ledger.
        overwrite: Replace what is already there.
        device: `auto`, `cpu` or `cuda`.
        batch_size: Tiles at once; as many as go well if not given.
        precision: What a model from a file computes in.
        progress: Who is told.
        fitted: A model that is already in memory.

    Raises:
        DataError: There is no such model, or no image.
        RasterError: The only image cannot be read.
        BandError: The only image lacks a band that the model takes.
        UsageError: The model makes maps, a band's name is unknown, or something would be replaced.
        OutputError: The table cannot be written.
    """
    progress = progress or Silent()
    source, manifest = (None, fitted.manifest) if fitted else choose_model(model, root, progress)
    _refuse_maps(manifest)
    scenes = find_scenes(inputs, stack=stack, progress=progress)
    reader = _Reader.of(manifest, bands, scale, area)
    table = _choose_table(scenes, output, progress)
    images = _plan(scenes, table.parent, reader, progress)
    usable = [image for image in images if image.error is None]
    maps = [image.map for image in usable if image.map is not None]
    named = [path for scene in scenes for path in scene.local_files]
    refuse_to_replace(named, [table, *maps], overwrite=overwrite)
    tell_plan(manifest, progress)
    with track(root, command="predict", name=table.stem, progress=progress) as meter:
        scorer = load_scorer(
            source, fitted, progress, device=device, batch_size=batch_size, precision=precision
        )
        scorer.fit_to(len(manifest.bands), manifest.tile_size, manifest.tile_size)
        with progress.step("labelling", sum(len(image.plan) for image in usable)) as step:
            _score(usable, reader, scorer, step, progress)
        origin = _Origin(source.name if source else None, meter.cost)
        done = [image for image in usable if image.error is None]
        found = tuple(_concluded(image, origin, manifest, progress) for image in done)
        _write(table, found, manifest)
    return LabelResult(found, table, meter.cost, failed=_failed(images), skipped=_skipped(images))


# --------------------------------------------------------------------------- what goes where


@dataclass(frozen=True)
class _Reader:
    """How images are read."""

    manifest: ModelManifest
    given: tuple[str, ...] | None
    scale: Scale | None
    area: Area | None

    @classmethod
    def of(
        cls, manifest: ModelManifest, bands: str | None, scale: str | None, area: Area | None
    ) -> _Reader:
        """Read what the user says of bands and values."""
        return cls(
            manifest,
            None if bands is None else tuple(parse_bands(bands, manifest.sensor)),
            None if scale is None else parse_scale(scale, manifest.sensor),
            area,
        )

    def open(self, scene: SceneInput) -> AbstractContextManager[Scene]:
        """Open an image."""
        return open_scene(scene, self.manifest, self.given, scale=self.scale, area=self.area)


@dataclass
class _Image:
    """One image that is looked at, and what has been found so far."""

    scene: SceneInput
    grid: Grid | None = None
    plan: WindowPlan | None = None
    """Tiles side by side, the last ones flush with the edge."""
    map: Path | None = None
    scores: list[NDArray[np.float32] | None] = field(default_factory=list)
    """`(classes,)` of each tile, in order; `None` where it has no pixel with data."""
    error: DataError | None = None
    """Why it is left out."""


def _refuse_maps(manifest: ModelManifest) -> None:
    if manifest.task in MAP_TASKS:
        raise UsageError(
            f"The model {manifest.recipe!r} makes maps; it does not tell whole images.",
            hint="Map each scene with it: eosfm predict SCENE",
        )


def _choose_table(scenes: Sequence[SceneInput], output: Path | None, progress: Progress) -> Path:
    single = scenes[0] if len(scenes) == 1 else None
    name = f"{single.stem}_pred.csv" if single else "predictions.csv"
    if output is None:
        folder = (single.folder if single else None) or Path()
        if folder.is_dir() and not os.access(folder, os.W_OK):
            progress.say(f"{folder} cannot be written: the table goes to the current folder")
            return Path(name)
        return folder / name
    if output.is_dir():
        return output / name
    if output.suffix.lower() not in _TABLES:
        raise UsageError(
            f"The model tells the class of whole images, and --output {output} does not end in "
            ".csv or .json.",
            hint=f"For example: --output {output.with_suffix('.csv')}",
        )
    return output


def _plan(
    scenes: Sequence[SceneInput], folder: Path, reader: _Reader, progress: Progress
) -> list[_Image]:
    """Look at every image before the work begins; those that cannot be read are told.

    Raises:
        DataError: None of them can be.
    """
    images: list[_Image] = []
    told: set[str] = set()
    warned = False
    for scene in scenes:
        image = _Image(scene)
        images.append(image)
        try:
            lines, warnings = _look_at(image, folder, reader)
        except DataError as error:
            if len(scenes) == 1:
                raise
            _leave_out(image, error, progress)
            continue
        for line in lines:
            if line not in told:
                progress.say(line)
        told.update(lines)
        if warnings and not warned:
            progress.warn("\n".join(warnings))
            warned = True
    _refuse_none(images)
    _refuse_twice([image.map for image in images if image.map is not None])
    return images


def _look_at(image: _Image, folder: Path, reader: _Reader) -> tuple[list[str], list[str]]:
    """Fill in an image's place and tiles; how its bands were found, and what is odd of them."""
    size = reader.manifest.tile_size
    with reader.open(image.scene) as scene:
        plan = WindowPlan(scene.grid.height, scene.grid.width, size, 0)
        warnings = check_units(scene, plan, "label")
        image.grid, image.plan = scene.grid, plan
        image.map = folder / f"{image.scene.stem}_pred.tif" if len(plan) > 1 else None
        return scene.matching.splitlines(), warnings


def _leave_out(image: _Image, error: DataError, progress: Progress) -> None:
    image.error = error
    hint = f" {error.hint}" if error.hint else ""
    progress.warn(f"{image.scene.name} is left out: {error}{hint}")


def _refuse_none(images: Sequence[_Image]) -> None:
    if all(image.error is not None for image in images):
        raise DataError(
            f"None of {counted(len(images), 'image')} can be labelled.",
            hint=f"The first: {images[0].error}",
        )


def _refuse_twice(maps: Sequence[Path]) -> None:
    if twice := sorted({str(path) for path in maps if maps.count(path) > 1}):
        raise UsageError(
            f"Two images would have one map: {twice[0]}.",
            hint="Label images of the same name one at a time, each with its own --output.",
        )


# --------------------------------------------------------------------------- looking


def _score(
    images: Sequence[_Image], reader: _Reader, scorer: Scorer, step: Step, progress: Progress
) -> None:
    """Fill in the scores of all tiles, by batches across images."""
    tiles = _tiles(images, reader, progress)
    size = reader.manifest.tile_size
    while batch := list(itertools.islice(tiles, scorer.batch_size)):
        full = [_square(pixels.values, size) for _, pixels in batch if pixels.valid.any()]
        scores = iter(scorer.score(full))
        for image, pixels in batch:
            image.scores.append(next(scores) if pixels.valid.any() else None)
            step.advance()


def _tiles(
    images: Sequence[_Image], reader: _Reader, progress: Progress
) -> Iterator[tuple[_Image, Pixels]]:
    for image in images:
        try:
            with reader.open(image.scene) as scene:
                for tile in image.plan:
                    yield image, scene.read(tile)
        except DataError as error:
            if len(images) == 1:
                raise
            _leave_out(image, error, progress)


def _square(values: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Pad `(bands, h, w)` with the bands' means, as the tiles were that the model was fitted on."""
    _, height, width = values.shape
    return np.pad(values, ((0, 0), (0, size - height), (0, size - width)))


# --------------------------------------------------------------------------- what was found


@dataclass(frozen=True)
class _Origin:
    """Where maps come from."""

    model: str | None
    cost: Cost


def _failed(images: Sequence[_Image]) -> dict[str, str]:
    return {
        image.scene.name: str(image.error)
        for image in images
        if image.error is not None and not isinstance(image.error, OutsideAreaError)
    }


def _skipped(images: Sequence[_Image]) -> tuple[str, ...]:
    return tuple(i.scene.name for i in images if isinstance(i.error, OutsideAreaError))


def _concluded(
    image: _Image, origin: _Origin, manifest: ModelManifest, progress: Progress
) -> LabelledImage:
    """What the tiles say of the whole image, and their map."""
    name = image.scene.name
    known = [scores for scores in image.scores if scores is not None]
    if not known:
        progress.warn(f"{Path(name).name} has no pixel with a value in every band that is needed.")
        return LabelledImage(name, (), {}, None)
    if image.map is not None:
        _write_map(image, image.map, origin, manifest)
    several = manifest.task == "multilabel"
    whole = np.max(known, axis=0) if several else np.mean(known, axis=0)
    names = [spec.name for spec in manifest.classes]
    there = [i for i, p in enumerate(whole) if p >= _THERE] if several else [int(whole.argmax())]
    return LabelledImage(
        name,
        tuple(names[i] for i in there),
        {name: float(p) for name, p in zip(names, whole, strict=True)},
        image.map,
    )


def _write_map(image: _Image, path: Path, origin: _Origin, manifest: ModelManifest) -> None:
    """One pixel for each tile; a tile that is moved to end at the edge stands for what is left."""
    plan = image.plan
    rows = len(offsets(plan.height, plan.size, plan.size))
    cols = len(offsets(plan.width, plan.size, plan.size))
    coarse = image.grid.coarser(plan.size, rows, cols)
    none = np.full(len(manifest.classes), np.nan, np.float32)
    cells = np.stack([none if scores is None else scores for scores in image.scores], axis=-1)
    cells = cells.reshape(-1, rows, cols)
    scene = Path(image.scene.name).name
    tags = map_tags(manifest, model=origin.model, input=scene, cost=origin.cost)
    without = np.isnan(cells[0])
    if manifest.task == "multilabel":
        layer = share_layer([spec.name for spec in manifest.classes])
        found = np.rint(np.nan_to_num(cells) * SHARE_STEPS)
    else:
        layer = class_layer(manifest.classes, manifest.title)
        found = np.nan_to_num(cells).argmax(axis=0)[None]
    with new_map(path, coarse, layer, tags=tags) as writer:
        writer.append(np.where(without, NODATA, found).astype(np.uint8))
    write_style(path, layer)


def _write(table: Path, images: Sequence[LabelledImage], manifest: ModelManifest) -> None:
    """What each image shows, and the probability of every class."""
    rows = [_row(image, manifest) for image in images]
    names = [spec.name for spec in manifest.classes]
    if table.suffix.lower() == ".json":
        whole = {"recipe": manifest.recipe, "title": manifest.title, "classes": names}
        write_text(table, json.dumps({**whole, "images": rows}, indent=2) + "\n")
        return
    several = manifest.task == "multilabel"
    columns = ["file", *(["classes"] if several else ["class", "probability"])]
    cells = [
        [
            *(";".join(row[c]) if c == "classes" else row[c] for c in columns),
            *(row["probabilities"].get(name) for name in names),
        ]
        for row in rows
    ]
    write_csv(table, [*columns, *names], cells)


def _row(image: LabelledImage, manifest: ModelManifest) -> dict[str, Any]:
    """What the table says of one image."""
    row: dict[str, Any] = {"file": image.input}
    if manifest.task == "multilabel":
        row["classes"] = list(image.classes)
    else:
        row["class"] = next(iter(image.classes), None)
        row["probability"] = max(image.probabilities.values(), default=None)
    map_ = None if image.map is None else str(image.map)
    return {**row, "probabilities": image.probabilities, "map": map_}
