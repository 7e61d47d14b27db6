"""`eosfm recipes new`: folders of many shapes become recipes that load."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st

from eosfm_cli.commands.app import main
from eosfm_cli.data.sources import open_source
from eosfm_cli.data.survey.neighbours import touching_groups
from eosfm_cli.data.survey.words import role_of, sensor_of, split_pattern
from eosfm_cli.errors import ExitCode
from eosfm_cli.recipe import Recipe, load_recipe
from tests.rasters import write_tif

RNG = np.random.default_rng(0)
SHAPE = (40, 50)


def picture(bands: int = 3, dtype: str = "uint8", shape: tuple[int, int] = SHAPE) -> np.ndarray:
    return RNG.integers(1, 250, (bands, *shape)).astype(dtype)


def labels(classes: int = 3, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    """Patches of all classes, five pixels wide."""
    rows, cols = np.indices(shape) // 5
    return ((rows + cols) % classes).astype(np.uint8)


def write(path: Path, pixels: np.ndarray, **profile: object) -> Path:
    """Write a raster in the format of its suffix, `(c, h, w)` or `(h, w)`."""
    if path.suffix == ".tif":
        return write_tif(path, pixels, **profile)
    pixels = pixels[None] if pixels.ndim == 2 else pixels
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = pixels.shape
    driver = {".png": "PNG", ".jpg": "JPEG"}[path.suffix]
    with rasterio.open(
        path, "w", driver=driver, count=count, height=height, width=width, dtype=pixels.dtype
    ) as raster:
        raster.write(pixels)
    path.with_name(f"{path.name}.aux.xml").unlink(missing_ok=True)
    return path


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def new(tmp_path, capsys) -> Callable[..., tuple[Recipe, dict]]:
    """Run `recipes new data`; gives the recipe that was written and the findings."""

    def run(*options: str, folder: Path | None = None) -> tuple[Recipe, dict]:
        command = ["recipes", "new", str(folder or tmp_path / "data"), *options, "--json"]
        assert main(command) == 0, capsys.readouterr().err
        findings = json.loads(capsys.readouterr().out)
        assert main(["recipes", "validate", findings["path"]]) == 0
        capsys.readouterr()
        return load_recipe(findings["path"]), findings

    return run


def counts(recipe: Recipe) -> dict[str, int]:
    return {name: len(part) for name, part in open_source(recipe, None).samples.items()}


def ids(recipe: Recipe) -> set[str]:
    return {s.id for part in open_source(recipe, None).samples.values() for s in part}


# ------------------------------------------------------------------------------ layouts

N = 8


def two_folders(root: Path, i: int) -> None:
    write(root / "img" / f"a{i}.tif", picture())
    write(root / "labels" / f"a{i}.tif", labels())


def pascal(root: Path, i: int) -> None:
    write(root / "JPEGImages" / f"a{i}.jpg", picture())
    write(root / "SegmentationClass" / f"a{i}.png", labels())


def other_endings(root: Path, i: int) -> None:
    write(root / "4_Ortho_RGBIR" / f"top_{i}_5_RGBIR.tif", picture(4))
    write(root / f"top_{i}_5_label.tif", labels())


def side_by_side(root: Path, i: int) -> None:
    write(root / f"a{i}_image.tif", picture())
    write(root / f"a{i}_mask.tif", labels())


def mask_is_the_longer_name(root: Path, i: int) -> None:
    write(root / f"a{i}.tif", picture())
    write(root / f"a{i}_label.tif", labels())


def beginnings(root: Path, i: int) -> None:
    write(root / f"img_{i}.png", picture())
    write(root / f"mask_{i}.png", labels())


def told_by_suffix(root: Path, i: int) -> None:
    write(root / f"a{i}.jpg", picture())
    write(root / f"a{i}.png", labels())


def folder_per_sample(root: Path, i: int) -> None:
    write(root / f"place{i}" / "image.tif", picture())
    write(root / f"place{i}" / "mask.tif", labels())


def folder_per_scene_of_a_sensor(root: Path, i: int) -> None:
    write(root / f"S2_{i}" / "image.tif", picture())
    write(root / f"S2_{i}" / "label.tif", labels())


def file_per_band(root: Path, i: int) -> None:
    for band in ("B02", "B03", "B04", "B08"):
        write(root / "features" / f"chip{i}" / f"{band}.tif", picture(1, "uint16"))
    write(root / "truth" / f"chip{i}.tif", labels())


def silent_names(root: Path, i: int) -> None:
    write(root / "A" / f"a{i}.tif", picture(4, "uint16"))
    write(root / "B" / f"a{i}.tif", labels())


@pytest.mark.parametrize(
    ("layout", "images", "masks"),
    [
        (two_folders, "img/{id}.tif", "labels/{id}.tif"),
        (pascal, "JPEGImages/{id}.jpg", "SegmentationClass/{id}.png"),
        (other_endings, "4_Ortho_RGBIR/{id}_RGBIR.tif", "{id}_label.tif"),
        (side_by_side, "{id}_image.tif", "{id}_mask.tif"),
        (mask_is_the_longer_name, "{id}.tif", "{id}_label.tif"),
        (beginnings, "img_{id}.png", "mask_{id}.png"),
        (told_by_suffix, "{id}.jpg", "{id}.png"),
        (folder_per_sample, "{id}/image.tif", "{id}/mask.tif"),
        (folder_per_scene_of_a_sensor, "S2_{id}/image.tif", "S2_{id}/label.tif"),
        (file_per_band, "features/{id}/B02.tif", "truth/{id}.tif"),
        (silent_names, "A/{id}.tif", "B/{id}.tif"),
    ],
)
def test_images_find_their_labels(tmp_path, new, layout, images, masks):
    for i in range(N):
        layout(tmp_path / "data", i)
    recipe, findings = new()
    assert next(iter(recipe.dataset.images.values())).path == images
    assert recipe.dataset.masks.path == masks
    assert recipe.class_values == ((0,), (1,), (2,))
    assert len(ids(recipe)) == N
    assert findings["left_out"] == {}
    assert recipe.tile.size == 64
    assert set(recipe.statistics) == set(recipe.bands)


def test_two_dates_with_one_label_are_no_scenes(tmp_path, new):
    for i in range(N):
        for date in "AB":
            write(tmp_path / "data" / date / f"{i}.tif", picture())
        write(tmp_path / "data" / "label" / f"{i}.tif", labels())
    recipe, findings = new("--images", "b")
    assert [image.path for image in recipe.dataset.images.values()] == ["B/{id}.tif"]
    recipe, findings = new("--overwrite")
    assert [image.path for image in recipe.dataset.images.values()] == ["A/{id}.tif"]
    assert any("--images b takes it instead" in line for line in findings["found"])


@pytest.mark.parametrize("inside", [True, False])
def test_split_folders_at_either_level(tmp_path, new, inside):
    for split in ("Train", "valid", "test"):
        for i in range(2):
            for kind, pixels in (("images", picture()), ("masks", labels())):
                folder = f"{kind}/{split}" if inside else f"{split}/{kind}"
                write(tmp_path / "data" / folder / f"{i}.tif", pixels)
    recipe, _ = new()
    assert recipe.dataset.split.by == "folder"
    assert counts(recipe) == {"train": 2, "val": 2, "test": 2}


def test_without_validation_folder_a_share_of_training_takes_its_place(tmp_path, new):
    for i in range(10):
        for split in ("train", "test") if i < 4 else ("train",):
            write(tmp_path / "data" / split / "images" / f"{i}.tif", picture())
            write(tmp_path / "data" / split / "masks" / f"{i}.tif", labels())
    recipe, _ = new()
    samples = open_source(recipe, None).samples
    assert {name: len(part) for name, part in samples.items()} == {"train": 8, "val": 2, "test": 4}
    assert all("/test/" in str(sample.mask) for sample in samples["test"])
    assert all("/train/" in str(sample.mask) for sample in samples["val"])


def test_split_folders_with_too_little_to_train_on_are_not_taken(tmp_path, new):
    for split, count in (("train", 1), ("test", 5)):
        for i in range(count):
            write(tmp_path / "data" / split / "images" / f"{i}.tif", picture())
            write(tmp_path / "data" / split / "masks" / f"{i}.tif", labels())
    recipe, _ = new()
    assert sum(counts(recipe).values()) == 6


def test_a_split_without_labels_is_listed_and_the_rest_works(tmp_path, new):
    for i in range(6):
        write(tmp_path / "data" / "train" / "images" / f"{i}.tif", picture())
        write(tmp_path / "data" / "train" / "gt" / f"{i}.tif", labels())
        write(tmp_path / "data" / "test" / "images" / f"{i}.tif", picture())
    recipe, findings = new()
    assert sum(counts(recipe).values()) == 6
    assert set(findings["left_out"]) == {f"test/{i}" for i in range(6)}


def test_class_folders(tmp_path, new):
    for name in ("forest", "SeaLake", "bare soil"):
        for i in range(4):
            write(tmp_path / "data" / name / f"{i:03d}.png", picture())
    recipe, _ = new()
    assert recipe.task == "classification"
    assert recipe.class_names == ("SeaLake", "bare soil", "forest")
    assert sum(counts(recipe).values()) == 12


def test_class_folders_below_split_folders(tmp_path, new):
    for split in ("train", "val", "test"):
        for name in ("a", "b"):
            write(tmp_path / "data" / split / name / f"{split}{name}.png", picture())
    recipe, _ = new()
    assert recipe.dataset.images["images"].path == "{split}/{class}/{id}.png"
    assert counts(recipe) == {"train": 2, "val": 2, "test": 2}


def sensors(root: Path, i: int, **changes: np.ndarray) -> None:
    files = {
        "S2L2A": picture(12, "int16"),
        "S1RTC": -picture(2, "float32"),
        "S2RGB": picture(3),
        "LULC": labels(4),
        **changes,
    }
    for folder, pixels in files.items():
        write(root / folder / f"place_{i // 2}_{i % 2}.tif", pixels)


def test_sensors_in_parallel_folders(tmp_path, new):
    for i in range(N):
        sensors(tmp_path / "data", i)
    recipe, findings = new()
    images = recipe.dataset.images
    assert {name: image.sensor for name, image in images.items()} == {
        "s2l2a": "sentinel-2",
        "s1rtc": "sentinel-1",
    }
    assert images["s1rtc"].bands == ("vv", "vh")
    assert len(images["s2l2a"].bands) == 12
    assert "cirrus" not in images["s2l2a"].bands
    assert recipe.dataset.masks.path == "LULC/{id}.tif"
    assert any("s2rgb" in line and "--images s2rgb" in line for line in findings["found"])
    stem = Path(findings["path"]).with_suffix("")
    assert load_recipe(f"{stem}-s1rtc.yaml").bands == ("vv", "vh")
    assert load_recipe(f"{stem}-rgb.yaml").bands == ("red", "green", "blue")


def test_images_and_masks_can_be_named(tmp_path, new):
    for i in range(N):
        sensors(tmp_path / "data", i, masks_other=labels(2))
    recipe, _ = new("--images", "s2rgb,s1rtc", "--masks", "masks_other")
    assert set(recipe.dataset.images) == {"s2rgb", "s1rtc"}
    assert recipe.dataset.masks.path == "masks_other/{id}.tif"


def test_images_of_another_size_than_the_labels_are_left_out_as_a_whole(tmp_path, new):
    for i in range(N):
        sensors(tmp_path / "data", i, S1RTC=-picture(2, "float32", (20, 25)))
    recipe, findings = new()
    assert set(recipe.dataset.images) == {"s2l2a"}
    assert any("s1rtc" in line and "size" in line for line in findings["found"])


def test_a_word_in_the_middle_of_names(tmp_path, new):
    for season in ("spring", "summer", "winter"):
        for i in range(2):
            for folder, word, pixels in (
                ("s2_7", "s2", picture(13, "uint16")),
                ("s1_7", "s1", -picture(2, "float32")),
                ("lc_7", "lc", labels()),
            ):
                write(tmp_path / "data" / season / folder / f"{season}_{word}_7_p{i}.tif", pixels)
    recipe, _ = new()
    assert recipe.dataset.masks.path == "{scene}/lc_7/{scene}_lc_{tile}.tif"
    samples = open_source(recipe, None).samples
    assert counts(recipe) == {"train": 2, "val": 2, "test": 2}
    for sample in (s for part in samples.values() for s in part):
        assert {p.name.replace("_s2_", "_").replace("_s1_", "_") for (p,) in sample.images} == {
            sample.mask.name.replace("_lc_", "_")
        }


# ------------------------------------------------------------------------------ bands


@pytest.mark.parametrize(
    ("folder", "count", "dtype", "bands"),
    [
        ("images", 3, "uint8", ("red", "green", "blue")),
        ("irrg", 3, "uint8", ("nir", "red", "green")),
        ("images", 4, "uint8", ("red", "green", "blue", "nir")),
        ("sentinel2", 4, "uint16", ("blue", "green", "red", "nir")),
        ("images", 6, "float32", ("blue", "green", "red", "nir", "swir16", "swir22")),
        ("dem", 1, "float32", ("dem",)),
        ("images", 1, "uint16", ("pan",)),
        ("sar", 2, "uint16", ("vv", "vh")),
    ],
)
def test_bands_by_number_and_name(tmp_path, new, folder, count, dtype, bands):
    for i in range(3):
        write(tmp_path / "data" / folder / f"{i}.tif", picture(count, dtype))
        write(tmp_path / "data" / "masks" / f"{i}.tif", labels())
    recipe, _ = new()
    assert recipe.bands == bands


def test_band_descriptions_decide(tmp_path, new):
    for i in range(3):
        path = write(tmp_path / "data" / "images" / f"{i}.tif", picture(3, "uint16"))
        with rasterio.open(path, "r+") as raster:
            raster.descriptions = ("B8A (865 nm)", "B04 (665 nm)", "B11 (1614 nm)")
        write(tmp_path / "data" / "masks" / f"{i}.tif", labels())
    recipe, findings = new()
    assert recipe.bands == ("nir08", "red", "swir16")
    assert not any("bands" in line for line in findings["check"])


def test_transparency_is_no_band(tmp_path, new):
    opaque = np.full((1, *SHAPE), 255, np.uint8)
    for i in range(3):
        write(tmp_path / "data" / "images" / f"{i}.png", np.concatenate([picture(), opaque]))
        write(tmp_path / "data" / "masks" / f"{i}.png", labels())
    recipe, _ = new()
    assert recipe.bands == ("red", "green", "blue")
    assert sum(counts(recipe).values()) == 3


def test_more_bands_than_there_are_names_for(tmp_path, capsys):
    for i in range(3):
        write(tmp_path / "data" / "images" / f"{i}.tif", picture(30))
        write(tmp_path / "data" / "masks" / f"{i}.tif", labels())
    assert main(["recipes", "new", "data"]) == ExitCode.DATA
    assert "30 bands" in capsys.readouterr().err


# ------------------------------------------------------------------------------ classes


def write_pairs(root: Path, masks: list[np.ndarray], suffix: str = ".png") -> None:
    for i, mask in enumerate(masks):
        write(root / "images" / f"{i}.png", picture())
        write(root / "masks" / f"{i}{suffix}", mask)


def recoloured(table: dict[int, tuple[int, int, int]]) -> np.ndarray:
    return np.array([table[i] for i in range(len(table))], np.uint8)[labels(len(table))].transpose(
        2, 0, 1
    )


RED_AND_GREEN = {0: (255, 0, 0), 1: (0, 255, 0), 2: (10, 20, 30)}


def test_a_binary_mask_of_0_and_255_has_two_classes(tmp_path, new):
    write_pairs(tmp_path / "data", [labels(2) * 255] * 4)
    recipe, _ = new()
    assert recipe.class_values == ((0,), (255,))
    assert recipe.dataset.masks.ignore == ()


def test_255_among_other_classes_means_no_label(tmp_path, new):
    mask = labels(3)
    mask[mask == 2] = 255
    write_pairs(tmp_path / "data", [mask] * 4)
    recipe, _ = new()
    assert recipe.class_values == ((0,), (1,))
    assert recipe.dataset.masks.ignore == (255,)


def test_nodata_and_values_below_zero_mean_no_label(tmp_path, new):
    for i in range(4):
        mask = labels(5).astype(np.int16) - 1
        write(tmp_path / "data" / "images" / f"{i}.tif", picture())
        write(tmp_path / "data" / "masks" / f"{i}.tif", mask, nodata=3)
    recipe, _ = new()
    assert recipe.class_values == ((0,), (1,), (2,))
    assert recipe.dataset.masks.ignore == (-1, 3)


def test_0_means_no_label_where_the_images_are_empty(tmp_path, new):
    for i in range(4):
        image, mask = picture(), labels(3)
        image[:, mask == 0] = 0
        write(tmp_path / "data" / "images" / f"{i}.tif", image)
        write(tmp_path / "data" / "masks" / f"{i}.tif", mask)
    recipe, findings = new()
    assert recipe.class_values == ((1,), (2,))
    assert recipe.dataset.masks.ignore == (0,)
    assert any("images are empty" in line for line in findings["guessed"])


def test_colours(tmp_path, new):
    write_pairs(tmp_path / "data", [recoloured(RED_AND_GREEN)] * 4)
    recipe, _ = new()
    assert recipe.dataset.masks.encoding == "colours"
    assert {c.name: c.values for c in recipe.classes} == {
        "red": ("#ff0000",),
        "green": ("#00ff00",),
        "class 3": ("#0a141e",),
    }


def test_colours_that_hardly_occur_are_listed_and_without_label(tmp_path, new):
    masks = [recoloured(RED_AND_GREEN) for _ in range(6)]
    masks[4][:, 0, 0] = (1, 2, 3)
    write_pairs(tmp_path / "data", masks)
    recipe, findings = new()
    assert len(recipe.classes) == 3
    assert recipe.dataset.masks.ignore == ("#010203",)
    assert any("#010203 (1 pixels in 1 file)" in line for line in findings["check"])


def test_soft_colours_get_a_tolerance(tmp_path, new):
    masks = []
    for _ in range(4):
        noise = RNG.integers(-6, 7, (3, *SHAPE))
        masks.append(np.clip(recoloured(RED_AND_GREEN) + noise, 0, 255).astype(np.uint8))
    write_pairs(tmp_path / "data", masks)
    recipe, findings = new()
    assert len(recipe.classes) == 3
    assert recipe.dataset.masks.tolerance >= 6
    assert any("blurred" in line for line in findings["check"])


def test_masks_saved_as_jpeg(tmp_path, new):
    write_pairs(tmp_path / "data", [labels(2) * 255] * 4, ".jpg")
    recipe, findings = new()
    assert recipe.class_names == ("background", "object")
    assert sorted(v for values in recipe.class_values for v in values) == list(range(256))
    assert any("JPEG" in line for line in findings["check"])


def test_grey_pictures_with_three_bands_are_numbers(tmp_path, new):
    write_pairs(tmp_path / "data", [np.stack([labels()] * 3)] * 4)
    recipe, _ = new()
    assert recipe.dataset.masks.encoding == "values"
    assert recipe.class_values == ((0,), (1,), (2,))


def test_colour_tables_give_colours(tmp_path, new):
    for i in range(4):
        write(tmp_path / "data" / "images" / f"{i}.tif", picture())
        path = write(tmp_path / "data" / "masks" / f"{i}.tif", labels(2))
        with rasterio.open(path, "r+") as raster:
            raster.write_colormap(1, {0: (0, 0, 255, 255), 1: (16, 128, 32, 255)})
    recipe, _ = new()
    assert [c.colour for c in recipe.classes] == ["#0000ff", "#108020"]


GDAL_NAMES = """<PAMDataset><PAMRasterBand band="1"><CategoryNames>
<Category>water</Category><Category>forest</Category><Category>town</Category>
</CategoryNames></PAMRasterBand></PAMDataset>"""
GDAL_TABLE = """<PAMDataset><PAMRasterBand band="1"><GDALRasterAttributeTable>
<FieldDefn index="0"><Name>Value</Name><Type>0</Type><Usage>5</Usage></FieldDefn>
<FieldDefn index="1"><Name>Class</Name><Type>2</Type><Usage>2</Usage></FieldDefn>
<Row index="0"><F>0</F><F>water</F></Row><Row index="1"><F>1</F><F>forest</F></Row>
<Row index="2"><F>2</F><F>town</F></Row>
</GDALRasterAttributeTable></PAMRasterBand></PAMDataset>"""


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("masks/0.png.aux.xml", GDAL_NAMES),
        ("masks/0.png.aux.xml", GDAL_TABLE),
        ("classes.txt", "water\nforest\ntown\n"),
        ("labels.txt", "0: water\n1: forest\n2: town\n"),
        ("class_dict.csv", "id,name\n0,water\n1,forest\n2,town\n"),
    ],
)
def test_names_of_classes_that_come_with_the_data(tmp_path, new, file, text):
    write_pairs(tmp_path / "data", [labels()] * 4)
    (tmp_path / "data" / file).write_text(text)
    recipe, findings = new()
    assert recipe.class_names == ("water", "forest", "town")
    assert not any("names of the classes" in line for line in findings["check"])


def test_names_of_colours(tmp_path, new):
    write_pairs(tmp_path / "data", [recoloured(RED_AND_GREEN)] * 4)
    table = "name,r,g,b\nroofs,255,0,0\nmeadow,0,255,0\nshade,10,20,30\n"
    (tmp_path / "data" / "class_dict.csv").write_text(table)
    recipe, _ = new()
    assert set(recipe.class_names) == {"roofs", "meadow", "shade"}


def test_measurements_are_no_classes(tmp_path, capsys):
    for i in range(3):
        write(tmp_path / "data" / "images" / f"{i}.tif", picture())
        write(tmp_path / "data" / "labels" / f"{i}.tif", picture(1, "float32") / 7)
    assert main(["recipes", "new", "data"]) == ExitCode.DATA
    assert "no classes" in capsys.readouterr().err
    assert not (tmp_path / "data.yaml").exists()


# ------------------------------------------------------------------------------ splits


def write_named(root: Path, names: list[str]) -> None:
    for name in names:
        write(root / "images" / f"{name}_sat.png", picture())
        write(root / "masks" / f"{name}_mask.png", labels())


TILES = [f"{city}_{row}_{col}" for city in ("ulm", "bonn", "kiel") for row in "01" for col in "01"]


def test_scenes_by_name(tmp_path, new):
    write_named(tmp_path / "data", TILES)
    recipe, _ = new()
    assert recipe.dataset.split.by == "scene"
    for part in open_source(recipe, None).samples.values():
        assert len({sample.id.split("_")[0] for sample in part}) == 1


def lists(tiles: list[str], written: str) -> dict[str, str]:
    parts = {"train": tiles[:6], "val": tiles[6:9], "test": tiles[9:]}
    return {n: "".join(f"{written.format(tile)}\n" for tile in part) for n, part in parts.items()}


@pytest.mark.parametrize(
    ("file", "written"),
    [
        ("{}.txt", "{}"),
        ("splits/{}_list.txt", "{}_sat.png"),
        ("{}.csv", "masks/{}_mask.png"),
    ],
)
def test_lists_are_taken_as_they_are(tmp_path, new, file, written):
    write_named(tmp_path / "data", TILES)
    for name, text in lists(TILES, written).items():
        path = tmp_path / "data" / file.format(name)
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    recipe, findings = new()
    assert recipe.dataset.split.train == file.format("train")
    assert counts(recipe) == {"train": 6, "val": 3, "test": 3}
    assert any("ulm" in line or "bonn" in line for line in findings["check"])  # torn scenes


def test_a_table_of_splits(tmp_path, new):
    write_named(tmp_path / "data", TILES)
    rows = [f"{i},{t},{('train', 'val', 'test')[i % 3]}" for i, t in enumerate(TILES)]
    (tmp_path / "data" / "my_split.csv").write_text("\n".join(["nr,tile,split", *rows]) + "\n")
    recipe, _ = new()
    samples = open_source(recipe, None).samples
    assert {s.id for s in samples["val"]} == set(TILES[1::3])


def test_lists_that_name_absent_samples_and_leave_some_out(tmp_path, new):
    write_named(tmp_path / "data", TILES)
    for name, text in lists(TILES[1:], "{}").items():
        (tmp_path / "data" / f"{name}.txt").write_text(text + f"gone_{name}\n")
    recipe, findings = new()
    assert recipe.dataset.split.absent == "skip"
    assert sum(counts(recipe).values()) == 11
    assert any("3 samples that are not here" in line for line in findings["check"])
    assert any("1 samples are in no list" in line for line in findings["check"])


def test_overlapping_lists_are_told_and_not_used(tmp_path, new):
    write_named(tmp_path / "data", TILES)
    for name in ("train", "val", "test"):
        (tmp_path / "data" / f"{name}.txt").write_text("\n".join(TILES))
    recipe, findings = new()
    assert recipe.dataset.split.by == "scene"
    assert any("twice" in line for line in findings["check"])


def test_tiles_that_touch_stay_together(tmp_path, new):
    for i in range(9):
        name = "abcdefghi"[i]
        for kind, pixels in (("images", picture()), ("masks", labels())):
            path = write(tmp_path / "data" / kind / f"{name}.tif", pixels)
            with rasterio.open(path, "r+") as raster:
                step = i * raster.width + (i // 3) * 1000
                raster.transform = raster.transform * rasterio.Affine.translation(step, 0)
    recipe, findings = new()
    for part in open_source(recipe, None).samples.values():
        assert {s.id for s in part} in ({"a", "b", "c"}, {"d", "e", "f"}, {"g", "h", "i"})
    assert any("touch on the ground" in line for line in findings["guessed"])


def test_a_random_split_is_warned_of(tmp_path, new):
    write_named(tmp_path / "data", list("abcdef"))
    recipe, findings = new()
    assert recipe.dataset.split.by == "fraction"
    assert any("random" in line for line in findings["check"])


# ------------------------------------------------------------------------------ messy folders


@pytest.fixture
def messy(tmp_path) -> Path:
    root = tmp_path / "data"
    for i in range(10):
        write(root / "images" / f"t_{i:02d}.tif", picture(4, "uint16"))
        write(root / "masks" / f"t_{i:02d}_label.tif", labels())
    write(root / "images" / "t_90.tif", picture(4, "uint16"))
    write(root / "masks" / "t_91_label.tif", labels())
    write(root / "masks" / "t_03_label.tif", labels(shape=(20, 50)))
    (root / "images" / "t_04.tif").write_bytes(b"II*\0 this is no TIFF")
    write(root / "images" / "t_05.tif", picture(3, "uint16"))
    write(root / "images" / "t_06.tif", picture(4, "uint8"))
    cut = root / "masks" / "t_07_label.tif"
    cut.write_bytes(cut.read_bytes()[:-1500])
    write(root / "preview.png", picture())
    (root / "readme.pdf").write_bytes(b"%PDF")
    (root / "older.zip").write_bytes(b"PK")
    return root


def test_whatever_does_not_fit_is_listed_and_the_rest_is_a_recipe(messy, new):
    recipe, findings = new()
    assert ids(recipe) == {"t_00", "t_01", "t_02", "t_06", "t_08", "t_09"}
    assert set(findings["left_out"]) == {"t_03", "t_04", "t_05", "t_07", "t_90", "t_91"}
    reasons = findings["left_out"]
    assert "size" in reasons["t_03"]
    assert "50 × 20" in reasons["t_03"]
    assert "cannot be read" in reasons["t_04"]
    assert "cannot be read" in reasons["t_07"]
    assert "4 bands" in reasons["t_05"]
    assert "no label" in reasons["t_90"]
    assert "no image" in reasons["t_91"]
    assert findings["strays"] == ["readme.pdf"]
    assert findings["archives"] == ["older.zip"]
    told = " ".join(findings["found"] + findings["check"])
    assert "preview.png" in told
    assert "uint8 in 1" in told


def test_what_was_found_stands_on_stderr_and_in_the_file(messy, tmp_path, capsys):
    assert main(["recipes", "new", "data", "mine.yaml"]) == 0
    streams = capsys.readouterr()
    assert streams.out == "mine.yaml\n"
    for heading in ("found:", "guessed:", "check:"):
        assert heading in streams.err.splitlines()
    assert "next: eosfm train-specialist mine.yaml" in streams.err
    text = (tmp_path / "mine.yaml").read_text()
    comments = " ".join(line.strip("# ") for line in text.splitlines() if "#" in line)
    assert "left out, no label: images/t_90.tif" in comments
    assert max(map(len, text.splitlines())) <= 100


# ------------------------------------------------------------------------------ files and errors


def test_name_and_place_of_the_recipe(tmp_path, new):
    write_named(tmp_path / "data", list("abc"))
    assert new()[1]["path"] == "data.yaml"
    recipe, findings = new("--name", "fields")
    assert (findings["path"], recipe.name) == ("fields.yaml", "fields")
    recipe, findings = new("some/where.yaml", "--name", "mine")
    assert (findings["path"], recipe.name) == ("some/where.yaml", "mine")


def test_a_recipe_works_from_anywhere(tmp_path, monkeypatch, new):
    write_named(tmp_path / "data", list("abc"))
    recipe, _ = new(folder=Path("data"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert sum(counts(recipe).values()) == 3


def test_a_recipe_that_is_there_is_kept(tmp_path, capsys, new):
    write_named(tmp_path / "data", list("abc"))
    (tmp_path / "data.yaml").write_text("mine")
    assert main(["recipes", "new", "data"]) == ExitCode.USAGE
    assert "--overwrite" in capsys.readouterr().err
    assert (tmp_path / "data.yaml").read_text() == "mine"
    new("--overwrite")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "There is no folder nowhere"),
        (["file.txt"], "is a file"),
        (["data", "recipe.txt"], ".yaml"),
        (["data", "--name", "a/b"], "'a/b' cannot name a recipe"),
        (["data", "a,b.yaml"], "'a,b' cannot name a recipe"),
        (["data", "--images", "s2"], "Found: images, masks"),
        (["data", "--masks", "mask"], "Did you mean 'masks'"),
        (["data", "--images", "images", "--masks", "images"], "both"),
    ],
)
def test_what_cannot_be_meant(tmp_path, capsys, arguments, said):
    (tmp_path / "file.txt").write_text("")
    write_named(tmp_path / "data", list("abc"))
    assert main(["recipes", "new", *arguments]) == ExitCode.USAGE
    assert said in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_told_with_the_way_to_name_another(tmp_path, capsys):
    write_named(tmp_path / "data", list("abc"))
    (tmp_path / "file").write_text("")
    assert main(["recipes", "new", "data", "file/mine.yaml"]) == ExitCode.FAILURE
    assert "recipes new FOLDER PLACE/RECIPE.yaml" in capsys.readouterr().err


def only_images(root: Path) -> None:
    for name in "abcd":
        write(root / f"{name}.tif", picture())


def nothing(root: Path) -> None:
    root.mkdir()


def packed(root: Path) -> None:
    root.mkdir()
    (root / "all.zip").write_bytes(b"PK")


def all_broken(root: Path) -> None:
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
        for name in "abcd":
            (root / folder / f"{name}.tif").write_bytes(b"II*\0")


def strangers(root: Path) -> None:
    for i in range(4):
        write(root / "images" / f"image{i}.tif", picture())
        write(root / "masks" / f"other{i + 7}.tif", labels())


def one_class(root: Path) -> None:
    write_pairs(root, [np.ones(SHAPE, np.uint8)] * 4)


def two_samples(root: Path) -> None:
    write_pairs(root, [labels()] * 2)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (nothing, "no rasters"),
        (packed, "Unpack all.zip"),
        (only_images, "neither label rasters nor class folders"),
        (all_broken, "can be read"),
        (strangers, "No image is called like a label"),
        (one_class, "one class only: 1"),
        (two_samples, "2 samples that can be used"),
    ],
)
def test_what_no_recipe_can_be_made_of(tmp_path, capsys, make, said):
    make(tmp_path / "data")
    assert main(["recipes", "new", "data"]) == ExitCode.DATA
    assert said in capsys.readouterr().err
    assert not (tmp_path / "data.yaml").exists()


def test_segmentation_asked_of_class_folders(tmp_path, capsys):
    for name in ("a", "b"):
        for i in range(3):
            write(tmp_path / "data" / name / f"{i}.png", picture())
    assert main(["recipes", "new", "data", "--task", "segmentation"]) == ExitCode.DATA
    assert "no label rasters" in capsys.readouterr().err


def test_images_asked_for_that_fit_no_label(tmp_path, capsys):
    write_named(tmp_path / "data", list("abc"))
    write(tmp_path / "data" / "other" / "elsewhere.png", picture())
    command = ["recipes", "new", "data", "--images", "images,other"]
    assert main(command) == ExitCode.DATA
    assert "--images other cannot be used" in capsys.readouterr().err


def test_class_folders_of_which_one_is_left(tmp_path, capsys):
    for name in ("a", "b"):
        for i in range(3):
            write(tmp_path / "data" / name / f"{i}.png", picture())
    for path in (tmp_path / "data" / "b").iterdir():
        path.write_bytes(b"")
    assert main(["recipes", "new", "data"]) == ExitCode.DATA
    assert "Two classes are the least" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["my data, [v2]", "top_potsdam_{id}", "Wälder", "1e3", "on"])
def test_odd_names_of_folders(tmp_path, new, name):
    write_named(tmp_path / name, list("abc"))
    recipe, _ = new("mine.yaml", folder=tmp_path / name)
    assert Path(recipe.dataset.root) == tmp_path / name
    assert recipe.title == name
    assert sum(counts(recipe).values()) == 3


@pytest.mark.slow
def test_a_drafted_recipe_trains(tmp_path, new):
    for i in range(N):
        side_by_side(tmp_path / "data", i)
    new()
    assert main(["train-specialist", "data.yaml", "--epochs", "1", "--set", "tile.size=32"]) == 0


# ------------------------------------------------------------------------------ words and places


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("S2L2A", "image"),
        ("JPEGImages", "image"),
        ("masks3", "label"),
        ("images_png", "image"),
        ("5_Labels_all", "label"),
        ("flood_label", "label"),
        ("LULC", "label"),
        ("forest", None),
        ("blue", None),
        ("unlabeled_train", None),
    ],
)
def test_what_names_say(name, role):
    assert role_of(name) == role


def test_sensors_and_splits_in_names():
    assert sensor_of("S1RTC") == "sentinel-1"
    assert sensor_of("my Landsat_8 tiles") == "landsat-8"
    assert sensor_of("class2") is None
    assert split_pattern("S2_training_tiles") == ("S2_{split}_tiles", "training")
    assert split_pattern("latest") is None


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30), st.integers(1, 9)), max_size=25))
def test_groups_are_those_of_comparing_every_pair(squares):
    rectangles = {i: ("", x, y, x + e, y + e) for i, (x, y, e) in enumerate(squares)}
    groups = {i: {i} for i in rectangles}
    for i, (_, left, bottom, right, top) in rectangles.items():
        for j, (_, left2, bottom2, right2, top2) in rectangles.items():
            if left <= right2 and left2 <= right and bottom <= top2 and bottom2 <= top:
                union = groups[i] | groups[j]
                for member in union:
                    groups[member] = union
    expected = {frozenset(group) for group in groups.values()}
    assert {frozenset(group) for group in touching_groups(rectangles)} == expected


# ------------------------------------------------------------------------------ real data


def test_real_sensors_in_parallel_folders(sample_data, new):
    recipe, _ = new(folder=sample_data("terramind_tiles56"))
    assert set(recipe.dataset.images) == {"s2l2a", "s1rtc"}
    assert [v for values in recipe.class_values for v in values] == [1, 2, 3, 4, 5, 6, 7, 9]
    assert counts(recipe) == {"train": 40, "val": 20, "test": 20}
    assert recipe.statistics["vv"].mean < 0


def test_real_images_without_georeference(sample_data, new):
    recipe, findings = new("--masks", "masks3", folder=sample_data("csmask_tiles128"))
    assert recipe.class_values == ((0,), (1,), (2,))
    assert counts(recipe) == {"train": 24, "val": 12, "test": 12}
    assert any("--masks masks" in line for line in findings["found"])
