"""The PASTIS-R recipe over its own layout: arrays of all dates, folds in a table."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from eosfm_cli.recipe import Recipe
from tests.datasets import pastis
from tests.datasets.opening import ids, items, opened, plain_recipe


def recipe(name: str = "pastis", **overrides: object) -> Recipe:
    return plain_recipe(name, tile__size=32, **overrides)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All patches; not to be changed."""
    root = tmp_path_factory.mktemp("whole") / "pastis"
    pastis.write(root)
    return root


@pytest.fixture
def root(whole: Path, tmp_path: Path) -> Path:
    """A copy to be spoilt."""
    return Path(shutil.copytree(whole, tmp_path / "pastis"))


def known(pixels: np.ndarray) -> np.ndarray:
    """Float32 with 0 where nothing is known, as standardised values of mean 0 have it."""
    return np.nan_to_num(pixels).astype(np.float32)


def test_the_official_folds(whole: Path) -> None:
    folds = dict(zip(map(str, pastis.PATCHES), pastis.FOLDS, strict=True))
    found = ids(opened(recipe(), whole))
    assert {split: {folds[name] for name in listed} for split, listed in found.items()} == {
        "train": {1, 2, 3},
        "val": {4},
        "test": {5},
    }
    assert sum(map(len, found.values())) == len(pastis.PATCHES)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_the_median_of_all_dates_that_are_known(split: str, whole: Path) -> None:
    """However many dates there are, none is cut off and none is filled up."""
    found = items(opened(recipe(), whole), split)
    for name, item in found.items():
        expected = known(pastis.middle(pastis.s2(int(name))))
        assert item["image"].shape == (10, 32, 32)
        assert np.array_equal(item["image"].numpy(), expected)


def test_minus_10000_is_no_data(whole: Path) -> None:
    """One patch has a single date, and a corner of that is not known."""
    image = items(opened(recipe(), whole), "val")["20003"]["image"].numpy()
    assert (image[:, :4, :4] == 0).all()
    assert (image[:, 4:] > 0).all()


def test_labels_are_the_first_layer_and_void_is_none(whole: Path) -> None:
    found = items(opened(recipe(), whole), "train")
    for name, item in found.items():
        values = pastis.labels(int(name)).astype(int)
        assert np.array_equal(item["mask"].numpy(), np.where(values == 19, 255, values))


@pytest.mark.parametrize(("name", "orbit"), [("pastis-s1", "A"), ("pastis-s1d", "D")])
def test_sentinel_1_of_each_orbit_reads_its_files_alone(name: str, orbit: str, root: Path) -> None:
    for folder in ("DATA_S2", "DATA_S1A", "DATA_S1D"):
        if not folder.endswith(orbit):
            shutil.rmtree(root / "PASTIS-R" / folder)
    for patch, item in items(opened(recipe(name), root), "test").items():
        expected = known(pastis.middle(pastis.s1(int(patch), orbit)))[:2]
        assert np.array_equal(item["image"].numpy(), expected)


def test_sentinel_2_reads_its_files_alone(root: Path) -> None:
    for folder in ("DATA_S1A", "DATA_S1D"):
        shutil.rmtree(root / "PASTIS-R" / folder)
    assert items(opened(recipe("pastis-s2"), root), "test")["30001"]["image"].shape[0] == 10


def test_sensors_together(whole: Path) -> None:
    """Each with its own dates."""
    image = items(opened(recipe("pastis-all"), whole), "test")["30002"]["image"].numpy()
    s1, s2 = pastis.s1(30002, "A"), pastis.s2(30002)
    assert len(s1) != len(s2)
    assert np.array_equal(image[:2], known(pastis.middle(s1))[:2])
    assert np.array_equal(image[2:], known(pastis.middle(s2)))


def test_without_the_folder_of_the_archive(whole: Path, tmp_path: Path) -> None:
    root = tmp_path / "pastis"
    pastis.write(root, folder="")
    assert ids(opened(recipe(), root)) == ids(opened(recipe(), whole))


def test_the_sample_layout_opens(sample_data: Callable[[str], Path], tmp_path: Path) -> None:
    root = tmp_path / "pastis"
    with zipfile.ZipFile(sample_data("layouts") / "pastis" / "PASTIS-R.zip") as archive:
        archive.extractall(root)
    data = opened(recipe("pastis-all"), root)
    assert ids(data) == {"train": ["0", "1", "2"], "val": ["3"], "test": ["4"]}
    array = np.load(root / "PASTIS-R/DATA_S2/S2_4.npy").astype(float)
    image = items(data, "test")["4"]["image"].numpy()
    assert np.array_equal(image[2:], np.median(array, axis=0))
