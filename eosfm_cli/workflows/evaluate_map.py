"""How well a map agrees with a reference raster, class by class or as values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eosfm_cli.carbon.meter import Meter
from eosfm_cli.carbon.tracker import track
from eosfm_cli.confusion import Confusion
from eosfm_cli.data.labels import label_table
from eosfm_cli.errors import RasterError, UsageError
from eosfm_cli.progress import Progress, Step
from eosfm_cli.raster.colours import class_colours
from eosfm_cli.raster.comparison import (
    ClassRaster,
    Deviation,
    Overlay,
    Raster,
    ValueRaster,
    add_residuals,
    count_pairs,
    holds_values,
    laid_over,
    open_classes,
    open_values,
    window_count,
)
from eosfm_cli.raster.legend import Legend, read_legend
from eosfm_cli.recipe import MAP_TASKS, Recipe, TargetSpec, Task, load_recipe
from eosfm_cli.results import Cost, EvaluationResult
from eosfm_cli.words import counted
from eosfm_cli.workflows.evaluation import (
    Comparison,
    Products,
    conclude_classes,
    conclude_values,
    prepare,
)

_MOST_CLASSES = 256
_MOST_LISTED = 10


def evaluate_map(
    map_: Path,
    reference: Path,
    *,
    root: Path,
    classes: str | None = None,
    output: Path | None = None,
    progress: Progress,
) -> EvaluationResult:
    """Compare a map with a reference raster, pixel by pixel on the map's grid.

    Args:
        map_: The map: one band, a whole number for each class, or values with fractions.
        reference: What is known, in the same numbers unless a recipe says otherwise.
        root: The experiments folder, whose ledger gets a line.
        classes: A recipe that names the classes and says how the reference writes them, or says
            how it writes a regression's values; what the rasters themselves say if not given.
        output: Where the results go; beside the map if not given.
        progress: Who is told.

    Raises:
        RasterError: One of them is damaged, or holds neither classes nor values, or they lie apart.
        UsageError: The recipe does not make maps.
        OutputError: The results cannot be written.
    """
    recipe = None if classes is None else _map_recipe(classes)
    products = Products(output or map_.parent, before=f"{map_.stem}_")
    values = recipe.task == "regression" if recipe else holds_values(map_)
    compared = _compare_values if values else _compare_classes
    return compared(map_, reference, recipe, products, root, progress)


def _compare_classes(
    map_: Path,
    reference: Path,
    recipe: Recipe | None,
    products: Products,
    root: Path,
    progress: Progress,
) -> EvaluationResult:
    with open_classes(map_) as target, _open_reference(reference, recipe) as known:
        prepare(products.folder)
        scheme = _scheme(target, known, recipe, progress)
        with _laid_over(known, target, root, progress) as (aligned, step, meter):
            overlay = count_pairs(target, aligned, step)
    _refuse_nothing(map_, reference, found=bool(overlay.pairs))
    confusion, left_out = _tabulate(overlay, scheme, progress)
    comparison = _comparison(map_, reference, "segmentation", products, left_out, meter.cost)
    colours = [scheme.colours.get(name, "#ffffff") for name in confusion.names]
    return conclude_classes(comparison, confusion, colours)


def _map_recipe(name: str) -> Recipe:
    recipe = load_recipe(name)
    if recipe.task not in MAP_TASKS:
        raise UsageError(
            f"{recipe.name} is a recipe of {recipe.task}: its classes are not those of a map.",
            hint="`eosfm recipes list --task segmentation` shows those that are.",
        )
    return recipe


def _open_reference(path: Path, recipe: Recipe | None) -> AbstractContextManager[ClassRaster]:
    masks = None if recipe is None else recipe.dataset.masks
    if masks is None:
        return open_classes(path)
    return open_classes(path, band=masks.band, colours=masks.encoding == "colours")


@contextmanager
def _laid_over(
    known: Raster, target: Raster, root: Path, progress: Progress
) -> Iterator[tuple[Raster, Step, Meter]]:
    """The reference on the map's grid, while the work of going over both is shown and measured."""
    name = target.path.name
    with laid_over(known, target) as (aligned, how):
        progress.say(how)
        with (
            track(root, command="evaluate", name=name, progress=progress) as meter,
            progress.step(f"comparing {name}", window_count(target)) as step,
        ):
            yield aligned, step, meter


