"""A survey as the YAML of a recipe, with a comment wherever something was guessed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from textwrap import wrap
from typing import Any

import yaml

from eosfm_cli.data.kinds import MASKS
from eosfm_cli.data.survey.choice import ImageChoice
from eosfm_cli.data.survey.guess_classes import ClassGuess
from eosfm_cli.data.survey.report import left_out
from eosfm_cli.data.survey.survey import Survey
from eosfm_cli.recipe import BandStatistics

_WIDTH = 98
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_LARGEST_TILE = 512
_RGB = ("red", "green", "blue")


def draft_recipe(
    survey: Survey, name: str | None, statistics: Mapping[str, BandStatistics] | None
) -> str:
    """The text of a recipe file.

    Args:
        survey: What was found.
        name: The recipe's name, if it is not that of its file.
        statistics: Mean and standard deviation of the bands used, once they are known.
    """
    bands = used_bands(survey)
    lines = [
        *_comment(f"Drafted by `eosfm recipes new` from {survey.root}."),
        *_comment("What is marked 'guess' or 'check' was not said by the files themselves."),
        *([f"name: {_scalar(name)}"] if name else []),
        f"title: {_scalar(_title(survey))}",
        f"task: {'segmentation' if survey.labels else 'classification'}",
        *_dataset(survey),
        *_bands(survey, bands),
        *_classes(survey),
        *_tile(survey),
        *_training(survey),
        *(_statistics(statistics) if statistics else ()),
        *_variants(survey, bands),
    ]
    return "\n".join(lines) + "\n"


def used_bands(survey: Survey) -> tuple[str, ...]:
    """All bands of the images but those that only hold a place."""
    return tuple(
        band
        for image in survey.choice.images
        for band in image.guess.bands
        if band not in image.guess.unused
    )


# --------------------------------------------------------------------------- YAML


def _scalar(value: object) -> str:
    """A value as YAML; text in quotes wherever it could be taken for something else."""
    if not isinstance(value, str):
        return json.dumps(value)
    if _PLAIN.fullmatch(value) and isinstance(yaml.safe_load(value), str):
        return value
    return json.dumps(value, ensure_ascii=False)


def _list(values: Iterable[object]) -> str:
    return f"[{', '.join(map(_scalar, values))}]"


def _long_list(key: str, values: Sequence[object], indent: str) -> list[str]:
    """A list over as many lines as it needs."""
    one_line = f"{indent}{key}: {_list(values)}"
    if len(one_line) <= _WIDTH:
        return [one_line]
    lines, line = [f"{indent}{key}: ["], ""
    for value in values:
        text = f"{_scalar(value)},"
        if line and len(indent) + 3 + len(line) + len(text) > _WIDTH:
            lines.append(f"{indent}  {line}")
            line = ""
        line = f"{line} {text}" if line else text
    return [*lines, f"{indent}  {line}", f"{indent}]"]


def _comment(text: str, indent: str = "") -> list[str]:
    printable = "".join(c if c.isprintable() else "?" for c in text)
    return [f"{indent}# {line}" for line in wrap(printable, _WIDTH - len(indent) - 2)]


# --------------------------------------------------------------------------- what it is


def _title(survey: Survey) -> str:
    names = [image.name for image in survey.choice.images]
    return f"{survey.root.name}: {' and '.join(names)}" if 1 < len(names) < 4 else survey.root.name


def _dataset(survey: Survey) -> Iterator[str]:
    yield "dataset:"
    yield f"  root: {_scalar(str(survey.root))}"
    yield "  images:"
    for image in survey.choice.images:
        yield from _image(image, survey)
    for note in survey.choice.left_out:
        yield from _comment(f"not used: {note}", "    ")
    if survey.labels:
        yield from _masks(survey)
    yield from _split(survey)


def _image(image: ImageChoice, survey: Survey) -> Iterator[str]:
    yield f"    {_scalar(image.name)}:"
    yield f"      path: {_path(survey.templates[image.name])}"
    if image.guess.sensor:
        yield f"      sensor: {image.guess.sensor}"
    if not image.guess.sure:
        yield from _comment(f"guess: {image.guess.why}. Check names and order.", "      ")
    elif image.guess.unused:
        yield from _comment(image.guess.why, "      ")
    yield from _long_list("bands", image.guess.bands, "      ")


def _path(templates: Sequence[str]) -> str:
    return _scalar(templates[0]) if len(templates) == 1 else _list(templates)


def _masks(survey: Survey) -> Iterator[str]:
    labels = survey.labels
    yield "  masks:"
    yield f"    path: {_path(survey.templates[MASKS])}"
    if labels.encoding == "colours":
        yield "    encoding: colours"
    for check in labels.checks:
        yield from _comment(f"check: {check}", "    ")
    if labels.tolerance:
        yield f"    tolerance: {labels.tolerance}"
    if labels.ignore:
        yield from _comment(f"guess, without label: {labels.why_ignored}", "    ")
        yield from _long_list("ignore", labels.ignore, "    ")
    if labels.unknown != "error":
        yield f"    unknown: {labels.unknown}"


def _split(survey: Survey) -> Iterator[str]:
    split = survey.split
    yield from (line for reason in left_out(survey) for line in _comment(reason, "  "))
    yield "  split:"
    for text in (split.found, split.guessed and f"guess: {split.guessed}"):
        yield from _comment(text, "    ")
    for check in split.checks:
        yield from _comment(f"check: {check}", "    ")
    for key, value in split.spec.items():
        if isinstance(value, list):
            yield from _long_list(key, value, "    ")
        else:
            yield f"    {key}: {_scalar(value)}"


# --------------------------------------------------------------------------- what to learn


def _bands(survey: Survey, bands: Sequence[str]) -> list[str]:
    """The choice of bands, where not every band of the files is one."""
    if not any(image.guess.unused for image in survey.choice.images):
        return []
    return _long_list("bands", bands, "")


def _classes(survey: Survey) -> Iterator[str]:
    yield "classes:"
    if survey.labels is None:
        for name, count in survey.classes.items():
            yield f"  - {{name: {_scalar(name)}}}  # {count} samples"
        return
    if survey.legend:
        yield from _comment(f"names from {survey.legend}", "  ")
    else:
        yield from _comment("check: the files do not name their classes; give them names", "  ")
    for guess in survey.labels.classes:
        yield from _class(guess)


def _class(guess: ClassGuess) -> Iterator[str]:
    colour = f", colour: {_scalar(guess.colour)}" if guess.colour else ""
    start = f"  - {{name: {_scalar(guess.name)}, values: "
    comment = f"  # {guess.comment}" if guess.comment else ""
    line = f"{start}{_list(guess.values)}{colour}}}{comment}"
    if len(line) <= _WIDTH:
        yield line
        return
    yield f"  - name: {_scalar(guess.name)}{comment}"
    yield from _long_list("values", guess.values, "    ")
    if guess.colour:
        yield f"    colour: {_scalar(guess.colour)}"


def typical_edge(survey: Survey) -> int:
    """The shorter edge, in pixels, that most images have."""
    return min(max(survey.sizes, key=lambda size: (survey.sizes[size], size)))


def tile_size(survey: Survey) -> int:
    """The images' edge, as a multiple of 32 and at most `_LARGEST_TILE`."""
    return min(-(-typical_edge(survey) // 32) * 32, _LARGEST_TILE)


def _tile(survey: Survey) -> Iterator[str]:
    size = tile_size(survey)
    cut = typical_edge(survey) > size and survey.labels is not None
    rest: dict[str, Any] = {"train": "random"} if cut else {}
    entries = ", ".join(f"{key}: {value}" for key, value in ({"size": size} | rest).items())
    sizes = sorted(survey.sizes.items(), key=lambda item: -item[1])
    said = ", ".join(f"{width} × {height}" for (height, width), _ in sizes[:3])
    more = f" and {len(sizes) - 3} other sizes" if len(sizes) > 3 else ""
    yield f"tile: {{{entries}}}  # images are {said}{more} pixels"


def _training(survey: Survey) -> Iterator[str]:
    size = tile_size(survey)
    batch = 16 if size <= 128 else 8 if size <= 256 else 4
    epochs = 10 if survey.samples > 5000 else 20
    yield f"training: {{epochs: {epochs}, batch_size: {batch}}}"
    yield f"fit: {{epochs: {epochs}, batch_size: {batch}}}"


def _statistics(statistics: Mapping[str, BandStatistics]) -> Iterator[str]:
    yield "statistics:  # of the training split, in the data's own units"
    for band, found in statistics.items():
        yield f"  {band}: {{mean: {_number(found.mean)}, std: {_number(found.std)}}}"


def _number(value: float) -> str:
    """A number with six digits that YAML reads as one."""
    text = f"{value:.6g}"
    if "e" in text and "." not in text:
        text = text.replace("e", ".0e")
    return text


def _variants(survey: Survey, bands: Sequence[str]) -> Iterator[str]:
    """One variant per sensor, and one of true colour, to train a specialist on each."""
    variants: dict[str, Sequence[str]] = {}
    sensors = [image for image in survey.choice.images if len(image.guess.bands) > 1]
    if len(survey.choice.images) > 1:
        for image in sensors:
            variants[image.name] = [band for band in image.guess.bands if band in bands]
    if set(_RGB) < set(bands) and list(_RGB) not in map(list, variants.values()):
        variants.setdefault("rgb", _RGB)
    if variants:
        yield "variants:"
    for name, own in variants.items():
        yield f"  {_scalar(name)}:"
        yield f"    title: {_scalar(f'{survey.root.name}: {name}')}"
        yield from _long_list("bands", own, "    ")
