"""Where a scene's maps go, what stands there already, and whether there is room for them."""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from eosfm_cli.errors import OutputError, RasterError, UsageError
from eosfm_cli.progress import Progress
from eosfm_cli.raster.grid import Grid
from eosfm_cli.raster.inputs import SceneInput
from eosfm_cli.raster.products import Product
from eosfm_cli.raster.spool import begun
from eosfm_cli.words import amount

_TIFF = (".tif", ".tiff")


@dataclass(frozen=True)
class MapFiles:
    """A scene and the files that are made of it."""

    scene: SceneInput
    output: Path
    """The map."""
    products: dict[str, Path]
    """Name -> file of the maps beside it."""
    vector: Path | None
    quicklook: Path | None

    @property
    def maps(self) -> tuple[Path, ...]:
        """All but the picture: what there must be for the work to be done."""
        vector = () if self.vector is None else (self.vector,)
        return (self.output, *self.products.values(), *vector)

    @property
    def all(self) -> tuple[Path, ...]:
        """Everything that is made to be kept."""
        return (*self.maps, *(() if self.quicklook is None else (self.quicklook,)))

    @property
    def folder(self) -> Path:
        """Where finished rows wait until the map is complete."""
        return self.output.with_name(f"{self.output.name}.part")

    @property
    def are_there(self) -> bool:
        """Whether all was made before."""
        return all(path.exists() for path in self.maps)

    def clear_leftovers(self) -> None:
        """Remove maps that were being written when their process was killed."""
        for path in self.all:
            for leftover in path.parent.glob(f".{glob.escape(path.stem)}-{'?' * 16}.part*"):
                leftover.unlink(missing_ok=True)

    @property
    def are_begun(self) -> bool:
        """Whether a run that was stopped has left something to go on with."""
        return begun(self.folder) > 0


def plan_files(
    scenes: Sequence[SceneInput],
    products: Sequence[Product],
    *,
    output: str | Path | None,
    vector: Path | None,
    quicklook: bool,
    progress: Progress,
) -> list[MapFiles]:
    """Choose the files of each scene.

    Args:
        scenes: What is mapped.
        products: The maps of each, that of classes or values first.
        output: The map of a single scene, or a folder: one that is there, or is written with a
            slash at its end. Beside each scene if not given.
        vector: As `vector_path` takes it; no polygons if not given.
        quicklook: Whether a picture goes beside each map.
        progress: Told where a scene's folder cannot be written.

    Raises:
        UsageError: Two scenes would have one map, or a name does not do.
    """
    found = []
    for scene in scenes:
        path = _choose_output(scene, output, progress, several=len(scenes) > 1)
        found.append(
            MapFiles(
                scene,
                path,
                {product.name: product.path(path) for product in products[1:]},
                None if vector is None else _polygons(vector, path),
                path.with_suffix(".png") if quicklook else None,
            )
        )
    _refuse_two_of_a_name(found)
    return found


def _choose_output(
    scene: SceneInput, output: str | Path | None, progress: Progress, *, several: bool
) -> Path:
    name = f"{scene.stem}_pred.tif"
    if output is None:
        folder = Path() if scene.folder is None else scene.folder
        if folder.is_dir() and not os.access(folder, os.W_OK):
            progress.say(f"{folder} cannot be written: the map goes to the current folder")
            return Path(name)
        return folder / name
    path = Path(output)
    if path.is_dir() or str(output).endswith(("/", os.sep)):
        return path / name
    is_map = path.suffix.lower() in _TIFF
    if several and is_map:
        raise UsageError(
            f"Several maps cannot all be {output}.", hint=f"Name a folder: --output {path.stem}/"
        )
    if several:
        return path / name
    if not is_map:
        raise UsageError(
            f"A map is a GeoTIFF, and --output {output} does not end in .tif.",
            hint=f"For example: --output {path.with_suffix('.tif')}, or --output {output}/ for "
            "a folder.",
        )
    return path


def _polygons(vector: Path, output: Path) -> Path:
    from eosfm_cli.raster.vector import vector_path  # not every map becomes polygons

    return vector_path(vector, output)


def _refuse_two_of_a_name(found: Sequence[MapFiles]) -> None:
    owners: dict[Path, SceneInput] = {}
    for files in found:
        for path in files.all:
            other = owners.setdefault(path.absolute(), files.scene)
            if other is files.scene:
                continue
            if path == files.vector:
                hint = f"Give the ending alone, --vector {path.suffix[1:]}: each scene's polygons "
                hint += "then go beside its map."
            else:
                hint = "Map scenes of one name one at a time, each with its own --output, or "
                hint += "leave --output out: each map then goes beside its scene."
            raise UsageError(
                f"{other.name} and {files.scene.name} would both become {path}.", hint=hint
            )


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


def refuse_begun(files: MapFiles) -> None:
    """Do not throw away what a run that was stopped has computed.

    Raises:
        UsageError: There is such a run's work.
    """
    if files.are_begun:
        raise UsageError(
            f"{files.output} was begun before and not finished.",
            hint="Go on with it with --resume, or begin anew with --overwrite.",
        )


def disk_of(path: Path) -> tuple[int, int]:
    """How large the disk is where a file is to be made, and what it has left, in bytes."""
    there = next(p for p in path.absolute().parents if p.exists())
    usage = shutil.disk_usage(there)
    return usage.total, usage.free


def refuse_full_disk(files: MapFiles, grid: Grid, needed: int) -> None:
    """Refuse work whose result will not fit on the disk.

    Args:
        files: Where it goes.
        grid: Of the scene.
        needed: Bytes, at most.

    Raises:
        OutputError: There is less room than that.
        RasterError: The whole disk is smaller: the scene can hardly be as large as it says.
    """
    total, free = disk_of(files.output)
    place = files.output.absolute().parent
    if needed > total:
        raise RasterError(
            f"{files.scene.name} declares {grid.width:,} × {grid.height:,} pixels: mapping it may "
            f"take {amount(needed)}, and the disk of {place} holds {amount(total)}.",
            hint="If that is its size, map it by parts with --bbox; else its header is damaged.",
        )
    left = sum(p.stat().st_size for p in files.folder.glob("*")) if files.are_begun else 0
    if needed - left > free:
        raise OutputError(
            f"{place} has {amount(free)} left; mapping {files.scene.name} may take "
            f"{amount(needed)} there.",
            hint="Make room, or choose another place with --output.",
        )
