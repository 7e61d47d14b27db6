"""What is wrong with a recipe, in its author's words."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from eosfm_cli.bands import nearest_word
from eosfm_cli.errors import RecipeError, UsageError
from eosfm_cli.recipe import dataset, model, training
from eosfm_cli.recipe.source import Source
from eosfm_cli.recipe.values import Spec


def explained(
    error: ValidationError,
    source: Source,
    prefix: tuple[str | int, ...],
    overrides: Mapping[str, Any],
) -> UsageError:
    """The error that says all that is wrong, with the line of each.

    Args:
        error: What pydantic found.
        source: The file.
        prefix: The keys that lead to the variant; empty without one.
        overrides: `--set`: dotted key -> value.
    """
    said: dict[str, list[str]] = {}
    for problem in _worth_telling(error.errors()):
        where, text = _located(problem)
        key, place = ".".join(map(str, where)), _place(source, prefix, where, overrides)
        # `--set tile.size: tile.size: …` would say it twice.
        said.setdefault(place if place == f"--set {key}: " else f"{place}{key}", []).append(text)
    # A value that may be of several types has a problem for each.
    lines = [f"{place.removesuffix(': ')}: {_or(texts)}" for place, texts in said.items()]
    return RecipeError(
        "\n".join(lines),
        hint="`eosfm recipes show mini` prints a complete recipe to compare with.",
    )


def _or(texts: Sequence[str]) -> str:
    parts = list(dict.fromkeys(texts))
    text = " or ".join([parts[0], *(part.removeprefix("should be ") for part in parts[1:])])
    return text if text.endswith("?") else f"{text}."


def _worth_telling(problems: Sequence[Any]) -> list[Any]:
    """Leave out what only follows from another problem: keys missed for a typo, items not read."""
    meant = {
        (*problem["loc"][:-1], nearest_word(str(problem["loc"][-1]), _keys_at(problem["loc"][:-1])))
        for problem in problems
        if problem["type"] == "extra_forbidden"
    }
    broken = [problem["loc"] for problem in problems]
    return [
        problem
        for problem in problems
        if not (problem["type"] == "missing" and problem["loc"] in meant)
        and not (
            problem["type"] == "too_short"
            and any(loc != problem["loc"] and _below(loc, problem["loc"]) for loc in broken)
        )
    ]


def _below(loc: Sequence[str | int], place: Sequence[str | int]) -> bool:
    return tuple(loc[: len(place)]) == tuple(place)


def _located(problem: Mapping[str, Any]) -> tuple[tuple[str | int, ...], str]:
    """Where a problem is, as the user writes it, and what it is."""
    where, text = _user_path(problem["loc"]), _said(problem)
    if not where and (key := re.match(r"([a-z_.0-9]+): ", text)):
        parts = (int(part) if part.isdecimal() else part for part in key[1].split("."))
        return tuple(parts), text.removeprefix(key[0])
    return where, text


_UNION_TAG = re.compile(r"\[key\]|constrained-\w+|(literal|tuple|function-\w+)\[.*|str|int|float")


def _user_path(loc: Sequence[str | int]) -> tuple[str | int, ...]:
    """A problem's place without the parts that pydantic adds for unions."""
    kept = [
        part
        for before, part in zip((None, *loc), loc, strict=False)
        if before in {"images", "statistics", "views"}
        or (
            not (before == "split" and part in dataset.SPLITS)
            and not (isinstance(part, str) and _UNION_TAG.fullmatch(part))
        )
    ]
    return tuple(kept)


def _place(
    source: Source,
    prefix: tuple[str | int, ...],
    where: tuple[str | int, ...],
    overrides: Mapping[str, Any],
) -> str:
    key = ".".join(map(str, where))
    for given in overrides:
        if key == given or key.startswith(f"{given}.") or (key and given.startswith(f"{key}.")):
            return f"--set {given}: "
    in_variant = source.line([*prefix, *where]) if prefix else None
    top_of_variant = source.line(prefix) if prefix else None
    line = in_variant if in_variant not in (None, top_of_variant) else source.line(where)
    return f"{source.path}, line {line}: " if line else f"{source.path}: "


def _said(problem: Mapping[str, Any]) -> str:
    kind, context = problem["type"], problem.get("ctx") or {}
    if kind == "extra_forbidden":
        *parents, last = problem["loc"]
        return f"unknown key{_instead(str(last), _keys_at(parents))}"
    if kind in {"literal_error", "union_tag_invalid"}:
        expected = re.findall(r"'([^']*)'", context.get("expected") or context.get("expected_tags"))
        if len(expected) == 1:
            return f"should be {expected[0]!r}"
        given = str(context.get("tag", problem["input"]))
        return f"{given!r} is not known{_instead(given, expected)}"
    if kind in _WORDS_FOR:
        return _WORDS_FOR[kind].format(**context)
    return problem["msg"].removeprefix("Value error, ")


def _instead(given: str, valid: Sequence[str]) -> str:
    near = nearest_word(given, valid)
    return f", did you mean {near!r}?" if near else f"; known: {', '.join(valid)}"


_WORDS_FOR = {
    "missing": "this key is missing",
    "union_tag_not_found": "'by' is missing; one of list, scene, fraction, folder, column, area",
    "int_type": "should be a whole number",
    "int_parsing": "should be a whole number",
    "int_parsing_size": "should be a smaller number",
    "int_from_float": "should be a whole number",
    "float_type": "should be a number",
    "float_parsing": "should be a number",
    "finite_number": "should be a finite number",
    "bool_type": "should be true or false",
    "bool_parsing": "should be true or false",
    "string_type": "should be text (in quotes if it looks like a number or a date)",
    "tuple_type": "should be a list, as in [a, b]",
    "dict_type": "should be a mapping of keys to values",
    "model_type": "should be a mapping of keys to values",
    "model_attributes_type": "should be a mapping of keys to values",
    "invalid_key": "a key should be a word",
    "greater_than": "should be more than {gt:g}",
    "greater_than_equal": "should be at least {ge:.10g}",
    "less_than": "should be less than {lt:g}",
    "less_than_equal": "should be at most {le:.10g}",
    "multiple_of": "should be a multiple of {multiple_of}",
    "too_long": "should have at most {max_length}, has {actual_length}",
    "too_short": "should have at least {min_length}, has {actual_length}",
}
"""Pydantic's kinds of problems in a user's words."""


def _keys_at(parents: Sequence[str | int]) -> list[str]:
    """The keys that are valid at a place of the recipe."""
    if not parents:
        return [*model.Recipe.model_fields, "variants", "default_variant", "aliases"]
    spots: dict[str, type[Spec]] = {
        "dataset": dataset.DatasetSpec,
        "images": dataset.ImageSpec,
        "series": dataset.SeriesSpec,
        "masks": dataset.MaskSpec,
        "labels": dataset.LabelsSpec,
        "boxes": dataset.FileSpec,
        "blank": dataset.BlankSpec,
        "files": dataset.DownloadSpec,
        "classes": model.ClassSpec,
        "target": model.TargetSpec,
        "statistics": model.BandStatistics,
        "tile": model.TileSpec,
        "training": training.SpecialistSpec,
        "fit": training.FitSpec,
        **dataset.SPLITS,
    }
    found = next((spots[part] for part in reversed(parents) if part in spots), model.Recipe)
    return list(found.model_fields)
