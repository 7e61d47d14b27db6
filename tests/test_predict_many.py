"""Many scenes at once, runs that stop, and what a run would take: through the command line."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

from eosfm_cli.carbon.ledger import read_ledger
from eosfm_cli.commands.app import main
from eosfm_cli.progress import Silent
from eosfm_cli.raster.spool import begun
from eosfm_cli.raster.windows import plan_windows
from eosfm_cli.results import Cost
from eosfm_cli.workflows.expectation import Expectation
from tests.fits import BANDS, tiny_recipe, write_fit


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a fitted model of random weights."""
    folder = tmp_path_factory.mktemp("project")
    write_fit(folder / "experiments" / "fit" / "tiny" / "20260101-000000", tiny_recipe())
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to map in, with the model of `made`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EOSFM_EXPERIMENTS", str(made / "experiments"))
    monkeypatch.setenv("EOSFM_PROGRAMS", "off")
    return tmp_path


def scene(path: Path, height: int = 40, width: int = 50, seed: int = 0) -> Path:
    """A scene with all bands of the model."""
    rng = np.random.default_rng(seed)
    values = rng.normal(1000, 300, (6, height, width))
    values[4:] = rng.normal(-10, 5, (2, height, width))
    return write(path, values)


def write(path: Path, values: np.ndarray, bands: Sequence[str] = BANDS, west: float = 5e5) -> Path:
    path.parent.mkdir(exist_ok=True)
    count, height, width = values.shape
    with rasterio.open(
        path, "w", driver="GTiff", count=count, height=height, width=width, dtype="float32",
        crs="EPSG:32631", transform=from_origin(west, 4.6e6, 10, 10),
    ) as dataset:  # fmt: skip
        dataset.write(values.astype(np.float32))
        dataset.descriptions = tuple(bands)
    return path


def run(*words: object, code: int = 0) -> None:
    assert main(["predict", *map(str, words)]) == code


