"""Maps as a GIS shows them, the maps beside them, polygons, and tables of labels."""

from __future__ import annotations

import json
import resource
import sqlite3
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyproj import Geod
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.features import rasterize, shapes
from rasterio.transform import from_origin
from torch import nn

from eosfm_cli.errors import DataError, OutputError, RasterError, UsageError
from eosfm_cli.manifest import ModelManifest
from eosfm_cli.progress import Silent
from eosfm_cli.raster.geotiff import map_options, new_map
from eosfm_cli.raster.grid import Grid
from eosfm_cli.raster.layers import NO_VALUE, class_layer, share_layer, value_layer
from eosfm_cli.raster.mosaic import Block
from eosfm_cli.raster.products import (
    ProductOptions,
    depth_of,
    labels_of,
    map_tags,
    products,
    write_product,
)
from eosfm_cli.raster.qgis import write_style
from eosfm_cli.raster.vector import check_placed, vector_path, write_polygons
from eosfm_cli.recipe import ClassSpec, TargetSpec
from eosfm_cli.results import Cost
from eosfm_cli.tiling import Tile
from eosfm_cli.workflows.label import label
from tests.cog import faults
from tests.rasters import write_tif

NAMES = ("water", "trees & <shrub>", "bare")
COLOURS = ("#0000ff", "#00ff00", "#ff0000")
CLASSES = [ClassSpec(name=n, colour=c) for n, c in zip(NAMES, COLOURS, strict=True)]
UTM = CRS.from_epsg(32631)


def manifest(task="segmentation", specialists=2, **changes):
    told = [
        {"name": f"s{i}", "backbone": "x", "in_chans": 1, "bands": ["red"]}
        for i in range(specialists)
    ]
    values = {"target": {"name": "height", "unit": "m", "min": 0}}
    classes = {"classes": [spec.model_dump() for spec in CLASSES]}
    return ModelManifest.model_validate(
        {
            "recipe": "cover",
            "title": "Land cover",
            "task": task,
            "bands": ["red"],
            "statistics": {"red": {"mean": 0.0, "std": 1.0}},
            **(values if task == "regression" else classes),
            "ignore_index": 255,
            "tile_size": 32,
            "encoder": {"fusion": "concat", "normalize": "batch"},
            "specialists": told,
            "decoder": {"name": "d"},
            "licence": "CC-BY-4.0",
            **changes,
        }
    )


def block(scores, valid=None):
    scores = np.asarray(scores, np.float32)
    _, height, width = scores.shape
    valid = np.ones((height, width), bool) if valid is None else np.asarray(valid)
    return Block(Tile(0, 0, height, width), scores, valid)


def grid_of(labels, *, crs=UTM, transform=None):
    transform = from_origin(5e5, 5e6, 10, 10) if transform is None else transform
    return Grid(*labels.shape, crs, transform)


def write(path, values, layer, **grid):
    values = np.asarray(values)
    values = values[None] if values.ndim == 2 else values
    with new_map(path, grid_of(values[0], **grid), layer, tags={}) as rows:
        rows.append(values)
    return path


def class_map(path, labels, **grid):
    return write(path, np.asarray(labels, np.uint8), class_layer(CLASSES, "t"), **grid)


# --------------------------------------------------------------------------- which maps


ALL = ProductOptions(probabilities=True, confidence=True, disagreement=True, nodata=200)


def test_each_map_has_a_file_of_its_own_beside_the_map():
    made = products(manifest(), ALL)
    assert [p.name for p in made] == ["map", "probabilities", "confidence", "disagreement"]
    names = ["a_pred.tif", "a_prob.tif", "a_conf.tif", "a_disagree.tif"]
    assert [p.path(Path("x/a_pred.tif")) for p in made] == [Path("x") / name for name in names]
    assert made[1].path(Path("map.tiff")) == Path("map_prob.tiff")


def test_pixels_of_each_map():
    scores = [[[0.5, 0.1, 0.3]], [[0.25, 0.7, 0.3]], [[0.25, 0.2, 0.4]], [[0.0, 1.2, 0.5]]]
    one = block(scores, [[True, True, False]])
    map_, shares, sure, apart = (p.values(one) for p in products(manifest(), ALL))
    assert depth_of(manifest(), ALL) == 4
    assert map_.tolist() == [[[0, 1, 200]]]
    assert shares.tolist() == [[[127, 25, 255]], [[64, 178, 255]], [[64, 51, 255]]]
    assert sure.tolist() == [[[127, 178, 255]]]
    assert apart.tolist() == [[[0, 254, 255]]]
    assert {a.dtype.name for a in (map_, shares, sure, apart)} == {"uint8"}


