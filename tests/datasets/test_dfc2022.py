"""The DFC2022 recipe and its variants over the real layout: elevation of coarser pixels."""

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
from tests.datasets import dfc2022
from tests.datasets.opening import ids, items, opened, plain_recipe
from tests.listening import Listener
from tests.rasters import write_tif

SPLITS = ("train", "val", "test")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All images; not to be changed."""
    root = tmp_path_factory.mktemp("whole") / "dfc2022"
    dfc2022.write(root)
    return root


@pytest.fixture
def root(whole: Path, tmp_path: Path) -> Path:
    """A copy to be spoilt."""
    return Path(shutil.copytree(whole, tmp_path / "dfc2022"))


def expected(name: str) -> np.ndarray:
    """Class indices of an image: the Urban Atlas counts from 1, 0 and 15 are no classes."""
    labels = dfc2022.labels(name).astype(int)
    return np.where((labels == 0) | (labels == 15), 255, labels - 1)


def everything(name: str, root: Path) -> dict[str, dict[str, torch.Tensor]]:
    """All samples, whole."""
    data = opened(plain_recipe(name, tile__size=64, tile__train="grid"), root)
    return {name: item for split in SPLITS for name, item in items(data, split).items()}


def test_every_image_has_its_own_elevation_and_labels(whole: Path) -> None:
    found = everything("dfc2022", whole)
    assert sorted(found) == sorted(dfc2022.NAMES)
    for name, item in found.items():
        assert np.array_equal(item["image"][:3].numpy(), dfc2022.pixels(name))
        assert np.array_equal(item["mask"].numpy(), expected(name))
        assert item["image"][3].median() == pytest.approx(
            100 * dfc2022.NAMES.index(name) + 31.5, abs=1
        )


def test_the_elevation_is_brought_to_the_images_grid(whole: Path) -> None:
    """Halfway between the middles of coarse pixels lies half of each: a plane stays one."""
    name = dfc2022.NAMES[3]
    metres = everything("dfc2022", whole)[name]["image"][3].numpy()
    plane = np.tile(300 + np.arange(64.0), (64, 1))
    assert metres[:, 1:-1] == pytest.approx(plane[:, 1:-1], abs=1e-3)


def test_tiles_of_the_elevation_fit_together(whole: Path) -> None:
    """A window at an odd place reads the same as the whole image."""
    split = {"by": "list", "train": [dfc2022.NAMES[1]], "val": [dfc2022.NAMES[2]]}
    options = {"dataset__split": {**split, "test": [dfc2022.NAMES[3]]}, "tile__stride": 19}
    data = opened(plain_recipe("dfc2022", tile__size=32, **options), whole)
    for item in data.dataset("test"):
        _, row, column, metres = item["image"].numpy()
        assert (np.diff(row, axis=0) == 1).all()
        inside = (column > 0) & (column < 63)
        assert metres[inside] == pytest.approx(300 + column[inside], abs=1e-3)


def test_strips_of_the_map_stay_together(whole: Path) -> None:
    parts = ids(opened(plain_recipe("dfc2022"), whole))
    strips = {split: {name[:11] for name in names} for split, names in parts.items()}
    assert sum(map(len, strips.values())) == len(set().union(*strips.values())) == 8
    assert all(strips.values())


def test_the_variants_have_the_same_split(whole: Path) -> None:
    alone, together = (
        ids(opened(plain_recipe(name), whole)) for name in ("dfc2022-rgb", "dfc2022")
    )
    assert alone == together
    assert load_recipe("dfc2022-all").bands == ("red", "green", "blue", "dem")


def test_rgb_does_not_touch_the_elevation(root: Path) -> None:
    for folder in root.glob("*/*/RGEALTI"):
        shutil.rmtree(folder)
    found = everything("dfc2022-rgb", root)
    assert len(found) == len(dfc2022.NAMES)
    assert all(item["image"].shape == (3, 64, 64) for item in found.values())


# ------------------------------------------------------------------ what other loaders get wrong


def test_the_parts_without_labels_may_be_absent(whole: Path) -> None:
    assert [path.name for path in whole.iterdir()] == ["labeled_train"]
    listener = Listener()
    opened(plain_recipe("dfc2022"), whole, listener)
    assert not listener.warnings


def test_elevation_without_a_value_does_not_pass_through(whole: Path) -> None:
    """What is missing is the mean, and its -99999 is not mixed into the pixels around it."""
    name = dfc2022.NAMES[0]
    metres = everything("dfc2022", whole)[name]["image"][3].numpy()
    hole = slice(2 * dfc2022.HOLE.start, 2 * dfc2022.HOLE.stop)
    assert (metres[hole, hole] == 0).all()
    assert metres.min() >= 0
    assert metres.max() <= 63.5
    around = np.ones((64, 64), bool)
    around[hole, hole] = False
    around[:, [0, -1]] = False
    # Beside the hole there are fewer values to take the middle of: less than a coarse pixel off.
    assert metres[around] == pytest.approx(np.tile(np.arange(64.0), (64, 1))[around], abs=1.01)


def test_images_of_unequal_size_make_batches(root: Path) -> None:
    """They differ by a few pixels; their elevation then has half as many, more or less."""
    name, (height, width) = dfc2022.NAMES[4], (61, 66)
    city = root / "labeled_train/Nice"
    write_tif(city / "BDORTHO" / f"{name}.tif", np.ones((3, height, width), np.uint8))
    write_tif(city / "UrbanAtlas" / f"{name}_UA2012.tif", np.ones((height, width), np.uint8))
    write_tif(city / "RGEALTI" / f"{name}_RGEALTI.tif", np.full((31, 33), 7, np.float32))
    data = opened(plain_recipe("dfc2022", tile__size=32, training__batch_size=4), root)
    shapes = {batch["image"].shape[1:] for batch in data.train_dataloader()}
    assert shapes == {(4, 32, 32)}
    for split in SPLITS:
        for item in data.dataset(split):
            if name in item["filename"]:
                real = item["mask"] != 255
                assert item["image"][3][real].numpy() == pytest.approx(7, abs=1e-5)


def test_the_test_split_has_labels(whole: Path) -> None:
    """The contest's own validation part has none: a share of what has some tests."""
    data = opened(plain_recipe("dfc2022", tile__size=64), whole)
    assert all((item["mask"] != 255).any() for item in items(data, "test").values())


