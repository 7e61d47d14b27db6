"""Which files make a sample: bands and dates in files of their own, fields, alternatives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eosfm_cli.data.folder import FolderSource, survey_folder
from eosfm_cli.data.sources import open_source
from eosfm_cli.data.splits import SPLIT_NAMES
from eosfm_cli.data.templates import find_files, read_fields
from eosfm_cli.errors import DataError
from eosfm_cli.progress import Silent
from eosfm_cli.recipe import Recipe
from tests.listening import Listener
from tests.rasters import folder_recipe, write_tif

PIXELS = np.zeros((1, 8, 8), np.uint8)


def write(root: Path, *names: str, size: int = 8, bands: int = 1) -> None:
    for name in names:
        write_tif(root / name, np.zeros((bands, size, size), np.uint8))


def recipe(images: dict[str, Any], **dataset: Any) -> Recipe:
    """A recipe over `masks/{id}.tif` that holds a, b and c."""
    return folder_recipe(dataset={"images": images, **dataset})


def opened(recipe: Recipe, root: Path, listener: Silent | None = None) -> FolderSource:
    return open_source(recipe, root.parent, listener or Silent())


def refused(recipe: Recipe, root: Path) -> str:
    with pytest.raises(DataError) as caught:
        opened(recipe, root)
    return f"{caught.value.message}\n{caught.value.hint}"


def problems(recipe: Recipe, root: Path) -> dict[str, tuple[str, ...]]:
    """Kind -> what the problems of a survey are about."""
    return {p.kind: p.items for p in survey_folder(recipe, root, Silent()).problems}


def names(source: FolderSource, split: str = "train") -> list[list[str]]:
    """Of the first sample of a split, the files of each image in all their dates."""
    sample = source.samples[split][0]
    return [[path.relative_to(source.root).as_posix() for path in g] for g in sample.images]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three masks."""
    write(tmp_path / "data", *(f"masks/{name}.tif" for name in "abc"))
    return tmp_path / "data"


# --------------------------------------------------------------------------- a file for each band


BANDS = {"path": "s2/{id}_{band}.tif", "bands": ["B04", "B08", "B02"]}


def test_each_band_has_its_file_in_the_recipes_order(root: Path) -> None:
    write(root, *(f"s2/{name}_{band}.tif" for name in "abc" for band in ("B02", "B04", "B08")))
    listener = Listener()
    source = opened(recipe({"s2": BANDS}), root, listener)
    assert names(source) == [["s2/a_B04.tif"], ["s2/a_B08.tif"], ["s2/a_B02.tif"]]
    assert not listener.warnings


def test_a_band_that_is_not_used_need_not_be_there_and_is_no_stray(root: Path) -> None:
    write(root, *(f"s2/{name}_{band}.tif" for name in "abc" for band in ("B02", "B04")))
    listener = Listener()
    chosen = folder_recipe(dataset={"images": {"s2": BANDS}}, bands=["red"])
    assert names(opened(chosen, root, listener)) == [["s2/a_B04.tif"]]
    assert not listener.warnings


def test_one_band_of_one_sample_is_missing(root: Path) -> None:
    write(root, *(f"s2/{name}_{band}.tif" for name in "abc" for band in ("B02", "B04", "B08")))
    (root / "s2/b_B08.tif").unlink()
    assert "b lacks s2/b_B08.tif" in refused(recipe({"s2": BANDS}), root)
    assert problems(recipe({"s2": BANDS}), root)["unpaired"] == ("s2/b_B08.tif",)


def test_a_band_that_is_missing_everywhere(root: Path) -> None:
    write(root, *(f"s2/{name}_{band}.tif" for name in "abc" for band in ("B02", "B04")))
    assert "named as the recipe says: s2/{id}_B08.tif" in refused(recipe({"s2": BANDS}), root)


def test_spellings_that_vary_and_bands_in_folders(root: Path) -> None:
    write(root, "10/a_665.tif", "20/a_704.tif", "10/b_664.tif", "20/b_703.tif")
    write(root, "10/c_665.tif", "20/c_703.tif")
    image = {
        "path": ["10/{id}_{band}.tif", "20/{id}_{band}.tif"],
        "bands": ["B04", "B05"],
        "spellings": [[664, 665], [703, 704]],
    }
    source = opened(recipe({"s2": image}), root)
    assert [names(source, split) for split in SPLIT_NAMES] == [
        [["10/a_665.tif"], ["20/a_704.tif"]],
        [["10/b_664.tif"], ["20/b_703.tif"]],
        [["10/c_665.tif"], ["20/c_703.tif"]],
    ]


