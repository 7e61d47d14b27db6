"""Maps against references, and models on their data."""

from __future__ import annotations

import csv
import json
import os
import pty
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rasterio.transform import from_origin
from rasterio.warp import transform

from eosfm_cli.carbon.ledger import read_ledger
from eosfm_cli.commands.app import main
from eosfm_cli.manifest import read_manifest
from eosfm_cli.progress import Silent
from eosfm_cli.raster.comparison import count_pairs, laid_over, open_classes
from eosfm_cli.raster.geotiff import new_map
from eosfm_cli.raster.grid import Grid
from eosfm_cli.raster.layers import class_layer
from eosfm_cli.raster.residuals import Residuals
from eosfm_cli.recipe import ClassSpec
from eosfm_cli.run_dir import RunDir
from tests.rasters import write_tif
from tests.test_main_job import RECIPE, Project, only_run, write_scenes

CLASSES = tuple(
    ClassSpec(name=name, colour=colour)
    for name, colour in (("water", "#0000ff"), ("field", "#00ff00"), ("town", "#ff0000"))
)


def write_map(path: Path, labels: np.ndarray, like: Path) -> Path:
    """A map as `predict` writes it, with names and colours, on another raster's grid."""
    with rasterio.open(like) as raster:
        grid = Grid.of(raster)
    with new_map(path, grid, class_layer(CLASSES, "t"), tags={"EOSFM_RECIPE": "tiny"}) as rows:
        rows.append(labels[None].astype(np.uint8))
    return path


def labels_like(shape: tuple[int, int] = (40, 50), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 3, shape).astype(np.uint8)


