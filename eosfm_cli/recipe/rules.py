"""What in a recipe contradicts something else in it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from eosfm_cli.bands import nearest_word
from eosfm_cli.recipe.dataset import AreaSplit, ColumnSplit, FileSpec
from eosfm_cli.recipe.training import LOSSES, without_effect
from eosfm_cli.recipe.values import check_colour, template_fields

if TYPE_CHECKING:
    from eosfm_cli.recipe.model import Recipe


def contradictions(recipe: Recipe) -> Iterator[str]:
    """Sentences on what cannot be, each beginning with the key that it is about."""
    for name in ("masks", "boxes", "areas"):
        if name in recipe.dataset.images:
            yield f"dataset.images: {name!r} cannot name images; take another word, as in 'aerial'"
    yield from _misdated(recipe)
    on_disk = recipe.bands_on_disk
    twice = sorted({band for band in on_disk if on_disk.count(band) > 1})
    if twice:
        yield f"dataset.images: two of them have {', '.join(twice)}"
    for band in recipe.bands:
        if band not in on_disk:
            yield f"bands: {band!r} is in no image of the dataset; there are {', '.join(on_disk)}"
    for view, bands in recipe.views.items():
        for band in bands:
            if band not in (recipe.bands or on_disk):
                yield f"views.{view}: {band!r} is not among the recipe's bands"
        if not bands:
            yield f"views.{view}: needs at least one band"
    names = list(recipe.class_names)
    if len(set(names)) != len(names):
        yield f"classes: a name stands there twice: {', '.join(names)}"
    if recipe.has_masks and recipe.dataset.masks is None:
        yield f"dataset: {recipe.task} needs masks, as in 'masks: {{path: \"masks/{{id}}.tif\"}}'"
    if recipe.task == "classification" and not all(
        "class" in image.fields for image in recipe.dataset.images.values()
    ):
        yield "dataset: classification needs {class} in the images' paths, as in '{class}/{id}.tif'"
    if recipe.dataset.split.by == "folder" and not all(
        "split" in image.fields for image in recipe.dataset.images.values()
    ):
        yield "dataset.split: 'by: folder' needs {split} in the paths, as in '{split}/{id}.tif'"
    if recipe.dataset.split.by == "area" and not recipe.has_masks:
        yield f"dataset.split: 'by: area' divides masks, which {recipe.task} does not have"
    yield from _unpaired_paths(recipe)
    yield from _unknown_fields(recipe)
    yield from _tables(recipe)
    yield from _series(recipe)
    yield from _targets(recipe)
    yield from _useless_mask_keys(recipe)
    yield from _unclear_values(recipe)
    yield from without_effect(recipe.fit)
    for key, spec in (("training", recipe.training), ("fit", recipe.fit)):
        losses = LOSSES[recipe.task]
        if spec.loss is not None and spec.loss not in losses:
            known = f"{', '.join(losses[:-1])} or {losses[-1]}"
            kind = "maps" if recipe.task == "classification" else "other tasks"
            yield f"{key}.loss: {spec.loss!r} is for {kind}; {recipe.task} takes {known}"
    if recipe.ignore_index < len(recipe.classes):
        yield f"ignore_index: {recipe.ignore_index} is the index of a class"
    if recipe.statistics is not None:
        for band in recipe.bands or on_disk:
            if band not in recipe.statistics:
                yield f"statistics: {band!r} is missing"


def _misdated(recipe: Recipe) -> Iterator[str]:
    """Images without a date where there are two, or with one where there are none."""
    images = recipe.dataset.images
    if recipe.task != "change":
        for name, image in images.items():
            if image.date is not None:
                yield f"dataset.images.{name}.date: dates are for 'task: change'; leave it out"
        return
    for name, image in images.items():
        if image.date is None:
            yield (
                f"dataset.images.{name}: change detection needs to know which image is of which "
                "date: 'date: 1' before, 'date: 2' after"
            )
    before, after = (
        {band for image in images.values() if image.date == date for band in image.bands}
        for date in recipe.dates
    )
    if odd := sorted(before ^ after):
        yield f"dataset.images: only one of the two dates has {', '.join(odd)}"


def _tables(recipe: Recipe) -> Iterator[str]:
    """A table of labels that is missing, or that nobody reads."""
    dataset, split = recipe.dataset, recipe.dataset.split
    labels, by_column = dataset.labels, isinstance(split, ColumnSplit)
    if recipe.task == "multilabel" and labels is None and dataset.boxes is None:
        yield (
            "dataset: multilabel needs a table, as in "
            "'labels: {path: labels.csv, id: image, column: labels}'"
        )
    if dataset.boxes is not None and recipe.task != "multilabel":
        yield f"dataset.boxes: {recipe.task} takes no labels from boxes; leave it out"
    if by_column and labels is None:
        yield "dataset.split: 'by: column' needs the table, as in 'labels: {path: …, id: …}'"
    if labels is None or recipe.labels_are_in_a_table:
        return
    if labels.column is not None:
        source = "its boxes" if dataset.boxes is not None else "a table"
        takes = "takes its labels from" if dataset.boxes is not None else "takes no labels from"
        yield f"dataset.labels.column: {recipe.task} {takes} {source}; leave it out"
    if not by_column and not labels.fields:
        yield "dataset.labels: nothing reads it, but 'task: multilabel' or 'split: {by: column}'"


def _series(recipe: Recipe) -> Iterator[str]:
    """Images of several dates that are none."""
    dataset = recipe.dataset
    if dataset.series is None:
        return
    if recipe.task == "change":
        yield "dataset.series: 'task: change' compares two dates; leave it out"
    dated = [image for image in dataset.images.values() if "date" in image.fields]
    arrays = [path for image in dataset.images.values() for path in image.paths if _is_array(path)]
    if not dated and not arrays:
        yield "dataset.series: no image has {date} in its path, nor is an array of dates (.npy)"
    if dataset.series.dates and not dated:
        yield "dataset.series.dates: no image has {date} in its path"
    if dataset.masks is not None and "date" in dataset.masks.fields:
        yield "dataset.masks.path: a series has one mask for all dates; leave {date} out"


def _is_array(path: str) -> bool:
    return path.lower().endswith(".npy")


def _targets(recipe: Recipe) -> Iterator[str]:
    """What belongs to regression alone, or to change detection alone."""
    if recipe.task == "regression":
        if recipe.target is None:
            yield "target: regression needs to know it, as in 'target: {name: height, unit: m}'"
        if recipe.classes:
            yield "classes: regression has a target instead; leave them out"
    elif recipe.target is not None:
        yield f"target: this is for 'task: regression'; {recipe.task} has classes"
    if recipe.pooling is not None and recipe.task != "change":
        yield "pooling: this joins the two dates of 'task: change'; leave it out"


def _file_specs(recipe: Recipe) -> dict[str, FileSpec]:
    """Recipe key -> files that the task takes."""
    dataset, split = recipe.dataset, recipe.dataset.split
    specs: dict[str, FileSpec] = {
        f"dataset.images.{name}": image for name, image in dataset.images.items()
    }
    if recipe.has_masks and dataset.masks is not None:
        specs["dataset.masks"] = dataset.masks
    if dataset.boxes is not None:
        specs["dataset.boxes"] = dataset.boxes
    if isinstance(split, AreaSplit):
        specs["dataset.split"] = split
    return specs


def _fields(recipe: Recipe, spec: FileSpec) -> tuple[str, ...]:
    """What tells a sample by one of its files, and what its row of the table adds to that."""
    dataset = recipe.dataset
    no_field = {"split", "class", *(["date"] if dataset.series is not None else [])}
    own = [field for field in spec.fields if field not in no_field]
    in_table = () if dataset.labels is None else ("id", *dataset.labels.fields)
    return (*own, *(in_table if set(own) & set(in_table) else ()))


def _unpaired_paths(recipe: Recipe) -> Iterator[str]:
    """Paths that share no field, by which files could find each other."""
    specs = _file_specs(recipe)
    bare = [key for key, spec in specs.items() if not _fields(recipe, spec)]
    for key in bare:
        yield f"{key}.path: needs a field that tells one sample from the others, as {{id}}"
    (first, one), *others = ((key, spec) for key, spec in specs.items() if key not in bare)
    for key, other in others:
        if set(_fields(recipe, one)) & set(_fields(recipe, other)):
            continue
        odd, even = (one, other) if "id" in other.fields else (other, one)
        near = nearest_word(_fields(recipe, odd)[0], even.fields)
        yield (
            f"{first if odd is one else key}.path: files find each other by the fields that their "
            f"paths share; this has {_braced(odd.fields)}, {key if odd is one else first}.path has "
            f"{_braced(even.fields)}" + (f", did you mean {{{near}}}?" if near else "")
        )


def _unknown_fields(recipe: Recipe) -> Iterator[str]:
    """Fields that something is said about, and that no path has."""
    dataset, split = recipe.dataset, recipe.dataset.split
    known = {f for spec in _file_specs(recipe).values() for f in spec.fields}
    for field in dataset.fields:
        if field not in known:
            yield f"dataset.fields.{field}: this is a field of no path{_meant(field, known)}"
    if dataset.labels is not None:
        known |= {"id", *dataset.labels.fields}
    for key in ("entry", "scene"):
        for field in template_fields(getattr(split, key, None) or ""):
            if field not in known:
                yield (
                    f"dataset.split.{key}: {{{field}}} is a field of no path{_meant(field, known)}"
                )


def _meant(field: str, known: Iterable[str]) -> str:
    near = nearest_word(field, known)
    return f", did you mean {{{near}}}?" if near else f"; there are {_braced(known)}"


def _braced(fields: Iterable[str]) -> str:
    return ", ".join(f"{{{field}}}" for field in fields)


def _useless_mask_keys(recipe: Recipe) -> Iterator[str]:
    masks = recipe.dataset.masks
    if masks is None:
        return
    if masks.encoding == "colours" and masks.band != 1:
        yield "dataset.masks.band: colours are read from the first three bands; leave it out"
    if masks.encoding == "values" and masks.tolerance:
        yield "dataset.masks.tolerance: this is for 'encoding: colours'; leave it out"
    if recipe.task == "regression":
        if masks.encoding == "colours":
            yield "dataset.masks.encoding: regression takes values; leave it out"
        if masks.unknown == "ignore":
            yield "dataset.masks.unknown: regression takes any value; list others under 'ignore'"
        if masks.scale == 0:
            yield "dataset.masks.scale: 0 makes all values the same"
    else:
        for key in ("scale", "offset"):
            if key in masks.model_fields_set and getattr(masks, key) != float(key == "scale"):
                yield f"dataset.masks.{key}: this is for 'task: regression'; leave it out"


def _unclear_values(recipe: Recipe) -> Iterator[str]:
    """What stands for two classes at once, or for none that a mask can hold."""
    folders = not recipe.has_masks
    names = {"classification": "folder", "multilabel": "label"}
    kind = names.get(recipe.task, "colour" if recipe.by_colour else "mask value")
    taken: dict[float | str, str] = {}
    for index, values in enumerate(recipe.class_values):
        name, key = recipe.classes[index].name, f"classes.{index}.values"
        if not values:
            yield f"classes.{index}: {name} needs a colour, or values with its colours"
        for value in values:
            if not folders:
                yield from _not_in_a_mask(recipe, key, value)
            if taken.setdefault(value, name) != name:
                yield f"{key}: the {kind} {value} stands for both {taken[value]} and {name}"
    for value in recipe.dataset.masks.ignore if recipe.dataset.masks else ():
        if not folders:
            yield from _not_in_a_mask(recipe, "dataset.masks.ignore", value)
        written = value.lower() if isinstance(value, str) else value
        if written in taken:
            yield f"dataset.masks.ignore: the {kind} {written} already stands for {taken[written]}"


def _not_in_a_mask(recipe: Recipe, key: str, value: float | str) -> Iterator[str]:
    if recipe.task == "regression":
        if isinstance(value, str):
            yield f"{key}: {value!r} is no number"
    elif isinstance(value, float):
        yield f"{key}: masks hold whole numbers, not {value:g}"
    elif recipe.by_colour:
        try:
            check_colour(str(value))
        except ValueError as error:
            yield f"{key}: {error}"
    elif isinstance(value, str):
        yield (
            f"{key}: masks hold whole numbers; {value!r} "
            + (
                "needs 'encoding: colours' in dataset.masks"
                if value.startswith("#")
                else "could only name a class folder"
            )
        )


# --------------------------------------------------------------------------- files and lines
