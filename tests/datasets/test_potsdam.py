"""The Potsdam recipe over its real layout, with images of odd sizes."""

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
from eosfm_cli.errors import DataError
from eosfm_cli.progress import Silent
from eosfm_cli.recipe import Recipe, load_recipe
from tests.datasets.potsdam import (
    POTSDAM,
    POTSDAM_TEST,
    POTSDAM_TRAIN,
    POTSDAM_VAL,
    potsdam_classes,
    potsdam_pixels,
    write_potsdam,
)
from tests.listening import Listener
from tests.rasters import write_tif

LARGE = {"2_11": (600, 700), "6_8": (33, 71), "2_13": (95, 32)}
BANDS = ("red", "green", "blue", "nir")
PLAIN = {band: {"mean": 0, "std": 1} for band in BANDS}
COLOURS = np.array(
    [
        (255, 0, 0),
        (255, 255, 255),
        (0, 0, 255),
        (0, 255, 255),
        (0, 255, 0),
        (255, 255, 0),
        (0, 0, 0),
    ]
)
"""Those of the classes in their order, and that of boundaries."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All 38 images, one of 600 × 700 pixels among small ones; not to be changed."""
    return write_potsdam(tmp_path_factory.mktemp("whole") / "potsdam", sizes=LARGE)


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """One image for each split, to be spoilt."""
    return write_potsdam(tmp_path / "potsdam", ["2_10", "6_7", "2_13"])


def recipe(name: str = "potsdam", **overrides: Any) -> Recipe:
    return load_recipe(
        name,
        {
            "statistics": PLAIN,
            "training.workers": 0,
            "training.augment": False,
            **{key.replace("__", "."): value for key, value in overrides.items()},
        },
    )


def of_three(**overrides: Any) -> Recipe:
    split = {"by": "list", "train": ["2_10"], "val": ["6_7"], "test": ["2_13"]}
    return recipe(dataset__split=split, **overrides)


def module(recipe: Recipe, root: Path) -> TileDataModule:
    return build_datamodule(recipe, root.parent, spec=recipe.training, progress=Silent())


def refused(recipe: Recipe, root: Path) -> str:
    with pytest.raises(DataError) as caught:
        open_source(recipe, root.parent)
    assert caught.value.exit_code == 3
    return f"{caught.value.message}\n{caught.value.hint}"


# --------------------------------------------------------------------------- what is right


def test_the_official_split(whole: Path) -> None:
    listener = Listener()
    source = open_source(recipe(), whole.parent, listener)
    assert not listener.warnings
    assert {name: len(samples) for name, samples in source.samples.items()} == {
        "train": 20,
        "val": 4,
        "test": 14,
    }
    assert len(set(POTSDAM)) == 38
    assert set(POTSDAM_VAL) == {"6_7", "6_8", "7_7", "7_8"}
    for name, ids in (("train", POTSDAM_TRAIN), ("val", POTSDAM_VAL), ("test", POTSDAM_TEST)):
        assert sorted(sample.id for sample in source.samples[name]) == sorted(ids)


def test_every_image_has_its_own_labels_and_bands(whole: Path) -> None:
    data = module(recipe(tile__size=32, tile__train="grid"), whole)
    for split in ("train", "val", "test"):
        dataset = data.dataset(split)
        for index in range(0, len(dataset), 7):
            item = dataset[index]
            red, green, blue, nir = item["image"]
            real = item["mask"] != 255
            number = int(red.max())
            assert POTSDAM[number] in item["filename"]
            # Infrared is 40 times the class: labels and bands belong together.
            assert torch.equal(nir[real].long(), 40 * item["mask"][real])
            # Green and blue count rows and columns from where the tile begins.
            row, col = torch.nonzero(real, as_tuple=True)
            assert ((green[real] - row) % 256).unique().numel() == 1
            assert ((blue[real] - col) % 256).unique().numel() == 1


@pytest.mark.parametrize("size", [128, 512])
def test_each_pixel_of_a_large_image_counts_once(whole: Path, size: int) -> None:
    """Windows flush to the edge: 600 × 700 pixels are no multiple of a tile."""
    split = {"by": "list", "train": ["2_10"], "val": ["6_7"], "test": ["2_11"]}
    data = module(recipe(dataset__split=split, tile__size=size), whole)
    height, width = LARGE["2_11"]
    counts = np.zeros(6, int)
    for item in data.dataset("test"):
        counts += np.bincount(item["mask"][item["mask"] != 255], minlength=6)
        assert (item["image"][0] == POTSDAM.index("2_11")).all(), "no padding in a large image"
    expected = np.bincount(potsdam_classes(POTSDAM.index("2_11"), (height, width)).ravel())
    assert counts.tolist() == expected.tolist()