@given(st.integers(1, 255), st.integers(0, 2**32 - 1))
def test_a_pixel_gets_the_first_of_the_likeliest_classes(count, seed):
    scores = np.random.default_rng(seed).integers(0, 3, (count, 5, 7)).astype(np.float32)
    np.testing.assert_array_equal(labels_of(block(scores), count), scores.argmax(axis=0))


def test_disagreement_of_values_is_in_their_unit():
    options = ProductOptions(disagreement=True)
    map_, apart = products(manifest("regression"), options)
    one = block([[[-1.0, 2.5]], [[0.25, 9.0]]], [[True, False]])
    assert depth_of(manifest("regression"), options) == 2
    assert map_.values(one).tolist() == [[[0.0, NO_VALUE]]]
    assert apart.values(one).tolist() == [[[0.25, NO_VALUE]]]
    assert (apart.layer.dtype, apart.layer.unit) == ("float32", "m")


@pytest.mark.parametrize(
    ("model", "options", "said"),
    [
        (manifest(), {"nodata": 2}, "stands for a class"),
        (manifest(), {"nodata": 256}, "holds 0 to 255"),
        (manifest(), {"nodata": -1}, "holds 0 to 255"),
        (manifest("regression"), {"nodata": 0}, "-9999"),
        (manifest("regression"), {"probabilities": True}, "no probabilities"),
        (manifest("regression"), {"confidence": True}, "no confidence"),
        (manifest(specialists=1), {"disagreement": True}, "a single specialist"),
    ],
)
def test_what_a_model_cannot_say_is_refused(model, options, said):
    with pytest.raises(UsageError, match=said) as refused:
        products(model, ProductOptions(**options))
    assert refused.value.hint


def test_a_map_says_where_it_comes_from():
    told = manifest(
        specialists=1,
        licence="CC-BY-4.0",
    )
    strict = told.specialists[0].model_copy(update={"licence": "CC-BY-NC-4.0"})
    told = told.model_copy(update={"specialists": (*told.specialists, strict)})
    tags = map_tags(told, model="m.safetensors", input="a.tif", cost=Cost(1, 0.00012345, 0))
    assert tags["TIFFTAG_COPYRIGHT"] == "CC-BY-NC-4.0"
    assert tags["EOSFM_ENERGY_KWH"] == "0.00012345"
    assert tags["EOSFM_MODEL"] == "m.safetensors"
    assert tags["EOSFM_SPECIALISTS"] == "s0, s0"
    assert tags["TIFFTAG_SOFTWARE"].startswith("eosfm ")
    assert "EOSFM_BEFORE" not in tags


# --------------------------------------------------------------------------- files


LAYERS = {
    "classes": class_layer(CLASSES, "t"),
    "shares": share_layer(NAMES),
    "values": value_layer(TargetSpec(name="height", unit="m")),
}


@pytest.mark.parametrize("kind", list(LAYERS))
@pytest.mark.parametrize("size", [(1, 1), (1, 700), (700, 1), (513, 511), (1100, 1300)])
def test_maps_of_any_size_are_cloud_optimized_and_whole(tmp_path, kind, size):
    layer = LAYERS[kind]
    rng = np.random.default_rng(1)
    high = 3 if kind == "classes" else 255
    values = rng.integers(0, high, (layer.count, *size)).astype(layer.dtype)
    path = write(tmp_path / "a.tif", values, layer)
    assert faults(path) == []
    beside = ["a.tif.aux.xml"] if kind == "classes" else []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tif", *beside]
    with rasterio.open(path) as found:
        np.testing.assert_array_equal(found.read(), values)
        assert found.nodata == layer.nodata
        assert found.descriptions == layer.names


