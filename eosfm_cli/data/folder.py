"""Any dataset of rasters in folders, as a recipe's paths describe it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from eosfm_cli.bands import nearest_word
from eosfm_cli.data.labels import folder_classes
from eosfm_cli.data.reader import Header, plain_images_allowed, read_header
from eosfm_cli.data.splits import SPLIT_NAMES, Key, SplitName, few, split_keys
from eosfm_cli.data.templates import Found, field_names, find_files
from eosfm_cli.errors import DataError
from eosfm_cli.progress import Progress
from eosfm_cli.recipe import Recipe

MASKS = "masks"
_READERS = 8
"""Threads that open headers: on network file systems opening is all waiting."""


@dataclass(frozen=True)
class Sample:
    """One place on the ground: its rasters and its label."""

    id: str
    images: tuple[Path, ...]
    """One per image source used, in the recipe's order; all of one size."""
    mask: Path | None
    label: int | None
    """Class index; `None` where a mask says it."""
    height: int
    width: int


@dataclass(frozen=True)
class FolderSource:
    """A dataset on disk, checked and split."""

    root: Path
    samples: Mapping[SplitName, tuple[Sample, ...]]


Files = dict[str, Path]
"""Image source, or `MASKS` -> its file of one sample."""


def used_images(recipe: Recipe) -> tuple[str, ...]:
    """The image sources that hold bands the recipe uses."""
    wanted = set(recipe.bands)
    return tuple(key for key, image in recipe.dataset.images.items() if wanted & set(image.bands))


def read_folder(recipe: Recipe, root: Path, progress: Progress) -> FolderSource:
    """Find, pair, split and check every sample of a dataset.

    Args:
        recipe: What the dataset looks like; image sources whose bands it does not use are left
            out.
        root: The dataset's folder, which exists.
        progress: Told about samples that are in no split.

    Raises:
        DataError: Files are missing, unmatched, damaged or not as the recipe says.
    """
    rows = _paired({name: _listing(root, *item) for name, *item in _templates(recipe)}, root)
    keys = split_keys(rows, recipe.dataset.split, root)
    _refuse_incomplete(rows, [key for name in SPLIT_NAMES for key in keys[name]], recipe)
    _tell_unused(rows, keys, progress)
    labels = _labels(recipe, [key for name in SPLIT_NAMES for key in keys[name]], root)
    headers = _headers(rows, keys, progress)
    _check_all(recipe, rows, keys, headers, progress)
    return FolderSource(
        root,
        {
            name: tuple(_sample(key, rows[key], labels.get(key), headers) for key in keys[name])
            for name in SPLIT_NAMES
        },
    )


def _sample(key: Key, files: Files, label: int | None, headers: Mapping[Path, Header]) -> Sample:
    images = tuple(path for name, path in files.items() if name != MASKS)
    size = headers[images[0]]
    return Sample(key.id, images, files.get(MASKS), label, size.height, size.width)


# --------------------------------------------------------------------------- finding


def _templates(recipe: Recipe) -> Iterator[tuple[str, str]]:
    for name in used_images(recipe):
        yield name, recipe.dataset.images[name].path
    if recipe.task == "segmentation" and recipe.dataset.masks is not None:
        yield MASKS, recipe.dataset.masks.path


def _listing(root: Path, template: str) -> tuple[frozenset[str], list[Found]]:
    try:
        files = find_files(root, template)
    except OSError as error:
        raise DataError(
            f"Cannot read {error.filename}: {error.strerror}.", hint="Check its permissions."
        ) from None
    if not files:
        raise DataError(
            f"No file in {root} is named as the recipe says: {template}\n"
            f"found there: {contents(root)}",
            hint="Compare the folder with dataset.images and dataset.masks in the recipe; "
            "--data-root says where the datasets are.",
        )
    return field_names(template), files


def contents(folder: Path) -> str:
    """What is in a folder, shortened to a line."""
    names = sorted(f"{p.name}/" if p.is_dir() else p.name for p in folder.iterdir())
    return few(names, 8) or "nothing"


# --------------------------------------------------------------------------- pairing


def _paired(
    listings: Mapping[str, tuple[frozenset[str], list[Found]]], root: Path
) -> dict[Key, Files]:
    """Files that belong together, by the fields that their paths have in common.

    A file that matches none of the first source gets a row of its own, incomplete.
    """
    (first, (fields, files)), *others = listings.items()
    rows: dict[Key, Files] = {_key(found): {first: found.path} for found in files}
    for name, (other_fields, other_files) in others:
        shared = tuple(sorted(fields & other_fields))
        partners = _unique(files, shared, root)
        for common, found in _unique(other_files, shared, root).items():
            partner = partners.get(common)
            rows.setdefault(_key(partner or found), {})[name] = found.path
    return rows


def _unique(
    files: Iterable[Found], shared: tuple[str, ...], root: Path
) -> dict[tuple[str, ...], Found]:
    """Files by the fields that they share with others."""
    found: dict[tuple[str, ...], Found] = {}
    for file in files:
        twin = found.setdefault(file.values(shared), file)
        if twin is not file:
            raise DataError(
                f"{file.path.relative_to(root)} and {twin.path.relative_to(root)} cannot be told "
                f"apart by {' and '.join(shared)}.",
                hint="Put {split} or {class} into all paths of the recipe, or rename the files.",
            )
    return found


def _key(found: Found) -> Key:
    fields = found.fields
    return Key(fields.get("split", ""), fields.get("class", ""), fields["id"])


