"""Looking into files: by their headers alone, in words, and without running anything."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import safetensors.torch
import torch
from checkpoints import BACKBONE, PARAMETERS_3, tiny_specialist, tiny_state, train_run

from eosfm_cli.commands.app import main
from eosfm_cli.ensemble.bundle import read_model, write_ensemble, write_model
from eosfm_cli.errors import BundleError
from eosfm_cli.manifest import EncoderInfo, EnsembleManifest, SpecialistInfo, to_metadata
from eosfm_cli.recipe import BandStatistics
from tests.rasters import folder_recipe, write_tif
from tests.test_bundle import _model_manifest
from tests.test_cli import on_a_terminal
from tests.test_merge import named
from tests.test_startup import HEAVY
from tests.test_startup import run as run_apart


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("EOSFM_EXPERIMENTS", raising=False)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["inspect", *arguments])
    return code, *capsys.readouterr()


def write_fitted(path: Path, **changes: Any) -> Path:
    """A model of two specialists, as far as looking at it goes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    radar = tiny_specialist("s1", 2).info.model_copy(
        update={"bands": ("vv", "vh"), "licence": None, "energy_kwh": None}
    )
    known = {
        "bands": ("red", "green", "blue", "vv", "vh"),
        "statistics": {
            band: BandStatistics(mean=0, std=1) for band in ("red", "green", "blue", "vv", "vh")
        },
        "specialists": (tiny_specialist("rgb").info, radar),
        "encoder": EncoderInfo(
            fusion="mlp", fuse_to_mult=2, top_k=2, scores={"rgb": 0.9, "s1": 0.5, "s2": 0.1}
        ),
        "metrics": {"mIoU": 0.625, "IoU_water": float("nan")},
        "licence": "CC-BY-NC-4.0",
        "seconds": 60.0,
        "energy_kwh": 0.001,
    }
    state = {
        "encoder.backbones.0.stem_0.weight": torch.ones(4, 3),
        "encoder.backbones.1.stem_0.weight": torch.ones(4, 2),
        "decoder.weight": torch.ones(3, 5),
        "decoder.norm.running_mean": torch.zeros(100),
        "head.bias": torch.ones(2),
    }
    write_model(path, state, _model_manifest(**{**known, **changes}))
    return path


# --------------------------------------------------------------------------- what is shown


def test_an_ensemble_is_read_by_its_header_alone(tmp_path: Path) -> None:
    write_ensemble(tmp_path / "ensemble.safetensors", [tiny_specialist()])
    write_fitted(tmp_path / "model.safetensors")
    for arguments in (["ensemble.safetensors", "--bands", "mini"], ["model.safetensors"]):
        code, modules = run_apart("inspect", *arguments, cwd=tmp_path)
        assert code == 0
        assert not modules & HEAVY


