"""Tables: rows that complete paths, several tables, rows that are parts of images; and boxes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eosfm_cli.data.folder import FolderSource, survey_folder
from eosfm_cli.data.sources import open_source
from eosfm_cli.data.splits import SPLIT_NAMES
from eosfm_cli.errors import DataError
from eosfm_cli.progress import Silent
from eosfm_cli.recipe import Recipe
from eosfm_cli.tiling import Tile
from tests.listening import Listener
from tests.rasters import folder_recipe, write_tif

CLASSES = [{"name": "water"}, {"name": "wood", "values": ["wood", "forest"]}]
S1 = {"path": "S1/{scene}/{s1_name}/{s1_name}_{band}.tif", "bands": ["vv", "vh"]}
S2 = {"path": "S2/{tile}/{id}/{id}_{band}.tif", "bands": ["B04", "B08"]}
LABELS = {"path": "table.csv", "id": "patch", "column": "labels", "fields": ["s1_name"]}
BY_COLUMN = {"by": "column", "column": "split"}


def write(root: Path, *names: str) -> None:
    for name in names:
        write_tif(root / name, np.zeros((1, 8, 8), np.uint8))


def multilabel(bands: tuple[str, ...] = ("red", "nir", "vv", "vh"), **dataset: Any) -> Recipe:
    """Radar and optical patches with names of their own, which a table joins."""
    both = {"images": {"s1": S1, "s2": S2}, "masks": None, "labels": LABELS, "split": BY_COLUMN}
    return folder_recipe(
        task="multilabel", classes=CLASSES, bands=list(bands), dataset={**both, **dataset}
    )


@pytest.fixture
def patches(tmp_path: Path) -> Path:
    """Three patches whose radar images are called x, y and z."""
    root = tmp_path / "data"
    for patch, radar in zip("abc", "zyx", strict=True):
        write(root, *(f"S2/t/{patch}/{patch}_{band}.tif" for band in ("B04", "B08")))
        write(root, *(f"S1/s/{radar}/{radar}_{band}.tif" for band in ("vv", "vh")))
    rows = ["a,z,train,water", "b,y,val,water;wood", "c,x,test,forest"]
    (root / "table.csv").write_text("\n".join(["patch,s1_name,split,labels", *rows, ""]))
    return root


def opened(recipe: Recipe, root: Path, listener: Silent | None = None) -> FolderSource:
    return open_source(recipe, root.parent, listener or Silent())


def refused(recipe: Recipe, root: Path) -> str:
    with pytest.raises(DataError) as caught:
        opened(recipe, root)
    assert caught.value.exit_code == 3
    return f"{caught.value.message}\n{caught.value.hint}"


def files(source: FolderSource, split: str) -> list[str]:
    return [p.relative_to(source.root).as_posix() for (p,) in source.samples[split][0].images]


# --------------------------------------------------------------------------- rows complete paths


def test_a_row_joins_sensors_that_share_no_name(patches: Path) -> None:
    source = opened(multilabel(), patches)
    assert files(source, "train") == [
        "S1/s/z/z_vv.tif",
        "S1/s/z/z_vh.tif",
        "S2/t/a/a_B04.tif",
        "S2/t/a/a_B08.tif",
    ]
    assert [source.samples[name][0].label for name in SPLIT_NAMES] == [(0,), (0, 1), (1,)]


def test_one_sensor_alone_has_the_same_samples(patches: Path) -> None:
    both = opened(multilabel(), patches)
    radar = opened(multilabel(("vv",)), patches)
    for name in SPLIT_NAMES:
        assert [(s.id, s.label) for s in radar.samples[name]] == [
            (s.id, s.label) for s in both.samples[name]
        ]
    assert files(radar, "train") == ["S1/s/z/z_vv.tif"]


def test_a_patch_without_a_row(patches: Path) -> None:
    write(patches, *(f"S2/t/d/d_{band}.tif" for band in ("B04", "B08")))
    write(patches, *(f"S1/s/w/w_{band}.tif" for band in ("vv", "vh")))
    assert "samples without a row: d, s_w" in refused(multilabel(), patches)
    listener = Listener()
    source = opened(multilabel(labels={**LABELS, "unlisted": "skip"}), patches, listener)
    assert sum(map(len, source.samples.values())) == 3
    assert "1 sample on disk without a row" in listener.warnings[0]


def test_a_row_without_its_radar_image(patches: Path) -> None:
    (patches / "S1/s/y/y_vh.tif").unlink()
    assert "b lacks S1/s/y/y_vh.tif" in refused(multilabel(), patches)


def test_a_row_that_contradicts_a_path(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write(root, *(f"{kind}/oslo/{name}.tif" for kind in ("images", "masks") for name in "abc"))
    table = "id,city\na,oslo\nb,rome\nc,oslo\n"
    (root / "table.csv").write_text(table)
    split = {"by": "list", "train": ["a", "b"], "val": 0.5, "test": ["c"], "scene": "{city}"}
    recipe = folder_recipe(
        dataset={
            "images": {"pan": {"path": "images/{city}/{id}.tif", "bands": ["pan"]}},
            "masks": {"path": "masks/{city}/{id}.tif"},
            "labels": {"path": "table.csv", "id": "id", "fields": ["city"]},
            "split": split,
        }
    )
    said = refused(recipe, root)
    assert (
        f"1 row of {root / 'table.csv'} against what paths say: b (city: oslo, in its row rome)"
        in said
    )


def with_cities(**changes: Any) -> Recipe:
    """Samples whose cities stand in two tables."""
    split = {"by": "folder", "val": 0.5, "scene": "{city}"}
    labels = {"path": ["train.csv", "test.csv", "more.csv"], "id": "chip", "fields": ["city"]}
    images = {"pan": {"path": "{split}/{id}/pan.tif", "bands": ["pan"]}}
    masks = {"path": "{split}/{id}/mask.tif"}
    dataset = {"images": images, "masks": masks, "labels": labels, "split": split}
    return folder_recipe(dataset={**dataset, **changes})


@pytest.fixture
def cities(tmp_path: Path) -> Path:
    """Four chips of two cities to train on, one to test."""
    root = tmp_path / "data"
    chips = {"train/1": "rome", "train/2": "oslo", "train/3": "rome", "train/4": "oslo"}
    for chip in (*chips, "test/9"):
        write(root, f"{chip}/pan.tif", f"{chip}/mask.tif")
    lines = [f"{chip[6:]}.tif\t{city}" for chip, city in chips.items()]
    (root / "train.csv").write_text("\n".join(["chip\tcity", *lines]))
    (root / "test.csv").write_text("chip,city\n9,bonn\n")
    return root


def test_scenes_stand_in_tables(cities: Path) -> None:
    source = opened(with_cities(), cities)
    drawn = {name: {s.scene for s in source.samples[name]} for name in ("train", "val")}
    assert drawn["train"] | drawn["val"] == {"rome", "oslo"}
    assert drawn["train"].isdisjoint(drawn["val"])
    assert [len(source.samples[name]) for name in SPLIT_NAMES] == [2, 2, 1]


def test_a_scene_that_nobody_knows(cities: Path) -> None:
    (cities / "train.csv").write_text("chip,city\n1,rome\n2,oslo\n3,\n4,oslo\n")
    assert "3 belongs to no scene: it has no city" in refused(with_cities(), cities)


def test_no_table_is_there(cities: Path) -> None:
    (cities / "train.csv").rename(cities / "tables.zip")
    (cities / "test.csv").unlink()
    said = refused(with_cities(), cities)
    assert f"Cannot read the table {cities / 'train.csv'}" in said
    assert "tables.zip is there, perhaps not unpacked" in said


def test_a_fold_may_be_one_of_several(patches: Path) -> None:
    rows = ["a,z,1,water", "b,y,2,water", "c,x,5,wood"]
    (patches / "table.csv").write_text("\n".join(["patch,s1_name,fold,labels", *rows]))
    split = {"by": "column", "column": "fold", "train": [1, 2, 3], "val": 0.5, "test": 5}
    source = opened(multilabel(split=split), patches)
    assert [len(source.samples[name]) for name in SPLIT_NAMES] == [1, 1, 1]


# --------------------------------------------------------------------------- GeoJSON


def write_features(path: Path, rows: list[dict[str, Any]], crs: str | None = None) -> None:
    """Features of a square each, where `at` says: its upper left corner in pixels, and its size."""
    features = []
    for row in rows:
        col, line, size = row.pop("at", (0, 0, 1))
        x, y = 500_000 + 10 * col, 4_600_000 - 10 * line
        edge = 10 * size
        ring = [[x, y], [x + edge, y], [x + edge, y - edge], [x, y - edge], [x, y]]
        geometry = {"type": "Polygon", "coordinates": [ring]}
        features.append({"type": "Feature", "properties": row, "geometry": geometry})
    named = {"crs": {"type": "name", "properties": {"name": crs}}} if crs else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"type": "FeatureCollection", **named, "features": features}))


def test_properties_of_features_are_rows(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write(root, *(f"{kind}/{n}.tif" for kind in ("images", "masks") for n in (10, 11, 12)))
    rows = [{"ID": 10, "Fold": 1}, {"ID": 11, "Fold": 2.0}, {"ID": 12, "Fold": 3}]
    write_features(root / "meta.geojson", rows)
    split = {"by": "column", "column": "Fold", "train": 1, "val": 2, "test": [3, 4]}
    dataset = {"labels": {"path": "meta.geojson", "id": "ID"}, "split": split}
    images = {"pan": {"path": "images/{id}.tif", "bands": ["pan"]}}
    recipe = folder_recipe(dataset={"images": images, **dataset})
    source = opened(recipe, root)
    assert [source.samples[name][0].id for name in SPLIT_NAMES] == ["10", "11", "12"]
    (root / "meta.geojson").write_text('{"features": [1]}')
    assert "it is no GeoJSON of features with properties" in refused(recipe, root)
    (root / "meta.geojson").write_text('{"features": [{"properties": {"Id": 10, "Fold": 1}}]}')
    assert "has no column 'ID'. Did you mean 'Id'?" in refused(recipe, root)


def windowed(**changes: Any) -> Recipe:
    labels = {"path": "tiles.geojson", "id": "image_name", "windows": True}
    images = {"pan": {"path": "spot/pan_{id}.tif", "bands": ["pan"]}}
    masks = {"path": "lidar/{id}.tif"}
    dataset = {"images": images, "masks": masks, "labels": labels, "split": BY_COLUMN}
    return folder_recipe(dataset={**dataset, **changes})


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """Two scenes of 40 × 50 pixels, the first with three rows, and one that is nobody's."""
    root = tmp_path / "data"
    for name in ("x", "y"):
        write_tif(root / f"spot/pan_{name}.tif", np.zeros((1, 40, 50), np.uint8))
    write_tif(root / "lidar/x.tif", np.zeros((41, 50), np.uint8))
    write_tif(root / "lidar/y.tif", np.zeros((40, 49), np.uint8))
    rows = [
        {"image_name": "pan_x.tif", "split": "train", "at": (0, 0, 10)},
        {"image_name": "y", "split": "test", "at": (3, 5, 8)},
        {"image_name": "pan_x.tif", "split": "buffer", "at": (20, 20, 10)},
        {"image_name": "pan_x.tif", "split": "val", "at": (44.4, 0.6, 10)},
    ]
    write_features(root / "tiles.geojson", rows)
    return root


