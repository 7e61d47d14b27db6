"""Recipes say what is wrong with them: file, line, and the nearest valid word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eosfm_cli.errors import RecipeError, UsageError
from eosfm_cli.recipe import BandStatistics, Recipe, load_recipe, parse_overrides
from tests.wrong_recipes import assert_told

BASE = """\
title: My data
task: segmentation
dataset:
  root: my
  images:
    s2:
      path: images/{id}.tif
      bands: [B04, B03, B02, B08]
  masks:
    path: masks/{id}.tif
  split: {by: fraction}
classes:
  - {name: water, colour: "#0000FF"}
  - {name: land}
"""
END = BASE.count("\n") + 1
"""The line of what is appended."""


@pytest.fixture
def load(tmp_path: Path):
    def load_text(text: str, overrides: dict[str, Any] | None = None, name: str = "mine") -> Recipe:
        (tmp_path / "mine.yaml").write_text(text)
        return load_recipe(str(tmp_path / f"{name}.yaml"), overrides)

    return load_text


# --------------------------------------------------------------------------- what is right


def test_names_and_defaults_are_filled_in(load: Any) -> None:
    recipe = load(BASE)
    assert recipe.name == "mine"
    assert recipe.bands == ("red", "green", "blue", "nir")
    assert recipe.class_names == ("water", "land")
    assert recipe.classes[0].colour == "#0000ff"
    assert (recipe.tile.size, recipe.ignore_index, recipe.training.epochs) == (256, 255, 20)


def test_bands_follow_the_sensor(load: Any) -> None:
    recipe = load(BASE.replace("      bands:", "      sensor: landsat-8\n      bands:"))
    assert recipe.bands == ("red", "green", "blue", "pan")


def test_numbers_may_be_written_with_an_exponent(load: Any) -> None:
    assert load(f"{BASE}training: {{lr: 1e-4}}\n").training.lr == 1e-4


def test_statistics_go_by_any_name_of_a_band(load: Any) -> None:
    values = "{mean: 1, std: 2}"
    recipe = load(f"{BASE}bands: [red]\nstatistics: {{B04: {values}}}\n")
    assert recipe.statistics == {"red": BandStatistics(mean=1, std=2)}


VARIANTS = f"""{BASE}variants:
  rgb:
    title: Colours
    bands: [red, green, blue]
    training: {{epochs: 3}}
  all:
training: {{lr: 0.01}}
"""


def test_a_variant_lies_over_the_recipe(load: Any) -> None:
    recipe = load(VARIANTS, name="mine-rgb")
    assert (recipe.name, recipe.title) == ("mine-rgb", "Colours")
    assert recipe.bands == ("red", "green", "blue")
    assert (recipe.training.epochs, recipe.training.lr) == (3, 0.01)
    assert load(VARIANTS, name="mine-all").title == "My data"
    assert load(VARIANTS).title == "My data"
    assert load(f"{VARIANTS}default_variant: rgb\n").title == "Colours"


def test_overrides_reach_every_depth(load: Any) -> None:
    overrides = parse_overrides(
        [
            "tile.size=64",
            "training.lr=1e-3",
            "fit.exclude=[a]",
            "dataset.split.val=0.5",
            "fit.top_k=",
        ]
    )
    recipe = load(BASE, overrides)
    assert (recipe.tile.size, recipe.training.lr) == (64, 0.001)
    assert (recipe.fit.exclude, recipe.fit.top_k) == (("a",), None)
    assert recipe.dataset.split.val == 0.5


def test_overrides_lie_over_the_variant(load: Any) -> None:
    overrides = {"training.epochs": 7}
    assert load(VARIANTS, overrides, name="mine-rgb").training.epochs == 7
    assert load(VARIANTS, name="mine-rgb").training.epochs == 3


def test_colours_stand_for_classes(load: Any) -> None:
    text = _with_masks("encoding: colours, ignore: ['#00000A']").replace(
        "{name: land}", "{name: land, values: ['#00FF00', '#00ff01']}"
    )
    recipe = load(text)
    assert recipe.class_values == (("#0000ff",), ("#00ff00", "#00ff01"))


@pytest.mark.parametrize(
    "more",
    [
        "",
        "bands: [nir, red]\nignore_index: 9\n",
        "fit: {top_k: 2, exclude: [a], specialists: [b, c]}\ntile: {size: 64, stride: 32}\n",
        "statistics: {" + ", ".join(f"B0{i}: {{mean: {i}, std: .5}}" for i in (2, 3, 4, 8)) + "}\n",
    ],
)
@pytest.mark.parametrize(
    "split",
    [
        "{by: fraction, val: 0.2}",
        "{by: list, train: train.txt, val: [a, b], test: [c]}",
        "{by: list, train: a, val: 0.2, test: c, entry: '{id}.tif', scene: '{id}', seed: 3}",
        "{by: scene, pattern: '^(..)', val: [x], test: 0.1}",
    ],
)
def test_a_recipe_comes_back_from_its_own_yaml(
    more: str, split: str, load: Any, tmp_path: Path
) -> None:
    recipe = load(BASE.replace("{by: fraction}", split) + more)
    config = tmp_path / "config.yaml"
    config.write_text(recipe.to_yaml())
    assert load_recipe(str(config)) == recipe


@given(
    st.text(min_size=1, max_size=20).filter(lambda text: text.isprintable()),
    st.lists(st.text(min_size=1, max_size=9).filter(str.isprintable), min_size=2, unique=True),
)
@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_text_comes_back(load: Any, tmp_path: Path, title: str, names: list[str]) -> None:
    classes = [{"name": name} for name in names]
    recipe = load(BASE, {"title": title, "classes": classes, "ignore_index": 200})
    config = tmp_path / "config.yaml"
    config.write_text(recipe.to_yaml(), encoding="utf-8")
    assert load_recipe(str(config)) == recipe


# --------------------------------------------------------------------------- what is wrong


def _swap(old: str, new: str) -> str:
    assert old in BASE
    return BASE.replace(old, new)


def _with_masks(keys: str) -> str:
    """The base with more keys of the masks, in line 11."""
    return _swap(
        "  masks:\n    path: masks/{id}.tif\n",
        f"  masks: {{\n    path: 'masks/{{id}}.tif',\n    {keys}}}\n",
    )


def _by_list(keys: str) -> str:
    """The base with lists, in line 11."""
    return _swap("{by: fraction}", f"{{by: list, train: a, val: b, test: c, {keys}}}")


_WRONG = {
    # An unknown key at every level.
    "top": (_swap("title:", "titel:"), 1, "titel: unknown key, did you mean 'title'?"),
    "dataset": (_swap("  root:", "  roots:"), 4, "dataset.roots: .*'root'"),
    "image": (_swap("      path:", "      paths:"), 7, "dataset.images.s2.paths: .*'path'"),
    "masks": (_swap("    path: masks", "    pth: masks"), 10, "dataset.masks.pth: .*'path'"),
    "split": (_swap("fraction}", "fraction, vall: 0.1}"), 11, "dataset.split.vall: .*'val'"),
    "class": (_swap("colour", "color"), 13, "classes.0.color: .*'colour'"),
    "training": (f"{BASE}training: {{epoch: 1}}\n", END, "training.epoch: .*'epochs'"),
    "fit": (f"{BASE}fit:\n  topk: 1\n", END + 1, "fit.topk: .*'top_k'"),
    "tile": (f"{BASE}tile: {{sise: 64}}\n", END, "tile.sise: .*'size'"),
    "images called masks": (
        _swap("    s2:", "    masks:"),
        5,
        "dataset.images: 'masks' cannot name images",
    ),
    "far from all": (f"{BASE}zzzz: 1\n", END, "zzzz: unknown key; known: name, title"),
    # A wrong word.
    "task": (_swap("segmentation", "segmentatoin"), 2, "'segmentatoin' is .*'segmentation'"),
    "by": (_swap("by: fraction", "by: fractions"), 11, "dataset.split: .*'fraction'"),
    "no by": (_swap("{by: fraction}", "{val: 0.1}"), 11, "'by' is missing; one of list"),
    "fusion": (f"{BASE}fit: {{fusion: conv}}\n", END, "'conv' is .*'conv1x1'"),
    "devices": (f"{BASE}training: {{devices: all}}\n", END, "whole number or 'auto'"),
    "band": (_swap("B04", "rad"), 8, "unknown band 'rad', did you mean 'red'"),
    "sensor": (_swap("      bands", "      sensor: sentinel2\n      bands"), 6, "'sentinel-2'"),
    "odd sensor": (_swap("      bands", "      sensor: [a]\n      bands"), 6, "known: sentinel-1"),
    # A wrong type.
    "text": (f"{BASE}training: {{epochs: many}}\n", END, "epochs: should be a whole number"),
    "part": (f"{BASE}training: {{epochs: 1.5}}\n", END, "epochs: should be a whole number"),
    "small": (f"{BASE}training: {{epochs: 0}}\n", END, "epochs: should be at least 1"),
    "seed": (f"{BASE}fit: {{seed: -1}}\n", END, "seed: should be at least 0"),
    "large seed": (f"{BASE}fit: {{seed: 4294967296}}\n", END, "should be at most 4294967295"),
    "negative": (f"{BASE}training: {{lr: -1}}\n", END, "lr: should be more than 0"),
    "nan": (f"{BASE}training: {{lr: .nan}}\n", END, "lr: should be a finite number"),
    "infinite": (f"{BASE}training: {{lr: .inf}}\n", END, "lr: should be a finite number"),
    "truth": (f"{BASE}training: {{augment: maybe}}\n", END, "should be true or false"),
    "list": (f"{BASE}training: [1]\n", END, "training: should be a mapping"),
    "nothing": (f"{BASE}training:\n", END, "training: should be a mapping"),
    "number": (_swap("My data", "5"), 1, "title: should be text .in quotes"),
    "date": (_swap("My data", "2020-01-01"), 1, "title: should be text .in quotes"),
    "multiple": (f"{BASE}tile: {{size: 100}}\n", END, "size: should be a multiple of 32"),
    "word for list": (f"{BASE}bands: red\n", END, r"bands: should be a list, as in \[a, b\]"),
    "share": (_swap("fraction}", "fraction, val: 1.5}"), 11, "val: should be less than 1"),
    "either": (_swap("by: fraction", "by: scene, val: x"), 11, "val: should be a number or a list"),
    "one class": (_swap("  - {name: land}\n", ""), 12, "classes: should have at least 2, has 1"),
    "missing": (_swap("  root: my\n", ""), 3, "dataset.root: this key is missing"),
    "key": (f"{BASE}5: 6\n", END, "5: a key should be a word"),
    # What does not hang together.
    "colour": (_swap('"#0000FF"', "blue"), 13, "'#rrggbb' .in quotes., not 'blue'"),
    "bare colour": (
        _swap("{name: land}", "name: land\n    colour: #00ff00"),
        15,
        "without them it is a comment",
    ),
    "twice": (_swap("B03", "B04"), 8, "bands: named twice: red"),
    "no such band": (f"{BASE}bands: [red, vv]\n", END, "bands: 'vv' is in no image"),
    "classes": (_swap("land", "water"), 12, "classes: a name stands there twice"),
    "two classes, one value": (
        _swap("{name: land}", "{name: land, values: [3, 0]}"),
        14,
        "classes.1.values: the mask value 0 stands for both water and land",
    ),
    "a word in a mask": (
        _swap("{name: land}", "name: land\n    values: [forest]"),
        15,
        "classes.1.values: masks hold whole numbers; 'forest'",
    ),
    "a class without label": (
        _swap("{id}.tif\n  split", "{id}.tif\n    ignore: [9, 1]\n  split"),
        11,
        "dataset.masks.ignore: the mask value 1 already stands for land",
    ),
    "two classes, one folder": (
        _swap("segmentation", "classification")
        .replace("images/{id}", "images/{class}/{id}")
        .replace("{name: land}", "{name: land, values: [field, water]}"),
        14,
        "classes.1.values: the folder water stands for both water and land",
    ),
    "ignored class": (f"{BASE}ignore_index: 1\n", END, "ignore_index: 1 is the index of a class"),
    "no masks": (
        _swap("  masks:\n    path: masks/{id}.tif\n", ""),
        3,
        "dataset: segmentation needs masks",
    ),
    "no class": (_swap("segmentation", "classification"), 3, "needs {class} in the images' paths"),
    "no split": (_swap("by: fraction", "by: folder"), 11, "dataset.split: .* needs {split}"),
    "nothing left": (
        _swap("fraction}", "fraction, val: 0.5, test: 0.5}"),
        11,
        "leave nothing to train on",
    ),
    "gaps": (f"{BASE}tile: {{size: 64, stride: 65}}\n", END, "leaves gaps between tiles"),
    "no id": (_swap("images/{id}", "images/a"), 7, "a path needs {id}"),
    "field": (_swap("images/{id}", "images/{idd}"), 7, "this has {idd}, .*did you mean {id}"),
    "field of masks": (_swap("masks/{id}", "masks/{idd}"), 10, "this has {idd}, .*mean {id}"),
    "brace": (_swap("images/{id}", "images/{id"), 7, "a brace that belongs to no field"),
    "capitals": (_swap("images/{id}", "images/{ID}"), 7, "a word in small letters"),
    "no alternative": (_swap("masks/{id}.tif", "[]"), 10, "path: should have at least 1, has 0"),
    "alternative": (
        _swap("masks/{id}.tif", "['a/{id}.tif', 'b.tif']"),
        10,
        "dataset.masks.path.1: a path needs {id}",
    ),
    "alternatives": (
        _swap("masks/{id}.tif", "['{id}.tif', '{split}/{id}.tif']"),
        10,
        "alternatives have the same fields",
    ),
    "path": (_swap("masks/{id}.tif", "5"), 10, "dataset.masks.path: should be text"),
    "encoding": (_with_masks("encoding: colors"), 11, "'colors' is .*did you mean 'colours'"),
    "tolerance": (_with_masks("tolerance: 3"), 11, "tolerance: this is for 'encoding: colours'"),
    "band of colours": (_with_masks("encoding: colours, band: 2"), 11, "band: colours are read"),
    "no colour": (_with_masks("encoding: colours"), 15, "classes.1: land needs a colour"),
    "colour of values": (
        _with_masks("ignore: ['#000000']"),
        11,
        "'#000000' needs 'encoding: colours'",
    ),
    "value of colours": (
        _with_masks("encoding: colours, ignore: [0]").replace("land", "land, colour: '#00ff00'"),
        11,
        "ignore: a colour is written '#rrggbb' .in quotes., not '0'",
    ),
    "two classes, one colour": (
        _with_masks("encoding: colours").replace("land", "land, values: ['#0000fF']"),
        15,
        "the colour #0000ff stands for both water and land",
    ),
    "unknown": (_with_masks("unknown: skip"), 11, "'skip' is not known; known: error, ignore"),
    "entry": (_by_list("entry: '{idd}.tif'"), 11, "entry: {idd} is a field of no path, .*{id}"),
    "odd entry": (_by_list("entry: '{id:3}'"), 11, "entry: '{id:3}' has a brace"),
    "scene": (_by_list("scene: '{id}'"), 11, "val is a list"),
    "scene's field": (
        _by_list("scene: '{zzz}'").replace("val: b", "val: 0.5"),
        11,
        "scene: {zzz} is a field of no path; there are {id}",
    ),
    "share of a list": (_by_list("").replace("val: b", "val: 1.5"), 11, "val: .* less than 1"),
    "absent": (_by_list("absent: skipp"), 11, "'skipp' is not known, did you mean 'skip'"),
    "absolute": (_swap("images/{id}", "/images/{id}"), 7, "relative to the dataset's root"),
    "outside": (_swap("images/{id}", "../{id}"), 7, "stays inside it"),
    "pattern": (_swap("by: fraction", "by: scene, pattern: '['"), 11, "no regular expression"),
    "group": (_swap("by: fraction", "by: scene, pattern: a"), 11, "needs a group"),
    "no statistics": (
        f"{BASE}statistics: {{red: {{mean: 1, std: 1}}}}\n",
        END,
        "statistics: 'green' is missing",
    ),
    "unknown statistics": (
        f"{BASE}statistics: {{read: {{mean: 1, std: 1}}}}\n",
        END,
        "statistics.read: unknown band 'read', did you mean 'red'",
    ),
    "flat": (
        f"{BASE}bands: [red]\nstatistics: {{red: {{mean: 1, std: 0}}}}\n",
        END + 1,
        "more than 0",
    ),
    "name": (f"{BASE}name: ../x\n", END, "name: '../x' cannot name a folder"),
    # What is no YAML.
    "double": (f"{BASE}task: segmentation\n", END, "'task' stands here twice"),
    "double below": (f"{BASE}tile:\n  size: 64\n  size: 32\n", END + 2, "'size' stands here twice"),
    "tab": (f"{BASE}tile:\n\tsize: 64\n", END + 1, "a tab cannot indent YAML"),
    "colon": (f"{BASE}a: b: c\n", END, "a colon where none can be"),
    "open": (f"{BASE}tile: {{size: 64\n", END + 1, "expected ',' or '}'"),
    "tag": (f"{BASE}x: !!python/object/apply:os.system [ls]\n", END, "tags .* are not allowed"),
    "two": (f"{BASE}---\na: 1\n", END, "one document"),
    "list as key": (f"{BASE}? [a, b]\n: 1\n", END, "a key is a single word"),
    "itself": (f"{BASE}tile: &a\n  size: *a\n", END, "contains itself"),
    "variants": (f"{BASE}variants: [a]\n", END, "variants are a mapping"),
    "variant": (f"{BASE}variants: {{a: [1]}}\n", END, "variants are a mapping"),
    "default": (
        f"{BASE}default_variant: rgd\nvariants: {{rgb: {{title: x}}}}\n",
        END,
        "there is no variant 'rgd'. Did you mean 'rgb'",
    ),
}


@pytest.mark.parametrize("case", _WRONG)
def test_what_is_wrong_is_said_with_its_line(case: str, load: Any) -> None:
    assert_told(load, *_WRONG[case])


def test_all_mistakes_are_told_at_once(load: Any) -> None:
    with pytest.raises(RecipeError) as caught:
        load(_swap("My data", "5").replace("B04", "rad") + "fit: {topk: 1}\n")
    lines = caught.value.message.splitlines()
    assert [text.split(": ")[1] for text in lines] == [
        "title",
        "dataset.images.s2.bands.0",
        "fit.topk",
    ]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "it is empty"),
        (b"# nothing\n", "it is empty"),
        (b"- a\n- b\n", "a recipe is a mapping"),
        (b"text", "a recipe is a mapping"),
        (b"a: \x00", "no YAML"),
        (b"\xff\xfe\x00\x80", "no text file in UTF-8"),
        (b"training: {epochs: " + b"9" * 5000 + b"}", "no YAML"),
        (b"[" * 3000, "no YAML"),
    ],
)
def test_a_file_that_is_no_recipe(raw: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(raw)
    with pytest.raises(RecipeError, match=f"mine.yaml.*{message}"):
        load_recipe(str(path))


def test_an_image_may_be_called_what_it_likes(load: Any) -> None:
    text = _swap("    s2:", "    float:").replace("B04", "rad")
    with pytest.raises(RecipeError, match=r"line 8: dataset\.images\.float\.bands\.0"):
        load(text)


@pytest.mark.parametrize("name", ["EuroSAT", "SEN12MS_ALL"])
def test_a_datasets_own_spelling_finds_its_recipe(name: str) -> None:
    meant = name.lower().replace("_", "-")
    with pytest.raises(RecipeError, match=f"Did you mean '{meant}'"):
        load_recipe(name)


def test_a_mistake_in_a_variant_has_the_variants_line(load: Any) -> None:
    text = f"{BASE}variants:\n  rgb:\n    tile:\n      size: 33\n"
    with pytest.raises(RecipeError, match=f"line {END + 3}: tile.size: should be a multiple"):
        load(text, name="mine-rgb")
    with pytest.raises(RecipeError, match=r"no variant 'rgd'\. Did you mean 'rgb'") as caught:
        load(text, name="mine-rgd")
    assert "rgb" in caught.value.hint


@pytest.mark.parametrize("name", ["nowhere.yaml", "no-such-recipe"])
def test_a_recipe_that_is_not_there(name: str) -> None:
    with pytest.raises(RecipeError, match=f"There is no .*{name}") as caught:
        load_recipe(name)
    assert "recipes list" in caught.value.hint


@given(st.text(alphabet=":-{}[]&*!|>'\"#%@,?\n\t ab1.", max_size=40))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_garbage_never_ends_in_a_traceback(load: Any, text: str) -> None:
    with pytest.raises(RecipeError):
        load(text)


# --------------------------------------------------------------------------- overrides


@pytest.mark.parametrize("pair", ["epochs", "=1", " =1", ""])
def test_an_override_needs_a_key_and_a_value(pair: str) -> None:
    with pytest.raises(UsageError, match="takes key=value"):
        parse_overrides([pair])


@pytest.mark.parametrize("value", ["[1", "{a", "!!python/name:os.system", "a: b: c"])
def test_an_override_is_yaml(value: str) -> None:
    with pytest.raises(UsageError, match="is no YAML value"):
        parse_overrides([f"tile.size={value}"])


def test_values_of_overrides_are_typed() -> None:
    pairs = ["a=1", "b=1e-4", "c=[red, nir]", "d=x=y", "e=", "f=true"]
    expected = {"a": 1, "b": 1e-4, "c": ["red", "nir"], "d": "x=y", "e": None, "f": True}
    assert parse_overrides(pairs) == expected


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("training.epoch", 3, "--set training.epoch: unknown key, did you mean 'epochs'?"),
        (
            "trainin.epochs",
            3,
            "--set trainin.epochs: trainin: unknown key, did you mean 'training'",
        ),
        ("training.epochs", "x", "--set training.epochs: should be a whole number"),
        ("dataset.split.vall", 0.1, "--set dataset.split.vall: unknown key, did you mean 'val'"),
        ("title.a", 1, "--set title.a: 'title' has no keys of its own"),
        ("classes.0.name", "x", "--set classes.0.name: 'classes' has no keys of its own"),
    ],
)
def test_a_wrong_override_is_blamed_on_the_override(
    key: str, value: object, message: str, load: Any
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        load(BASE, {key: value})
    assert "mine.yaml" not in caught.value.message