def test_files_that_may_be_too_large_for_a_tiff_are_bigtiff(tmp_path):
    """GDAL decides before it compresses; an empty file takes the same decision in no time."""
    assert class_map(tmp_path / "small.tif", [[0]]).read_bytes()[:4] == b"II*\0"
    large = Grid(66_000, 66_000, UTM, from_origin(0, 0, 1, 1))
    options = map_options(large, LAYERS["classes"])
    chosen = {key: options[key] for key in ("BIGTIFF", "COMPRESS", "SPARSE_OK")}
    kind = {"driver": "GTiff", "count": 1, "dtype": "uint8"}
    with rasterio.open(tmp_path / "a.tif", "w", **large.profile, **kind, **chosen):
        pass
    assert (tmp_path / "a.tif").read_bytes()[:4] == b"II+\0"


def test_what_is_no_cloud_optimized_file_is_told(tmp_path):
    values = np.zeros((600, 600), np.uint8)
    assert faults(write_tif(tmp_path / "striped.tif", values)) == ["no overviews", "not tiled"]
    late = tmp_path / "late.tif"
    profile = {"driver": "GTiff", "width": 600, "height": 600, "count": 1, "dtype": "uint8"}
    with rasterio.open(late, "w", **profile, tiled=True, blockxsize=256, blockysize=256) as file:
        file.write(values + 1, 1)
    with rasterio.open(late, "r+") as file:
        file.build_overviews([2])
    assert "a directory comes after pixels" in faults(late)


def test_overviews_show_the_commonest_class_and_the_mean_of_what_is_known(tmp_path):
    labels = np.zeros((1024, 1024), np.uint8)
    labels[::2, ::2] = 2
    with rasterio.open(class_map(tmp_path / "c.tif", labels), overview_level=0) as reduced:
        assert set(np.unique(reduced.read(1))) == {0}
    values = np.full((1024, 1024), 4, np.float32)
    values[::2] = 8
    values[:, ::2] = NO_VALUE
    path = write(tmp_path / "v.tif", values, LAYERS["values"])
    with rasterio.open(path, overview_level=0) as reduced:
        assert set(np.unique(reduced.read(1))) == {6.0}


def test_a_map_comes_with_names_and_style(tmp_path):
    (product,) = products(manifest())
    raw = tmp_path / "m.raw"
    raw.write_bytes(bytes([0, 1, 2, 255]))
    grid = Grid(2, 2, UTM, from_origin(0, 0, 1, 1))
    written = write_product(product, tmp_path / "a_pred.tif", raw, grid, tags={"EOSFM_RECIPE": "r"})
    names = ["a_pred.tif", "a_pred.tif.aux.xml", "a_pred.qml"]
    assert [path.name for path in written] == names
    assert sorted(p.name for p in tmp_path.iterdir() if p != raw) == sorted(names)
    with rasterio.open(written[0]) as found:
        assert found.tags()["EOSFM_RECIPE"] == "r"
    entries = ElementTree.parse(written[2]).findall("pipe/rasterrenderer/colorPalette/paletteEntry")
    found = [(e.get("value"), e.get("label"), e.get("color")) for e in entries]
    assert found == [(str(i), n, c) for i, (n, c) in enumerate(zip(NAMES, COLOURS, strict=True))]


@pytest.mark.parametrize(
    ("kind", "ends"),
    [("shares", (0, 1)), ("values", (10, 20)), ("disagreement", (0, 19 / 254))],
    ids=["shares", "values", "disagreement"],
)
def test_a_ramp_spans_what_the_map_holds(tmp_path, kind, ends):
    layer = {**LAYERS, "disagreement": products(manifest(), ALL)[-1].layer}[kind]
    values = np.linspace(10, 20, 10_000).reshape(1, 100, 100).astype(layer.dtype)
    path = write(tmp_path / "a.tif", np.repeat(values, layer.count, axis=0), layer)
    style = ElementTree.parse(write_style(path, layer))
    items = style.findall("pipe/rasterrenderer/rastershader/colorrampshader/item")
    steps = [float(item.get("value")) for item in items]
    assert steps == sorted(steps)
    assert (steps[0], steps[-1]) == pytest.approx(ends, rel=0.03)
    assert items[-1].get("label").endswith(" m") == (kind == "values")


def test_a_map_without_any_value_has_a_style_too(tmp_path):
    path = write(tmp_path / "a.tif", np.full((4, 4), NO_VALUE, np.float32), LAYERS["values"])
    assert write_style(path, LAYERS["values"]) is not None


