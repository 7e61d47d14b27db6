"""The OSCD recipe and its variant over the real layout: cities of odd sizes, a file per band."""

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
from tests.datasets import oscd
from tests.datasets.opening import ids, items, opened, plain_recipe
from tests.listening import Listener
from tests.rasters import write_image

THREE = {"by": "list", "train": ["bercy"], "val": ["paris"], "test": ["rio"]}
FIVE = {**THREE, "train": ["bercy", "pisa", "rennes"]}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("whole") / "oscd"
    oscd.write(root)
    return root


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("five") / "oscd"
    oscd.write(root, ["bercy", "pisa", "rennes", "paris", "rio"])
    return root


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """Three cities to be spoilt."""
    root = tmp_path / "oscd"
    oscd.write(root, ["bercy", "paris", "rio"])
    return root


def test_the_official_cities(whole: Path) -> None:
    listener = Listener()
    found = ids(opened(plain_recipe("oscd"), whole, listener))
    assert not listener.warnings
    assert found["test"] == sorted(oscd.TEST)
    assert sorted(found["train"] + found["val"]) == sorted(oscd.TRAIN)
    assert len(found["val"]) == 3


def test_both_dates_and_the_label_stay_together(five: Path) -> None:
    data = opened(plain_recipe("oscd", tile__train="grid", dataset__split=FIVE), five)
    for split in ("train", "val", "test"):
        for city, item in items(data, split).items():
            height, width = oscd.shape(city)
            assert np.array_equal(item["image"][:, :, :height, :width], oscd.pixels(city))
            assert np.array_equal(item["mask"][:height, :width], oscd.labels(city))
            assert (item["mask"][height:] == 255).all()
            assert (item["mask"][:, width:] == 255).all()


def test_true_colour_reads_three_files_of_a_date(three: Path) -> None:
    every = opened(plain_recipe("oscd", dataset__split=THREE), three).dataset("val")[0]["image"]
    for path in three.glob("*/*/imgs_*/*.tif"):
        if path.stem not in {"B02", "B03", "B04"}:
            path.unlink()
    image = opened(plain_recipe("oscd-rgb", dataset__split=THREE), three).dataset("val")[0]
    assert torch.equal(image["image"], every[[3, 2, 1]])


def test_the_sample_layout_opens(sample_data: Callable[[str], Path]) -> None:
    """Its cities have other names, and its labels all kinds of values."""
    root = sample_data("layouts") / "oscd"
    split = {"by": "list", "train": ["train1"], "val": ["train2"], "test": ["test"]}
    recipe = plain_recipe("oscd", dataset__split=split, dataset__masks__unknown="ignore")
    data = opened(recipe, root)
    assert data.sample_counts == {"train": 1, "val": 1, "test": 1}
    image = data.dataset("test")[0]["image"]
    assert image[:2, :, 0, 0].tolist()[0] == [21338, 49342]
    assert image[8, 0, 0, 0] == 47283, "B8A stands behind B08"


def test_where_a_label_is_transparent_nothing_changed(three: Path) -> None:
    (path,) = three.glob("*/rio/cm/cm.png")
    write_image(path, np.stack([255 * oscd.labels("rio")] * 4))
    mask = opened(plain_recipe("oscd-rgb", dataset__split=THREE), three).dataset("test")[0]["mask"]
    height, width = oscd.shape("rio")
    assert np.array_equal(mask[:height, :width], oscd.labels("rio"))


def test_labels_as_geotiff(three: Path) -> None:
    """They count from 1, unlike the pictures."""
    for path in three.glob("*/*/cm/cm.png"):
        path.unlink()
    data = opened(plain_recipe("oscd-rgb", dataset__split=THREE), three)
    height, width = oscd.shape("rio")
    mask = data.dataset("test")[0]["mask"][:height, :width]
    assert np.array_equal(mask, oscd.labels("rio"))


# --------------------------------------------------------------------------- others' defects


def test_both_dates_are_cropped_and_turned_alike(five: Path) -> None:
    settings = {"tile__size": 32, "training__augment": True, "dataset__split": FIVE}
    some = plain_recipe("oscd", bands=["B01", "B8A", "B12"], **settings)
    cut = opened(some, five).dataset("train")
    for index in range(len(cut)):
        before, after = cut[index]["image"].unbind(1)
        assert torch.equal(before[0] + 1, after[0])
        assert torch.equal(before[1:] + 2300, after[1:])


def test_a_city_gives_many_crops_an_epoch(five: Path) -> None:
    data = opened(plain_recipe("oscd-rgb", tile__size=32, dataset__split=FIVE), five)
    counts = np.bincount(data.dataset("train").sample_numbers)
    assert counts.tolist() == [4, 4, 4]


@pytest.mark.parametrize("split", ["val", "test"])
def test_all_of_a_city_is_evaluated_not_its_middle(split: str, five: Path) -> None:
    data = opened(plain_recipe("oscd-rgb", tile__size=32, dataset__split=FIVE), five)
    tiles = data.dataset(split)
    seen = sum(int((tiles[index]["mask"] != 255).sum()) for index in range(len(tiles)))
    cities = ids(data)[split]
    assert seen == sum(height * width for height, width in map(oscd.shape, cities))


def test_the_red_edge_is_where_its_name_says() -> None:
    assert load_recipe("oscd").bands.index("nir08") == 8


def test_a_city_whose_labels_are_not_unpacked(three: Path) -> None:
    shutil.rmtree(three / f"{oscd.ROOT}Test Labels")
    (three / f"{oscd.ROOT}Test Labels.zip").touch()
    with pytest.raises(DataError) as caught:
        open_source(plain_recipe("oscd", dataset__split=THREE), three.parent)
    said = f"{caught.value.message}\n{caught.value.hint}"
    assert "rio" in said
    assert f"{oscd.ROOT}Test Labels.zip" in said


def test_one_band_of_one_date_is_missing(three: Path) -> None:
    (three / f"{oscd.ROOT}Images/bercy/imgs_2_rect/B8A.tif").unlink()
    with pytest.raises(DataError, match=r"bercy.*imgs_2_rect/B8A\.tif"):
        open_source(plain_recipe("oscd", dataset__split=THREE), three.parent)