def test_rows_are_windows_of_their_images(scenes: Path) -> None:
    listener = Listener()
    source = opened(windowed(), scenes, listener)
    found = {name: [(s.id, s.window) for s in source.samples[name]] for name in SPLIT_NAMES}
    assert found == {
        "train": [("x#1", Tile(0, 0, 10, 10))],
        "val": [("x#3", Tile(1, 44, 10, 6))],
        "test": [("y#1", Tile(5, 3, 8, 8))],
    }
    sample = source.samples["val"][0]
    assert (sample.height, sample.width) == (10, 6)
    assert sample.images == ((scenes / "spot/pan_x.tif",),)
    assert listener.warnings == ["1 sample on disk in no split: x#2."]


def test_windows_in_other_coordinates(scenes: Path) -> None:
    features = json.loads((scenes / "tiles.geojson").read_text())
    features["crs"] = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32631"}}
    (scenes / "tiles.geojson").write_text(json.dumps(features))
    source = opened(windowed(), scenes)
    assert source.samples["test"][0].window == Tile(5, 3, 8, 8)
    features["crs"]["properties"]["name"] = "EPSG:32632"
    (scenes / "tiles.geojson").write_text(json.dumps(features))
    assert "A feature lies outside of its image" in refused(windowed(), scenes)


