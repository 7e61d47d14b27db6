"""Fits side by side: what their folders say, taken together over seeds."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from eosfm_cli.commands.app import main
from eosfm_cli.recipe import load_recipe
from tests.test_startup import HEAVY, run
from tests.tiny import RECIPE

TILES = {"train": 8, "val": 2, "test": 4}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(RECIPE, sort_keys=False))
    return Path("experiments")


def write_fit(
    root: Path,
    stamp: str,
    score: float,
    *,
    name: str = "tiny",
    encoder: str | None = "ensemble of 3",
    summary: dict[str, Any] | None = None,
    metric: str = "mIoU",
    **settings: Any,
) -> Path:
    """A completed fit as its folder tells of it; `settings` are keys of the recipe."""
    run = root / "fit" / name / stamp
    run.mkdir(parents=True)
    recipe = load_recipe("tiny.yaml", {key.replace("__", "."): v for key, v in settings.items()})
    (run / "config.yaml").write_text(recipe.to_yaml())
    (run / "model.safetensors").touch()
    single = encoder is not None and "ensemble" not in encoder
    found = {
        "kind": "fit",
        "name": name,
        "state": "completed",
        "facts": {"tiles": TILES, "ensemble": "abcdef0123"},
        "metrics": {metric: score, "Accuracy": 0.9},
        "specialists": [encoder] if single else ["a", "b", "c"],
        "encoder": encoder,
        "parameters": 1000,
        "trainable": 100,
        "seconds": 60.0,
        "energy_kwh": 0.001,
        **(summary or {}),
    }
    (run / "summary.json").write_text(json.dumps(found))
    return run


def compared(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["compare", "--json", *words]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *words: str, code: int) -> str:
    capsys.readouterr()
    assert main(["compare", *words]) == code
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return " ".join(error.split())


def test_the_best_comes_first_and_seeds_are_taken_together(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_fit(root, "20260101-000001", 0.5)
    write_fit(root, "20260101-000002", 0.7, fit__seed=1)
    write_fit(root, "20260101-000003", 0.8, fit__seed=1, summary={"seconds": 20.0})
    write_fit(
        root, "20260101-000004", 0.4, encoder="scratch test_convnext", fit__ensemble="scratch"
    )
    write_fit(root, "20260101-000005", 0.9, fit__label_fraction=0.1, fit__top_k=2)
    result = compared(capsys)
    few, full, scratch = result["groups"]
    assert (few["score"], few["spread"], few["seeds"]) == (0.9, None, [0])
    assert (few["runs"][0]["top_k"], few["runs"][0]["label_fraction"]) == (2, 0.1)
    assert full["seeds"] == [0, 1]
    assert full["score"] == pytest.approx(0.65)  # of seed 1 the newest run counts
    assert full["spread"] == pytest.approx(0.15 * 2**0.5)
    assert full["seconds"] == 40
    assert [Path(row["run"]).name[-1] for row in full["runs"]] == ["3", "2", "1"]
    assert scratch["runs"][0]["encoder"] == "scratch test_convnext"
    assert scratch["runs"][0]["fusion"] is None


def test_the_table_says_what_else_differs(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_fit(root, "20260101-000001", 0.5, fit__epochs=4)
    write_fit(root, "20260101-000002", 0.6, fit__normalize="none", fit__fusion="conv1x1")
    assert main(["compare"]) == 0
    out, err = capsys.readouterr()
    heading, best, other = out.splitlines()
    assert "differs" in heading
    assert "test split" not in heading
    assert "epochs 2, normalize none" in best
    assert "conv1x1" in best
    assert "epochs 4, normalize batch" in other
    assert "next: eosfm predict scene.tif --model experiments/fit/tiny/20260101-000002" in err


def test_ensembles_of_one_size_are_told_apart(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, found in enumerate(("abcdef01", "12345678"), 1):
        facts = {"tiles": TILES, "ensemble": found}
        write_fit(root, f"20260101-00000{number}", number / 4, summary={"facts": facts})
    alone = {"tiles": TILES, "ensemble": "87654321"}
    write_fit(root, "20260101-000003", 0.1, encoder="rgb", summary={"facts": alone})
    groups = compared(capsys)["groups"]
    differs = [group["runs"][0]["differs"] for group in groups]
    assert differs == ["ensemble 1234567", "ensemble abcdef0", ""]


def test_a_narrow_terminal_keeps_what_matters(root: Path) -> None:
    from eosfm_cli.commands.compare import _ALWAYS, _choices

    choices = _choices([{"differs": None}], several_tests=False)
    assert all(set(_ALWAYS) <= set(columns) for columns in choices)
    assert [len(columns) for columns in choices] == sorted(map(len, choices), reverse=True)
    assert all("differs" not in columns for columns in choices)


def test_different_test_splits_are_said(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_fit(root, "20260101-000001", 0.5)
    write_fit(
        root,
        "20260101-000002",
        0.6,
        dataset__split={"by": "scene", "pattern": r"(\w)-", "val": ["c"], "test": ["a"]},
    )
    assert main(["compare"]) == 0
    out, err = capsys.readouterr()
    assert "tiny, 4 tiles (2)" in out
    assert "not all measured on the same test split" in err
    assert len(compared(capsys)["groups"]) == 2


def test_a_csv_has_a_row_per_run(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, score in enumerate((0.5, 0.7)):
        write_fit(root, f"20260101-00000{seed}", score, fit__seed=seed)
    compared(capsys, "--csv", "table.csv")
    with open("table.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(row["seed"], row["mIoU"]) for row in rows] == [("1", "0.7"), ("0", "0.5")]
    assert {row["mean"] for row in rows} == {"0.6"}


def test_less_is_better_of_errors(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for stamp, error in (("20260101-000001", 3.0), ("20260101-000002", 2.0)):
        write_fit(root, stamp, error, metric="RMSE", fit__epochs=int(error))
    result = compared(capsys)
    assert result["metric_name"] == "RMSE"
    assert [group["score"] for group in result["groups"]] == [2.0, 3.0]


def test_runs_named_and_recipes_named(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = write_fit(root, "20260101-000001", 0.5)
    write_fit(root, "20260101-000002", 0.6, fit__epochs=5)
    other = write_fit(root, "20260101-000003", 0.7, name="other", encoder=None)
    result = compared(capsys, str(one), str(other / "model.safetensors"))
    rows = [row for group in result["groups"] for row in group["runs"]]
    assert {row["run"] for row in rows} == {str(one), str(other)}
    assert {row["encoder"] for row in rows} == {"ensemble of 3"}
    assert len(compared(capsys, "tiny")["groups"]) == 2


def test_what_cannot_be_compared_is_refused(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no fitted model" in refused(capsys, code=3)
    one = write_fit(root, "20260101-000001", 0.5)
    assert "Did you mean 'tiny'?" in refused(capsys, "tyni", code=3)
    stopped = write_fit(root, "20260101-000002", 0.5, summary={"state": "interrupted"})
    assert "--resume" in refused(capsys, str(stopped), code=3)
    trained = write_fit(root, "20260101-000003", 0.5, summary={"kind": "train"})
    assert "run of train-specialist" in refused(capsys, str(trained), code=3)
    classes = [{"name": "yes", "values": [0]}, {"name": "no", "values": [1]}]
    others = write_fit(root, "20260101-000004", 0.5, classes=classes)
    message = refused(capsys, str(one), str(others), code=2)
    assert "different classes" in message
    assert "yes, no" in message


def test_a_fit_that_says_no_score_is_left_out_and_said(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_fit(root, "20260101-000001", 0.5)
    silent = write_fit(root, "20260101-000002", 0.5, summary={"metrics": {}})
    assert main(["compare", "tiny"]) == 0
    assert f"left out: {silent}" in capsys.readouterr().err
    assert "does not say what it scored" in refused(capsys, str(silent), code=3)


def test_nothing_heavy_is_imported(root: Path, tmp_path: Path) -> None:
    write_fit(root, "20260101-000001", 0.5)
    code, modules = run("compare", cwd=tmp_path)
    assert code == 0
    assert not modules & HEAVY
