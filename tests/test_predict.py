"""A scene becomes a map on the same grid, whatever the scene is."""

from __future__ import annotations

import json
import resource
import struct
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
import rasterio.shutil
import torch
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.control import GroundControlPoint
from rasterio.transform import from_origin
from torch import nn

from eosfm_cli.errors import (
    BandError,
    BundleError,
    DataError,
    OutOfMemoryError,
    OutputError,
    RasterError,
    UsageError,
)
from eosfm_cli.manifest import EnsembleManifest, ModelManifest, to_metadata
from eosfm_cli.progress import Silent
from eosfm_cli.raster.scoring import Scorer
from eosfm_cli.workflows.predict import PredictSpec, predict

NAMES = ("water", "trees & <shrub>", "bare")
PLACED = {"crs": "EPSG:32631", "transform": from_origin(5e5, 5e6, 10, 10)}


class Steps(nn.Module):
    """Gives class 0, 1 or 2 to pixels whose first band is about 0, 1 or 2."""

    def forward(self, x):
        levels = torch.arange(3.0)[:, None, None]
        return -((x[:, :1] - levels) ** 2) * 20


class Blurred(Steps):
    """The same, looking at each pixel's surroundings."""

    def forward(self, x):
        return super().forward(nn.functional.avg_pool2d(x, 9, 1, 4, count_include_pad=False))


class Told(Silent):
    """Keeps what it is told."""

    def __init__(self):
        self.said, self.warned = [], []

    def say(self, text):
        self.said.append(text)

    def warn(self, text):
        self.warned.append(text)


def model(module=None, *, bands=("red",), task="segmentation", std=1.0, tile=64, sensor=None):
    manifest = ModelManifest.model_validate(
        {
            "recipe": "cover",
            "title": "Land cover",
            "task": task,
            "bands": bands,
            "sensor": sensor,
            "statistics": {band: {"mean": 0.0, "std": std} for band in bands},
            "classes": [{"name": name} for name in NAMES],
            "ignore_index": 255,
            "tile_size": tile,
            "encoder": {"fusion": "concat", "normalize": "batch"},
            "specialists": [{"name": "s2", "backbone": "x", "in_chans": 1, "bands": bands[:1]}],
            "decoder": {"name": "d"},
            "licence": "CC-BY-4.0",
        }
    )
    return SimpleNamespace(manifest=manifest, module=module or Steps())


def levels(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 3, (1, height, width)).astype(np.float32)


def write(path: Path, values, *, descriptions=(), **profile):
    count, height, width = values.shape
    with rasterio.open(
        path, "w", driver="GTiff", count=count, height=height, width=width, dtype=values.dtype,
        **profile,
    ) as dataset:  # fmt: skip
        dataset.write(values)
        for i, text in enumerate(descriptions, 1):
            dataset.set_band_description(i, text)
    return path


def run(path, tmp_path, *, progress=None, **options):
    fitted = options.pop("fitted") if "fitted" in options else model()
    options.setdefault("quicklook", False)
    if fitted is not None:
        options.setdefault("window", fitted.manifest.tile_size)  # several even of small scenes
    spec = PredictSpec((path,), root=tmp_path / "experiments", **options)
    (outcome,) = predict(spec, progress=progress, fitted=fitted)
    return outcome.result


def read(path):
    with rasterio.open(path) as dataset:
        return dataset.read(1)


# --------------------------------------------------------------------------- the map


@pytest.mark.parametrize("size", [(5, 7), (1, 150), (130, 1), (64, 64), (65, 200), (131, 97)])
def test_every_pixel_of_any_size_is_mapped(tmp_path, size):
    values = levels(*size)
    result = run(write(tmp_path / "a.tif", values, **PLACED), tmp_path)
    assert result.output == tmp_path / "a_pred.tif"
    assert (result.height, result.width) == size
    np.testing.assert_array_equal(read(result.output), values[0])


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(height=st.integers(1, 150), width=st.integers(1, 150), tile=st.sampled_from([32, 64, 96]))
def test_maps_do_not_depend_on_windows(tmp_path, height, width, tile):
    values = levels(height, width)
    path = write(tmp_path / "a.tif", values, **PLACED)
    result = run(path, tmp_path, fitted=model(tile=tile), overwrite=True)
    np.testing.assert_array_equal(read(result.output), values[0])


