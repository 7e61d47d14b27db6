"""What recipes can say about the layout of a dataset: bands in files, dates, tables, areas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from eosfm_cli.errors import RecipeError
from eosfm_cli.recipe import Recipe, find_recipe, load_recipe
from tests.wrong_recipes import assert_told

BASE = """\
title: My data
task: segmentation
dataset:
  root: my
  images:
    s2:
      path: "images/{id}/{id}_{band}.tif"
      bands: [B04, B8A]
  masks: {path: "masks/{id}.tif"}
  split: {by: fraction}
classes: [{name: water}, {name: land}]
"""


@pytest.fixture
def load(tmp_path: Path):
    def load_text(text: str) -> Recipe:
        (tmp_path / "mine.yaml").write_text(text)
        return load_recipe(str(tmp_path / "mine.yaml"))

    return load_text


def _with(text: str, before: str = "  split") -> str:
    """A line of the dataset more."""
    return BASE.replace(before, f"  {text}\n{before}", 1)


def _image(text: str) -> str:
    return BASE.replace("      bands", f"      {text}\n      bands")


def _split(text: str) -> str:
    return BASE.replace("{by: fraction}", text)


# --------------------------------------------------------------------------- what is right


def test_each_band_may_have_a_file(load: Any) -> None:
    files = load(BASE).image_files
    assert {name: file.paths for name, file in files.items()} == {
        "s2.red": ("images/{id}/{id}_B04.tif",),
        "s2.nir08": ("images/{id}/{id}_B8A.tif",),
    }
    assert [file.bands for file in files.values()] == [("red",), ("nir08",)]
    assert files["s2.red"].fields == ("id",)


def test_only_files_with_bands_that_are_used_are_taken(load: Any) -> None:
    assert list(load(f"{BASE}bands: [B8A]\n").image_files) == ["s2.nir08"]
    one_file = BASE.replace("_{band}", "")
    assert {
        name: (file.paths, file.bands)
        for name, file in load(f"{one_file}bands: [B8A]\n").image_files.items()
    } == {"s2": (("images/{id}/{id}.tif",), ("red", "nir08"))}


def test_bands_are_spelt_in_more_than_one_way(load: Any) -> None:
    recipe = load(_image("spellings: [665, [864, 865]]"))
    assert recipe.image_files["s2.nir08"].paths == (
        "images/{id}/{id}_864.tif",
        "images/{id}/{id}_865.tif",
    )


@pytest.mark.parametrize(
    "text",
    [
        BASE,
        _image("spellings: [665, [864, 865]]"),
        _image("nodata: [-9999, 0]\n      resampling: bilinear\n      more_bands: true"),
        _with("fields: {id: 'a_(?:b|c)'}"),
        _with("shape: [120, 121]"),
        _with("series: {take: mean, dates: [20190606, '00']}").replace("_{band}", "_{date}_{band}"),
        _with("blank: {values: [0, 255], share: 0.1}"),
        _with("labels: {path: [a.csv, b.csv], id: chip, fields: [place], unlisted: skip}"),
        _with("files: [{url: 'https://a.org/b.zip', md5: abc, size: 3, into: b}]"),
        _with("files: [{url: ['https://a.org/b.1', 'https://a.org/b.2'], sha256: [a, b]}]"),
        _split('{by: area, path: "fields/{id}.tif", val: 0.2}'),
        _split("{by: list, train: a.txt, val: 0.2, test: b.txt, pattern: '(.)'}"),
        _split("{by: folder, val: 0.2, scene: '{id}', seed: 3}").replace('"i', '"{split}/i'),
        _with("labels: {path: a.csv, id: chip}").replace(
            "{by: fraction}", "{by: column, column: fold, train: [1, 2], val: 3, test: [4]}"
        ),
    ],
)
def test_it_comes_back_from_its_own_yaml(text: str, load: Any, tmp_path: Path) -> None:
    recipe = load(text)
    (tmp_path / "copy.yaml").write_text(recipe.to_yaml())
    assert load_recipe(str(tmp_path / "copy.yaml"), {"name": recipe.name}) == recipe


def test_numbers_in_a_column_are_text_and_shares_are_shares(load: Any) -> None:
    with_table = _with("labels: {path: a.geojson, id: chip}")
    folds = "{by: column, column: fold, train: [1, 2], val: 3, test: 4}"
    split = load(with_table.replace("{by: fraction}", folds)).dataset.split
    assert split.values == {"train": ("1", "2"), "val": ("3",), "test": ("4",)}
    share = "{by: column, column: fold, val: 0.25}"
    split = load(with_table.replace("{by: fraction}", share)).dataset.split
    assert split.values == {"train": ("train",), "val": (), "test": ("test",)}


def test_boxes_stand_for_labels(load: Any) -> None:
    text = BASE.replace("segmentation", "multilabel").replace("masks:", "boxes:")
    assert not load(text).labels_are_in_a_table


# --------------------------------------------------------------------------- what is wrong

_WRONG = {
    "spellings": (_image("spellings: [a]"), 6, "2 bands and 1 spellings"),
    "spellings without place": (
        _image("spellings: [a, b]").replace("_{band}", ""),
        6,
        "spellings are what {band} stands for",
    ),
    "resampling": (_image("resampling: cubic"), 8, "'cubic' is not known"),
    "band alone": (BASE.replace("{id}/{id}_{band}", "{band}"), 7, "a path needs {id}"),
    "field": (_with("fields: {it: a}"), 10, "fields.it: .* of no path, did you mean {id}"),
    "expression": (_with("fields: {id: '['}"), 10, "id is no regular expression"),
    "group": (_with("fields: {id: '(a)'}"), 10, "write groups as"),
    "shape": (_with("shape: [0, 5]"), 10, "at least 1"),
    "long shape": (_with("shape: [5]"), 10, "shape"),
    "series of nothing": (_with("series: {take: mean}"), 10, "no image has {date} in its path"),
    "dates of nothing": (
        _with("series: {dates: ['1']}").replace("_{band}.tif", ".npy").replace("B04, B8A", "B04"),
        10,
        "series.dates: no image has {date} in its path",
    ),
    "a mask per date": (
        _with("series: {}").replace("_{band}", "_{date}_{band}").replace("s/{id}", "s/{id}{date}"),
        9,
        "leave {date} out",
    ),
    "only dates": (
        _with("series: {}").replace("{id}/{id}_{band}", "{date}_{band}"),
        7,
        "needs a field that tells one sample",
    ),
    "blank": (_with("blank: {values: [], share: 0.1}"), 10, "at least 1"),
    "blank share": (_with("blank: {values: [0], share: 1}"), 10, "less than 1"),
    "boxes": (_with("boxes: {path: '{id}.xml'}"), 10, "segmentation takes no labels from boxes"),
    "area": (_split('{by: area, path: "fields/{idd}.tif"}'), 10, "did you mean {id}"),
    "areas of all": (
        _split('{by: area, path: "fields/{id}.tif", val: 0.5, test: 0.5}'),
        10,
        "nothing to train on",
    ),
    "area without masks": (
        _split('{by: area, path: "fields/{id}.tif"}')
        .replace("segmentation", "classification")
        .replace('"images', '"{class}'),
        10,
        "divides masks",
    ),
    "scene of a list": (
        _split("{by: list, train: a, val: b, test: c, pattern: '(.)'}"),
        10,
        "pattern says what a share of scenes is drawn from",
    ),
    "scene twice": (
        _split("{by: list, train: a, val: 0.5, test: c, pattern: '(.)', scene: '{id}'}"),
        10,
        "take one",
    ),
    "pattern": (
        _split("{by: list, train: a, val: 0.5, test: c, pattern: '.'}"),
        10,
        "needs a group",
    ),
    "a fold twice": (
        _with("labels: {path: a.csv, id: a}").replace(
            "{by: fraction}", "{by: column, column: fold, train: [1, 2], val: 2, test: 3}"
        ),
        11,
        "different values",
    ),
    "sums": (_with("files: [{url: [a, b], md5: c}]"), 10, "md5 has 1 values for 2 parts"),
    "out of the root": (_with("files: [{url: a, to: ../b}]"), 10, "stays inside"),
    "areas of images": (BASE.replace("    s2:", "    areas:"), 5, "'areas' cannot name images"),
    "aliases": (f"aliases: ben\n{BASE}", 1, "aliases are a list"),
}


@pytest.mark.parametrize("case", _WRONG)
def test_what_is_wrong_is_said_with_its_line(case: str, load: Any) -> None:
    assert_told(load, *_WRONG[case])


# --------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("name", "stem", "variant"),
    [
        ("ben", "bigearthnetv2", None),
        ("ben-s1", "bigearthnetv2", "s1"),
        ("ben_all", "bigearthnetv2", "all"),
        ("bigearthnetv2_rgb", "bigearthnetv2", "rgb"),
        ("kenya_croptype", "kenya-croptype", None),
        ("cloud_cover", "cloud-cover", None),
        ("inria_aerial", "inria-aerial", None),
        ("deepglobe_lcc", "deepglobe-lcc", None),
        ("eurosat_s2", "eurosat", "s2"),
        ("sen12ms-all", "sen12ms", "all"),
    ],
)
def test_published_spellings_are_accepted(name: str, stem: str, variant: str | None) -> None:
    path, found = find_recipe(name)
    assert (path.stem, found) == (stem, variant)
    assert load_recipe(name).title


def test_a_near_alias_is_offered() -> None:
    with pytest.raises(RecipeError, match="Did you mean 'bigearthnet-v2'"):
        load_recipe("bigearthnet-v3")
