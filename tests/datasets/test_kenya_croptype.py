"""The CV4A Kenya recipe over its own layout: a file per band and date, fields split by number."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eosfm_cli.data.datamodule import TileDataModule
from eosfm_cli.data.sources import open_source
from eosfm_cli.errors import DataError
from eosfm_cli.recipe import Recipe, load_recipe
from tests.datasets import kenya_croptype as kenya
from tests.datasets.opening import items, opened, plain_recipe

SPLITS = ("train", "val", "test")
Found = Mapping[str, Mapping[str, dict[str, Any]]]


def recipe(name: str = "kenya-croptype", **overrides: object) -> Recipe:
    return plain_recipe(name, tile__size=32, tile__train="grid", **overrides)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All tiles; not to be changed."""
    root = tmp_path_factory.mktemp("whole") / "kenya_croptype"
    kenya.write(root)
    return root


@pytest.fixture
def root(whole: Path, tmp_path: Path) -> Path:
    """A copy to be spoilt."""
    return Path(shutil.copytree(whole, tmp_path / "kenya_croptype"))


@pytest.fixture(scope="module")
def data(whole: Path) -> TileDataModule:
    """What the recipe makes of them."""
    return opened(recipe(), whole)


@pytest.fixture(scope="module")
def found(data: TileDataModule) -> Found:
    """The samples of each split by the number of their tile."""
    return {split: items(data, split) for split in SPLITS}


def test_every_field_with_a_crop_is_in_one_split(data: TileDataModule) -> None:
    areas = data.source.areas
    known = [kenya.fields(tile)[kenya.labels(tile) > 0] for tile in kenya.TILES]
    assert set().union(*areas.values()) == set(np.concatenate(known).tolist())
    assert [len(areas[split]) for split in SPLITS] == [18, 4, 4]
    assert len(set().union(*areas.values())) == 26


def test_labels_are_those_of_the_splits_own_fields(data: TileDataModule, found: Found) -> None:
    for split in SPLITS:
        assert set(found[split]) == {"0", "1"}
        for tile in kenya.TILES:
            inside = np.isin(kenya.fields(tile), list(data.source.areas[split]))
            values = kenya.labels(tile).astype(int)
            expected = np.where(inside & (values > 0), values - 1, 255)
            assert np.array_equal(found[split][str(tile)]["mask"].numpy(), expected)


def test_seven_classes_and_no_field_is_none_of_them(
    found: Found,
) -> None:
    masks = [item["mask"] for split in SPLITS for item in found[split].values()]
    assert {int(value) for mask in masks for value in mask.unique()} == {*range(7), 255}
    assert len(load_recipe("kenya-croptype").classes) == 7


def test_the_test_split_has_labels(found: Found) -> None:
    assert sum(int((item["mask"] != 255).sum()) for item in found["test"].values()) > 0


def test_a_sample_is_one_image_with_the_median_of_all_dates(
    found: Found,
) -> None:
    for tile in kenya.TILES:
        image = found["train"][str(tile)]["image"]
        assert image.shape == (12, 32, 32)
        assert np.array_equal(image.numpy(), kenya.pixels(tile))


def test_one_date_reads_that_date_alone(root: Path) -> None:
    for date in kenya.DATES[1:]:
        shutil.rmtree(root / "data/0" / date)
        shutil.rmtree(root / "data/1" / date)
    found = items(opened(recipe("kenya-croptype-first"), root), "val")
    assert np.array_equal(found["1"]["image"].numpy(), kenya.pixels(1, "20190606"))


def test_another_date_is_chosen_by_its_name(whole: Path) -> None:
    chosen = recipe(dataset__series__dates=["20190721"])
    found = items(opened(chosen, whole), "val")
    assert np.array_equal(found["0"]["image"].numpy(), kenya.pixels(0, "20190721"))


def test_true_colour_reads_three_bands(root: Path) -> None:
    for path in root.rglob("*.tif"):
        if path.name.split("_")[1] not in {"B02", "B03", "B04", "label.tif", "field"}:
            path.unlink()
    found = items(opened(recipe("kenya-croptype-rgb"), root), "train")
    assert np.array_equal(found["0"]["image"].numpy(), kenya.pixels(0)[[3, 2, 1]])


def test_a_date_that_is_missing_is_told(root: Path) -> None:
    (root / "data/1/20190924/1_B11_20190924.tif").unlink()
    with pytest.raises(DataError, match=r"1_B11_20190924\.tif"):
        open_source(recipe(), root.parent)


def test_the_sample_layout_opens(sample_data: Callable[[str], Path]) -> None:
    """One tile of 2 × 2 pixels at one date, with four fields and labels of chance."""
    root = sample_data("layouts") / "cv4a_kenya_crop_type"
    chosen = recipe(
        "kenya-croptype-first",
        dataset__root=root.name,
        dataset__split={
            "by": "area",
            "path": "data/{tile}/{tile}_field_id.tif",
            "val": 0.25,
            "test": 0.25,
        },
        dataset__masks__unknown="ignore",
        tile__unlabelled="keep",
    )
    data = opened(chosen, root)
    assert data.sample_counts == {"train": 1, "val": 1, "test": 1}
    assert [len(data.source.areas[split]) for split in SPLITS] == [2, 1, 1]
    assert data.dataset("train")[0]["image"].shape == (12, 32, 32)
