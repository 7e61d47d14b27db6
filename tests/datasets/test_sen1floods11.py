"""The Sen1Floods11 recipe over the layout of its bucket."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from eosfm_cli.recipe import Recipe
from tests.datasets import sen1floods11 as floods
from tests.datasets.opening import ids, items, opened, plain_recipe


def recipe(name: str = "sen1floods11") -> Recipe:
    return plain_recipe(name, tile__size=64)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All chips; not to be changed."""
    root = tmp_path_factory.mktemp("whole") / "sen1floods11"
    floods.write(root)
    return root


@pytest.fixture
def root(whole: Path, tmp_path: Path) -> Path:
    """A copy to be spoilt."""
    return Path(shutil.copytree(whole, tmp_path / "sen1floods11"))


def test_the_official_lists_as_the_bucket_has_them(whole: Path) -> None:
    """CSV files of pairs; a chip's name may be the beginning of another's."""
    found = {split: set(listed) for split, listed in ids(opened(recipe(), whole)).items()}
    lists = floods.LISTS
    assert found == {
        "train": set(lists["train"]),
        "val": set(lists["valid"]),
        "test": set(lists["test"]),
    }


def test_a_flood_never_seen(whole: Path) -> None:
    found = ids(opened(recipe("sen1floods11-bolivia"), whole))
    assert found["test"] == ["Bolivia_103757"]
    assert found["train"] == ids(opened(recipe(), whole))["train"]


@pytest.mark.parametrize(("split", "listed"), [("train", "train"), ("val", "valid")])
def test_both_sensors_with_values_as_in_the_files(split: str, listed: str, whole: Path) -> None:
    found = items(opened(recipe(), whole), split)
    for chip in floods.LISTS[listed]:
        expected = np.nan_to_num(floods.pixels(chip)).astype(np.float32)
        assert np.array_equal(found[chip]["image"].numpy(), expected)


def test_decibel_without_a_value_is_the_mean_of_its_band(whole: Path) -> None:
    image = items(opened(recipe(), whole), "test")["Spain_7370579"]["image"]
    assert image[0, 3, 5] == 0
    assert image[0, 3, 6] == -floods.CHIPS.index("Spain_7370579")
    assert image[1, 3, 5] != 0


def test_pixels_that_are_not_known_are_ignored(whole: Path) -> None:
    found = items(opened(recipe(), whole), "train")
    for chip in floods.LISTS["train"]:
        values = floods.labels(chip).astype(int)
        expected = np.where(values == -1, 255, values)
        assert np.array_equal(found[chip]["mask"].numpy(), expected)


@pytest.mark.parametrize(
    ("name", "other", "channels"),
    [
        ("sen1floods11-s1", "S2Hand", slice(0, 2)),
        ("sen1floods11-s2", "S1Hand", slice(2, 15)),
    ],
)
def test_one_sensor_does_not_touch_the_other(
    name: str, other: str, channels: slice, root: Path
) -> None:
    every = items(opened(recipe(), root), "test")["Ghana_1032720"]["image"]
    shutil.rmtree(root / floods.HAND / other)
    image = items(opened(recipe(name), root), "test")["Ghana_1032720"]["image"]
    assert np.array_equal(image, every[channels])
