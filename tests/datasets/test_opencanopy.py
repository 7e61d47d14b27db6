"""The Open-Canopy recipe over its own layout: squares of whole scenes."""

from __future__ import annotations

import json
import shlex
import shutil
from fnmatch import fnmatch
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch

from eosfm_cli.data.label_reader import NO_VALUE
from eosfm_cli.errors import DataError
from eosfm_cli.recipe import Recipe
from tests.datasets import opencanopy as canopy
from tests.datasets.opening import ids, items, opened, plain_recipe

SPLITS = ("train", "val", "test")


def recipe(name: str = "opencanopy", **overrides: object) -> Recipe:
    return plain_recipe(name, **{"tile__size": 64, "tile__train": "grid", **overrides})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All scenes; not to be changed."""
    root = tmp_path_factory.mktemp("whole") / "opencanopy"
    canopy.write(root)
    return root


def squares(split: str) -> dict[tuple[int, int, int], canopy.Square]:
    """Scene, first row and first column of a split's squares."""
    return {
        (square.scene, square.pixels[0].start, square.pixels[1].start): square
        for square in canopy.SQUARES
        if square.split == split
    }


def corner(image: torch.Tensor) -> tuple[int, int, int]:
    """What the upper left pixel says of the scene, the row and the column."""
    scene, row, col = (int(value) for value in image[:3, 0, 0])
    return scene, row, col


def test_the_official_split_goes_by_square_and_leaves_the_buffer_out(whole: Path) -> None:
    data = opened(recipe(), whole)
    assert {split: len(found) for split, found in ids(data).items()} == {
        "train": 9,
        "val": 3,
        "test": 3,
    }
    for split in SPLITS:
        found = [corner(item["image"]) for item in items(data, split).values()]
        assert sorted(found) == sorted(squares(split))


@pytest.mark.parametrize("split", SPLITS)
def test_each_square_has_its_own_pixels_and_heights_in_metres(split: str, whole: Path) -> None:
    size = canopy.SQUARE_PX
    for item in items(opened(recipe(), whole), split).values():
        square = squares(split)[corner(item["image"])]
        rows, cols = square.pixels
        image = canopy.pixels(square.scene)[:, rows, cols]
        assert np.array_equal(item["image"][:, :size, :size].numpy(), image)
        heights = canopy.decimetres(square.scene)[rows, cols] / 10
        assert np.allclose(item["mask"][:size, :size].numpy(), heights, atol=1e-5)
        assert (item["mask"][size:] == NO_VALUE).all()


def test_squares_of_no_whole_number_of_pixels_fit_in_one_batch(whole: Path) -> None:
    data = opened(recipe(training__batch_size=9), whole)
    found = items(data, "train").values()
    assert torch.stack([item["image"] for item in found]).shape == (9, 4, 64, 64)
    sizes = {(s.height, s.width) for split in SPLITS for s in data.source.samples[split]}
    assert sizes == {(canopy.SQUARE_PX,) * 2}


@pytest.mark.parametrize("start", [(-0.4, -0.3), (-1, -1), (-20.4, -30.2), (0.3, 0.45)])
def test_heights_are_found_by_place(start: tuple[float, float], tmp_path: Path) -> None:
    """They are cut from a mosaic of another grid, and end where that ends."""
    root = tmp_path / "opencanopy"
    canopy.write(root, start=start)
    size, every = canopy.SQUARE_PX, {k: v for split in SPLITS for k, v in squares(split).items()}
    data = opened(recipe(), root)
    for item in (item for split in SPLITS for item in items(data, split).values()):
        square = every[corner(item["image"])]
        heights = canopy.decimetres(square.scene)[square.pixels] / 10
        assert np.allclose(item["mask"][:size, :size].numpy(), heights, atol=1e-5)


@pytest.mark.parametrize("start", [(-20, 2), (2, 0)])
def test_heights_that_do_not_reach_a_square_are_told(
    start: tuple[float, float], tmp_path: Path
) -> None:
    root = tmp_path / "opencanopy"
    canopy.write(root, start=start)
    with pytest.raises(DataError, match=r"lidar_\d+\.tif has .* and does not show all"):
        opened(recipe(), root)