def test_random_crops_are_windows_of_the_image(whole: Path) -> None:
    split = {"by": "list", "train": ["2_11"], "val": ["6_7"], "test": ["2_13"]}
    dataset = module(recipe(dataset__split=split, tile__size=256), whole).dataset("train")
    pixels = potsdam_pixels(POTSDAM.index("2_11"), LARGE["2_11"])
    assert len(dataset) == 9
    places = set()
    for index in range(len(dataset)):
        item = dataset[(3, index)]
        # Row and column are known modulo 256, of all places that fit one is the crop's.
        row, col = int(item["image"][1, 0, 0]), int(item["image"][2, 0, 0])
        crops = [
            (r, c)
            for r in range(row, 600 - 255, 256)
            for c in range(col, 700 - 255, 256)
            if np.array_equal(pixels[:, r : r + 256, c : c + 256], item["image"])
        ]
        assert crops
        places.add(crops[0])
        assert torch.equal(item["mask"] * 40, item["image"][3].long())
    assert len(places) > 5


def test_small_images_are_padded_without_label(whole: Path) -> None:
    item = module(recipe(tile__size=64), whole).dataset("val")[1]
    assert item["mask"].shape == (64, 64)
    assert (item["mask"][33:] == 255).all()
    assert (item["image"][:, 33:] == 0).all()


@pytest.mark.parametrize(
    ("name", "order"), [("potsdam-rgb", [0, 1, 2]), ("potsdam-irrg", [3, 0, 1])]
)
def test_variants_choose_bands_by_name(name: str, order: list[int], whole: Path) -> None:
    every = module(recipe(tile__size=64), whole).dataset("val")[0]["image"]
    chosen = module(recipe(name, tile__size=64), whole).dataset("val")[0]["image"]
    assert torch.equal(chosen, every[order])


def test_infrared_of_zero_is_a_value_though_the_files_call_it_alpha(whole: Path) -> None:
    images = module(recipe(tile__size=64), whole).dataset("test")
    item = images[0]
    clutter = (item["mask"] == 0).numpy()
    assert clutter.any()
    assert (item["image"][0].numpy()[clutter] == POTSDAM.index("2_13")).all()
    assert open_statistics(whole)["nir"] < 100, "zeros count in the mean"


def open_statistics(root: Path) -> dict[str, float]:
    data = module(recipe(statistics=None), root)
    return {band: values.mean for band, values in data.recipe.statistics.items()}


def test_labels_in_the_root(three: Path) -> None:
    before = module(of_three(), three).dataset("test")[0]
    for path in (three / "5_Labels_all").iterdir():
        path.rename(three / path.name)
    (three / "5_Labels_all").rmdir()
    after = module(of_three(), three).dataset("test")[0]
    assert torch.equal(before["mask"], after["mask"])


def test_labels_in_both_places_are_taken_from_the_folder(three: Path) -> None:
    shutil.copy(
        three / "5_Labels_all/top_potsdam_6_7_label.tif", three / "top_potsdam_2_13_label.tif"
    )
    sample = open_source(of_three(), three.parent).samples["test"][0]
    assert sample.mask == three / "5_Labels_all/top_potsdam_2_13_label.tif"


def test_labels_without_boundaries(three: Path) -> None:
    folder = three / "5_Labels_all_noBoundary"
    for name in ("2_10", "6_7", "2_13"):
        colours = np.zeros((3, 40, 50), np.uint8)
        colours[2, 5:] = 255
        write_tif(folder / f"top_potsdam_{name}_label_noBoundary.tif", colours)
    split = {"by": "list", "train": ["2_10"], "val": ["6_7"], "test": ["2_13"]}
    chosen = recipe("potsdam-noboundary", dataset__split=split, tile__size=64)
    mask = module(chosen, three).dataset("val")[0]["mask"]
    assert (mask[:5, :50] == 255).all()
    assert (mask[5:40, :50] == 2).all()


@pytest.mark.parametrize("boundary", [True, False])
def test_labels_that_were_written_with_loss(boundary: bool, three: Path) -> None:
    """Of 4_12 every pixel is off, white is (225, 227, 227) and cyan (9, 222, 221) there; of 6_7 the
    cars are."""
    folder, ending = (
        ("5_Labels_all", "") if boundary else ("5_Labels_all_noBoundary", "_noBoundary")
    )
    rng = np.random.default_rng(0)
    for name in ("2_10", "6_7", "2_13"):
        classes = potsdam_classes(POTSDAM.index(name), (40, 50))
        if not boundary:
            classes[::9] = 6
        colours = COLOURS[classes].transpose(2, 0, 1)
        colours = np.abs(colours - rng.integers(0, 87, colours.shape)).astype(np.uint8)
        colours[:, classes == 5] = np.array([[252], [255], [0]])
        write_tif(three / folder / f"top_potsdam_{name}_label{ending}.tif", colours)
    of_it = recipe(
        "potsdam" if boundary else "potsdam-noboundary",
        dataset__split={"by": "list", "train": ["2_10"], "val": ["6_7"], "test": ["2_13"]},
        tile__size=64,
    )
    mask = module(of_it, three).dataset("test")[0]["mask"][:40, :50].numpy()
    assert np.array_equal(mask, np.where(classes == 6, 255, classes))