def result(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> Any:
    """What a run says with `--json`."""
    capsys.readouterr()
    run(*words, "--json", code=code)
    return json.loads(capsys.readouterr().out)


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as dataset:
        return dataset.read()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --------------------------------------------------------------------------- many scenes


def test_many_scenes_go_through_one_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(3):
        scene(folder / "in" / f"s{number}.tif", seed=number)
    found = result(capsys, "in", "--output", "out/", "--no-quicklook")
    assert [entry["state"] for entry in found["results"]] == ["mapped"] * 3
    assert all(entry["cost"]["energy_kwh"] > 0 for entry in found["results"])
    assert [Path(entry["output"]).name for entry in found["results"]] == [
        "s0_pred.tif", "s1_pred.tif", "s2_pred.tif",
    ]  # fmt: skip
    run("in/s1.tif", "--output", "alone.tif", "--no-quicklook")
    np.testing.assert_array_equal(read(folder / "out/s1_pred.tif"), read(folder / "alone.tif"))


def test_one_bad_scene_does_not_stop_the_others(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scene(folder / "a.tif")
    (folder / "b.tif").write_text("no raster")
    write(folder / "c.tif", np.ones((1, 9, 9)), ["red"])
    scene(folder / "d.tif", seed=1)
    found = result(capsys, "a.tif", "b.tif", "c.tif", "d.tif", "gone.tif", code=1)["results"]
    assert [entry["state"] for entry in found] == ["mapped", "failed", "failed", "mapped", "failed"]
    assert "b.tif cannot be read as a raster" in found[1]["error"]["message"]
    assert found[1]["error"]["exit_code"] == 3
    assert "lacks" in found[2]["error"]["message"]
    assert (folder / "d_pred.tif").exists()
    assert not (folder / "b_pred.tif").exists()
    run("a.tif", "b.tif", "d.tif", code=1)
    out, err = capsys.readouterr()
    assert re.search(r"^a\.tif +there +a_pred\.tif", out, re.MULTILINE)
    assert "2 there, 1 failed" in out
    assert "b.tif cannot be read as a raster" in err


def test_a_single_bad_scene_is_its_own_error(folder: Path) -> None:
    (folder / "b.tif").write_text("no raster")
    run("b.tif", code=3)


def test_finished_maps_are_not_made_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene(folder / "a.tif")
    run("a.tif")
    before = (folder / "a_pred.tif").stat().st_mtime_ns
    scene(folder / "b.tif")
    found = result(capsys, "a.tif", "b.tif")["results"]
    assert [entry["state"] for entry in found] == ["there", "mapped"]
    assert result(capsys, "a.tif", "--resume")["state"] == "there"
    run("a.tif", code=2)
    assert (folder / "a_pred.tif").stat().st_mtime_ns == before
    assert result(capsys, "a.tif", "b.tif", "--overwrite")["results"][0]["state"] == "mapped"
    assert (folder / "a_pred.tif").stat().st_mtime_ns > before


def test_a_map_without_the_others_asked_for_is_not_finished(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scene(folder / "a.tif")
    scene(folder / "b.tif")
    run("a.tif")
    found = result(capsys, "a.tif", "b.tif", "--confidence", code=1)["results"]
    assert [entry["state"] for entry in found] == ["failed", "mapped"]
    assert "--overwrite" in found[0]["error"]["hint"]
    assert (folder / "b_conf.tif").exists()


def test_scenes_outside_the_area_are_skipped(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scene(folder / "a.tif")
    write(folder / "b.tif", np.ones((6, 40, 50)), west=6e5)
    with rasterio.open(folder / "a.tif") as dataset:
        west, south, east, north = dataset.bounds
    box = f"{west},{south},{(west + east) / 2},{north}"
    crs = ("--bbox-crs", "EPSG:32631")
    found = result(capsys, "a.tif", "b.tif", "--bbox", box, *crs)["results"]
    assert [entry["state"] for entry in found] == ["mapped", "skipped"]
    assert (found[0]["height"], found[0]["width"]) == (40, 25)


def test_two_scenes_of_one_name_need_two_places(folder: Path) -> None:
    scene(folder / "x" / "a.tif")
    scene(folder / "y" / "a.tif")
    run("x/a.tif", "y/a.tif", "--output", "out/", code=2)
    run("x/a.tif", "y/a.tif", "--output", "map.tif", code=2)
    assert names(folder) == ["x", "y"]


def test_no_scene_is_written_over(folder: Path) -> None:
    """Not even by the map of another one."""
    scene(folder / "x" / "a.tif")
    other = scene(folder / "y" / "a_pred.tif")
    before = other.read_bytes()
    run("x/a.tif", "y/a_pred.tif", "--output", "y", "--overwrite", code=2)
    assert other.read_bytes() == before


def test_everything_beside_the_map_is_made(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scene(folder / "a.tif", 70, 90)
    asked = ("--probabilities", "--confidence", "--disagreement", "--vector", "gpkg")
    found = result(capsys, "a.tif", *asked, "--nodata", "200")
    shares = read(folder / "a_prob.tif")
    assert shares.shape == (3, 70, 90)
    best = np.take_along_axis(shares, read(folder / "a_pred.tif"), 0)
    np.testing.assert_array_equal(best[0], shares.max(0))
    np.testing.assert_array_equal(read(folder / "a_conf.tif")[0], shares.max(0))
    assert read(folder / "a_disagree.tif").max() <= 254
    assert found["vector"] == "a_pred.gpkg"
    assert found["polygons"] > 0
    with rasterio.open(folder / "a_pred.tif") as dataset:
        assert dataset.nodata == 200
    assert not list(folder.glob("*.part"))


def test_small_windows_and_batches_give_the_same_map(folder: Path) -> None:
    """Where a scene is one window, its plan does not matter, nor how many are computed at once."""
    scene(folder / "a.tif", 60, 60)
    run("a.tif", "--output", "one.tif", "--batch-size", "1")
    run("a.tif", "--output", "two.tif", "--batch-size", "7", "--window", "64", "--device", "cpu")
    np.testing.assert_array_equal(read(folder / "one.tif"), read(folder / "two.tif"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--window", "100"), "multiple of 32"),
        (("--min-area", "5"), "--vector"),
        (("--min-area", "inf", "--vector", "gpkg"), "--min-area cannot be inf"),
        (("--bbox-crs", "EPSG:4326"), "--bbox"),
        (("--before", "b.tif"), "takes one date"),
        (("--nodata", "1"), "--nodata cannot be 1"),
        (("--output", "map.png"), ".tif"),
        (("b.tif", "--vector", "all.gpkg"), "--vector gpkg"),
    ],
)
def test_options_that_cannot_be_used_are_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], words: Sequence[str], said: str
) -> None:
    scene(folder / "a.tif")
    run("a.tif", *words, code=2)
    assert said in capsys.readouterr().err
    assert names(folder) == ["a.tif"]


def test_a_place_that_cannot_be_written_is_told_before_the_work(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scene(folder / "a.tif")
    for place, dry in (("a.tif/map.tif", ()), ("a.tif/map.tif", ("--dry-run",)), ("/proc/", ())):
        run("a.tif", "--output", place, *dry, code=1)
        said = capsys.readouterr().err
        assert "error: Cannot write" in said
        assert "device:" not in said
    assert names(folder) == ["a.tif"]


# --------------------------------------------------------------------------- before the work


def test_a_dry_run_tells_and_writes_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = np.full((6, 900, 1100), np.nan, np.float32)
    values[:, :200] = np.random.default_rng(0).normal(0, 1, (6, 200, 1100))
    values[:4] += 1000
    write(folder / "a.tif", values)
    found = result(capsys, "a.tif", "--dry-run", "--confidence")
    assert found["state"] == "planned"
    assert (found["windows"], found["window"]) == (4, [608, 608])
    assert found["computed"] == 2
    assert found["seconds"] > 0
    assert 0.1 < found["energy_kwh"] * 3.6e6 / found["seconds"] < 10_000  # watts
    assert 0 < found["emissions_kg"] < found["energy_kwh"] * 2
    assert found["disk_bytes"] > 2 * 900 * 1100
    assert found["free_bytes"] > found["disk_bytes"]
    assert found["outputs"] == ["a_pred.tif", "a_conf.tif", "a_pred.png"]
    scene(folder / "b.tif")
    run("a.tif", "b.tif", "gone.tif", "--dry-run", code=1)
    assert "2 planned, 1 failed" in capsys.readouterr().out
    run("a.tif", "--dry-run")
    assert re.search(r"^energy +about [\d.]+ .?Wh", capsys.readouterr().out, re.MULTILINE)
    assert names(folder) == ["a.tif", "b.tif"]


def test_the_ground_that_was_mapped_and_its_cost_are_noted(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pixels of 10 m; those without data are not mapped."""
    values = np.random.default_rng(0).normal(0, 1, (6, 100, 200)).astype(np.float32)
    values[:4] += 1000
    values[:, :50] = np.nan
    write(folder / "a.tif", values)
    found = result(capsys, "a.tif")
    record = read_ledger(Path(os.environ["EOSFM_EXPERIMENTS"])).records[-1]
    assert record.name == "a.tif"
    assert record.area_km2 == pytest.approx(50 * 200 * 100 / 1e6)
    with rasterio.open(folder / "a_pred.tif") as raster:
        told = float(raster.tags()["EOSFM_ENERGY_KWH"])
    assert 0 < told <= found["cost"]["energy_kwh"] * 1.01


def test_what_was_expected_stands_beside_what_it_took(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scene(folder / "a.tif", 300, 200)
    found = result(capsys, "a.tif", "--window", "64", "--no-quicklook")
    assert 0 < found["estimate"]["seconds"] < 20 * found["cost"]["seconds"]
    assert result(capsys, "a.tif", "--overwrite", "--no-quicklook")["estimate"] is None  # one row


@pytest.mark.parametrize("special", [False, True])
def test_the_rest_is_expected_to_take_as_long_as_the_first_row(special: bool) -> None:
    costs = iter([Cost(5, 1, 1), Cost(7, 2, 3)])
    plan = plan_windows(300, 200, 64)
    expected = Expectation(
        Silent().step("", 0).__enter__(), plan, lambda: next(costs), Cost(1), special=special
    )
    for _ in range(2 * len(plan.cols)):
        expected.advance()
    rows = len(plan.rows)
    assert expected.cost == (None if special else Cost(4 + 2 * rows, 1 + rows, 1 + 2 * rows))


# --------------------------------------------------------------------------- runs that stop


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "eosfm_cli", "predict", *words],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def stop_in_the_middle(folder: Path, number: int, *words: str) -> tuple[int, str]:
    """Send a signal to a run as soon as it has left something to go on with."""
    process = start(folder, *words)
    while not begun(folder / "big_pred.tif.part"):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    return process.returncode, err


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_run_goes_on_to_the_same_maps(folder: Path, number: int) -> None:
    scene(folder / "big.tif", 500, 300)
    scene(folder / "small.tif")
    asked = ("--window", "64", "--batch-size", "2", "--probabilities", "--no-quicklook")
    scenes = ("small.tif", "big.tif")
    run(*scenes, "--output", "whole/", *asked)
    code, err = stop_in_the_middle(folder, number, *scenes, *asked)
    if number == signal.SIGKILL:
        assert code == -signal.SIGKILL
    else:
        assert code == 128 + number
        assert "1 of 2 scenes are mapped. Go on with the same command and --resume." in err
    assert (folder / "small_pred.tif").exists()
    assert not (folder / "big_pred.tif").exists()
    run(*scenes, *asked, "--resume")
    for name in ("small_pred.tif", "big_pred.tif", "big_prob.tif"):
        np.testing.assert_array_equal(read(folder / name), read(folder / "whole" / name))
    assert not list(folder.glob("*.part"))
