"""The main job through the command line: train, export, fit, ablate, predict, emissions."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
import yaml

from eosfm_cli.commands.app import main
from eosfm_cli.ensemble.bundle import read_ensemble, read_model
from eosfm_cli.manifest import ModelManifest, read_manifest
from eosfm_cli.run_dir import RunDir
from tests.rasters import write_tif
from tests.tiny import RECIPE, write_scenes


@dataclass
class Project:
    """A folder with data, recipe and runs, and the command line inside it."""

    folder: Path
    capture: pytest.CaptureFixture[str]

    def run(self, *words: str, code: int = 0) -> str:
        """Run a command that must end in `code`; what it said on both streams."""
        found = main(list(words))
        out, err = self.capture.readouterr()
        assert found == code, err
        assert "Traceback" not in err
        return out + err

    def json(self, *words: str) -> Any:
        """Run a command with `--json` and read its one object."""
        assert main([*words, "--json"]) == 0
        return json.loads(self.capture.readouterr().out)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which two specialists were trained, exported and fitted."""
    folder = tmp_path_factory.mktemp("project")
    write_scenes(folder / "data" / "tiny")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(RECIPE, sort_keys=False))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train-specialist", "tiny-rgb.yaml", "tiny-s1.yaml"]) == 0
        assert main(["export"]) == 0
        assert main(["fit-ensemble", "tiny.yaml"]) == 0
    return folder


