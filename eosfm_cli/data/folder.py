"""Any dataset of rasters in folders, as a recipe's paths describe it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from eosfm_cli.bands import nearest_word
from eosfm_cli.data.archives import unpack_advice
from eosfm_cli.data.headers import read_headers
from eosfm_cli.data.labels import named_classes
from eosfm_cli.data.pairing import MASKS, Files, lacking, pair_files, used_files, used_images
from eosfm_cli.data.reader import Header
from eosfm_cli.data.splits import (
    SPLIT_NAMES,
    Absent,
    Key,
    SplitName,
    few,
    refuse_empty,
    split_keys,
)
from eosfm_cli.data.table import Table, check_rows, read_table
from eosfm_cli.data.templates import read_fields
from eosfm_cli.errors import DataError
from eosfm_cli.progress import Progress
from eosfm_cli.recipe import ColumnSplit, ListSplit, Recipe, Split, fill_template


@dataclass(frozen=True)
class Sample:
    """One place on the ground: its rasters and its label."""

    id: str
    images: tuple[Path, ...]
    """One per image source used, in the recipe's order; all of one size."""
    mask: Path | None
    label: int | tuple[int, ...] | None
    """Class index, or the indices of several classes; `None` where a mask says it."""
    height: int
    width: int


@dataclass(frozen=True)
class FolderSource:
    """A dataset on disk, checked and split."""

    root: Path
    samples: Mapping[SplitName, tuple[Sample, ...]]


Division = dict[SplitName, list[Key]]
"""The samples of each split."""

_SKIP = (
    "Complete the download, take them out of the lists, or go on without them: "
    "--set dataset.split.absent=skip"
)
_TIDY = (
    "Complete the download, move what has no partner out of the folder, or name the samples to use "
    "with 'split: {by: list}'."
)


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
    rows = pair_files(recipe, root, progress)
    table = read_table(recipe, root)
    keys = _divided(rows, recipe, table, root, progress)
    _tell_unused(rows, keys, progress)
    keys = _complete(rows, keys, recipe, root, progress)
    labels = _labels(recipe, _all(keys), table, root)
    paths = [path for key in _all(keys) for path in rows[key].values()]
    headers = read_headers(paths, root, progress)
    _check_all(recipe, rows, keys, headers, progress)
    _tell_unlisted_labels(recipe, progress)
    return FolderSource(
        root,
        {
            name: tuple(_sample(key, rows[key], labels.get(key), headers) for key in keys[name])
            for name in SPLIT_NAMES
        },
    )


def _divided(
    rows: Mapping[Key, Files], recipe: Recipe, table: Table | None, root: Path, progress: Progress
) -> Division:
    """The samples of each split, each with its row where there is a table."""
    split, absent = recipe.dataset.split, _absent(recipe, root, progress)
    partial, everybody = _goes_on(split), sorted(rows)
    if table is not None and isinstance(split, ColumnSplit):
        check_rows(table, everybody, everybody, partial=partial)
    keys = split_keys(rows, split, root, absent, column=table.splits if table else None)
    if table is not None and not isinstance(split, ColumnSplit):
        check_rows(table, everybody, _all(keys), partial=partial)
    return keys


def _goes_on(split: Split) -> bool:
    """Whether listed samples may lack their files."""
    return isinstance(split, ListSplit | ColumnSplit) and split.absent == "skip"


def _all(keys: Division) -> list[Key]:
    return [key for name in SPLIT_NAMES for key in keys[name]]


def _sample(
    key: Key,
    files: Files,
    label: int | tuple[int, ...] | None,
    headers: Mapping[Path, Header],
) -> Sample:
    images = tuple(path for name, path in files.items() if name != MASKS)
    size = headers[images[0]]
    return Sample(key.id, images, files.get(MASKS), label, size.height, size.width)


# --------------------------------------------------------------------------- what is not there


def _absent(recipe: Recipe, root: Path, progress: Progress) -> Absent:
    """What to do about listed samples of which there is no file."""

    def tell(entries: Sequence[str], listed: int) -> None:
        if _goes_on(recipe.dataset.split):
            progress.warn(
                f"{len(entries)} of {listed} listed samples are not on disk and are left out: "
                f"{few(entries)}."
            )
            return
        wanted = _expected(entries, recipe)
        raise DataError(
            "\n".join(
                [
                    f"{len(entries)} of {listed} listed samples are not on disk: {few(entries)}.",
                    *_absent_folders(wanted, root),
                ]
            ),
            hint=unpack_advice(root, wanted) or _SKIP,
        )

    return tell


def _expected(entries: Iterable[str], recipe: Recipe) -> list[str]:
    """Where the first file of each listed sample should be, as far as its entry tells."""
    template = next(iter(used_files(recipe).values())).paths[0]
    entry = getattr(recipe.dataset.split, "entry", None)
    found = (_fields_of(text, entry) for text in entries)
    return [fill_template(template, fields) for fields in found if fields]


