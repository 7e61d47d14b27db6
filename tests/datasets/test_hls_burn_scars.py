"""The HLS Burn Scars recipe over its own layout: a folder each for training and validation."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from eosfm_cli.data.statistics import compute_statistics
from eosfm_cli.progress import Silent
from eosfm_cli.recipe import Recipe
from tests.datasets import hls_burn_scars as scars
from tests.datasets.opening import ids, items, opened, plain_recipe


def recipe(name: str = "hls-burn-scars") -> Recipe:
    return plain_recipe(name, tile__size=64)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All scenes; not to be changed."""
    root = tmp_path_factory.mktemp("whole") / "hls_burn_scars"
    scars.write(root)
    return root


def test_the_official_validation_set_tests_and_never_validates(whole: Path) -> None:
    found = ids(opened(recipe(), whole))
    assert sorted(found["test"]) == sorted(map(scars.id_of, scars.VALIDATION))
    assert sorted(found["train"] + found["val"]) == sorted(map(scars.id_of, scars.TRAINING))


def test_validation_has_whole_tiles_of_the_training_folder(whole: Path) -> None:
    found = ids(opened(recipe(), whole))
    train, val = ({name.split(".")[2] for name in found[split]} for split in ("train", "val"))
    assert train
    assert val
    assert not train & val


def test_values_and_what_is_no_data(whole: Path) -> None:
    data = opened(recipe(), whole)
    for split, scenes in (("test", scars.VALIDATION), ("train", scars.TRAINING)):
        found = items(data, split)
        for scene in scenes:
            if scars.id_of(scene) in found:
                image = found[scars.id_of(scene)]["image"].numpy()
                expected = scars.pixels(scene)
                expected[np.abs(expected) > 9000] = 0
                assert np.array_equal(image, np.nan_to_num(expected))


def test_9999_does_not_count_in_statistics(whole: Path) -> None:
    data = opened(recipe(), whole)
    found = compute_statistics(data.source.samples["train"], data.recipe, Silent())
    assert all(0 <= band.mean < 1 and band.std < 1 for band in found.values())


def test_missing_labels_are_ignored(whole: Path) -> None:
    for scene in scars.VALIDATION:
        mask = items(opened(recipe(), whole), "test")[scars.id_of(scene)]["mask"].numpy()
        values = scars.labels(scene).astype(int)
        assert np.array_equal(mask, np.where(values == -1, 255, values))


def test_true_colour_chooses_bands_by_name(whole: Path) -> None:
    name = scars.id_of(scars.VALIDATION[0])
    every = items(opened(recipe(), whole), "test")[name]["image"]
    image = items(opened(recipe("hls-burn-scars-rgb"), whole), "test")[name]["image"]
    assert np.array_equal(image, every[[2, 1, 0]])


def test_near_infrared_is_the_narrow_one() -> None:
    assert recipe().bands[3:] == ("nir08", "swir16", "swir22")


def test_folders_in_a_folder_of_their_own(whole: Path, tmp_path: Path) -> None:
    root = tmp_path / "hls_burn_scars"
    shutil.copytree(whole, root / "hls_burn_scars")
    assert ids(opened(recipe(), root)) == ids(opened(recipe(), whole))
