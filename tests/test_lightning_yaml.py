"""Lightning YAMLs: told apart from recipes, translated, changed by options, trained, exported."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from eosfm_cli.commands.app import main
from eosfm_cli.ensemble.bundle import read_ensemble
from eosfm_cli.errors import RecipeError, UsageError
from eosfm_cli.lightning_yaml import (
    DATA_MODULE,
    LightningYaml,
    Monitor,
    for_run_folder,
    is_lightning_yaml,
    read_lightning_yaml,
    with_options,
)
from eosfm_cli.recipe import load_recipe
from eosfm_cli.run_dir import RunDir
from eosfm_cli.seed_datamodules import SEED_DATA, load_lightning_yaml
from tests.datasets.potsdam import write_potsdam
from tests.foreign import STOPS
from tests.rasters import write_tif
from tests.test_main_job import RECIPE, write_scenes

SEED = """\
seed_everything: 0

trainer:
  accelerator: cpu
  devices: auto
  precision: 32-true
  max_epochs: 2
  limit_train_batches: 2
  logger:
    class_path: TensorBoardLogger
    init_args:
      save_dir: elsewhere
      name: my_experiment
  callbacks:
    - class_path: EarlyStopping
      init_args: {monitor: val/loss, patience: 5}
    - class_path: ModelCheckpoint
      init_args: {monitor: val/loss, mode: min}

data:
  class_path: eosfm.datamodules.Potsdam2DDataModule
  init_args:
    batch_size: 8
    tile_size: 32
    num_workers: 0
    val_split_pct: 0.5
  dict_kwargs:
    root: ROOT

model:
  class_path: terratorch.tasks.SemanticSegmentationTask
  init_args:
    model_args:
      backbone: timm_test_convnext
      backbone_in_chans: 3
      decoder: UperNetDecoder
      decoder_channels: 8
      num_classes: 6
    loss: dice
    ignore_index: -1
    freeze_backbone: false

optimizer:
  class_path: torch.optim.AdamW
  init_args:
    lr: 1e-3
    weight_decay: 0.1

lr_scheduler:
  class_path: CosineAnnealingLR
  init_args: {T_max: 2}