def _comparison(
    map_: Path,
    reference: Path,
    task: Task,
    products: Products,
    left_out: dict[str, int],
    cost: Cost,
) -> Comparison:
    return Comparison(
        title=f"{map_.name} against {reference.name}",
        subject=map_,
        reference=str(reference),
        split=None,
        task=task,
        products=products,
        left_out=left_out,
        cost=cost,
    )


def _refuse_nothing(map_: Path, reference: Path, *, found: bool) -> None:
    if not found:
        raise RasterError(
            f"There is no pixel where both {map_} and {reference} have a value.",
            hint="Do they overlap, and are their nodata values right?",
        )


# ------------------------------------------------------------------------------ maps of values


def _compare_values(
    map_: Path,
    reference: Path,
    recipe: Recipe | None,
    products: Products,
    root: Path,
    progress: Progress,
) -> EvaluationResult:
    with open_values(map_) as target, _open_known(reference, recipe) as known:
        prepare(products.folder)
        quantity = _quantity(target, known, recipe, progress)
        with _laid_over(known, target, root, progress) as (aligned, step, meter):
            found = add_residuals(target, aligned, step)
    residuals = found.residuals
    _refuse_nothing(map_, reference, found=residuals.count > 0)
    left_out = _named_reasons(found)
    _tell(left_out, residuals.count, progress)
    comparison = _comparison(map_, reference, "regression", products, left_out, meter.cost)
    metrics = {**residuals.metrics(), "Bias": residuals.bias}
    return conclude_values(comparison, residuals, metrics, quantity)


def _open_known(path: Path, recipe: Recipe | None) -> AbstractContextManager[ValueRaster]:
    masks = None if recipe is None else recipe.dataset.masks
    if masks is None:
        return open_values(path)
    ignored = [float(value) for value in masks.ignore]
    return open_values(
        path, band=masks.band, scale=masks.scale, offset=masks.offset, ignored=ignored
    )


def _quantity(
    target: ValueRaster, known: ValueRaster, recipe: Recipe | None, progress: Progress
) -> TargetSpec:
    """What is compared, as the recipe says or else the map itself."""
    unit, other = _unit(target), None if recipe else _unit(known)
    if recipe is not None and recipe.target is not None:
        _warn_of_units(target, unit, recipe.name, recipe.target.unit, progress)
        return recipe.target
    progress.say(f"{target.path.name} holds values, no classes: they are compared as numbers")
    _warn_of_units(target, unit, known.path.name, other, progress)
    name = target.dataset.descriptions[target.bands[0] - 1] or target.path.stem
    return TargetSpec(name=name, unit=unit or other)


def _unit(raster: ValueRaster) -> str | None:
    return raster.dataset.units[raster.bands[0] - 1] or None


def _warn_of_units(
    target: ValueRaster, unit: str | None, whose: str, other: str | None, progress: Progress
) -> None:
    if unit and other and unit != other:
        progress.warn(
            f"{target.path.name} is in {unit} and {whose} in {other}: compared as they are"
        )


# ------------------------------------------------------------------------------ what values mean


@dataclass(frozen=True)
class _Scheme:
    """What the values of both rasters stand for."""

    names: tuple[str, ...]
    """The classes that are known beforehand, in order."""
    of_map: Callable[[int], str | None]
    """The class of a value; `None` if it is none."""
    of_reference: Callable[[int], str | None]
    colours: Mapping[str, str]
    """Class -> colour, where one is known."""
    written: Callable[[int], str] = str
    """How the reference writes a value."""


def _scheme(
    target: ClassRaster, known: ClassRaster, recipe: Recipe | None, progress: Progress
) -> _Scheme:
    legend = read_legend(target.path, target.dataset)
    if recipe is not None:
        return _by_recipe(target, known, legend, recipe, progress)
    other = read_legend(known.path, known.dataset)
    names = legend.names or other.names
    colours = {names.get(v, str(v)): c for v, c in (legend.colours or other.colours).items()}
    if not names:
        progress.say("neither raster names its classes: values stand for themselves")

    def called(value: int) -> str:
        return names.get(value, str(value))

    return _Scheme(
        names=tuple(dict.fromkeys(names[value] for value in sorted(names))),
        of_map=called,
        # what the map could have besides is not known where it names nothing: all counts then
        of_reference=_matched(legend, other, known.path, progress).get if legend.names else called,
        colours=colours,
    )


