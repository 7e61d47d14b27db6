"""The SEN12MS recipe and its variants over the real layout: seasons, scenes, patches."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eosfm_cli.commands.app import main
from eosfm_cli.data.datamodule import TileDataModule, build_datamodule
from eosfm_cli.data.folder import FolderSource
from eosfm_cli.data.sources import open_source
from eosfm_cli.errors import DataError, RecipeError
from eosfm_cli.progress import Silent
from eosfm_cli.recipe import Recipe, load_recipe
from tests.datasets.sen12ms import (
    IGBP_TO_CLASS,
    SEASONS,
    SETTINGS,
    sen12ms_labels,
    sen12ms_number,
    sen12ms_pixels,
    write_sen12ms,
    write_triplet,
)
from tests.listening import Listener
from tests.rasters import write_tif

BANDS = load_recipe("sen12ms").bands


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four seasons, two scenes each to train on and one to test on, two patches each."""
    return write_sen12ms(tmp_path_factory.mktemp("whole") / "sen12ms")


@pytest.fixture
def root(whole: Path, tmp_path: Path) -> Path:
    """A copy to be spoilt."""
    return Path(shutil.copytree(whole, tmp_path / "sen12ms"))


def recipe(name: str = "sen12ms", **overrides: Any) -> Recipe:
    return load_recipe(
        name,
        {
            "statistics": {band: {"mean": 0, "std": 1} for band in BANDS},
            "tile.size": 32,
            **SETTINGS,
            "training.workers": 0,
            "training.augment": False,
            **{key.replace("__", "."): value for key, value in overrides.items()},
        },
    )


def module(recipe: Recipe, root: Path) -> TileDataModule:
    return build_datamodule(recipe, root.parent, spec=recipe.training, progress=Silent())


def refused(recipe: Recipe, root: Path) -> str:
    with pytest.raises(DataError) as caught:
        open_source(recipe, root.parent)
    assert caught.value.exit_code == 3
    return f"{caught.value.message}\n{caught.value.hint}"


def scenes(source: FolderSource, split: str) -> set[str]:
    return {sample.id.rpartition("_")[0] for sample in source.samples[split]}


# --------------------------------------------------------------------------- what is right


def test_the_split_goes_by_season_and_scene(whole: Path) -> None:
    listener = Listener()
    source = open_source(recipe(), whole.parent, listener)
    assert not listener.warnings
    assert {name: len(samples) for name, samples in source.samples.items()} == {
        "train": 12,
        "val": 4,
        "test": 8,
    }
    parts = [scenes(source, name) for name in ("train", "val", "test")]
    assert sum(map(len, parts)) == len(set().union(*parts)) == 12
    assert parts[2] == {f"{season}_3" for season in SEASONS}
    assert sum(len(part) for part in source.samples.values()) == 24


def test_the_share_for_validation_is_seeded(whole: Path) -> None:
    drawn = {
        seed: scenes(open_source(recipe(dataset__split__seed=seed), whole.parent), "val")
        for seed in (0, 0, 1, 2, 3)
    }
    assert drawn[0] == scenes(open_source(recipe(), whole.parent), "val")
    assert len({frozenset(found) for found in drawn.values()}) > 1


@pytest.mark.parametrize("variant", ["all", "rgb", "s1", "s2"])
def test_all_variants_have_the_same_split(variant: str, whole: Path) -> None:
    every = open_source(recipe(), whole.parent)
    source = open_source(recipe(f"sen12ms-{variant}"), whole.parent)
    for name in ("train", "val", "test"):
        assert [s.id for s in source.samples[name]] == [s.id for s in every.samples[name]]


