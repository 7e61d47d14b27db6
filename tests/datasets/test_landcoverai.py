"""The LandCover.ai recipe over sheets and chips: the official archive and its cut-up copy."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch

from eosfm_cli.data.datamodule import TileDataModule
from eosfm_cli.data.sources import open_source
from eosfm_cli.errors import DataError
from eosfm_cli.recipe import load_recipe
from tests.datasets import landcoverai
from tests.datasets.landcoverai import CHIP_SETTINGS, OFFICIAL, SHEETS, chip
from tests.datasets.opening import ids, items, opened, plain_recipe


@pytest.fixture(scope="module")
def sheets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The official archive; not to be changed."""
    root = tmp_path_factory.mktemp("sheets") / "landcoverai"
    landcoverai.write_sheets(root)
    return root


@pytest.fixture(scope="module")
def chips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The copy cut into chips; not to be changed."""
    root = tmp_path_factory.mktemp("chips") / "landcoverai"
    landcoverai.write_chips(root)
    return root


def of_chips(variant: str, root: Path, **overrides: Any) -> TileDataModule:
    settings = {key.replace(".", "__"): value for key, value in CHIP_SETTINGS.items()}
    given = {"tile__size": 32, **settings, **overrides}
    return opened(plain_recipe(f"landcoverai-{variant}", **given), root)


def block(name: str) -> str:
    """The sheet of 1:100,000 that a sheet or chip is part of."""
    return "-".join(name.split("-")[:3])


def test_every_sheet_has_its_own_labels_and_bands(sheets: Path) -> None:
    data = opened(plain_recipe("landcoverai", tile__size=64, tile__train="grid"), sheets)
    found = {name: item for split in ids(data) for name, item in items(data, split).items()}
    assert sorted(found) == sorted(SHEETS)
    for name, item in found.items():
        assert np.array_equal(item["image"].numpy(), landcoverai.pixels(name))
        assert np.array_equal(item["mask"].numpy(), landcoverai.classes(name))


@pytest.mark.parametrize("variant", ["chips", "official"])
def test_every_chip_has_its_own_labels_and_bands(variant: str, chips: Path) -> None:
    data = of_chips(variant, chips)
    found = {name: item for split in ids(data) for name, item in items(data, split).items()}
    assert len(found) == 4 * len(SHEETS)
    for name, item in found.items():
        sheet, _, number = name.rpartition("_")
        pixels = chip(landcoverai.pixels(sheet), int(number))
        assert np.abs(item["image"].numpy() - pixels).max() <= 3
        mask = chip(landcoverai.classes(sheet), int(number))
        assert np.array_equal(item["mask"].numpy(), mask)


def test_neighbouring_sheets_stay_together(sheets: Path, chips: Path) -> None:
    for data in (opened(plain_recipe("landcoverai"), sheets), of_chips("chips", chips)):
        blocks = {split: {block(name) for name in names} for split, names in ids(data).items()}
        assert sum(map(len, blocks.values())) == len({block(sheet) for sheet in SHEETS})
        assert all(blocks.values())


def test_chips_split_as_the_sheets_do(sheets: Path, chips: Path) -> None:
    whole = ids(opened(plain_recipe("landcoverai"), sheets))
    for split, names in ids(of_chips("chips", chips)).items():
        assert {re.sub(r"_\d+$", "", name) for name in names} == set(whole[split])


def test_the_official_lists(chips: Path) -> None:
    for split, names in ids(of_chips("official", chips)).items():
        assert sorted(names) == sorted(f"{s}_{n}" for s in SHEETS for n in OFFICIAL[split])


# ------------------------------------------------------------------ what other loaders get wrong


def test_the_official_archive_is_enough(sheets: Path) -> None:
    """There is no output folder until its script has run; the sheets are read by windows."""
    assert not (sheets / "output").exists()
    data = opened(plain_recipe("landcoverai", tile__size=32), sheets)
    assert len(data.dataset("test")) == 4 * data.sample_counts["test"]
    assert plain_recipe("landcoverai").tile.train == "random"


def test_background_is_a_class_also_where_files_call_it_nodata(
    sheets: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(sheets, tmp_path / "landcoverai"))
    for path in (root / "masks").iterdir():
        with rasterio.open(path, "r+") as mask:
            mask.nodata = 0
    data = opened(plain_recipe("landcoverai", tile__size=64, tile__train="grid"), root)
    for name, item in items(data, "test").items():
        assert np.array_equal(item["mask"].numpy(), landcoverai.classes(name))


def test_turned_masks_gain_no_background(sheets: Path) -> None:
    """Training tiles are turned by quarters: nothing has to be filled in."""
    data = opened(plain_recipe("landcoverai", tile__size=64, training__augment=True), sheets)
    names = ids(data)["train"]
    for epoch in range(2):
        for index, name in enumerate(names):
            mask = data.dataset("train")[epoch, index]["mask"]
            classes = np.bincount(landcoverai.classes(name).ravel(), minlength=5)
            assert torch.bincount(mask.flatten(), minlength=5).tolist() == classes.tolist()


def test_a_missing_chip_is_told(chips: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(chips, tmp_path / "landcoverai"))
    (root / f"output/{SHEETS[0]}_2_m.png").unlink()
    with pytest.raises(DataError, match=f"{SHEETS[0]}_2"):
        open_source(load_recipe("landcoverai-official", CHIP_SETTINGS), root.parent)


def test_the_sample_layout_opens(sample_data: Callable[[str], Path], tmp_path: Path) -> None:
    """One sheet and two chips of it: a third is made of the first."""
    root = Path(shutil.copytree(sample_data("layouts") / "landcoverai", tmp_path / "landcoverai"))
    chip = "M-33-20-D-c-4-2"
    for ending in (".jpg", "_m.png"):
        shutil.copy(root / f"output/{chip}_0{ending}", root / f"output/{chip}_2{ending}")
    split = {"by": "list", "train": [f"{chip}_0"], "val": [f"{chip}_2"], "test": [f"{chip}_1"]}
    settings = {"dataset__shape": [64, 64], "tile__size": 64, "dataset__split": split}
    data = of_chips("chips", root, **settings)
    item = items(data, "test")[f"{chip}_1"]
    assert item["image"].shape == (3, 64, 64)
    assert item["mask"].unique().tolist() == [0, 1, 2, 3]
    with pytest.raises(DataError, match="Splits overlap"):
        of_chips("official", root, dataset__shape=[64, 64])
