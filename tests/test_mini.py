"""The embedded dataset."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio

from eosfm_cli.bands import band_name
from eosfm_cli.data import mini
from eosfm_cli.data.datamodule import build_datamodule
from eosfm_cli.data.landscape import Cover
from eosfm_cli.data.mini import make_mini, mapping_scene
from eosfm_cli.data.sources import open_source
from eosfm_cli.errors import OutputError
from eosfm_cli.progress import Silent
from eosfm_cli.recipe import load_recipe


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of datasets with the embedded one in it."""
    folder = tmp_path_factory.mktemp("datasets")
    make_mini(folder / "mini")
    return folder


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as raster:
        return raster.read()


@pytest.mark.parametrize("name", ["mini-rgb", "mini-s2", "mini-s1", "mini-landcover"])
def test_its_recipes_open(data_root: Path, name: str) -> None:
    recipe = load_recipe(name)
    data = build_datamodule(recipe, data_root, spec=recipe.training, progress=Silent())
    assert all(data.source.samples.values())
    assert set(data.recipe.statistics) == set(recipe.bands)


def test_it_is_made_on_first_use_and_is_complete(tmp_path: Path, data_root: Path) -> None:
    open_source(load_recipe("mini"), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mini"]
    names = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*.tif"))
    assert names == sorted(p.relative_to(data_root) for p in data_root.rglob("*.tif"))
    # The same seed gives the same files, byte by byte.
    for name in (names[0], names[-1]):
        assert (tmp_path / name).read_bytes() == (data_root / name).read_bytes()


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError) as caught:
        make_mini(tmp_path / "file" / "mini")
    assert "--data-root" in caught.value.hint


def test_a_disk_that_is_too_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mini, "_BYTES", 10**18)
    with pytest.raises(OutputError, match=r"are needed in .* are free"):
        make_mini(tmp_path / "mini")
    assert not list(tmp_path.iterdir())


def test_scenes_are_georeferenced_apart_and_hold_all_classes(data_root: Path) -> None:
    places = set()
    for path in sorted(data_root.glob("mini/*/masks/*.tif")):
        with rasterio.open(path) as mask:
            assert mask.crs.is_projected
            assert mask.res == (10, 10)
            places.add((mask.crs.to_epsg(), *mask.bounds))
            counts = np.bincount(mask.read(1).ravel(), minlength=256)
        shares = counts[: len(Cover)] / counts[: len(Cover)].sum()
        assert (shares > 0.015).all(), f"{path.name}: {shares}"
    assert len(places) == 13


def test_classes_agree_with_the_recipes() -> None:
    names = tuple(
        cover.name.lower().replace("_", " ").replace("built up", "built-up") for cover in Cover
    )
    assert load_recipe("mini").class_names == names
    assert load_recipe("mini").classes == load_recipe("mini-landcover").classes


def test_the_scene_to_map_names_its_bands(data_root: Path) -> None:
    image, truth = mapping_scene(data_root / "mini")
    with rasterio.open(image) as scene, rasterio.open(truth) as mask:
        assert tuple(map(band_name, scene.descriptions)) == load_recipe("mini-landcover").bands
        assert scene.shape == mask.shape
        assert scene.transform == mask.transform
        assert all(edge % 32 for edge in scene.shape)
        assert (~np.isfinite(scene.read(1)) == (mask.read(1) == 255)).all()


# --------------------------------------------------------------------------- complementary sensors


def _pixels(root: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Pixels `(n, 15)` without clouds, averaged over 5 × 5 against speckle, and their classes."""
    bands = np.concatenate([read(root / kind / name).astype(np.float64) for kind in ("s2", "s1")])
    windows = np.lib.stride_tricks.sliding_window_view(bands, (5, 5), axis=(1, 2))
    mean = windows.mean(axis=(-1, -2)).reshape(len(bands), -1).T
    cover = read(root / "masks" / name)[0, 2:-2, 2:-2].ravel()
    clear = (mean[:, 0] < 2000) & (cover != 255) & np.isfinite(mean).all(axis=1)
    return mean[clear], cover[clear]


def _iou(root: Path, bands: list[int]) -> np.ndarray:
    """Intersection over union per class of linear discriminant analysis, on another scene."""
    x, y = _pixels(root, "south-02.tif")
    test_x, test_y = _pixels(root, "south-04.tif")
    x, test_x = x[:, bands], test_x[:, bands]
    means = np.stack([x[y == cover].mean(axis=0) for cover in Cover])
    within = np.linalg.inv(np.cov((x - means[y]).T))
    scores = test_x @ within @ means.T - np.einsum("cb,bd,cd->c", means, within, means) / 2
    guess = scores.argmax(axis=1)
    hits = [(guess == cover, test_y == cover) for cover in Cover]
    return np.array([(found & true).sum() / (found | true).sum() for found, true in hits])


def test_no_sensor_suffices_and_each_has_its_strength(data_root: Path) -> None:
    root = data_root / "mini/landcover"
    sensors = {"rgb": [3, 2, 1], "s2": list(range(13)), "s1": [13, 14]}
    found = {name: _iou(root, bands) for name, bands in sensors.items()}
    both = _iou(root, list(range(15)))
    assert all(both.mean() > iou.mean() + 0.05 for iou in found.values()), (both, found)
    assert found["s2"].mean() > found["rgb"].mean() + 0.05
    assert found["s1"][Cover.FLOODED_VEGETATION] > found["s2"][Cover.FLOODED_VEGETATION] + 0.1
    assert found["s2"][Cover.CROPLAND] > found["s1"][Cover.CROPLAND] + 0.1


def test_clouds_hide_the_ground_from_one_sensor_only(data_root: Path) -> None:
    root = data_root / "mini/upstream"
    for name in ("north-02.tif", "north-07.tif"):
        blue, cover = read(root / "s2" / name)[1], read(root / "masks" / name)[0]
        forest, cloudy = cover == Cover.FOREST, blue > 4000
        assert 0.03 < cloudy.mean() < 0.25
        vv = read(root / "s1" / name)[0]
        assert vv[forest & cloudy].mean() == pytest.approx(vv[forest & ~cloudy].mean(), abs=1)