def test_a_style_that_somebody_saved_is_kept(tmp_path):
    path = class_map(tmp_path / "a.tif", [[0]])
    style = write_style(path, LAYERS["classes"])
    assert write_style(path, LAYERS["classes"]) == style
    style.write_text("<qgis/>")
    assert write_style(path, LAYERS["classes"]) is None
    assert style.read_text() == "<qgis/>"


# --------------------------------------------------------------------------- polygons


def polygons(tmp_path, labels, *, suffix=".gpkg", min_area=0.0, strip_pixels=None, **grid):
    path = class_map(tmp_path / "map.tif", labels, **grid)
    out = tmp_path / f"out{suffix}"
    options = {} if strip_pixels is None else {"strip_pixels": strip_pixels}
    summary = write_polygons(out, path, CLASSES, min_area=min_area, **options)
    found = geopandas.read_file(out, layer="out")
    assert summary.count == len(found)
    return found, summary


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    height=st.integers(1, 24),
    width=st.integers(1, 24),
    rows=st.integers(1, 7),
    seed=st.integers(0, 10_000),
    common=st.floats(0.3, 0.9),
)
def test_polygons_are_the_same_whatever_the_strips(tmp_path, height, width, rows, seed, common):
    rng = np.random.default_rng(seed)
    rest = (1 - common) / 3
    labels = rng.choice([0, 1, 2, 255], (height, width), p=[common, rest, rest, rest])
    labels = labels.astype(np.uint8)
    found, _ = polygons(tmp_path, labels, suffix=".fgb", strip_pixels=rows * width)
    whole = [int(v) for _, v in shapes(labels, labels < 3, connectivity=4)]
    assert sorted(found["value"]) == sorted(whole)
    assert found.is_valid.all()
    assert set(found.geom_type) <= {"Polygon"}
    for value in range(3):
        pixels = int((labels == value).sum())
        assert found.area_m2[found["value"] == value].sum() == pytest.approx(pixels * 100)
    if len(found):
        drawn = rasterize(
            zip(found.geometry, found["value"], strict=True),
            out_shape=labels.shape,
            transform=from_origin(5e5, 5e6, 10, 10),
            fill=255,
        )
        np.testing.assert_array_equal(drawn, labels)


def test_a_polygon_over_many_strips_comes_out_whole(tmp_path):
    """A comb whose teeth meet only in the last row, and a frame around all."""
    labels = np.full((200, 41), 255, np.uint8)
    labels[1:-1, 1:-1:2] = 1
    labels[-2, 1:-1] = 1
    labels[0], labels[-1], labels[:, 0], labels[:, -1] = 0, 0, 0, 0
    found, _ = polygons(tmp_path, labels, strip_pixels=41 * 7)
    found = found.set_index("class")
    assert list(found.index.sort_values()) == [NAMES[1], NAMES[0]]
    frame, comb = found.loc[NAMES[0]], found.loc[NAMES[1]]
    assert comb.area_m2 == (labels == 1).sum() * 100
    # Corners only where it turns: nothing is left of the strips.
    assert len(comb.geometry.exterior.coords) == 4 * 20 + 1
    assert len(frame.geometry.exterior.coords) == 5
    assert len(frame.geometry.interiors[0].coords) == 5


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".fgb"])
def test_polygons_say_what_they_are(tmp_path, suffix):
    found, _ = polygons(tmp_path, [[0, 0, 255], [0, 2, 255]], suffix=suffix)
    found = found.sort_values("value")
    assert list(found["class"]) == [NAMES[0], NAMES[2]]
    assert list(found["colour"]) == [COLOURS[0], COLOURS[2]]
    assert list(found["area_m2"]) == [300, 100]
    assert found.crs.to_epsg() == (4326 if suffix == ".geojson" else 32631)
    assert found.to_crs(32631).total_bounds == pytest.approx([5e5, 5e6 - 20, 5e5 + 20, 5e6])


def test_small_polygons_are_left_out_and_counted(tmp_path):
    found, summary = polygons(tmp_path, [[0, 0, 0, 1], [0, 0, 0, 1]], min_area=300)
    assert (summary.count, summary.left_out) == (1, 1)
    assert list(found["class"]) == [NAMES[0]]


def test_a_map_without_data_has_no_polygons(tmp_path):
    found, summary = polygons(tmp_path, np.full((3, 3), 255))
    assert (len(found), summary.count) == (0, 0)
    assert {"class", "value", "colour", "area_m2"} <= set(found.columns)


