"""The ledger loses nothing and counts nothing foreign, and the tracker gets in nobody's way."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eosfm_cli.carbon.ledger import (
    LEDGER_NAME,
    NOT_MEASURED,
    StageRecord,
    append_record,
    cost_of_run,
    read_ledger,
)
from eosfm_cli.carbon.meter import (
    Amounts,
    _gpus_in_use,
    _hardware,
    _Latest,
    _obtained,
    _sample_sparingly,
)
from eosfm_cli.carbon.processor import named_at_once
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


def part(number: int, **values: object) -> StageRecord:
    """A line of one stage."""
    return record(stage="one", part=number, state="running", **values)


def test_the_lines_of_a_stage_are_one_stage(tmp_path):
    append_record(tmp_path, part(0, seconds=3))  # nothing measured yet
    append_record(tmp_path, record("between"))
    append_record(tmp_path, part(1, seconds=5, covered_seconds=5, energy_kwh=0.25, cpu_kwh=0.2))
    last = part(2, seconds=2, covered_seconds=2, energy_kwh=0.5, cpu_kwh=0.5, emissions_kg=0.1)
    append_record(tmp_path, last.model_copy(update={"state": "completed"}))
    stage, other = read_ledger(tmp_path).records
    assert (stage.seconds, stage.covered_seconds) == (10, 7)
    assert (stage.energy_kwh, stage.cpu_kwh, stage.emissions_kg) == (0.75, 0.7, 0.1)
    assert stage.state == "completed"
    assert other.name == "between"


def test_a_killed_stage_keeps_its_part_and_a_resumed_one_adds(tmp_path):
    run = tmp_path / "train" / "rgb" / "1"
    killed = {"run": "train/rgb/1", "stage": "a", "state": "running"}
    append_record(tmp_path, record(**killed, part=0, seconds=4, energy_kwh=0.5))
    append_record(tmp_path, record(**killed, part=1, seconds=2, energy_kwh=0.25))
    append_record(tmp_path, record(run="train/rgb/1", stage="b", seconds=8, energy_kwh=1.0))
    append_record(tmp_path, record(run="train/rgb/2", stage="c", seconds=100, energy_kwh=9.0))
    assert [r.state for r in read_ledger(tmp_path).records] == ["running", *["completed"] * 2]
    cost = cost_of_run(tmp_path, run)
    assert (cost.seconds, cost.energy_kwh) == (14, 1.75)
    assert cost_of_run(tmp_path, tmp_path / "train" / "rgb" / "3") is None


NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/"), min_size=1)


@given(st.lists(NAMES, min_size=1, max_size=4, unique=True))
def test_the_cost_of_one_run_is_found_whatever_the_runs_are_called(tmp_path_factory, names):
    root = tmp_path_factory.mktemp("ledger")
    for number, name in enumerate(names, 1):
        append_record(root, record(run=name, seconds=number))
        append_record(root, record(name, run=f"{name}/more", seconds=100))  # named, but not it
    lines = [line for line in (root / LEDGER_NAME).read_text(encoding="utf-8").split("\n") if line]
    escaped = "\n".join(json.dumps(json.loads(line)) for line in lines)  # as other tools write it
    for text in ("\n".join(lines), escaped):
        (root / LEDGER_NAME).write_text(text, encoding="utf-8")
        found = [read_ledger(root, run=name).records for name in names]
        assert [[one.seconds for one in own] for own in found] == [
            [number] for number in range(1, len(names) + 1)
        ]


def test_copies_of_one_ledger_joined_count_once(tmp_path):
    for number in range(3):
        path = append_record(tmp_path, part(number, seconds=1))
    path.write_bytes(path.read_bytes() * 2)
    (stage,) = read_ledger(tmp_path).records
    assert stage.seconds == 3


@given(st.lists(st.floats(0, 1e3), min_size=1, max_size=8), st.randoms())
def test_lines_add_up_in_whatever_order_they_stand(tmp_path_factory, energies, shuffle):
    root = tmp_path_factory.mktemp("ledger")
    lines = [part(n, energy_kwh=kwh, covered_seconds=1) for n, kwh in enumerate(energies)]
    shuffle.shuffle(lines)
    for line in lines:
        append_record(root, line)
    (stage,) = read_ledger(root).records
    assert stage.energy_kwh == pytest.approx(sum(energies))
    assert stage.part == len(energies) - 1


def test_a_clock_set_back_changes_no_sum(tmp_path):
    append_record(tmp_path, part(0, seconds=5, written="2026-01-02T00:00:00+00:00"))
    append_record(tmp_path, part(1, seconds=5, written="2025-01-01T00:00:00+00:00"))
    (stage,) = read_ledger(tmp_path).records
    assert stage.seconds == 10


def test_a_counter_set_back_takes_nothing_away():
    before = Amounts(10, 10, 0.5, 0.5, 0.5, 0.1)
    new = Amounts(12, 12, 0.25, 0.75, 0.5, 0.1).since(before)
    assert (new.seconds, new.cpu_kwh, new.gpu_kwh, new.ram_kwh) == (2, 0, 0.25, 0)


KNOWN_CPU = "AMD EPYC 7763 64-Core Processor"
"""One of codecarbon's table."""


