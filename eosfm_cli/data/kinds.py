"""What each sample has: the kinds of files that a recipe tells."""

from __future__ import annotations

from dataclasses import dataclass

from eosfm_cli.data.templates import Found
from eosfm_cli.recipe import AreaSplit, FileSpec, Recipe

MASKS, BOXES, AREAS = "masks", "boxes", "areas"

Group = tuple[Found, ...]
"""A file, or those of several dates."""
Files = dict[str, Group]
"""Name of a source -> its file of one sample, or those of its dates in the order of the series."""


@dataclass(frozen=True)
class Source:
    """Files of one kind, of which each sample has one, or one for each date."""

    name: str
    """As in `recipe.image_files`, or `MASKS`, `BOXES`, `AREAS`."""
    paths: tuple[str, ...]
    """Where they are: the first that exists."""
    fields: tuple[str, ...]
    """What tells a sample from others in the paths, in order; not the date of a series."""
    image: str | None = None
    """The images it belongs to: those with `{band}` in their path have a source for each band."""
    is_dated: bool = False
    """Whether a sample has a file for each date of a series."""
    is_shared: bool = False
    """Whether several samples may have the same file."""


def used_files(recipe: Recipe) -> dict[str, Source]:
    """What each sample has: images with bands that the recipe uses, and where labels come from."""
    dataset, split = recipe.dataset, recipe.dataset.split
    image_of = {f.name: name for name, image in dataset.images.items() for f in image.files(name)}
    found = {
        name: _source(recipe, name, file.paths, file.fields, image_of[name])
        for name, file in recipe.image_files.items()
    }
    labels: dict[str, FileSpec | None] = {
        MASKS: dataset.masks if recipe.has_masks else None,
        BOXES: dataset.boxes if recipe.task == "multilabel" else None,
        AREAS: split if isinstance(split, AreaSplit) else None,
    }
    for name, spec in labels.items():
        if spec is not None:
            found[name] = _source(recipe, name, spec.paths, spec.fields)
    return found


def _source(
    recipe: Recipe,
    name: str,
    paths: tuple[str, ...],
    fields: tuple[str, ...],
    image: str | None = None,
) -> Source:
    is_dated = recipe.dataset.series is not None and "date" in fields
    own = tuple(field for field in fields if not (is_dated and field == "date"))
    return Source(name, paths, own, image, is_dated, is_shared=name == AREAS)


def all_paths(recipe: Recipe) -> list[str]:
    """Every path of the recipe, also of images and labels that it does not use, and others."""
    dataset = recipe.dataset
    files = (file for name, image in dataset.images.items() for file in image.files(name))
    area = dataset.split if isinstance(dataset.split, AreaSplit) else None
    specs = [spec for spec in (dataset.masks, dataset.boxes, area) if spec is not None]
    return [*(path for each in (*files, *specs) for path in each.paths), *dataset.others]