def test_windows_leave_no_seams(tmp_path):
    ramp = np.linspace(0, 2, 200, dtype=np.float32)
    values = np.add.outer(ramp, ramp)[None] / 2
    path = write(tmp_path / "a.tif", values, **PLACED)
    with torch.inference_mode():
        whole = Blurred()(torch.from_numpy(values)[None]).argmax(1)[0].numpy()
    result = run(path, tmp_path, fitted=model(Blurred()))
    assert result.windows > 1
    assert (read(result.output) == whole).mean() > 0.999


def test_windows_are_larger_than_small_tiles(tmp_path):
    values = levels(900, 1000)
    result = run(write(tmp_path / "a.tif", values, **PLACED), tmp_path, window=None)
    assert result.windows == 4
    np.testing.assert_array_equal(read(result.output), values[0])


@pytest.mark.parametrize("size", [(40, 50), (100, 150)])
def test_models_that_take_their_tile_alone_get_it(tmp_path, size):
    class Fixed(Steps):
        def forward(self, x):
            if x.shape[-2:] != (64, 64):
                raise ValueError("64 pixels, please")
            return super().forward(x)

    values = levels(*size)
    path = write(tmp_path / "a.tif", values, **PLACED)
    result = run(path, tmp_path, window=None, fitted=model(Fixed()))
    np.testing.assert_array_equal(read(result.output), values[0])
    with pytest.raises(UsageError, match="windows of 64 pixels alone"):
        run(path, tmp_path, window=32, fitted=model(Fixed()), overwrite=True)


def test_a_scene_larger_than_the_disk_is_refused_at_once(tmp_path):
    path = tmp_path / "a.tif"
    with rasterio.open(
        path, "w", driver="GTiff", count=1, height=10**6, width=10**6, dtype="float32",
        tiled=True, blockxsize=4096, blockysize=4096, SPARSE_OK=True, BIGTIFF="YES", **PLACED,
    ):  # fmt: skip
        pass
    with pytest.raises(RasterError, match="1,000,000 × 1,000,000 pixels"):
        run(path, tmp_path)
    assert names_in(tmp_path) == ["a.tif"]


def names_in(folder):
    return sorted(path.name for path in folder.iterdir() if path.is_file())


@pytest.mark.parametrize(
    "place",
    [
        PLACED,
        {"crs": "EPSG:32631", "transform": Affine(10, 0, 5e5, 0, 10, 5e6)},
        {"crs": "EPSG:3857", "transform": Affine(8, 3, 5e5, 3, -8, 5e6)},
        {"crs": "EPSG:4326", "transform": from_origin(2, 51, 1e-4, 2e-4)},
    ],
    ids=["north up", "south up", "rotated", "geographic"],
)
def test_the_map_has_the_scenes_grid(tmp_path, place):
    result = run(write(tmp_path / "a.tif", levels(40, 50), **place), tmp_path)
    with rasterio.open(result.output) as dataset:
        assert dataset.shape == (40, 50)
        assert dataset.crs == rasterio.CRS.from_string(place["crs"])
        assert dataset.transform == place["transform"]


def test_ground_control_points_are_kept(tmp_path):
    points = [GroundControlPoint(r, c, 3 + c, 50 - r) for r in (0, 40) for c in (0, 50)]
    path = write(tmp_path / "a.tif", levels(40, 50), crs="EPSG:4326", gcps=points)
    with rasterio.open(run(path, tmp_path).output) as dataset:
        found, crs = dataset.gcps
        assert [(p.row, p.col, p.x, p.y) for p in found] == [
            (p.row, p.col, p.x, p.y) for p in points
        ]
        assert crs.to_epsg() == 4326


@pytest.mark.filterwarnings("error::rasterio.errors.NotGeoreferencedWarning")
def test_a_scene_without_a_place_is_mapped_with_a_warning(tmp_path):
    told = Told()
    with warnings.catch_warnings(action="ignore"):
        path = write(tmp_path / "a.tif", levels(40, 50))
    result = run(path, tmp_path, progress=told, quicklook=True)
    assert any("no coordinate reference system" in text for text in told.warned)
    with warnings.catch_warnings(action="ignore"), rasterio.open(result.output) as dataset:
        assert dataset.crs is None


