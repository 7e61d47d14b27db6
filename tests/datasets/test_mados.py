"""The MADOS recipe over its own layout: a file per band, in folders by pixel size."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from eosfm_cli.data.sources import open_source
from eosfm_cli.errors import DataError
from eosfm_cli.recipe import Recipe, load_recipe
from tests.datasets import mados
from tests.datasets.opening import ids, items, opened, plain_recipe
from tests.rasters import write_tif


def recipe(name: str = "mados") -> Recipe:
    return plain_recipe(name, tile__size=64, **mados.SETTINGS)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All crops; not to be changed."""
    root = tmp_path_factory.mktemp("whole") / "mados"
    mados.write(root)
    return root


@pytest.fixture
def root(whole: Path, tmp_path: Path) -> Path:
    """A copy to be spoilt."""
    return Path(shutil.copytree(whole, tmp_path / "mados"))


def test_the_official_lists_with_names_that_begin_alike(whole: Path) -> None:
    found = ids(opened(recipe(), whole))
    assert {split: set(listed) for split, listed in found.items()} == {
        split: {mados.name(crop) for crop in crops} for split, crops in mados.LISTS.items()
    }


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_bands_of_both_satellites_are_found_by_wavelength(split: str, whole: Path) -> None:
    found = items(opened(recipe(), whole), split)
    for crop in mados.LISTS[split]:
        image = found[mados.name(crop)]["image"][:, : mados.PX, : mados.PX].numpy()
        assert np.array_equal(image, np.nan_to_num(mados.pixels(crop)))


def test_coarse_bands_are_repeated_and_not_blurred(whole: Path) -> None:
    image = items(opened(recipe(), whole), "test")["Scene_12_1"]["image"].numpy()
    assert np.array_equal(image[0, :6, :6], np.full((6, 6), image[0, 0, 0]))
    assert image[0, 0, 6] == image[0, 0, 0] + 8
    assert image[4, 0, 2] == image[4, 0, 0] + 8


def test_what_is_not_a_number_is_the_mean(whole: Path) -> None:
    image = items(opened(recipe(), whole), "val")["Scene_2_1"]["image"].numpy()
    last = image[:, mados.PX - 6 : mados.PX, mados.PX - 6 : mados.PX]
    assert (last[0] == 0).all()
    assert (last[1:] != 0).all()


def test_pixels_without_label_are_no_class(whole: Path) -> None:
    masks = items(opened(recipe(), whole), "train")
    for crop in mados.LISTS["train"]:
        found = masks[mados.name(crop)]["mask"].numpy()
        values = mados.labels(crop).astype(int)
        expected = np.where(values == 0, 255, values - 1)
        assert np.array_equal(found[: mados.PX, : mados.PX], expected)
        assert (found[mados.PX :] == 255).all()
    classes = load_recipe("mados").class_names
    assert (classes[0], classes[5], classes[14]) == ("marine debris", "oil spill", "sea snot")


def test_true_colour_takes_three_bands_and_their_files_alone(root: Path) -> None:
    every = items(opened(recipe(), root), "test")["Scene_3_12"]["image"]
    for folder in [*root.glob("MADOS/*/20"), *root.glob("MADOS/*/60")]:
        shutil.rmtree(folder)
    image = items(opened(recipe("mados-rgb"), root), "test")["Scene_3_12"]["image"]
    assert np.array_equal(image, every[[3, 2, 1]])


def test_a_band_that_is_missing_is_told_and_no_other_taken(root: Path) -> None:
    (root / "MADOS/Scene_1/20/Scene_1_L2R_rhorc_2186_1.tif").unlink()
    with pytest.raises(DataError, match="Scene_1_1") as caught:
        open_source(recipe(), root.parent)
    assert "Scene_1_L2R_rhorc_2186_1.tif" in caught.value.message


def test_a_crop_without_labels_is_no_tile(root: Path) -> None:
    path = root / "MADOS/Scene_11/10/Scene_11_L2R_cl_2.tif"
    write_tif(path, np.zeros((mados.PX, mados.PX), np.uint8))
    data = opened(recipe(), root)
    assert len(data.source.samples["train"]) == 4
    assert len(data.dataset("train")) == 3