@pytest.mark.parametrize("name", ["top_potsdam_2_10_label.tif", "ROIs1158_spring", "a [b]*"])
def test_the_roots_own_name_is_no_pattern(name: str, three: Path) -> None:
    root = three.rename(three.parent / name)
    source = open_source(of_three(dataset__root=name), root.parent)
    assert source.samples["val"][0].mask == root / "5_Labels_all/top_potsdam_6_7_label.tif"


def test_the_sample_layout_opens(sample_data: Callable[[str], Path]) -> None:
    """Labels in the root, and of each split a few images: the rest is asked to be left out."""
    root = sample_data("layouts") / "potsdam"
    split = {"by": "list", "train": ["2_10"], "val": ["2_11"], "test": ["5_15", "6_15"]}
    data = module(recipe(dataset__split=split, dataset__masks__unknown="ignore"), root)
    item = data.dataset("test")[1]
    assert "6_15" in item["filename"]
    assert (item["mask"] != 255).sum() == 4 - _odd_colours(root)
    assert item["image"][:, 0, :2].tolist() == [[0, 1]] * 4


def _odd_colours(root: Path) -> int:
    """How many pixels of the sample's label have a colour that is no class's."""
    import rasterio

    with rasterio.open(root / "top_potsdam_6_15_label.tif") as raster:
        pixels = raster.read().reshape(3, -1).T
    known = {"#ff0000", "#ffffff", "#0000ff", "#00ffff", "#00ff00", "#ffff00"}
    return sum("#{:02x}{:02x}{:02x}".format(*pixel) not in known for pixel in pixels)


# --------------------------------------------------------------------------- what is wrong


def test_no_dataset(tmp_path: Path) -> None:
    (tmp_path / "Potsdam.zip").touch()
    said = refused(recipe(), tmp_path / "potsdam")
    assert "4_Ortho_RGBIR/top_potsdam_{id}_RGBIR.tif" in said
    assert "not unpacked: Potsdam.zip" in said
    assert "isprs.org" in said
    assert "Register" in said


def test_half_a_dataset_names_what_is_absent(three: Path) -> None:
    said = refused(recipe(), three)
    assert "35 of 38 listed samples are not on disk: 2_11, 2_12," in said
    assert "absent=skip" in said


def test_half_a_dataset_may_be_enough(three: Path) -> None:
    listener = Listener()
    source = open_source(recipe(dataset__split__absent="skip"), three.parent, listener)
    assert {k: [s.id for s in v] for k, v in source.samples.items()} == {
        "train": ["2_10"],
        "val": ["6_7"],
        "test": ["2_13"],
    }
    assert "35 of 38 listed samples are not on disk and are left out" in listener.warnings[0]


def test_one_split_missing(three: Path) -> None:
    for path in three.rglob("*_6_7_*"):
        path.unlink()
    said = refused(recipe(dataset__split__absent="skip"), three)
    assert "The val split is empty" in said


@pytest.mark.parametrize("archive", ["4_Ortho_RGBIR.zip", "5_Labels_all.zip"])
def test_archives_that_are_not_unpacked(archive: str, three: Path) -> None:
    shutil.rmtree(three / archive.removesuffix(".zip"))
    for name in ("4_Ortho_RGBIR.zip", "5_Labels_all.zip"):
        (three / name).touch()
    said = refused(of_three(), three)
    assert f"\n{archive} is there, perhaps not unpacked: unpack into {three}" in said


def test_one_label_missing(three: Path) -> None:
    (three / "5_Labels_all/top_potsdam_6_7_label.tif").unlink()
    assert (
        "6_7 lacks 5_Labels_all/top_potsdam_6_7_label.tif or top_potsdam_6_7_label.tif"
        in refused(of_three(), three)
    )


def test_one_label_missing_of_samples_that_may_be_absent(tmp_path: Path) -> None:
    root = write_potsdam(tmp_path / "potsdam", ["2_10", "2_11", "6_7", "2_13"])
    (root / "5_Labels_all/top_potsdam_2_10_label.tif").unlink()
    listener = Listener()
    source = open_source(recipe(dataset__split__absent="skip"), tmp_path, listener)
    assert [s.id for s in source.samples["train"]] == ["2_11"]
    assert source.samples["train"][0].mask.name == "top_potsdam_2_11_label.tif"
    assert "1 listed sample left out for lack of a file: 2_10" in listener.warnings[1]


