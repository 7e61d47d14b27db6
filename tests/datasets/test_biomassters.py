"""The BioMassters recipe over its own layout: a file per month and sensor."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from eosfm_cli.recipe import Recipe
from tests.datasets import biomassters as biomass
from tests.datasets.opening import ids, items, opened, plain_recipe


def recipe(name: str = "biomassters", **overrides: object) -> Recipe:
    return plain_recipe(name, tile__size=32, **{**biomass.SETTINGS, **overrides})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All chips; not to be changed."""
    root = tmp_path_factory.mktemp("whole") / "biomassters"
    biomass.write(root)
    return root


@pytest.fixture
def root(whole: Path, tmp_path: Path) -> Path:
    """A copy to be spoilt."""
    return Path(shutil.copytree(whole, tmp_path / "biomassters"))


def test_the_official_test_chips_and_a_share_of_the_others(whole: Path) -> None:
    found = ids(opened(recipe(), whole))
    assert sorted(found["test"]) == sorted(biomass.TEST)
    assert sorted(found["train"] + found["val"]) == sorted(biomass.TRAIN)
    assert len(found["val"]) == 1


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_medians_of_the_months_that_are_there(split: str, whole: Path) -> None:
    for chip, item in items(opened(recipe(), whole), split).items():
        expected = np.nan_to_num(biomass.pixels(chip)).astype(np.float32)
        assert np.allclose(item["image"].numpy(), expected, rtol=1e-6, atol=0)


def test_a_chip_with_one_month_of_sentinel_2(whole: Path) -> None:
    assert biomass.months_of("00060b12") == ("11",)
    image = items(opened(recipe("biomassters-s2"), whole), "test")["00060b12"]["image"]
    assert np.array_equal(image.numpy(), biomass.s2("00060b12", "11")[:10])


def test_decibels_keep_their_fractions(whole: Path) -> None:
    image = items(opened(recipe("biomassters-s1"), whole), "test")["0003d2ec"]["image"].numpy()
    assert (image % 1 != 0).mean() > 0.9


def test_minus_9999_is_no_data(whole: Path) -> None:
    """A corner lacks one month, the last pixel all of them."""
    image = items(opened(recipe("biomassters-s1"), whole), "test")["0003d2ec"]["image"].numpy()
    assert (image[:, -1, -1] == 0).all()
    assert image.min() > -60
    assert (image[:, :3, :3] < -5).all()


def test_the_probability_of_clouds_is_no_band(whole: Path) -> None:
    image = items(opened(recipe("biomassters-s2"), whole), "test")["0003d2ec"]["image"]
    assert image.shape == (10, 32, 32)
    assert recipe("biomassters-s2").bands[-1] == "swir22"


@pytest.mark.parametrize("split", ["train", "test"])
def test_biomass_of_training_and_test(split: str, whole: Path) -> None:
    for chip, item in items(opened(recipe(), whole), split).items():
        assert np.array_equal(item["mask"].numpy(), biomass.biomass(chip))


@pytest.mark.parametrize(
    ("name", "other", "channels"),
    [("biomassters-s1", "S2", slice(0, 2)), ("biomassters-s2", "S1", slice(2, 12))],
)
def test_one_sensor_does_not_touch_the_other(
    name: str, other: str, channels: slice, root: Path
) -> None:
    every = items(opened(recipe(), root), "test")["0003d2ec"]["image"]
    for path in root.glob(f"*_features/*_{other}_*.tif"):
        path.unlink()
    image = items(opened(recipe(name), root), "test")["0003d2ec"]["image"]
    assert np.array_equal(image, every[channels])


def test_the_table_of_files_is_not_needed(root: Path) -> None:
    """It has had several names; the names of the files say as much."""
    (root / "biomassters_features_metadata.csv").unlink()
    assert len(ids(opened(recipe(), root))["test"]) == 2


def test_the_sample_layout_opens(sample_data: Callable[[str], Path], tmp_path: Path) -> None:
    """Its chips for test are those for training, and have no biomass of their own."""
    root = Path(shutil.copytree(sample_data("layouts") / "biomassters", tmp_path / "biomassters"))
    shutil.copytree(root / "train_agbm", root / "test_agbm")
    data = opened(recipe(dataset__split__val=0.5), root)
    assert data.sample_counts == {"train": 1, "val": 1, "test": 2}
    item = items(data, "test")["000aa810"]
    assert item["image"].shape == (12, 32, 32)
    assert item["mask"].shape == (32, 32)
