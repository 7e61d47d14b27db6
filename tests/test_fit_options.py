"""Every way to put an ensemble together, through the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from eosfm_cli.commands.app import main
from eosfm_cli.ensemble import strategies
from eosfm_cli.ensemble.bundle import read_model, write_ensemble
from eosfm_cli.ensemble.specialist import Specialist, build_backbone
from eosfm_cli.manifest import SpecialistInfo
from eosfm_cli.training.model import load_model
from tests.rasters import write_tif
from tests.test_main_job import RECIPE, write_scenes

SPECIALISTS = {
    "rgb": ("red", "green", "blue"),
    "nir": ("nir", "red"),
    "s1": ("vv", "vh"),
    "dem": ("dem",),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, a recipe and an ensemble of untrained specialists, one of which cannot be fed."""
    folder = tmp_path_factory.mktemp("options")
    write_scenes(folder / "data" / "tiny")
    recipe = {**RECIPE, "fit": {**RECIPE["fit"], "epochs": 1, "ensemble": "all.safetensors"}}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    specialists = [
        Specialist(
            SpecialistInfo(name=n, backbone="test_convnext", in_chans=len(bands), bands=bands),
            build_backbone("test_convnext", len(bands)).state_dict(),
        )
        for n, bands in SPECIALISTS.items()
    ]
    write_ensemble(folder / "all.safetensors", specialists)
    scene = np.random.default_rng(0).normal(100, 10, (6, 40, 50)).astype(np.float32)
    write_tif(folder / "scene.tif", scene)
    return folder


