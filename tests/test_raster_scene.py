"""Scenes are read by band name, standardised, with every kind of missing value found."""

from __future__ import annotations

import csv
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp
from rasterio.transform import from_origin

from eosfm_cli.bands import BANDS
from eosfm_cli.errors import BandError, BundleError, RasterError
from eosfm_cli.manifest import ModelManifest
from eosfm_cli.raster.opening import open_raster
from eosfm_cli.raster.ranges import doubtful_bands
from eosfm_cli.raster.scene import open_scene
from eosfm_cli.tiling import Tile

_PLACED = {"crs": "EPSG:32631", "transform": from_origin(5e5, 5e6, 10, 10)}


def manifest(*bands, mean=0.0, std=1.0, sensor=None):
    return ModelManifest.model_validate(
        {
            "recipe": "r",
            "title": "t",
            "task": "segmentation",
            "bands": bands,
            "sensor": sensor,
            "statistics": {band: {"mean": mean, "std": std} for band in bands},
            "classes": [{"name": "a"}, {"name": "b"}],
            "ignore_index": 255,
            "tile_size": 64,
            "encoder": {"fusion": "concat", "normalize": "batch"},
            "specialists": [],
            "decoder": {"name": "d"},
        }
    )


def write(path: Path, values, *, descriptions=(), mask=None, colorinterp=None, **profile):
    values = np.asarray(values)
    count, height, width = values.shape
    profile = {**_PLACED, **profile}
    with (
        warnings.catch_warnings(),
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(
            path, "w", driver="GTiff", count=count, height=height, width=width,
            dtype=values.dtype, **profile,
        ) as dataset,
    ):  # fmt: skip
        warnings.simplefilter("ignore")
        if colorinterp:
            dataset.colorinterp = colorinterp
        dataset.write(values)
        for i, text in enumerate(descriptions, 1):
            dataset.set_band_description(i, text)
        if mask is not None:
            dataset.write_mask(mask)
    return path


def read_whole(path, manifest, given=None):
    with open_scene(path, manifest, given) as scene:
        return scene.read(Tile(0, 0, scene.grid.height, scene.grid.width))


def ramp(count=1, height=4, width=5, dtype=np.float32):
    return np.arange(count * height * width, dtype=dtype).reshape(count, height, width)


# --------------------------------------------------------------------------- values and bands


def test_values_are_standardised(tmp_path):
    path = write(tmp_path / "a.tif", ramp())
    pixels = read_whole(path, manifest("red", mean=10, std=2))
    np.testing.assert_allclose(pixels.values, (ramp() - 10) / 2)
    assert pixels.valid.all()


def test_bands_are_found_by_description_in_any_order(tmp_path):
    path = write(tmp_path / "a.tif", ramp(3), descriptions=("B04", "Blue", "green"))
    pixels = read_whole(path, manifest("blue", "green", "red"))
    np.testing.assert_array_equal(pixels.values, ramp(3)[[1, 2, 0]])


def test_descriptions_are_read_by_the_names_of_the_models_sensor(tmp_path):
    path = write(tmp_path / "a.tif", ramp(3), descriptions=("B8", "B5", "B4"))
    pixels = read_whole(path, manifest("red", "nir08", "pan", sensor="landsat-8"))
    np.testing.assert_array_equal(pixels.values, ramp(3)[[2, 1, 0]])
    with pytest.raises(BandError, match="lacks nir"):
        read_whole(path, manifest("red", "nir", sensor="landsat-8"))


def test_bands_are_found_as_named_by_the_user(tmp_path):
    path = write(tmp_path / "a.tif", ramp(3), descriptions=("x", "y", "z"))
    pixels = read_whole(path, manifest("red", "blue"), ("blue", "green", "red"))
    np.testing.assert_array_equal(pixels.values, ramp(3)[[2, 0]])


def test_nameless_bands_are_taken_in_order_when_their_count_fits(tmp_path):
    path = write(tmp_path / "a.tif", ramp(2))
    with open_scene(path, manifest("vv", "vh")) as scene:
        np.testing.assert_array_equal(scene.read(Tile(0, 0, 4, 5)).values, ramp(2))
        assert "does not name" in scene.matching