def test_a_missing_elevation_is_told(root: Path) -> None:
    gone = next(root.rglob(f"{dfc2022.NAMES[6]}_RGEALTI.tif"))
    gone.unlink()
    with pytest.raises(DataError, match=gone.name):
        open_source(load_recipe("dfc2022"), root.parent)


def test_the_sample_layout_opens(sample_data: Callable[[str], Path], tmp_path: Path) -> None:
    """One image of each city, elevation on the images' grid: a third is made of the first."""
    root = Path(shutil.copytree(sample_data("layouts") / "dfc2022", tmp_path / "dfc2022"))
    nice, nantes = "06-2014-1007-6318-LA93-0M50-E080", "44-2013-0295-6713-LA93-0M50-E080"
    third = nice.replace("1007", "1017")
    for path in list(root.glob(f"labeled_train/Nice/*/{nice}*")):
        shutil.copy(path, path.with_name(path.name.replace(nice, third)))
    # Its labels are of any value.
    recipe = plain_recipe("dfc2022", tile__size=32, dataset__masks__unknown="ignore")
    data = opened(recipe, root)
    assert sorted(name for part in ids(data).values() for name in part) == [nice, third, nantes]
    assert data.sample_counts == {"train": 1, "val": 1, "test": 1}
    (item,) = items(data, "test").values()
    assert item["image"].shape == (4, 32, 32)
    assert set(item["mask"].unique().tolist()) <= {*range(14), 255}
