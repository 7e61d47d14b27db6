"""The EuroSAT recipe and its variants over both real layouts."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from eosfm_cli.data.sources import open_source
from eosfm_cli.errors import DataError
from eosfm_cli.recipe import load_recipe
from tests.datasets import eurosat
from tests.datasets.opening import ids, items, opened, plain_recipe
from tests.listening import Listener


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("whole") / "eurosat"
    eurosat.write(root)
    return root


@pytest.fixture
def root(whole: Path, tmp_path: Path) -> Path:
    """A copy to be spoilt."""
    return Path(shutil.copytree(whole, tmp_path / "eurosat"))


@pytest.mark.parametrize(
    ("name", "prefix"),
    [("eurosat", ""), ("eurosat-s2", ""), ("eurosat-rgb", ""), ("eurosat-spatial", "spatial-")],
)
def test_the_split_is_the_lists(name: str, prefix: str, whole: Path) -> None:
    listener = Listener()
    found = ids(opened(plain_recipe(name), whole, listener))
    for split, patches in eurosat.LISTS[prefix].items():
        expected = [f"{kind}_{patch}" for kind in eurosat.CLASSES for patch in patches]
        assert found[split] == sorted(expected)
    assert not listener.warnings


def test_patches_and_classes_stay_together(whole: Path) -> None:
    data = opened(plain_recipe("eurosat"), whole)
    for split in ("train", "val", "test"):
        for patch, item in items(data, split).items():
            kind, _, number = patch.partition("_")
            assert np.array_equal(item["image"].numpy(), eurosat.pixels(kind, int(number)))
            assert item["label"] == eurosat.CLASSES.index(kind)


def test_b8a_is_the_last_layer() -> None:
    assert load_recipe("eurosat").bands == eurosat.LAYERS
    assert load_recipe("eurosat").dataset.images["s2"].bands == eurosat.LAYERS


def test_the_narrow_infrared_is_found_by_name(whole: Path) -> None:
    one = plain_recipe("eurosat", bands=["nir08", "nir09"])
    image = opened(one, whole).dataset("test")[0]["image"]
    assert image[:, 0, 0].tolist() == [4500 * 12, 4500 * 8]


def test_true_colour_is_chosen_by_name(whole: Path) -> None:
    every = items(opened(plain_recipe("eurosat"), whole), "val")
    for patch, item in items(opened(plain_recipe("eurosat-rgb"), whole), "val").items():
        assert torch.equal(item["image"], every[patch]["image"][[3, 2, 1]])


def test_a_class_keeps_its_number_where_another_is_missing(root: Path) -> None:
    shutil.rmtree(root / eurosat.FOLDER / "Forest")
    recipe = plain_recipe("eurosat", dataset__split__absent="skip")
    found = items(opened(recipe, root), "test")
    assert found["River_4"]["label"] == 8
    assert len(found) == 9


def test_the_newer_archives_folders(tmp_path: Path, whole: Path) -> None:
    root = tmp_path / "eurosat"
    eurosat.write(root, folder="EuroSAT_MS")
    data = opened(plain_recipe("eurosat"), root)
    assert ids(data) == ids(opened(plain_recipe("eurosat"), whole))
    assert np.array_equal(data.dataset("val")[0]["image"], eurosat.pixels("AnnualCrop", 3))


def test_the_sample_layout_opens(sample_data: Callable[[str], Path], tmp_path: Path) -> None:
    """It has two patches, which all of its lists name."""
    root = tmp_path / "eurosat"
    shutil.copytree(sample_data("layouts") / "eurosat", root)
    with pytest.raises(DataError, match="Splits overlap"):
        open_source(plain_recipe("eurosat"), root.parent)
    folder = root / eurosat.FOLDER
    shutil.copy(folder / "Forest/Forest_1.tif", folder / "Forest/Forest_2.tif")
    split = {"train": ["AnnualCrop_1"], "val": ["Forest_1"], "test": ["Forest_2"]}
    data = opened(plain_recipe("eurosat", dataset__split={"by": "list", **split}), root)
    assert data.dataset("train")[0]["image"][0, 0, :3].tolist() == [1577, 1702, 2428]
    assert [data.dataset(name)[0]["label"].item() for name in split] == [0, 1, 1]


def test_the_lists_are_missing(root: Path) -> None:
    (root / "eurosat-val.txt").unlink()
    with pytest.raises(DataError, match=r"Cannot read the split list .*eurosat-val\.txt"):
        open_source(plain_recipe("eurosat"), root.parent)