def test_an_image_of_several_rows_is_missed_once(scenes: Path) -> None:
    (scenes / "lidar/x.tif").unlink()
    said = refused(windowed(), scenes)
    assert said.splitlines()[:2] == ["1 sample incomplete:", "  x lacks lidar/x.tif"]
    (scenes / "spot/pan_x.tif").unlink()
    assert "3 of 3 listed" not in refused(windowed(), scenes)


def test_a_label_that_is_smaller_by_much(scenes: Path) -> None:
    write_tif(scenes / "lidar/y.tif", np.zeros((10, 50), np.uint8))
    assert "lidar/y.tif" in refused(windowed(), scenes)


# --------------------------------------------------------------------------- boxes


VOC = "<annotation><size/>{}</annotation>"
OBJECT = "<object><name>{}</name><bndbox><xmin>1</xmin></bndbox></object>"
BOXED = {
    "images": {"pan": {"path": "images/{id}.tif", "bands": ["pan"]}},
    "boxes": {"path": "boxes/{id}.xml"},
    "labels": None,
    "split": {"by": "list", "train": ["a"], "val": ["b"], "test": ["c"]},
}


def boxed() -> Recipe:
    return multilabel(("pan",), **BOXED)


@pytest.fixture
def objects(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    write(root, *(f"images/{name}.tif" for name in "abc"))
    (root / "boxes").mkdir()
    for name, found in {"a": ["wood", "water", "forest"], "b": ["water"], "c": []}.items():
        text = VOC.format("".join(map(OBJECT.format, found)))
        (root / "boxes" / f"{name}.xml").write_text(text)
    return root


def test_a_sample_is_of_the_classes_of_its_objects(objects: Path) -> None:
    source = opened(boxed(), objects)
    assert [source.samples[name][0].label for name in SPLIT_NAMES] == [(0, 1), (0,), ()]


def test_objects_of_no_class_are_listed_together(objects: Path) -> None:
    for name in "ab":
        text = "".join(map(OBJECT.format, ["wod", "shore"]))
        (objects / f"boxes/{name}.xml").write_text(VOC.format(text))
    said = refused(boxed(), objects)
    assert "'shore' in 2 files" in said
    assert "'wod' in 2 files, is it meant to be 'wood'?" in said


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<annotation><object>", "it is no XML"),
        ("", "it is no XML"),
        (VOC.format(OBJECT.format(" ")), "one of its objects has no name"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "it is no list of objects"),
    ],
)
def test_boxes_that_cannot_be_read(text: str, reason: str, objects: Path) -> None:
    (objects / "boxes/b.xml").write_text(text)
    said = refused(boxed(), objects)
    assert f"Cannot read the boxes in {objects / 'boxes/b.xml'}: {reason}" in said
    survey = survey_folder(boxed(), objects, Silent())
    assert [problem.items for problem in survey.problems] == [("boxes/b.xml",)]
    assert [sample.id for sample in survey.source.samples["test"]] == ["c"]