def _fields_of(text: str, entry: str | None) -> dict[str, str] | None:
    path = PurePosixPath(text)
    if entry is None:
        return {"id": path.stem}
    return read_fields(entry, text) or read_fields(entry, path.name)


def _absent_folders(wanted: Iterable[str], root: Path) -> list[str]:
    """Lines for the folders at the root that are missing, with how many samples need each."""
    tops = Counter(path.split("/")[0] for path in wanted if "/" in path)
    missing = {
        top: count
        for top, count in sorted(tops.items())
        if "{" not in top and not (root / top).is_dir()
    }
    return [f"  {top}/ is not there: {count} samples" for top, count in missing.items()]


def _complete(
    rows: Mapping[Key, Files], keys: Division, recipe: Recipe, root: Path, progress: Progress
) -> Division:
    """The division, once it is clear that no sample lacks a file; or without those that do."""
    specs, split = used_files(recipe), recipe.dataset.split
    lacks = {key: paths for key in _all(keys) if (paths := lacking(rows[key], key, specs))}
    if not lacks:
        return keys
    if not _goes_on(split):
        raise _incomplete(lacks, split, root)
    progress.warn(
        f"{len(lacks)} listed samples lack a file and are left out: "
        f"{few([f'{key.id} ({paths[0][0]})' for key, paths in lacks.items()], 3)}."
    )
    kept = {name: [key for key in keys[name] if key not in lacks] for name in SPLIT_NAMES}
    refuse_empty(kept, split, len(rows))
    return kept


def _incomplete(lacks: Mapping[Key, list[tuple[str, ...]]], split: Split, root: Path) -> DataError:
    lines = [
        f"  {key.id} lacks {', '.join(' or '.join(paths) for paths in files)}"
        for key, files in lacks.items()
    ]
    more = [f"  and {len(lines) - 5} more"] if len(lines) > 5 else []
    wanted = (path for files in lacks.values() for paths in files for path in paths)
    return DataError(
        "\n".join([f"{len(lacks)} samples are incomplete:", *lines[:5], *more]),
        hint=unpack_advice(root, wanted)
        or (_SKIP if isinstance(split, ListSplit | ColumnSplit) else _TIDY),
    )


def _tell_unused(rows: Mapping[Key, Files], keys: Division, progress: Progress) -> None:
    used = set(_all(keys))
    unused = sorted(key.id for key in rows if key not in used)
    if unused:
        progress.warn(f"{len(unused)} samples on disk are in no split: {few(unused)}.")


def _tell_unlisted_labels(recipe: Recipe, progress: Progress) -> None:
    masks = recipe.dataset.masks
    if recipe.has_masks and masks is not None and masks.unknown == "ignore":
        progress.say("labels that no class lists count as without label (dataset.masks.unknown)")


# --------------------------------------------------------------------------- labels


def _labels(
    recipe: Recipe, keys: Sequence[Key], table: Table | None, root: Path
) -> Mapping[Key, int | tuple[int, ...]]:
    if recipe.task == "multilabel" and table is not None:
        return {key: table.labels[row] for key, row in table.row_of(keys).items()}
    return _folder_labels(recipe, keys, root) if recipe.task == "classification" else {}


def _folder_labels(recipe: Recipe, keys: Iterable[Key], root: Path) -> dict[Key, int]:
    classes = named_classes(recipe)
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


# --------------------------------------------------------------------------- checks


def _check_all(
    recipe: Recipe,
    rows: Mapping[Key, Files],
    keys: Division,
    headers: Mapping[Path, Header],
    progress: Progress,
) -> None:
    shadowed: dict[int, list[Path]] = defaultdict(list)
    for key in _all(keys):
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
    """Check that the labels are there; note classes that are also nodata."""
    masks = recipe.dataset.masks
    _refuse_complex(path, header)
    if masks.encoding == "colours":
        _check_colours(path, header)
        return
    if masks.band > header.count:
        raise DataError(
            f"{path} has {header.count} bands; the recipe takes labels from band {masks.band}.",
            hint="Change dataset.masks.band in the recipe.",
        )
    nodata = header.nodata[masks.band - 1]
    classes = dict(enumerate(recipe.classes))
    if nodata in classes and classes[nodata].values is None:
        shadowed[int(nodata)].append(path)


def _check_colours(path: Path, header: Header) -> None:
    if header.count < 3 or set(header.dtypes[:3]) != {"uint8"}:
        raise DataError(
            f"{path} has {header.count} bands of {', '.join(sorted(set(header.dtypes)))}; label "
            "colours are read from three bands of uint8.",
            hint="Where a band holds class numbers, set 'encoding: values' in dataset.masks.",
        )