def test_a_missing_band_is_refused_with_both_lists(tmp_path):
    path = write(tmp_path / "a.tif", ramp(2), descriptions=("red", "green"))
    with pytest.raises(BandError) as caught, open_scene(path, manifest("red", "nir")):
        pass
    assert "wanted: red, nir" in caught.value.message
    assert "found:  red, green" in caught.value.message


def test_a_model_without_statistics_is_refused(tmp_path):
    path = write(tmp_path / "a.tif", ramp())
    broken = manifest("red").model_copy(update={"statistics": {}})
    with pytest.raises(BundleError, match="red"), open_scene(path, broken):
        pass


# --------------------------------------------------------------------------- missing values


def test_nodata_of_any_used_band_is_missing(tmp_path):
    values = ramp(3) + 1
    values[0, 0, 0] = values[1, 1, 1] = values[2, 2, 2] = -9999
    path = write(tmp_path / "a.tif", values, nodata=-9999, descriptions=("red", "green", "blue"))
    pixels = read_whole(path, manifest("red", "green"))
    assert {tuple(at) for at in np.argwhere(~pixels.valid)} == {(0, 0), (1, 1)}
    assert (pixels.values[:, ~pixels.valid] == 0).all()


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf, -3.4e38, 1e30])
def test_values_that_are_no_measurements_are_missing(tmp_path, odd):
    values = ramp()
    values[0, 2, 3] = odd
    pixels = read_whole(write(tmp_path / "a.tif", values), manifest("red"))
    assert np.argwhere(~pixels.valid).tolist() == [[2, 3]]
    assert np.isfinite(pixels.values).all()


def test_an_internal_mask_is_kept(tmp_path):
    mask = np.full((4, 5), 255, np.uint8)
    mask[1, 2] = 0
    path = write(tmp_path / "a.tif", ramp(2, dtype=np.uint8), mask=mask)
    pixels = read_whole(path, manifest("red", "green"))
    np.testing.assert_array_equal(pixels.valid, mask > 0)


_RGBA = (ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha)


def transparent(tmp_path):
    values = np.full((4, 4, 5), 9, np.uint8)
    values[3, 0, 0] = 0
    return write(tmp_path / "a.tif", values, colorinterp=_RGBA, photometric="RGB", alpha="YES")


def test_transparency_is_no_band_but_a_mask(tmp_path):
    pixels = read_whole(transparent(tmp_path), manifest("red", "green", "blue"))
    assert np.argwhere(~pixels.valid).tolist() == [[0, 0]]


def test_a_fourth_band_is_data_where_the_model_takes_four(tmp_path):
    pixels = read_whole(transparent(tmp_path), manifest("red", "green", "blue", "nir"))
    assert pixels.valid.all()
    assert pixels.values[3, 0, 0] == 0
    assert pixels.values[3, 1, 1] == 9


def test_a_scene_without_any_value_is_all_missing(tmp_path):
    path = write(tmp_path / "a.tif", np.full((1, 4, 5), np.nan, np.float32), nodata=np.nan)
    assert not read_whole(path, manifest("red")).valid.any()


# --------------------------------------------------------------------------- places


def test_ground_control_points_and_nothing_are_told_apart(tmp_path):
    points = [GroundControlPoint(r, c, 3 + c, 50 - r) for r in (0, 4) for c in (0, 5)]
    placed = write(tmp_path / "a.tif", ramp(), crs="EPSG:4326", transform=None, gcps=points)
    bare = write(tmp_path / "b.tif", ramp(), crs=None, transform=None)
    with open_scene(placed, manifest("red")) as scene:
        assert scene.grid.is_placed
        assert scene.grid.transform is None
        assert len(scene.grid.gcps) == 4
    with open_scene(bare, manifest("red")) as scene:
        assert not scene.grid.is_placed
        assert scene.grid.describe() == "5 × 4 pixels"


def test_a_grid_tells_its_pixels_in_metres(tmp_path):
    with open_scene(write(tmp_path / "a.tif", ramp()), manifest("red")) as scene:
        assert scene.grid.describe() == "5 × 4 pixels of 10 m, EPSG:32631"


# --------------------------------------------------------------------------- what is no scene