"""


def write_yaml(folder: Path, text: str = SEED, **parts: Any) -> Path:
    """A configuration, with parts replaced or, where they are `None`, taken out."""
    data = yaml.safe_load(text)
    for key, value in parts.items():
        data[key] = value
        if value is None:
            del data[key]
    path = folder / "potsdam.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False) if parts else text)
    return path


def translated(folder: Path, **parts: Any) -> LightningYaml:
    return load_lightning_yaml(write_yaml(folder, **parts), {}, {}, None)


def data_of(config: LightningYaml) -> dict[str, Any]:
    return config.data["data"]["init_args"]


# ------------------------------------------------------------------------------ told apart and read


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        (SEED, True),
        ("fit:\n  trainer: {}\n  model: {class_path: a.B}\n", True),
        ("trainer: {gpus: 1}\n", True),
        ("title: Mine\ntask: segmentation\ndataset: {}\n", False),
        ("dataset: {}\nmodel: mine\n", False),
        ("model: [unclosed\n", False),
        ("- model\n", False),
        ("", False),
    ],
)
def test_a_lightning_yaml_is_told_from_a_recipe(tmp_path: Path, text: str, is_one: bool) -> None:
    path = tmp_path / "some.yaml"
    path.write_text(text)
    assert is_lightning_yaml(path) is is_one
    assert not is_lightning_yaml(tmp_path / "missing.yaml")


def test_no_shipped_recipe_passes_for_one() -> None:
    assert not is_lightning_yaml("recipes/mini.yaml")
    assert not is_lightning_yaml("mini")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("trainer: {}\nmodle: {}\n", r"line 2: modle: unknown key, did you mean 'model'\?"),
        ("trainer: {}\ndata: {class_path: a.B}\n", "'model' is missing"),
        ("model: {class_path: a.B}\n", "'data' is missing"),
        ("model: a.B\ndata: a.C\ntrainer: 3\n", "line 3: trainer: should be a mapping"),
    ],
)
def test_the_shape_of_a_file_is_checked(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "some.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=expected):
        read_lightning_yaml(path)


def test_numbers_with_exponents_are_numbers(tmp_path: Path) -> None:
    config = read_lightning_yaml(write_yaml(tmp_path))
    assert config.data["optimizer"]["init_args"]["lr"] == 0.001


# ------------------------------------------------------------------------------ options


@pytest.mark.parametrize(
    ("option", "value", "place"),
    [
        ("epochs", 7, ("trainer", "max_epochs")),
        ("devices", 2, ("trainer", "devices")),
        ("precision", "bf16-mixed", ("trainer", "precision")),
        ("seed", 5, ("seed_everything",)),
        ("lr", 0.5, ("optimizer", "init_args", "lr")),
        ("batch_size", 3, ("data", "init_args", "batch_size")),
        ("backbone", "timm_other", ("model", "init_args", "model_args", "backbone")),
        ("pretrained", True, ("model", "init_args", "model_args", "backbone_pretrained")),
    ],
)
def test_options_stand_for_keys(tmp_path: Path, option: str, value: Any, place: Any) -> None:
    found: Any = with_options(read_lightning_yaml(write_yaml(tmp_path)), {option: value}, {}).data
    for part in place:
        found = found[part]
    assert found == value


def test_a_learning_rate_goes_to_the_model_where_it_is_the_models(tmp_path: Path) -> None:
    config = read_lightning_yaml(write_yaml(tmp_path, optimizer=None))
    changed = with_options(config, {"lr": 0.5}, {})
    assert changed.data["model"]["init_args"]["lr"] == 0.5


def test_a_seed_is_also_that_of_a_recipes_data(tmp_path: Path) -> None:
    data = {"class_path": DATA_MODULE, "init_args": {"recipe": "mini-rgb", "seed": 0}}
    config = with_options(read_lightning_yaml(write_yaml(tmp_path, data=data)), {"seed": 5}, {})
    assert config.data["seed_everything"] == 5
    assert data_of(config)["seed"] == 5


def test_a_schedule_over_all_epochs_follows_their_number(tmp_path: Path) -> None:
    config = with_options(read_lightning_yaml(write_yaml(tmp_path)), {"epochs": 9}, {})
    assert config.data["lr_scheduler"]["init_args"]["T_max"] == 9
    assert any("T_max" in note for note in config.notes)


def test_set_reaches_items_of_lists(tmp_path: Path) -> None:
    key = "trainer.callbacks.0.init_args.patience"
    config = read_lightning_yaml(write_yaml(tmp_path))
    changed = with_options(config, {}, {key: 2})
    assert changed.data["trainer"]["callbacks"][0]["init_args"]["patience"] == 2
    with pytest.raises(UsageError, match="no item of a list of 2"):
        with_options(config, {}, {"trainer.callbacks.2": 1})


@given(st.lists(st.text("abc", min_size=1), min_size=1, max_size=3), st.integers())
def test_what_is_set_is_there_and_the_rest_stays(keys: list[str], value: int) -> None:
    before = {"trainer": {"max_epochs": 1}, "model": "a.B", "data": "a.C"}
    config = LightningYaml(Path("some.yaml"), "", before)
    after: Any = with_options(config, {}, {".".join(["trainer", *keys]): value}).data
    assert after["trainer"]["max_epochs"] == 1
    assert before["trainer"] == {"max_epochs": 1}
    after = after["trainer"]
    for key in keys:
        after = after[key]
    assert after == value


def test_keys_of_recipes_are_pointed_to_their_place(tmp_path: Path) -> None:
    config = translated(tmp_path)
    with pytest.raises(UsageError, match="its keys are") as caught:
        with_options(config, {}, {"tile.size": 64})
    assert "data.init_args.overrides.tile.size" in str(caught.value.hint)


# ------------------------------------------------------------------------------ published modules


@pytest.mark.parametrize(
    "class_path",
    [
        "eosfm.datamodules.Potsdam2DDataModule",
        "eosfm.datamodules.potsdam.Potsdam2DDataModule",
        "Potsdam2DDataModule",
    ],
)
def test_published_data_modules_are_recipes(tmp_path: Path, class_path: str) -> None:
    root = tmp_path / "somewhere" / "Potsdam"
    arguments = {"batch_size": 4, "tile_size": 64, "stride": 32, "num_workers": 3}
    data = {"class_path": class_path, "init_args": arguments, "dict_kwargs": {"root": str(root)}}
    found = data_of(translated(tmp_path, data=data))
    overrides = found.pop("overrides")
    assert found == {"recipe": "potsdam", "batch_size": 4, "workers": 3, "seed": 0}
    assert overrides == {
        "bands": ["nir", "red", "green"],
        "tile.size": 64,
        "tile.stride": 32,
        "dataset.root": str(root),
    }


@pytest.mark.parametrize(
    ("bands", "channels", "expected"),
    [
        (None, 3, ["nir", "red", "green"]),
        (None, 4, ["red", "green", "blue", "nir"]),
        ([3, 0, 1], 3, ["nir", "red", "green"]),
        ([0, 1, 2], 3, ["red", "green", "blue"]),
        (["R", "G", "NIR"], 3, ["red", "green", "nir"]),
    ],
)
def test_potsdams_bands(tmp_path: Path, bands: Any, channels: int, expected: list[str]) -> None:
    raw = yaml.safe_load(SEED)
    raw["model"]["init_args"]["model_args"]["backbone_in_chans"] = channels
    raw["data"]["dict_kwargs"] = {} if bands is None else {"bands": bands}
    config = translated(tmp_path, data=raw["data"], model=raw["model"])
    assert data_of(config)["overrides"]["bands"] == expected


@pytest.mark.parametrize(
    ("bands", "given", "recipe", "channels"),
    [
        (None, 15, "sen12ms-all", 15),
        ("rgb", 3, "sen12ms-rgb", 3),
        ("s2", 13, "sen12ms-s2", 13),
        ("s1", 2, "sen12ms-s1", 2),
        ("s1", 3, "sen12ms-s1", 2),  # made of two by repetition; ours are two
        ("all", None, "sen12ms-all", 15),
    ],
)
def test_sen12ms_variants(
    tmp_path: Path, bands: str | None, given: int | None, recipe: str, channels: int
) -> None:
    raw = yaml.safe_load(SEED)
    model_args = raw["model"]["init_args"]["model_args"]
    model_args |= {"backbone_in_chans": given, "num_classes": 11}
    arguments = {} if bands is None else {"bands": bands}
    data = {"class_path": "eosfm.datamodules.SEN12MSDataModule", "init_args": arguments}
    config = translated(tmp_path, data=data, model=raw["model"])
    assert data_of(config)["recipe"] == recipe
    model = config.data["model"]["init_args"]
    assert model["model_args"]["backbone_in_chans"] == channels
    assert model["model_args"]["num_classes"] == len(model["class_names"]) == 10
    assert model["ignore_index"] == load_recipe(recipe).ignore_index
    assert any("num_classes: 10" in note for note in config.notes)


@pytest.mark.parametrize(
    ("module", "arguments", "given", "recipe", "bands"),
    [
        ("BigEarthNetV2", {"bands": "s1"}, 3, "bigearthnetv2-s1", ["vv", "vh"]),
        ("BigEarthNetV2", {"bands": "rgb"}, 3, "bigearthnetv2-rgb", ["red", "green", "blue"]),
        ("CaFFe", {"download": True}, 3, "caffe", None),
        (
            "CloudCoverDetection",
            {"band_indices": [3, 2, 1], "bands": ["B02", "B03", "B04", "B08"]},
            3,
            "cloud-cover",
            ["nir", "red", "green"],
        ),
        ("ETCI2021", {}, 3, "etci2021", ["vv", "vh"]),
        ("OpenCanopy", {"root_dir": "spot"}, 3, "opencanopy", ["nir", "red", "green"]),
    ],
)
def test_other_published_data_modules(
    tmp_path: Path,
    module: str,
    arguments: dict[str, Any],
    given: int,
    recipe: str,
    bands: list[str] | None,
) -> None:
    raw = yaml.safe_load(SEED)
    raw["model"]["init_args"]["model_args"]["backbone_in_chans"] = given
    data = {"class_path": f"eosfm.datamodules.{module}DataModule", "init_args": arguments}
    config = translated(tmp_path, data=data, model=raw["model"])
    found = data_of(config)
    assert found["recipe"] == recipe
    used = load_recipe(recipe, found.get("overrides", {})).bands
    assert bands is None or list(used) == bands
    model = config.data["model"]["init_args"]
    assert model["model_args"]["backbone_in_chans"] == len(used)


def test_every_entry_of_the_table_has_its_recipes() -> None:
    for seed in SEED_DATA.values():
        for name in [f"{seed.recipe}-{variant}" for variant in seed.variants] or [seed.recipe]:
            load_recipe(name)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"class_path": "eosfm.datamodules.XView2DataModule"}, "no recipe for .*XView2"),
        (
            {"class_path": "SEN12MSDataModule", "init_args": {"bands": "s22"}},
            "'s22' is not known, did you mean 's2'",
        ),
        (
            {"class_path": "Potsdam2DDataModule", "init_args": {"bands": [0, 4]}},
            "4 is no band of the data; there are red, green, blue, nir",
        ),
        (
            {"class_path": "Potsdam2DDataModule", "init_args": {"tile_size": 100}},
            "tile.size: should be a multiple of 32",
        ),
    ],
)
def test_what_has_no_translation_is_an_error(
    tmp_path: Path, data: dict[str, Any], expected: str
) -> None:
    with pytest.raises(RecipeError, match=expected):
        translated(tmp_path, data=data)


def test_what_is_not_carried_over_is_told(tmp_path: Path) -> None:
    arguments = {"val_split_pct": 0.5, "bach_size": 3}
    data = {"class_path": "Potsdam2DDataModule", "init_args": arguments}
    notes = "\n".join(translated(tmp_path, data=data).notes)
    assert "val_split_pct is not used: the recipe says" in notes
    assert "bach_size is not used; did you mean batch_size?" in notes


def test_data_root_goes_before_the_files_folder(tmp_path: Path) -> None:
    path = write_yaml(tmp_path)
    found = data_of(load_lightning_yaml(path, {}, {}, tmp_path / "here"))
    assert found["data_root"] == str(tmp_path / "here")
    assert "dataset.root" not in found["overrides"]


def test_data_root_cannot_apply_to_other_data_modules(tmp_path: Path) -> None:
    path = write_yaml(tmp_path, data={"class_path": "some.Other"})
    with pytest.raises(UsageError, match="--data-root cannot apply"):
        load_lightning_yaml(path, {}, {}, tmp_path)


def test_where_results_go_is_the_run_folders(tmp_path: Path) -> None:
    config, monitor = for_run_folder(read_lightning_yaml(write_yaml(tmp_path)))
    assert monitor == Monitor("val/loss", "min")
    assert "logger" not in config.data["trainer"]
    (kept,) = config.data["trainer"]["callbacks"]
    assert kept["class_path"] == "EarlyStopping"
    assert "ModelCheckpoint" in config.notes[-1]
    assert "trainer.logger" in config.notes[-1]


# ------------------------------------------------------------------------------ trained


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which a configuration as published was trained on Potsdam's layout."""
    folder = tmp_path_factory.mktemp("seed")
    write_potsdam(folder / "Potsdam")
    (folder / "configs").mkdir()
    write_yaml(folder / "configs", SEED.replace("ROOT", "Potsdam"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train-specialist", "configs/potsdam.yaml"]) == 0
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


Run = Callable[..., tuple[str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command that must end in `code`; what it said on stdout and stderr."""

    def command(*words: str, code: int = 0) -> tuple[str, str]:
        found = main(list(words))
        out, err = capsys.readouterr()
        assert found == code, err
        assert "Traceback" not in err
        return out, err

    return command


def only_run(folder: Path, name: str) -> RunDir:
    (path,) = (folder / "experiments" / "train" / name).iterdir()
    return RunDir(path)


def test_a_published_configuration_leaves_a_run_like_any_other(made: Path) -> None:
    found = only_run(made, "potsdam")
    summary = found.read_summary()
    assert summary["state"] == "completed"
    assert summary["split"] == "test"
    assert 0 <= summary["metrics"]["mIoU"] <= 1
    assert 0 < summary["parameters"] < summary["trainable"]
    for path in (found.metrics, found.history, found.best, found.last, found.emissions, found.log):
        assert path.stat().st_size > 0
    assert list((found.path / "tensorboard").rglob("events*"))
    assert not (made / "elsewhere").exists()
    assert not (made / "lightning_logs").exists()


def test_the_runs_configuration_runs_again(made: Path, here: Path, run: Run) -> None:
    config = only_run(made, "potsdam").config
    out, err = run("train-specialist", str(config), "--epochs", "1", "--json")
    (result,) = json.loads(out)["results"]
    assert result["specialist"] == "potsdam"
    assert "epoch 1/1" in err
    again = yaml.safe_load(RunDir(Path(result["run"])).config.read_text())
    before = yaml.safe_load(config.read_text())
    assert before["trainer"].pop("max_epochs") == 2
    assert again["trainer"].pop("max_epochs") == 1
    assert before.pop("lr_scheduler") != again.pop("lr_scheduler")  # it follows
    assert again == before


def test_the_runs_configuration_still_says_what_picks_the_best_epoch(made: Path) -> None:
    found = only_run(made, "potsdam")
    config, monitor = for_run_folder(read_lightning_yaml(found.config))
    assert monitor == Monitor("val/loss", "min")
    assert [
        one["class_path"].rpartition(".")[2] for one in config.data["trainer"]["callbacks"]
    ] == ["EarlyStopping"]


def test_such_runs_become_specialists_with_all_that_is_known(
    made: Path, here: Path, run: Run
) -> None:
    out = here / "both.safetensors"
    _, err = run("export", "--experiments", str(made / "experiments"), "--output", str(out))
    (specialist,) = read_ensemble(out)
    info = specialist.info
    assert (info.name, info.recipe, info.backbone) == ("potsdam", "potsdam", "test_convnext")
    assert info.bands == ("nir", "red", "green")
    assert set(info.statistics) == {"nir", "red", "green"}
    assert info.metrics["mIoU"] >= 0
    assert info.seconds > 0
    assert "nir, red, green" in err


def test_a_plan_keeps_nothing(made: Path, here: Path, run: Run) -> None:
    path = write_yaml(here, SEED.replace("ROOT", str(made / "Potsdam")))
    out, err = run("train-specialist", str(path), "--epochs", "5", "--dry-run")
    assert "nir, red, green" in out
    assert "5 epochs" in out
    assert "recipe potsdam" in err
    assert not (here / "experiments").exists()


def test_the_recipe_beside_a_run_finds_its_data_from_anywhere(made: Path) -> None:
    recipe = load_recipe(str(only_run(made, "potsdam").recipe))
    assert recipe.dataset.root == str(made / "Potsdam")
    assert recipe.statistics is not None
    assert recipe.training.backbone == "test_convnext"


def foreign_yaml(folder: Path, **trainer: Any) -> Path:
    model = yaml.safe_load(SEED)["model"]
    model["init_args"] |= {"plot_on_val": False}
    model["init_args"]["model_args"] |= {"backbone_in_chans": 2, "num_classes": 2}
    path = folder / "foreign.yaml"
    parts = {
        "trainer": {"accelerator": "cpu", "max_epochs": 3, **trainer},
        "data": {"class_path": "tests.foreign.Foreign"},
        "model": model,
    }
    path.write_text(yaml.safe_dump(parts, sort_keys=False))
    return path


def test_other_data_modules_train_and_are_exported_without_bands(here: Path, run: Run) -> None:
    foreign_yaml(here)
    out, err = run("train-specialist", "foreign.yaml", "--epochs", "1", "--json")
    (result,) = json.loads(out)["results"]
    assert result["split"] == "val"
    assert result["metrics"]["mIoU"] >= 0
    assert "no test split" in err
    assert "hello from somebody's class" in err
    run("export")
    (specialist,) = read_ensemble(here / "experiments" / "ensemble.safetensors")
    assert specialist.info.bands is None
    assert specialist.info.in_chans == 2


def test_ctrl_c_is_an_interruption_and_the_run_goes_on(
    here: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign_yaml(here, callbacks=[{"class_path": "tests.foreign.Stops"}])
    run("train-specialist", "foreign.yaml", "-o", "whole")
    whole = RunDir(next((here / "whole" / "train" / "foreign").iterdir()))
    monkeypatch.setenv(STOPS, "1")
    run("train-specialist", "foreign.yaml", code=130)
    stopped = only_run(here, "foreign")
    assert stopped.state == "interrupted"
    monkeypatch.delenv(STOPS)
    _, err = run("train-specialist", "--resume", str(stopped.path), "--lr", "0.5", code=2)
    assert re.search(r"model.init_args.lr: 0.001 in the run, 0.5 now", err)
    run("train-specialist", "--resume", str(stopped.path))
    assert stopped.state == "completed"
    ours, theirs = (r.read_summary()["metrics"] for r in (stopped, whole))
    assert ours == pytest.approx(theirs, abs=1e-6)


def test_data_that_does_not_say_how_much_it_is(here: Path, run: Run) -> None:
    path = foreign_yaml(here, max_epochs=1)
    path.write_text(path.read_text().replace("tests.foreign.Foreign", "tests.foreign.Stream"))
    run("train-specialist", "foreign.yaml")
    assert only_run(here, "foreign").state == "completed"


def test_a_run_that_stopped_early_has_no_epoch_left_when_it_is_resumed(
    here: Path, run: Run
) -> None:
    stopping = {"monitor": "val/loss", "stopping_threshold": 1e6}
    foreign_yaml(here, callbacks=[{"class_path": "EarlyStopping", "init_args": stopping}])
    run("train-specialist", "foreign.yaml")
    found = only_run(here, "foreign")
    weights, before = found.last.read_bytes(), found.read_summary()["metrics"]
    found.write_summary(state="interrupted")  # as if while it was measured
    for others in (["mini-rgb"], ["foreign.yaml", "mini-rgb"]):
        _, err = run("train-specialist", "--resume", str(found.path), *others, code=2)
        assert "a run of one Lightning YAML" in err
    run("train-specialist", "--resume", str(found.path))
    assert found.last.read_bytes() == weights
    assert found.read_summary()["metrics"] == before


# ------------------------------------------------------------------------------ from recipes


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A segmentation and a classification recipe over tiny data, as Lightning YAMLs too."""
    folder = tmp_path_factory.mktemp("tiny")
    write_scenes(folder / "data" / "tiny")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(RECIPE, sort_keys=False))
    rng = np.random.default_rng(0)
    for number in range(12):
        kind = ("field", "town")[number % 2]
        pixels = rng.normal(100 + 50 * (number % 2), 10, (3, 32, 32))
        write_tif(folder / "data" / "kinds" / kind / f"{number}.tif", pixels.astype(np.float32))
    kinds = {
        "title": "Kinds",
        "task": "classification",
        "dataset": {
            "root": "kinds",
            "images": {"rgb": {"path": "{class}/{id}.tif", "bands": ["red", "green", "blue"]}},
            "split": {"by": "fraction", "val": 0.25, "test": 0.25},
        },
        "classes": [{"name": "field"}, {"name": "town"}],
        "tile": {"size": 32},
        "training": {**RECIPE["training"], "epochs": 1, "batch_size": 2},
    }
    (folder / "kinds.yaml").write_text(yaml.safe_dump(kinds, sort_keys=False))
    return folder


@pytest.mark.parametrize("name", ["tiny-rgb", "kinds"])
def test_a_recipe_as_terratorch_trains_to_the_same_result(
    tiny: Path, name: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny)
    words = ("--set", "tile.size=32", "--set", "training.epochs=1")
    out, _ = run("recipes", "show", f"{name}.yaml", "--as", "terratorch", *words)
    (tiny / f"{name}-terratorch.yaml").write_text(out)
    results = {}
    for file in (f"{name}.yaml", f"{name}-terratorch.yaml"):
        epochs = ("--epochs", "1")
        out, _ = run("train-specialist", file, *epochs, "--json", "-o", str(tiny / "runs"))
        (results[file],) = json.loads(out)["results"]
    recipe, terratorch = (result["metrics"] for result in results.values())
    shared = recipe.keys() & terratorch.keys()
    assert {"loss", "Accuracy"} <= shared
    assert {k: terratorch[k] for k in shared} == pytest.approx({k: recipe[k] for k in shared})


@pytest.mark.slow
def test_terratorchs_own_command_line_runs_it(
    tiny: Path, here: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny)
    out, _ = run("recipes", "show", "tiny-rgb.yaml", "--as", "terratorch")
    (here / "plain.yaml").write_text(out)
    done = subprocess.run(
        [Path(sys.executable).with_name("terratorch"), "fit", "-c", "plain.yaml"],
        cwd=here,
        env={**os.environ, "EOSFM_DATA": str(tiny / "data")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert list(here.rglob("best.ckpt"))


# ------------------------------------------------------------------------------ bad input


def changed(part: str, **values: Any) -> dict[str, Any]:
    """A part of the published configuration with some arguments changed."""
    raw = yaml.safe_load(SEED)[part]
    place = raw if part == "trainer" else raw["init_args"]
    place |= values
    return {part: raw}


def with_model_args(**values: Any) -> dict[str, Any]:
    model = yaml.safe_load(SEED)["model"]
    model["init_args"]["model_args"] |= values
    return {"model": model}


BAD = {
    "gpus": (changed("trainer", gpus=1), "trainer.gpus: this was removed in Lightning 2: write "
             "accelerator: gpu, devices: 1"),
    "bar": (changed("trainer", progress_bar_refresh_rate=1), "its own progress bar"),
    "auto_lr": (changed("trainer", auto_lr_find=True), "choose a rate with --lr"),
    "trainer typo": (changed("trainer", max_epoch=1), "did you mean 'max_epochs'?"),
    "wrong kind": (changed("trainer", max_epochs="ten"), "trainer.max_epochs: 'ten' will not do"),
    "precision": (changed("trainer", precision="bf17"), "trainer.precision"),
    "accelerator": (changed("trainer", accelerator="ddp"), "trainer: this machine cannot train so"),
    "trial": (changed("trainer", fast_dev_run=True), "trainer.fast_dev_run"),
    "model typo": (changed("model", los="dice"), "model.init_args.los: SemanticSegmentationTask "
                   "takes no 'los', did you mean 'loss'?"),
    "optimizer typo": (changed("optimizer", weight_decy=1), "did you mean 'weight_decay'?"),
    "optimizer name": ({"optimizer": {"class_path": "AdamWW"}}, "no class 'AdamWW', did you mean"),
    "callback": ({"trainer": {"callbacks": [{"class_path": "EarlyStoping"}]}},
                 "trainer.callbacks.0.class_path: there is no class 'EarlyStoping', did you mean "
                 "'EarlyStopping'?"),
    "callback typo": (
        {"trainer": {"callbacks": [{"class_path": "EarlyStopping",
                                    "init_args": {"monitor": "val/loss", "patince": 2}}]}},
        "trainer.callbacks.0.init_args.patince: EarlyStopping takes no 'patince', did you mean "
        "'patience'?",
    ),
    "no such package": ({"data": {"class_path": "foo.bar.Baz"}},
                        "data.class_path: foo.bar.Baz cannot be used: No module named 'foo'"),
    "no such class": ({"data": {"class_path": "terratorch.datamodules.Baz"}},
                      "has no attribute 'Baz'"),
    "another kind": ({"data": {"class_path": "torch.optim.Adam"}}, "data"),
    "backbone": (with_model_args(backbone="timm_nothing"),
                 "model cannot be built: InvalidModelError: Unknown model nothing"),
    "decoder": (with_model_args(decoder="NoDecoder"), "Model NoDecoder not found"),
    "channels": (with_model_args(backbone_in_chans=5), "backbone_in_chans is 5, the data"),
    "recipe": ({"data": {"class_path": DATA_MODULE, "init_args": {"recipe": "mimi"}}},
               "There is no recipe 'mimi'. Did you mean 'mini'?"),
    "recipe key": (
        {"data": {"class_path": DATA_MODULE,
                  "init_args": {"recipe": "mini", "overrides": {"tile": {"sise": 64}}}}},
        "overrides: tile.sise: unknown key, did you mean 'size'?",
    ),
    "go on": ({"ckpt_path": "some.ckpt"}, "ckpt_path: a run of eosfm starts at its beginning"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit_is_one_message(made: Path, here: Path, run: Run, case: str) -> None:
    parts, expected = BAD[case]
    path = write_yaml(here, SEED.replace("ROOT", str(made / "Potsdam")), **parts)
    out, err = run("train-specialist", str(path), code=2)
    message = err[err.index("error: ") :]
    assert expected in message
    assert "usage:" not in message
    assert len(message.splitlines()) <= 2
    assert out == ""
    assert not (here / "experiments" / "train").exists()


def test_a_value_that_nothing_logs(here: Path, run: Run) -> None:
    stopping = {"class_path": "EarlyStopping", "init_args": {"monitor": "val/nothing"}}
    foreign_yaml(here, callbacks=[stopping])
    _, err = run("train-specialist", "foreign.yaml", code=2)
    assert "trainer.callbacks: monitor names no value that this task logs" in err
    assert only_run(here, "foreign").state == "failed"


def test_missing_data_is_said_as_for_recipes(here: Path, run: Run) -> None:
    path = write_yaml(here, SEED.replace("ROOT", "nowhere"))
    _, err = run("train-specialist", str(path), code=3)
    assert str(here / "nowhere") in err