@pytest.mark.parametrize("factor", [2, 1.02])
def test_heights_of_other_pixels_are_told(factor: float, whole: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(whole, tmp_path / "opencanopy"))
    path = next(root.rglob("compressed_lidar_*.tif"))
    with rasterio.open(path, "r+") as raster:
        raster.transform @= rasterio.Affine.scale(factor)
    with pytest.raises(DataError, match=rf"{path.name} has pixels of {1.5 * factor:g} ×"):
        opened(recipe(), root)


def test_random_crops_stay_inside_their_square(whole: Path) -> None:
    dataset = opened(recipe(tile__size=32, tile__train="random"), whole).dataset("train")
    known = {
        (scene, row + down, col + right)
        for scene, row, col in squares("train")
        for down in (0, 1)
        for right in (0, 1)
    }
    found = {corner(dataset[(epoch, i)]["image"]) for epoch in range(3) for i in range(9)}
    assert found <= known


def test_the_folder_is_where_the_recipe_says(whole: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(whole, tmp_path / "elsewhere"))
    assert len(ids(opened(recipe(dataset__root="elsewhere"), root))["test"]) == 3


@pytest.mark.parametrize(
    ("name", "order"), [("opencanopy-rgb", [0, 1, 2]), ("opencanopy-irrg", [3, 0, 1])]
)
def test_variants_choose_bands_by_name(name: str, order: list[int], whole: Path) -> None:
    every = items(opened(recipe(), whole), "test")
    for key, item in items(opened(recipe(name), whole), "test").items():
        assert torch.equal(item["image"], every[key]["image"][order])


def test_the_download_asks_for_every_file(whole: Path) -> None:
    """Each pattern has an `--include` of its own: without, it would count as a file's name."""
    command = shlex.split((recipe().dataset.download or "").strip("`"))
    patterns = [after for option, after in pairwise(command) if option == "--include"]
    files = [path for path in whole.rglob("*.*") if path.is_file()]
    assert len(files) == 2 * len(canopy.SCENES) + 1
    for path in files:
        name = path.relative_to(whole).as_posix()
        assert any(fnmatch(name, pattern) for pattern in patterns), name


def test_a_feature_at_no_place_is_told(whole: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(whole, tmp_path / "opencanopy"))
    table = root / "canopy_height/geometries.geojson"
    # Metres, called degrees.
    table.write_text(table.read_text().replace("EPSG::2154", "EPSG::4326"))
    with pytest.raises(DataError, match="a feature lies at no place in its coordinates"):
        opened(recipe(), root)


def test_squares_that_are_listed_twice_keep_their_tiles(whole: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(whole, tmp_path / "opencanopy"))
    table = root / "canopy_height/geometries.geojson"
    content = json.loads(table.read_text())
    content["features"].insert(0, content["features"][0])
    table.write_text(json.dumps(content))
    data = opened(recipe(tile__unlabelled="skip"), root)
    assert data.tile_counts["train"] == len(data.source.samples["train"]) == 10


def test_other_squares_are_other_samples(whole: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(whole, tmp_path / "opencanopy"))
    before = opened(recipe(), root).facts
    assert opened(recipe(), root).facts == before
    table = root / "canopy_height/geometries.geojson"
    content = json.loads(table.read_text())
    first, second = (content["features"][n]["properties"] for n in (0, 1))
    first["split"], second["split"] = second["split"], first["split"]
    table.write_text(json.dumps(content))
    after = opened(recipe(), root).facts
    assert after["tiles"] == before["tiles"]
    assert after["samples"] != before["samples"]


def test_heights_that_are_not_known_are_no_labels(whole: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(whole, tmp_path / "opencanopy"))
    square = next(square for square in canopy.SQUARES if square.split == "test")
    year, scene = canopy.SCENES[square.scene]
    path = root / "canopy_height" / year / "lidar" / f"compressed_lidar_{scene}.tif"
    rows, cols = square.pixels
    with rasterio.open(path, "r+") as raster:
        heights = raster.read(1)
        heights[rows.start, cols.start + 3] = 65535
        raster.nodata = 65535
        raster.write(heights, 1)
    found = items(opened(recipe(), root), "test").values()
    masks = {corner(item["image"]): item["mask"] for item in found}
    mask = masks[(square.scene, rows.start, cols.start)]
    assert mask[0, 3] == NO_VALUE
    assert (mask[: canopy.SQUARE_PX, : canopy.SQUARE_PX] == NO_VALUE).sum() == 1
