"""The Inria recipe over its real layout: the first images of each city test."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from eosfm_cli.data.sources import open_source
from eosfm_cli.errors import DataError
from eosfm_cli.recipe import load_recipe
from tests.datasets import inria_aerial
from tests.datasets.inria_aerial import CITIES, NAMES
from tests.datasets.opening import ids, items, opened, plain_recipe
from tests.listening import Listener
from tests.rasters import write_tif

OFFICIAL = {f"{city}{number}" for city in CITIES for number in (1, 2, 3, 4, 5)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All images; not to be changed."""
    root = tmp_path_factory.mktemp("whole") / "inria-aerial"
    inria_aerial.write(root)
    return root


@pytest.fixture
def root(whole: Path, tmp_path: Path) -> Path:
    """A copy to be spoilt."""
    return Path(shutil.copytree(whole, tmp_path / "inria-aerial"))


def test_every_image_has_its_own_buildings_and_bands(whole: Path) -> None:
    data = opened(plain_recipe("inria-aerial", tile__size=64, tile__train="grid"), whole)
    found = {name: item for split in ids(data) for name, item in items(data, split).items()}
    assert sorted(found) == sorted(NAMES)
    for name, item in found.items():
        assert np.array_equal(item["image"].numpy(), inria_aerial.pixels(name))
        assert np.array_equal(item["mask"].numpy(), inria_aerial.buildings(name))


def test_the_first_five_images_of_each_city_test(whole: Path) -> None:
    parts = ids(opened(plain_recipe("inria-aerial"), whole))
    assert set(parts["test"]) == OFFICIAL
    assert sorted(parts["train"] + parts["val"]) == sorted(set(NAMES) - OFFICIAL)
    assert len(parts["val"]) == 8


def test_it_may_lie_without_the_archives_folder(tmp_path: Path) -> None:
    root = tmp_path / "inria-aerial"
    inria_aerial.write(root, folder=".")
    assert set(ids(opened(plain_recipe("inria-aerial"), root))["test"]) == OFFICIAL


# ------------------------------------------------------------------ what other loaders get wrong


def test_a_number_in_the_roots_name_decides_nothing(root: Path) -> None:
    moved = root.rename(root.parent / "inria2")
    data = opened(plain_recipe("inria-aerial", dataset__root="inria2"), moved)
    assert set(ids(data)["test"]) == OFFICIAL
    assert ids(data)["train"]


def test_the_whole_image_is_evaluated(whole: Path) -> None:
    """Not its middle alone: every labelled pixel counts, and once."""
    data = opened(plain_recipe("inria-aerial", tile__size=32, tile__stride=24), whole)
    counts = np.zeros(256, int)
    for item in data.dataset("test"):
        counts += np.bincount(item["mask"].flatten(), minlength=256)
    labels = [inria_aerial.buildings(name) for name in OFFICIAL]
    assert counts[:2].tolist() == np.bincount(np.ravel(labels)).tolist()


def test_images_without_labels_are_no_samples(whole: Path) -> None:
    """Their labels are withheld, and none are made up."""
    parts = ids(opened(plain_recipe("inria-aerial"), whole))
    assert not set(inria_aerial.WITHHELD) & {name for part in parts.values() for name in part}


def test_pairs_are_not_made_by_sorting(root: Path) -> None:
    (root / "AerialImageDataset/train/gt/chicago6.tif").unlink()
    with pytest.raises(DataError, match=r"chicago6\.tif"):
        open_source(load_recipe("inria-aerial"), root.parent)


def test_who_has_some_of_the_cities_trains_on_them(root: Path) -> None:
    """With `absent: skip`; otherwise what the split names and is not there is told."""
    for path in root.rglob("vienna*.tif"):
        path.unlink()
    (root / "AerialImageDataset/train/gt/austin1.tif").unlink()
    with pytest.raises(DataError, match="vienna1") as caught:
        open_source(load_recipe("inria-aerial"), root.parent)
    assert "dataset.split.absent=skip" in caught.value.hint
    listener = Listener()
    parts = ids(opened(plain_recipe("inria-aerial", dataset__split__absent="skip"), root, listener))
    assert set(parts["test"]) == {n for n in OFFICIAL if "vienna" not in n} - {"austin1"}
    there = {name for name in NAMES if "vienna" not in name} - {"austin1"}
    assert {name for part in parts.values() for name in part} == there
    said = "\n".join(listener.warnings)
    assert "vienna1" in said
    assert "austin1" in said


def test_labels_are_read_by_their_values(root: Path) -> None:
    """Whatever is not 0 is no building just so: 255 is, and others are told."""
    write_tif(root / "AerialImageDataset/train/gt/vienna1.tif", np.full((64, 64), 2, np.uint8))
    data = opened(plain_recipe("inria-aerial", tile__size=64), root)
    with pytest.raises(DataError, match="labels that no class of the recipe lists: 2"):
        items(data, "test")


def test_the_sample_layout_opens(sample_data: Callable[[str], Path]) -> None:
    """It has one city, 8 × 8 pixels, and writes buildings as 1."""
    root = sample_data("layouts") / "inria"
    classes = [{"name": "no building", "values": [0]}, {"name": "building", "values": [1]}]
    split = {"by": "scene", "pattern": "^(.*)$", "val": ["austin6"], "test": sorted(OFFICIAL)[:5]}
    own = {"dataset__root": "inria", "dataset__split": split, "classes": classes}
    recipe = plain_recipe("inria-aerial", tile__size=32, **own)
    data = opened(recipe, root)
    assert data.sample_counts == {"train": 1, "val": 1, "test": 5}
    assert ids(data)["train"] == ["austin7"]
    for item in items(data, "test").values():
        assert set(item["mask"].unique().tolist()) <= {0, 1, 255}
