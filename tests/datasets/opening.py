"""Shipped recipes over tiny datasets, with nothing done to the values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eosfm_cli.data.datamodule import TileDataModule, build_datamodule
from eosfm_cli.data.splits import SplitName
from eosfm_cli.progress import Progress, Silent
from eosfm_cli.recipe import Recipe, load_recipe

PLAIN = {"mean": 0, "std": 1}


def plain_recipe(name: str, **overrides: Any) -> Recipe:
    """A shipped recipe that leaves the values as they are in the files.

    Args:
        name: Of a recipe or variant.
        **overrides: Keys, with two underscores where a dot belongs.
    """
    given = {key.replace("__", "."): value for key, value in overrides.items()}
    settings = {"training.workers": 0, "training.augment": False, **given}
    bands = load_recipe(name, settings).bands
    return load_recipe(name, {"statistics": {band: PLAIN for band in bands}, **settings})


def opened(recipe: Recipe, root: Path, progress: Progress | None = None) -> TileDataModule:
    """The data of a recipe whose files are in `root`, a folder of the name that it expects."""
    assert root.name == recipe.dataset.root
    return build_datamodule(
        recipe, root.parent, spec=recipe.training, progress=progress or Silent()
    )


def items(data: TileDataModule, split: SplitName) -> Mapping[str, dict[str, Any]]:
    """The samples of a split by id; every one is a single tile."""
    samples = data.source.samples[split]
    dataset = data.dataset(split)
    assert len(dataset) == len(samples)
    return {sample.id: dataset[i] for i, sample in enumerate(samples)}


def ids(data: TileDataModule) -> dict[str, list[str]]:
    """The ids of each split's samples."""
    return {split: [s.id for s in samples] for split, samples in data.source.samples.items()}