def test_missing_values_stay_missing(tmp_path):
    values = levels(150, 90)
    values[0, :100, :80] = -9999
    path = write(tmp_path / "a.tif", values, nodata=-9999, **PLACED)
    result = run(path, tmp_path)
    np.testing.assert_array_equal(read(result.output), np.where(values < 0, 255, values)[0])
    assert result.nodata_share == pytest.approx(100 * 80 / (150 * 90))
    assert sum(result.shares.values()) == pytest.approx(1)


def test_windows_without_values_are_not_computed(tmp_path):
    class Counting(Steps):
        windows = 0

        def forward(self, x):
            self.windows += len(x)
            return super().forward(x)

    values = np.full((1, 300, 300), np.nan, np.float32)
    values[0, :10, :10] = 1
    fitted = model(Counting())
    result = run(write(tmp_path / "a.tif", values, **PLACED), tmp_path, fitted=fitted)
    assert fitted.module.windows == 1
    assert result.windows > 50


def test_a_scene_without_any_value_gives_an_empty_map_and_a_warning(tmp_path):
    told = Told()
    path = write(tmp_path / "a.tif", np.full((1, 70, 70), np.nan, np.float32), **PLACED)
    result = run(path, tmp_path, progress=told, quicklook=True)
    assert (read(result.output) == 255).all()
    assert set(result.shares.values()) == {0}
    assert any("no pixel with a value" in text for text in told.warned)


def test_bands_are_found_by_name_and_said(tmp_path):
    told = Told()
    values = np.concatenate([levels(40, 50, seed) for seed in range(3)])
    path = write(tmp_path / "a.tif", values, descriptions=("B02", "B03", "B04"), **PLACED)
    result = run(path, tmp_path, fitted=model(bands=("red", "blue")), progress=told)
    np.testing.assert_array_equal(read(result.output), values[2])
    assert any("band descriptions" in text for text in told.said)
    named = run(path, tmp_path, bands="red, B03,blue", overwrite=True)
    np.testing.assert_array_equal(read(named.output), values[0])


def test_bands_are_named_as_the_models_sensor_names_them(tmp_path):
    values = np.concatenate([levels(40, 50, seed) for seed in range(2)])
    path = write(tmp_path / "a.tif", values, **PLACED)
    fitted = model(bands=("pan",), sensor="landsat-8")
    result = run(path, tmp_path, fitted=fitted, bands="B4,B8")
    np.testing.assert_array_equal(read(result.output), values[1])
    with pytest.raises(UsageError, match=r"Unknown band 'gren'\. Did you mean 'green'"):
        run(path, tmp_path, fitted=fitted, bands="red,gren", overwrite=True)


def test_which_specialist_sees_what_is_said(tmp_path):
    told = Told()
    path = write(tmp_path / "a.tif", levels(40, 50), **PLACED)
    run(path, tmp_path, fitted=model(), progress=told)
    at = told.said.index("plan: how the ensemble sees these bands")
    assert told.said[at + 1] == "  s2  identity: red"


def test_values_in_other_units_are_warned_of(tmp_path):
    told = Told()
    values = levels(64, 64) * 1000
    run(write(tmp_path / "a.tif", values, **PLACED), tmp_path, progress=told)
    assert any("red: median 1e+03 here" in text for text in told.warned)


# --------------------------------------------------------------------------- what a GIS sees


def test_gdal_reads_colours_names_and_origin(tmp_path):
    output = run(write(tmp_path / "a.tif", levels(300, 40), **PLACED), tmp_path).output
    with rasterio.open(output) as dataset:
        assert dataset.dtypes == ("uint8",)
        assert dataset.nodata == 255
        assert dataset.block_shapes == [(512, 512)]
        assert dataset.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert dataset.descriptions == ("Land cover",)
        colours = dataset.colormap(1)
        tags = dataset.tags()
    assert len({colours[i] for i in range(3)}) == 3
    assert tags["EOSFM_RECIPE"] == "cover"
    assert tags["EOSFM_SPECIALISTS"] == "s2"
    assert tags["TIFFTAG_COPYRIGHT"] == "CC-BY-4.0"
    assert tags["TIFFTAG_SOFTWARE"].startswith("eosfm ")
    # rasterio does not show category names; GDAL's own description of the file has them.
    rasterio.shutil.copy(output, tmp_path / "a.vrt", driver="VRT")
    description = (tmp_path / "a.vrt").read_text()
    for name in ("water", "trees &amp; &lt;shrub&gt;", "bare"):
        assert f"<Category>{name}</Category>" in description
    assert not list(tmp_path.glob(".*"))


