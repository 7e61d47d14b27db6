"""The ledger loses nothing and counts nothing foreign, and the tracker gets in nobody's way."""

from __future__ import annotations

import csv
import json
import multiprocessing
import time
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eosfm_cli.carbon.ledger import (
    LEDGER_NAME,
    NOT_MEASURED,
    TOO_SHORT,
    StageRecord,
    append_record,
    append_row,
    read_ledger,
)
from eosfm_cli.carbon.tracker import Meter, track
from eosfm_cli.errors import DataError, ExitCode, Interrupted, OutputError


def record(name: str = "mini-rgb", **values: object) -> StageRecord:
    return StageRecord.model_validate(
        {
            "command": "train-specialist",
            "name": name,
            "state": "completed",
            "started": "2026-01-01T00:00:00+00:00",
            "seconds": 1.0,
            **values,
        }
    )


@given(
    name=st.text(),
    seconds=st.floats(0, 1e9),
    kwh=st.floats(0, 1e6),
    problem=st.none() | st.text(),
)
def test_a_record_comes_back_as_it_went(tmp_path_factory, name, seconds, kwh, problem):
    root = tmp_path_factory.mktemp("ledger")
    written = record(name, seconds=seconds, energy_kwh=kwh, problem=problem)
    append_record(root, written)
    assert read_ledger(root).records == (written,)


def test_there_is_no_ledger_yet(tmp_path):
    with pytest.raises(DataError, match="no ledger"):
        read_ledger(tmp_path)


def test_a_ledger_that_cannot_be_written_says_where(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"emissions\.jsonl"):
        append_record(tmp_path / "file", record())


@pytest.mark.parametrize(
    "line",
    [
        b"{}",
        b"[1, 2]",
        b"\xff\xfe",
        b"timestamp,project_name,run_id",
        record().model_dump_json().replace('"seconds":1.0', '"seconds":-1').encode(),
        record().model_dump_json().replace('"seconds":1.0', '"seconds":NaN').encode(),
        record().model_dump_json().replace('"version":1', '"version":9').encode(),
    ],
)
def test_foreign_and_impossible_lines_are_counted_not_summed(tmp_path, line):
    append_record(tmp_path, record("before"))
    with (tmp_path / LEDGER_NAME).open("ab") as file:
        file.write(line + b"\n\n")
    append_record(tmp_path, record("after"))
    ledger = read_ledger(tmp_path)
    assert [r.name for r in ledger.records] == ["before", "after"]
    assert ledger.skipped == 1


def test_a_line_cut_off_at_any_byte_costs_that_line_only(tmp_path):
    path = append_record(tmp_path, record("first"))
    whole = len(path.read_bytes())
    append_record(tmp_path, record("cut"))
    text = path.read_bytes()
    for length in range(whole + 1, len(text) - 1):
        path.write_bytes(text[:length])
        append_record(tmp_path, record("next"))
        ledger = read_ledger(tmp_path)
        assert [r.name for r in ledger.records] == ["first", "next"]
        assert ledger.skipped == 1


def _append_many(root: Path, who: int) -> None:
    for index in range(60):
        append_record(root, record(f"{who}-{index}", problem="x" * 3000))


def test_runs_side_by_side_lose_no_line(tmp_path):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_append_many, args=(tmp_path, who)) for who in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    ledger = read_ledger(tmp_path)
    assert ledger.skipped == 0
    expected = {f"{who}-{index}" for who in range(4) for index in range(60)}
    assert {r.name for r in ledger.records} == expected
    assert len(ledger.records) == len(expected)


def test_rows_of_other_columns_stay_in_the_csv(tmp_path):
    path = tmp_path / "emissions.csv"
    append_row(path, {"a": 1, "b": "x, y"})
    append_row(path, {"b": 2, "c": 3})
    rows = list(csv.DictReader(path.open(newline="")))
    assert rows == [{"a": "1", "b": "x, y", "c": ""}, {"a": "", "b": "2", "c": "3"}]


# ------------------------------------------------------------------------------ tracking


def until_measured(meter: Meter) -> None:
    """Work until the tracker has something to show; the first look at hardware takes seconds."""
    deadline = time.monotonic() + 120
    while not meter.cost.energy_kwh:
        assert time.monotonic() < deadline, "nothing was measured"
        time.sleep(0.1)


