"""The command line as a user meets it: errors, exit codes, streams, signals, widths."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import shlex
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import get_args

import pytest
import typer

from eosfm_cli.carbon.ledger import StageRecord, append_record
from eosfm_cli.commands import app as app_module
from eosfm_cli.commands import figures, options
from eosfm_cli.commands.app import COMMANDS, guard, load_command, main
from eosfm_cli.commands.console import line_every
from eosfm_cli.commands.fit_ensemble import what_next
from eosfm_cli.commands.plan import show_plans
from eosfm_cli.commands.train_specialist import show, train_each
from eosfm_cli.errors import DataError, ExitCode, Interrupted, UsageError
from eosfm_cli.recipe import FitSpec, SpecialistSpec, TrainingSpec, load_recipe
from eosfm_cli.results import Cost, FitResult, PhasePlan, TrainResult, WorkPlan
from tests.test_startup import environment

EOSFM = [sys.executable, "-m", "eosfm_cli"]
ESCAPE = "\x1b"

RECIPE = """
title: Fields
task: segmentation
dataset:
  root: fields
  images: {s2: {path: "images/{id}.tif", bands: [blue, green, red, nir]}}
  masks: {path: "masks/{id}.tif"}
  split: {by: fraction}
classes: [{name: other}, {name: field}]
"""


def run(*arguments: str, cwd: Path, **extra: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*EOSFM, *arguments], cwd=cwd, env=environment(**extra), capture_output=True, text=True
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a ledger of two stages."""
    for name, kwh in (("a-specialist-with-a-rather-long-name", 0.002), ("other", 0.001)):
        append_record(
            tmp_path / "experiments",
            StageRecord(
                command="train-specialist",
                name=name,
                state="completed",
                started="2026-01-01T00:00:00+00:00",
                seconds=60,
                covered_seconds=60,
                energy_kwh=kwh,
                emissions_kg=kwh / 2,
            ),
        )
    return tmp_path


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "fields.yaml"
    path.write_text(RECIPE)
    return path


# ------------------------------------------------------------------------------ help


@pytest.mark.parametrize("name", COMMANDS)
def test_the_table_of_commands_says_what_the_commands_say(name):
    command = load_command(name)
    assert command.help.splitlines()[0] == COMMANDS[name].summary


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_an_example_that_parses(name):
    command = load_command(name)
    typed = re.fullmatch(r"\*\*Example:\*\* `(.*)`", command.epilog)[1].split()
    assert typed[0] == "eosfm"
    app = typer.main.get_command(app_module.app)
    context = app.make_context("eosfm", typed[1:])
    with context:
        _, found, rest = app.resolve_command(context, [*context._protected_args, *context.args])
        assert found.make_context(name, rest).command_path.startswith(name)


@pytest.mark.parametrize(
    ("command", "spec"), [("train-specialist", SpecialistSpec), ("fit-ensemble", FitSpec)]
)
def test_help_shows_the_defaults_that_recipes_have(command, spec):
    spelled = {
        "pretrained": {False: "no-pretrained"},
        "freeze": {True: "freeze"},
        "augment": {False: "no-augment"},
    }
    for parameter in load_command(command).params:
        shown = getattr(parameter, "show_default", None)
        if not isinstance(shown, str) or not shown.startswith("the recipe's, "):
            continue
        default = spec.model_fields[parameter.name].default
        words = spelled.get(parameter.name, {None: "all"})
        assert shown == f"the recipe's, {words.get(default, default)}", parameter.name


def test_choices_are_those_of_the_recipe():
    from eosfm_cli.commands import fit_ensemble

    fields = FitSpec.model_fields
    assert get_args(options.Precision) == get_args(
        TrainingSpec.model_fields["precision"].annotation
    )
    for name in ("Fusion", "Normalize", "Selection", "Adapt"):
        key = name.lower()
        assert get_args(getattr(fit_ensemble, name)) == get_args(fields[key].annotation), key


def test_without_arguments_the_help_is_shown(tmp_path):
    done = run(cwd=tmp_path)
    assert done.returncode == 0
    assert all(name in done.stdout for name in COMMANDS)
    assert run("recipes", cwd=tmp_path).returncode == 0


def test_completion_offers_commands_and_recipes(tmp_path):
    def complete(line: str) -> str:
        words = {"_EOSFM_COMPLETE": "complete_bash", "COMP_WORDS": line}
        words["COMP_CWORD"] = str(len(line.split(" ")) - 1)
        return run(cwd=tmp_path, **words).stdout

    assert "fit-ensemble" in complete("eosfm fit")
    assert "mini" in complete("eosfm train-specialist mi").split()


