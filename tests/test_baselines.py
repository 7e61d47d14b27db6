"""What an ensemble has to beat, fitted the same way: scratch, one specialist, a model of timm."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from eosfm_cli.commands.app import main
from eosfm_cli.ensemble.bundle import read_model
from eosfm_cli.recipe import load_recipe
from eosfm_cli.run_dir import RunDir
from tests.test_rank import write_specialists
from tests.tiny import RECIPE, write_scenes


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, a recipe and an export of untrained specialists."""
    folder = tmp_path_factory.mktemp("baselines")
    write_scenes(folder / "data" / "tiny")
    recipe = {**RECIPE, "fit": {**RECIPE["fit"], "epochs": 1}}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    (folder / "experiments").mkdir()
    bands = {"mini-rgb": ("red", "green", "blue"), "mini-s1": ("vv", "vh")}
    write_specialists(folder / "experiments" / "ensemble.safetensors", bands)
    return folder


@pytest.fixture
def project(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(made)
    return made


def fit(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[dict[str, Any], str]:
    capsys.readouterr()
    assert main(["fit-ensemble", "tiny.yaml", "--json", *words]) == 0
    out, err = capsys.readouterr()
    return json.loads(out), err


def refused(capsys: pytest.CaptureFixture[str], *words: str, code: int = 2) -> str:
    capsys.readouterr()
    assert main(["fit-ensemble", "tiny.yaml", *words]) == code
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return " ".join(error.split())


def test_scratch_learns_on_all_bands(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result, said = fit(capsys, "--ensemble", "scratch", "--label-fraction", "0.5")
    assert result["encoder"] == "scratch test_convnext"
    assert result["parameters"] == result["trainable"]
    assert result["ensemble"] is None
    assert "label fraction 0.5: 4 of 8 training tiles" in said
    run = RunDir(Path(result["run"]))
    recipe, summary = load_recipe(str(run.config)), run.read_summary()
    assert (recipe.fit.ensemble, recipe.fit.freeze) == ("scratch", False)
    assert recipe.fit.label_fraction == summary["label_fraction"] == 0.5
    assert summary["facts"]["tiles"] == {"train": 4, "val": 2, "test": 4}
    manifest, _ = read_model(Path(result["model"]))
    assert manifest.specialists[0].bands == recipe.bands
    run.write_summary(state="interrupted")  # random weights are drawn again, the same ones
    assert main(["fit-ensemble", "--resume", str(run.path)]) == 0


def test_one_specialist_alone(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result, said = fit(capsys, "--ensemble", "mini-s1")
    assert (result["encoder"], result["specialists"]) == ("mini-s1", ["mini-s1"])
    assert result["trainable"] < result["parameters"]
    assert "encoder: mini-s1 alone" in said
    taken = load_recipe(str(RunDir(Path(result["run"])).config)).fit
    assert taken.specialists == ("mini-s1",)
    assert taken.ensemble == str(project / "experiments" / "ensemble.safetensors")


def test_a_file_of_that_name_comes_first(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = project / "mini-rgb"
    shutil.copy(project / "experiments" / "ensemble.safetensors", copy)
    try:
        result, _ = fit(capsys, "--ensemble", "mini-rgb")
    finally:
        copy.unlink()
    assert result["encoder"] == "ensemble of 2"


def test_a_model_of_timm(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frozen, said = fit(capsys, "--ensemble", "timm:test_convnext2")
    assert frozen["encoder"] == "timm:test_convnext2, random weights"
    assert "frozen" in said
    assert frozen["trainable"] < frozen["parameters"]
    learning, _ = fit(capsys, "--ensemble", "timm:test_convnext2", "--no-freeze")
    assert learning["trainable"] == learning["parameters"] == frozen["parameters"]


def test_they_stand_in_one_table(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(capsys)
    fit(capsys, "--ensemble", "scratch")
    assert main(["compare", "--json"]) == 0
    groups = json.loads(capsys.readouterr().out)["groups"]
    encoders = {row["encoder"] for group in groups for row in group["runs"]}
    assert {"ensemble of 2", "scratch test_convnext"} <= encoders
    assert main(["runs", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert {row["encoder"] for row in rows} >= {"ensemble of 2", "scratch test_convnext"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--ensemble", "mini-rbg"], "Did you mean 'mini-rgb'?"),
        (["--ensemble", "timm:test_convnexd"], "timm has no model 'test_convnexd'"),
        (["--ensemble", "scratch", "--freeze"], "random weights, which have to learn"),
        (["--ensemble", "scratch", "--specialists", "mini-s1"], "one encoder"),
        (["--ensemble", "mini-s1", "--exclude", "mini-s1"], "No specialist is left"),
        (["--pretrained"], "timm:MODEL"),
    ],
)
def test_what_does_not_go_together_is_refused(
    words: list[str], said: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refused(capsys, *words)


def test_published_weights_out_of_reach(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    error = refused(capsys, "--ensemble", "timm:resnet18", "--pretrained", code=1)
    assert "Pretrained weights of resnet18 cannot be had" in error
    assert "--no-pretrained" in error


def test_a_file_that_is_not_there_is_no_name(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "There is no file" in refused(capsys, "--ensemble", "other.safetensors", code=3)
