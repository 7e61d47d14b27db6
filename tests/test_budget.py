"""Budgets of energy, estimates before the work, and what files say of the work behind them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from eosfm_cli.budget import Budget, parse_budget
from eosfm_cli.carbon.ledger import read_ledger
from eosfm_cli.commands.app import main
from eosfm_cli.errors import ExitCode, UsageError
from eosfm_cli.lineage import left_out_work, lineage
from eosfm_cli.manifest import SpecialistInfo, read_manifest
from eosfm_cli.progress import Silent
from eosfm_cli.results import Cost
from eosfm_cli.run_dir import RunDir
from eosfm_cli.workflows.running import Running
from tests.tiny import RECIPE, write_scenes


@pytest.mark.parametrize(
    ("energy", "co2", "expected"),
    [
        ("0.5kWh", None, Budget(0.5)),
        ("500 Wh", None, Budget(0.5)),
        ("3.6 MJ", None, Budget(1.0)),
        ("1e3wh", "2.5kg", Budget(1.0, 2.5)),
        (None, "100g", Budget(None, 0.1)),
        (None, None, Budget()),
    ],
)
def test_amounts_are_read_with_their_units(energy, co2, expected):
    found = parse_budget(energy, co2)
    assert found.energy_kwh == pytest.approx(expected.energy_kwh)
    assert found.emissions_kg == pytest.approx(expected.emissions_kg)


@pytest.mark.parametrize("text", ["", "0.5", "kWh", "-1kWh", "0Wh", "1 g", "1.2.3Wh", "nanWh"])
def test_what_is_no_amount_of_energy_is_refused_with_an_example(text):
    with pytest.raises(UsageError) as caught:
        parse_budget(text, None)
    assert "--max-energy 0.5kWh" in caught.value.hint


@given(st.floats(1e-6, 1e6), st.floats(0, 2e6))
def test_a_budget_is_spent_from_its_amount_on(limit, used):
    assert Budget(energy_kwh=limit).spent(Cost(1, used, 0)) == (used >= limit)
    assert Budget(emissions_kg=limit).spent(Cost(1, 0, used)) == (used >= limit)
    assert not Budget().spent(Cost(1, used, used))


@given(st.floats(1e-6, 1e6), st.floats(1e-6, 1e6))
def test_a_budget_is_written_as_it_is_read(energy, mass):
    words = Budget(energy, mass).options().split()
    assert words[::2] == ["--max-energy", "--max-co2"]
    again = parse_budget(*words[1::2])
    assert again.energy_kwh == pytest.approx(energy, rel=1e-5)
    assert again.emissions_kg == pytest.approx(mass, rel=1e-5)


def test_work_that_was_left_out_is_kept_also_where_nobody_measured_it():
    looked_at = [
        SpecialistInfo(name=name, backbone="resnet18", in_chans=2, energy_kwh=kwh)
        for name, kwh in [("kept", 0.5), ("dropped", 0.25), ("old", None)]
    ]
    found = left_out_work(looked_at, ["kept"])
    assert [(work.name, work.energy_kwh) for work in found] == [("dropped", 0.25), ("old", None)]


# ------------------------------------------------------------------------------ real runs


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_scenes(tmp_path / "data" / "tiny")
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(RECIPE, sort_keys=False))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def only_run(kind: str, name: str) -> RunDir:
    (path,) = Path("experiments", kind, name).iterdir()
    return RunDir(path)


def energy_of_one_epoch() -> float:
    """What the shortest training takes here and now, kWh: the machine may be slow or busy."""
    assert main(["train-specialist", "tiny-s1.yaml", "--epochs", "1", "--output", "short"]) == 0
    (run,) = Path("short", "train", "tiny-s1").iterdir()
    return RunDir(run).read_summary()["energy_kwh"]


def test_a_training_stops_at_its_budget_and_can_be_gone_on_with(folder, capsys):
    energy = max(1e-5, 5 * energy_of_one_epoch())  # for an epoch, not for all of them
    enough = Budget(float(f"{energy:.3g}"))  # as an option says it, and twice as much
    endless = ["tiny-s1.yaml", "--epochs", "100000"]
    assert main(["train-specialist", *endless, *enough.options().split()]) == ExitCode.BUDGET
    streams = capsys.readouterr()
    run = only_run("train", "tiny-s1")
    assert f"The budget ({enough.options()}) is used up" in streams.err
    assert f"the best epoch so far is in {run.best}" in streams.err
    assert f"--resume {run.path} {enough.options(2)}" in streams.err
    assert run.best.is_file()
    assert run.state == "interrupted"

    resume = ["train-specialist", "--resume", str(run.path)]
    assert main([*resume, *enough.options().split()]) == ExitCode.BUDGET  # it is used up already
    assert main([*resume, *enough.options(2).split()]) == ExitCode.BUDGET
    stages = read_ledger(Path("experiments")).records
    assert len(stages) == 3
    assert {(s.run, s.state) for s in stages} == {
        (run.path.relative_to("experiments").as_posix(), "interrupted")
    }
    assert {s.specialist for s in stages} == {"tiny-s1"}
    used = sum(stage.energy_kwh for stage in stages)
    assert used >= 2 * enough.energy_kwh * (1 - 1e-4)  # options are written with six digits
    assert run.read_summary()["energy_kwh"] == pytest.approx(used)

    capsys.readouterr()
    assert main(["export", str(run.best)]) == 0  # as it is, as the message says


def test_a_fit_stops_at_its_budget(folder, capsys):
    words = ["tiny.yaml", "--ensemble", "scratch", "--epochs", "100000"]
    assert main(["fit-ensemble", *words, "--max-co2", "1mg"]) == ExitCode.BUDGET
    assert "The budget (--max-co2 1mg) is used up" in capsys.readouterr().err
    assert only_run("fit", "tiny").state == "interrupted"


def as_json(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    capsys.readouterr()
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_what_is_done_once_is_not_expected_of_every_epoch(tmp_path):
    meter = SimpleNamespace(cost=Cost(100, 1, 0.1), flush=lambda: None)
    running = Running(RunDir(tmp_path), Silent(), True, meter, epochs=10)
    running.begin_epochs()
    meter.cost = Cost(102, 1.5, 0.2)
    running.begin_epochs()  # of a second phase
    running.note_cost()
    assert vars(running.estimate) == pytest.approx(vars(Cost(120, 6, 1.1)))


def test_estimates_before_and_lineage_after(folder, capsys):
    (plan,) = as_json(capsys, "train-specialist", "tiny-rgb.yaml", "--dry-run")["plans"]
    assert plan["energy_kwh"] == pytest.approx(plan["watts"] * plan["seconds"] / 3.6e6)
    assert 0 < plan["watts"] < 2000
    assert plan["emissions_kg"] > 0
    assert not Path("experiments").exists()

    (result,) = as_json(capsys, "train-specialist", "tiny-rgb.yaml")["results"]
    run = only_run("train", "tiny-rgb")
    assert result["estimate"]["seconds"] > 0
    assert run.read_summary()["estimate"] == result["estimate"]
    trained = result["cost"]["energy_kwh"]
    assert trained == pytest.approx(
        sum(s.energy_kwh for s in read_ledger(Path("experiments")).records)
    )

    assert main(["export"]) == 0
    (info,) = read_manifest(Path("experiments/ensemble.safetensors")).specialists
    assert info.energy_kwh == trained

    fitted = as_json(capsys, "fit-ensemble", "tiny.yaml")
    work = lineage(read_manifest(Path(fitted["model"])))
    assert [(w.command, w.reused) for w in work] == [
        ("train-specialist", True),
        ("fit-ensemble", False),
    ]
    assert work[0].cost.energy_kwh == trained
    assert 0 < work[1].cost.energy_kwh <= fitted["cost"]["energy_kwh"]


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "eosfm_cli", *words]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}


@pytest.mark.slow
def test_a_killed_training_keeps_its_part_and_going_on_adds(folder):
    words = ["tiny-s1.yaml", "--epochs", "100000"]
    ledger = Path("experiments/emissions.jsonl")
    with subprocess.Popen(command("train-specialist", *words), env=environment()) as process:
        for _ in range(1200):
            if ledger.is_file() and any(s.energy_kwh for s in read_ledger(ledger).records):
                break
            time.sleep(0.1)
        process.kill()
    (killed,) = read_ledger(ledger).records
    run = only_run("train", "tiny-s1")
    assert (killed.state, run.state) == ("running", "killed")
    assert killed.energy_kwh > 0

    limit = f"{1000 * killed.energy_kwh + 0.002}Wh"
    resume = ["train-specialist", "--resume", str(run.path), "--max-energy", limit]
    assert main(resume) == ExitCode.BUDGET
    stages = read_ledger(ledger).records
    assert [stage.state for stage in stages] == ["running", "interrupted"]
    used = sum(stage.energy_kwh for stage in stages)
    assert used > killed.energy_kwh + 1e-6
    assert run.read_summary()["energy_kwh"] == pytest.approx(used)


@pytest.mark.slow
def test_several_devices_stop_together(folder):
    words = ["tiny-s1.yaml", "--epochs", "100000", "--devices", "2", "--max-energy", "0.02Wh"]
    done = subprocess.run(
        command("train-specialist", *words),
        capture_output=True,
        text=True,
        timeout=240,
        env=environment(),
    )
    assert done.returncode == ExitCode.BUDGET, done.stderr
    assert "is used up" in done.stderr
    assert "Traceback" not in done.stderr