def test_old_overviews_do_not_outlive_the_map_they_show(tmp_path):
    path = write(tmp_path / "a.tif", levels(300, 300), **PLACED)
    output = run(path, tmp_path).output
    with (
        rasterio.Env(TIFF_USE_OVR=True),
        rasterio.open(output, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as dataset,
    ):
        dataset.build_overviews([2])
    assert Path(f"{output}.ovr").exists()
    run(path, tmp_path, overwrite=True)
    with rasterio.open(output) as dataset:
        assert dataset.overviews(1) == []


def test_the_quicklook_is_a_picture_of_bounded_size(tmp_path):
    result = run(write(tmp_path / "a.tif", levels(90, 2000), **PLACED), tmp_path, quicklook=True)
    assert result.quicklook == tmp_path / "a_pred.png"
    head = result.quicklook.read_bytes()[:24]
    assert head.startswith(b"\x89PNG")
    assert max(struct.unpack(">II", head[16:24])) <= 1500


# --------------------------------------------------------------------------- refusals


def test_a_map_is_not_replaced_unless_asked(tmp_path):
    path = write(tmp_path / "a.tif", levels(40, 50), **PLACED)
    (tmp_path / "a_pred.tif").write_text("mine")
    with pytest.raises(UsageError) as caught:
        run(path, tmp_path)
    assert "--overwrite" in caught.value.hint
    assert (tmp_path / "a_pred.tif").read_text() == "mine"
    assert read(run(path, tmp_path, overwrite=True).output).shape == (40, 50)


def test_a_picture_is_not_replaced_unless_asked(tmp_path):
    path = write(tmp_path / "a.tif", levels(40, 50), **PLACED)
    (tmp_path / "a_pred.png").write_text("mine")
    with pytest.raises(UsageError, match=r"a_pred\.png is already there"):
        run(path, tmp_path, quicklook=True)


def test_the_scene_itself_is_never_replaced(tmp_path):
    path = write(tmp_path / "a.tif", levels(40, 50), **PLACED)
    before = path.read_bytes()
    with pytest.raises(UsageError, match="the scene itself"):
        run(path, tmp_path, output=path, overwrite=True)
    assert path.read_bytes() == before


def test_output_may_be_a_folder_but_no_other_format(tmp_path):
    path = write(tmp_path / "a.tif", levels(40, 50), **PLACED)
    (tmp_path / "maps").mkdir()
    assert run(path, tmp_path, output=tmp_path / "maps").output == tmp_path / "maps" / "a_pred.tif"
    with pytest.raises(UsageError, match=r"\.tif"):
        run(path, tmp_path, output=tmp_path / "map.shp")


def test_an_output_that_cannot_be_written_is_refused(tmp_path):
    path = write(tmp_path / "a.tif", levels(40, 50), **PLACED)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="Cannot write"):
        run(path, tmp_path, output=tmp_path / "file" / "map.tif")


def test_a_full_disk_leaves_nothing_behind(tmp_path):
    path = write(tmp_path / "a.tif", levels(300, 300), **PLACED)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
    try:
        with pytest.raises(OutputError, match=r"Cannot write .*a_pred\.tif"):
            run(path, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [p.name for p in tmp_path.glob("*.*")] == ["a.tif"]


def test_what_was_done_before_the_disk_was_full_is_gone_on_with(tmp_path):
    """There is room for the map, not for its polygons."""
    told, fitted = Told(), stopping(-1)
    path = write(tmp_path / "a.tif", levels(300, 300), **PLACED)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (700_000, before[1]))
    try:
        with pytest.raises(OutputError, match=r"Cannot write .*a_pred\.gpkg"):
            run(path, tmp_path, vector=Path("gpkg"), progress=told)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert told.said[-1] == "What is done is kept: go on with the same command and --resume."
    result = run(path, tmp_path, vector=Path("gpkg"), resume=True, fitted=fitted)
    assert fitted.module.computed == 0
    assert result.vector.exists()
    assert not (tmp_path / "a_pred.tif.part").exists()


