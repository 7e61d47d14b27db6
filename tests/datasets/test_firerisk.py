"""The FireRisk recipe over the real layout."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from eosfm_cli.data.sources import open_source
from eosfm_cli.errors import DataError
from eosfm_cli.recipe import load_recipe
from tests.datasets import firerisk
from tests.datasets.opening import ids, items, opened, plain_recipe
from tests.listening import Listener


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("whole") / "firerisk"
    firerisk.write(root)
    return root


@pytest.fixture
def root(whole: Path, tmp_path: Path) -> Path:
    """A copy to be spoilt."""
    return Path(shutil.copytree(whole, tmp_path / "firerisk"))


def degrees(names: list[str]) -> set[int]:
    return {int(name.split("_")[2].split(".")[0]) for name in names}


def test_a_degree_of_longitude_validates_as_a_whole(whole: Path) -> None:
    listener = Listener()
    found = ids(opened(plain_recipe("firerisk"), whole, listener))
    assert not listener.warnings
    assert {split: len(names) for split, names in found.items()} == {
        "train": 28,
        "val": 7,
        "test": 7,
    }
    train, val = degrees(found["train"]), degrees(found["val"])
    assert not train & val
    assert train | val == set(firerisk.DEGREES)


def test_the_official_val_is_the_test_and_never_validates(whole: Path) -> None:
    found = ids(opened(plain_recipe("firerisk"), whole))
    assert degrees(found["test"]) == {firerisk.TEST_DEGREE}
    assert not set(found["test"]) & {*found["train"], *found["val"]}


def test_photographs_and_grades_stay_together(whole: Path) -> None:
    data = opened(plain_recipe("firerisk", tile__size=32), whole)
    for split in ("train", "val", "test"):
        for name, item in items(data, split).items():
            grade = int(name.split("_")[1])
            (degree,) = degrees([name])
            assert np.array_equal(item["image"].numpy(), firerisk.pixels(grade, degree))
            assert item["label"] == grade - 1


def test_there_are_seven_classes_not_ten() -> None:
    recipe = load_recipe("firerisk")
    assert [values for (values,) in recipe.class_values] == list(firerisk.GRADES)


def test_the_layout_without_a_folder_of_its_own(tmp_path: Path, whole: Path) -> None:
    root = tmp_path / "firerisk"
    firerisk.write(root, folder="")
    assert ids(opened(plain_recipe("firerisk"), root)) == ids(
        opened(plain_recipe("firerisk"), whole)
    )


def test_the_sample_layout_opens(sample_data: Callable[[str], Path]) -> None:
    root = sample_data("layouts") / "fire_risk"
    recipe = plain_recipe("firerisk", dataset__root="fire_risk", tile__size=32)
    data = opened(recipe, root)
    assert sum(data.sample_counts.values()) == 10
    assert data.sample_counts["test"] == 5
    found = items(data, "test")["35501951_4_-73.9911660056379_41.2755665931274"]
    assert found["label"] == 3
    assert found["image"][0, 0, :3].tolist() == [163, 178, 215]


def test_a_folder_that_is_no_class(root: Path) -> None:
    (root / "FireRisk/train/High").rename(root / "FireRisk/train/Extreme")
    with pytest.raises(DataError, match="Extreme"):
        open_source(plain_recipe("firerisk"), root.parent)


def test_a_name_without_a_longitude(root: Path) -> None:
    folder = root / "FireRisk/train/High"
    shutil.copy(next(folder.iterdir()), folder / "copy.png")
    with pytest.raises(DataError, match="copy"):
        open_source(plain_recipe("firerisk"), root.parent)
