"""Statistics of the training split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rasters import folder_recipe, write_sample, write_tif

from eosfm_cli.data.datamodule import build_datamodule
from eosfm_cli.data.sources import open_source
from eosfm_cli.data.statistics import compute_statistics
from eosfm_cli.errors import DataError
from eosfm_cli.progress import Silent
from eosfm_cli.recipe import Recipe


def with_statistics(recipe: Recipe, data_root: Path | None) -> Recipe:
    data = build_datamodule(recipe, data_root, spec=recipe.training, progress=Silent())
    return data.recipe


def recipe_of_two() -> Recipe:
    split = {"by": "list", "train": ["a", "d"], "val": ["b"], "test": ["c"]}
    return folder_recipe(dataset={"split": split}, statistics=None)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in "abcd":
        write_sample(tmp_path / "data", name, (36, 33))
    return tmp_path / "data"


def test_they_equal_numpys_with_nodata_left_out(root: Path) -> None:
    rng = np.random.default_rng(0)
    first = rng.normal(1000, 20, (3, 36, 33)).astype(np.float32)
    second = rng.normal(1100, 5, (3, 36, 33)).astype(np.float32)
    first[0, :10] = -9999
    first[1, 3, 3] = np.nan
    second[2] = np.inf
    write_tif(root / "images/a.tif", first, nodata=-9999)
    write_tif(root / "images/d.tif", second)
    found = with_statistics(recipe_of_two(), root.parent).statistics
    for i, band in enumerate(("red", "green", "blue")):
        values = np.concatenate([first[i].ravel(), second[i].ravel()]).astype(np.float64)
        values = values[np.isfinite(values) & (values != -9999)]
        assert found[band].mean == pytest.approx(values.mean(), rel=1e-9)
        assert found[band].std == pytest.approx(values.std(), rel=1e-9)


def test_images_larger_than_a_window_count_each_pixel_once(root: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 255, (3, 1030, 1100)).astype(np.uint8)
    pixels[:, :20] = 200
    write_tif(root / "images/a.tif", pixels)
    write_tif(root / "masks/a.tif", np.zeros((1030, 1100), np.uint8))
    found = with_statistics(folder_recipe(statistics=None), root.parent).statistics
    assert found["blue"].mean == pytest.approx(pixels[2].mean(), rel=1e-9)
    assert found["blue"].std == pytest.approx(pixels[2].std(), rel=1e-9)


def test_only_the_training_split_counts(root: Path) -> None:
    before = with_statistics(recipe_of_two(), root.parent).statistics
    write_tif(root / "images/b.tif", np.full((3, 36, 33), 1e6, np.float32))
    assert with_statistics(recipe_of_two(), root.parent).statistics == before


def test_a_constant_band_is_left_at_its_scale(root: Path) -> None:
    for name in "ad":
        write_tif(root / f"images/{name}.tif", np.full((3, 36, 33), 0.1, np.float32))
    found = with_statistics(recipe_of_two(), root.parent).statistics
    assert found["red"].std == 1


def test_a_band_without_a_valid_pixel(root: Path) -> None:
    for name in "ad":
        write_tif(root / f"images/{name}.tif", np.full((3, 36, 33), np.nan, np.float32))
    with pytest.raises(DataError, match="red has no valid pixel"):
        with_statistics(recipe_of_two(), root.parent)


def test_statistics_that_are_there_stay(root: Path) -> None:
    recipe = folder_recipe()
    assert with_statistics(recipe, root.parent) is recipe


def test_they_are_those_of_what_the_loader_yields(tmp_path: Path) -> None:
    """Of a median over dates, and of a coarser file on the finer grid."""
    root, rng = tmp_path / "data", np.random.default_rng(2)
    for name in "abc":
        (root / "s2").mkdir(parents=True, exist_ok=True)
        series = rng.integers(0, 3000, (5, 2, 64, 96)).astype(np.int16)
        series[rng.random(series.shape) < 0.2] = -10000
        series[0] = series[0].clip(0)  # each pixel is valid at one date
        np.save(root / f"s2/{name}.npy", series)
        write_tif(root / f"dem/{name}.tif", rng.normal(300, 50, (1, 16, 24)).astype(np.float32))
        write_tif(root / f"masks/{name}.tif", np.zeros((64, 96), np.uint8))
    images = {
        "s2": {"path": "s2/{id}.npy", "bands": ["red", "nir"], "nodata": [-10000]},
        "dem": {"path": "dem/{id}.tif", "bands": ["dem"], "resampling": "bilinear"},
    }
    recipe = folder_recipe(dataset={"images": images, "series": {}}, statistics=None)
    data = build_datamodule(recipe, tmp_path, spec=recipe.training, progress=Silent())
    pixels = np.concatenate([i["image"].numpy().reshape(3, -1) for i in data.dataset("train")], 1)
    assert pixels.shape[1] == 64 * 96
    assert pixels.mean(axis=1) == pytest.approx(0, abs=1e-5)
    assert pixels.std(axis=1) == pytest.approx(1, abs=1e-5)


class Listener(Silent):
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def test_of_many_windows_a_spread_choice_is_read(tmp_path: Path) -> None:
    names = [f"{i:02d}" for i in range(30)]
    for i, name in enumerate(names):
        write_tif(tmp_path / f"data/images/{name}.tif", np.full((3, 4, 4), i, np.float32))
        write_tif(tmp_path / f"data/masks/{name}.tif", np.zeros((4, 4), np.uint8))
    split = {"by": "list", "train": names[:28], "val": names[28:29], "test": names[29:]}
    recipe = folder_recipe(dataset={"split": split}, statistics=None)
    train = open_source(recipe, tmp_path).samples["train"]
    listener = Listener()
    found = compute_statistics(train, recipe, listener, most_windows=14)
    assert listener.said == ["statistics from 14 of 28 windows of the training split"]
    assert compute_statistics(train, recipe, Silent(), most_windows=14) == found
    # One of each two neighbours: the mean cannot be far off.
    assert found["red"].mean == pytest.approx(13.5, abs=0.5)
    every = compute_statistics(train, recipe, listener, most_windows=28)
    assert every["red"].mean == pytest.approx(13.5, rel=1e-12)
    assert len(listener.said) == 1