def compared(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[dict[str, Any], str]:
    assert main(["evaluate", *words, "--json"]) == 0
    out, err = capsys.readouterr()
    return json.loads(out), err


def refused(capsys: pytest.CaptureFixture[str], *words: str, code: int) -> str:
    assert main(["evaluate", *words]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    return err


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[np.ndarray, np.ndarray]:
    """`map.tif` and `truth.tif` on one grid; a fifth of the pixels differ."""
    monkeypatch.chdir(tmp_path)
    truth = labels_like()
    found = np.where(np.random.default_rng(1).random(truth.shape) < 0.2, (truth + 1) % 3, truth)
    write_tif(Path("truth.tif"), truth)
    write_map(Path("map.tif"), found, Path("truth.tif"))
    return found, truth


# ------------------------------------------------------------------------------ maps


def test_a_map_against_a_reference_on_its_grid(
    pair: tuple[np.ndarray, np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    found, truth = pair
    result, err = compared(capsys, "map.tif", "--reference", "truth.tif")
    (stage,) = read_ledger(Path("experiments")).records
    assert (stage.command, stage.name) == ("evaluate", "map.tif")
    matrix = np.array([[((truth == a) & (found == p)).sum() for p in range(3)] for a in range(3)])
    assert result["confusion"] == matrix.tolist()
    assert [c["name"] for c in result["classes"]] == ["water", "field", "town"]
    water = result["classes"][0]
    assert water["recall"] == pytest.approx(matrix[0, 0] / matrix[0].sum())
    assert water["precision"] == pytest.approx(matrix[0, 0] / matrix[:, 0].sum())
    assert result["metrics"]["Pixel_Accuracy"] == pytest.approx((found == truth).mean())
    assert (result["unit"], result["split"], result["left_out"]) == ("pixels", None, {})
    assert "same grid" in err


def test_the_files_say_what_the_terminal_says(
    pair: tuple[np.ndarray, np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "map.tif", "--reference", "truth.tif", "-o", "out/deep"]) == 0
    out, err = capsys.readouterr()
    folder = Path("out/deep")
    told = json.loads((folder / "map_evaluation.json").read_text())
    with (folder / "map_evaluation.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == ["water", "field", "town"]
    assert float(rows[1]["IoU"]) == told["classes"][1]["iou"]
    assert int(rows[2]["reference pixels"]) == told["classes"][2]["reference"]
    with (folder / "map_confusion.csv").open(newline="") as file:
        heading, *counts = csv.reader(file)
    assert heading == ["reference", "water", "field", "town"]
    assert [list(map(int, row[1:])) for row in counts] == told["confusion"]
    assert (folder / "map_confusion.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in folder.iterdir()) == [
        "map_confusion.csv",
        "map_confusion.png",
        "map_evaluation.csv",
        "map_evaluation.json",
    ]
    assert re.search(rf"^field +{told['classes'][1]['iou']:.3f} ", out, re.MULTILINE)
    assert re.search(rf"^mean +{told['metrics']['mIoU']:.3f} ", out, re.MULTILINE)
    assert "% of each reference class's pixels:" in out
    assert re.search(r"^reference \\ predicted +water +field +town$", out, re.MULTILINE)
    assert "wrote out/deep/map_confusion.png" in err


def test_what_either_lacks_is_left_out_and_said(
    pair: tuple[np.ndarray, np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    found, truth = pair
    found, truth = found.copy(), truth.copy()
    found[:3] = 255
    truth[2:5] = 200
    truth[10, :7] = 9
    write_map(Path("map.tif"), found, Path("truth.tif"))
    write_tif(Path("truth.tif"), truth, nodata=200)
    result, err = compared(capsys, "map.tif", "--reference", "truth.tif")
    assert result["left_out"] == {
        "no value in the map": 150,
        "no value in the reference": 100,
        "reference value 9, no class of the map": 7,
    }
    both = (found != 255) & (truth < 3)
    assert sum(map(sum, result["confusion"])) == both.sum()
    assert result["metrics"]["Pixel_Accuracy"] == pytest.approx((found == truth)[both].mean())
    assert "7 (reference value 9, no class of the map)" in err


@pytest.mark.parametrize("nodata", [None, 250])
@pytest.mark.parametrize("crs", ["EPSG:32631", "EPSG:4326"])
def test_another_grid_is_read_onto_the_maps_by_nearest_neighbour(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    crs: str,
    nodata: int | None,
) -> None:
    """The reference is coarser, and covers the map's lower right part only."""
    monkeypatch.chdir(tmp_path)
    write_tif(Path("like.tif"), np.zeros((60, 80), np.uint8))
    coarse = labels_like((20, 30))
    east, north, pixel = 500_203.0, 4_599_797.0, 25.0
    if crs == "EPSG:4326":
        (east,), (north,) = transform("EPSG:32631", crs, [east], [north])
        pixel = 25.0 / 111_320
    with rasterio.open(
        "truth.tif",
        "w",
        driver="GTiff",
        count=1,
        height=20,
        width=30,
        dtype="uint8",
        nodata=nodata,
        crs=crs,
        transform=from_origin(east, north, pixel, pixel),
    ) as raster:
        raster.write(coarse, 1)
    with rasterio.open("like.tif") as raster:
        cols, rows = np.meshgrid(np.arange(80) + 0.5, np.arange(60) + 0.5)
        x, y = raster.bounds.left + 10 * cols.ravel(), raster.bounds.top - 10 * rows.ravel()
    x, y = map(np.array, transform("EPSG:32631", crs, list(x), list(y)))
    col, row = (x - east) / pixel, (north - y) / pixel
    inside = (col >= 0) & (col < 30) & (row >= 0) & (row < 20)
    wanted = np.where(
        inside, coarse[row.astype(int).clip(0, 19), col.astype(int).clip(0, 29)], 0
    ).reshape(60, 80)
    inside = inside.reshape(60, 80)
    write_map(Path("map.tif"), wanted, Path("like.tif"))
    result, err = compared(capsys, "map.tif", "--reference", "truth.tif")
    assert "by nearest neighbour" in err
    counted = sum(map(sum, result["confusion"]))
    # GDAL moves by fractions of a pixel where it interpolates between systems
    slack = 0 if crs == "EPSG:32631" else 0.03 * inside.sum()
    assert abs(counted - inside.sum()) <= slack
    assert abs(result["left_out"]["no value in the reference"] - (~inside).sum()) <= slack
    assert result["metrics"]["Pixel_Accuracy"] >= (1 if slack == 0 else 0.97)


def test_a_raster_larger_than_a_window_is_counted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    truth = labels_like((2100, 2500))
    write_tif(Path("truth.tif"), truth)
    write_map(Path("map.tif"), truth[::-1], Path("truth.tif"))
    result, _ = compared(capsys, "map.tif", "--reference", "truth.tif")
    assert sum(map(sum, result["confusion"])) == truth.size
    assert result["metrics"]["Pixel_Accuracy"] == pytest.approx((truth[::-1] == truth).mean())


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(-5, 2000), st.integers(-300, 5)), min_size=1, max_size=30))
def test_every_pair_of_values_is_counted(
    tmp_path_factory: pytest.TempPathFactory, pixels: list[tuple[int, int]]
) -> None:
    folder = tmp_path_factory.mktemp("values")
    values, truth = np.array(pixels, np.int16).T[:, None, :]
    write_tif(folder / "map.tif", values)
    write_tif(folder / "truth.tif", truth.astype(np.float32))
    with (
        open_classes(folder / "map.tif") as target,
        open_classes(folder / "truth.tif") as known,
        laid_over(known, target) as (reference, _),
        Silent().step("", 1) as step,
    ):
        found = count_pairs(target, reference, step)
    assert found.pairs == Counter(pixels)


def test_values_without_names_stand_for_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_tif(Path("map.tif"), np.array([[7, 7, 12, 12]], np.int16))
    write_tif(Path("truth.tif"), np.array([[7, 7, 12, -3]], np.float32))
    result, err = compared(capsys, "map.tif", "--reference", "truth.tif")
    assert [c["name"] for c in result["classes"]] == ["-3", "7", "12"]
    assert result["confusion"] == [[0, 0, 1], [0, 2, 0], [0, 0, 1]]
    assert "values stand for themselves" in err


def test_classes_numbered_otherwise_are_matched_by_name(
    pair: tuple[np.ndarray, np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    found, _ = pair
    path = write_map(Path("other.tif"), (found + 1) % 3, Path("truth.tif"))
    names = path.with_name("other.tif.aux.xml")
    text = names.read_text()
    for old, new in (("water", "A"), ("field", "B"), ("town", "C")):
        text = text.replace(old, new)
    for old, new in (("A", "town"), ("B", "water"), ("C", "field")):
        text = text.replace(f">{old}<", f">{new}<")
    names.write_text(text)
    result, err = compared(capsys, "map.tif", "--reference", "other.tif")
    assert result["metrics"]["Pixel_Accuracy"] == 1
    assert "matched by name" in err
    names.write_text(text.replace("town", "forest"))
    _, err = compared(capsys, "map.tif", "--reference", "other.tif")
    assert "warning: classes are matched by number" in err
    assert "0 is water in the map and forest in other.tif" in err


def write_heights(path: Path, heights: np.ndarray, unit: str | None = None, **changes: Any) -> Path:
    write_tif(path, heights.astype(np.float32), **changes)
    with rasterio.open(path, "r+") as raster:
        raster.units = (unit,)
    return path


def test_maps_of_values_are_compared_as_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    truth = rng.gamma(2, 10, (40, 50)).astype(np.float32)
    found = truth + rng.normal(1, 2, truth.shape).astype(np.float32)
    found[:2], truth[1:4] = -9999, np.nan
    write_heights(Path("heights.tif"), found, "m", nodata=-9999)
    write_heights(Path("truth.tif"), truth, "dm")
    result, err = compared(capsys, "heights.tif", "--reference", "truth.tif")
    both = (found != -9999) & np.isfinite(truth)
    error = found[both].astype(float) - truth[both]
    assert result["metrics"]["RMSE"] == pytest.approx(np.sqrt((error**2).mean()))
    assert result["metrics"]["Bias"] == pytest.approx(error.mean())
    assert result["values"]["pixels"] == both.sum()
    assert result["left_out"] == {"no value in the map": 100, "no value in the reference": 100}
    assert result["values"]["reference"]["unit"] == "m"
    assert "heights.tif holds values, no classes" in err
    assert "warning: heights.tif is in m and truth.tif in dm: compared as they are" in err
    assert main(["evaluate", "heights.tif", "--reference", "truth.tif"]) == 0
    out, err = capsys.readouterr()
    assert re.search(rf"^{result['metrics']['RMSE']:#.4g} m +", out, re.MULTILINE)
    assert "wrote heights_scatter.png" in err


@pytest.mark.parametrize("nodata", [None, 0.0])
def test_a_finer_reference_is_averaged_onto_a_map_of_values(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    nodata: float | None,
) -> None:
    """Four reference pixels lie in each pixel of the map; those without a value do not count."""
    monkeypatch.chdir(tmp_path)
    fine = np.random.default_rng(0).uniform(1, 30, (40, 60)).astype(np.float32)
    if nodata is not None:
        fine[::2, ::2] = nodata
    known = np.where(fine == nodata, np.nan, fine).reshape(20, 2, 30, 2)
    write_heights(Path("map.tif"), np.nanmean(known, axis=(1, 3)) + 0.5)
    write_heights(Path("truth.tif"), fine, nodata=nodata)
    with rasterio.open("map.tif") as raster:
        left, top, pixel = raster.bounds.left, raster.bounds.top, raster.res[0]
    with rasterio.open("truth.tif", "r+") as raster:
        raster.transform = from_origin(left, top, pixel / 2, pixel / 2)
    result, err = compared(capsys, "map.tif", "--reference", "truth.tif")
    assert "by the mean of what lies in each pixel" in err
    assert result["values"]["pixels"] == 600
    assert result["metrics"]["MAE"] == pytest.approx(0.5, abs=1e-5)
    assert result["metrics"]["Bias"] == pytest.approx(0.5, abs=1e-5)


def test_values_that_a_recipe_ignores_stay_out_of_the_mean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    fine = np.full((40, 60), 50, np.uint16)
    fine[::2, ::2] = 65535
    write_tif(Path("truth.tif"), fine)
    write_heights(Path("map.tif"), np.full((20, 30), 6.0))
    with rasterio.open("map.tif") as raster:
        left, top, pixel = raster.bounds.left, raster.bounds.top, raster.res[0]
    with rasterio.open("truth.tif", "r+") as raster:
        raster.transform = from_origin(left, top, pixel / 2, pixel / 2)
    recipe = {
        **{key: RECIPE[key] for key in ("title", "dataset", "tile")},
        "task": "regression",
        "target": {"name": "height", "unit": "m"},
    }
    masks = {"path": "masks/{id}.tif", "scale": 0.1, "offset": 1, "ignore": [65535]}
    recipe["dataset"] = {**RECIPE["dataset"], "masks": masks}
    Path("heights.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    words = ["map.tif", "--reference", "truth.tif", "--classes", "heights.yaml"]
    result, _ = compared(capsys, *words)
    assert result["values"]["reference"]["max"] == pytest.approx(6)
    assert result["metrics"]["RMSE"] == pytest.approx(0, abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.floats(-1e4, 1e6), st.floats(-1e4, 1e6)), max_size=20),
        min_size=1,
        max_size=5,
    ).filter(lambda parts: sum(map(len, parts)) > 0)
)
@example([[(0.0, 0.0), (1.0, 2e-161)]])  # whose variance is hardly a number
def test_residuals_are_those_of_all_parts_together(
    parts: list[list[tuple[float, float]]],
) -> None:
    residuals = Residuals(sample=7)
    for part in parts:
        pairs = np.array(part).reshape(-1, 2)
        residuals.add(pairs[:, 0], pairs[:, 1])
    predicted, known = np.array([pair for part in parts for pair in part]).T
    error = predicted - known
    metrics = residuals.metrics()
    assert residuals.count == len(error)
    assert metrics["RMSE"] == pytest.approx(np.sqrt((error**2).mean()))
    assert metrics["MAE"] == pytest.approx(np.abs(error).mean())
    assert residuals.bias == pytest.approx(error.mean(), abs=1e-6)
    assert residuals.known == pytest.approx((known.min(), known.mean(), known.max()), abs=1e-6)
    drawn = list(zip(*residuals.sample, strict=True))
    assert len(drawn) == min(7, len(error))
    assert not Counter(drawn) - Counter(zip(predicted, known, strict=True))


def recipe_file(path: Path, **masks: Any) -> str:
    values = masks.pop("values", [[10], [20, 21], [30]])
    recipe = {
        **RECIPE,
        "classes": [{**c, "values": v} for c, v in zip(RECIPE["classes"], values, strict=True)],
    }
    recipe["dataset"] = {**RECIPE["dataset"], "masks": {"path": "masks/{id}.tif", **masks}}
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return str(path)


def test_a_recipe_says_how_the_reference_writes_classes(
    pair: tuple[np.ndarray, np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    found, _ = pair
    written = np.array([10, 20, 30], np.uint8)[found]
    written[:4] += found[:4] == 1  # 21 is field too
    written[4] = 99
    written[5] = 7
    write_tif(Path("truth.tif"), np.stack([np.zeros_like(written), written]))
    recipe = recipe_file(Path("mine.yaml"), band=2, ignore=[99])
    result, _ = compared(capsys, "map.tif", "--reference", "truth.tif", "--classes", recipe)
    assert result["metrics"]["Pixel_Accuracy"] == 1
    assert sum(map(sum, result["confusion"])) == found.size - 100
    assert result["left_out"] == {
        "reference value 99, no class of the map": 50,
        "reference value 7, no class of the map": 50,
    }


def test_a_reference_in_colours(
    pair: tuple[np.ndarray, np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    found, _ = pair
    palette = np.array([(0, 0, 255), (0, 250, 3), (255, 0, 0)], np.uint8)
    colours = palette[found].transpose(2, 0, 1)
    colours[:, 0] = 17
    write_tif(Path("truth.tif"), colours)
    recipe = recipe_file(
        Path("mine.yaml"),
        encoding="colours",
        tolerance=5,
        values=[["#0000ff"], ["#00ff00"], ["#ff0000"]],
    )
    result, _ = compared(capsys, "map.tif", "--reference", "truth.tif", "--classes", recipe)
    assert result["metrics"]["Pixel_Accuracy"] == 1
    assert result["left_out"] == {"reference value #111111, no class of the map": 50}
    said = refused(capsys, "map.tif", "--reference", "truth.tif", code=3)
    assert "it has 3 bands" in said
    assert "--classes" in said


def write_elsewhere(path: Path) -> None:
    write_tif(path, labels_like())
    with rasterio.open(path, "r+") as raster:
        raster.transform = from_origin(900_000, 4_600_000, 10, 10)


def write_unplaced(path: Path) -> None:
    with rasterio.open(
        path, "w", driver="GTiff", count=1, height=9, width=9, dtype="uint8"
    ) as raster:
        raster.write(np.zeros((9, 9), np.uint8), 1)


def write_cut_short(path: Path) -> None:
    write_tif(path, labels_like((400, 500)))
    path.write_bytes(path.read_bytes()[:3000])


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (write_elsewhere, "do not overlap"),
        (write_unplaced, "does not say where its pixels lie"),
        (write_cut_short, "cannot be read"),
        (lambda path: path.write_text("text"), "cannot be read as a raster"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: None, "There is no file"),
        (lambda path: write_tif(path, labels_like() + np.float32(0.5)), "it holds fractions"),
        (lambda path: write_tif(path, labels_like() + np.uint8(9)), "no class in common"),
        (lambda path: write_tif(path, np.full((40, 50), 4, np.uint8), nodata=4), "both map.tif"),
        (lambda path: write_tif(path, np.full((40, 50), np.nan, np.float32)), "both map.tif"),
        (
            lambda path: write_tif(path, np.full((40, 50), 3e38, np.float32)),
            "no raster of classes",
        ),
    ],
)
def test_references_that_cannot_be_used_are_refused(
    pair: tuple[np.ndarray, np.ndarray],
    capsys: pytest.CaptureFixture[str],
    write: Callable[[Path], None],
    said: str,
) -> None:
    write(Path("odd.tif"))
    before = set(Path().rglob("*"))
    assert said in refused(capsys, "map.tif", "--reference", "odd.tif", code=3)
    left = {path.parts[0] for path in set(Path().rglob("*")) - before}
    assert left <= {"experiments"}  # what looking at them took


def test_too_many_values_are_no_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    heights = np.arange(90_000, dtype=np.int32).reshape(300, 300)
    write_tif(Path("heights.tif"), heights)
    write_tif(Path("map.tif"), (heights % 3).astype(np.uint8))
    said = refused(capsys, "map.tif", "--reference", "heights.tif", code=3)
    assert "heights.tif is no raster of classes" in said
    write_tif(Path("heights.tif"), heights % 400)
    said = refused(capsys, "map.tif", "--reference", "heights.tif", code=3)
    assert "400 different values" in said


def test_a_mask_of_the_same_size_that_lies_nowhere_is_compared_pixel_by_pixel(
    pair: tuple[np.ndarray, np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    found, _ = pair
    with rasterio.open(
        "plain.png", "w", driver="PNG", count=1, height=40, width=50, dtype="uint8"
    ) as r:
        r.write(found.astype(np.uint8), 1)
    result, err = compared(capsys, "map.tif", "--reference", "plain.png")
    assert result["metrics"]["Pixel_Accuracy"] == 1
    assert "plain.png does not say where it lies: compared pixel by pixel" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--reference", "truth.tif"], "needs a map"),
        (["map.tif", "--reference", "truth.tif", "--split", "val"], "--split cannot go"),
        (["map.tif", "--reference", "truth.tif", "--set", "a=1"], "--set cannot go"),
        (["map.tif", "--classes", "mini"], "--classes goes with --reference"),
        (["map.tif", "--reference", "truth.tif", "--classes", "mini"], "not those of mini"),
        (["map.tif", "--reference", "truth.tif", "--classes", "mni"], "mini"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    pair: tuple[np.ndarray, np.ndarray],
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    said: str,
) -> None:
    assert said in refused(capsys, *words, code=2)


def test_a_narrow_terminal_shows_the_most_confused_pairs(
    pair: tuple[np.ndarray, np.ndarray],
) -> None:
    names = Path("map.tif.aux.xml")
    for name in ("water", "field", "town"):
        names.write_text(names.read_text().replace(name, f"{name} with a long name"))
    main_end, terminal = pty.openpty()
    words = ["evaluate", "map.tif", "--reference", "truth.tif"]
    done = subprocess.run(
        [sys.executable, "-m", "eosfm_cli", *words],
        stdout=terminal,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "COLUMNS": "72", "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    said = os.read(main_end, 100_000).decode()
    os.close(main_end)
    os.close(terminal)
    assert done.returncode == 0
    assert "most often taken for another" in said
    assert "reference \\ predicted" not in said
    assert max(len(re.sub(r"\x1b\[[\d;]*m", "", line)) for line in said.splitlines()) <= 72


# ------------------------------------------------------------------------------ models


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with two specialists and a fit."""
    folder = tmp_path_factory.mktemp("evaluated")
    write_scenes(folder / "data" / "tiny")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(RECIPE, sort_keys=False))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train-specialist", "tiny-rgb.yaml", "tiny-s1.yaml"]) == 0
        assert main(["fit-ensemble", "tiny.yaml"]) == 0
    return folder


@pytest.fixture
def project(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Project:
    """A copy of the made project, to change."""
    folder = tmp_path / "copy"
    shutil.copytree(made, folder)
    monkeypatch.chdir(folder)
    capsys.readouterr()
    return Project(folder, capsys)


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [("fit", "tiny", []), ("train", "tiny-s1", ["tiny-s1", "--batch-size", "3"])],
)
def test_the_test_split_gives_the_summarys_scores(
    project: Project, kind: str, name: str, words: list[str]
) -> None:
    run = only_run(project.folder, kind, name)
    result = project.json("evaluate", *words)
    assert Path(result["subject"]).absolute() == run.path
    metrics = run.read_summary()["metrics"]
    for metric in ("mIoU", "mIoU_Micro", "F1_Score", "Accuracy", "Pixel_Accuracy"):
        assert result["metrics"][metric] == pytest.approx(metrics[metric], abs=1e-6), metric
    for one in result["classes"]:
        assert (one["iou"] or 0) == pytest.approx(metrics[f"IoU_{one['name']}"], abs=1e-6)
        recall = metrics[f"Class_Accuracy_{one['name']}"]
        assert (one["recall"] or 0) == pytest.approx(recall, abs=1e-6)
    assert sum(map(sum, result["confusion"])) == 2 * 32 * 64
    for key in ("json", "csv", "confusion_csv", "png"):
        assert Path(result[key]).absolute().parent == run.path
    assert result["cost"]["seconds"] > 0
    assert project.json("emissions")["rows"][-1]["command"] == "evaluate"


def test_bf16_is_measured_against_32_bits(project: Project) -> None:
    plain = project.json("evaluate", "tiny")
    assert plain["change"] is None
    result = project.json("evaluate", "tiny", "--precision", "bf16")
    change = result["change"]
    assert (change["precision"], change["metric"]) == ("bf16", "mIoU")
    assert change["in_32_bits"] == pytest.approx(plain["metrics"]["mIoU"], abs=1e-6)
    assert change["found"] == result["metrics"]["mIoU"]
    assert 0 <= change["share_changed"] < 0.2
    said = project.run("evaluate", "tiny", "--precision", "bf16")
    assert f"mIoU: {change['found']:.5f} in bf16, {change['in_32_bits']:.5f} in 32 bits" in said
    refused = project.run("evaluate", "tiny-s1", "--precision", "bf16", code=2)
    assert "--precision is for fitted models" in refused


def test_other_data_with_the_same_classes_in_another_order(project: Project) -> None:
    first = project.json("evaluate", "--split", "val")
    recipe = {**RECIPE, "classes": [{**c, "values": [i]} for i, c in enumerate(RECIPE["classes"])]}
    recipe["classes"] = recipe["classes"][::-1]
    recipe["dataset"] = {**RECIPE["dataset"], "split": {**RECIPE["dataset"]["split"]}}
    recipe["dataset"]["split"] |= {"val": ["d"], "test": ["c"]}
    Path("turned.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    second = project.json("evaluate", "--recipe", "turned.yaml", "--set", "fit.workers=0")
    assert second["confusion"] == first["confusion"]
    assert [c["name"] for c in second["classes"]] == ["water", "field", "town"]
    names = sorted(p.name for p in Path(first["subject"]).glob("*evaluation*.json"))
    assert names == ["evaluation-turned.json", "evaluation-val.json"]


def test_other_classes_tasks_and_bands_are_refused(project: Project) -> None:
    recipe = {**RECIPE, "classes": [*RECIPE["classes"][:2], {"name": "city"}]}
    Path("other.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    said = project.run("evaluate", "--recipe", "other.yaml", code=2)
    assert re.search(r"only in the model: town\n.*only in other: city", said)
    recipe = {**RECIPE, "variants": {"all": {}}}
    recipe["dataset"] = {**RECIPE["dataset"], "images": {"s1": RECIPE["dataset"]["images"]["s1"]}}
    Path("radar.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    said = project.run("evaluate", "--recipe", "radar.yaml", code=3)
    assert "lacks bands that the model takes: blue, green, red, nir" in said
    said = project.run("evaluate", "--set", "bands=[red]", code=2)
    assert "changes nothing here" in said


def test_runs_that_have_nothing_to_measure_are_refused(project: Project) -> None:
    assert "Did you mean 'tiny-s1'" in project.run("evaluate", "tiny-s2", code=3)
    assert "There is no completed run" in project.run("evaluate", "--experiments", "x", code=3)
    fit = only_run(project.folder, "fit", "tiny")
    fit.model.unlink()
    said = project.run("evaluate", str(fit.path), code=3)
    assert f"eosfm fit-ensemble --resume {fit.path}" in said
    specialist = only_run(project.folder, "train", "tiny-s1")
    specialist.best.write_bytes(specialist.best.read_bytes()[:-500])
    assert "best.ckpt" in project.run("evaluate", "tiny-s1", code=3)
    said = project.run("evaluate", str(fit.path.parent), code=3)
    assert "neither a fitted model nor a checkpoint" in said
    assert "--reference" in project.run("evaluate", "data/tiny/masks/a-1.tif", code=3)
    said = project.run("evaluate", "tiny-rgb", "--data-root", "elsewhere", code=3)
    assert "--data-root" in said


def pruned(project: Project, *words: str) -> dict[str, Any]:
    run = only_run(project.folder, "fit", "tiny")
    return project.json("prune", str(run.path), "--exclude", "tiny-s1", "--measure", *words)


def test_a_pruned_model_is_measured_on_the_data_of_its_fit(project: Project) -> None:
    run = only_run(project.folder, "fit", "tiny")
    path = pruned(project)["path"]
    whole = project.json("evaluate", str(run.path))
    said = project.run("evaluate", path)
    assert "pruned: without tiny-s1" in said
    assert re.search(r"^  tiny-rgb ", said, re.MULTILINE)
    assert not re.search(r"^  tiny-s1 ", said, re.MULTILINE)
    assert f"next: eosfm predict scene.tif --model {path}" in said
    found = json.loads((run.path / "evaluation-model-pruned.json").read_text())
    assert found["metrics"]["mIoU"] == pytest.approx(read_manifest(Path(path)).metrics["mIoU"])
    assert json.loads((run.path / "evaluation.json").read_text()) == whole
    assert (found["subject"], found["split"]) == (path, "test")


def test_a_model_away_from_its_run_is_measured_on_the_recipe_that_is_named(
    project: Project,
) -> None:
    Path("elsewhere").mkdir()
    beside = pruned(project)["path"]
    path = pruned(project, "--output", "elsewhere/small.safetensors")["path"]
    said = project.run("evaluate", path, code=3)
    assert "was fitted to 'tiny'" in said
    assert "--recipe FILE.yaml" in said
    found = project.json("evaluate", path, "--recipe", "tiny.yaml")
    assert found["metrics"] == project.json("evaluate", beside)["metrics"]
    assert found["csv"] == "elsewhere/evaluation-small-tiny.csv"
    assert "log.txt" not in {file.name for file in Path("elsewhere").iterdir()}
    other = {**RECIPE, "classes": [*RECIPE["classes"][:2], {"name": "city"}]}
    Path("other.yaml").write_text(yaml.safe_dump(other, sort_keys=False))
    assert "only in the model: town" in project.run(
        "evaluate", path, "--recipe", "other.yaml", code=2
    )
    assert "There is no file elsewhere/none.safetensors" in project.run(
        "evaluate", "elsewhere/none.safetensors", code=3
    )
    project.run("export")
    said = project.run("evaluate", "experiments/ensemble.safetensors", code=3)
    assert "is an ensemble of specialists, no fitted model" in said
    assert "eosfm fit-ensemble RECIPE --ensemble experiments/ensemble.safetensors" in said


def test_weights_that_are_no_numbers_are_refused(project: Project) -> None:
    run = only_run(project.folder, "train", "tiny-s1")
    content = torch.load(run.best, weights_only=True)
    for weight in content["state_dict"].values():
        if weight.is_floating_point():
            weight.fill_(float("nan"))
    torch.save(content, run.best)
    assert "scores that are no numbers" in project.run("evaluate", "tiny-s1", code=3)
    assert not (run.path / "evaluation.json").exists()


def test_an_unfinished_run_is_measured_when_it_is_named(project: Project) -> None:
    run = only_run(project.folder, "train", "tiny-rgb")
    run.write_summary(state="interrupted")
    said = project.run("evaluate", str(run.path))
    assert "warning: this run is not finished (interrupted)" in said
    assert "next: eosfm export" in said


def test_a_classifier_is_scored_by_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for index, name in enumerate(("dark", "light")):
            for number in range(3):
                pixels = rng.normal(100 * index, 10, (3, 32, 32)).astype(np.float32)
                write_tif(tmp_path / "data/shades" / split / name / f"{number}.tif", pixels)
    images = {"rgb": {"path": "{split}/{class}/{id}.tif", "bands": ["red", "green", "blue"]}}
    recipe = {
        "title": "Shades",
        "task": "classification",
        "dataset": {"root": "shades", "images": images, "split": {"by": "folder"}},
        "classes": [{"name": "dark"}, {"name": "light"}],
        "tile": {"size": 32},
        "training": RECIPE["training"] | {"epochs": 1},
    }
    (tmp_path / "shades.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    monkeypatch.chdir(tmp_path)
    shades = Project(tmp_path, capsys)
    shades.run("train-specialist", "shades.yaml")
    result = shades.json("evaluate")
    metrics = RunDir(Path(result["subject"])).read_summary()["metrics"]
    for metric in ("Accuracy", "Accuracy_Micro", "F1_Score", "Precision", "Recall"):
        assert result["metrics"][metric] == pytest.approx(metrics[metric], abs=1e-6), metric
    assert (result["unit"], sum(map(sum, result["confusion"]))) == ("samples", 6)
    said = shades.run("evaluate")
    assert re.search(r"class +F1 +precision +recall +samples", said)
