"""Recipes in a few words each."""

from __future__ import annotations

from dataclasses import dataclass

from eosfm_cli.bands import BANDS
from eosfm_cli.recipe.library import load_recipe, recipe_names
from eosfm_cli.recipe.model import Recipe


@dataclass(frozen=True)
class RecipeSummary:
    """A line of `eosfm recipes list`."""

    name: str
    title: str
    task: str
    sensors: tuple[str, ...]
    bands: int
    classes: int
    licence: str | None


def list_recipes(*, task: str | None = None, sensor: str | None = None) -> list[RecipeSummary]:
    """Summaries of the shipped recipes, filtered by task and by a sensor's name or kind."""
    summaries = [_summary(load_recipe(name)) for name in recipe_names()]
    return [
        summary
        for summary in summaries
        if (task is None or summary.task == task)
        and (sensor is None or any(sensor.lower() in s for s in summary.sensors))
    ]


def _summary(recipe: Recipe) -> RecipeSummary:
    images = recipe.dataset.images
    used = [key for key, image in images.items() if set(image.bands) & set(recipe.bands)]
    kinds = {BANDS[band].kind for band in recipe.bands}
    sensors = dict.fromkeys([images[key].sensor or key for key in used] + sorted(kinds))
    return RecipeSummary(
        name=recipe.name,
        title=recipe.title,
        task=recipe.task,
        sensors=tuple(sensors),
        bands=len(recipe.bands),
        classes=len(recipe.classes),
        licence=recipe.dataset.licence,
    )