def _refuse_incomplete(rows: Mapping[Key, Files], keys: Iterable[Key], recipe: Recipe) -> None:
    templates = dict(_templates(recipe))
    lacking = []
    for key in keys:
        missing = [_path(templates[name], key) for name in templates if name not in rows[key]]
        lacking += [f"  {key.id} lacks {', '.join(missing)}"] if missing else []
    if lacking:
        more = [f"  and {len(lacking) - 5} more"] if len(lacking) > 5 else []
        raise DataError(
            "\n".join([f"{len(lacking)} samples are incomplete:", *lacking[:5], *more]),
            hint="Complete the download, move what has no partner out of the folder, or name the "
            "samples to use with 'split: {by: list}'.",
        )


def _path(template: str, key: Key) -> str:
    """The path that a sample's file should have; fields that are not known stay as they are."""
    known = {"{split}": key.split, "{class}": key.class_name, "{id}": key.id}
    for field, value in known.items():
        template = template.replace(field, value or field)
    return template


def _tell_unused(
    rows: Mapping[Key, Files], keys: Mapping[SplitName, list[Key]], progress: Progress
) -> None:
    used = {key for name in SPLIT_NAMES for key in keys[name]}
    unused = sorted(key.id for key in rows if key not in used)
    if unused:
        progress.warn(f"{len(unused)} samples on disk are in no split: {few(unused)}.")


# --------------------------------------------------------------------------- labels


def _labels(recipe: Recipe, keys: Iterable[Key], root: Path) -> dict[Key, int]:
    if recipe.task != "classification":
        return {}
    classes = folder_classes(recipe)
    counts = Counter(key.class_name for key in keys)
    unknown = sorted(set(counts) - set(classes))
    if unknown:
        near = nearest_word(unknown[0], classes)
        raise DataError(
            f"{root} has class folders that the recipe does not list: {few(unknown)}."
            + (f" Is {unknown[0]!r} meant to be {near!r}?" if near else ""),
            hint="Add them to the recipe's classes (as a name, or under a class's values), or move "
            "them out of the folder.",
        )
    return {key: classes[key.class_name] for key in keys}


# --------------------------------------------------------------------------- headers


def _headers(
    rows: Mapping[Key, Files], keys: Mapping[SplitName, list[Key]], progress: Progress
) -> dict[Path, Header]:
    paths = [path for name in SPLIT_NAMES for key in keys[name] for path in rows[key].values()]
    with (
        plain_images_allowed(),
        ThreadPoolExecutor(_READERS) as pool,
        progress.step("Checking files", len(paths)) as step,
    ):
        headers = {}
        for path, header in zip(paths, pool.map(read_header, paths), strict=True):
            headers[path] = header
            step.advance()
    return headers


def _check_all(
    recipe: Recipe,
    rows: Mapping[Key, Files],
    keys: Mapping[SplitName, list[Key]],
    headers: Mapping[Path, Header],
    progress: Progress,
) -> None:
    shadowed: dict[int, list[Path]] = defaultdict(list)
    for key in (key for name in SPLIT_NAMES for key in keys[name]):
        files = rows[key]
        _check_sizes(files, headers)
        for name in used_images(recipe):
            _check_image(files[name], headers[files[name]], recipe.dataset.images[name].bands)
        if MASKS in files:
            _check_mask(recipe, files[MASKS], headers[files[MASKS]], shadowed)
    for value, masks in shadowed.items():
        progress.warn(
            f"{len(masks)} masks declare {value} as nodata, which is also the class "
            f"{recipe.class_names[value]!r} by its position: such pixels count as without label. "
            f"If they are that class, write 'values: [{value}]' in the recipe's class."
        )


def _check_sizes(files: Files, headers: Mapping[Path, Header]) -> None:
    sizes = {path: (headers[path].height, headers[path].width) for path in files.values()}
    if len(set(sizes.values())) > 1:
        lines = [f"  {path}: {width} × {height}" for path, (height, width) in sizes.items()]
        raise DataError(
            "\n".join(["Files of one sample differ in size (width × height):", *lines]),
            hint="Resample them to one grid.",
        )


def _check_image(path: Path, header: Header, bands: tuple[str, ...]) -> None:
    if header.count != len(bands):
        raise DataError(
            f"{path} has {header.count} bands, the recipe names {len(bands)}: {', '.join(bands)}.",
            hint="dataset.images names every band of the file, in file order; choose among them "
            "with the recipe's 'bands'.",
        )
    _refuse_complex(path, header)


def _refuse_complex(path: Path, header: Header) -> None:
    if any("complex" in dtype for dtype in header.dtypes):
        raise DataError(
            f"{path} holds complex numbers.", hint="Convert it to amplitude, intensity or decibel."
        )


def _check_mask(
    recipe: Recipe, path: Path, header: Header, shadowed: dict[int, list[Path]]
) -> None:
    """Check that the label band is there; note classes that are also nodata."""
    band = recipe.dataset.masks.band
    if band > header.count:
        raise DataError(
            f"{path} has {header.count} bands; the recipe takes labels from band {band}.",
            hint="Change dataset.masks.band in the recipe.",
        )
    _refuse_complex(path, header)
    nodata = header.nodata[band - 1]
    classes = dict(enumerate(recipe.classes))
    if nodata in classes and classes[nodata].values is None:
        shadowed[int(nodata)].append(path)
