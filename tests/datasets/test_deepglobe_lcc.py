"""The DeepGlobe recipe over both layouts in which it is passed on: soft colours, unknown places."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from eosfm_cli.data.sources import open_source
from eosfm_cli.errors import DataError
from eosfm_cli.recipe import load_recipe
from tests.datasets import deepglobe_lcc
from tests.datasets.deepglobe_lcc import IDS
from tests.datasets.opening import ids, items, opened, plain_recipe
from tests.rasters import write_image

WRITERS = {"contest": deepglobe_lcc.write, "repack": deepglobe_lcc.write_repack}


@pytest.fixture(scope="module", params=["contest", "repack"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All images in one of the layouts; not to be changed."""
    root = tmp_path_factory.mktemp("whole") / "deepglobe-lcc"
    WRITERS[request.param](root)
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The contest's layout, to be spoilt."""
    deepglobe_lcc.write(tmp_path / "deepglobe-lcc")
    return tmp_path / "deepglobe-lcc"


def expected(name: str) -> np.ndarray:
    """Class indices of an image, 255 where it is unknown."""
    classes = deepglobe_lcc.classes(name)
    return np.where(classes == 6, 255, classes)


def test_every_image_has_its_own_labels_and_bands(whole: Path) -> None:
    data = opened(plain_recipe("deepglobe-lcc", tile__size=64, tile__train="grid"), whole)
    found = {name: item for split in ids(data) for name, item in items(data, split).items()}
    assert sorted(found) == sorted(IDS)
    for name, item in found.items():
        assert np.abs(item["image"].numpy() - deepglobe_lcc.pixels(name)).max() <= 3
        assert np.array_equal(item["mask"].numpy(), expected(name))


def test_both_layouts_have_the_same_split(tmp_path: Path) -> None:
    parts = []
    for layout, write in WRITERS.items():
        root = tmp_path / layout / "deepglobe-lcc"
        write(root)
        parts.append(ids(opened(plain_recipe("deepglobe-lcc"), root)))
    assert parts[0] == parts[1]
    assert {split: len(part) for split, part in parts[0].items()} == {
        "train": 14,
        "val": 3,
        "test": 3,
    }


# ------------------------------------------------------------------ what other loaders get wrong


def test_soft_colours_are_not_urban(root: Path) -> None:
    """Each channel is on from 128: one class's colour at the least and at the most."""
    edges = np.zeros((3, 64, 64), np.uint8)
    edges[:, 0, 0] = (127, 128, 127)  # forest
    edges[:, 0, 1] = (128, 127, 128)  # rangeland
    edges[:, 0, 2] = (127, 127, 127)  # unknown
    edges[:, 0, 3] = (128, 128, 128)  # barren
    edges[:, 0, 4] = (127, 128, 255)  # urban
    split = {"by": "list", "train": [IDS[0]], "val": [IDS[1]], "test": [IDS[2]]}
    write_image(root / "train" / f"{IDS[2]}_mask.png", edges)
    data = opened(plain_recipe("deepglobe-lcc", dataset__split=split, tile__size=64), root)
    mask = items(data, "test")[IDS[2]]["mask"]
    assert mask[0, :6].tolist() == [3, 2, 255, 5, 0, 255]


def test_what_is_unknown_is_no_class() -> None:
    recipe = load_recipe("deepglobe-lcc")
    assert recipe.dataset.masks.ignore == ("#000000",)
    assert len(recipe.classes) == 6


def test_a_colour_of_no_class_is_told(root: Path) -> None:
    red = np.zeros((3, 64, 64), np.uint8)
    red[0] = 255
    split = {"by": "list", "train": [IDS[0]], "val": [IDS[1]], "test": [IDS[2]]}
    write_image(root / "train" / f"{IDS[2]}_mask.png", red)
    data = opened(plain_recipe("deepglobe-lcc", dataset__split=split, tile__size=64), root)
    with pytest.raises(DataError, match="#ff0000"):
        items(data, "test")


def test_the_whole_image_is_evaluated(whole: Path) -> None:
    """Not its middle alone: every labelled pixel counts, and once."""
    data = opened(plain_recipe("deepglobe-lcc", tile__size=32, tile__stride=24), whole)
    counts = np.zeros(256, int)
    for item in data.dataset("test"):
        counts += np.bincount(item["mask"].flatten(), minlength=256)
    labels = [expected(sample.id) for sample in data.source.samples["test"]]
    assert counts[:6].tolist() == np.bincount(np.ravel(labels), minlength=6)[:6].tolist()


def test_images_without_labels_are_no_samples(root: Path) -> None:
    assert (root / "valid").is_dir()
    source = open_source(load_recipe("deepglobe-lcc"), root.parent)
    assert sum(map(len, source.samples.values())) == len(IDS)


def test_a_missing_mask_is_told(root: Path) -> None:
    (root / f"train/{IDS[4]}_mask.png").unlink()
    with pytest.raises(DataError, match=f"{IDS[4]}_mask.png"):
        open_source(load_recipe("deepglobe-lcc"), root.parent)


def test_the_repacks_two_folders_may_lie_beside_the_contests(tmp_path: Path) -> None:
    """Who has both has each image once."""
    root = tmp_path / "deepglobe-lcc"
    deepglobe_lcc.write_repack(root)
    shutil.copytree(root / "data/training_data/images", root / "train")
    for mask in (root / "data/training_data/masks").iterdir():
        shutil.copy(mask, root / "train")
    source = open_source(load_recipe("deepglobe-lcc"), root.parent)
    assert sum(map(len, source.samples.values())) == len(IDS)


def test_the_sample_layout_opens(sample_data: Callable[[str], Path]) -> None:
    """The repack, six images of 2 × 2 pixels."""
    layouts = sample_data("layouts")
    split = {"by": "list", "train": ["1", "2", "3", "8"], "val": ["9"], "test": ["10"]}
    recipe = plain_recipe(
        "deepglobe-lcc",
        dataset__root="deepglobelandcover",
        dataset__split=split,
        dataset__masks__unknown="ignore",
        tile__size=32,
    )
    data = opened(recipe, layouts / "deepglobelandcover")
    assert data.sample_counts == {"train": 4, "val": 1, "test": 1}
    assert items(data, "test")["10"]["image"].shape == (3, 32, 32)
