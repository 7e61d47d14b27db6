"""A survey in words: what was found, what was guessed, and what to check."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from eosfm_cli.data.splits import few
from eosfm_cli.data.survey.choice import ImageChoice
from eosfm_cli.data.survey.guess_classes import MOST_MASKS
from eosfm_cli.data.survey.survey import Survey


@dataclass(frozen=True)
class Report:
    """Sentences for the user."""

    found: tuple[str, ...]
    guessed: tuple[str, ...]
    check: tuple[str, ...]


def describe(survey: Survey) -> Report:
    """Put a survey into words."""
    return Report(
        tuple(filter(None, _found(survey))),
        tuple(filter(None, _guessed(survey))),
        tuple(filter(None, _to_check(survey))),
    )


def left_out(survey: Survey) -> Iterator[str]:
    """One sentence per reason why samples are left out, with the first of them."""
    reasons: dict[str, list[str]] = defaultdict(list)
    for sample, trouble in survey.wrong.items():
        reasons[trouble.why].append(trouble.detail or sample)
    for why, samples in reasons.items():
        yield f"left out, {why}: {_counted(samples)}"


def _counted(items: list[str]) -> str:
    return few(items) if len(items) == 1 else f"{len(items)} ({few(items)})"


# --------------------------------------------------------------------------- found


def _found(survey: Survey) -> Iterator[str]:
    for image in survey.choice.images:
        yield f"images {image.name}: {_paths(survey, image.name)}, {_sort(image, survey)}"
    yield from _bands(survey, sure=True)
    if survey.labels:
        yield f"labels: {_paths(survey, 'masks')}, {_label_sort(survey)}"
    if survey.legend:
        yield f"class names: {survey.legend}"
    yield f"{survey.samples} complete samples"
    yield survey.split.found
    yield from survey.choice.left_out
    yield from left_out(survey)
    if survey.strays:
        yield f"belongs to no sample: {_counted(list(survey.strays))}"
    if survey.tree.archives:
        yield f"archives, not looked into: {_counted(list(survey.tree.archives))}"
    if survey.tree.closed:
        yield f"folders that cannot be read: {_counted(list(survey.tree.closed))}"


def _bands(survey: Survey, *, sure: bool) -> Iterator[str]:
    """The bands that files name themselves, or those that were guessed."""
    for image in survey.choice.images:
        guess = image.guess
        if guess.sure == sure:
            sensor = f", {guess.sensor}" if guess.sensor else ""
            yield f"bands of {image.name}: {', '.join(guess.bands)} ({guess.why}{sensor})"


def _paths(survey: Survey, name: str) -> str:
    return " or ".join(survey.templates[name])


def _sort(image: ImageChoice, survey: Survey) -> str:
    bands = "band" if image.facts.count == 1 else "bands"
    sizes = sorted(survey.sizes, key=lambda size: -survey.sizes[size])
    height, width = sizes[0]
    more = f" and {len(sizes) - 1} other sizes" if len(sizes) > 1 else ""
    dtype = next(iter(survey.dtypes[image.name]), image.facts.dtype)
    return f"{image.facts.count} {bands} of {dtype}, {width} × {height} pixels{more}"


def _label_sort(survey: Survey) -> str:
    labels = survey.labels
    kind = "colours" if labels.encoding == "colours" else "values"
    return f"{len(labels.classes)} classes as {kind}"


# --------------------------------------------------------------------------- guessed


def _guessed(survey: Survey) -> Iterator[str]:
    yield from _bands(survey, sure=False)
    yield from survey.choice.notes
    labels = survey.labels
    if labels:
        yield f"classes: {', '.join(_class(c.name, c.values) for c in labels.classes)}"
        if labels.ignore:
            yield f"without label: {labels.why_ignored}"
    yield survey.split.guessed


def _class(name: str, values: tuple[int | str, ...]) -> str:
    if len(values) == 1:
        return f"{name} ({values[0]})"
    return f"{name} ({values[0]} to {values[-1]})"


# --------------------------------------------------------------------------- to check


def _to_check(survey: Survey) -> Iterator[str]:
    unsure = [image.name for image in survey.choice.images if not image.guess.sure]
    if unsure:
        yield f"names and order of the bands of {', '.join(unsure)}"
    for image in survey.choice.images:
        dtypes = survey.dtypes[image.name]
        if len(dtypes) > 1:
            counts = ", ".join(f"{dtype} in {count}" for dtype, count in dtypes.items())
            yield f"{image.name} has images of several number formats ({counts}): same units?"
    labels = survey.labels
    if labels:
        if not survey.legend:
            yield "names of the classes"
        if labels.ignore and labels.encoding == "values":
            yield "values that count as without label"
        yield from labels.checks
        if labels.looked_into < survey.samples:
            yield (
                f"classes are those of {labels.looked_into} of {survey.samples} label rasters "
                f"(at most {MOST_MASKS} are read); a rare class may be missing"
            )
    if survey.headers < survey.samples + len(survey.wrong):
        yield f"sizes and bands were checked in {survey.headers} samples, evenly spread"
    yield from survey.split.checks