# ------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["exprt"], ExitCode.USAGE, "'export'"),
        (["export", "--outptu", "x"], ExitCode.USAGE, "--output"),
        (["train-specialist"], ExitCode.USAGE, "RECIPE"),
        (["train-specialist", "nope"], ExitCode.USAGE, "'nope'"),
        (["emissions", "--experiments", "nowhere"], ExitCode.DATA, "nowhere"),
        (["recipes", "validate", "nope.yaml"], ExitCode.USAGE, ""),
        (["predict", "x.tif"], ExitCode.DATA, "eosfm fit-ensemble"),
    ],
)
def test_bad_input_is_one_message_and_its_exit_code(
    tmp_path, capsys, monkeypatch, arguments, code, said
):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == code
    streams = capsys.readouterr()
    assert said in streams.err
    assert "Traceback" not in streams.err + streams.out


def test_every_error_carries_its_hint(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(["emissions"])
    message, hint = capsys.readouterr().err.splitlines()
    assert message.startswith("error: ")
    assert hint.startswith("→ ")


def test_an_output_that_cannot_be_written_is_a_failure(project, capsys, monkeypatch):
    monkeypatch.chdir(project)
    (project / "file").touch()
    assert main(["emissions", "--csv", "file/x.csv"]) == ExitCode.FAILURE
    said = capsys.readouterr().err
    assert "file/x.csv" in said
    assert "--output" not in said  # which the command does not have


def raising(error: BaseException):
    def work() -> None:
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (MemoryError(), ExitCode.MEMORY, "memory"),
        (RuntimeError("DefaultCPUAllocator: not enough memory"), ExitCode.MEMORY, "memory"),
        (Interrupted(ExitCode.INTERRUPTED), 130, "Ctrl-C"),
        (Interrupted(ExitCode.TERMINATED), 143, "SIGTERM"),
        (KeyboardInterrupt(), 130, "Ctrl-C"),
        (ZeroDivisionError("a bug"), ExitCode.FAILURE, "bug in eosfm"),
        (UsageError("no such thing"), ExitCode.USAGE, "no such thing"),
        (DataError("[brackets] stay"), ExitCode.DATA, "[brackets] stay"),
    ],
)
def test_every_exception_ends_in_words_and_a_code(capsys, error, code, said):
    assert guard(raising(error), as_json=False, debug=False) == code
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err


@pytest.mark.parametrize("arguments", [["--debug", "emissions"], ["emissions", "--debug"]])
def test_debug_stands_anywhere(tmp_path, capsys, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == ExitCode.DATA
    assert "Traceback" in capsys.readouterr().err


def test_debug_by_environment(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EOSFM_DEBUG", "1")
    main(["emissions"])
    assert "Traceback" in capsys.readouterr().err


def test_one_recipe_that_fails_does_not_stop_the_others(recipe):
    loaded = [load_recipe(str(recipe), {"name": name}) for name in ("a", "b", "c")]

    def train(one):
        if one.name == "b":
            raise DataError("b has no data")
        return one.name

    results, failed = train_each(loaded, train)
    assert results == ["a", "c"]
    assert {name: f.exit_code for name, f in failed.items()} == {"b": ExitCode.DATA}


def test_options_become_keys_of_the_recipe_and_set_wins():
    found = options.overrides("fit", ["fit.lr=1e-4"], lr=0.1, top_k=3, epochs=None)
    assert found == {"fit.lr": 1e-4, "fit.top_k": 3}
    assert options.names("A, B") == ["A", "B"]
    found = [options.devices(given) for given in ("2", "auto", "²", None)]
    assert found == [2, "auto", "²", None]


def test_a_recipe_that_is_named_twice_is_trained_once():
    names = ["mini-rgb", "mini-s1", "mini-rgb"]
    context = load_command("train-specialist").make_context("train-specialist", names)
    assert context.params["recipes"] == ["mini-rgb", "mini-s1"]


def test_an_option_out_of_range_names_the_key(recipe, capsys):
    assert main(["train-specialist", str(recipe), "--lr", "-1"]) == ExitCode.USAGE
    assert "training.lr" in capsys.readouterr().err


@pytest.mark.parametrize("taken", [False, True])
def test_a_user_without_name_and_home_has_somewhere_for_caches(taken, tmp_path, monkeypatch):
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 54321)  # as in a container
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    if taken:  # by somebody who would choose what we read there
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "eosfm-54321").symlink_to(tmp_path / "elsewhere")
    assert main(["--version"]) == ExitCode.OK
    assert Path.home().parent == tmp_path
    assert (Path.home().name == "eosfm-54321") is not taken


# ------------------------------------------------------------------------------ results


