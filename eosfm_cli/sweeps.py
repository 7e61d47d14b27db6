"""Sweeps: which settings of a fit to try, and which of them nothing else beats."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from eosfm_cli.errors import UsageError
from eosfm_cli.recipe import Recipe, load_recipe
from eosfm_cli.run_dir import RunDir
from eosfm_cli.words import counted

SWEEP = "sweep"
"""What the folders of sweeps say they are, and where they lie in the experiments folder."""

Value = str | int | None

AXES = ("fusion", "fuse_to_mult", "normalize", "selection", "select_by", "seed", "top_k")
"""Keys of `fit` that may take several values. The last one changes fastest: fits that can share
a search for the best specialists follow each other."""

_NEUTRAL: dict[str, str | int | bool] = {
    "fuse_to_mult": 1,
    "selection": "topk",
    "select_by": "gates",
    "scale_features": False,
}
"""What settings are where others leave them no effect."""


@dataclass(frozen=True)
class Combination:
    """One choice of settings, ready to be fitted."""

    settings: dict[str, Any]
    """Key of `fit` -> value, of the axes and of all that depends on them."""
    recipe: Recipe

    @property
    def search(self) -> tuple[object, ...] | None:
        """The same for all that choose specialists in the same way, whatever their k.

        `None` where nothing is chosen, or where k has a part in it.
        """
        fit = self.recipe.fit
        if fit.top_k is None:
            return None
        if fit.select_by == "probe":
            return "probe", fit.seed
        if fit.selection == "smooth":
            return None
        return tuple(value for key, value in sorted(self.settings.items()) if key != "top_k")

    @property
    def tiles(self) -> int | None:
        """The same for all that see the same tiles: a seed where it draws them, else `None`."""
        drawn = self.recipe.tile.train == "random" or self.recipe.fit.label_fraction < 1
        return self.recipe.fit.seed if drawn else None


def is_sweep(folder: Path) -> bool:
    """Whether a folder is that of a sweep."""
    return RunDir(folder).read_summary().get("kind") == SWEEP


def refuse_sweep(folder: Path, command: str) -> None:
    """Say what to type where the folder of a sweep was named and a run is wanted.

    Args:
        folder: That was named.
        command: What was to be done with it.

    Raises:
        UsageError: It is the folder of a sweep.
    """
    if not is_sweep(folder):
        return
    fits = fits_of(folder)
    shown = [shlex.quote(str(fit)) for fit in fits]
    if command == "train-specialist":
        hint = f"Go on with it: eosfm fit-ensemble --resume {shlex.quote(str(folder))}"
    elif command == "compare" and fits:
        hint = f"Compare its fits: eosfm compare {' '.join(shown)}"
    else:
        hint = f"Name one of its fits: eosfm {command} {shown[0] if shown else 'RUN'}"
    table = folder / "sweep.csv"
    raise UsageError(
        f"{folder} is a sweep, with {counted(len(fits), 'completed fit')}, and no run."
        + (f" Their table is {table}." if table.is_file() else ""),
        hint=hint,
    )


def fits_of(folder: Path) -> list[Path]:
    """The runs of a sweep that are completed, in its order."""
    sweep = RunDir(folder)
    combinations = sweep.read_summary().get("combinations")
    named = [one.get("run") for one in combinations or () if isinstance(one, dict)]
    runs = [RunDir(sweep.experiments / name) for name in named if isinstance(name, str)]
    return [run.path for run in runs if run.state == "completed"]


def plan_sweep(
    name: str, axes: Mapping[str, Sequence[Value]], overrides: Mapping[str, Any]
) -> tuple[Combination, ...]:
    """Every combination of the axes' values; of numbers of specialists, the largest comes first.

    What the first fit encodes serves those that follow it. A setting that goes with some of the
    values only, such as the width of some fusions, counts for these; combinations that come to
    the same are taken once.

    Args:
        name: A recipe's name or path.
        axes: Key of `fit` -> values; `None` of `top_k` for every specialist.
        overrides: What else is laid over the recipe, by dotted keys.

    Raises:
        RecipeError: A combination is no recipe, or a setting has an effect in none of them.
        UsageError: An override names an unknown key.
    """
    ordered = {key: _in_order(key, axes[key]) for key in AXES if key in axes}
    elsewhere = {key: value for key, value in overrides.items() if not key.startswith("fit.")}
    said = {k.removeprefix("fit."): v for k, v in overrides.items() if k.startswith("fit.")}
    base = {**load_recipe(name, elsewhere).fit.model_dump(), **said}
    found: list[dict[str, Any]] = []
    for values in product(*ordered.values()):
        chosen = dict(zip(ordered, values, strict=True))
        settings = {**chosen, **_effective({**base, **chosen})}
        found += [] if settings in found else [settings]
    for key in _NEUTRAL:
        asked = [*axes.get(key, ()), said.get(key, _NEUTRAL[key])]
        wanted = [value for value in asked if value != _NEUTRAL[key]]
        if wanted and all(settings[key] == _NEUTRAL[key] for settings in found):
            found[0][key] = wanted[0]  # the recipe says best why it has no effect
    return tuple(
        Combination(settings, load_recipe(name, {**overrides, **laid_over(settings)}))
        for settings in found
    )


def laid_over(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a fit as overrides of a recipe."""
    return {f"fit.{key}": value for key, value in settings.items()}