def test_a_band_file_may_have_more_bands_only_if_said(root: Path) -> None:
    write(root, *(f"rgb/{name}.tif" for name in "abc"), bands=4)
    image = {"path": "rgb/{id}.tif", "bands": ["red", "green", "blue"]}
    assert "has 4 bands, the recipe names 3" in refused(recipe({"rgb": image}), root)
    assert opened(recipe({"rgb": {**image, "more_bands": True}}), root)


def test_coarser_files_need_resampling_and_the_same_extent(root: Path) -> None:
    write(root, *(f"fine/{name}.tif" for name in "abc"))
    write(root, *(f"coarse/{name}.tif" for name in "abc"), size=4)
    images = {
        "fine": {"path": "fine/{id}.tif", "bands": ["red"]},
        "coarse": {"path": "coarse/{id}.tif", "bands": ["dem"]},
    }
    assert "4 × 4" in refused(recipe(images), root)
    images["coarse"]["resampling"] = "bilinear"
    sample = opened(recipe(images), root).samples["train"][0]
    assert (sample.height, sample.width) == (8, 8)
    write_tif(root / "coarse/b.tif", np.zeros((1, 4, 2), np.uint8))
    assert "2 × 4" in refused(recipe(images), root)
    images["fine"]["resampling"] = "nearest"
    write(root, "coarse/b.tif", size=16)
    said = refused(recipe(images), root)
    assert "masks/b.tif: 8 × 8" in said
    assert "coarse/b.tif: 16 × 16" in said


def test_files_of_a_known_shape_are_not_opened(root: Path) -> None:
    for name in "abc":
        (root / "pan").mkdir(exist_ok=True)
        (root / f"pan/{name}.tif").write_text("no raster")
    images = {"pan": {"path": "pan/{id}.tif", "bands": ["pan"]}}
    sample = opened(recipe(images, shape=[8, 9]), root).samples["test"][0]
    assert (sample.height, sample.width) == (8, 9)
    assert "pan/a.tif" in refused(recipe(images), root)


def test_files_that_are_looked_at_have_the_recipes_shape(root: Path) -> None:
    write(root, "pan/a.tif", "pan/b.tif", "pan/c.tif")
    tiny = recipe({"pan": {"path": "pan/{id}.tif", "bands": ["pan"]}}, shape=[8, 9])
    survey = survey_folder(tiny, root, Silent(), look_at=lambda keys: keys["val"])
    (problem,) = survey.problems
    assert problem.kind == "size"
    assert problem.items == ("pan/b.tif", "masks/b.tif")
    assert "Samples are of 8 × 8 pixels, the recipe says 9 × 8 (width × height)" in problem.text


# --------------------------------------------------------------------------- fields


def test_a_field_may_be_told_by_an_expression(root: Path) -> None:
    write(root, "all/2020_a_x.tif", "all/2020_b_x.tif", "all/2020_c_x.tif", "all/last_a_x.tif")
    images = {"pan": {"path": "all/{year}_{id}_x.tif", "bands": ["pan"]}}
    assert "cannot be told apart by id" in refused(recipe(images), root)
    listener = Listener()
    source = opened(recipe(images, fields={"year": r"\d{4}"}), root, listener)
    assert names(source) == [["all/2020_a_x.tif"]]
    assert "1 file among the samples left out" in listener.warnings[0]
    assert "all/last_a_x.tif" in listener.warnings[0]


def test_an_expression_tells_folders_apart(root: Path) -> None:
    write(root, *(f"S2A_{name}/{name}.tif" for name in "abc"), "S1A_a/a.tif")
    images = {"pan": {"path": "{tile}/{id}.tif", "bands": ["pan"]}}
    source = opened(recipe(images, fields={"tile": "S2[AB]_.+"}), root)
    assert names(source) == [["S2A_a/a.tif"]]


NAME = st.text("ab_", min_size=1, max_size=4)


def test_files_that_belong_there_are_not_told(root: Path) -> None:
    write(root, *(f"{name}/{kind}_{name}.tif" for name in "abc" for kind in ("pan", "cloud")))
    images = {"pan": {"path": "{id}/pan_{id}.tif", "bands": ["pan"]}}
    listener = Listener()
    opened(recipe(images), root, listener)
    assert "3 files among the samples left out" in listener.warnings.pop()
    opened(recipe(images, others=["{id}/cloud_{id}.tif"]), root, listener)
    assert not listener.warnings


