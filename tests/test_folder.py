"""The folder loader: layouts, splits, and what is wrong with data."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eosfm_cli.data.division import divide
from eosfm_cli.data.folder import FolderSource
from eosfm_cli.data.headers import read_headers
from eosfm_cli.data.label_reader import MaskReader
from eosfm_cli.data.labels import UNKNOWN, colour_numbers, label_table
from eosfm_cli.data.sources import open_source, resolve_root
from eosfm_cli.data.splits import SPLIT_NAMES, Key
from eosfm_cli.errors import DataError
from eosfm_cli.progress import Silent
from eosfm_cli.recipe import FractionSplit, Recipe, SceneSplit
from eosfm_cli.tiling import Tile
from tests.rasters import folder_recipe, write_sample, write_tif


class Listener(Silent):
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A dataset of three samples, a, b and c."""
    for name in "abc":
        write_sample(tmp_path / "data", name)
    return tmp_path / "data"


def ids(source: FolderSource) -> dict[str, list[str]]:
    return {name: [s.id for s in source.samples[name]] for name in SPLIT_NAMES}


def opened(recipe: Recipe, root: Path) -> FolderSource:
    return open_source(recipe, root.parent)


def refused(recipe: Recipe, root: Path) -> str:
    with pytest.raises(DataError) as caught:
        opened(recipe, root)
    return f"{caught.value.message}\n{caught.value.hint}"


def nothing_absent(entries: Sequence[str], listed: int) -> None:
    raise AssertionError(f"{entries} of {listed}")


# --------------------------------------------------------------------------- splits


def test_inline_lists(root: Path) -> None:
    source = opened(folder_recipe(), root)
    assert ids(source) == {"train": ["a"], "val": ["b"], "test": ["c"]}
    sample = source.samples["train"][0]
    assert (sample.height, sample.width) == (40, 50)
    assert sample.mask == root / "masks/a.tif"


def test_list_files_with_comments_and_file_names(root: Path) -> None:
    (root / "train.txt").write_text("# official\n\nimages/a.tif\n")
    (root / "val.txt").write_text("b.tif\r\n")
    (root / "test.txt").write_text("c\n")
    split = {"by": "list", "train": "train.txt", "val": "val.txt", "test": "test.txt"}
    source = opened(folder_recipe(dataset={"split": split}), root)
    assert ids(source) == {"train": ["a"], "val": ["b"], "test": ["c"]}


def test_missing_list_file(root: Path) -> None:
    split = {"by": "list", "train": "train.txt", "val": ["b"], "test": ["c"]}
    assert "train.txt" in refused(folder_recipe(dataset={"split": split}), root)


def test_listed_but_not_on_disk(root: Path) -> None:
    split = {"by": "list", "train": ["a", "z"], "val": ["b"], "test": ["c"]}
    assert "1 of 4 listed samples are not on disk: z." in refused(
        folder_recipe(dataset={"split": split}), root
    )


def test_on_disk_but_not_listed_is_told(root: Path) -> None:
    write_sample(root, "d")
    listener = Listener()
    source = open_source(folder_recipe(), root.parent, listener)
    assert sum(len(s) for s in source.samples.values()) == 3
    assert listener.warnings == ["1 sample on disk in no split: d."]


@pytest.mark.parametrize("twin", ["b", "b.tif"])
def test_lists_that_share_a_sample(root: Path, twin: str) -> None:
    split = {"by": "list", "train": ["a", twin], "val": ["b"], "test": ["c"]}
    assert "Splits overlap" in refused(folder_recipe(dataset={"split": split}), root)


