"""Every shipped recipe over its dataset's layout: it loads, and a task takes what it gives."""

from __future__ import annotations

import json
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from eosfm_cli.commands.app import main
from eosfm_cli.data.datamodule import build_datamodule
from eosfm_cli.data.splits import SPLIT_NAMES
from eosfm_cli.progress import Silent
from eosfm_cli.recipe import Recipe, load_recipe, recipe_names
from eosfm_cli.recipe.library import find_recipe
from eosfm_cli.training.model import choose_decoder
from eosfm_cli.training.task import build_specialist_task

NAMES = [name for name in recipe_names() if not name.startswith("mini")]
SMALL = {"backbone": "test_convnext", "batch_size": 2, "workers": 0, "decoder_channels": 8}
SETTINGS = {f"training.{key}": value for key, value in SMALL.items()} | {"tile.size": 32}


def writer(name: str) -> ModuleType:
    """The module that writes a recipe's dataset: `write(root)`, and `SETTINGS` that fit it."""
    return import_module(f"tests.datasets.{find_recipe(name)[0].stem.replace('-', '_')}")


def settings(name: str) -> dict[str, Any]:
    """What a recipe is to be told for the tiny dataset of its writer."""
    return {**getattr(writer(name), "SETTINGS", {}), **SETTINGS}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory):
    """The folder of all datasets, with that of a recipe in it; each is written once."""
    folder = tmp_path_factory.mktemp("datasets")

    @cache
    def write(stem: str, root: str) -> None:
        import_module(f"tests.datasets.{stem}").write(folder / root)

    def place(name: str) -> Path:
        write(find_recipe(name)[0].stem.replace("-", "_"), load_recipe(name).dataset.root)
        return folder

    return place


def test_every_recipe_has_a_writer() -> None:
    stems = {find_recipe(name)[0].stem.replace("-", "_") for name in NAMES}
    assert [stem for stem in sorted(stems) if find_spec(f"tests.datasets.{stem}") is None] == []


@pytest.mark.parametrize("name", NAMES)
def test_a_task_takes_its_batches(name: str, written: Any) -> None:
    recipe = load_recipe(name, settings(name))
    data = build_datamodule(recipe, written(name), spec=recipe.training, progress=Silent())
    assert all(data.sample_counts[split] for split in SPLIT_NAMES)
    batches = [next(iter(getattr(data, f"{split}_dataloader")())) for split in SPLIT_NAMES]
    for batch in batches:
        _check(batch, recipe)
    decoder = choose_decoder(recipe, recipe.training)
    arguments = {f"decoder_{key}": value for key, value in decoder.arguments.items()}
    task = build_specialist_task(data.recipe, {"decoder": decoder.name, **arguments})
    loss = task.training_step({k: v for k, v in batches[0].items() if k != "filename"}, 0)
    loss.backward()
    assert torch.isfinite(loss)


def _check(batch: dict[str, Any], recipe: Recipe) -> None:
    """Shapes, and that pixels are standardised and labels are classes."""
    size, dates = recipe.tile.size, (2,) if recipe.task == "change" else ()
    image = batch["image"]
    assert image.shape[1:] == (len(recipe.bands), *dates, size, size)
    assert image.isfinite().all()
    assert image.abs().max() < 60
    if recipe.has_masks and recipe.task != "regression":
        labels = set(batch["mask"].unique().tolist()) - {recipe.ignore_index}
        assert labels <= set(range(len(recipe.classes)))


TRAINED = ["potsdam-rgb", "bigearthnetv2-s1", "eurosat", "oscd-rgb", "biomassters-s2"]
"""One of each task and sensor."""


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in TRAINED else pytest.mark.slow) for name in NAMES],
)
def test_it_trains_through_the_command_line(
    name: str, written: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = written(name)
    monkeypatch.chdir(tmp_path)
    given = {**settings(name), "training.epochs": 1}
    pairs = [f"{key}={json.dumps(value)}" for key, value in given.items()]
    options = [part for pair in pairs for part in ("--set", pair)]
    assert main(["train-specialist", name, "--data-root", str(root), *options]) == 0
    assert list((tmp_path / "experiments" / "train").rglob("best.ckpt"))