def _matched(
    legend: Legend, other: Legend, reference: Path, progress: Progress
) -> Mapping[int, str]:
    """The classes of the reference's values: by its own names where they are all the map's."""
    differ = [v for v, name in other.names.items() if legend.names.get(v, name) != name]
    if not differ:
        return legend.names
    if set(other.names.values()) <= set(legend.names.values()):
        progress.say(f"{reference.name} numbers its classes otherwise: they are matched by name")
        return other.names
    listed = ", ".join(
        f"{v} is {legend.names[v]} in the map and {other.names[v]} in {reference.name}"
        for v in differ[:_MOST_LISTED]
    )
    progress.warn(f"classes are matched by number, though their names differ: {listed}")
    return legend.names


def _by_recipe(
    target: ClassRaster, known: ClassRaster, legend: Legend, recipe: Recipe, progress: Progress
) -> _Scheme:
    table = label_table(recipe)
    names = dict(enumerate(recipe.class_names))

    def labelled(value: int) -> str | None:
        return names.get(int(table(np.array([value]))[0]))

    strange = [name for name in legend.names.values() if name not in recipe.class_names]
    if strange:
        raise UsageError(
            f"The classes of {target.path} are not those of {recipe.name}: it has "
            f"{', '.join(strange)}, and the recipe {', '.join(recipe.class_names)}.",
            hint="Leave --classes out to take the map's own, or name the recipe that it was made "
            "with.",
        )
    if known.dataset.nodata in table.explicit:
        progress.warn(
            f"{known.path.name} says that {known.dataset.nodata:g} means no data, and "
            f"{recipe.name} that it is a class: its pixels are left out."
        )
    # a map of eosfm has its own numbers even where the names beside it got lost
    own = legend.names or (names if "EOSFM_RECIPE" in target.dataset.tags() else None)
    colours = class_colours(recipe.classes)
    by_colour = len(known.bands) > 1
    return _Scheme(
        recipe.class_names,
        labelled if own is None else own.get,
        labelled,
        dict(zip(recipe.class_names, colours, strict=True)),
        (lambda value: f"#{value:06x}") if by_colour else str,
    )


# ------------------------------------------------------------------------------ the matrix


def _tabulate(
    overlay: Overlay, scheme: _Scheme, progress: Progress
) -> tuple[Confusion, dict[str, int]]:
    """The confusion matrix, and why which number of pixels is not in it."""
    counts: Counter[tuple[str, str]] = Counter()
    strange: Counter[str] = Counter()
    for (value, truth), pixels in sorted(overlay.pairs.items()):
        predicted, actual = scheme.of_map(value), scheme.of_reference(truth)
        if predicted is None:
            strange[f"map value {value}, no class"] += pixels
        elif actual is None:
            strange[f"reference value {scheme.written(truth)}, no class of the map"] += pixels
        else:
            counts[actual, predicted] += pixels
    left_out = {**_named_reasons(overlay), **dict(strange.most_common())}
    _tell(left_out, sum(counts.values()), progress)
    _refuse_no_class(counts, left_out)
    names = [*scheme.names, *_others(counts, scheme.names)]
    return Confusion.of(names, [[counts[a, p] for p in names] for a in names]), left_out


def _named_reasons(found: Overlay | Deviation) -> dict[str, int]:
    reasons = {
        "no value in the map": found.no_map,
        "no value in the reference": found.no_reference,
    }
    return {why: pixels for why, pixels in reasons.items() if pixels}


def _others(counts: Iterable[tuple[str, str]], known: Sequence[str]) -> list[str]:
    """Classes that nobody named beforehand, by their number."""
    found = {name for pair in counts for name in pair} - set(known)
    return sorted(found, key=lambda name: (int(name), name))


def _tell(left_out: Mapping[str, int], compared: int, progress: Progress) -> None:
    progress.say(f"compared: {counted(compared, 'pixel')}")
    listed = [f"{pixels:,} ({why})" for why, pixels in left_out.items()]
    if listed:
        more = f" and {len(listed) - _MOST_LISTED} more" if len(listed) > _MOST_LISTED else ""
        progress.say(f"left out: {', '.join(listed[:_MOST_LISTED])}{more}")


def _refuse_no_class(counts: Mapping[tuple[str, str], int], left_out: Mapping[str, int]) -> None:
    names = {name for pair in counts for name in pair}
    if not names:
        raise RasterError(
            f"The two rasters have no class in common: {', '.join(left_out)}.",
            hint="Name the recipe that says how the reference writes its classes: --classes RECIPE",
        )
    if len(names) > _MOST_CLASSES:
        raise RasterError(
            f"The two rasters have {len(names)} different values, too many for classes.",
            hint="A map has one whole number for each class. For values in whole numbers name a "
            "recipe of regression with --classes.",
        )