@pytest.fixture
def project(
    made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Project:
    """The made project; a test must leave its runs as they are, or use `copied`."""
    monkeypatch.chdir(made)
    capsys.readouterr()
    return Project(made, capsys)


@pytest.fixture
def copied(
    made: Path, tmp_path: Path, project: Project, monkeypatch: pytest.MonkeyPatch
) -> Project:
    """A copy of the made project, to change."""
    folder = tmp_path / "copy"
    shutil.copytree(made, folder)
    monkeypatch.chdir(folder)
    return Project(folder, project.capture)


def only_run(folder: Path, kind: str, name: str) -> RunDir:
    (path,) = (folder / "experiments" / kind / name).iterdir()
    return RunDir(path)


# ------------------------------------------------------------------------------ train and export


def test_a_run_folder_has_everything(project: Project) -> None:
    run = only_run(project.folder, "train", "tiny-rgb")
    summary = run.read_summary()
    assert summary["state"] == "completed"
    assert 0 <= summary["metrics"]["mIoU"] <= 1
    assert summary["parameters"] > 0
    assert summary["seconds"] > 0
    with run.metrics.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1"]
    for row in rows:
        assert all(row[name] for name in ("train/loss", "val/loss", "train/mIoU", "val/mIoU"))
    assert [float(row["lr"]) for row in rows] == pytest.approx([1e-3, 0.5e-3])
    for path in (run.config, run.history, run.best, run.last, run.log):
        assert path.stat().st_size > 0, path
    assert list(run.path.rglob("events.out.tfevents*"))
    assert not list(run.path.rglob("*.part*"))
    assert run.history.read_bytes().startswith(b"\x89PNG")


def test_our_checkpoints_hold_plain_types_only(project: Project) -> None:
    for kind, name in (("train", "tiny-rgb"), ("fit", "tiny")):
        run = only_run(project.folder, kind, name)
        for path in (run.best, run.last):
            assert "state_dict" in torch.load(path, weights_only=True)


def test_a_resolved_config_runs_again_to_the_same_score(copied: Project) -> None:
    run = only_run(copied.folder, "train", "tiny-s1")
    again = copied.json("train-specialist", str(run.config), "--output", "elsewhere")
    (result,) = again["results"]
    assert result["specialist"] == "tiny-s1"
    assert result["metrics"]["mIoU"] == pytest.approx(
        run.read_summary()["metrics"]["mIoU"], rel=1e-3
    )


def test_the_ensemble_carries_what_each_specialist_expects(project: Project) -> None:
    manifest = read_manifest(project.folder / "experiments" / "ensemble.safetensors")
    rgb, s1 = manifest.specialists
    assert (rgb.name, rgb.bands, rgb.backbone) == (
        "tiny-rgb",
        ("red", "green", "blue"),
        "test_convnext",
    )
    assert (s1.name, s1.in_chans, s1.licence) == ("tiny-s1", 2, "CC0-1.0")
    assert s1.statistics is not None
    train = sorted((project.folder / "data/tiny/s1").glob("[ab]-*.tif"))
    vv = np.stack([rasterio.open(path).read(1) for path in train])
    assert s1.statistics["vv"].mean == pytest.approx(vv.mean(), rel=1e-4)
    assert s1.statistics["vv"].std == pytest.approx(vv.std(), rel=1e-3)
    assert rgb.metrics["mIoU"] == pytest.approx(
        only_run(project.folder, "train", "tiny-rgb").read_summary()["metrics"]["mIoU"]
    )


def test_the_ensemble_has_the_weights_of_the_best_epoch(project: Project) -> None:
    specialists = read_ensemble(project.folder / "experiments" / "ensemble.safetensors")
    best = torch.load(only_run(project.folder, "train", "tiny-s1").best, weights_only=True)
    for name, weight in specialists[1].state.items():
        torch.testing.assert_close(weight, best["state_dict"][f"model.encoder.{name}"])


def test_an_ensemble_in_the_seed_format_fits_too(copied: Project) -> None:
    copied.run("export", "--output", "seed.pth")
    result = copied.json("fit-ensemble", "tiny.yaml", "--ensemble", "seed.pth", "--epochs", "1")
    assert result["specialists"] == ["tiny-rgb", "tiny-s1"]


def test_several_recipes_one_wrong_stops_before_any_training(copied: Project) -> None:
    said = copied.run("train-specialist", "tiny-s1.yaml", "tiny-rgp.yaml", code=2)
    assert "did you mean 'rgb'" in said.lower()
    assert len(list((copied.folder / "experiments/train/tiny-s1").iterdir())) == 1


# ------------------------------------------------------------------------------ fit


def test_fitting_leaves_the_specialists_as_they_were(project: Project) -> None:
    run = only_run(project.folder, "fit", "tiny")
    _, state = read_model(run.model)
    ensemble = read_ensemble(project.folder / "experiments" / "ensemble.safetensors")
    for index, specialist in enumerate(ensemble):
        for name, weight in specialist.state.items():
            torch.testing.assert_close(weight, state[f"encoder.backbones.{index}.{name}"])


def test_no_freeze_trains_them(copied: Project) -> None:
    result = copied.json("fit-ensemble", "tiny.yaml", "--no-freeze", "--epochs", "1")
    assert result["trainable"] == result["parameters"]
    _, state = read_model(Path(result["model"]))
    specialist = read_ensemble(copied.folder / "experiments" / "ensemble.safetensors")[0]
    name = next(iter(specialist.state))
    assert not torch.equal(specialist.state[name], state[f"encoder.backbones.0.{name}"])


@pytest.mark.parametrize("fusion", ["concat", "conv1x1"])
def test_top_k_keeps_k_in_the_model_file(copied: Project, fusion: str) -> None:
    result = copied.json("fit-ensemble", "tiny.yaml", "--top-k", "1", "--fusion", fusion)
    (kept,) = result["specialists"]
    assert set(result["scores"]) == {"tiny-rgb", "tiny-s1"}
    assert kept == max(result["scores"], key=result["scores"].get)
    manifest, state = read_model(Path(result["model"]))
    assert [s.name for s in manifest.specialists] == [kept]
    assert not [name for name in state if name.startswith("encoder.backbones.1")]
    run = RunDir(Path(result["run"]))
    assert (run.path / "selection.png").read_bytes().startswith(b"\x89PNG")
    with run.metrics.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["phase"] for row in rows] == ["search", "fit", "fit"]
    assert 0 < float(rows[0][f"gate/{kept}"]) < 1


def test_top_k_above_what_is_usable_keeps_all_and_warns(copied: Project) -> None:
    said = copied.run("fit-ensemble", "tiny.yaml", "--top-k", "5", "--epochs", "1")
    assert "warning: --top-k 5 is more than the 2 usable specialists: all are kept" in said
    said = copied.run("fit-ensemble", "tiny.yaml", "--top-k", "5", "--strict", code=2)
    assert "more than the 2 usable" in said