def _in_order(key: str, values: Sequence[Value]) -> list[Value]:
    once = list(dict.fromkeys(values))
    if key != "top_k":
        return once
    return sorted(once, key=lambda k: -math.inf if k is None else -int(k))


def _effective(fit: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that depend on others, neutral where these leave them no effect."""
    idle: set[str] = set()
    if fit["fusion"] not in ("conv1x1", "mlp"):
        idle |= {"fuse_to_mult"}
    if fit["top_k"] is None:
        idle |= {"selection", "select_by", "scale_features"}
    elif fit["select_by"] == "probe":
        idle |= {"selection", "scale_features"}
    return {key: _NEUTRAL[key] if key in idle else fit[key] for key in _NEUTRAL}


def at_most(numbers: Sequence[Value], usable: int, *, strict: bool) -> list[Value]:
    """Numbers of specialists with `None`, for all, in the place of what leaves nobody out.

    Args:
        numbers: As asked for.
        usable: How many there are.
        strict: Leave those that are more than there are as they are.
    """
    return [
        None if k is None or int(k) == usable or (int(k) > usable and not strict) else k
        for k in numbers
    ]


def varying(combinations: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The keys in which not all settings are alike, in the order of `AXES`."""
    first = combinations[0]
    return tuple(
        key for key in AXES if any(one.get(key) != first.get(key) for one in combinations[1:])
    )


def title(settings: Mapping[str, Any], keys: Sequence[str]) -> str:
    """What to call a combination, by the keys that tell it from others: `conv1x1, top-k 3`."""
    return ", ".join(_words(key, settings.get(key)) for key in keys)


def _words(key: str, value: Value) -> str:
    if key == "top_k":
        return f"top-k {'all' if value is None else value}"
    return str(value) if key == "fusion" else f"{key.replace('_', '-')} {value}"


def undominated(points: Sequence[tuple[float, float]]) -> tuple[bool, ...]:
    """Which points of a trade-off nothing beats: its Pareto set.

    A point is beaten by another that gains at least as much at no higher cost, and does better in
    one of the two. What is not a finite number is never in the set.

    Args:
        points: Gain, of which more is better, and cost, of which less is.
    """

    def beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
        return one[0] >= other[0] and one[1] <= other[1] and one != other

    known = [point for point in points if all(map(math.isfinite, point))]
    return tuple(
        all(map(math.isfinite, point)) and not any(beats(other, point) for other in known)
        for point in points
    )