def test_a_stage_is_measured_and_recorded(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("EOSFM_COUNTRY", "fra")
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "experiments" / "train" / "mini-rgb" / "1"
    run.mkdir(parents=True)
    with track(tmp_path / "experiments", command="ablate", name="mini", run=run) as meter:
        until_measured(meter)

    (found,) = read_ledger(tmp_path / "experiments").records
    assert found.state == "completed"
    assert found.run == "train/mini-rgb/1"
    assert found.energy_kwh == pytest.approx(found.cpu_kwh + found.gpu_kwh + found.ram_kwh)
    assert found.emissions_kg == pytest.approx(
        found.energy_kwh * found.intensity.g_per_kwh / 1000, rel=1e-3
    )
    assert "France" in found.intensity.source
    assert 0 < found.covered_seconds <= found.seconds
    assert NOT_MEASURED not in (found.obtained.cpu, found.obtained.ram)
    assert meter.cost.energy_kwh == found.energy_kwh

    from codecarbon.output_methods.emissions_data import EmissionsData

    (row,) = csv.DictReader((run / "emissions.csv").open(newline=""))
    assert set(row) == {field.name for field in fields(EmissionsData)}
    assert float(row["energy_consumed"]) == pytest.approx(found.energy_kwh)

    assert capfd.readouterr() == ("", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["experiments"]


@pytest.mark.parametrize(
    ("country", "said"), [("", "is not set"), ("FR", "EOSFM_COUNTRY=FR is no country")]
)
def test_without_a_country_the_world_average_counts_and_says_so(
    tmp_path, monkeypatch, country, said
):
    monkeypatch.setenv("EOSFM_COUNTRY", country)
    with track(tmp_path, command="predict", name="scene.tif") as meter:
        until_measured(meter)
    (found,) = read_ledger(tmp_path).records
    assert found.intensity.g_per_kwh == 475
    assert said in found.intensity.source


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (DataError("no"), "failed"),
        (ZeroDivisionError(), "failed"),
        (Interrupted(ExitCode.TERMINATED), "interrupted"),
        (KeyboardInterrupt(), "interrupted"),
    ],
)
def test_work_that_does_not_end_well_is_recorded_too(tmp_path, error, state):
    with pytest.raises(type(error)), track(tmp_path, command="predict", name="x"):
        raise error
    (found,) = read_ledger(tmp_path).records
    assert found.state == state
    assert found.seconds > 0


def test_a_stage_over_in_no_time_says_that_it_was_too_short(tmp_path):
    with track(tmp_path, command="predict", name="x"):
        pass
    (found,) = read_ledger(tmp_path).records
    assert not found.measured
    assert found.problem == TOO_SHORT


def test_a_tracker_that_fails_does_not_fail_the_work(tmp_path, monkeypatch):
    monkeypatch.setenv("CODECARBON_PUE", "nonsense")
    with track(tmp_path, command="predict", name="x") as meter:
        time.sleep(0.6)
    (found,) = read_ledger(tmp_path).records
    assert not found.measured
    assert found.obtained.cpu == NOT_MEASURED
    assert found.problem
    assert meter.cost.energy_kwh == 0
    assert meter.cost.seconds >= 0.6


class Faulty:
    """A tracker that cannot say what it has measured so far."""

    def flush(self) -> float:
        raise OSError("the sensor is gone")


def test_costs_so_far_that_cannot_be_had_do_not_fail_the_work():
    meter = Meter()
    meter.stop()  # so that its own tracker does not come in between
    meter._reading, meter._tracker = None, Faulty()
    assert meter.cost.seconds > 0
    assert meter.cost.energy_kwh == 0


class Heard:
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def test_a_ledger_that_cannot_be_written_is_told_and_ends_nothing(tmp_path):
    (tmp_path / "file").touch()
    heard = Heard()
    with track(tmp_path / "file", command="predict", name="x", progress=heard):
        pass
    assert len(heard.warnings) == 1
    assert "emissions.jsonl" in heard.warnings[0]


def test_further_processes_of_one_training_keep_no_ledger(tmp_path, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    with track(tmp_path, command="predict", name="x"):
        pass
    assert not (tmp_path / LEDGER_NAME).exists()


def test_lines_are_plain_json(tmp_path):
    path = append_record(tmp_path, record())
    assert json.loads(path.read_text())["command"] == "train-specialist"
