"""The LoveDA recipe and its variants over the real layout: towns and countryside."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from eosfm_cli.data.sources import open_source
from eosfm_cli.errors import DataError
from eosfm_cli.recipe import load_recipe
from tests.datasets import loveda
from tests.datasets.opening import items, opened, plain_recipe
from tests.listening import Listener
from tests.rasters import write_image

WORDS = ["background", "building", "road", "water", "barren", "forest", "agriculture"]
"""What the dataset's description calls the values 1 to 7."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("whole") / "loveda"
    loveda.write(root)
    return root


@pytest.fixture
def root(whole: Path, tmp_path: Path) -> Path:
    """A copy to be spoilt."""
    return Path(shutil.copytree(whole, tmp_path / "loveda"))


def listed(split: str, *areas: str) -> set[str]:
    return {str(n) for area in areas for n in loveda.NUMBERS[split, area]}


def numbers(root: Path, name: str = "loveda") -> dict[str, set[str]]:
    """The images of each split."""
    data = opened(plain_recipe(name), root)
    return {
        split: {sample.mask.stem for sample in samples}
        for split, samples in data.source.samples.items()
    }


def test_the_official_val_is_the_test(whole: Path) -> None:
    found = numbers(whole)
    assert found["test"] == listed("Val", "Rural", "Urban")
    assert found["train"] | found["val"] == listed("Train", "Rural", "Urban")


def test_blocks_of_a_hundred_numbers_validate(whole: Path) -> None:
    for seed in range(4):
        data = opened(plain_recipe("loveda", dataset__split__seed=seed), whole)
        train, val = (
            {int(sample.mask.stem) // 100 for sample in data.source.samples[split]}
            for split in ("train", "val")
        )
        assert val
        assert not train & val


def test_images_without_labels_are_nobodys_business(whole: Path) -> None:
    listener = Listener()
    opened(plain_recipe("loveda"), whole, listener)
    assert not listener.warnings


def test_images_and_labels_stay_together(whole: Path) -> None:
    data = opened(plain_recipe("loveda", tile__size=64, tile__train="grid"), whole)
    for split in ("train", "val", "test"):
        for sample, item in zip(data.source.samples[split], data.dataset(split), strict=True):
            number = int(sample.mask.stem)
            assert np.array_equal(item["image"].numpy(), loveda.pixels(number))
            values = loveda.values(number)
            assert np.array_equal(item["mask"], np.where(values == 0, 255, values - 1))


@pytest.mark.parametrize(("variant", "other"), [("urban", "Rural"), ("rural", "Urban")])
def test_one_area_does_not_touch_the_other(variant: str, other: str, root: Path) -> None:
    for folder in root.glob(f"*/{other}"):
        shutil.rmtree(folder)
    found = numbers(root, f"loveda-{variant}")
    assert found["train"] | found["val"] == listed("Train", variant.title())
    assert found["test"] == listed("Val", variant.title())


def test_a_variant_leaves_the_other_area_alone_where_it_is_there(whole: Path) -> None:
    assert numbers(whole, "loveda-urban")["test"] == listed("Val", "Urban")


def test_the_sample_layout_opens(sample_data: Callable[[str], Path]) -> None:
    """Its images are all called 01, of 2 × 2 pixels without a label."""
    root = sample_data("layouts") / "loveda"
    by_area = {"dataset__split__pattern": None, "dataset__split__scene": "{area}"}
    data = opened(plain_recipe("loveda", tile__size=32, **by_area), root)
    assert data.sample_counts == {"train": 1, "val": 1, "test": 2}
    assert (data.dataset("test")[0]["mask"] == 255).all()


# --------------------------------------------------------------------------- others' defects


def test_names_are_not_off_by_one() -> None:
    recipe = load_recipe("loveda")
    assert list(recipe.class_names) == WORDS
    assert [values for (values,) in recipe.class_values] == [1, 2, 3, 4, 5, 6, 7]
    assert recipe.classes[6].colour == "#ffc380"


def test_no_data_is_no_class(root: Path) -> None:
    path = root / "Val/Urban/masks_png/3514.png"
    write_image(path, np.zeros((64, 64)))
    item = items(opened(plain_recipe("loveda-urban", tile__size=64), root), "test")["3514"]
    assert (item["mask"] == 255).all()


# --------------------------------------------------------------------------- what is wrong


def test_one_label_missing(root: Path) -> None:
    (root / "Train/Rural/masks_png/120.png").unlink()
    with pytest.raises(DataError, match=r"Train/Rural/masks_png/120\.png"):
        open_source(plain_recipe("loveda"), root.parent)


def test_a_value_that_is_no_class(root: Path) -> None:
    write_image(root / "Val/Urban/masks_png/3514.png", np.full((64, 64), 8))
    data = opened(plain_recipe("loveda-urban", tile__size=64), root)
    with pytest.raises(DataError, match=r"3514\.png has labels that no class .* lists: 8"):
        data.dataset("test")[0]
