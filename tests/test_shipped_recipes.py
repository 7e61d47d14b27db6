"""Every recipe that is shipped."""

from __future__ import annotations

from pathlib import Path

import pytest

from eosfm_cli.recipe import list_recipes, load_recipe, recipe_names


@pytest.mark.parametrize("name", recipe_names())
def test_it_loads_and_survives_being_written(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    path = tmp_path / "copy.yaml"
    path.write_text(recipe.to_yaml(), encoding="utf-8")
    assert load_recipe(str(path)) == recipe


def test_all_are_listed_with_a_licence() -> None:
    summaries = list_recipes()
    assert [summary.name for summary in summaries] == recipe_names()
    assert all(summary.licence for summary in summaries)


def test_the_demos_recipes_are_there() -> None:
    assert {"mini", "mini-rgb", "mini-s2", "mini-s1", "mini-landcover"} <= set(recipe_names())
    assert load_recipe("mini").bands == load_recipe("mini-s2").bands
    assert len(load_recipe("mini-landcover").bands) == 15


def test_the_published_datasets_are_there() -> None:
    variants = {"potsdam", "potsdam-rgb", "potsdam-irrg", "sen12ms"}
    variants |= {f"sen12ms-{bands}" for bands in ("all", "rgb", "s1", "s2")}
    assert variants <= set(recipe_names())
    assert load_recipe("potsdam-irrg").bands == ("nir", "red", "green")