@pytest.mark.parametrize("ending", ["zip", "tar.gzaa", "zip.001", "tar.zst", "part.7z"])
def test_archives_that_were_not_unpacked(ending: str, root: Path) -> None:
    (root / f"pan.{ending}").touch()
    (root / "notes.txt").touch()
    said = refused(recipe({"pan": {"path": "pan/{id}.tif", "bands": ["pan"]}}), root)
    assert f"pan.{ending} is there, perhaps not unpacked: unpack into {root}" in said


@given(pairs=st.lists(st.tuples(NAME, NAME), min_size=1, max_size=6))
def test_found_files_are_those_whose_names_read_the_same(
    pairs: list[tuple[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("tree")
    for one, other in pairs:
        (root / one).mkdir(exist_ok=True)
        (root / one / f"{one}_{other}.tif").touch()
        (root / one / f"{other}.tif").touch()
    template = "{a}/{a}_{b}.tif"
    listing = find_files(root, [template])[template]
    found = {file.path.relative_to(root).as_posix(): dict(file.fields) for file in listing.files}
    there = {path.relative_to(root).as_posix() for path in root.glob("*/*.tif")}
    assert found == {p: fields for p in there if (fields := read_fields(template, p)) is not None}
    strays = {path.relative_to(root).as_posix() for path in listing.strays}
    assert strays == there - set(found)


def test_what_macos_leaves_in_archives_is_no_folder(root: Path) -> None:
    write(root, *(f"{name}/pan.tif" for name in ("a", "b", "c", "__MACOSX")))
    listener = Listener()
    source = opened(recipe({"pan": {"path": "{id}/pan.tif", "bands": ["pan"]}}), root, listener)
    assert not listener.warnings
    assert sum(map(len, source.samples.values())) == 3


def test_the_root_may_be_called_like_a_pattern(tmp_path: Path) -> None:
    root = tmp_path / "{id}" / "s2_a"
    write(root, *(f"masks/{n}.tif" for n in "abc"), *(f"s2_{n}/s2_{n}.tif" for n in "abc"))
    images = {"pan": {"path": "s2_{id}/s2_{id}.tif", "bands": ["pan"]}}
    chosen = recipe(images, root="s2_a")
    assert names(opened(chosen, root)) == [["s2_a/s2_a.tif"]]


# --------------------------------------------------------------------------- dates


DATED = {"path": "dates/{date}/{id}.tif", "bands": ["pan"]}


@pytest.fixture
def dates(root: Path) -> Path:
    """Three samples of two dates, c of one more."""
    write(root, *(f"dates/{date}/{name}.tif" for date in ("0706", "0606") for name in "abc"))
    write(root, "dates/1103/c.tif")
    return root


def test_a_sample_has_all_its_dates_in_order(dates: Path) -> None:
    source = opened(recipe({"pan": DATED}, series={"take": "mean"}), dates)
    assert names(source) == [["dates/0606/a.tif", "dates/0706/a.tif"]]
    assert names(source, "test") == [["dates/0606/c.tif", "dates/0706/c.tif", "dates/1103/c.tif"]]
    assert [s.id for s in source.samples["train"]] == ["a"]


def test_chosen_dates_have_to_be_there(dates: Path) -> None:
    chosen = recipe({"pan": DATED}, series={"dates": ["1103", "0606"]})
    assert "a lacks dates/1103/a.tif" in refused(chosen, dates)
    never = recipe({"pan": DATED}, series={"dates": ["0404", "0505"]})
    assert "a lacks dates/0404/a.tif, dates/0505/a.tif" in refused(never, dates)
    some = recipe({"pan": DATED}, series={"dates": ["1103", "0606"], "absent": "skip"})
    source = opened(some, dates)
    assert names(source) == [["dates/0606/a.tif"]]
    assert names(source, "test") == [["dates/1103/c.tif", "dates/0606/c.tif"]]
    none = recipe({"pan": DATED}, series={"dates": ["1103"], "absent": "skip"})
    assert "a lacks dates/{date}/a.tif" in refused(none, dates)


def test_a_field_that_takes_in_too_much(root: Path) -> None:
    write(root, *(f"{date}/{name}.tif" for date in ("0606", "0706") for name in "abc"))
    image = {"path": "{date}/{id}.tif", "bands": ["pan"]}
    said = refused(recipe({"pan": image}, series={}), root)
    assert "masks/a.tif is taken for a file of both pan and masks" in said
    source = opened(recipe({"pan": image}, series={}, fields={"date": r"\d+"}), root)
    assert names(source) == [["0606/a.tif", "0706/a.tif"]]


def test_all_bands_have_the_same_dates(root: Path) -> None:
    image = {"path": "{date}/{id}_{band}.tif", "bands": ["red", "blue"]}
    write(root, *(f"{d}/{n}_{b}.tif" for d in "12" for n in "abc" for b in ("red", "blue")))
    assert opened(recipe({"rgb": image}, series={}), root)
    (root / "2/b_blue.tif").unlink()
    assert "b lacks 2/b_blue.tif" in refused(recipe({"rgb": image}, series={}), root)


# --------------------------------------------------------------------------- validation by share


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Ten samples to train on, in five places, and two to test."""
    root = tmp_path / "data"
    for split, count in (("train", 10), ("test", 2)):
        for kind in ("images", "masks"):
            write(root, *(f"{split}/{kind}/{n % 5}_{n}.tif" for n in range(count)))
    return root


def by_folder(**split: Any) -> Recipe:
    return recipe(
        {"pan": {"path": "{split}/images/{id}.tif", "bands": ["pan"]}},
        masks={"path": "{split}/masks/{id}.tif"},
        split={"by": "folder", "val": 0.4, **split},
    )


@pytest.mark.parametrize("scene", [{"pattern": r"^(\d)_"}, {}])
def test_a_share_of_the_training_folder_validates(scene: dict[str, str], folders: Path) -> None:
    source = opened(by_folder(**scene), folders)
    assert {name: len(source.samples[name]) for name in SPLIT_NAMES} == {
        "train": 6,
        "val": 4,
        "test": 2,
    }
    assert source == opened(by_folder(**scene), folders)
    if scene:
        train, val = ({s.scene for s in source.samples[name]} for name in ("train", "val"))
        assert len(train) + len(val) == len(train | val) == 5


def test_a_share_needs_scenes(folders: Path) -> None:
    assert "too few" in refused(by_folder(pattern="^()"), folders)
    assert "finds no scene in 10 ids: '0_0'" in refused(by_folder(pattern="^(x)"), folders)
    assert "the folder 'none' holds nothing" in refused(by_folder(test="none"), folders)


def test_incomplete_samples_may_be_left_out(folders: Path) -> None:
    (folders / "train/masks/0_0.tif").unlink()
    assert "0_0 lacks train/masks/0_0.tif" in refused(by_folder(), folders)
    listener = Listener()
    source = opened(by_folder(absent="skip"), folders, listener)
    assert sum(len(part) for part in source.samples.values()) == 11
    assert "1 listed sample left out for lack of a file" in listener.warnings[0]


# --------------------------------------------------------------------------- all problems at once


def test_a_survey_lists_all_that_is_wrong(root: Path) -> None:
    for name in "abcd":
        write(root, f"masks/{name}.tif", f"pan/{name}.tif")
    write(root, "pan/spare.tif", "masks/odd.png.tif")
    (root / "pan/a.tif").write_text("cut")
    write(root, "masks/b.tif", size=9)
    (root / "masks/c.tif").unlink()
    images = {"pan": {"path": "pan/{id}.tif", "bands": ["pan"]}}
    split = {"by": "list", "train": ["a", "b", "c", "d"], "val": ["d", "y"], "test": "none.txt"}
    survey = survey_folder(recipe(images, split=split), root, Silent())
    assert {problem.kind for problem in survey.problems} >= {
        "absent",
        "damaged",
        "size",
        "split",
        "unpaired",
        "unused",
    }
    found = {problem.kind: problem.items for problem in survey.problems}
    assert found["damaged"] == ("pan/a.tif",)
    assert found["size"] == ("pan/b.tif", "masks/b.tif")
    assert found["unpaired"] == ("masks/c.tif",)
    assert found["absent"] == ("y",)
    assert found["unused"] == ("odd.png", "spare")
    assert [sample.id for sample in survey.source.samples["train"]] == ["d"]
    with pytest.raises(DataError) as caught:
        opened(recipe(images, split=split), root)
    assert caught.value.message == next(p for p in survey.problems if not p.is_note).text


def test_a_survey_of_an_empty_folder(tmp_path: Path) -> None:
    survey = survey_folder(folder_recipe(), tmp_path, Silent())
    assert [problem.kind for problem in survey.problems][:2] == ["missing", "missing"]
    assert not any(survey.source.samples.values())