def test_processor_time_of_processes_beside_this_one_is_said_to_be_missing(monkeypatch):
    class CPU:
        _mode, _tdp, _model = "cpu_load", 100, KNOWN_CPU

    class Tracker:
        _hardware = (CPU(),)

    assert (
        _obtained(Tracker()).cpu == "modelled from this process's load and 100 W of nominal power"
    )
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert "other training processes are not in it" in _obtained(Tracker()).cpu


def test_gpus_of_others_are_not_counted(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,6")
    assert _gpus_in_use(2) == {"gpu_ids": "3,5"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert _gpus_in_use(1) == {"gpu_ids": []}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_figures_that_are_none_are_not_taken(value):
    class Data:
        cpu_energy, gpu_energy, ram_energy, emissions = 0.1, 0.2, 0.3, 0.4

    class Bad(Data):
        gpu_energy = value

    latest, good = _Latest(), Data()
    latest.out(good, good)
    latest.out(Bad(), good)
    assert latest.data is good


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
    assert found.obtained.ram.startswith(("constant", "measured"))
    assert meter.cost.energy_kwh == found.energy_kwh

    from codecarbon.output_methods.emissions_data import EmissionsData

    (row,) = csv.DictReader((run / "emissions.csv").open(newline=""))
    assert set(row) == {field.name for field in fields(EmissionsData)}
    assert float(row["energy_consumed"]) == pytest.approx(found.energy_kwh)

    assert capfd.readouterr() == ("", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["experiments"]
    assert (tmp_path / "experiments" / "emissions.csv").read_text() == (
        run / "emissions.csv"
    ).read_text()


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


def test_a_stage_over_in_no_time_is_modelled_and_says_so(tmp_path):
    with track(tmp_path, command="predict", name="x"):
        sum(range(1_000_000))
    (found,) = read_ledger(tmp_path).records
    assert found.covered_seconds == 0
    assert found.measured
    assert "as it was short" in found.obtained.cpu
    assert 0 < found.energy_kwh == pytest.approx(found.cpu_kwh + found.ram_kwh)
    assert found.energy_kwh < 500 / 1000 * found.seconds / 3600, "more than 500 W"


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
    meter = Meter(idle=True)
    meter._tracker = Faulty()
    assert meter.cost.seconds > 0
    assert meter.cost.energy_kwh == 0


KILLED = """
import sys, time
from pathlib import Path
from eosfm_cli.carbon.tracker import track
with track(Path(sys.argv[1]), command="predict", name="scene.tif") as meter:
    while not meter.cost.energy_kwh:
        time.sleep(0.1)
    time.sleep(1.1)
    meter.flush()
    print("flushed", flush=True)
    time.sleep(600)
"""


def test_kill_minus_9_loses_nothing_that_was_flushed(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout.readline() == "flushed\n"
        process.kill()
    (found,) = read_ledger(tmp_path).records
    assert found.state == "running"
    assert found.seconds > 1
    assert found.energy_kwh > 0


def test_what_could_not_be_written_goes_with_the_next_line(tmp_path):
    root = tmp_path / "experiments"
    root.touch()  # a file where the folder should be
    with track(root, command="predict", name="x") as meter:
        time.sleep(1.1)
        meter.flush()
        root.unlink()
    (found,) = read_ledger(root).records
    assert found.seconds > 1.1
    assert found.part == 0


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


# ------------------------------------------------------------------------------ odd ledgers


LINE = record("one").model_dump_json(exclude_defaults=True).encode()


@pytest.mark.parametrize(
    ("text", "records", "skipped"),
    [
        (b"\xef\xbb\xbf" + LINE + b"\n" + LINE + b"\n", 2, 0),  # an editor's mark
        (LINE + b"\r\n" + LINE + b"\r\n", 2, 0),
        (LINE + b"\r" + LINE + b"\r", 2, 0),
        (LINE + LINE + b"\n" + LINE, 3, 0),  # files joined, the first without its last line's end
        (LINE + b'{"command": "tra\n' + LINE, 2, 1),
        (b"\0" * 512 + LINE + b"\n" + b"\0" * 4096, 1, 1),  # a machine that went down
        (LINE[:-1] + b',"water_l":2,"columns":{"a":[1,{"b":null}]}}\n', 1, 0),  # of a later version
        (LINE[:-1] + b',"obtained":{"npu":"measured"},"hardware":{"npu":4}}\n', 1, 0),
        ((LINE + b"\n").decode().encode("utf-16"), 0, 2),
        (LINE.replace(b"1.0", b"1e400"), 0, 1),
        (LINE.replace(b'"one"', b'"\\ud800"'), 0, 1),  # half of a character
        (b"[" * 200_000, 0, 1),
        (b"", 0, 0),
    ],
)
def test_no_record_is_lost_to_what_stands_around_it(tmp_path, text, records, skipped):
    (tmp_path / LEDGER_NAME).write_bytes(text)
    ledger = read_ledger(tmp_path)
    assert (len(ledger.records), ledger.skipped) == (records, skipped)


HOLDS = """
import fcntl, sys, time
with open(sys.argv[1], "ab") as file:
    fcntl.lockf(file, fcntl.LOCK_EX)
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


@pytest.mark.parametrize("held_s", [0.3, 30])
def test_a_line_waits_for_another_writer_but_not_for_ever(tmp_path, held_s):
    path = append_record(tmp_path, record("before"))
    words = [sys.executable, "-c", HOLDS, str(path), str(held_s)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        append_record(tmp_path, record("after"))
        process.kill()
    assert [r.name for r in read_ledger(tmp_path).records] == ["before", "after"]
    assert sorted(one.name for one in tmp_path.iterdir()) == [LEDGER_NAME]  # no lock is left


def test_a_ledger_that_never_rests_holds_up_nobody(tmp_path, monkeypatch):
    from eosfm_cli.carbon import tracker

    def busy(path: Path, records: object) -> None:
        append_record(path.parent, record("another"))  # while the table is written, every time

    monkeypatch.setattr(tracker, "write_codecarbon_csv", busy)
    append_record(tmp_path, record("own"))
    assert {one.name for one in tracker._write_table(tmp_path)} == {"own", "another"}


# ------------------------------------------------------------------------------ what is counted


class Devices:
    def get_gpu_static_info(self) -> list[dict[str, object]]:
        return [{"gpu_index": n, "name": name} for n, name in enumerate(["A100", "A100", "T4"])]


class GPU:
    devices = Devices()

    def __init__(self, *ids: int) -> None:
        self.ids = ids

    def _get_gpu_ids(self) -> list[int]:
        return list(self.ids)


def of_parts(*parts: object, **settings: object) -> object:
    """A tracker that found these."""
    return type("Tracker", (), {"_hardware": parts, **settings})()


class Data:
    cpu_model, cpu_count, ram_total_size = "Xeon", 2, 8.0


@pytest.mark.parametrize(
    ("ids", "names", "obtained"),
    [
        ((0, 1), "A100", "measured for the whole device (driver)"),
        ((1, 2), "A100, T4", "measured for the whole device (driver)"),
        ((), None, "none in use"),
    ],
)
def test_only_the_gpus_that_are_counted_are_named(ids, names, obtained):
    found = of_parts(GPU(*ids))
    hardware = _hardware(found, Data())
    assert (hardware.gpu, hardware.gpu_count, hardware.gpu_ids) == (names, len(ids), ids)
    assert _obtained(found).gpu == obtained


class CPU:
    def __init__(self, mode: str, model: str, tdp: float | None) -> None:
        self._mode, self._model, self._tdp = mode, model, tdp


def test_power_that_is_the_same_for_any_processor_is_said_to_be_a_guess():
    generic = CPU("cpu_load", KNOWN_CPU, 85.0)
    generic._is_generic_tdp = True
    found = _obtained(of_parts(generic))
    assert found.cpu.endswith("85 W of nominal power, a guess for any processor")


class RAM:
    pass


@pytest.mark.parametrize(
    ("mode", "model", "settings", "cpu", "ram"),
    [
        ("cpu_load", KNOWN_CPU, {}, "and 50 W of nominal power", "how many is guessed"),
        ("cpu_load", "Fancy 1", {}, "50 W of nominal power, a guess: codecarbon does not know", ""),
        ("constant", "Fancy 1", {}, "half of 50 W of nominal power, a guess", ""),
        ("intel_rapl", "Fancy 1", {}, "measured for the whole machine (RAPL)", ""),
        (
            "cpu_load",
            "Fancy 1",
            {"_force_cpu_power": 50.0, "_force_ram_power": 12.5},
            "50 W of nominal power, set in codecarbon's configuration",
            "constant: 12.5 W, set in codecarbon's configuration",
        ),
    ],
)
def test_what_a_figure_rests_on_is_said(mode, model, settings, cpu, ram):
    found = _obtained(of_parts(CPU(mode, model, 50.0), RAM(), **settings))
    assert cpu in found.cpu
    assert found.cpu.endswith("processor") == ("a guess" in found.cpu)
    assert ram in found.ram


def test_gpus_of_other_makers_are_chosen_too(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("ROCR_VISIBLE_DEVICES", "2,3")
    assert _gpus_in_use(1) == {"gpu_ids": "2"}


def test_a_processor_is_named_without_computing(tmp_path):
    import cpuinfo

    asked = cpuinfo.get_cpu_info
    source = tmp_path / "cpuinfo"
    source.write_text("processor\t: 0\nmodel name\t: Fancy 1 @ 2 GHz\nmodel name\t: other\n")
    with named_at_once(source):
        assert cpuinfo.get_cpu_info()["brand_raw"] == "Fancy 1 @ 2 GHz"
    source.write_text("processor: 0\nBogoMIPS: 50\n")  # as of ARM
    for unknown in (source, tmp_path / "nothing"):
        with named_at_once(unknown):
            assert cpuinfo.get_cpu_info is asked
    assert cpuinfo.get_cpu_info is asked


# ------------------------------------------------------------------------------ in nobody's way


STAGE = """
import sys, time
from pathlib import Path
from eosfm_cli.carbon.tracker import track
asked = []
def guard(event, words):
    if event in {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname"}:
        asked.append(f"{event} {words}")
    if event == "subprocess.Popen" and "sudo" in str(words):
        asked.append(f"{event} {words}")
sys.addaudithook(guard)
with track(Path(sys.argv[1]), command="predict", name="scene.tif") as meter:
    time.sleep(float(sys.argv[2]))
print(asked)
"""


def stage(root: Path, seconds: float, **environment: str) -> subprocess.CompletedProcess[str]:
    """A stage in a process of its own."""
    own = str(Path(__file__).parents[1])
    paths = os.pathsep.join(filter(None, [environment.pop("PYTHONPATH", ""), own]))
    return subprocess.run(
        [sys.executable, "-c", STAGE, str(root), str(seconds)],
        env={**os.environ, **environment, "PYTHONPATH": paths},
        cwd=root.parent,
        capture_output=True,
        text=True,
        check=False,
    )


def test_nobody_is_asked_or_written_to_whatever_codecarbon_is_set_to(tmp_path):
    settings = {
        "CODECARBON_OUTPUT_METHODS": "csv,api,prometheus",
        "CODECARBON_EMISSIONS_ENDPOINT": "http://192.0.2.1/emissions",
        "CODECARBON_ELECTRICITYMAPS_API_TOKEN": "secret",
        "CODECARBON_API_KEY": "secret",
        "CODECARBON_CLOUD_PROVIDER": "aws",
        "CODECARBON_CLOUD_REGION": "us-east-1",
        "CODECARBON_ALLOW_MULTIPLE_RUNS": "false",
        "CODECARBON_LOG_LEVEL": "debug",
        "CODECARBON_TRACKING_MODE": "machine",
        "CODECARBON_PUE": "1.5",
    }
    done = stage(tmp_path / "experiments", 2.0, **settings)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")
    (found,) = read_ledger(tmp_path / "experiments").records
    assert found.energy_kwh > 0
    assert found.columns["pue"] == 1.5
    assert found.columns["tracking_mode"] == "process"
    assert [one.name for one in tmp_path.iterdir()] == ["experiments"]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("raise ImportError('half of it is missing')", "half of it is missing"),
        ("raise SystemExit(3)", "SystemExit"),
        ("", "OfflineEmissionsTracker"),  # a version that is too old
    ],
)
def test_a_codecarbon_that_is_broken_fails_nothing(tmp_path, source, said):
    package = tmp_path / "broken" / "codecarbon"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(source)
    done = stage(tmp_path / "experiments", 0.1, PYTHONPATH=str(package.parent))
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")
    (found,) = read_ledger(tmp_path / "experiments").records
    assert (found.state, found.measured) == ("completed", False)
    assert said in found.problem


class Mute:
    """A tracker that does not start, and says nothing of it."""

    _start_time = None

    def __init__(self) -> None:
        self._output_handlers: list[object] = []

    def start(self) -> None:
        """Fail."""


def test_a_tracker_that_keeps_its_failure_to_itself_is_found_out(tmp_path, monkeypatch):
    monkeypatch.setattr("eosfm_cli.carbon.meter._build_tracker", lambda gpus: (Mute(), None))
    with track(tmp_path, command="predict", name="x"):
        pass
    (found,) = read_ledger(tmp_path).records
    assert found.problem == "RuntimeError: codecarbon found no way to measure here"


class Slow(Mute):
    """A tracker to which the machine's many processes take long to look through."""

    def __init__(self, look_s: float) -> None:
        super().__init__()
        self.look_s = look_s
        self._scheduler_monitor_power = type("Scheduler", (), {"interval": 1})()

    def _monitor_power(self) -> None:
        began = time.thread_time()
        while time.thread_time() - began < self.look_s:
            pass


@pytest.mark.parametrize(("look_s", "low", "high"), [(0, 1, 1), (0.01, 5, 7.5), (0.1, 7.5, 7.5)])
def test_power_is_looked_at_seldom_where_that_takes_long(look_s, low, high):
    """Two thousandths of the time: 0.01 s every 5 s; never more seldom than figures are read."""
    tracker = Slow(look_s)
    _sample_sparingly(tracker)
    assert low <= tracker._scheduler_monitor_power.interval <= high


@pytest.mark.slow
def test_processes_that_are_killed_side_by_side_lose_nothing(tmp_path):
    words = [sys.executable, "-c", FLUSHING, str(tmp_path)]
    running = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    said = [process.stdout.readline().split() for process in running]
    time.sleep(1)
    for process in running:
        process.kill()
        process.communicate()
    ledger = read_ledger(tmp_path)
    assert ledger.skipped <= len(running)
    flushed = {name: int(lines) for name, lines in said}
    assert {one.name for one in ledger.records} == set(flushed)
    assert all(one.part + 1 >= flushed[one.name] for one in ledger.records)
    assert all(one.state == "running" for one in ledger.records)


FLUSHING = """
import os, sys
from pathlib import Path
from eosfm_cli.carbon import tracker
tracker._LINE_APART_S = 0.0
with tracker.track(Path(sys.argv[1]), command="predict", name=str(os.getpid())) as meter:
    for number in range(1, 100_000):
        meter.flush()
        if number == 200:
            print(os.getpid(), number, flush=True)
"""


FORKING = """
import os, sys, time
from pathlib import Path
from eosfm_cli.carbon.tracker import track
with track(Path(sys.argv[1]), command="predict", name="scene.tif"):
    child = os.fork()
    if not child:
        try:
            import codecarbon  # what the tracker's thread imports at this moment
        finally:
            os._exit(7)
    for _ in range(100):
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        time.sleep(0.1)
    else:
        os.kill(child, 9)
    print(os.waitstatus_to_exitcode(status))
"""


STOPPED = """
import os, signal, threading, time
from eosfm_cli.carbon.meter import Meter
meter = Meter()
threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    if not os.fork():
        os._exit(0)
    time.sleep(30)
except KeyboardInterrupt:
    print("stopped")
"""


def with_slow_codecarbon(folder, code, *words):
    """What a process says whose tracker starts slowly."""
    package = folder / "slow" / "codecarbon"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(
        "import time\ntime.sleep(1)\nimport concurrent.futures.thread\n"
    )
    own = str(Path(__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        env={**os.environ, "PYTHONPATH": f"{package.parent}{os.pathsep}{own}"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "Exception ignored" not in done.stderr
    return done.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no such processes there")
def test_workers_forked_while_the_tracker_starts_do_not_wait_for_ever(tmp_path):
    assert with_slow_codecarbon(tmp_path, FORKING, str(tmp_path / "experiments")) == "7\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no such processes there")
def test_ctrl_c_while_a_fork_waits_for_the_tracker_is_not_lost(tmp_path):
    assert with_slow_codecarbon(tmp_path, STOPPED) == "stopped\n"