def test_scenes_by_name(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for name in ("paris_1", "paris_2", "rome_1", "oslo_1"):
        write_sample(root, name)
    split = {"by": "scene", "val": ["rome"], "test": ["oslo"]}
    assert ids(opened(folder_recipe(dataset={"split": split}), root)) == {
        "train": ["paris_1", "paris_2"],
        "val": ["rome_1"],
        "test": ["oslo_1"],
    }
    split = {"by": "scene", "val": ["roma"], "test": ["oslo"]}
    assert "roma" in refused(folder_recipe(dataset={"split": split}), root)
    split = {"by": "scene", "pattern": "^(.*)-"}
    assert "finds no scene in 4 ids" in refused(folder_recipe(dataset={"split": split}), root)


def test_one_scene_cannot_be_split(root: Path) -> None:
    split = {"by": "scene", "pattern": "^()", "val": 0.2, "test": 0.2}
    assert "split is empty" in refused(folder_recipe(dataset={"split": split}), root)


def test_folders_as_splits(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for split, name in (("train", "1"), ("valid", "1"), ("test", "1"), ("extra", "9")):
        write_sample(root / split, name)
    changes = {
        "images": {"rgb": {"path": "{split}/images/{id}.tif", "bands": ["red", "green", "blue"]}},
        "masks": {"path": "{split}/masks/{id}.tif"},
        "split": {"by": "folder", "val": "valid"},
    }
    listener = Listener()
    source = open_source(folder_recipe(dataset=changes), tmp_path, listener)
    assert ids(source) == {"train": ["1"], "val": ["1"], "test": ["1"]}
    assert source.samples["val"][0].mask == root / "valid/masks/1.tif"
    assert len(listener.warnings) == 1
    changes["split"] = {"by": "folder", "val": "test"}
    assert "Splits overlap" in refused(folder_recipe(dataset=changes), root)


@given(
    names=st.sets(st.text("abc_12", min_size=1), min_size=8),
    shares=st.tuples(st.floats(0.01, 0.4), st.floats(0.01, 0.4)),
    seed=st.integers(0, 99),
)
def test_fractions_divide_and_do_not_depend_on_order(
    names: set[str], shares: tuple[float, float], seed: int
) -> None:
    keys = [Key("", "", name) for name in names]
    split = FractionSplit(by="fraction", val=shares[0], test=shares[1], seed=seed)
    found = divide(keys, split, Path(), nothing_absent)
    assert sorted(key for part in found.values() for key in part) == sorted(keys)
    assert all(found.values())
    assert divide(reversed(keys), split, Path(), nothing_absent) == found


@given(st.sets(st.tuples(st.integers(0, 30), st.integers(0, 5)), min_size=1), st.integers(0, 9))
def test_scenes_stay_whole(pairs: set[tuple[int, int]], seed: int) -> None:
    keys = [Key("", "", f"{scene}_{number}") for scene, number in pairs]
    split = SceneSplit(by="scene", val=0.2, test=0.2, seed=seed)
    if len({scene for scene, _ in pairs}) < 3:
        with pytest.raises(DataError, match="split is empty"):
            divide(keys, split, Path(), nothing_absent)
        return
    found = divide(keys, split, Path(), nothing_absent)
    scenes = [{key.id.split("_")[0] for key in part} for part in found.values()]
    assert sum(len(s) for s in scenes) == len(set().union(*scenes))
    assert sum(len(part) for part in found.values()) == len(keys)


# --------------------------------------------------------------------------- layouts


def test_several_sensors_are_paired_by_name(root: Path) -> None:
    for name in "abc":
        write_tif(root / "radar" / f"s1_{name}.tif", np.zeros((2, 40, 50), np.float32))
    images = {
        "rgb": {"path": "images/{id}.tif", "bands": ["red", "green", "blue"]},
        "s1": {"path": "radar/s1_{id}.tif", "bands": ["vv", "vh"]},
    }
    source = opened(folder_recipe(dataset={"images": images}), root)
    assert source.samples["val"][0].images == (
        (root / "images/b.tif",),
        (root / "radar/s1_b.tif",),
    )


def test_a_sensor_that_is_not_used_need_not_be_there(root: Path) -> None:
    images = {
        "s1": {"path": "radar/{id}.tif", "bands": ["vv", "vh"]},
        "rgb": {"path": "images/{id}.tif", "bands": ["red", "green", "blue"]},
    }
    recipe = folder_recipe(dataset={"images": images}, bands=["red"])
    assert opened(recipe, root).samples["train"][0].images == ((root / "images/a.tif",),)


def test_class_folders(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for folder in ("Forest", "sea"):
        for number in range(4):
            write_tif(root / folder / f"{number}.tif", np.zeros((1, 8, 8), np.uint8))
    recipe = folder_recipe(
        task="classification",
        classes=[{"name": "water", "values": ["sea"]}, {"name": "Forest"}],
        dataset={
            "images": {"pan": {"path": "{class}/{id}.tif", "bands": ["pan"]}},
            "masks": None,
            "split": {"by": "fraction", "val": 0.25, "test": 0.25},
        },
    )
    source = opened(recipe, root)
    samples = [s for split in source.samples.values() for s in split]
    assert len(samples) == 8
    assert all(s.label == (1 if s.place.parent.name == "Forest" else 0) for s in samples)
    (root / "Forrest").mkdir()
    write_tif(root / "Forrest" / "0.tif", np.zeros((1, 8, 8), np.uint8))
    assert "Is 'Forrest' meant to be 'Forest'?" in refused(recipe, root)


def test_ids_in_folders_and_names(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for name in "abc":
        write_tif(root / name / f"{name}_B4.tif", np.zeros((1, 8, 8), np.uint8))
        write_tif(root / name / "other_B4.tif", np.zeros((1, 8, 8), np.uint8))
        write_tif(root / name / f"{name}_mask.tif", np.zeros((1, 8, 8), np.uint8))
    images = {"red": {"path": "{id}/{id}_B4.tif", "bands": ["red"]}}
    recipe = folder_recipe(dataset={"images": images, "masks": {"path": "{id}/{id}_mask.tif"}})
    assert opened(recipe, root).samples["test"][0].images == ((root / "c/c_B4.tif",),)


def test_files_that_cannot_be_told_apart(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for split in ("train", "val", "test"):
        write_tif(root / split / "1.tif", np.zeros((1, 8, 8), np.uint8))
    write_tif(root / "masks/1.tif", np.zeros((8, 8), np.uint8))
    changes = {
        "images": {"pan": {"path": "{split}/{id}.tif", "bands": ["pan"]}},
        "split": {"by": "folder"},
    }
    assert "cannot be told apart by id" in refused(folder_recipe(dataset=changes), root)


def custom_recipe(split: dict[str, Any]) -> Recipe:
    """Paths with fields of their own, no id; red and mask in folders of their own."""
    return folder_recipe(
        dataset={
            "images": {"pan": {"path": "{city}/img_{year}_{tile}.tif", "bands": ["pan"]}},
            "masks": {"path": ["new/{city}_{tile}_{year}.tif", "old/{city}_{year}_{tile}.tif"]},
            "split": split,
        }
    )


@pytest.fixture
def cities(tmp_path: Path) -> Path:
    """Three cities with two years of two tiles each; some masks are old, some new."""
    root = tmp_path / "data"
    for city in ("oslo", "rome", "bonn"):
        for year in ("19", "20"):
            for tile in ("1", "2"):
                write_tif(root / city / f"img_{year}_{tile}.tif", np.zeros((1, 8, 8), np.uint8))
                mask = f"new/{city}_{tile}_{year}" if tile == "1" else f"old/{city}_{year}_{tile}"
                write_tif(root / f"{mask}.tif", np.zeros((8, 8), np.uint8))
    return root


def test_fields_of_any_name_and_alternatives(cities: Path) -> None:
    (cities / "train.txt").write_text(
        "".join(f"{c}/{t}-{y}.jp2\n" for c in ("oslo", "rome") for t in (1, 2) for y in (19, 20))
    )
    split = {
        "by": "list",
        "train": "train.txt",
        "val": 0.5,
        "test": ["bonn_20_1", "bonn/1-19.jp2"],
        "entry": "{city}/{tile}-{year}.jp2",
        "scene": "{city}",
    }
    listener = Listener()
    source = open_source(custom_recipe(split), cities.parent, listener)
    found = ids(source)
    assert found["test"] == ["bonn_19_1", "bonn_20_1"]
    assert {len({i.split("_")[0] for i in found[name]}) for name in ("train", "val")} == {1}
    assert sorted(found["train"] + found["val"]) == [
        f"{city}_{year}_{tile}" for city in ("oslo", "rome") for year in (19, 20) for tile in (1, 2)
    ]
    assert listener.warnings == ["2 samples on disk in no split: bonn_19_2, bonn_20_2."]
    for sample in (s for part in source.samples.values() for s in part):
        city, year, tile = sample.id.split("_")
        assert sample.place == cities / city / f"img_{year}_{tile}.tif"
        assert sample.mask.name in {f"{city}_{tile}_{year}.tif", f"{city}_{year}_{tile}.tif"}


def test_entries_that_match_nothing(cities: Path) -> None:
    split = {"by": "list", "train": ["oslo-19-1"], "val": ["oslo-21-1"], "test": ["paris-19-1"]}
    said = refused(custom_recipe({**split, "entry": "{city}-{year}-{tile}"}), cities)
    assert "2 of 3 listed samples are not on disk: oslo-21-1, paris-19-1" in said
    assert "paris/ is not there: 1 sample" in said
    assert "oslo/" not in said
    split = {"by": "list", "train": ["oslo_21_1"], "val": ["oslo_19_1"], "test": ["rome_19_1"]}
    assert "is not there" not in refused(custom_recipe(split), cities)


def test_an_entry_and_an_id_of_one_sample_in_two_lists(cities: Path) -> None:
    split = {"by": "list", "train": ["oslo-19-1"], "val": ["oslo_19_1"], "test": ["rome-19-1"]}
    said = refused(custom_recipe({**split, "entry": "{city}-{year}-{tile}"}), cities)
    assert "Splits overlap: 'oslo_19_1' stands in both train and val" in said


# --------------------------------------------------------------------------- headers


def test_headers_are_kept_until_a_file_changes(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_tif(root / "images/b.tif", np.zeros((3, 40, 50), np.float32), nodata=np.nan)
    paths = sorted(root.rglob("*.tif"))
    first = read_headers(paths, root, Silent(), keep_from=6)
    (kept,) = (tmp_path / "cache/eosfm/headers").iterdir()
    assert len(json.loads(kept.read_text())["headers"]) == 3
    again = read_headers(paths, root, Silent(), keep_from=6)
    assert repr(again) == repr(first)

    # What is kept is believed as long as the file looks the same.
    status = paths[0].stat()
    whole = paths[0].read_bytes()
    paths[0].write_bytes(b"x" * len(whole))
    os.utime(paths[0], ns=(status.st_atime_ns, status.st_mtime_ns))
    assert read_headers(paths, root, Silent(), keep_from=6)[paths[0]] == first[paths[0]]
    paths[0].write_bytes(whole[:9])
    with pytest.raises(DataError, match="Cannot read"):
        read_headers(paths, root, Silent(), keep_from=6)
    paths[0].unlink()
    write_tif(paths[0], np.zeros((1, 7, 9), np.uint8))
    assert read_headers(paths, root, Silent(), keep_from=6)[paths[0]].height == 7


@pytest.mark.parametrize("text", ["", "[]", "{", '{"headers": [[1]], "folders": {}}', "\xff"])
def test_damaged_kept_headers_are_read_anew(
    text: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    paths = sorted(root.rglob("*.tif"))
    first = read_headers(paths, root, Silent(), keep_from=1)
    (kept,) = (tmp_path / "cache/eosfm/headers").iterdir()
    kept.write_text(text, encoding="latin-1")
    assert read_headers(paths, root, Silent(), keep_from=1) == first
    assert json.loads(kept.read_text())["headers"]


def test_few_files_leave_no_cache(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    opened(folder_recipe(), root)
    assert not (tmp_path / "cache").exists()


def test_root_comes_from_option_environment_or_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = folder_recipe()
    monkeypatch.delenv("EOSFM_DATA", raising=False)
    assert resolve_root(recipe, None) == Path("data/data")
    monkeypatch.setenv("EOSFM_DATA", "/elsewhere")
    assert resolve_root(recipe, None) == Path("/elsewhere/data")
    assert resolve_root(recipe, tmp_path) == tmp_path / "data"
    absolute = folder_recipe(dataset={"root": "/mine"})
    assert resolve_root(absolute, None) == Path("/mine")
    assert resolve_root(absolute, tmp_path) == tmp_path / "mine"


# --------------------------------------------------------------------------- bad data


def test_missing_folder_says_how_to_get_it(tmp_path: Path) -> None:
    (tmp_path / "dta").mkdir()
    dataset = {"download": "Ask the authors.", "licence": "CC-BY-4.0", "homepage": "https://x.org"}
    said = refused(folder_recipe(dataset=dataset), tmp_path / "data")
    for fact in ("Ask the authors.", "CC-BY-4.0", "https://x.org", "images/{id}.tif", "dta/"):
        assert fact in said
    assert "--data-root" in said


def test_folder_laid_out_otherwise(root: Path) -> None:
    images = {"rgb": {"path": "img/{id}.tif", "bands": ["red", "green", "blue"]}}
    said = refused(folder_recipe(dataset={"images": images}), root)
    assert "img/{id}.tif" in said
    assert "images/, masks/" in said


@pytest.mark.parametrize(
    ("gone", "lacks"), [("masks/b.tif", "masks/b.tif"), ("images/b.tif", "images/b.tif")]
)
def test_unmatched_pairs(root: Path, gone: str, lacks: str) -> None:
    (root / gone).unlink()
    assert f"b lacks {lacks}" in refused(folder_recipe(), root)


def test_wrong_band_count_names_the_file(root: Path) -> None:
    write_tif(root / "images/b.tif", np.zeros((4, 40, 50), np.float32))
    assert f"{root / 'images/b.tif'} has 4 bands, the recipe names 3" in refused(
        folder_recipe(), root
    )


def test_mask_of_another_size(root: Path) -> None:
    write_tif(root / "masks/c.tif", np.zeros((40, 49), np.uint8))
    said = refused(folder_recipe(), root)
    assert "50 × 40" in said
    assert "49 × 40" in said


def test_mask_band_that_is_not_there(root: Path) -> None:
    masks = {"path": "masks/{id}.tif", "band": 2}
    assert "takes labels from band 2" in refused(folder_recipe(dataset={"masks": masks}), root)


def test_no_raster_at_all(root: Path) -> None:
    (root / "images/a.tif").write_text("hello")
    assert str(root / "images/a.tif") in refused(folder_recipe(), root)


def test_complex_numbers(root: Path) -> None:
    write_tif(root / "images/a.tif", np.zeros((3, 40, 50), np.complex64))
    assert "complex numbers" in refused(folder_recipe(), root)


def test_nodata_that_is_also_a_class_is_told(root: Path) -> None:
    write_tif(root / "masks/a.tif", np.zeros((40, 50), np.uint8), nodata=0)
    listener = Listener()
    open_source(folder_recipe(), root.parent, listener)
    assert "with 0 as nodata, which is also the class 'no'" in listener.warnings[0]


# --------------------------------------------------------------------------- labels


def colour_recipe(**masks: Any) -> Recipe:
    return folder_recipe(
        classes=[
            {"name": "no", "colour": "#ff0000"},
            {"name": "yes", "colour": "#123456", "values": ["#0000FF", "#00000a"]},
        ],
        dataset={"masks": {"path": "masks/{id}.tif", "encoding": "colours", **masks}},
    )


COLOURS = st.lists(st.tuples(*[st.integers(0, 255)] * 3), min_size=1, max_size=30)


@given(COLOURS, st.integers(0, 127))
def test_colours_are_the_nearest_class_within_the_tolerance(
    colours: list[tuple[int, int, int]], tolerance: int
) -> None:
    known = {(255, 0, 0): 0, (0, 0, 255): 1, (0, 0, 10): 1, (0, 0, 0): 255}
    table = label_table(colour_recipe(ignore=["#000000"], tolerance=tolerance))
    found = table(colour_numbers(np.array(colours, np.uint8).T))
    for colour, label in zip(colours, found.tolist(), strict=True):
        apart = {k: max(abs(a - b) for a, b in zip(k, colour, strict=True)) for k in known}
        nearest = min(apart.values())
        closest = {known[k] for k, distance in apart.items() if distance == nearest}
        assert label in (closest if nearest <= tolerance else {UNKNOWN})


@given(COLOURS)
def test_without_tolerance_colours_are_exact(colours: list[tuple[int, int, int]]) -> None:
    known = {(255, 0, 0): 0, (0, 0, 255): 1, (0, 0, 10): 1}
    colours = [*colours, *known]
    found = label_table(colour_recipe())(colour_numbers(np.array(colours, np.uint8).T))
    assert found.tolist() == [known.get(colour, UNKNOWN) for colour in colours]


def test_nodata_of_one_channel_is_a_colour_of_all_no_label(root: Path) -> None:
    colours = np.zeros((3, 40, 50), np.uint8)
    colours[0, 0], colours[2, 1] = 255, 255
    write_tif(root / "masks/a.tif", colours, nodata=0)
    labels = MaskReader(colour_recipe()).read(root / "masks/a.tif", Tile(0, 0, 3, 2))
    assert labels.tolist() == [[0, 0], [1, 1], [255, 255]]


def test_labels_that_no_class_lists_may_be_no_label(root: Path) -> None:
    write_tif(root / "masks/a.tif", np.full((40, 50), 7, np.uint8))
    masks = {"path": "masks/{id}.tif"}
    with pytest.raises(DataError, match="labels that no class of the recipe lists: 7"):
        MaskReader(folder_recipe()).read(root / "masks/a.tif", Tile(0, 0, 2, 2))
    recipe = folder_recipe(dataset={"masks": {**masks, "unknown": "ignore"}})
    listener = Listener()
    open_source(recipe, root.parent, listener)
    assert "labels that no class lists count as without label" in listener.said[0]
    labels = MaskReader(recipe).read(root / "masks/a.tif", Tile(0, 0, 2, 2))
    assert (labels == 255).all()


@given(st.lists(st.integers(-5, 300), min_size=1, max_size=50))
def test_label_table_maps_what_it_knows(raw: list[int]) -> None:
    recipe = folder_recipe(
        classes=[{"name": "no"}, {"name": "yes", "values": [7, -2, 255]}],
        dataset={"masks": {"path": "masks/{id}.tif", "ignore": [9]}},
    )
    known = {0: 0, 7: 1, -2: 1, 255: 1, 9: 255}
    assert label_table(recipe)(np.array(raw)).tolist() == [known.get(v, UNKNOWN) for v in raw]
