"""The CaFFe recipe over the layout of its patches: pictures and zones that are named alike."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eosfm_cli.data.datamodule import TileDataModule
from eosfm_cli.data.sources import open_source
from eosfm_cli.errors import DataError
from eosfm_cli.recipe import load_recipe
from tests.datasets import caffe
from tests.datasets.caffe import PATCHES, SCENES, SETTINGS
from tests.datasets.opening import ids, items, opened, plain_recipe
from tests.listening import Listener
from tests.rasters import write_image


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """All patches, to be spoilt."""
    caffe.write(tmp_path / "caffe")
    return tmp_path / "caffe"


def of(root: Path, **overrides: Any) -> TileDataModule:
    settings = {key.replace(".", "__"): value for key, value in SETTINGS.items()}
    recipe = plain_recipe("caffe", **{"tile__size": 32, **settings, **overrides})
    listener = Listener()
    data = opened(recipe, root, listener)
    assert not listener.warnings
    return data


def expected(scene: str, patch: str) -> np.ndarray:
    """Class indices of a patch: 255 where there is nothing."""
    zones = caffe.zones(scene, patch)
    return np.where(zones == 0, 255, zones - 1)


@pytest.mark.parametrize("folder", ["caffe", "."])
def test_every_patch_has_its_own_zones(folder: str, tmp_path: Path) -> None:
    """With the folder that the archive has, and without it."""
    root = tmp_path / "caffe"
    caffe.write(root, folder=folder)
    data = of(root)
    for split, scenes in SCENES.items():
        found = list(items(data, split).values())
        assert len(found) == len(scenes) * len(PATCHES)
        for item in found:
            scene, patch = Path(item["filename"]).stem.split("__")
            assert scene in scenes
            assert np.array_equal(item["image"][0].numpy(), caffe.pixels(scene, patch))
            assert np.array_equal(item["mask"].numpy(), expected(scene, patch))


def test_the_official_split_keeps_scenes_whole(root: Path) -> None:
    for split, samples in of(root).source.samples.items():
        scenes = {sample.place.stem.split("__")[0] for sample in samples}
        assert scenes == set(SCENES[split])


# ------------------------------------------------------------------ what other loaders get wrong


def test_the_order_does_not_depend_on_the_disk(root: Path, tmp_path: Path) -> None:
    """Files that are written in another order are read in the same."""
    other = tmp_path / "other" / "caffe"
    for path in sorted(root.rglob("*.png"), reverse=True):
        copy = other / path.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    assert ids(of(root)) == ids(of(other))


def test_nothing_is_no_class() -> None:
    recipe = load_recipe("caffe")
    assert recipe.class_names == ("rock", "glacier", "ocean and ice mélange")
    assert recipe.dataset.masks.ignore == (0,)


def test_a_value_of_no_zone_is_told(root: Path) -> None:
    path = next(root.rglob("zones/test/*.png"))
    write_image(path, np.full((32, 32), 255))
    with pytest.raises(DataError, match="no class of the recipe lists: 255"):
        items(of(root), "test")


def test_statistics_are_those_of_the_pixels(root: Path) -> None:
    """Not of pixels between 0 and 1: standardised, they have a mean of 0 and a deviation of 1."""
    data = of(root, statistics=None, dataset__split__seed=0)
    pixels = np.stack([item["image"].numpy() for item in items(data, "train").values()])
    assert pixels.mean() == pytest.approx(0, abs=0.01)
    assert pixels.std() == pytest.approx(1, abs=0.01)


def test_the_fronts_need_not_be_there(root: Path) -> None:
    shutil.rmtree(root / "caffe/fronts")
    assert of(root).sample_counts == {"train": 4, "val": 2, "test": 4}


def test_missing_zones_are_told(root: Path) -> None:
    gone = next(root.rglob("zones/val/*.png"))
    gone.unlink()
    with pytest.raises(DataError, match=gone.name):
        open_source(load_recipe("caffe", SETTINGS), root.parent)


def test_the_sample_layout_opens(sample_data: Callable[[str], Path]) -> None:
    """It has patches of the same names in all three parts."""
    data = of(sample_data("layouts") / "caffe")
    assert data.sample_counts == {"train": 3, "val": 3, "test": 3}
    for item in items(data, "train").values():
        assert item["image"].shape == (1, 32, 32)
        assert item["mask"].unique().tolist() == [0, 1, 2, 255]