def text_file(folder):
    (folder / "a.tif").write_text("no raster at all")
    return folder / "a.tif"


def cut_short(folder):
    path = write(folder / "a.tif", ramp(1, 64, 64))
    path.write_bytes(path.read_bytes()[:3000])
    return path


def complex_numbers(folder):
    return write(folder / "a.tif", np.ones((1, 4, 4), np.complex64))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda folder: folder, "is a folder"),
        (lambda folder: folder / "none.tif", "There is no file"),
        (text_file, "cannot be read as a raster"),
        (cut_short, "cannot be read"),
        (complex_numbers, "complex numbers"),
    ],
)
def test_what_is_no_scene_is_refused_in_one_sentence(tmp_path, make, says):
    with pytest.raises(RasterError, match=says) as caught:
        read_whole(make(tmp_path), manifest("red"))
    assert "\n" not in caught.value.message


def test_blocks_larger_than_memory_are_refused(tmp_path):
    path = tmp_path / "a.tif"
    with rasterio.open(
        path, "w", driver="GTiff", width=20_000, height=20_000, count=1, dtype="float64",
        tiled=True, blockxsize=16_384, blockysize=16_384, SPARSE_OK=True, **_PLACED,
    ):  # fmt: skip
        pass
    with pytest.raises(RasterError, match=r"blocks of 2\.0 GiB"), open_scene(path, manifest("red")):
        pass


def test_sizes_beyond_reason_are_refused(tmp_path):
    path = tmp_path / "a.vrt"
    path.write_text(
        '<VRTDataset rasterXSize="2000000000" rasterYSize="2000000000">'
        '<VRTRasterBand dataType="Byte" band="1"/></VRTDataset>'
    )
    with pytest.raises(RasterError, match="2,000,000,000 ×"), open_scene(path, manifest("red")):
        pass


def test_files_that_are_addresses_of_services_are_not_followed(tmp_path):
    path = tmp_path / "a.tif"
    path.write_text(
        '<GDAL_WMS><Service name="TMS"><ServerUrl>http://x/</ServerUrl></Service></GDAL_WMS>'
    )
    with pytest.raises(RasterError, match="cannot be read as a raster"), open_raster(path):
        pass


@pytest.mark.filterwarnings("error")
def test_odd_and_hostile_files_are_read_or_refused_in_silence(sample_data, capfd):
    folder = sample_data("odd_tiffs")
    readable = {
        row["file"]
        for row in csv.DictReader((folder / "INDEX.csv").read_text().splitlines())
        if row["gdal_read"] == "ok" and "complex" not in row["dtype"]
    }
    read = set()
    for path in sorted(folder.glob("*.tif*")):
        try:
            with open_raster(path) as dataset:
                model = manifest(*list(BANDS)[: dataset.count], std=1e3)
            with open_scene(path, model) as scene:
                scene.read(Tile(0, 0, min(scene.grid.height, 64), min(scene.grid.width, 64)))
                read.add(path.name)
        except RasterError:
            continue
    assert read >= readable
    assert capfd.readouterr() == ("", "")


# --------------------------------------------------------------------------- units


def doubts(scene_values, mean, std):
    standardised = ((np.asarray(scene_values, np.float32) - mean) / std)[None]
    return doubtful_bands(("red",), standardised, np.float32([mean]), np.float32([std]))


_REFLECTANCE = np.linspace(0.02, 0.4, 500)


@pytest.mark.parametrize(
    ("values", "mean", "std"),
    [
        (_REFLECTANCE, 1500, 800),  # 0 to 1 given, 0 to 10000 expected
        (_REFLECTANCE * 1e4, 0.15, 0.08),  # and the other way round
        (np.linspace(0.001, 0.3, 500), -12, 5),  # linear radar given, decibels expected
    ],
)
def test_other_units_are_noticed(values, mean, std):
    (doubt,) = doubts(values, mean, std)
    assert doubt.describe().startswith("red: median ")


@pytest.mark.parametrize("factor", [0.3, 1, 3])
def test_other_seasons_are_not(factor):
    assert doubts(_REFLECTANCE * 1e4 * factor, 1500, 800) == ()


def test_nothing_is_said_of_nothing():
    assert doubts([], 1500, 800) == ()