def test_triplets_stay_together(whole: Path) -> None:
    data = module(recipe(), whole)
    for split in ("train", "val", "test"):
        samples = data.source.samples[split]
        for sample, item in zip(samples, data.dataset(split), strict=True):
            season, scene, patch = sample.id.rsplit("_", 2)
            number = sen12ms_number(season, int(scene), int(patch[1:]))
            assert np.array_equal(item["image"].numpy(), sen12ms_pixels(number))
            expected = [255 if v == 255 else IGBP_TO_CLASS[v] for v in sen12ms_labels(number).flat]
            assert item["mask"].flatten().tolist() == expected


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("sen12ms-rgb", [5, 4, 3]),
        ("sen12ms-s1", [0, 1]),
        ("sen12ms-s2", list(range(2, 15))),
        ("sen12ms-all", list(range(15))),
    ],
)
def test_variants_choose_bands_by_name(name: str, order: list[int], whole: Path) -> None:
    every = module(recipe(), whole).dataset("test")[3]["image"]
    assert torch.equal(module(recipe(name), whole).dataset("test")[3]["image"], every[order])


def test_one_sensor_does_not_touch_the_other(root: Path) -> None:
    for folder in root.glob("*/s2_*"):
        shutil.rmtree(folder)
    data = module(recipe("sen12ms-s1"), root)
    assert data.sample_counts == {"train": 12, "val": 4, "test": 8}
    assert data.dataset("train")[0]["image"].shape == (2, 32, 32)


def test_decibel_without_a_value_is_the_mean(root: Path) -> None:
    path = root / SEASONS[0] / "s1_3" / f"{SEASONS[0]}_s1_3_p1.tif"
    pixels = np.full((2, 32, 32), -12, np.float32)
    pixels[0, 0, 0], pixels[1, 0, 1] = np.nan, -np.inf
    write_tif(path, pixels)
    image = module(recipe("sen12ms-s1"), root).dataset("test")[0]["image"]
    assert (image == 0).nonzero().tolist() == [[0, 0, 0], [1, 0, 1]]
    split = {name: [f"{SEASONS[i]}_3_p1"] for i, name in enumerate(("train", "val", "test"))}
    alone = recipe("sen12ms-s1", dataset__split={"by": "list", **split}, statistics=None)
    assert module(alone, root).recipe.statistics["vv"].mean == -12


def test_the_roots_own_name_is_no_pattern(root: Path) -> None:
    moved = root.rename(root.parent / "ROIs1158_spring")
    source = open_source(recipe(dataset__root=moved.name), moved.parent)
    assert scenes(source, "test") == {f"{season}_3" for season in SEASONS}


def test_the_sample_layout_opens(sample_data: Callable[[str], Path]) -> None:
    """Its two lists name the same patches: some of them are chosen anew."""
    root = sample_data("layouts") / "sen12ms"
    with pytest.raises(DataError, match=r"Splits overlap: 'ROIs1158_spring_s2_1_p1\.tif'"):
        open_source(recipe(), root.parent)
    split = {
        "train": [f"{season}_s2_1_p1.tif" for season in SEASONS[:2]],
        "val": ["ROIs1970_fall_s2_1_p1.tif"],
        "test": ["ROIs2017_winter_1_p1"],
    }
    chosen = {f"dataset.split.{key}": value for key, value in split.items()}
    rest = {"dataset.split.scene": None, "dataset.shape": [64, 64]}
    data = module(recipe(**chosen, **rest), root)
    assert data.sample_counts == {"train": 2, "val": 1, "test": 1}
    item = data.dataset("test")[0]
    assert item["image"].shape == (15, 32, 32)
    assert set(item["mask"].unique().tolist()) <= {*range(10), 255}


def test_the_seeds_names_are_the_variants() -> None:
    assert load_recipe("sen12ms-all").bands == load_recipe("sen12ms").bands
    assert [len(load_recipe(f"sen12ms-{v}").bands) for v in ("rgb", "s1", "s2")] == [3, 2, 13]
    with pytest.raises(RecipeError, match="Did you mean 's2'"):
        load_recipe("sen12ms-s22")


# --------------------------------------------------------------------------- what is wrong


def test_a_season_is_missing(root: Path) -> None:
    shutil.rmtree(root / "ROIs2017_winter")
    said = refused(recipe("sen12ms-s1"), root)
    assert "6 of 24 listed samples are not on disk: ROIs2017_winter_s2_1_p1.tif" in said
    assert "ROIs2017_winter/ is not there: 6 samples" in said
    assert "absent=skip" in said


