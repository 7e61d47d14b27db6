"""`prune`: fewer specialists, and nothing else changes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch

from eosfm_cli.carbon.ledger import read_ledger
from eosfm_cli.commands.app import main
from eosfm_cli.ensemble.bundle import read_ensemble, write_ensemble
from eosfm_cli.ensemble.specialist import Specialist, build_backbone
from eosfm_cli.errors import EosfmError
from eosfm_cli.lineage import lineage
from eosfm_cli.manifest import DecoderInfo, ModelManifest, SpecialistInfo, read_manifest
from eosfm_cli.recipe import Recipe
from eosfm_cli.training.model import inner_encoder, load_model, open_model
from eosfm_cli.training.pruning import prune_model
from tests.fits import BANDS, SPECIALISTS, UPERNET, tiny_recipe, write_fit
from tests.rasters import write_tif

FCN = DecoderInfo(name="FCNDecoder", arguments={"channels": 8})
IDENTITY = DecoderInfo(name="IdentityDecoder")


def change_recipe(pooling: str) -> Recipe:
    images = {
        "before": {"path": "A/{id}.tif", "bands": BANDS, "date": 1},
        "after": {"path": "B/{id}.tif", "bands": BANDS, "date": 2},
    }
    dataset = {"root": "x", "images": images, "masks": {"path": "m/{id}.tif"}}
    split = {"by": "list", "train": ["a"], "val": ["b"], "test": ["c"]}
    return tiny_recipe(task="change", pooling=pooling, dataset={**dataset, "split": split})


def labels_recipe() -> Recipe:
    images = {"s": {"path": "{class}/{id}.tif", "bands": BANDS}}
    split = {"by": "list", "train": ["a"], "val": ["b"], "test": ["c"]}
    dataset = {"root": "x", "images": images, "split": split}
    return tiny_recipe(task="classification", dataset=dataset)


def prune(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> tuple[Any, str]:
    """Run the command; its JSON, if it worked, and what it said beside."""
    capsys.readouterr()
    assert main(["prune", *words, "--json"]) == code
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return json.loads(out) if code == 0 else None, err


@pytest.mark.parametrize(
    ("recipe", "decoder", "options"),
    [
        (tiny_recipe(), UPERNET, {"fusion": "concat"}),
        (tiny_recipe(), UPERNET, {"fusion": "concat", "normalize": "layer", "project": True}),
        (tiny_recipe(), FCN, {"fusion": "concat", "gates": "weights"}),
        (labels_recipe(), IDENTITY, {"fusion": "concat"}),
        (change_recipe("concat"), UPERNET, {"fusion": "concat"}),
        (change_recipe("diff"), UPERNET, {"fusion": "concat", "adapt": "learned"}),
        (tiny_recipe(), UPERNET, {"fusion": "conv1x1", "fuse_to_mult": 2, "adapt": "learned"}),
        (tiny_recipe(), FCN, {"fusion": "mlp", "gates": "smooth", "top_k": 2}),
        (tiny_recipe(), UPERNET, {"fusion": "addition", "gates": "smooth", "top_k": 2}),
        (labels_recipe(), IDENTITY, {"fusion": "multiplication", "gates": "smooth", "top_k": 1}),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_the_file_gives_what_the_whole_model_gives_without_them(
    recipe: Recipe,
    decoder: DecoderInfo,
    options: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = write_fit(tmp_path / "run", recipe, decoder=decoder, **options)
    result, said = prune(capsys, str(run.path), "--exclude", "nir")
    assert "outputs equal those of the whole model" in said
    whole, small = load_model(run.model).module, load_model(Path(result["path"])).module
    encoder = inner_encoder(whole.model)
    dates = () if recipe.pooling is None else (2,)
    x = torch.randn(1, len(BANDS), *dates, 64, 96)
    with torch.no_grad():
        everything = whole(x)
        encoder.left_out = frozenset({encoder.names.index("nir")})
        torch.testing.assert_close(small(x), whole(x), rtol=1e-4, atol=1e-4)
        assert not torch.allclose(small(x), everything, rtol=1e-4, atol=1e-4)
    assert result["parameters"] < result["parameters_before"]
    assert inner_encoder(small.model).names == ("rgb", "s1")


def test_the_file_says_what_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_fit(tmp_path / "run", tiny_recipe())
    result, said = prune(capsys, str(run.model), "--specialists", "0,s1")
    path = run.path / "model-pruned.safetensors"
    assert Path(result["path"]) == path
    assert f"next: eosfm predict scene.tif --model {path}" in said
    found = read_manifest(path)
    assert isinstance(found, ModelManifest)
    assert [one.name for one in found.specialists] == ["rgb", "s1"]
    assert (found.pruned_from, found.left_out) == ("model.safetensors", ("nir",))
    assert found.metrics == {}  # those of the whole model are not its own
    assert found.energy_kwh == 0.25
    again, _ = prune(capsys, str(path), "--exclude", "s1")
    found = read_manifest(Path(again["path"]))
    assert isinstance(found, ModelManifest)
    assert found.left_out == ("nir", "s1")
    capsys.readouterr()
    assert main(["inspect", again["path"], "--card", str(tmp_path / "card.md")]) == 0
    out = capsys.readouterr().out
    assert re.search(
        r"^pruned +without nir, s1, from model-pruned\.safetensors$", out, re.MULTILINE
    )
    text = (tmp_path / "card.md").read_text()
    assert "pruned from model-pruned.safetensors and not fitted again" in text
    assert "2 specialists left out (nir, s1)" in text
    assert main(["inspect", str(run.path)]) == 0
    assert "pruned" not in capsys.readouterr().out


def test_what_it_took_is_in_the_ledger_and_in_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = write_fit(tmp_path / "run", tiny_recipe())
    once, _ = prune(capsys, str(run.path), "--exclude", "nir")
    twice, _ = prune(capsys, once["path"], "--exclude", "s1")
    stages = read_ledger(tmp_path / "experiments").records
    assert [stage.command for stage in stages] == ["prune", "prune"]
    manifest = read_manifest(Path(twice["path"]))
    assert isinstance(manifest, ModelManifest)
    work = [made for made in lineage(manifest) if made.command == "prune"]
    assert len(work) == 2
    for made, stage in zip(work, stages, strict=True):
        assert not made.reused
        assert 0 < made.cost.seconds <= stage.seconds
        assert made.cost.energy_kwh > 0
    assert sum(made.command == "train-specialist" for made in lineage(manifest)) == len(SPECIALISTS)


def test_predict_takes_the_smaller_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_fit(tmp_path / "run", tiny_recipe())
    result, _ = prune(capsys, str(run.path), "--exclude", "nir,rgb")
    pixels = np.random.default_rng(0).normal(1000, 100, (6, 40, 70)).astype(np.float32)
    scene = write_tif(tmp_path / "scene.tif", pixels)
    with rasterio.open(scene, "r+") as raster:
        raster.descriptions = BANDS
    assert main(["predict", str(scene), "--model", result["path"]]) == 0
    with rasterio.open(tmp_path / "scene_pred.tif") as raster:
        assert raster.shape == (40, 70)


def test_a_decoder_that_cannot_be_cut_is_fitted_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mlp = DecoderInfo(name="MLPDecoder")
    run = write_fit(tmp_path / "run", tiny_recipe(), decoder=mlp, fusion="concat")
    _, said = prune(capsys, str(run.path), "--exclude", "nir", code=2)
    assert "MLPDecoder on concatenated features cannot be cut" in said
    assert "eosfm fit-ensemble RECIPE --specialists rgb,s1" in said
    assert not (run.path / "model-pruned.safetensors").exists()


def test_other_outputs_are_refused(tmp_path: Path) -> None:
    run = write_fit(tmp_path / "run", tiny_recipe())
    manifest, model = open_model(run.model)
    model.decoder.register_forward_hook(lambda module, given, found: found + 1)
    with pytest.raises(EosfmError, match="would not give the same: outputs differ by up to"):
        prune_model(model, manifest, ["rgb", "s1"])


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ensemble") / "all.safetensors"
    specialists = [
        Specialist(
            SpecialistInfo(name=n, backbone="test_convnext", in_chans=len(bands), bands=bands),
            build_backbone("test_convnext", len(bands)).state_dict(),
        )
        for n, bands in SPECIALISTS.items()
    ]
    write_ensemble(path, specialists)
    return path


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_an_ensemble_in_either_format(
    ensemble: Path, suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"all{suffix}"
    write_ensemble(path, read_ensemble(ensemble))
    result, said = prune(capsys, str(path), "--exclude", "1")
    assert result["kind"] == "ensemble"
    assert f"next: eosfm fit-ensemble RECIPE --ensemble {result['path']}" in said
    assert Path(result["path"]).name == f"all-pruned{suffix}"
    before, after = read_ensemble(ensemble), read_ensemble(Path(result["path"]))
    assert [one.info.name for one in after] == ["rgb", "s1"]
    assert after[1].info.source == path.name
    for name, weight in before[2].state.items():
        torch.testing.assert_close(after[1].state[name], weight)
    assert result["parameters"] == sum(one.info.parameters for one in after)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "does not say who is to go"),
        (["--specialists", ","], 2, "does not say who is to go"),
        (["--exclude", "rbg"], 2, "Did you mean 'rgb'?"),
        (["--exclude", "3"], 2, "There are: rgb, nir, s1"),
        (["--exclude", "rgb,nir,s1"], 2, "No specialist is left"),
        (["--specialists", "rgb,nir,s1"], 2, "Nobody is left out"),
        (["--exclude", "nir", "--output", "all.onnx"], 2, "all.onnx"),
        (["--exclude", "nir", "--output", "{input}", "--overwrite"], 2, "one of the inputs"),
        (["--exclude", "nir", "--data-root", "data"], 2, "--data-root goes with --measure"),
        (["--exclude", "nir", "--measure"], 2, "nothing to measure"),
    ],
)
def test_bad_input_changes_nothing(
    words: list[str],
    code: int,
    said: str,
    ensemble: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = sorted(ensemble.parent.iterdir())
    words = [str(ensemble) if word == "{input}" else word for word in words]
    assert said in " ".join(prune(capsys, str(ensemble), *words, code=code)[1].split())
    assert sorted(ensemble.parent.iterdir()) == before


def test_what_is_there_stays_unless_told(
    ensemble: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = tmp_path / "there.safetensors"
    there.write_text("mine")
    words = [str(ensemble), "--exclude", "nir", "--output", str(there)]
    assert "already there" in prune(capsys, *words, code=2)[1]
    assert there.read_text() == "mine"
    prune(capsys, *words, "--overwrite")
    assert len(read_ensemble(there)) == 2


@pytest.mark.parametrize(
    ("name", "content"),
    [("nowhere.safetensors", None), ("cut.safetensors", b"\0" * 99), ("cut.pth", b"\0" * 99)],
)
def test_files_that_are_none(
    name: str, content: bytes | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    assert name in prune(capsys, str(path), "--exclude", "nir", code=3)[1]


def test_a_model_that_lost_its_run_cannot_be_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_fit(tmp_path / "run", tiny_recipe())
    run.config.unlink()
    _, said = prune(capsys, str(run.model), "--exclude", "nir", "--measure", code=3)
    assert "not in the run folder of its fit" in said
