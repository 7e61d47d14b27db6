"""`eosfm data check`: everything that is missing or wrong, on whole and on broken datasets."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from eosfm_cli.commands.app import main
from eosfm_cli.data.sources import open_source
from eosfm_cli.errors import DataError
from eosfm_cli.recipe import load_recipe
from tests.datasets.potsdam import POTSDAM, write_potsdam
from tests.datasets.sen12ms import write_sen12ms
from tests.rasters import write_tif

THREE = "dataset.split={by: list, train: ['2_10'], val: ['6_7'], test: ['2_13']}"
"""One image of Potsdam in each split."""
SMALL = ("--set", "dataset.shape=null")
"""The patches here are smaller than those of SEN12MS."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of two whole datasets; not to be changed."""
    folder = tmp_path_factory.mktemp("datasets")
    write_potsdam(folder / "potsdam")
    write_sen12ms(folder / "sen12ms")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a Potsdam of three images, to be spoilt."""
    write_potsdam(tmp_path / "potsdam", ["2_10", "6_7", "2_13"])
    return tmp_path


Capsys = pytest.CaptureFixture[str]


def checked(capsys: Capsys, folder: Path, *words: str, code: int = 0) -> dict[str, Any]:
    """What `--json` says of one recipe."""
    assert main(["data", "check", *words, "--data-root", str(folder), "--json"]) == code
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] == (code == 0)
    return told["recipes"][0]


def printed(capsys: Capsys, folder: Path, *words: str, code: int = 0) -> str:
    """What stands on stdout, blanks made one."""
    assert main(["data", "check", *words, "--data-root", str(folder)]) == code
    return " ".join(capsys.readouterr().out.split())


def problems(found: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [problem for problem in found["problems"] if problem["kind"] == kind]


# --------------------------------------------------------------------------- what is right


def test_a_whole_dataset(whole: Path, capsys: Capsys) -> None:
    assert main(["data", "check", "potsdam", "--data-root", str(whole)]) == 0
    streams = capsys.readouterr()
    said = " ".join(streams.out.split())
    assert "licence ISPRS benchmark terms" in said
    assert "aerial 38 of 38 4_Ortho_RGBIR/top_potsdam_{id}_RGBIR.tif" in said
    assert "masks 38 of 38 5_Labels_all/top_potsdam_{id}_label.tif" in said
    assert " top_potsdam_{id}_label.tif" not in said.replace("5_Labels_all/top", "")
    assert "train 20 val 4 test 14" in said
    assert "aerial 38 50 × 40 4 uint8" in said
    assert "infra" not in said.partition("splits")[2]
    assert "potsdam: fine" in streams.err
    assert f"next: eosfm train-specialist potsdam --data-root {whole}" in streams.err


def test_the_next_command_is_about_the_same_data(whole: Path, capsys: Capsys) -> None:
    assert main(["data", "check", "sen12ms", "--data-root", str(whole), *SMALL]) == 0
    line = f"next: eosfm train-specialist sen12ms --data-root {whole} --set dataset.shape=null"
    assert line in capsys.readouterr().err


def test_values_and_labels_are_those_of_the_files(whole: Path, capsys: Capsys) -> None:
    found = checked(capsys, whole, "potsdam", "--all")
    assert found["values"]["samples"] == {"train": 20, "val": 4, "test": 14}
    assert found["values"]["windows"] == found["values"]["of_windows"] == 38
    bands = {band["band"]: band for band in found["values"]["bands"]}
    # Red is the image's number, green its rows, blue its columns, infrared 40 times the class.
    assert [bands["red"][key] for key in ("min", "max", "mean")] == [0, 37, 18.5]
    assert [bands["green"][key] for key in ("min", "max", "mean")] == [0, 39, 19.5]
    assert [bands["blue"][key] for key in ("min", "max", "mean")] == [0, 49, 24.5]
    assert bands["nir"]["max"] == 200
    assert {band["nodata"] for band in bands.values()} == {0}
    classes = found["values"]["classes"]
    assert sum(each["count"] for each in classes) == 38 * 40 * 50
    assert sum(each["share"] for each in classes) == pytest.approx(1)
    assert found["values"]["unlabelled"] == 0


def test_scenes_and_what_divides_them(whole: Path, capsys: Capsys) -> None:
    found = checked(capsys, whole, "sen12ms", *SMALL)
    words = found["division"]["words"]
    assert "train_list.txt" in words
    assert "val is 20 % of the training scenes (seed 0)" in words
    splits = {split["name"]: split for split in found["division"]["splits"]}
    assert sum(splits[name]["scenes"] for name in ("train", "val")) == 8
    assert splits["test"]["scenes"] == 4
    assert found["division"]["shared_scenes"] == 0
    assert {path["kind"] for path in found["paths"]} >= {"s1", "s2", "masks", "train list"}
    assert found["values"]["unlabelled"] > 0


def test_a_variant_looks_at_its_own_files(whole: Path, tmp_path: Path, capsys: Capsys) -> None:
    root = Path(shutil.copytree(whole / "sen12ms", tmp_path / "sen12ms"))
    for path in root.rglob("*_s1_*.tif"):
        path.unlink()
    found = checked(capsys, tmp_path, "sen12ms-rgb", *SMALL)
    assert [band["band"] for band in found["values"]["bands"]] == ["red", "green", "blue"]
    assert checked(capsys, tmp_path, "sen12ms", *SMALL, code=3)["paths"][0]["found"] == 0


def test_statistics_are_yaml_that_fits_into_the_recipe(whole: Path, capsys: Capsys) -> None:
    assert main(["data", "check", "potsdam", "--stats", "--data-root", str(whole)]) == 0
    out = capsys.readouterr().out
    pasted = yaml.safe_load(out[out.index("\nstatistics:") :])
    recipe = load_recipe("potsdam", pasted)
    assert recipe.statistics["green"].mean == 19.5
    assert recipe.statistics["red"].std == pytest.approx(np.std(range(20)), rel=1e-4)
    assert list(recipe.statistics) == ["red", "green", "blue", "nir"]


def test_statistics_stand_beside_those_of_the_recipe(whole: Path, capsys: Capsys) -> None:
    told = "{red: {mean: 9, std: 6}, green: {mean: 19, std: 11}, blue: {mean: 20, std: 13}}"
    words = ["potsdam-rgb", "--stats", "--set", f"statistics={told}"]
    said = printed(capsys, whole, *words)
    assert "green: {mean: 19.5, std: 11.5434} # the recipe has 19 ± 11" in said
    assert "recipe's mean ± std" in said


def test_several_recipes_are_a_line_each(whole: Path, folder: Path, capsys: Capsys) -> None:
    said = printed(capsys, whole, "potsdam", "sen12ms-s1", *SMALL)
    assert "potsdam fine 20 4 14" in said
    assert "sen12ms-s1 fine" in said
    assert "statistics:" not in said
    said = printed(capsys, whole, "potsdam", "sen12ms-s1", "--stats", *SMALL)
    assert "potsdam statistics: red: {mean: 9.5," in said
    assert "sen12ms-s1 statistics: vv: {mean: -" in said
    said = printed(capsys, folder, "potsdam", "sen12ms-s1", code=3)
    assert "potsdam 1 problem 1 1 1 35 of 38 listed samples are not on disk" in said
    assert "sen12ms-s1 not there – – – There is no folder" in said


@pytest.mark.slow
def test_the_embedded_dataset_is_made(tmp_path: Path, capsys: Capsys) -> None:
    found = checked(capsys, tmp_path, "mini-s1")
    assert [band["band"] for band in found["values"]["bands"]] == ["vv", "vh"]


# --------------------------------------------------------------------------- what is wrong


def test_no_dataset(tmp_path: Path, capsys: Capsys) -> None:
    (tmp_path / "Potsdam.zip").touch()
    assert main(["data", "check", "potsdam", "--data-root", str(tmp_path)]) == 3
    streams = capsys.readouterr()
    said = " ".join(streams.out.split())
    assert "isprs.org" in said
    assert "Register" in said
    assert "archives Potsdam.zip" in said
    assert "aerial missing 4_Ortho_RGBIR/top_potsdam_{id}_RGBIR.tif" in said
    assert "masks missing 5_Labels_all/top_potsdam_{id}_label.tif" in said
    assert f"1. There is no folder {tmp_path / 'potsdam'}; {tmp_path} holds Potsdam.zip." in said
    assert "potsdam: not there" in streams.err


def test_a_file_in_place_of_the_dataset(tmp_path: Path, capsys: Capsys) -> None:
    (tmp_path / "potsdam").touch()
    assert "is a file, not a folder" in printed(capsys, tmp_path, "potsdam", code=3)


def test_an_empty_folder(tmp_path: Path, capsys: Capsys) -> None:
    (tmp_path / "potsdam").mkdir()
    found = checked(capsys, tmp_path, "potsdam", code=3)
    said = " ".join(problem["text"] for problem in problems(found, "missing"))
    assert "4_Ortho_RGBIR/top_potsdam_{id}_RGBIR.tif" in said
    assert "5_Labels_all/top_potsdam_{id}_label.tif" in said
    assert {path["found"] for path in found["paths"]} == {0}


def test_a_link_to_itself_among_the_folders(folder: Path, capsys: Capsys) -> None:
    (folder / "sen12ms").mkdir()
    (folder / "sen12ms/loop").symlink_to("loop")
    found = checked(capsys, folder, "sen12ms", code=3)
    (problem,) = problems(found, "damaged")
    assert "loop: Too many levels of symbolic links" in problem["text"]


def test_a_folder_that_cannot_be_read_hides_no_other(tmp_path: Path, capsys: Capsys) -> None:
    recipe = write_many(tmp_path, 3)
    for link in ("train/9.tif", "odd"):
        (tmp_path / "many" / link).symlink_to(Path(link).name)
    found = checked(capsys, tmp_path, str(recipe), code=3)
    assert [path["found"] for path in found["paths"]] == [5, 5]
    said = {problem["text"] for problem in found["problems"]}
    why = "Too many levels of symbolic links."
    assert said == {f"Cannot read {tmp_path / 'many' / n}: {why}" for n in ("train/9.tif", "odd")}


def test_a_place_that_no_system_can_look_at(tmp_path: Path, capsys: Capsys) -> None:
    name = "x" * 300  # as with folders above that may not be looked into
    words = [str(write_many(tmp_path, 1)), "--set", f"dataset.root={name}"]
    found = checked(capsys, tmp_path, *words, code=3)
    assert f"There is no folder {tmp_path / name}" in problems(found, "missing")[0]["text"]
    with pytest.raises(DataError, match="is not at"):
        open_source(load_recipe(words[0], {"dataset.root": name}), tmp_path)


def test_archives_that_are_not_unpacked(folder: Path, capsys: Capsys) -> None:
    root = folder / "potsdam"
    shutil.rmtree(root / "5_Labels_all")
    (root / "5_Labels_all.zip").touch()
    found = checked(capsys, folder, "potsdam", "--set", THREE, code=3)
    assert found["archives"] == ["5_Labels_all.zip"]
    assert "5_Labels_all.zip" in printed(capsys, folder, "potsdam", "--set", THREE, code=3)


def test_listed_paths_that_do_not_tell_samples_apart(tmp_path: Path, capsys: Capsys) -> None:
    recipe = write_many(tmp_path, 3)
    recipe.write_text(recipe.read_text().replace("{split}", "{place}"))
    split = "{by: list, train: [train/000.tif], val: [train/001.tif], test: [train/002.tif]}"
    words = [str(recipe), "--set", f"dataset.split={split}"]
    found = checked(capsys, tmp_path, *words)
    (note,) = (note for note in found["notes"] if note["kind"] == "split")
    assert note["items"] == ["train/000.tif"]
    words[-1] = words[-1].replace("}", ", entry: '{place}/{id}.tif'}")
    notes = checked(capsys, tmp_path, *words)["notes"]
    assert [note["kind"] for note in notes] == ["unused"]


def test_all_ids_without_a_scene_are_told_and_nothing_that_follows(
    tmp_path: Path, capsys: Capsys
) -> None:
    recipe = write_many(tmp_path, 4)
    scenes = "dataset.split={by: scene, pattern: '^(.)0[01]'}"
    found = checked(capsys, tmp_path, str(recipe), "--set", scenes, code=3)
    (problem,) = found["problems"]
    assert "finds no scene in 2 ids: '002', '003'." in problem["text"]
    assert not found["notes"]


def test_the_archive_of_a_split_that_is_not_unpacked(tmp_path: Path, capsys: Capsys) -> None:
    recipe = write_many(tmp_path, 1)
    shutil.rmtree(tmp_path / "many/test")
    (tmp_path / "many/test_with_labels.zip").touch()
    (problem,) = problems(checked(capsys, tmp_path, str(recipe), code=3), "split")
    assert problem["items"] == ["test"]
    assert "test_with_labels.zip is there, perhaps not unpacked" in problem["hint"]


def test_all_that_is_wrong_is_told_at_once(folder: Path, capsys: Capsys) -> None:
    """A label missing, one of another size, an image cut short and an unknown colour."""
    root = folder / "potsdam"
    write_potsdam(root, ["2_11", "2_12"])
    (root / "5_Labels_all/top_potsdam_6_7_label.tif").unlink()
    write_tif(root / "5_Labels_all/top_potsdam_2_11_label.tif", np.zeros((3, 40, 49), np.uint8))
    cut = root / "4_Ortho_RGBIR/top_potsdam_2_12_RGBIR.tif"
    cut.write_bytes(cut.read_bytes()[:6])
    colours = np.zeros((3, 40, 50), np.uint8)
    colours[0] = 255
    colours[:, 3, 4:6] = np.array([[18, 52, 86]]).T
    write_tif(root / "5_Labels_all/top_potsdam_2_13_label.tif", colours)
    (root / "4_Ortho_RGBIR/odd.tif").touch()

    found = checked(capsys, folder, "potsdam", code=3)
    said = json.dumps(found["problems"])
    assert len(problems(found, "absent")[0]["items"]) == 33
    assert "5_Labels_all/top_potsdam_6_7_label.tif" in json.dumps(problems(found, "unpaired"))
    assert "top_potsdam_2_11_label.tif" in json.dumps(problems(found, "size"))
    assert f"Cannot read {cut}" in said
    assert found["values"]["unknown"] == [
        {
            "label": "#123456",
            "pixels": 2,
            "files": ["5_Labels_all/top_potsdam_2_13_label.tif"],
        }
    ]
    assert "#123456: 2 pixels in 1 file, as 5_Labels_all/top_potsdam_2_13_label.tif" in said
    assert "4_Ortho_RGBIR/odd.tif" in json.dumps(found["notes"])
    assert all(problem["hint"] for problem in found["problems"])


def test_an_image_cut_short_behind_its_header(folder: Path, capsys: Capsys) -> None:
    cut = folder / "potsdam/4_Ortho_RGBIR/top_potsdam_2_13_RGBIR.tif"
    cut.write_bytes(cut.read_bytes()[:-2000])
    found = checked(capsys, folder, "potsdam", "--set", THREE, code=3)
    assert str(cut) in problems(found, "damaged")[0]["text"]


def test_labels_that_are_no_rasters(folder: Path, capsys: Capsys) -> None:
    for path in (folder / "potsdam/5_Labels_all").iterdir():
        path.write_text("labels")
    found = checked(capsys, folder, "potsdam", "--set", THREE, code=3)
    assert {item for problem in problems(found, "damaged") for item in problem["items"]} == {
        f"5_Labels_all/top_potsdam_{name}_label.tif" for name in ("2_10", "6_7", "2_13")
    }
    assert [kind["kind"] for kind in found["files"]] == ["aerial"]
    assert found["values"]["unlabelled"] is None


def test_a_mask_that_is_none_has_too_many_labels_to_list(tmp_path: Path, capsys: Capsys) -> None:
    recipe = write_many(tmp_path, 1)
    pixels = np.arange(3000, dtype=np.uint16).reshape(1, 50, 60)
    write_tif(tmp_path / "many/train/000.tif", pixels)
    write_tif(tmp_path / "many/train/000_mask.tif", pixels)
    found = checked(capsys, tmp_path, str(recipe), code=3)
    assert len(found["values"]["unknown"]) == 256
    assert "and 248 more" in problems(found, "class")[0]["text"]


def test_labels_of_many_digits_are_told_in_full(tmp_path: Path, capsys: Capsys) -> None:
    recipe = write_many(tmp_path, 1)
    write_tif(tmp_path / "many/train/000_mask.tif", np.full((8, 8), 123_456_789, np.int32))
    write_tif(tmp_path / "many/val/000_mask.tif", np.full((8, 8), 1.5, np.float32))
    found = checked(capsys, tmp_path, str(recipe), code=3)
    assert [each["label"] for each in found["values"]["unknown"]] == ["123456789", "1.5"]


def test_images_without_a_value_and_masks_without_a_label(tmp_path: Path, capsys: Capsys) -> None:
    recipe = write_many(tmp_path, 1)
    for name in ("train", "val", "test"):
        write_tif(tmp_path / f"many/{name}/000.tif", np.full((8, 8), np.nan, np.float32))
    found = checked(capsys, tmp_path, str(recipe), code=3)
    (problem,) = problems(found, "values")
    assert problem["text"] == "Band pan has no value in any pixel: all is nodata or NaN."

    recipe = write_many(tmp_path, 1)
    for name in ("train", "val", "test"):
        write_tif(tmp_path / f"many/{name}/000_mask.tif", np.zeros((8, 8), np.uint8), nodata=0)
    found = checked(capsys, tmp_path, str(recipe), code=3)
    (problem,) = problems(found, "values")
    assert problem["text"] == "No pixel of the masks has a label."


def test_numbers_too_large_for_training_are_no_data(tmp_path: Path, capsys: Capsys) -> None:
    recipe = write_many(tmp_path, 2)
    pixels = np.full((8, 8), 5.0)
    pixels[0] = -1.7976931348623157e308
    write_tif(tmp_path / "many/train/000.tif", pixels)
    found = checked(capsys, tmp_path, str(recipe), "--stats")
    (band,) = found["values"]["bands"]
    assert band["min"] == 0
    assert band["max"] == 5
    assert band["nodata"] == pytest.approx(1 / 32)
    assert found["statistics"]["pan"]["mean"] == pytest.approx((56 * 5 + 64) / 120, rel=1e-5)


def test_a_size_that_no_image_has(tmp_path: Path, capsys: Capsys) -> None:
    recipe = write_many(tmp_path, 1)
    text = recipe.read_text().replace("{id}.tif", "{id}.vrt").replace("{id}_mask.tif", "{id}_m.vrt")
    recipe.write_text(text)
    for split, index in (("train", 0), ("val", 0), ("test", 0)):
        for ending in ("", "_m"):
            (tmp_path / f"many/{split}/{index:03}{ending}.vrt").write_text(
                '<VRTDataset rasterXSize="2000000000" rasterYSize="2000000000">'
                '<VRTRasterBand dataType="Byte" band="1"/></VRTDataset>'
            )
    found = checked(capsys, tmp_path, str(recipe), code=3)
    said = {problem["text"] for problem in problems(found, "bands")}
    assert len(said) == 6
    assert all("2000000000 × 2000000000 pixels" in text for text in said)


def test_unknown_colours_may_be_no_label(folder: Path, capsys: Capsys) -> None:
    colours = np.full((3, 40, 50), 77, np.uint8)
    write_tif(folder / "potsdam/5_Labels_all/top_potsdam_2_13_label.tif", colours)
    words = ["potsdam", "--set", THREE, "--set", "dataset.masks.unknown=ignore"]
    found = checked(capsys, folder, *words)
    assert "#4d4d4d: 2,000 pixels" in json.dumps(found["notes"])


def test_values_of_another_scale(whole: Path, capsys: Capsys) -> None:
    told = "{red: {mean: 3000, std: 800}, green: {mean: 0.07, std: 0.04}, blue: {mean: 20, std: 9}}"
    words = ["potsdam-rgb", "--set", f"statistics={told}"]
    found = checked(capsys, whole, *words, code=3)
    (problem,) = found["problems"]
    assert problem["kind"] == "values"
    assert "red: mean 17.26" in problem["text"] or "red: mean 18.5" in problem["text"]
    assert "the recipe says 3000 ± 800" in problem["text"]
    assert "green" in problem["text"]
    assert "blue" not in problem["text"]
    assert "--stats" in problem["hint"]


def test_what_lists_name_and_the_lists_themselves(
    whole: Path, tmp_path: Path, capsys: Capsys
) -> None:
    root = Path(shutil.copytree(whole / "sen12ms", tmp_path / "sen12ms"))
    shutil.rmtree(root / "ROIs1158_spring/s2_3")
    found = checked(capsys, tmp_path, "sen12ms", *SMALL, code=3)
    (problem,) = problems(found, "unpaired")
    assert "ROIs1158_spring/s2_3/ROIs1158_spring_s2_3_p1.tif" in problem["text"]
    assert [(path["kind"], path["found"]) for path in found["paths"]] == [
        *(("s1", 24), ("s2", 22), ("masks", 24)),
        *(("train list", 1), ("test list", 1)),
    ]

    (root / "test_list.txt").rename(root / "test.txt")
    found = checked(capsys, tmp_path, "sen12ms", *SMALL, code=3)
    assert "Cannot read the split list" in problems(found, "split")[0]["text"]
    assert found["paths"][-1]["found"] == 0


def write_many(folder: Path, count: int) -> Path:
    """A dataset of one split by folders with `count` images to train on, and its recipe."""
    for split, number in (("train", count), ("val", 1), ("test", 1)):
        for index in range(number):
            pixels = np.full((1, 8, 8), index, np.uint8)
            write_tif(folder / f"many/{split}/{index:03}.tif", pixels)
            write_tif(folder / f"many/{split}/{index:03}_mask.tif", pixels % 2)
    recipe = folder / "many.yaml"
    recipe.write_text(
        "title: Many\ntask: segmentation\n"
        "dataset:\n  root: many\n"
        "  images: {grey: {path: '{split}/{id}.tif', bands: [pan]}}\n"
        "  masks: {path: '{split}/{id}_mask.tif'}\n"
        "  fields: {id: '\\d+'}\n"
        "  split: {by: folder}\n"
        "classes: [{name: even}, {name: odd}]\n"
    )
    return recipe


def test_some_samples_are_read_or_all(tmp_path: Path, capsys: Capsys) -> None:
    recipe = write_many(tmp_path, 40)
    found = checked(capsys, tmp_path, str(recipe))
    assert found["values"]["samples"] == {"train": 20, "val": 1, "test": 1}
    assert (
        found["values"]["bands"][0] == checked(capsys, tmp_path, str(recipe))["values"]["bands"][0]
    )
    assert [path["found"] for path in found["paths"]] == [42, 42]

    for path in (tmp_path / "many/train").glob("*_mask.tif"):
        write_tif(path, np.full((1, 8, 8), 7, np.uint8))
    half = checked(capsys, tmp_path, str(recipe), code=3)["values"]["unknown"]
    every = checked(capsys, tmp_path, str(recipe), "--all", code=3)["values"]["unknown"]
    assert [len(each[0]["files"]) for each in (half, every)] == [20, 40]
    assert every[0]["pixels"] == 40 * 64


def test_folders_in_words_and_the_target_of_a_regression(tmp_path: Path, capsys: Capsys) -> None:
    recipe = write_many(tmp_path, 3)
    said = printed(capsys, tmp_path, str(recipe))
    assert "folders: train train, val val, test test" in said
    text = recipe.read_text().replace("segmentation", "regression")
    text = text[: text.index("classes:")] + "target: {name: height, unit: m, max: 0.5}\n"
    recipe.write_text(text)
    said = printed(capsys, tmp_path, str(recipe))
    assert "height (m) from 0 to 1, mean" in said
    assert "odd 1. The target height (m) goes from 0 to 1, the recipe says" in said


def test_a_size_that_the_recipe_states(whole: Path, capsys: Capsys) -> None:
    """Files are opened here though training opens none of them at the start."""
    found = checked(capsys, whole, "sen12ms", "--set", "dataset.shape=[256, 256]", code=3)
    (problem,) = problems(found, "size")
    assert "Samples are of 32 × 32 pixels, the recipe says 256 × 256" in problem["text"]
    assert len(problem["items"]) == 24 * 3


def test_of_a_sample_the_file_that_is_too_large_is_named(
    whole: Path, tmp_path: Path, capsys: Capsys
) -> None:
    root = Path(shutil.copytree(whole / "sen12ms", tmp_path / "sen12ms"))
    mask = next(root.rglob("*_lc_*.tif"))
    write_tif(mask, np.ones((4, 40, 32), np.uint16))
    found = checked(capsys, tmp_path, "sen12ms", "--set", "dataset.shape=[32, 32]", code=3)
    (problem,) = problems(found, "size")
    assert problem["items"] == [mask.relative_to(root).as_posix()]


# --------------------------------------------------------------------------- as typed


def test_a_recipe_that_is_none(tmp_path: Path, capsys: Capsys) -> None:
    assert main(["data", "check", "potsdm", "--data-root", str(tmp_path)]) == 2
    assert "potsdam" in capsys.readouterr().err
    assert main(["data", "check"]) == 2


def test_paths_stand_to_the_left_though_they_begin_with_a_digit(
    whole: Path, capsys: Capsys
) -> None:
    assert main(["data", "check", "potsdam", "--data-root", str(whole)]) == 0
    lines = capsys.readouterr().out.splitlines()
    start = lines.index("files") + 1
    places = {lines[start].index("path"), lines[start + 1].index("4_Ortho")}
    assert places == {lines[start + 2].index("5_Labels")}


def test_every_name_of_a_long_list_is_in_the_json(tmp_path: Path, capsys: Capsys) -> None:
    write_potsdam(tmp_path / "potsdam", POTSDAM[:8])
    found = checked(capsys, tmp_path, "potsdam", code=3)
    (absent,) = problems(found, "absent")
    assert sorted(absent["items"]) == sorted(POTSDAM[8:])
    assert "and 25 more" in absent["text"]
