"""A linear probe of frozen features: its algebra, and the specialists that it puts first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from eosfm_cli.commands.app import main
from eosfm_cli.ensemble.bundle import read_model, write_ensemble
from eosfm_cli.ensemble.specialist import Specialist
from eosfm_cli.manifest import SpecialistInfo
from eosfm_cli.run_dir import RunDir
from eosfm_cli.training.probe import _score, _Sums, solve
from tests.checkpoints import tiny_state
from tests.rasters import write_tif
from tests.test_tasks import WRITERS, pixels
from tests.tiny import RECIPE

TELLS = ("vv",)
SPECIALISTS = {
    "noise": ("red", "green", "blue"),
    "told": TELLS,
    "other": ("nir", "vh"),
    "elsewhere": ("dem",),
}


def write_specialists(path: Path, bands: dict[str, tuple[str, ...]], seed: int = 0) -> Path:
    """Untrained specialists: they tell what their bands tell."""
    specialists = [
        Specialist(
            SpecialistInfo(name=name, backbone="test_convnext", in_chans=len(wants), bands=wants),
            tiny_state(len(wants), seed + number),
        )
        for number, (name, wants) in enumerate(bands.items())
    ]
    write_ensemble(path, specialists)
    return path


def write_planted(root: Path) -> None:
    """Scenes whose cover one band of six tells, and no other."""
    rng = np.random.default_rng(0)
    for name in ("a-1", "a-2", "b-1", "b-2", "c-1", "c-2", "d-1"):
        cover = np.repeat(np.repeat(rng.integers(0, 3, (2, 4)), 16, 0), 16, 1)
        s2 = rng.normal(1000, 100, (4, 32, 64))
        s1 = rng.normal(-10, 1, (2, 32, 64))
        s1[0] += 6 * cover
        write_tif(root / "s2" / f"{name}.tif", s2.astype(np.uint16))
        write_tif(root / "s1" / f"{name}.tif", s1.astype(np.float32))
        write_tif(root / "masks" / f"{name}.tif", cover.astype(np.uint8))


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_planted(tmp_path / "data" / "tiny")
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(RECIPE, sort_keys=False))
    write_specialists(tmp_path / "all.safetensors", SPECIALISTS)
    return tmp_path


def ranked(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["rank", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_planted_specialist_comes_first(
    planted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in range(3):
        file = write_specialists(planted / f"{seed}.safetensors", SPECIALISTS, seed=10 * seed)
        result = ranked(capsys, "tiny.yaml", "--ensemble", str(file), "--seed", str(seed))
        first, *others = result["rows"]
        assert first["specialist"] == "told"
        assert first["low"] <= first["score"] <= first["high"]
        assert first["low"] > max(row["score"] for row in others)
        assert {row["specialist"]: row["exact"] for row in result["rows"]} == {
            "told": True,
            "noise": True,
            "other": True,
        }
        assert list(result["left_out"]) == ["elsewhere"]
        assert result["tiles"] == {"train": 8, "val": 4}
    assert not (planted / "experiments" / "fit").exists()


def test_few_samples_suffice_and_the_table_says_so(
    planted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rank", "tiny.yaml", "--ensemble", "all.safetensors", "--samples", "3"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[1].startswith("told")
    assert "3 training tiles, scored on 3 validation tiles" in err
    assert "--select-by probe --top-k 1 --ensemble all.safetensors" in err
    assert "left out" in err


def test_a_probe_selects_for_a_fit_and_a_resumed_one_keeps_it(
    planted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["fit-ensemble", "tiny.yaml", "--ensemble", "all.safetensors", "--epochs", "1"]
    capsys.readouterr()
    assert main([*words, "--select-by", "probe", "--top-k", "1", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["specialists"], result["encoder"]) == (["told"], "told")
    assert next(iter(result["scores"])) == "told"
    assert set(result["scores"]) == {"told", "noise", "other"}
    manifest, _ = read_model(Path(result["model"]))
    assert manifest.encoder.scores == result["scores"]
    assert manifest.encoder.gates == "none"
    run = RunDir(Path(result["run"]))
    assert {row["phase"] for row in _history(run)} == {"fit"}
    # As if the run had been stopped just after the probe, which had found another one.
    for path in run.checkpoints.iterdir():
        path.unlink()
    run.write_summary(state="interrupted", scores={"other": 0.9, "told": 0.8, "noise": 0.7})
    assert main(["fit-ensemble", "--resume", str(run.path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["specialists"] == ["other"]


def _history(run: RunDir) -> list[dict[str, str]]:
    import csv

    with run.metrics.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--select-by", "probe"], "probe needs fit.top_k"),
        (["--select-by", "probe", "--top-k", "1", "--selection", "smooth"], "take one"),
        (["--select-by", "probe", "--top-k", "1", "--scale-features"], "no learned scores"),
    ],
)
def test_what_a_probe_cannot_do_is_refused(
    words: list[str], said: str, planted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit-ensemble", "tiny.yaml", *words]) == 2
    assert said in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("task", sorted(WRITERS))
def test_every_task_has_a_probe(
    task: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    raw = WRITERS[task](tmp_path / "data" / task)
    if task == "classification":
        _write_more(tmp_path / "data" / task / "images", raw["dataset"])
    (tmp_path / "any.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    write_specialists(tmp_path / "all.safetensors", {"blue": ("blue",), "nir": ("nir",)})
    result = ranked(capsys, "any.yaml", "--ensemble", "all.safetensors")
    rows = {row["specialist"]: row for row in result["rows"]}
    assert set(rows) == {"blue", "nir"}
    assert all(row["low"] <= row["high"] for row in rows.values())
    if task in {"regression", "classification"}:  # only near infrared tells what is asked there
        assert result["rows"][0]["specialist"] == "nir"
    if task == "regression":
        assert result["metric_name"] == "RMSE"
        assert rows["nir"]["score"] < rows["blue"]["score"]
    else:
        assert 0 <= rows["nir"]["score"] <= 1
    if task == "change":
        assert rows["nir"]["score"] > 0.6


def _write_more(images: Path, dataset: dict[str, Any]) -> None:
    """Further samples of classes that near infrared alone tells apart."""
    split = {key: list(value) for key, value in dataset["split"].items() if key != "by"}
    for i in range(36):
        bump, kind = 500.0 * (i % 3), ("water", "wood", "town")[i % 3]
        write_tif(images / kind / f"more-{i}.tif", pixels(100 + i, bump=bump))
        split["train" if i < 24 else "val"].append(f"more-{i}")
    dataset["split"] = {"by": "list", **split}


# ------------------------------------------------------------------------------ the algebra


def test_sums_over_parts_give_the_ridge_of_all_rows() -> None:
    torch.manual_seed(0)
    x = torch.randn(60, 4, dtype=torch.float64) * torch.tensor([1.0, 10.0, 0.1, 0.0]) + 3
    truth = torch.randn(4, 2, dtype=torch.float64)
    y = x @ truth + 5
    parts = [_Sums.of(x[i::3], y[i::3]) for i in range(3)]
    solution = solve(parts)
    said = torch.cat([torch.ones(60, 1), x], dim=1) @ solution
    assert torch.allclose(said, y, atol=0.1)
    assert sum(parts[1:], parts[0]).error(solution) == pytest.approx(
        float(((said - y) ** 2).sum()), abs=1e-6
    )


def test_noise_calls_for_a_strong_penalty() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(30, 60, dtype=torch.float64), torch.randn(30, 1, dtype=torch.float64)
    slopes = solve([_Sums.of(x[i::3], y[i::3]) for i in range(3)])[1:]
    exact = torch.linalg.lstsq(x - x.mean(0), y - y.mean(0)).solution
    assert slopes.norm() < exact.norm()


def test_a_single_part_is_solved_too() -> None:
    x = torch.arange(5.0, dtype=torch.float64)[:, None]
    said = torch.cat([torch.ones_like(x), x], dim=1) @ solve([_Sums.of(x, 2 * x + 1)])
    assert torch.allclose(said, 2 * x + 1, atol=0.02)


def test_scores_are_the_metrics_of_the_tasks() -> None:
    confusion = torch.tensor([[[3.0, 1.0, 0.0], [2.0, 4.0, 0.0], [0.0, 0.0, 0.0]]])
    assert _score("segmentation", confusion) == pytest.approx((3 / 6 + 4 / 7) / 2)
    assert _score("classification", confusion) == pytest.approx((3 / 4 + 4 / 6) / 2)
    assert _score("regression", torch.tensor([[8.0, 1.0], [10.0, 1.0]])) == pytest.approx(3.0)
    said = [[0.9, 0.2], [0.1, 0.8], [0.5, 0.1]]
    labels = [[1.0, 1.0], [0.0, 0.0], [1.0, 0.0]]
    outcomes = torch.stack([torch.tensor(said), torch.tensor(labels)], dim=1)
    assert _score("multilabel", outcomes) == pytest.approx((1 + 1 / 2) / 2)