def test_a_table_of_classifiers_shows_their_metric(capsys):
    trained = TrainResult("shades", Path("run"), {"loss": 1.0, "Accuracy": 0.9}, 10, 12, Cost(3))
    show([trained], {}, as_json=False)
    heading, row = capsys.readouterr().out.splitlines()
    assert heading.split()[:3] == ["specialist", "metric", "test"]
    assert row.split()[:3] == ["shades", "Accuracy", "0.900"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (0.0004, "<0.001"), (0.5, "0.500"), (9.996, "10.0"), (99.97, "100"), (123.4, "123")],
)
def test_three_digits_are_shown(value, shown):
    assert figures.three(value) == shown
    assert figures.energy(value / 1000) == (f"{shown} Wh" if value else "–")


@pytest.mark.parametrize(
    ("task", "specialists", "expected"),
    [
        ("segmentation", ("a", "b"), ["eosfm ablate", "eosfm predict scene.tif"]),
        ("segmentation", ("a",), ["eosfm compare", "eosfm predict scene.tif"]),
        ("classification", ("a", "b"), ["eosfm ablate", "eosfm predict image.tif"]),
        ("change", ("a",), ["eosfm compare", "eosfm predict after.tif --before before.tif"]),
    ],
)
def test_what_follows_a_fit_is_what_it_can_do(task, specialists, expected):
    result = FitResult("r", Path(), Path(), None, specialists, {}, {}, 1, 1, Cost())
    assert what_next(task, result) == expected


def test_a_plan_counts_in_words_that_agree(capsys):
    phases = tuple(PhasePlan("fit", n, n, 0.5, 1.0, 10, 10, 0) for n in (1, 2))
    plan = WorkPlan("r", Path("data"), ("red",), {"train": 1}, {"train": 1}, (1, 1, 32, 32), phases)
    show_plans([plan], as_json=False)
    shown = capsys.readouterr().out
    assert "1 epoch, 1 step of 0.5 s" in shown
    assert "2 epochs, 2 steps of 0.5 s" in shown


@pytest.mark.parametrize("name", ["train-specialist", "fit-ensemble"])
@pytest.mark.parametrize("option", ["--output", "--experiments", "-o"])
def test_the_folder_of_runs_has_one_option_everywhere(name, option):
    context = load_command(name).make_context(name, ["mini", option, "my runs"])
    assert context.params["output"] == Path("my runs")
    follows = options.within("eosfm export", context.params["output"])
    _, *words = shlex.split(follows)
    assert load_command("export").make_context("export", words[1:]).params["experiments"] == Path(
        "my runs"
    )
    assert options.within("eosfm export", None) == "eosfm export"


def test_help_says_what_the_json_of_several_recipes_looks_like(tmp_path):
    assert '{"results": ' in run("train-specialist", "--help", cwd=tmp_path, COLUMNS="200").stdout


# ------------------------------------------------------------------------------ streams


def test_json_is_one_object_and_nothing_else_on_stdout(project):
    done = run("emissions", "--json", "--csv", "table.csv", cwd=project)
    assert done.returncode == 0
    found = json.loads(done.stdout)
    assert [row["name"] for row in found["rows"]][1] == "other"
    assert "table.csv" in done.stderr


def test_errors_under_json_are_one_object_too(tmp_path):
    done = run("emissions", "--json", cwd=tmp_path)
    error = json.loads(done.stdout)["error"]
    assert done.returncode == error["exit_code"] == ExitCode.DATA
    assert error["message"] in done.stderr
    assert error["hint"]
    assert json.loads(run("exprt", "--json", cwd=tmp_path).stdout)["error"]["exit_code"] == 2


def test_piped_output_is_plain_and_whole(project):
    done = run("emissions", cwd=project, COLUMNS="40")
    assert ESCAPE not in done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 4
    assert "a-specialist-with-a-rather-long-name" in lines[1]
    assert lines[1].endswith("66.7 %")


def test_a_reader_that_goes_away_is_no_traceback(project):
    process = subprocess.Popen(
        [*EOSFM, "emissions"],
        cwd=project,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.close()
    said = process.stderr.read()
    assert process.wait() == ExitCode.FAILURE
    assert "Traceback" not in said
    assert "BrokenPipe" not in said


@pytest.mark.parametrize("json", [[], ["--json"]])
def test_a_disk_that_is_full_is_said_in_one_message(project, json):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*EOSFM, "emissions", *json],
            cwd=project,
            env=environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == ExitCode.FAILURE
    message, hint = done.stderr.splitlines()
    assert message == "error: The output cannot be written: No space left on device."
    assert hint.startswith("→ ")