def test_a_season_is_there_but_packed(root: Path) -> None:
    shutil.rmtree(root / "ROIs2017_winter")
    for season in ("ROIs2017_winter", "ROIs1158_spring"):
        for kind in ("lc", "s1", "s2"):
            (root / f"{season}_{kind}.tar.gz").touch()
    said = refused(recipe(), root)
    assert (
        "ROIs2017_winter_lc.tar.gz, ROIs2017_winter_s1.tar.gz, ROIs2017_winter_s2.tar.gz are "
        f"there, perhaps not unpacked: unpack into {root}" in said
    )
    assert "spring" not in said


def test_nothing_is_unpacked(root: Path) -> None:
    for season in SEASONS:
        shutil.rmtree(root / season)
        (root / f"{season}_s1.tar.gz").touch()
    said = refused(recipe(), root)
    assert "No file in" in said
    assert "ROIs1158_spring_s1.tar.gz, ROIs1868_summer_s1.tar.gz" in said


def test_a_season_less_may_be_enough(root: Path) -> None:
    shutil.rmtree(root / "ROIs2017_winter")
    listener = Listener()
    source = open_source(recipe(dataset__split__absent="skip"), root.parent, listener)
    assert sum(len(part) for part in source.samples.values()) == 18
    assert "6 of 24 listed samples are not on disk and are left out" in listener.warnings[0]


def test_scenes_without_labels_do_not_use_up_the_share(root: Path) -> None:
    """Those that were drawn before lose their land cover: others validate."""
    for drawn in scenes(open_source(recipe(), root.parent), "val"):
        season, _, scene = drawn.rpartition("_")
        shutil.rmtree(root / season / f"lc_{scene}")
    source = open_source(recipe(dataset__split__absent="skip"), root.parent)
    assert len(scenes(source, "train")) == 5
    assert len(scenes(source, "val")) == 1


@pytest.mark.parametrize("name", ["train_list.txt", "test_list.txt"])
def test_a_list_is_missing(name: str, root: Path) -> None:
    (root / name).unlink()
    said = refused(recipe(), root)
    assert f"Cannot read the split list {root / name}" in said


def test_an_empty_list(root: Path) -> None:
    (root / "test_list.txt").write_text("")
    assert "The test split is empty" in refused(recipe(), root)


def test_one_file_of_a_triplet_is_missing(root: Path) -> None:
    (root / "ROIs1970_fall/lc_2/ROIs1970_fall_lc_2_p1.tif").unlink()
    said = refused(recipe(), root)
    assert "ROIs1970_fall_2_p1 lacks ROIs1970_fall/lc_2/ROIs1970_fall_lc_2_p1.tif" in said


def test_a_label_that_is_no_class(root: Path) -> None:
    path = root / SEASONS[0] / "lc_3" / f"{SEASONS[0]}_lc_3_p1.tif"
    write_tif(path, np.full((4, 32, 32), 18, np.uint16))
    with pytest.raises(DataError, match="labels that no class of the recipe lists: 18"):
        module(recipe(), root).dataset("test")[0]


def test_a_patch_in_a_wrong_folder_is_told(root: Path) -> None:
    write_triplet(root, "ROIs1158_spring", 1, 9)
    path = root / "ROIs1158_spring/s1_1/ROIs1158_spring_s1_1_p9.tif"
    path.rename(root / "ROIs1158_spring/s1_2" / path.name)
    listener = Listener()
    source = open_source(recipe("sen12ms-s1"), root.parent, listener)
    assert sum(len(part) for part in source.samples.values()) == 24
    assert "ROIs1158_spring/s1_2/ROIs1158_spring_s1_1_p9.tif" in listener.warnings[0]
    assert listener.warnings[1] == "1 sample on disk in no split: ROIs1158_spring_1_p9."


# --------------------------------------------------------------------------- as typed


def test_it_trains_from_the_command_line(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--data-root", str(whole.parent), "--epochs", "1"]
    settings = ["--set=tile.size=32", "--set=training.workers=0", "--set=dataset.shape=[32, 32]"]
    assert main(["train-specialist", "sen12ms-s1", *options, *settings]) == 0
    assert list(tmp_path.glob("experiments/train/sen12ms-s1/*/summary.json"))
