"""The MiniFrance recipe over its real layout: regions, strips, names with two endings."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from eosfm_cli.data.sources import open_source
from eosfm_cli.recipe import load_recipe
from tests.datasets import minifrance
from tests.datasets.opening import ids, items, opened, plain_recipe
from tests.listening import Listener
from tests.rasters import write_tif

SPLITS = ("train", "val", "test")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All images; not to be changed."""
    root = tmp_path_factory.mktemp("whole") / "minifrance"
    minifrance.write(root)
    return root


@pytest.fixture
def root(whole: Path, tmp_path: Path) -> Path:
    """A copy to be spoilt."""
    return Path(shutil.copytree(whole, tmp_path / "minifrance"))


def expected(name: str) -> np.ndarray:
    """Class indices of an image: the Urban Atlas counts from 1, 0 and 15 are no classes."""
    labels = minifrance.labels(name).astype(int)
    return np.where((labels == 0) | (labels == 15), 255, labels - 1)


def test_every_image_has_its_own_labels_and_bands(whole: Path) -> None:
    listener = Listener()
    data = opened(plain_recipe("minifrance", tile__size=64, tile__train="grid"), whole, listener)
    assert not listener.warnings
    found = [item for split in SPLITS for item in items(data, split).items()]
    assert sorted(name for name, _ in found) == sorted(minifrance.NAMES)
    for name, item in found:
        assert np.array_equal(item["image"].numpy(), minifrance.pixels(name))
        assert np.array_equal(item["mask"].numpy(), expected(name))


def test_strips_of_the_map_stay_together(whole: Path) -> None:
    parts = ids(opened(plain_recipe("minifrance"), whole))
    strips = {split: {name[:11] for name in names} for split, names in parts.items()}
    assert all(len(strip) == len("06-2014-100") for part in strips.values() for strip in part)
    assert sum(map(len, strips.values())) == len(set().union(*strips.values())) == 8
    assert all(strips.values())


def test_random_crops_of_training_images_alone(whole: Path) -> None:
    data = opened(plain_recipe("minifrance", tile__size=32), whole)
    assert plain_recipe("minifrance").tile.train == "random"
    train = data.dataset("train")
    seen = {int(train[epoch, i]["image"][0].max()) for epoch in (0, 1) for i in range(len(train))}
    assert seen == {minifrance.NAMES.index(sample.id) for sample in data.source.samples["train"]}


@pytest.mark.parametrize(("suffix", "labels_in"), [(".tif", "labels/labels"), (".tif", "labels")])
def test_other_ways_to_unpack_it(suffix: str, labels_in: str, tmp_path: Path) -> None:
    root = tmp_path / "minifrance"
    minifrance.write(root, suffix=suffix, labels_in=labels_in)
    data = opened(plain_recipe("minifrance", tile__size=64), root)
    for name, item in items(data, "test").items():
        assert np.array_equal(item["mask"].numpy(), expected(name))


def test_labels_without_images_are_no_samples(root: Path) -> None:
    """The labels' archive holds all regions; images of two come with them."""
    for name in ("13-2014-0895-6275", "35-2012-0340-6805"):
        labels = root / "labels/labels" / f"D0{name[:2]}" / f"{name}-LA93-0M50-E080_UA2012.tif"
        write_tif(labels, np.ones((64, 64), np.uint8))
    source = open_source(load_recipe("minifrance"), root.parent)
    assert sum(map(len, source.samples.values())) == len(minifrance.NAMES)


def test_labels_without_images_do_not_change_the_split(root: Path, whole: Path) -> None:
    """A share of what can be read is drawn, whatever else the labels' archive holds."""
    for department in range(50, 90):
        name = f"{department}-2014-0{department}5-6500-LA93-0M50-E080"
        folder = root / "labels/labels" / f"D0{department}"
        write_tif(folder / f"{name}_UA2012.tif", np.ones((64, 64), np.uint8))
    assert ids(opened(plain_recipe("minifrance"), root)) == ids(
        opened(plain_recipe("minifrance"), whole)
    )


# ------------------------------------------------------------------ what other loaders get wrong


def test_pairs_are_not_made_by_sorting(root: Path) -> None:
    """An image without labels is left out, and told; nothing shifts."""
    gone = minifrance.NAMES[3]
    next((root / "labels").rglob(f"{gone}*")).unlink()
    listener = Listener()
    data = opened(plain_recipe("minifrance", tile__size=64), root, listener)
    assert any(gone in told for told in listener.warnings), listener.warnings
    kept = [name for name in minifrance.NAMES if name != gone]
    assert sorted(name for part in ids(data).values() for name in part) == kept
    for split in ("val", "test"):
        for name, item in items(data, split).items():
            assert np.array_equal(item["mask"].numpy(), expected(name))


def test_tiles_of_different_splits_do_not_overlap(whole: Path) -> None:
    """Each pixel of an image is in one split, and counts once there."""
    data = opened(plain_recipe("minifrance", tile__size=32, tile__stride=16), whole)
    for split in ("val", "test"):
        counts = np.zeros(256, int)
        for item in data.dataset(split):
            counts += np.bincount(item["mask"].flatten(), minlength=256)
        labels = [expected(sample.id) for sample in data.source.samples[split]]
        assert counts[:14].tolist() == np.bincount(np.ravel(labels), minlength=256)[:14].tolist()


def test_no_information_is_no_class() -> None:
    recipe = load_recipe("minifrance")
    assert recipe.dataset.masks.ignore == (0, 15)
    assert [values for (values,) in recipe.class_values] == list(range(1, 15))