def test_a_truncated_image_is_told_when_it_is_read(three: Path) -> None:
    path = three / "4_Ortho_RGBIR/top_potsdam_2_13_RGBIR.tif"
    write_tif(path, potsdam_pixels(37, (300, 300)))
    write_tif(three / "5_Labels_all/top_potsdam_2_13_label.tif", np.zeros((3, 300, 300), np.uint8))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    try:
        dataset = module(of_three(), three).dataset("test")
    except DataError as error:
        caught = error
    else:
        with pytest.raises(DataError) as found:
            dataset[0]
        caught = found.value
    assert str(path) in caught.message
    assert "get it again" in caught.hint


def test_an_image_without_a_header(three: Path) -> None:
    path = three / "4_Ortho_RGBIR/top_potsdam_2_13_RGBIR.tif"
    path.write_bytes(path.read_bytes()[:6])
    assert f"Cannot read {path}" in refused(of_three(), three)


def test_a_mask_of_another_size(three: Path) -> None:
    write_tif(three / "5_Labels_all/top_potsdam_6_7_label.tif", np.zeros((3, 40, 49), np.uint8))
    said = refused(of_three(), three)
    assert "top_potsdam_6_7_RGBIR.tif: 50 × 40" in said
    assert "top_potsdam_6_7_label.tif: 49 × 40" in said


def test_a_mask_without_colours(three: Path) -> None:
    write_tif(three / "5_Labels_all/top_potsdam_6_7_label.tif", np.zeros((40, 50), np.uint8))
    said = refused(of_three(), three)
    assert "top_potsdam_6_7_label.tif has 1 band of uint8; label colours are read" in said
    assert "encoding: values" in said


def _odd_label(three: Path) -> Path:
    path = three / "5_Labels_all/top_potsdam_6_7_label.tif"
    colours = np.zeros((3, 40, 50), np.uint8)
    colours[0] = 255
    colours[:, 3, 4] = (250, 9, 10)
    colours[:, 3, 5] = (18, 52, 86)
    return write_tif(path, colours)


def test_unknown_colours(three: Path) -> None:
    path = _odd_label(three)
    with pytest.raises(DataError) as caught:
        module(of_three(), three).dataset("val")[0]
    assert f"{path} has colours that no class of the recipe lists: #123456." in caught.value.message
    assert "dataset.masks.unknown=ignore" in caught.value.hint


def test_unknown_colours_may_be_no_label(three: Path) -> None:
    _odd_label(three)
    mask = module(of_three(dataset__masks__unknown="ignore"), three).dataset("val")[0]["mask"]
    assert mask[3, 5] == 255
    assert mask[3, 4] == 0, "within the tolerance of red"
    exact = of_three(dataset__masks__unknown="ignore", dataset__masks__tolerance=9)
    assert module(exact, three).dataset("val")[0]["mask"][3, 4] == 255


def test_stray_files_are_told_and_shift_nothing(three: Path) -> None:
    for name in ("a.tif", "top_potsdam_2_1.tif", "top_potsdam_6_7_RGBIR.TIF", "notes.txt"):
        (three / "4_Ortho_RGBIR" / name).touch()
    write_potsdam(three, ["3_10"])
    listener = Listener()
    source: FolderSource = open_source(of_three(), three.parent, listener)
    assert source.samples["val"][0].mask.name == "top_potsdam_6_7_label.tif"
    assert listener.warnings == [
        "3 files among the samples left out, not named as the recipe says: "
        "4_Ortho_RGBIR/a.tif, 4_Ortho_RGBIR/top_potsdam_2_1.tif, "
        "4_Ortho_RGBIR/top_potsdam_6_7_RGBIR.TIF.",
        "1 sample on disk in no split: 3_10.",
    ]


# --------------------------------------------------------------------------- as typed


def test_it_trains_from_the_command_line(
    three: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(three.parent)
    options = ["--data-root", ".", "--epochs", "1"]
    settings = ["tile.size=32", "training.workers=0", "dataset.split.absent=skip"]
    code = main(["train-specialist", "potsdam", *options, *(f"--set={s}" for s in settings)])
    assert code == 0
    assert "35 of 38 listed samples are not on disk" in capsys.readouterr().err


def test_an_archive_is_named_on_the_command_line(
    three: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (three / "4_Ortho_RGBIR").rename(three / "4_Ortho_RGBIR.zip")
    code = main(["train-specialist", "potsdam", "--data-root", str(three.parent)])
    assert code == 3
    said = " ".join(capsys.readouterr().err.split())
    assert "4_Ortho_RGBIR.zip is there, perhaps not unpacked" in said