@pytest.fixture
def project(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(made)
    return made


def fit(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["fit-ensemble", "tiny.yaml", "--json", *words]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *words: str, code: int = 2) -> str:
    capsys.readouterr()
    assert main(["fit-ensemble", "tiny.yaml", *words]) == code
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return " ".join(error.split())


@pytest.mark.parametrize(
    ("words", "gates", "parts"),
    [
        (["--fusion", "mlp", "--fuse-to-mult", "2", "--project"], "none", {"projections"}),
        (["--fusion", "addition", "--top-k", "2", "--scale-features"], "weights", {"gates"}),
        (
            ["--fusion", "multiplication", "--top-k", "2", "--adapt", "learned"],
            "none",
            {"adapters"},
        ),
        (["--fusion", "conv1x1", "--top-k", "2", "--selection", "smooth"], "smooth", {"gates"}),
        (
            ["--top-k", "2", "--selection", "smooth", "--scale-features", "--normalize", "layer"],
            "weights",
            {"gates"},
        ),
    ],
)
def test_a_model_says_and_holds_how_it_is_put_together(
    words: list[str],
    gates: str,
    parts: set[str],
    project: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    result = fit(capsys, *words)
    manifest, state = read_model(Path(result["model"]))
    kept = 2 if "--top-k" in words else 3
    assert len(result["specialists"]) == len(manifest.specialists) == kept
    assert set(result["scores"]) == ({"rgb", "nir", "s1"} if kept == 2 else set())
    assert manifest.encoder.gates == gates
    optional = {"projections", "gates", "adapters"}
    assert {name.split(".")[1] for name in state if "encoder." in name} & optional == parts
    if "mlp" in words:
        assert manifest.encoder.out_channels == (48, 64, 96, 128)
    load_model(Path(result["model"]))
    assert main(["ablate", result["run"]]) == 0
    assert main(["predict", "scene.tif", "--model", result["run"], "--overwrite"]) == 0


def test_a_declared_view_goes_into_the_model(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--set", "views={irg: [nir, B4, green]}", "--specialists", "rgb,s1"]
    result = fit(capsys, *words)
    manifest, _ = read_model(Path(result["model"]))
    assert [view.name for view in manifest.encoder.views["rgb"]] == ["irg"]
    encoder = load_model(Path(result["model"])).module.model.encoder
    assert encoder.plan.lines()[0] == "rgb  irg: red ← nir, green ← red, blue ← green"


def test_specialists_without_names_for_their_bands_run_by_count(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = [
        (n, build_backbone("test_convnext", n).state_dict(), {"backbone": "timm_test_convnext"})
        for n in (3, 2, 13)
    ]
    torch.save(entries, project / "seed.pth")
    words = ["--ensemble", "seed.pth", "--set", "bands=[blue, green, red, nir]", "--top-k", "2"]
    assert main(["fit-ensemble", "tiny.yaml", *words, "--set", "name=counted"]) == 0
    told = " ".join(capsys.readouterr().err.split())
    assert "specialist-1 by count: band 1 ← nir, band 2 ← blue, band 3 ← green" in told
    assert "specialist-2 left out: needs 2 bands" in told
    (run,) = (project / "experiments" / "fit" / "counted").iterdir()
    assert main(["ablate", str(run)]) == 0
    assert "specialist-1 by count: band 1 ← blue" in " ".join(capsys.readouterr().err.split())


PLUGIN = """\
from eosfm_cli.ensemble.strategies import BandAdaptationStrategy, register_strategy


@register_strategy
class Squared(BandAdaptationStrategy):
    required_bands = ("red", "green", "blue")
    available_bands = ("nir", "red", "green")

    def adapt(self, features):
        return features.square()
"""


def test_a_plugin_feeds_specialists_and_the_model_asks_for_it(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strategies, "_registered", {})
    (project / "own.py").write_text(PLUGIN)
    assert main(["fit-ensemble", "tiny.yaml", "--plugin", "own.py"]) == 0
    told = capsys.readouterr()
    assert "plugin own.py: Squared" in told.err
    assert "computed by Squared of own.py" in " ".join(told.err.split())
    strategies._registered.clear()
    assert main(["ablate"]) == 3
    error = " ".join(capsys.readouterr().err.split())
    assert "strategy Squared, which is not loaded" in error
    assert "--plugin own.py" in error
    assert main(["ablate", "--plugin", "own.py"]) == 0
    assert main(["predict", "scene.tif", "--overwrite", "--plugin", "own.py"]) == 0
    assert main(["evaluate", "--plugin", "own.py"]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--fuse-to-mult", "2"], "fit.fuse_to_mult: only fusion conv1x1 and mlp take it"),
        (["--selection", "smooth"], "fit.selection: smooth needs fit.top_k (--top-k)"),
        (["--scale-features"], "fit.scale_features: there are scores only where fit.top_k"),
        (["--top-k", "4", "--strict"], "--top-k 4 is more than the 3 usable specialists"),
        (["--plugin", "none.py"], "There is no plugin none.py"),
        (["--set", "views={x: [swir16]}"], "'swir16' is not among the recipe's bands"),
        (["--set", "views={x: []}"], "needs at least one band"),
        (["--set", "views={x: [gren]}"], "did you mean 'green'"),
        (["--set", "views=[red]"], "should be a mapping"),
        (["--fusion", "conv"], "conv1x1"),
        (["--specialists", "rbg"], "Did you mean 'rgb'"),
        (["--exclude", "7"], "no specialist '7'"),
    ],
)
def test_options_that_cannot_be_used(
    words: list[str], message: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(capsys, *words)


def test_a_view_that_does_not_fit_its_specialist(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = refused(capsys, "--set", "views={rgb: [red, nir]}", code=3)
    assert "views.rgb names 2 bands, specialist 'rgb' takes 3 (red, green, blue)" in error


def test_specialists_of_other_widths_are_named(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wide = SpecialistInfo(name="wide", backbone="resnet18", in_chans=2, bands=("vv", "vh"))
    rgb = SpecialistInfo(
        name="rgb", backbone="test_convnext", in_chans=3, bands=("red", "green", "blue")
    )
    write_ensemble(
        project / "mixed.safetensors",
        [Specialist(i, build_backbone(i.backbone, i.in_chans).state_dict()) for i in (rgb, wide)],
    )
    before = sorted(project.rglob("*"))
    words = ["--ensemble", "mixed.safetensors", "--fusion", "addition"]
    error = refused(capsys, *words)
    assert "'wide' has 64, 128, 256, 512 channels, 'rgb' has 24, 32, 48, 64" in error
    assert [p for p in sorted(project.rglob("*")) if p.suffix != ".csv"] == [
        p for p in before if p.suffix != ".csv"
    ]