def test_an_ensemble_is_shown_whole(tmp_path: Path, capsys: Any) -> None:
    ours = tiny_specialist("ours")
    theirs = named(
        tiny_specialist("theirs", 5, seed=1),
        licence="CC-BY-NC-SA-4.0",
        source="theirs.pth",
        bands=None,
    )
    bare = named(tiny_specialist("bare", 2), licence=None, metrics={}, energy_kwh=None)
    write_ensemble(tmp_path / "all.safetensors", [ours, theirs, bare])
    code, out, err = run(capsys, "all.safetensors")
    assert code == 0
    assert "CC-BY-NC-SA-4.0 (the strictest); not stated: bare" in out
    rows = {line.split()[0]: line for line in out.splitlines() if line}
    assert "red, green, blue" in rows["ours"]
    assert "mIoU 0.500" in rows["ours"]
    assert "5 channels" in rows["theirs"]
    assert "theirs.pth" in rows["theirs"]
    assert rows["bare"].count("–") == 3
    assert "next: eosfm fit-ensemble RECIPE --ensemble all.safetensors" in err


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_both_formats_say_the_same_as_json(suffix: str, tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / f"ensemble.{suffix}"
    specialists = [tiny_specialist("a"), tiny_specialist("b", 2, seed=1)]
    write_ensemble(path, specialists)
    code, out, _ = run(capsys, str(path), "--json")
    found = json.loads(out)
    assert code == 0
    assert (found["kind"], found["licence"], found["unlicensed"]) == ("ensemble", "CC-BY-4.0", [])
    assert [SpecialistInfo(**one) for one in found["specialists"]] == [s.info for s in specialists]
    assert found["parameters"] == sum(one.info.parameters for one in specialists)
    assert found["bytes"] == path.stat().st_size
    assert found["cost"] == {"seconds": 25.0, "energy_kwh": 0.002, "emissions_kg": 0.0004}


def test_a_model_says_how_it_is_made(tmp_path: Path, capsys: Any) -> None:
    write_fitted(tmp_path / "model.safetensors")
    code, out, err = run(capsys, "model.safetensors")
    assert code == 0
    for words in (
        "CC-BY-NC-4.0 (the strictest); not stated: s1",
        "fusion mlp × 2, normalize batch, top_k 2 (topk)",
        "red, green, blue, vv, vh",
        "water, land",
        "UperNetDecoder",
        "mIoU 0.625",
        "s2 0.100",
        "64 pixels",
    ):
        assert words in out
    assert "IoU_water" not in out
    assert "next: eosfm predict scene.tif --model model.safetensors" in err


def test_a_models_numbers_are_valid_json(tmp_path: Path, capsys: Any) -> None:
    write_fitted(tmp_path / "model.safetensors")
    _, out, _ = run(capsys, "model.safetensors", "--json")
    found = json.loads(out, parse_constant=pytest.fail)
    assert found["metrics"] == {"mIoU": 0.625, "IoU_water": None}
    of_specialists = sum(one["parameters"] for one in found["specialists"])
    assert found["parameters"] == of_specialists + 3 * 5 + 2
    assert found["encoder"]["scores"]["s2"] == 0.1


@pytest.mark.parametrize("columns", [50, 90])
def test_a_narrow_terminal_shows_what_matters(columns: int, tmp_path: Path) -> None:
    write_fitted(tmp_path / "model.safetensors")
    sent = on_a_terminal("inspect", "model.safetensors", cwd=tmp_path, columns=columns)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", sent).splitlines()
    assert max(map(len, lines)) <= columns
    words = " ".join(sent.split())
    for needed in ("rgb", "s1", "0.900", "mIoU 0.625", "CC-BY-NC-4.0"):
        assert needed in words


def test_the_newest_file_is_taken_and_named(tmp_path: Path, capsys: Any) -> None:
    code, _, err = run(capsys)
    assert code == 3
    assert "neither a fitted model nor an ensemble in experiments" in err
    export = tmp_path / "experiments" / "ensemble.safetensors"
    write_ensemble(export, [tiny_specialist()])
    assert "ensemble.safetensors (newest export)" in run(capsys)[2]
    fit = tmp_path / "experiments" / "fit" / "mini" / "20260101-000000"
    write_fitted(fit / "model.safetensors")
    (fit / "summary.json").write_text(json.dumps({"kind": "fit", "state": "completed"}))
    assert "20260101-000000/model.safetensors (newest fit)" in run(capsys)[2]
    code, out, _ = run(capsys, str(fit), "--json")
    assert json.loads(out)["kind"] == "model"


def test_runs_and_checkpoints_show_their_specialist(tmp_path: Path, capsys: Any) -> None:
    folder = train_run(tmp_path / "experiments", "mini-rgb")
    for place in (folder, folder / "checkpoints" / "best.ckpt"):
        code, out, err = run(capsys, str(place), "--json")
        found = json.loads(out)
        assert (code, found["kind"], found["licence"]) == (0, "specialist", "CC-BY-4.0")
        (one,) = found["specialists"]
        assert (one["bands"], one["parameters"]) == (["red", "green", "blue"], PARAMETERS_3)
        assert "next: eosfm export" in err


# --------------------------------------------------------------------------- --bands


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    radar = named(tiny_specialist("s1", 2, seed=1), bands=("vv", "vh"))
    path = tmp_path / "mixed.safetensors"
    write_ensemble(path, [tiny_specialist("rgb"), radar])
    return path


def described(path: Path, *names: str) -> Path:
    write_tif(path, np.zeros((len(names), 8, 8), np.uint8))
    with rasterio.open(path, "r+") as dataset:
        dataset.descriptions = names
    return path


def plan(capsys: Any, *arguments: str) -> list[str]:
    code, out, _ = run(capsys, *arguments, "--json")
    assert code == 0
    return json.loads(out)["plan"]["lines"]


def test_a_plan_for_named_bands(mixed: Path, capsys: Any) -> None:
    assert plan(capsys, str(mixed), "--bands", "B04,B03,B02,nir") == [
        "rgb  by name: red, green, blue",
        "rgb  false colour: red ← nir, green ← red, blue ← green",
        "s1   left out: needs vv, vh",
    ]
    code, out, _ = run(capsys, str(mixed), "--bands", "vv,vh")
    assert code == 0
    assert "rgb  radar composite (inexact): red ← vv, green ← vh, blue ← vh" in out


def test_a_plan_for_a_raster_and_for_a_recipe(mixed: Path, tmp_path: Path, capsys: Any) -> None:
    raster = described(tmp_path / "scene.tif", "B2", "B3", "B4", "QA60")
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(folder_recipe(views={"swapped": ["blue", "green", "red"]}).to_yaml())
    assert plan(capsys, str(mixed), "--bands", str(raster))[0] == "rgb  by name: red, green, blue"
    assert "QA60" in run(capsys, str(mixed), "--bands", str(raster))[1]
    assert plan(capsys, str(mixed), "--bands", str(recipe))[0].startswith(
        "rgb  swapped: red ← blue"
    )


def test_a_model_is_planned_as_it_will_run(tmp_path: Path, capsys: Any) -> None:
    write_fitted(tmp_path / "model.safetensors")
    scene = described(tmp_path / "scene.tif", "VH", "VV", "blue", "green", "red")
    for bands in (str(scene), "vh,vv,blue,green,red,nir"):
        assert plan(capsys, "model.safetensors", "--bands", bands) == [
            "rgb  by name: red, green, blue",
            "s1   by name: vv, vh",
        ]
    code, _, err = run(capsys, "model.safetensors", "--bands", "red,green,blue")
    assert code == 3
    assert "lacks vv, vh" in err


def test_bands_known_by_number_alone(mixed: Path, tmp_path: Path, capsys: Any) -> None:
    raster = write_tif(tmp_path / "bare.tif", np.zeros((4, 8, 8), np.uint8))
    code, _, err = run(capsys, str(mixed), "--bands", str(raster))
    assert code == 3
    assert "does not name its 4 bands" in err
    assert "--bands red,green,blue" in err
    seed = tmp_path / "seed.pth"
    torch.save([(3, tiny_state(), {"backbone": f"timm_{BACKBONE}", "encoder_name": "old"})], seed)
    assert [line.split(":")[0] for line in plan(capsys, str(seed), "--bands", str(raster))] == [
        "old  by count",
        "old  by count",
    ]


@pytest.mark.parametrize(
    ("bands", "expected", "words"),
    [
        ("red,gren", 2, "Did you mean 'green'"),
        ("mini-rgbb", 2, "Did you mean 'rgb'"),
        ("no.tif", 3, "There is no file no.tif"),
        ("dem", 3, "No specialist can be fed"),
    ],
)
def test_bands_that_cannot_be_planned(
    bands: str, expected: int, words: str, tmp_path: Path, capsys: Any
) -> None:
    radar = named(tiny_specialist("s1", 2), bands=("vv", "vh"))
    write_ensemble(tmp_path / "radar.safetensors", [radar])
    code, out, err = run(capsys, "radar.safetensors", "--bands", bands)
    assert (code, out) == (expected, "")
    assert words in err


# --------------------------------------------------------------------------- what is wrong


def test_files_that_are_none_are_told_apart(tmp_path: Path, capsys: Any) -> None:
    write_ensemble(tmp_path / "whole.safetensors", [tiny_specialist("a"), tiny_specialist("b", 2)])
    whole = (tmp_path / "whole.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-1])
    safetensors.torch.save_file(tiny_state(), tmp_path / "others.safetensors")
    info, weights = tiny_specialist("a").info, {"a/stem_0.weight": torch.ones(1)}
    for name, infos in {
        "twice": (info, info),
        "missing": (info, tiny_specialist("b").info),
        "none": (),
        "band": (info.model_copy(update={"bands": ("red", "gren", "blue")}),),
    }.items():
        header = to_metadata(EnsembleManifest(specialists=infos))
        safetensors.torch.save_file(weights, tmp_path / f"{name}.safetensors", header)
    (tmp_path / "notes.txt").write_text("hello")
    cases = {
        "cut.safetensors": "it is cut short",
        "others.safetensors": "holds no eosfm manifest",
        "twice.safetensors": "two specialists are named 'a'",
        "missing.safetensors": "specialist 'b' has no weights",
        "none.safetensors": "it holds no specialist",
        "band.safetensors": "unknown band 'gren'; did it mean 'green'",
        "notes.txt": "neither an ensemble nor a model",
        "nothing.safetensors": "There is no file",
        ".": "a folder with neither",
    }
    for name, words in cases.items():
        code, out, err = run(capsys, name)
        assert (code, out) == (3, ""), name
        assert words in err
        assert "Traceback" not in err


def test_a_fit_that_has_no_model_yet_says_so(tmp_path: Path, capsys: Any) -> None:
    fit = tmp_path / "experiments" / "fit" / "mini" / "20260101-000000"
    (fit / "checkpoints").mkdir(parents=True)
    torch.save({}, fit / "checkpoints" / "best.ckpt")
    (fit / "summary.json").write_text(json.dumps({"kind": "fit", "state": "failed"}))
    code, _, err = run(capsys, str(fit))
    assert code == 3
    assert "it has no model.safetensors" in err


def test_a_model_with_broken_weights_names_the_specialist(tmp_path: Path) -> None:
    path = write_fitted(tmp_path / "model.safetensors")
    manifest, state = read_model(path)
    for name, words in {
        "encoder.backbones.1.stem_0.weight": r"specialist 's1' has .* in stem_0\.weight",
        "decoder.weight": r"it has .* in decoder\.weight",
    }.items():
        broken = {**state, name: torch.full_like(state[name], math.nan)}
        write_model(path, broken, manifest)
        with pytest.raises(BundleError, match=words):
            read_model(path)


def test_a_card_is_written_on_the_way(tmp_path: Path, capsys: Any) -> None:
    write_fitted(tmp_path / "model.safetensors", specialists=(tiny_specialist("rgb").info,))
    code, _, err = run(capsys, "model.safetensors", "--card", "README.md")
    assert code == 0
    assert "wrote README.md" in err
    assert "license: cc-by-nc-4.0" in (tmp_path / "README.md").read_text()
    (tmp_path / "README.md").write_text("mine")
    assert run(capsys, "model.safetensors", "--card", "README.md")[0] == 2
    assert (tmp_path / "README.md").read_text() == "mine"