def test_a_scene_damaged_in_the_middle_leaves_nothing_behind(tmp_path):
    path = write(tmp_path / "a.tif", levels(500, 64), **PLACED)
    path.write_bytes(path.read_bytes()[:90_000])
    with pytest.raises(RasterError, match="cannot be read"):
        run(path, tmp_path, quicklook=True)
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == ["a.tif"]


def test_models_of_whole_images_make_no_maps(tmp_path):
    path = write(tmp_path / "a.tif", levels(40, 50), **PLACED)
    with pytest.raises(UsageError, match="whole images"):
        run(path, tmp_path, fitted=model(task="classification"))


def test_a_missing_band_leaves_nothing_behind(tmp_path):
    path = write(tmp_path / "a.tif", levels(40, 50), descriptions=("nir",), **PLACED)
    with pytest.raises(BandError, match="lacks red"):
        run(path, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.tif"]


def test_without_a_model_the_way_to_one_is_said(tmp_path):
    path = write(tmp_path / "a.tif", levels(40, 50), **PLACED)
    with pytest.raises(DataError) as caught:
        run(path, tmp_path, fitted=None)
    assert "eosfm fit-ensemble" in caught.value.hint


def test_an_ensemble_is_no_model(tmp_path):
    path = write(tmp_path / "a.tif", levels(40, 50), **PLACED)
    manifest = EnsembleManifest(specialists=model().manifest.specialists)
    header = json.dumps({"__metadata__": to_metadata(manifest)}).encode()
    ensemble = tmp_path / "ensemble.safetensors"
    ensemble.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(BundleError, match="not a fitted model"):
        run(path, tmp_path, fitted=None, model=ensemble)


def test_a_run_folder_stands_for_its_model(tmp_path):
    path = write(tmp_path / "a.tif", levels(40, 50), **PLACED)
    with pytest.raises(DataError, match=r"model\.safetensors"):
        run(path, tmp_path, fitted=None, model=tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(BundleError, match=r"model\.safetensors"):
        run(path, tmp_path, fitted=None, model=tmp_path)


def test_scores_that_are_no_numbers_are_refused(tmp_path):
    class Broken(Steps):
        def forward(self, x):
            return super().forward(x) * torch.nan

    path = write(tmp_path / "a.tif", levels(40, 50), **PLACED)
    with pytest.raises(BundleError, match="no numbers"):
        run(path, tmp_path, fitted=model(Broken()))


# --------------------------------------------------------------------------- memory


class Narrow(Steps):
    """Has room for a few windows at once."""

    def __init__(self, room):
        super().__init__()
        self.room = room

    def forward(self, x):
        if len(x) > self.room:
            raise torch.OutOfMemoryError("out of memory")
        return super().forward(x)


def test_batches_halve_until_they_fit():
    sizes = []
    scorer = Scorer(Narrow(3), torch.device("cpu"), 8, sizes.append)
    windows = [np.full((1, 4, 4), float(i % 3), np.float32) for i in range(10)]
    scores = scorer.score(windows)
    assert sizes == [4, 2]
    assert [int(s.argmax(0)[0, 0]) for s in scores] == [i % 3 for i in range(10)]


def test_a_window_that_never_fits_is_out_of_memory(tmp_path):
    path = write(tmp_path / "a.tif", levels(40, 50), **PLACED)
    with pytest.raises(OutOfMemoryError) as caught:
        run(path, tmp_path, fitted=model(Narrow(0)))
    assert caught.value.exit_code == 4
    assert not (tmp_path / "a_pred.tif").exists()


# --------------------------------------------------------------------------- real data


@pytest.mark.parametrize(
    ("name", "bands"),
    [
        ("s2_13band_512.tif", ("red", "nir")),
        ("s1_vvvh_512.tif", ("vv",)),
        ("naip_4band_2009.tif", ("red", "green", "blue", "nir")),
        ("landsat7_6band.tif", ("blue", "green", "red", "nir", "swir16", "swir22")),
        ("utm_rgb_nodata0.tif", ("red", "green", "blue")),
    ],
)
def test_real_scenes_are_mapped_on_their_grid(sample_data, tmp_path, name, bands):
    scene = sample_data("scenes") / name
    fitted = model(bands=bands, std=500.0, tile=256)
    result = run(scene, tmp_path, output=tmp_path / "map.tif", fitted=fitted)
    with rasterio.open(scene) as source, rasterio.open(result.output) as dataset:
        assert dataset.shape == source.shape
        assert dataset.crs == source.crs
        assert dataset.transform == source.transform


# --------------------------------------------------------------------------- going on


class Stops(torch.nn.Module):
    """A model that is interrupted after some batches."""

    def __init__(self, module: torch.nn.Module, batches: int) -> None:
        super().__init__()
        self.module, self.left, self.computed = module, batches, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        self.computed += len(x)
        return self.module(x)


def stopping(batches: int) -> SimpleNamespace:
    return model(Stops(Steps(), batches))


def test_a_map_that_was_stopped_goes_on_where_it_was(tmp_path):
    path = write(tmp_path / "a.tif", levels(400, 300), **PLACED)
    expected = run(path, tmp_path, output=tmp_path / "whole.tif")
    with pytest.raises(KeyboardInterrupt):
        run(path, tmp_path, fitted=stopping(12), batch_size=8)
    assert not (tmp_path / "a_pred.tif").exists()
    with pytest.raises(UsageError, match="was begun before") as caught:
        run(path, tmp_path)
    assert "--resume" in caught.value.hint
    rest = stopping(-1)
    result = run(path, tmp_path, fitted=rest, resume=True)
    assert 0 < rest.module.computed < expected.windows
    assert result.shares == expected.shares
    with rasterio.open(result.output) as found, rasterio.open(expected.output) as whole:
        np.testing.assert_array_equal(found.read(), whole.read())
    assert not (tmp_path / "a_pred.tif.part").exists()


@pytest.mark.parametrize(("batches", "kept"), [(0, False), (12, True)])
def test_how_to_go_on_is_said_where_there_is_something_to_go_on_with(tmp_path, batches, kept):
    told = Told()
    path = write(tmp_path / "a.tif", levels(400, 300), **PLACED)
    with pytest.raises(KeyboardInterrupt):
        run(path, tmp_path, fitted=stopping(batches), batch_size=8, progress=told)
    assert any("--resume" in text for text in told.said) == kept


def test_a_map_of_another_scene_is_not_gone_on_with(tmp_path):
    path = write(tmp_path / "a.tif", levels(400, 300), **PLACED)
    with pytest.raises(KeyboardInterrupt):
        run(path, tmp_path, fitted=stopping(12), batch_size=8)
    write(path, levels(400, 300)[:, ::-1], **PLACED)
    anew = stopping(-1)
    result = run(path, tmp_path, fitted=anew, resume=True)
    assert anew.module.computed == result.windows


def test_two_processes_do_not_make_one_map(tmp_path):
    path = write(tmp_path / "a.tif", levels(40, 50), **PLACED)
    folder = tmp_path / "a_pred.tif.part"
    folder.mkdir()
    holds = "import sys; from pathlib import Path; from eosfm_cli.run_dir import RunDir\n"
    holds += "with RunDir(Path(sys.argv[1])).hold(): print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", holds, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"held\n"
        for overwrite in (False, True):
            with pytest.raises(UsageError, match="worked on by another process"):
                run(path, tmp_path, overwrite=overwrite)
        other.stdin.close()
    assert read(run(path, tmp_path).output).shape == (40, 50)


def test_overwrite_begins_anew(tmp_path):
    path = write(tmp_path / "a.tif", levels(400, 300), **PLACED)
    with pytest.raises(KeyboardInterrupt):
        run(path, tmp_path, fitted=stopping(12), batch_size=8)
    anew = stopping(-1)
    result = run(path, tmp_path, fitted=anew, overwrite=True)
    assert anew.module.computed == result.windows