@pytest.mark.parametrize(("closed", "code"), [(">&-", 0), ("2>&-", 0), ("--nope 2>&-", 2)])
def test_closed_streams_are_no_error(project, closed, code):
    line = f"{shlex.join(EOSFM)} emissions {closed}"
    done = subprocess.run(
        ["sh", "-c", line], cwd=project, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == code
    assert "error" not in done.stderr


def on_a_terminal(*arguments: str, cwd: Path, columns: int, **extra: str) -> str:
    """What a terminal of so many columns is sent."""
    reader, writer = pty.openpty()
    fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    surroundings = environment(TERM="xterm-256color", **extra)
    surroundings.pop("COLUMNS", None)
    process = subprocess.Popen(
        [*EOSFM, *arguments], cwd=cwd, env=surroundings, stdout=writer, stderr=writer, stdin=writer
    )
    os.close(writer)
    chunks = []
    while True:
        try:
            chunk = os.read(reader, 4096)
        except OSError:  # how Linux says that the other end is closed
            break
        if not chunk:
            break
        chunks.append(chunk)
    os.close(reader)
    assert process.wait() == 0
    return b"".join(chunks).decode()


@pytest.mark.parametrize("columns", [45, 60])
def test_narrow_terminals_show_everything(project, columns):
    sent = on_a_terminal("emissions", cwd=project, columns=columns)
    assert ESCAPE in sent
    lines = re.sub(r"\x1b\[[0-9;]*m", "", sent).splitlines()
    assert max(map(len, lines)) <= columns
    assert any("a-specialist-with-a-rather-long-name" in line for line in lines)
    assert any("66.7 %" in line for line in lines)


def test_no_color_is_respected(project):
    sent = on_a_terminal("emissions", cwd=project, columns=120, NO_COLOR="1")
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]", sent)


# ------------------------------------------------------------------------------ progress


PROGRESS = """
from eosfm_cli.commands.console import ConsoleProgress
progress = ConsoleProgress()
progress.warn("[careful]")
with progress.step("reading [tiles]", 3) as step:
    for _ in range(3):
        step.advance(note="loss 0.5")
    with progress.step("inner", 1) as inner:
        inner.advance()
"""


def test_progress_without_a_terminal_is_lines_on_stderr(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", PROGRESS], env=environment(), capture_output=True, text=True
    )
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert lines[0] == "warning: [careful]"
    assert any(re.match(r"reading \[tiles\]: 3/3 in [\d.]+ s  loss 0.5", line) for line in lines)
    assert ESCAPE not in done.stderr


def test_lines_of_long_work_come_less_often():
    assert [line_every(seconds) for seconds in (0, 60, 600, 36_000)] == [5, 5, 30, 60]


FURTHER = """
from eosfm_cli.commands.console import next_command, write_json, write_table, write_text
write_table(["a"], [["1"]])
write_json({})
write_text("text")
next_command("eosfm export")
"""


@pytest.mark.parametrize(("rank", "silent"), [("0", False), ("1", True)])
def test_processes_for_further_devices_tell_nothing_but_errors(tmp_path, rank, silent):
    done = subprocess.run(
        [sys.executable, "-c", PROGRESS + FURTHER],
        env=environment(LOCAL_RANK=rank),
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout == "", done.stderr == "") == (silent, silent)
    failed = run("emissions", "--json", cwd=tmp_path, LOCAL_RANK=rank)
    assert (failed.returncode, failed.stdout == "") == (ExitCode.DATA, silent)
    assert failed.stderr.startswith("error: There is no ledger")


# ------------------------------------------------------------------------------ signals


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"]
)
def test_signals_end_a_command_in_one_line(tmp_path, number, code):
    ledger = tmp_path / "experiments" / "emissions.jsonl"
    ledger.parent.mkdir()
    os.mkfifo(ledger)  # whoever reads it waits for a writer
    process = subprocess.Popen(
        [*EOSFM, "emissions"],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    writer = os.open(ledger, os.O_WRONLY)  # returns when the command has begun to read
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    os.close(writer)
    assert process.returncode == code
    assert out == ""
    assert len(err.splitlines()) == 1
    assert err.startswith("error: stopped by")


STUBBORN = """
import time
from eosfm_cli.commands.app import guard

def work():
    try:
        print("working", flush=True)
        time.sleep(600)
    finally:
        print("cleaning up", flush=True)
        time.sleep(600)

guard(work, as_json=False, debug=False)
"""


def test_a_second_ctrl_c_ends_a_clean_up_that_hangs():
    process = subprocess.Popen(
        [sys.executable, "-c", STUBBORN], env=environment(), stdout=subprocess.PIPE, text=True
    )
    for said in ("working", "cleaning up"):
        assert process.stdout.readline().strip() == said
        process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == -signal.SIGINT
    process.stdout.close()