def test_the_plan_is_printed_and_choices_are_by_name(copied: Project) -> None:
    said = copied.run("fit-ensemble", "tiny.yaml", "--exclude", "tiny-s1", "--epochs", "1")
    assert "false colour: red ← nir, green ← red, blue ← green" in said
    assert "newest export" in said
    said = copied.run("fit-ensemble", "tiny.yaml", "--specialists", "tiny-s2", code=2)
    assert "There are: tiny-rgb, tiny-s1" in said
    assert "Traceback" not in said


def test_fit_gathers_new_specialists_by_itself(copied: Project) -> None:
    copied.run("train-specialist", "tiny.yaml", "--epochs", "1")
    said = copied.run("fit-ensemble", "tiny.yaml", "--epochs", "1")
    assert "older than the newest specialist: gathering them again" in said
    names = [s.name for s in read_manifest(Path("experiments/ensemble.safetensors")).specialists]
    assert names == ["tiny", "tiny-rgb", "tiny-s1"]


def test_an_export_of_named_runs_is_not_gathered_anew(copied: Project) -> None:
    copied.run("export", "tiny-s1")
    copied.run("train-specialist", "tiny.yaml", "--epochs", "1")
    said = copied.run("fit-ensemble", "tiny.yaml", "--epochs", "1")
    assert "stays as it is" in said
    names = [s.name for s in read_manifest(Path("experiments/ensemble.safetensors")).specialists]
    assert names == ["tiny-s1"]


def test_fit_without_anything_says_what_comes_first(copied: Project) -> None:
    said = copied.run("fit-ensemble", "tiny.yaml", "--output", "empty", code=3)
    assert "train-specialist" in said


def test_no_specialist_fits_the_bands(copied: Project) -> None:
    said = copied.run(
        "fit-ensemble", "tiny-rgb.yaml", "--specialists", "tiny-s1", "--epochs", "1", code=3
    )
    assert re.search(r"at hand: +red, green, blue", said)
    assert "vv, vh" in said
    assert not (copied.folder / "experiments/fit/tiny-rgb").exists()


def test_the_same_seed_gives_the_same_model(copied: Project) -> None:
    first, second = (
        copied.json("fit-ensemble", "tiny.yaml", "--seed", "3", "--epochs", "1") for _ in range(2)
    )
    assert first["run"] != second["run"]
    _, one = read_model(Path(first["model"]))
    _, two = read_model(Path(second["model"]))
    for name, weight in one.items():
        torch.testing.assert_close(weight, two[name], msg=name)


# ------------------------------------------------------------------------------ ablate, predict


def test_ablate_equals_fitting_nothing_but_the_others(copied: Project) -> None:
    result = copied.json("ablate")
    full = only_run(copied.folder, "fit", "tiny").read_summary()["metrics"]["mIoU"]
    assert result["full"] == pytest.approx(full, abs=1e-6)
    assert {row["specialist"] for row in result["rows"]} == {"tiny-rgb", "tiny-s1"}
    for row in result["rows"]:
        assert row["change"] == pytest.approx(row["metric"] - result["full"])
    changes = [row["change"] for row in result["rows"]]
    assert changes == sorted(changes)
    assert Path(result["png"]).read_bytes().startswith(b"\x89PNG")
    assert json.loads(Path(result["json"]).read_text())["full"] == result["full"]
    with Path(result["csv"]).open() as file:
        assert len(list(csv.DictReader(file))) == 3


def test_ablate_needs_two(copied: Project) -> None:
    copied.run("fit-ensemble", "tiny.yaml", "--exclude", "tiny-s1", "--epochs", "1")
    said = copied.run("ablate", code=2)
    assert "one specialist only" in said


def write_scene(path: Path, order: tuple[str, ...], **changes: Any) -> Path:
    rng = np.random.default_rng(1)
    means = {"vv": -10, "vh": -10}
    pixels = np.stack([rng.normal(means.get(b, 1000), 1, (45, 70)) for b in order])
    write_tif(path, pixels.astype(np.float32), **changes)
    with rasterio.open(path, "r+") as raster:
        raster.descriptions = order
    return path


