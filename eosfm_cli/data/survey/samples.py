"""The samples of chosen streams, as the loader pairs them, and what is wrong with some."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from eosfm_cli.data.kinds import MASKS
from eosfm_cli.data.pairing import pair_files
from eosfm_cli.data.problems import refusing
from eosfm_cli.data.splits import Key
from eosfm_cli.data.survey.choice import Choice, plain_templates
from eosfm_cli.data.survey.rasters import Rasters, spread
from eosfm_cli.errors import DataError
from eosfm_cli.progress import Progress, Silent
from eosfm_cli.recipe import Recipe

MOST_HEADERS = 5_000
"""Of larger datasets the headers of so many samples are read, evenly spread."""

Files = dict[str, str]
"""Name of images, or `MASKS` -> path below the folder."""


@dataclass(frozen=True)
class Trouble:
    """Why a sample cannot be used."""

    why: str
    """In words that many samples may share."""
    detail: str = ""
    """What is said of this one, instead of its bare name."""


@dataclass(frozen=True)
class Samples:
    """All samples of a folder."""

    choice: Choice
    """Without images that fit no labels."""
    usable: dict[Key, Files]
    wrong: dict[Key, Trouble]
    """Why others cannot be used."""
    rows: tuple[Key, ...]
    """Everything that the paths describe: also files that belong to other streams."""


def read_samples(choice: Choice, rasters: Rasters, root: Path, progress: Progress) -> Samples:
    """Pair the files of the chosen streams and check them against each other."""
    rows = _rows(choice, root)
    chosen = spread(sorted(rows), MOST_HEADERS)
    rasters.look_at([path for key in chosen for path in rows[key].values()], progress)
    own = {key: files for key, files in rows.items() if files}
    misfit = _misfit(choice, own, rasters)
    if misfit is not None:
        return read_samples(misfit, rasters, root, progress)
    counts = [f.count for files in own.values() if (f := rasters.known(files.get(MASKS, "")))]
    usual = Counter(counts).most_common(1)[0][0] if counts else None
    wrong = {
        key: trouble
        for key, files in own.items()
        if (trouble := _wrong(files, choice, rasters) or _odd_label(files, usual, rasters))
    }
    usable = {key: files for key, files in own.items() if key not in wrong}
    return Samples(choice, usable, wrong, tuple(rows))


def provisional_recipe(choice: Choice, root: Path) -> Recipe:
    """A recipe that reads the chosen files; its classes and split mean nothing."""
    templates = plain_templates(choice)
    images = {
        image.name: {"path": list(templates[image.name]), "bands": list(image.guess.bands)}
        for image in choice.images
    }
    masks = {"masks": {"path": list(templates[MASKS])}} if choice.masks else {}
    return Recipe.model_validate(
        {
            "name": "survey",
            "title": "survey",
            "task": "segmentation" if choice.masks else "classification",
            "dataset": {"root": str(root), "images": images, **masks, "split": {"by": "fraction"}},
            "classes": [{"name": "one"}, {"name": "other"}],
        }
    )


def _rows(choice: Choice, root: Path) -> dict[Key, Files]:
    """What the paths describe; a file that belongs to another stream is taken out of its row."""
    streams = {image.name: image.stream for image in choice.images}
    if choice.masks:
        streams[MASKS] = choice.masks
    own = {name: {place.file.path for place in s.places} for name, s in streams.items()}
    try:
        found = pair_files(provisional_recipe(choice, root), root, refusing(Silent())).rows
    except DataError as error:
        raise DataError(
            error.message, hint="Name the folder of one dataset, or rename files that look alike."
        ) from None
    relative = {
        key: {name: f.path.relative_to(root).as_posix() for name, (f,) in files.items()}
        for key, files in found.items()
    }
    return {
        key: {name: path for name, path in files.items() if path in own[name]}
        for key, files in relative.items()
    }


def _wrong(files: Mapping[str, str], choice: Choice, rasters: Rasters) -> Trouble | None:
    """Why a sample cannot be used, if it cannot."""
    names = [*(image.name for image in choice.images), *([MASKS] if choice.masks else [])]
    missing = [_called(name, choice) for name in names if name not in files]
    if missing:
        return Trouble(f"no {' and no '.join(missing)}", next(iter(files.values())))
    for path in files.values():
        if path in rasters.unreadable:
            return unreadable(path, rasters)
    return _odd_bands(files, choice, rasters) or _odd_size(files, choice, rasters)


def unreadable(path: str, rasters: Rasters) -> Trouble:
    """Why a file cannot be read, as GDAL says."""
    return Trouble("cannot be read", f"{path}: {rasters.unreadable[path]}")


def _called(name: str, choice: Choice) -> str:
    if name == MASKS:
        return "label"
    return "image" if len(choice.images) == 1 else f"image in {name}"


def _odd_bands(files: Mapping[str, str], choice: Choice, rasters: Rasters) -> Trouble | None:
    for image in choice.images:
        path = files[image.name]
        facts = rasters.known(path)
        if facts and facts.count != image.facts.count:
            why = f"not {image.facts.count} bands as the other images"
            return Trouble(why, f"{path}: {facts.count}")
        if facts and "complex" in facts.dtype:
            return Trouble("complex numbers", path)
    return None


def _odd_label(files: Mapping[str, str], usual: int | None, rasters: Rasters) -> Trouble | None:
    known = rasters.known(files.get(MASKS, ""))
    if known is None or known.count == usual:
        return None
    return Trouble(f"not {usual} bands as the other labels", f"{files[MASKS]}: {known.count}")


def _odd_size(files: Mapping[str, str], choice: Choice, rasters: Rasters) -> Trouble | None:
    sizes = {path: known.size for path in files.values() if (known := rasters.known(path))}
    if len(set(sizes.values())) < 2:
        return None
    said = [f"{path}: {width} × {height}" for path, (height, width) in sizes.items()]
    return Trouble("files of one sample differ in size", "; ".join(said))


def _misfit(choice: Choice, rows: Mapping[Key, Files], rasters: Rasters) -> Choice | None:
    """The choice without the images whose size is not that of the labels, for most samples."""
    if len(choice.images) < 2:
        return None
    odd: Counter[str] = Counter()
    measured = 0
    for files in rows.values():
        known = {name: f.size for name, path in files.items() if (f := rasters.known(path))}
        reference = known.get(MASKS) or known.get(choice.images[0].name)
        measured += reference is not None
        odd.update(name for name, size in known.items() if reference and size != reference)
    for image in choice.images:
        if 2 * odd[image.name] > measured:
            left = tuple(other for other in choice.images if other is not image)
            note = f"{image.name} ({len(image.stream.places)} files): not of the labels' size"
            return replace(choice, images=left, left_out=(*choice.left_out, note))
    return None