@pytest.mark.parametrize(
    ("crs", "corner"),
    [
        ("EPSG:4326", (10, 61, 0.01)),
        ("EPSG:4267", (-100, 61, 0.01)),
        ("EPSG:3857", (1_113_195, 8_515_909, 100)),
        ("+proj=eqc +datum=WGS84", (1_113_195, 6_700_000, 100)),
    ],
)
def test_areas_are_those_on_the_ground(tmp_path, crs, corner):
    west, north, size = corner
    place = {"crs": CRS.from_string(crs), "transform": from_origin(west, north, size, size)}
    found, _ = polygons(tmp_path, np.zeros((50, 50)), **place)
    degrees = found.to_crs(4326).geometry[0].segmentize(0.01)
    on_the_ground = abs(Geod(ellps="WGS84").geometry_area_perimeter(degrees)[0])
    assert found.area_m2[0] == pytest.approx(on_the_ground, rel=2e-4)


def test_the_moon_is_smaller_than_the_earth(tmp_path):
    moon = CRS.from_string("+proj=longlat +R=1737400")
    whole = from_origin(0, 90, 10, 10)
    found, _ = polygons(tmp_path, np.zeros((18, 36)), crs=moon, transform=whole)
    assert found.area_m2[0] == pytest.approx(4 * np.pi * 1_737_400**2, rel=1e-6)


def test_the_whole_earth_has_its_area(tmp_path):
    found, _ = polygons(
        tmp_path, np.zeros((18, 36)), crs=CRS.from_epsg(4326), transform=from_origin(0, 90, 10, 10)
    )
    assert found.area_m2[0] == pytest.approx(510.0656e12, rel=1e-6)


@pytest.mark.parametrize(
    ("west", "expected"),
    [(179.99, (-180, 180)), (190, (-170, -169.96)), (359.98, (-0.02, 0.02)), (-190, (170, 170.04))],
)
def test_geojson_is_between_180_degrees_west_and_east(tmp_path, west, expected):
    place = {"crs": CRS.from_epsg(4326), "transform": from_origin(west, 10, 0.01, 0.01)}
    found, _ = polygons(tmp_path, np.array([[0, 1, 0, 1]]), suffix=".geojson", **place)
    assert not found.is_empty.any()
    left, _, right, _ = found.total_bounds
    assert (left, right) == pytest.approx(expected)
    assert shapely.area(found.geometry.values).sum() == pytest.approx(0.04 * 0.01)


def test_areas_in_feet_are_told_in_metres(tmp_path):
    found, _ = polygons(tmp_path, [[0]], crs=CRS.from_epsg(2229), transform=from_origin(0, 9, 3, 3))
    assert found.area_m2[0] == pytest.approx(9 * (1200 / 3937) ** 2)


def test_qgis_finds_the_classes_colours_in_the_geopackage(tmp_path):
    polygons(tmp_path, [[0, 1, 2]])
    with closing(sqlite3.connect(tmp_path / "out.gpkg")) as database:
        query = "SELECT f_table_name, f_geometry_column, styleQML, useAsDefault FROM layer_styles"
        layer, column, style, default = database.execute(query).fetchone()
        real = "SELECT table_name, column_name FROM gpkg_geometry_columns"
        assert (layer, column) == database.execute(real).fetchone()
    assert default == 1
    categories = ElementTree.fromstring(style).findall("renderer-v2/categories/category")
    assert [c.get("value") for c in categories] == list(NAMES)


def test_polygons_of_a_map_that_lies_nowhere_are_refused(tmp_path):
    for crs in (None, CRS.from_wkt('LOCAL_CS["site",UNIT["metre",1]]')):
        with pytest.raises(RasterError, match=r"a\.tif has no coordinate reference system"):
            check_placed(Grid(1, 1, crs, from_origin(0, 0, 1, 1)), "a.tif")
    points = (GroundControlPoint(0, 0, 1, 1),)
    with pytest.raises(RasterError, match="only control points"):
        check_placed(Grid(1, 1, UTM, None, points), "a.tif")


