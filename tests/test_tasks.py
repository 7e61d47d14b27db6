"""Every task through the command line: several labels, values, change, whole images."""

from __future__ import annotations

import csv
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
import yaml

from eosfm_cli.commands.app import main
from eosfm_cli.ensemble.bundle import read_ensemble
from eosfm_cli.manifest import read_manifest
from eosfm_cli.run_dir import RunDir
from eosfm_cli.training.task import build_specialist_task
from tests.rasters import folder_recipe, write_tif

BANDS = ["red", "green", "blue", "nir"]
SPEC = {"epochs": 1, "batch_size": 4, "decoder_channels": 8, "workers": 0}
CLASSES = [
    {"name": "water", "colour": "#0000ff"},
    {"name": "wood", "colour": "#00aa00"},
    {"name": "town", "colour": "#ff0000"},
]
VARIANTS = {"all": {}, "rgb": {"bands": ["red", "green", "blue"]}, "nir": {"bands": ["nir"]}}


def recipe(task: str, dataset: dict[str, Any], **keys: Any) -> dict[str, Any]:
    return {
        "title": f"Tiny {task}",
        "task": task,
        "dataset": {
            "root": task,
            "images": {"s2": {"path": "images/{id}.tif", "bands": BANDS}},
            **dataset,
        },
        "tile": {"size": 32},
        "training": {"backbone": "test_convnext", **SPEC},
        "fit": SPEC,
        "default_variant": "all",
        "variants": VARIANTS,
        **keys,
    }


