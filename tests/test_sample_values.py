"""What values a sample has: bands by file, nodata, resampling, series, areas, windows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rasters import folder_recipe, write_sample, write_tif

from eosfm_cli.data.band_reader import BandReader
from eosfm_cli.data.blank import without_blank
from eosfm_cli.data.datamodule import build_datamodule
from eosfm_cli.data.folder import FolderSource, Sample
from eosfm_cli.data.label_reader import LabelReader
from eosfm_cli.data.labelled import keep_labelled
from eosfm_cli.data.sources import open_source
from eosfm_cli.data.tiles import TileDataset
from eosfm_cli.errors import DataError
from eosfm_cli.progress import Silent
from eosfm_cli.recipe import Recipe
from eosfm_cli.tiling import Tile

NAMES = ("a", "b", "c")


class Told(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    warn = say


def write_masks(root: Path, shape: tuple[int, int] = (8, 8)) -> None:
    for name in NAMES:
        write_tif(root / "masks" / f"{name}.tif", np.zeros(shape, np.uint8))


def first(recipe: Recipe, root: Path) -> tuple[FolderSource, Sample]:
    source = open_source(recipe, root.parent)
    return source, source.samples["train"][0]


def whole(recipe: Recipe, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    return BandReader(recipe).read(sample, Tile(0, 0, sample.height, sample.width))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_masks(tmp_path / "data")
    return tmp_path / "data"


# --------------------------------------------------------------------------- a file per band


def write_bands(root: Path, bands: dict[str, tuple[int, tuple[int, int]]]) -> None:
    """One file per band: its spelling -> the value that fills it, and its size."""
    for name in NAMES:
        for band, (value, shape) in bands.items():
            write_tif(root / f"s2/{name}/{name}_{band}.tif", np.full(shape, value, np.uint16))


def by_band(**changes: Any) -> dict[str, Any]:
    return {
        "s2": {
            "path": "s2/{id}/{id}_{band}.tif",
            "sensor": "sentinel-2",
            "bands": ["B02", "B03", "B04"],
            **changes,
        }
    }


def test_each_band_comes_from_its_own_file_and_no_other_is_opened(root: Path) -> None:
    write_bands(root, {"B02": (2, (8, 8)), "B03": (3, (8, 8)), "B04": (4, (8, 8))})
    for path in root.glob("s2/*/*_B03.tif"):
        path.write_bytes(b"no image")
    recipe = folder_recipe(dataset={"images": by_band()}, bands=["red", "blue"])
    _, sample = first(recipe, root)
    values, valid = whole(recipe, sample)
    assert values[:, 3, 3].tolist() == [4, 2]
    assert valid.all()


def test_coarser_files_are_brought_to_the_finest_grid(root: Path) -> None:
    write_bands(root, {"B02": (2, (8, 8)), "B03": (3, (4, 4)), "B04": (4, (2, 2))})
    ramp = np.array([[0, 100], [0, 100]], np.uint16)
    write_tif(root / "s2/a/a_B04.tif", ramp)
    recipe = folder_recipe(dataset={"images": by_band(resampling="bilinear")})
    _, sample = first(recipe, root)
    values, _ = whole(recipe, sample)
    assert (values[0] == 2).all()
    assert (values[1] == 3).all()
    assert values[2, 0].tolist() == [0, 0, 12.5, 37.5, 62.5, 87.5, 100, 100]
    nearest = folder_recipe(dataset={"images": by_band(resampling="nearest")})
    assert whole(nearest, sample)[0][2, 0].tolist() == [0] * 4 + [100] * 4


@pytest.mark.parametrize("shape", [None, [8, 8]])
def test_without_resampling_all_files_are_of_one_size(root: Path, shape: list[int] | None) -> None:
    write_bands(root, {"B02": (2, (8, 8)), "B03": (3, (4, 4)), "B04": (4, (8, 8))})
    recipe = folder_recipe(dataset={"images": by_band(), "shape": shape})
    with pytest.raises(DataError, match=r"_B03\.tif(:| has) 4 × 4"):
        whole(recipe, first(recipe, root)[1])


def test_with_a_shape_files_are_checked_when_they_are_read(root: Path) -> None:
    write_bands(root, {"B02": (2, (8, 8)), "B03": (3, (8, 8)), "B04": (4, (8, 8))})
    write_tif(root / "s2/a/a_B03.tif", np.zeros((6, 8), np.uint16))
    recipe = folder_recipe(dataset={"images": by_band(resampling="bilinear"), "shape": [8, 8]})
    source, sample = first(recipe, root)
    assert (sample.height, sample.width) == (8, 8)
    whole(recipe, source.samples["val"][0])
    with pytest.raises(
        DataError, match=r"a_B03\.tif has 8 × 6 pixels, by dataset.shape.*no grid of the same"
    ):
        whole(recipe, sample)


@pytest.mark.parametrize(("more", "fails"), [(False, True), (True, False)])
def test_further_bands_are_left_out_where_the_recipe_says_so(
    root: Path, more: bool, fails: bool
) -> None:
    for name in NAMES:
        pixels = np.stack([np.full((8, 8), n, np.uint8) for n in range(4)])
        write_tif(root / f"images/{name}.tif", pixels)
    image = {"path": "images/{id}.tif", "bands": ["red", "green", "blue"], "more_bands": more}
    recipe = folder_recipe(dataset={"images": {"rgb": image}, "shape": [8, 8]})
    _, sample = first(recipe, root)
    if fails:
        with pytest.raises(DataError, match="has 4 bands, the recipe names 3"):
            whole(recipe, sample)
    else:
        assert whole(recipe, sample)[0][:, 0, 0].tolist() == [0, 1, 2]


# --------------------------------------------------------------------------- no data


def test_nodata_of_the_recipe_is_left_out_of_images_and_statistics(root: Path) -> None:
    for name in NAMES:
        pixels = np.full((1, 8, 8), 5, np.int16)
        pixels[0, :4] = 7
        pixels[0, 0] = -9999
        pixels[0, 1] = -1
        write_tif(root / f"images/{name}.tif", pixels)
    image = {"path": "images/{id}.tif", "bands": ["pan"], "nodata": [-9999, -1]}
    recipe = folder_recipe(dataset={"images": {"pan": image}}, statistics=None)
    _, sample = first(recipe, root)
    values, valid = whole(recipe, sample)
    assert not valid[0, :2].any()
    assert (values[0, :2] == 0).all()
    assert valid[0, 2:].all()
    data = build_datamodule(recipe, root.parent, spec=recipe.training, progress=Silent())
    assert data.recipe.statistics["pan"].mean == pytest.approx((2 * 7 + 4 * 5) / 6)


# --------------------------------------------------------------------------- series


def series_recipe(images: dict[str, Any], **series: Any) -> Recipe:
    return folder_recipe(dataset={"images": images, "series": series})


DATED = {"s1": {"path": "s1/{id}_{date}.tif", "bands": ["vv", "vh"], "nodata": [-9999]}}


def test_a_series_of_files_becomes_one_image(root: Path) -> None:
    for name in NAMES:
        for date, value in (("01", 1), ("02", 5), ("03", 30)):
            pixels = np.stack([np.full((8, 8), value), np.full((8, 8), -value)]).astype(np.float32)
            pixels[:, 0, 0] = -9999
            pixels[:, 0, 1] = value if date == "03" else -9999
            write_tif(root / f"s1/{name}_{date}.tif", pixels)
    expected = {"median": (5, -5), "mean": (12, -12), "min": (1, -30), "max": (30, -1)}
    for take, (vv, vh) in expected.items():
        recipe = series_recipe(DATED, take=take)
        values, valid = whole(recipe, first(recipe, root)[1])
        assert values[:, 4, 4].tolist() == [vv, vh]
        assert not valid[:, 0, 0].any()
        assert values[:, 0, 1].tolist() == [30, 30]
    single = series_recipe(DATED, dates=["02"])
    assert whole(single, first(single, root)[1])[0][:, 4, 4].tolist() == [5, -5]


def test_dates_of_different_size_are_refused(root: Path) -> None:
    for name in NAMES:
        for date, size in (("01", 8), ("02", 4)):
            write_tif(root / f"s1/{name}_{date}.tif", np.ones((2, size, size), np.float32))
    recipe = folder_recipe(
        dataset={
            "images": {"s1": {**DATED["s1"], "resampling": "bilinear"}},
            "series": {},
            "shape": [8, 8],
        }
    )
    with pytest.raises(DataError, match=r"a_02\.tif has 4 × 4"):
        whole(recipe, first(recipe, root)[1])


def write_arrays(root: Path) -> np.ndarray:
    pixels = np.random.default_rng(0).integers(0, 5000, (5, 2, 8, 8)).astype(np.int16)
    pixels[:3, :, 2] = -10000
    pixels[:, :, 3] = -10000
    for name in NAMES:
        (root / "npy").mkdir(exist_ok=True)
        np.save(root / f"npy/S2_{name}.npy", pixels)
    return pixels


ARRAYS = {"s2": {"path": "npy/S2_{id}.npy", "bands": ["red", "nir"], "nodata": [-10000]}}


def test_a_series_in_an_array_becomes_one_image(root: Path) -> None:
    pixels = write_arrays(root)
    recipe = series_recipe(ARRAYS, take="median")
    values, valid = whole(recipe, first(recipe, root)[1])
    assert np.array_equal(values[:, 4:], np.median(pixels[:, :, 4:], axis=0).astype(np.float32))
    assert np.array_equal(values[:, 2], np.median(pixels[3:, :, 2], axis=0).astype(np.float32))
    assert not valid[:, 3].any()
    part = folder_recipe(bands=["nir"], dataset={"images": ARRAYS, "series": {}})
    assert np.array_equal(whole(part, first(part, root)[1])[0], values[1:])


def test_several_dates_need_a_series(root: Path) -> None:
    write_arrays(root)
    recipe = folder_recipe(dataset={"images": ARRAYS})
    with pytest.raises(DataError, match=r"S2_a\.npy holds 5 dates") as caught:
        first(recipe, root)
    assert "series" in caught.value.hint


# --------------------------------------------------------------------------- labels


def test_masks_in_arrays_have_bands_too(root: Path) -> None:
    write_arrays(root)
    labels = np.zeros((3, 8, 8), np.uint8)
    labels[1, 2, 5] = 1
    for name in NAMES:
        np.save(root / f"npy/TARGET_{name}.npy", labels)
    recipe = folder_recipe(
        dataset={
            "images": ARRAYS,
            "series": {},
            "masks": {"path": "npy/TARGET_{id}.npy", "band": 2},
        }
    )
    data = build_datamodule(recipe, root.parent, spec=recipe.training, progress=Silent())
    mask = data.dataset("train")[0]["mask"]
    assert np.argwhere(mask.numpy() == 1).tolist() == [[2, 5]]
    assert (mask[8:] == 255).all()


def area_data(root: Path, **changes: Any) -> Recipe:
    """One image of 64 × 64 with an area in each of nine blocks, and a ramp of values."""
    write_sample(root, "a", (64, 64))
    numbers = np.zeros((64, 64), np.uint16)
    for number in range(9):
        row, col = 22 * (number // 3), 22 * (number % 3)
        numbers[row : row + 18, col : col + 18] = number + 1
    write_tif(root / "fields/a.tif", numbers)
    split = {"by": "area", "path": "fields/{id}.tif", "val": 0.2, "test": 0.2}
    return folder_recipe(dataset={"split": split}, **changes)


def test_areas_divide_the_labels_of_one_image(tmp_path: Path) -> None:
    root = tmp_path / "data"
    recipe = area_data(root)
    data = build_datamodule(recipe, tmp_path, spec=recipe.training, progress=Silent())
    seen: dict[str, set[int]] = {}
    for name, areas in data.source.areas.items():
        numbers = [
            item["image"][0][item["mask"] != 255].int().flatten() for item in data.dataset(name)
        ]
        pixels = np.concatenate(numbers)
        rows, cols = pixels // 64, pixels % 64
        assert set((rows // 22 * 3 + cols // 22 + 1).tolist()) == set(areas)
        assert len(set(pixels.tolist())) == len(pixels) == 18 * 18 * len(areas)
        seen[name] = set(areas)
    assert sorted(n for areas in seen.values() for n in areas) == list(range(1, 10))


def test_other_areas_are_other_data_to_a_run_that_goes_on(tmp_path: Path) -> None:
    recipe = area_data(tmp_path / "data")
    split = recipe.dataset.split
    facts = []
    for seed in (0, 0, 1):
        dataset = {"split": split.model_copy(update={"seed": seed})}
        other = recipe.model_copy(update={"dataset": recipe.dataset.model_copy(update=dataset)})
        data = build_datamodule(other, tmp_path, spec=other.training, progress=Silent())
        facts.append(data.facts)
    assert facts[0] == facts[1] != facts[2]


@pytest.mark.parametrize("train", ["grid", "random"])
def test_tiles_without_a_label_are_left_out(
    tmp_path: Path, train: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in NAMES:
        write_sample(tmp_path / "data", name, (64, 96))
        mask = np.full((64, 96), 9, np.uint8)
        mask[40, 70] = 1
        write_tif(tmp_path / f"data/masks/{name}.tif", mask)
    masks = {"path": "masks/{id}.tif", "ignore": [9]}
    recipe = folder_recipe(
        dataset={"masks": masks}, tile={"size": 32, "unlabelled": "skip", "train": train}
    )
    told = Told()
    data = build_datamodule(recipe, tmp_path, spec=recipe.training, progress=told)
    assert data.tile_counts == {"train": 1, "val": 1, "test": 1}
    assert "1 of 6 tiles of val have labels; the rest is left out" in told.said
    assert (data.dataset("train")[0]["mask"] == 1).sum() == 1
    assert data.dataset("val").sample_numbers == [0]


def test_which_tiles_have_labels_is_remembered_of_each_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in NAMES:
        write_sample(tmp_path / "data", name)
    recipe = folder_recipe(tile={"size": 32, "unlabelled": "skip"})
    data = build_datamodule(recipe, tmp_path, spec=recipe.training, progress=Silent())
    for name, samples in data.source.samples.items():
        tiles = TileDataset(samples, recipe, split=name, spec=recipe.training)
        keep_labelled(tiles, recipe, name, None, data.source.root, Silent(), keep_from=1)
    kept = [json.loads(path.read_text()) for path in (tmp_path / "cache").rglob("*.json")]
    assert sorted(Path(name.strip()).stem for found in kept for name in found) == [*NAMES]


def test_no_tile_with_a_label(tmp_path: Path) -> None:
    for name in NAMES:
        write_sample(tmp_path / "data", name, (40, 40))
    write_tif(tmp_path / "data/masks/b.tif", np.full((40, 40), 9, np.uint8))
    recipe = folder_recipe(
        dataset={"masks": {"path": "masks/{id}.tif", "ignore": [9]}},
        tile={"size": 32, "unlabelled": "skip"},
    )
    with pytest.raises(DataError, match="No tile of val has a label"):
        build_datamodule(recipe, tmp_path, spec=recipe.training, progress=Silent())


# --------------------------------------------------------------------------- windows of files


def test_a_sample_may_be_a_part_of_its_files(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for name in NAMES:
        write_sample(root, name, (40, 48))
        ramp = np.arange(20 * 24, dtype=np.float32).reshape(1, 20, 24)
        write_tif(root / f"dem/{name}.tif", ramp)
    images = {
        "rgb": {"path": "images/{id}.tif", "bands": ["red", "green", "blue"]},
        "dem": {"path": "dem/{id}.tif", "bands": ["dem"], "resampling": "bilinear"},
    }
    recipe = folder_recipe(dataset={"images": images})
    _, sample = first(recipe, root)
    values, _ = whole(recipe, sample)
    window = Tile(7, 9, 20, 30)
    part = replace(sample, window=window, height=20, width=30)
    tile = Tile(3, 5, 10, 11)
    there = values[:, 10:20, 14:25]
    assert np.array_equal(BandReader(recipe).read(part, tile)[0], there)
    assert np.array_equal(LabelReader(recipe).read(part, tile), there[0] % 2)
    write_tif(root / "masks/a.tif", np.zeros((26, 48), np.uint8))
    with pytest.raises(DataError, match=r"masks/a\.tif has 48 × 26 pixels.*does not show all"):
        LabelReader(recipe).read(part, tile)


# --------------------------------------------------------------------------- blank samples


def write_blank(root: Path, shares: dict[str, float]) -> Recipe:
    """Images of which a share of the second band is 255, and a little of the first 0."""
    for name, share in shares.items():
        pixels = np.full((3, 20, 20), 100, np.uint8)
        pixels[1, : int(20 * share)] = 255
        pixels[0, 0] = 0
        write_tif(root / f"images/{name}.tif", pixels)
        write_tif(root / f"masks/{name}.tif", np.zeros((20, 20), np.uint8))
    names = sorted(shares)
    split = {"by": "list", "train": names[:-2], "val": names[-2:-1], "test": names[-1:]}
    return folder_recipe(dataset={"split": split, "blank": {"values": [0, 255], "share": 0.1}})


def test_blank_samples_are_left_out_and_told(tmp_path: Path) -> None:
    recipe = write_blank(tmp_path / "data", {"a": 0, "b": 0.1, "c": 0.2, "d": 0, "e": 0})
    told = Told()
    source = open_source(recipe, tmp_path, told)
    assert [sample.id for sample in source.samples["train"]] == ["a", "b"]
    assert told.said == [
        "1 of 5 samples are blank and left out (train 1, val 0, test 0): more than 10 % of a band "
        "is 0 or 255"
    ]
    other = recipe.model_copy(update={"bands": ("red", "blue")})
    assert len(open_source(other, tmp_path).samples["train"]) == 3


def test_a_split_of_blank_samples(tmp_path: Path) -> None:
    recipe = write_blank(tmp_path / "data", {"a": 0, "b": 0, "c": 0.5})
    with pytest.raises(DataError, match="All 1 samples of test are blank"):
        open_source(recipe, tmp_path)


def test_what_was_blank_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    recipe = write_blank(tmp_path / "data", {"a": 0, "b": 0.2, "c": 0, "d": 0})
    plain = recipe.model_copy(update={"dataset": recipe.dataset.model_copy(update={"blank": None})})
    samples = open_source(plain, tmp_path).samples

    def left() -> list[str]:
        found = without_blank(samples, recipe, tmp_path / "data", Silent(), keep_from=1)
        return [sample.id for sample in found["train"]]

    assert left() == ["a"]
    (kept,) = (tmp_path / "cache").rglob("*.json")
    before = kept.read_text()
    shares = {Path(name.strip()).stem: share for name, (_, share) in json.loads(before).items()}
    assert shares == {"a": 0.05, "b": 0.2, "c": 0.05, "d": 0.05}
    # What is remembered is believed as long as the file is the same.
    kept.write_text(before.replace("0.2]", "0.01]"))
    assert left() == ["a", "b"]
    pixels = np.full((3, 20, 20), 255, np.uint8)
    write_tif(tmp_path / "data/images/b.tif", pixels)
    assert left() == ["a"]
    kept.write_text(kept.read_text().replace("1.0]", "0.01]"))
    assert left() == ["a", "b"]
    (tmp_path / "data/images/b.tif.msk").touch()  # what lies beside a file counts
    assert left() == ["a"]
    kept.write_text("{")
    assert left() == ["a"]