def test_predict_maps_on_the_scenes_own_grid(copied: Project) -> None:
    order = ("vh", "nir", "vv", "red", "blue", "green")
    scene = write_scene(copied.folder / "scene.tif", order)
    result = copied.json("predict", "scene.tif")
    with rasterio.open(scene) as wanted, rasterio.open(result["output"]) as found:
        assert (found.crs, found.transform, found.shape) == (
            wanted.crs,
            wanted.transform,
            wanted.shape,
        )
        assert found.dtypes == ("uint8",)
        assert set(np.unique(found.read(1))) <= {0, 1, 2}
        assert found.colormap(1)[0][:3] == (0, 0, 255)
    assert sum(result["shares"].values()) == pytest.approx(1)
    said = copied.run("predict", "scene.tif", code=2)
    assert "--overwrite" in said


def test_predict_without_a_band_shows_both_lists(copied: Project) -> None:
    write_scene(copied.folder / "rgb.tif", ("red", "green", "blue"))
    said = copied.run("predict", "rgb.tif", code=3)
    assert re.search(r"wanted: +blue, green, red, nir, vv, vh", said)
    assert re.search(r"found: +red, green, blue", said)
    assert not (copied.folder / "rgb_pred.tif").exists()


def test_the_model_file_says_what_it_is(project: Project) -> None:
    manifest = read_manifest(only_run(project.folder, "fit", "tiny").model)
    assert isinstance(manifest, ModelManifest)
    assert manifest.bands == ("blue", "green", "red", "nir", "vv", "vh")
    assert manifest.statistics["blue"].mean == pytest.approx(1250, abs=200)
    assert [c.name for c in manifest.classes] == ["water", "field", "town"]
    assert manifest.tile_size == 32
    assert manifest.licence == "CC0-1.0"


def test_emissions_lists_every_stage(project: Project) -> None:
    result = project.json("emissions")
    stages = [(row["command"], row["name"]) for row in result["rows"]]
    assert stages[:3] == [
        ("train-specialist", "tiny-rgb"),
        ("train-specialist", "tiny-s1"),
        ("fit-ensemble", "tiny"),
    ]
    assert result["total"]["seconds"] > 0


# ------------------------------------------------------------------------------ classification


def test_class_folders_train_and_fit_a_classifier(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, project: Project
) -> None:
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for index, name in enumerate(("dark", "light")):
            for number in range(4):
                pixels = rng.normal(100 * index, 10, (3, 32, 32)).astype(np.float32)
                write_tif(tmp_path / "data/shades" / split / name / f"{number}.tif", pixels)
    recipe = {
        "title": "Shades",
        "task": "classification",
        "dataset": {
            "root": "shades",
            "images": {
                "rgb": {"path": "{split}/{class}/{id}.tif", "bands": ["red", "green", "blue"]}
            },
            "split": {"by": "folder"},
        },
        "classes": [{"name": "dark"}, {"name": "light"}],
        "tile": {"size": 32},
        "training": RECIPE["training"] | {"epochs": 3},
        "fit": RECIPE["fit"] | {"epochs": 8, "lr": 0.01},
    }
    (tmp_path / "shades.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    monkeypatch.chdir(tmp_path)
    shades = Project(tmp_path, project.capture)
    shades.run("train-specialist", "shades.yaml")
    fitted = shades.json("fit-ensemble", "shades.yaml")
    assert fitted["metrics"]["Accuracy"] == 1.0
    (image,) = shades.json("predict", "data/shades/test/dark/0.tif")["images"]
    assert image["classes"] == ["dark"]


# ------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (
            ["train-specialist", "tiny-s1.yaml", "--backbone", "convnextv2_ato"],
            2,
            "convnextv2_atto",
        ),
        (
            ["train-specialist", "tiny-s1.yaml", "--set", "training.decoder=UperNet"],
            2,
            "UperNetDecoder",
        ),
        (
            ["train-specialist", "tiny-s1.yaml", "--set", "training.decoder=Unet"],
            2,
            "Unet cannot be built from a recipe",
        ),
        (["train-specialist", "tiny-s1.yaml", "--data-root", "nowhere"], 3, "--data-root"),
        (["train-specialist", "tiny-s1.yaml", "--output", "tiny.yaml/x"], 1, "Cannot write"),
        (["train-specialist", "tiny-s1.yaml", "--set", "tile.size=33"], 2, "tile.size"),
        (["fit-ensemble", "tiny.yaml", "--set", "fit.decoder=UNet"], 2, "UNetDecoder"),
        (["fit-ensemble", "tiny.yaml", "--set", "fit.decoder=Unet"], 2, "Unet cannot be built"),
        (["fit-ensemble", "tiny.yaml", "--ensemble", "nowhere.safetensors"], 3, "nowhere"),
        (["fit-ensemble", "tiny.yaml", "--ensemble", "tiny.yaml"], 3, "tiny.yaml"),
        (["export", "--output", "ensemble.onnx"], 2, ".safetensors"),
        (["export", "nobody"], 3, "nobody"),
        (["ablate", "experiments"], 3, "experiments"),
        (["predict", "tiny.yaml"], 3, "tiny.yaml"),
        (["predict", "nowhere.tif"], 3, "nowhere.tif"),
        (["predict", "data/tiny/s2/a-1.tif", "--model", "nowhere.safetensors"], 3, "nowhere"),
    ],
)
def test_bad_input_ends_in_one_message(
    project: Project, words: list[str], code: int, said: str
) -> None:
    before = sorted(project.folder.rglob("*"))
    assert said in project.run(*words, code=code)
    assert sorted(project.folder.rglob("*")) == before


