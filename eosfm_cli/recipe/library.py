"""Recipes by name: which there are, and how they are read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from eosfm_cli.bands import nearest_word
from eosfm_cli.errors import RecipeError, UsageError
from eosfm_cli.recipe.messages import explained
from eosfm_cli.recipe.model import Recipe
from eosfm_cli.recipe.source import Source, read_source


def recipes_dir() -> Path:
    """Where the shipped recipes are: inside the wheel, or in the checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "recipes"
    return inside if inside.is_dir() else package.parent / "recipes"


def recipe_names() -> list[str]:
    """The names of all recipes, variants included, in alphabetical order."""
    return sorted(name for source in _shipped() for name in _names_in(source))


def aliases() -> dict[str, str]:
    """Other names that recipes answer to -> their own."""
    return {alias: source.path.stem for source in _shipped() for alias in source.aliases}


def _shipped() -> list[Source]:
    return [read_source(path) for path in sorted(recipes_dir().glob("*.yaml"))]


def _names_in(source: Source) -> list[str]:
    stem = source.path.stem
    return [stem, *(f"{stem}-{variant}" for variant in source.variants)]


def variant_names(name: str) -> list[str]:
    """The recipe's name or path as given, and after it one for each variant of its file.

    Raises:
        RecipeError: There is no such recipe, or its file is no YAML mapping.
    """
    path, variant = find_recipe(name)
    variants = read_source(path).data.get("variants")
    if variant is not None or not isinstance(variants, dict):
        return [name]
    stems = [f"{path.stem}-{each}" for each in variants]
    given_as_path = Path(name).suffix in {".yaml", ".yml"}
    return [name, *(str(path.with_stem(s)) if given_as_path else s for s in stems)]


def find_recipe(name: str) -> tuple[Path, str | None]:
    """The file and variant that a recipe's name or path stands for.

    Shipped recipes also answer to their aliases, and `_` is as good as `-`.

    Raises:
        RecipeError: There is no such recipe; the nearest name is offered.
    """
    path = Path(name)
    if path.suffix in {".yaml", ".yml"}:
        return _own_recipe(path)
    places = {path.stem: path for path in recipes_dir().glob("*.yaml")}
    plain = name.replace("_", "-")
    found = _stem_and_variant(plain, {stem: stem for stem in places})
    found = found or _stem_and_variant(plain, aliases())
    if found is not None:
        return places[found[0]], found[1]
    near = nearest_word(plain.lower(), [*recipe_names(), *aliases()])
    raise RecipeError(
        f"There is no recipe {name!r}." + (f" Did you mean {near!r}?" if near else ""),
        hint="`eosfm recipes list` shows all; a path to a YAML file works too.",
    )


def _own_recipe(path: Path) -> tuple[Path, str | None]:
    if path.is_file():
        return path, None
    stem, _, variant = path.stem.rpartition("-")
    if stem and path.with_stem(stem).is_file():
        return path.with_stem(stem), variant
    raise RecipeError(f"There is no file {path}.", hint="`eosfm recipes list` shows what is there.")


def _stem_and_variant(name: str, known: Mapping[str, str]) -> tuple[str, str | None] | None:
    """Which recipe's file and variant a name means, by the longest of the known names in it."""
    for start in sorted(known, key=len, reverse=True):
        if name == start:
            return known[start], None
        if name.startswith(f"{start}-"):
            return known[start], name.removeprefix(f"{start}-")
    return None


def load_recipe(name: str, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe by name (`sen12ms-rgb`) or path, with dotted keys laid over it.

    Args:
        name: A shipped recipe's name, with a variant or without, or a path to a YAML file; of a
            file of one's own, `mine-rgb.yaml` is variant `rgb` of `mine.yaml`.
        overrides: `{"training.epochs": 5}`, as `--set` and the options give them.

    Raises:
        RecipeError: The recipe has errors; all of them are listed with their lines.
        UsageError: An override names an unknown key.
    """
    path, variant = find_recipe(name)
    source = read_source(path)
    return _build(source, variant, overrides or {})


def _build(source: Source, variant: str | None, overrides: Mapping[str, Any]) -> Recipe:
    data, variants, _ = dict(source.data), source.variants, source.aliases
    for key in ("variants", "aliases"):
        data.pop(key, None)
    default = data.pop("default_variant", None)
    chosen = variant or (None if default is None else str(default))
    if chosen is not None and chosen not in variants:
        near = nearest_word(chosen, variants)
        line = source.line(["default_variant"] if variant is None else ["variants"])
        raise RecipeError(
            f"{source.path}{f', line {line}' if line else ''}: there is no variant {chosen!r}."
            + (f" Did you mean {near!r}?" if near else ""),
            hint=f"Variants: {', '.join(variants) or 'none'}.",
        )
    prefix: tuple[str | int, ...] = ()
    if chosen is not None:
        prefix = ("variants", chosen)
        data = _merged(data, variants[chosen])
    data.setdefault("name", f"{source.path.stem}-{variant}" if variant else source.path.stem)
    for key, value in overrides.items():
        _set(data, key, value)
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise explained(error, source, prefix, overrides) from None


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `over` laid over it: mappings merge, anything else replaces.

    So does another `by`, whose keys are others.
    """
    if "by" in over and over["by"] != base.get("by"):
        return dict(over)
    both = dict(base)
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(both.get(key), dict):
            both[key] = _merged(both[key], value)
        else:
            both[key] = value
    return both


def _set(data: dict[str, Any], key: str, value: Any) -> None:  # noqa: ANN401 - raw YAML
    *parents, last = key.split(".")
    for part in parents:
        child = data.get(part) or {}
        if not isinstance(child, dict):
            raise UsageError(
                f"--set {key}: {part!r} has no keys of its own.",
                hint=f"Set {part!r} as a whole; the value is YAML, as in --set 'bands=[red, nir]'",
            )
        data[part] = dict(child)
        data = data[part]
    if last == "by" and data.get(last) != value:
        data.clear()  # the keys that go with it are others
    data[last] = value


def parse_overrides(pairs: Sequence[str]) -> dict[str, Any]:
    """Read `--set key=value` pairs; values are YAML.

    Raises:
        UsageError: A pair has no `=`, or its value is no YAML.
    """
    overrides = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise UsageError(
                f"--set takes key=value, not {pair!r}.", hint="As in --set tile.size=128"
            )
        try:
            overrides[key.strip()] = _numeric(yaml.safe_load(value))
        except (yaml.YAMLError, ValueError, TypeError, RecursionError):
            raise UsageError(f"--set {key}: {value!r} is no YAML value.") from None
    return overrides


def _numeric(value: Any) -> Any:  # noqa: ANN401 - raw YAML
    """YAML 1.1 reads `1e-4` as text; people mean a number."""
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value):
        return float(value)
    return value