def test_damaged_maps_and_broken_off_work_leave_no_polygons(tmp_path):
    path = class_map(tmp_path / "map.tif", np.random.default_rng(0).integers(0, 3, (1500, 1500)))
    data = bytearray(path.read_bytes())
    data[-20_000:] = bytes(20_000)
    path.write_bytes(data)
    before = sorted(p.name for p in tmp_path.iterdir())
    with pytest.raises(RasterError, match="cannot be read"):
        write_polygons(tmp_path / "out.gpkg", path, CLASSES)

    class Stopping(Silent):
        def step(self, title, total):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_polygons(tmp_path / "out.gpkg", path, CLASSES, progress=Stopping())
    assert sorted(p.name for p in tmp_path.iterdir()) == before


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".fgb"])
def test_a_full_disk_leaves_no_polygons(tmp_path, suffix):
    labels = np.random.default_rng(0).integers(0, 3, (200, 200))
    path = class_map(tmp_path / "map.tif", labels)
    names = sorted(p.name for p in tmp_path.iterdir())
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
    try:
        with pytest.raises(OutputError, match=rf"Cannot write .*out\{suffix}"):
            write_polygons(tmp_path / f"out{suffix}", path, CLASSES)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert sorted(p.name for p in tmp_path.iterdir()) == names


def test_an_interrupt_between_strips_is_passed_on(tmp_path):
    path = class_map(tmp_path / "map.tif", np.zeros((4, 4)))
    before = sorted(p.name for p in tmp_path.iterdir())

    class Interrupted(Silent):
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def step(self, title, total):
            return self

        def advance(self, amount):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_polygons(tmp_path / "o.fgb", path, CLASSES, strip_pixels=4, progress=Interrupted())
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_where_polygons_go(tmp_path):
    output = tmp_path / "a_pred.tif"
    assert vector_path(Path("x/out.GeoJSON"), output) == Path("x/out.GeoJSON")
    assert vector_path(Path("gpkg"), output) == tmp_path / "a_pred.gpkg"
    assert vector_path(Path(".fgb"), output) == tmp_path / "a_pred.fgb"
    assert vector_path(tmp_path, output) == tmp_path / "a_pred.gpkg"
    with pytest.raises(UsageError, match=r"\.gpkg, \.geojson, \.fgb") as refused:
        vector_path(Path("out.shp"), output)
    assert "out.gpkg" in refused.value.hint


# --------------------------------------------------------------------------- tables of labels


class Level(nn.Module):
    """Gives class 0, 1 or 2 to images whose mean is about 0, 1 or 2."""

    def forward(self, x):
        return -((x.mean((1, 2, 3))[:, None] - torch.arange(3.0)) ** 2) * 20


def told(tmp_path, *inputs, task="classification", **options):
    fitted = SimpleNamespace(manifest=manifest(task), module=Level())
    return label([str(i) for i in inputs], fitted=fitted, root=tmp_path / "e", bands="red",
                 **options)  # fmt: skip


def image(path, value, size=32):
    return write_tif(path, np.full((1, size, size), value, np.float32))


@pytest.mark.parametrize("task", ["classification", "multilabel"])
def test_a_table_may_be_json(tmp_path, task):
    one, two = image(tmp_path / "a.tif", 1), image(tmp_path / "b.tif", 2, 64)
    result = told(tmp_path, one, two, task=task, output=tmp_path / "t.json")
    table = json.loads((tmp_path / "t.json").read_text())
    assert table["classes"] == list(NAMES)
    first, second = table["images"]
    assert (first["file"], first["map"]) == (str(one), None)
    assert second["map"] == str(tmp_path / "b_pred.tif")
    assert (tmp_path / "b_pred.qml").exists()
    assert first["probabilities"] == pytest.approx(result.images[0].probabilities)
    if task == "classification":
        assert (first["class"], second["class"]) == (NAMES[1], NAMES[2])
    else:
        assert first["classes"] == [NAMES[1]]


def test_one_bad_image_does_not_stop_the_others(tmp_path):
    good = image(tmp_path / "good.tif", 0)
    bad = tmp_path / "bad.tif"
    bad.write_bytes(b"not a raster")
    result = told(tmp_path, bad, good, tmp_path / "gone.tif", output=tmp_path / "t.csv")
    assert [found.classes for found in result.images] == [(NAMES[0],)]
    assert list(result.failed) == [str(bad), str(tmp_path / "gone.tif")]
    with pytest.raises(RasterError):
        told(tmp_path, bad)
    with pytest.raises(DataError, match="None of 2 images"):
        told(tmp_path, bad, tmp_path / "gone.tif")