def pixels(seed: int, size: tuple[int, int] = (32, 32), bump: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    found = rng.normal(1000, 100, (4, *size))
    found[3] += bump
    return found.astype(np.float32)


NAMES = [f"chip-{i}" for i in range(10)]
SPLITS = {name: "train" if i < 6 else "valid" if i < 8 else "test" for i, name in enumerate(NAMES)}
SHOWN = {
    name: [c["name"] for b, c in enumerate(CLASSES) if i >> b & 1] for i, name in enumerate(NAMES)
}
BY_LIST = {
    "by": "list",
    "train": [n for n in NAMES if SPLITS[n] == "train"],
    "val": [n for n in NAMES if SPLITS[n] == "valid"],
    "test": [n for n in NAMES if SPLITS[n] == "test"],
}


def write_multilabel(root: Path) -> dict[str, Any]:
    lines = ["image,labels,split"]
    for i, name in enumerate(NAMES):
        write_tif(root / "images" / f"{name}.tif", pixels(i))
        lines.append(f"{name}.tif,{'; '.join(SHOWN[name])},{SPLITS[name]}")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    return recipe(
        "multilabel",
        {
            "labels": {"path": "labels.csv", "id": "image", "column": "labels"},
            "split": {"by": "column", "column": "split", "val": "valid"},
        },
        classes=CLASSES,
    )


def write_regression(root: Path) -> dict[str, Any]:
    for i, name in enumerate(NAMES):
        image = pixels(i)
        image[3] += np.linspace(0, 1000, 32)
        write_tif(root / "images" / f"{name}.tif", image)
        heights = np.clip((image[3] - 500) / 5, 0, 500).astype(np.uint16)
        heights[0, :4] = 65535
        write_tif(root / "masks" / f"{name}.tif", heights)
    return recipe(
        "regression",
        {
            "masks": {"path": "masks/{id}.tif", "scale": 0.1, "offset": 1, "ignore": [65535]},
            "split": BY_LIST,
        },
        target={"name": "canopy height", "unit": "m", "min": 0, "max": 60},
    )


def write_change(root: Path) -> dict[str, Any]:
    for i, name in enumerate(NAMES):
        changed = np.zeros((32, 32), np.uint8)
        changed[8:24, 4 * (i % 4) : 4 * (i % 4) + 16] = 255
        write_tif(root / "A" / f"{name}.tif", pixels(i))
        write_tif(root / "B" / f"{name}.tif", pixels(i + 100) + 800 * (changed > 0))
        write_tif(root / "label" / f"{name}.tif", changed)
    return recipe(
        "change",
        {
            "images": {
                "before": {"path": "A/{id}.tif", "bands": BANDS, "date": 1},
                "after": {"path": "B/{id}.tif", "bands": BANDS, "date": 2},
            },
            "masks": {"path": "label/{id}.tif"},
            "split": BY_LIST,
        },
        classes=[{"name": "same"}, {"name": "changed", "values": [255]}],
    )


def write_classification(root: Path) -> dict[str, Any]:
    for i, name in enumerate(NAMES):
        kind = ("water", "wood", "town")[i % 3]
        write_tif(root / "images" / kind / f"{name}.tif", pixels(i, bump=500.0 * (i % 3)))
    images = {"s2": {"path": "images/{class}/{id}.tif", "bands": BANDS}}
    return recipe("classification", {"images": images, "split": BY_LIST}, classes=CLASSES)


WRITERS = {
    "multilabel": write_multilabel,
    "regression": write_regression,
    "change": write_change,
    "classification": write_classification,
}


@dataclass
class Project:
    """A folder in which specialists of a task were trained and fitted."""

    task: str
    folder: Path
    capture: pytest.CaptureFixture[str]

    def run(self, *words: str, code: int = 0) -> tuple[str, str]:
        found = main(list(words))
        out, err = self.capture.readouterr()
        assert found == code, err
        assert "Traceback" not in err
        return out, err

    def json(self, *words: str) -> Any:
        return json.loads(self.run(*words, "--json")[0])

    def only_run(self, kind: str, name: str) -> RunDir:
        (path,) = (self.folder / "experiments" / kind / name).iterdir()
        return RunDir(path)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A project per task, with two specialists, exported and fitted; made when asked for."""
    folder = tmp_path_factory.mktemp("tasks")
    made: dict[str, Path] = {}

    class Made(dict):
        def __missing__(self, task: str) -> Path:
            self[task] = make_project(folder / task, task)
            return self[task]

    return Made(made)


def make_project(folder: Path, task: str) -> Path:
    written = WRITERS[task](folder / "data" / task)
    (folder / "tiny.yaml").write_text(yaml.safe_dump(written, sort_keys=False))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["recipes", "validate", "tiny.yaml"]) == 0
        assert main(["train-specialist", "tiny-rgb.yaml", "tiny-nir.yaml"]) == 0
        assert main(["export"]) == 0
        assert main(["fit-ensemble", "tiny.yaml"]) == 0
    return folder


@pytest.fixture(params=list(WRITERS))
def project(
    request: pytest.FixtureRequest,
    made: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Project:
    folder = made[request.param]
    monkeypatch.chdir(folder)
    capsys.readouterr()
    return Project(request.param, folder, capsys)


METRICS = {
    "multilabel": {"mAP", "Multilabel_F1_Score", "Multilabel_F1_Score_Micro"},
    "regression": {"RMSE", "MAE", "R2_Score"},
    "change": {"mIoU", "IoU_changed", "F1_changed"},
    "classification": {"Accuracy", "F1_Score"},
}


def test_a_task_is_trained_exported_and_fitted(project: Project) -> None:
    main_metric = {"multilabel": "mAP", "regression": "RMSE", "change": "mIoU"}.get(
        project.task, "Accuracy"
    )
    for kind, name in (("train", "tiny-rgb"), ("train", "tiny-nir"), ("fit", "tiny")):
        run = project.only_run(kind, name)
        assert set(run.read_summary()["metrics"]) >= METRICS[project.task]
        with run.metrics.open() as file:
            (row,) = csv.DictReader(file)
        assert row[f"train/{main_metric}"]
        assert row[f"val/{main_metric}"]
        assert run.best.is_file()
    specialists = read_ensemble(project.folder / "experiments" / "ensemble.safetensors")
    assert [(s.info.name, s.info.in_chans, s.info.task) for s in specialists] == [
        ("tiny-nir", 1, project.task),
        ("tiny-rgb", 3, project.task),
    ]
    best = torch.load(project.only_run("train", "tiny-rgb").best, weights_only=True)["state_dict"]
    inner = "encoder.encoder" if project.task == "change" else "encoder"
    for name, weight in specialists[1].state.items():
        torch.testing.assert_close(weight, best[f"model.{inner}.{name}"])
    manifest = read_manifest(project.only_run("fit", "tiny").model)
    assert manifest.task == project.task
    assert manifest.pooling == ("diff" if project.task == "change" else None)
    assert (manifest.target is not None) == (project.task == "regression")


def test_ablate_measures_what_the_fit_measured(project: Project) -> None:
    result = project.json("ablate")
    summary = project.only_run("fit", "tiny").read_summary()
    assert result["full"] == pytest.approx(summary["metrics"][result["metric_name"]], rel=1e-4)
    changes = [row["change"] for row in result["rows"]]
    assert changes == sorted(changes, reverse=project.task == "regression")
    assert len(changes) == 2


def test_runs_show_the_tasks_metric(project: Project) -> None:
    out, _ = project.run("runs", "--kind", "fit")
    assert {"multilabel": "mAP", "regression": "RMSE", "change": "mIoU"}.get(
        project.task, "Accuracy"
    ) in out


# ------------------------------------------------------------------------------ predict


@pytest.fixture
def of(
    made: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Any:
    """The project of a task, run from a folder of one's own; `--output` goes there."""

    def find(task: str) -> Project:
        folder = made[task]
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("EOSFM_EXPERIMENTS", str(folder / "experiments"))
        capsys.readouterr()
        return Project(task, tmp_path, capsys)

    return find


def scene(path: Path, seed: int, size: tuple[int, int] = (70, 45), **changes: Any) -> Path:
    write_tif(path, pixels(seed, size), **changes)
    with rasterio.open(path, "r+") as raster:
        raster.descriptions = BANDS
    return path


def test_values_are_mapped_with_their_unit(of: Any) -> None:
    project = of("regression")
    scene(project.folder / "scene.tif", 1)
    result = project.json("predict", "scene.tif")
    with rasterio.open(result["output"]) as found:
        assert (found.dtypes, found.nodata, found.shape) == (("float32",), -9999, (70, 45))
        assert (found.descriptions, found.units) == (("canopy height",), ("m",))
        values = found.read(1)
    assert 0 <= values.min() <= values.max() <= 60
    assert result["values"]["mean"] == pytest.approx(values.mean(), rel=1e-4)
    assert (result["values"]["unit"], result["shares"]) == ("m", {})
    assert Path(result["quicklook"]).read_bytes().startswith(b"\x89PNG")
    out, err = project.run("predict", "scene.tif", "--overwrite", "--no-quicklook")
    assert "canopy height" in out
    assert "next: eosfm emissions" in err


def test_change_takes_two_dates(of: Any) -> None:
    project = of("change")
    scene(project.folder / "old.tif", 1)
    scene(project.folder / "new.tif", 2)
    scene(project.folder / "other.tif", 3, (64, 45))
    result = project.json("predict", "new.tif", "--before", "old.tif")
    with rasterio.open(result["output"]) as found:
        assert found.shape == (70, 45)
        assert set(np.unique(found.read(1))) <= {0, 1}
        assert found.tags()["EOSFM_BEFORE"] == "old.tif"
    _, err = project.run("predict", "new.tif", code=2)
    assert "--before BEFORE.tif" in err
    _, err = project.run("predict", "new.tif", "--before", "other.tif", "--overwrite")
    assert "resampled to the grid of new.tif" in err
    _, err = project.run("predict", "new.tif", "--before", "old.tif", "--output", "old.tif", code=2)
    assert "old.tif is the scene itself" in err


def test_a_date_without_a_band_is_named(of: Any) -> None:
    project = of("change")
    scene(project.folder / "new.tif", 2)
    write_tif(project.folder / "old.tif", pixels(1, (70, 45))[:3])
    with rasterio.open(project.folder / "old.tif", "r+") as raster:
        raster.descriptions = BANDS[:3]
    _, err = project.run("predict", "new.tif", "--before", "old.tif", code=3)
    assert "old.tif" in err


@pytest.mark.parametrize("task", ["multilabel", "classification"])
def test_whole_images_come_in_a_table(of: Any, task: str) -> None:
    project = of(task)
    scene(project.folder / "small.tif", 1, (30, 32))
    scene(project.folder / "large.tif", 2, (70, 45))
    result = project.json("predict", "small.tif", "large.tif")
    small, large = result["images"]
    assert (small["map"], large["map"]) == (None, "large_pred.tif")
    with Path(result["table"]).open() as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == ["small.tif", "large.tif"]
    for row, image in zip(rows, result["images"], strict=True):
        found = {name: float(row[name]) for name in ("water", "wood", "town")}
        assert found == pytest.approx(image["probabilities"])
        if task == "classification":
            assert sum(found.values()) == pytest.approx(1, abs=1e-5)
            assert row["class"] == max(found, key=found.get)
            assert float(row["probability"]) == pytest.approx(max(found.values()))
        else:
            assert row["classes"] == ";".join(n for n, p in found.items() if p >= 0.5)
    with rasterio.open(large["map"]) as found, rasterio.open("large.tif") as source:
        assert found.shape == (3, 2)
        assert found.transform.a == 32 * source.transform.a
        assert (found.transform.c, found.transform.f) == (source.transform.c, source.transform.f)
        assert found.count == (1 if task == "classification" else 3)
        cells = found.read()
        if task == "multilabel":
            assert found.descriptions == ("water", "wood", "town")
            shares = cells.max(axis=(1, 2)) * found.scales[0]
            assert shares == pytest.approx(list(large["probabilities"].values()), abs=1 / 254)
        else:
            assert found.colormap(1)[0][:3] == (0, 0, 255)
            assert set(np.unique(cells)) <= {0, 1, 2}
    _, err = project.run("predict", "small.tif", "large.tif", code=2)
    assert "predictions.csv is already there" in err
    out, err = project.run("predict", "small.tif")
    assert "small.tif" in out
    assert "wrote small_pred.csv" in err


def test_an_image_is_labelled_as_its_tile_was_in_the_test(of: Any, made: dict[str, Path]) -> None:
    project = of("classification")
    images = sorted((made["classification"] / "data/classification/images").rglob("*.tif"))
    named = [path for path in images if SPLITS[path.stem] == "test"]
    result = project.json("predict", *map(str, named), "--bands", ",".join(BANDS))
    right = {"water": [], "wood": [], "town": []}
    for path, image in zip(named, result["images"], strict=True):
        right[path.parent.name].append(image["classes"] == [path.parent.name])
    (run,) = (made["classification"] / "experiments/fit/tiny").iterdir()
    shares = [np.mean(found) for found in right.values() if found]
    assert np.mean(shares) == pytest.approx(RunDir(run).read_summary()["metrics"]["Accuracy"])


def test_an_image_without_data_is_told_and_kept(of: Any) -> None:
    project = of("multilabel")
    write_tif(project.folder / "empty.tif", np.zeros((4, 40, 40), np.float32), nodata=0)
    scene(project.folder / "full.tif", 2, (40, 40))
    out, err = project.run("predict", "empty.tif", "full.tif", "--bands", ",".join(BANDS))
    assert "no data" in out
    assert "empty.tif has no pixel" in err
    assert not Path("empty_pred.tif").exists()
    assert len(Path("predictions.csv").read_text().splitlines()) == 3


def test_what_does_not_go_with_a_task_is_refused(of: Any) -> None:
    project = of("multilabel")
    scene(project.folder / "a.tif", 1)
    scene(project.folder / "b.tif", 1)
    _, err = project.run("predict", "a.tif", "--before", "b.tif", code=2)
    assert "--before is for models of change" in err
    _, err = project.run("predict", "a.tif", "--output", "a.shp", code=2)
    assert "--output a.csv" in err
    project = of("regression")
    _, err = project.run("predict", "a.tif", "--before", "b.tif", code=2)
    assert "takes one date" in err
    _, err = project.run("predict", "a.tif", "b.tif", "--output", "c.tif", code=2)
    assert "Several maps cannot all be c.tif" in err
    maps = project.json("predict", "a.tif", "b.tif", "--no-quicklook")
    assert [Path(one["output"]).name for one in maps["results"]] == ["a_pred.tif", "b_pred.tif"]


def test_change_is_evaluated_like_a_map(of: Any) -> None:
    project = of("change")
    result = project.json("evaluate")
    (run,) = Path(project.folder, result["subject"]).parent.iterdir()
    metrics = RunDir(run).read_summary()["metrics"]
    assert result["metrics"]["mIoU"] == pytest.approx(metrics["mIoU"], abs=1e-4)


@pytest.mark.parametrize(
    ("task", "use", "gives"),
    [
        ("regression", "predict scene.tif", "| values | canopy height (m) |"),
        ("multilabel", "predict image.tif", "| classes | water, wood, town |"),
        ("change", "predict after.tif --before before.tif", "| classes | same, changed |"),
    ],
)
def test_a_card_says_what_a_model_takes_and_gives(of: Any, task: str, use: str, gives: str) -> None:
    project = of(task)
    out, _ = project.run("inspect", "--card", "card.md")
    text = Path("card.md").read_text()
    assert f"eosfm {use} --model model.safetensors" in text
    assert gives in text
    assert ("| classes |" in text) == (task != "regression")
    assert bool(re.search(r"(?m)^values +canopy height \(m\)$", out)) == (task == "regression")


def summary_of(project: Project, result: Any) -> dict[str, float]:
    return RunDir(Path(project.folder, result["subject"])).read_summary()["metrics"]


def test_every_label_is_scored(of: Any, made: dict[str, Path]) -> None:
    project = of("multilabel")
    result = project.json("evaluate", "--data-root", str(made["multilabel"] / "data"), "-o", "out")
    summary = summary_of(project, result)
    assert set(result["metrics"]) == {k for k in summary if k[:6] not in ("Class_", "loss")}
    for name, value in result["metrics"].items():
        assert value == pytest.approx(summary[name], abs=1e-6), name
    names = [c["name"] for c in CLASSES]
    assert [c["name"] for c in result["classes"]] == names
    assert (result["unit"], result["confusion"], result["values"]) == ("samples", [], None)
    for one in result["classes"]:
        there = [n for n in BY_LIST["test"] if one["name"] in SHOWN[n]]
        assert one["reference"] == len(there)
        assert (one["ap"] is None) == (not there)
        if one["f1"] is not None:
            assert one["f1"] == pytest.approx(summary[f"Class_F1_{one['name']}"], abs=1e-6)
    with Path("out/evaluation.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == names
    assert Path("out/evaluation.png").read_bytes().startswith(b"\x89PNG")
    assert not Path("out/confusion.csv").exists()
    out, _ = project.run(
        "evaluate", "tiny-rgb", "--data-root", str(made["multilabel"] / "data"), "-o", "out"
    )
    assert re.search(r"class +AP +F1 +precision +recall +samples", out)
    assert "F1 over all labels together" in out


def test_other_data_with_labels_in_another_order(of: Any, made: dict[str, Path]) -> None:
    project = of("multilabel")
    written = yaml.safe_load((made["multilabel"] / "tiny.yaml").read_text())
    written["classes"] = written["classes"][::-1]
    Path("turned.yaml").write_text(yaml.safe_dump(written, sort_keys=False))
    words = ["evaluate", "tiny", "--data-root", str(made["multilabel"] / "data"), "-o", "out"]
    own, turned = project.json(*words), project.json(*words, "--recipe", "turned.yaml")
    assert turned["classes"] == own["classes"]
    assert turned["metrics"] == pytest.approx(own["metrics"])


def test_values_are_scored_in_their_unit(of: Any, made: dict[str, Path]) -> None:
    project = of("regression")
    data = str(made["regression"] / "data")
    result = project.json("evaluate", "--data-root", data, "-o", "out")
    summary = summary_of(project, result)
    for name in ("RMSE", "MAE", "MSE", "R2_Score"):
        assert result["metrics"][name] == pytest.approx(summary[name], rel=1e-5), name
    known = []
    for name in BY_LIST["test"]:
        with rasterio.open(Path(data, "regression/masks", f"{name}.tif")) as raster:
            raw = raster.read(1)
        known.append(raw[raw != 65535] * 0.1 + 1)
    known = np.concatenate(known)
    values = result["values"]
    assert (values["pixels"], values["reference"]["unit"]) == (known.size, "m")
    for what in ("min", "mean", "max"):
        found = values["reference"][what]
        assert found == pytest.approx(getattr(known, what)(), rel=1e-4), what
    difference = values["predicted"]["mean"] - values["reference"]["mean"]
    assert result["metrics"]["Bias"] == pytest.approx(difference, rel=1e-5)
    assert (result["classes"], result["confusion_csv"]) == ([], None)
    with Path("out/evaluation.csv").open() as file:
        rows = {row["score"]: row for row in csv.DictReader(file)}
    assert (rows["RMSE"]["unit"], rows["R2_Score"]["unit"]) == ("m", "")
    assert float(rows["RMSE"]["value"]) == result["metrics"]["RMSE"]
    assert Path("out/scatter.png").read_bytes().startswith(b"\x89PNG")
    words = ["tiny", "--precision", "bf16", "--data-root", data, "-o", "out"]
    out, err = project.run("evaluate", *words)
    assert re.search(r"^RMSE +MAE +bias +R² +pixels\n[\d.]+ m +[\d.]+ m +[+-][\d.]+ m ", out)
    assert re.search(r"^canopy height \(m\) +min +mean +max\nreference +5\.800 ", out, re.MULTILINE)
    assert re.search(r"in bf16, .*; values differ by [\d.e-]+ m on average", out)
    assert "next: eosfm predict scene.tif" in err


def test_other_data_in_another_unit_is_refused(of: Any, made: dict[str, Path]) -> None:
    project = of("regression")
    written = yaml.safe_load((made["regression"] / "tiny.yaml").read_text())
    written["target"] = {"name": "biomass", "unit": "t/ha"}
    Path("biomass.yaml").write_text(yaml.safe_dump(written, sort_keys=False))
    _, err = project.run("evaluate", "--recipe", "biomass.yaml", code=2)
    assert "The model gives canopy height (m), and biomass has biomass (t/ha)" in err


def test_a_map_of_values_against_a_reference(of: Any, made: dict[str, Path]) -> None:
    project = of("regression")
    scene(project.folder / "scene.tif", 1)
    project.json("predict", "scene.tif", "--no-quicklook")
    with rasterio.open("scene_pred.tif") as raster:
        found, profile = raster.read(1).astype(np.float64), raster.profile
    truth = np.round((found + np.linspace(-2, 4, found.shape[1])) * 10).astype(np.uint16)
    truth[:3] = 65535
    write_tif(project.folder / "truth.tif", truth)
    shutil.copy(made["regression"] / "tiny.yaml", "heights.yaml")
    words = ["scene_pred.tif", "--reference", "truth.tif", "--classes", "heights.yaml"]
    result = project.json("evaluate", *words)
    known = truth[3:] * 0.1 + 1
    error = found[3:] - known
    metrics = result["metrics"]
    assert metrics["RMSE"] == pytest.approx(np.sqrt((error**2).mean()))
    assert metrics["MAE"] == pytest.approx(np.abs(error).mean())
    assert metrics["Bias"] == pytest.approx(error.mean())
    variance = ((known - known.mean()) ** 2).sum()
    assert metrics["R2_Score"] == pytest.approx(1 - (error**2).sum() / variance)
    assert result["left_out"] == {"no value in the reference": 3 * found.shape[1]}
    assert (result["task"], result["values"]["reference"]["name"]) == (
        "regression",
        "canopy height",
    )
    assert profile["dtype"] == "float32"
    assert Path("scene_pred_scatter.png").is_file()


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("multilabel", ["MultiLabelClassificationTask", "loss: bce"]),
        ("regression", ["PixelwiseRegressionTask", "ignore_index: -9999", "mode: min"]),
        ("change", ["backbone_use_temporal: true", "backbone_temporal_pooling: diff"]),
    ],
)
def test_terratorch_is_told_the_same(
    made: dict[str, Path],
    task: str,
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(made[task])
    capsys.readouterr()
    assert main(["recipes", "show", "tiny.yaml", "--as", "terratorch"]) == 0
    out = capsys.readouterr().out
    for word in words:
        assert word in out


@pytest.mark.parametrize("loss", ["ce", "dice", "focal", "lovasz"])
def test_a_batch_without_any_label_teaches_nothing(loss: str) -> None:
    """Of no pixel at all the mean loss is NaN, and so would be every weight after it."""
    unlabelled = folder_recipe(training={"backbone": "test_convnext", "loss": loss})
    task = build_specialist_task(unlabelled, {"decoder": "FCNDecoder", "decoder_channels": 8})
    batch = {"image": torch.randn(2, 3, 32, 32), "mask": torch.full((2, 32, 32), 255)}
    found = task.training_step(batch, 0)
    found.backward()
    assert found.item() == 0
    gradients = [p.grad for p in task.parameters() if p.grad is not None]
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
