"""The cloud cover recipe over both real layouts: chips of places, a file per band."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eosfm_cli.data.sources import open_source
from eosfm_cli.errors import DataError
from eosfm_cli.recipe import Recipe
from tests.datasets import cloud_cover as clouds
from tests.datasets.opening import ids, items, opened, plain_recipe
from tests.listening import Listener
from tests.rasters import write_tif


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("whole") / "cloud_cover"
    clouds.write(root)
    return root


@pytest.fixture
def root(whole: Path, tmp_path: Path) -> Path:
    """A copy to be spoilt."""
    return Path(shutil.copytree(whole, tmp_path / "cloud_cover"))


def recipe(name: str = "cloud-cover", **overrides: Any) -> Recipe:
    settings = {key.replace(".", "__"): value for key, value in clouds.SETTINGS.items()}
    return plain_recipe(name, **{**settings, **overrides})


def chips(root: Path, name: str = "cloud-cover") -> dict[str, dict[str, Any]]:
    """All samples of a recipe by id."""
    data = opened(recipe(name), root)
    return {
        key: item for split in ("train", "val", "test") for key, item in items(data, split).items()
    }


def test_images_and_labels_stay_together(whole: Path) -> None:
    found = chips(whole)
    assert set(found) == set(clouds.CHIPS)
    for chip, item in found.items():
        assert np.array_equal(item["image"].numpy(), clouds.pixels(chip))
        assert np.array_equal(item["mask"].numpy(), clouds.labels(chip))


def test_the_test_chips_are_the_official_ones(whole: Path) -> None:
    listener = Listener()
    data = opened(recipe(), whole, listener)
    assert ids(data)["test"] == sorted(clouds.TEST)
    assert not listener.warnings


def test_a_place_validates_as_a_whole(whole: Path) -> None:
    """Chips of one place show the same ground at other dates."""
    drawn = set()
    for seed in range(4):
        found = ids(opened(recipe(dataset__split__seed=seed), whole))
        train, val = ({clouds.TRAIN[chip] for chip in found[split]} for split in ("train", "val"))
        assert len(val) == 1
        assert len(train) == 4
        assert not train & val
        assert sorted(found["train"] + found["val"]) == sorted(clouds.TRAIN)
        drawn |= val
    assert len(drawn) > 1


def test_true_colour_reads_three_files(root: Path) -> None:
    every = chips(root)
    for path in root.rglob("B08.tif"):
        path.unlink()
    for chip, item in chips(root, "cloud-cover-rgb").items():
        assert torch.equal(item["image"], every[chip]["image"][[2, 1, 0]])


def test_the_buckets_own_folders(tmp_path: Path, whole: Path) -> None:
    root = tmp_path / "cloud_cover"
    clouds.write(root, train="public", test="private")
    assert ids(opened(recipe(), root)) == ids(opened(recipe(), whole))
    assert np.array_equal(chips(root)["zzaw"]["image"].numpy(), clouds.pixels("zzaw"))


def test_clear_is_a_class_where_files_call_it_nodata(root: Path) -> None:
    for split, listed in (("train", clouds.TRAIN), ("test", clouds.TEST)):
        for chip in listed:
            path = root / split / f"{split}_labels" / f"{chip}.tif"
            write_tif(path, clouds.labels(chip).astype(np.uint8), nodata=0)
    for chip, item in chips(root).items():
        assert np.array_equal(item["mask"].numpy(), clouds.labels(chip))


def test_the_sample_layout_opens(sample_data: Callable[[str], Path], tmp_path: Path) -> None:
    """It has one chip, twice, with labels at random: three are made of it."""
    root = tmp_path / "cloud_cover"
    shutil.copytree(sample_data("layouts") / "ref_cloud_cover_detection_challenge_v1", root)
    for split, folder, chip in (("train", "public", "aaab"), ("test", "private", "zzzz")):
        features, labels = (root / folder / f"{split}_{kind}" for kind in ("features", "labels"))
        shutil.copytree(features / "aaaa", features / chip)
        shutil.copy(labels / "aaaa.tif", labels / f"{chip}.tif")
        table = root / folder / f"{split}_metadata.csv"
        table.write_text(f"{table.read_text().strip()}\n{chip},Lusaka,2020-04-29T08:20:47Z\n")
    shutil.rmtree(features / "aaaa")
    (labels / "aaaa.tif").unlink()
    table.write_text("chip_id,location\nzzzz,Lusaka\n")
    settings = {"dataset__shape": None, "dataset__masks__unknown": "ignore"}
    data = opened(recipe(**settings), root)
    assert data.sample_counts == {"train": 1, "val": 1, "test": 1}
    assert data.dataset("test")[0]["image"][:, 0, 0].tolist() == [2732] * 4


def test_a_chip_that_the_table_lacks(root: Path) -> None:
    table = root / "train" / "train_metadata.csv"
    lines = table.read_text().splitlines(keepends=True)
    table.write_text("".join(line for line in lines if not line.startswith("aebi")))
    with pytest.raises(DataError, match="aebi"):
        open_source(recipe(), root.parent)


def test_one_label_missing(root: Path) -> None:
    (root / "train/train_labels/aeam.tif").unlink()
    with pytest.raises(DataError, match=r"aeam.*train/train_labels/aeam\.tif"):
        open_source(recipe(), root.parent)