def test_boxes_that_are_not_there(objects: Path) -> None:
    (objects / "boxes/b.xml").unlink()
    assert "b lacks boxes/b.xml" in refused(boxed(), objects)


def test_a_name_that_two_paths_end_in_calls_neither_row(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write(root, *(f"{place}.tif" for place in ("x/a", "y/b", "y/c", "y/d")))
    rows = ["y/a.tif,wood", "x/a.tif,water", "y/b.tif,wood", "y/c.tif,wood", "y/d.tif,wood"]
    (root / "table.csv").write_text("\n".join(["path,labels", *rows, ""]))
    recipe = folder_recipe(
        task="multilabel",
        classes=CLASSES,
        dataset={
            "images": {"pan": {"path": "{place}/{id}.tif", "bands": ["pan"]}},
            "masks": None,
            "labels": {"path": "table.csv", "id": "path", "column": "labels"},
            "split": {
                "by": "list", "train": ["a", "b"], "val": ["c"], "test": ["d"], "absent": "skip"
            },
        },
    )  # fmt: skip
    source = opened(recipe, root)  # the file in x has the row of its path, that of y none
    assert {s.id: s.label for s in source.samples["train"]} == {"a": (0,), "b": (1,)}
    (root / "table.csv").write_text("\n".join(["path,labels", *rows, "z/x/a.tif,wood", ""]))
    assert "without a row: a" in refused(recipe, root)


def named_alike(root: Path, *rows: str) -> tuple[dict[str, Any], list[str]]:
    """The labels of samples of one name in two folders, and what is said of them."""
    write(root, *(f"{place}.tif" for place in ("x/a", "y/a", "y/c", "y/d")))
    (root / "table.csv").write_text("\n".join(["path,labels", *rows, "c,wood", "d,wood", ""]))
    recipe = folder_recipe(
        task="multilabel",
        classes=CLASSES,
        dataset={
            "images": {"pan": {"path": "{place}/{id}.tif", "bands": ["pan"]}},
            "masks": None,
            "labels": {"path": "table.csv", "id": "path", "column": "labels"},
            "split": {"by": "list", "train": ["a"], "val": ["c"], "test": ["d"]},
        },
    )
    listener = Listener()
    samples = opened(recipe, root, listener).samples["train"]
    return {str(s.place.relative_to(root)): s.label for s in samples}, listener.warnings


def test_samples_of_one_name_have_the_rows_of_their_paths(tmp_path: Path) -> None:
    root = tmp_path / "data"
    labels, warnings = named_alike(root, "all/x/a.tif,water", "all/y/a.tif,wood")
    assert labels == {"x/a.tif": (0,), "y/a.tif": (1,)}
    assert not warnings
    with pytest.raises(DataError, match="without a row: a"):
        named_alike(root, "x/a,water")


def test_a_row_for_several_samples_is_told(tmp_path: Path) -> None:
    labels, (warning,) = named_alike(tmp_path / "data", "a,water")
    assert labels == {"x/a.tif": (0,), "y/a.tif": (0,)}
    assert "1 row of" in warning
    assert warning.endswith("with other fields: a.")