def damage_a_cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def damage_a_byte_soup(path: Path) -> None:
    path.write_bytes(b"\x00" * 4096)


@pytest.mark.parametrize("damage", [damage_a_cut, damage_a_byte_soup])
def test_damaged_files_are_named(copied: Project, damage: Callable[[Path], None]) -> None:
    run = only_run(copied.folder, "fit", "tiny")
    damage(run.model)
    damage(copied.folder / "experiments" / "ensemble.safetensors")
    assert str(run.model.name) in copied.run("ablate", code=3)
    assert "model.safetensors" in copied.run("predict", "data/tiny/s2/a-1.tif", code=3)
    assert "ensemble.safetensors" in copied.run(
        "fit-ensemble", "tiny.yaml", "--ensemble", "experiments/ensemble.safetensors", code=3
    )


def test_pretrained_weights_out_of_reach(
    copied: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    said = copied.run(
        "train-specialist", "tiny-s1.yaml", "--pretrained", "--backbone", "resnet18", code=1
    )
    assert "Pretrained weights of resnet18 cannot be had" in said
    assert "--no-pretrained" in said


def test_a_crash_leaves_a_run_that_says_so(copied: Project) -> None:
    scene = copied.folder / "data/tiny/s1/a-1.tif"
    recipe = yaml.safe_load((copied.folder / "tiny.yaml").read_text())
    recipe["statistics"] = {
        b: {"mean": 0, "std": 1} for b in ("blue", "green", "red", "nir", "vv", "vh")
    }
    (copied.folder / "broken.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    scene.write_bytes(scene.read_bytes()[:3000])
    said = copied.run("train-specialist", "broken-s1.yaml", code=3)
    assert "a-1.tif" in said
    assert only_run(copied.folder, "train", "broken-s1").state == "failed"


# ------------------------------------------------------------------------------ interrupts


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)],
)
def test_a_stopped_training_says_so_and_leaves_nothing_half_written(
    copied: Project, number: signal.Signals, code: int
) -> None:
    words = ["train-specialist", "tiny-s1.yaml", "--epochs", "1000", "--output", "stopped"]
    with subprocess.Popen(
        [sys.executable, "-m", "eosfm_cli", *words],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    ) as process:
        runs = Path("stopped/train/tiny-s1")
        for _ in range(600):
            if list(runs.glob("*/checkpoints/last.ckpt")):
                break
            time.sleep(0.1)
        process.send_signal(number)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == code, said
    assert "Traceback" not in said
    (run,) = (RunDir(path) for path in runs.iterdir())
    assert run.state == "interrupted"
    assert "state_dict" in torch.load(run.last, weights_only=True)
    assert not list(run.path.rglob("*.part*"))
    assert copied.json("emissions", "--experiments", "stopped")["rows"][0]["name"] == "tiny-s1"
