"""Help and everything that only reads text start at once: nothing heavy is imported for them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {
    "codecarbon",
    "lightning",
    "matplotlib",
    "numpy",
    "pandas",
    "rasterio",
    "safetensors",
    "terratorch",
    "timm",
    "torch",
    "torchgeo",
}

# `-P` keeps the working folder off the path; the package comes from where pytest found it
RUN_AND_LIST_MODULES = """
import json, sys
from eosfm_cli.commands.app import main
code = main(sys.argv[1:])
print("\\n" + json.dumps([code, sorted({name.partition(".")[0] for name in sys.modules})]))
"""

STOP_WHILE_IMPORTING = """
import os, signal, sys
class Interrupting:
    def find_spec(self, name, *_):
        if name == "typer":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupting())
from eosfm_cli.__main__ import run
sys.exit(run())
"""


def run(*arguments: str, cwd: Path) -> tuple[int, set[str]]:
    done = subprocess.run(
        [sys.executable, "-c", RUN_AND_LIST_MODULES, *arguments],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    code, modules = json.loads(done.stdout.splitlines()[-1])
    return code, set(modules)


def environment(**extra: str) -> dict[str, str]:
    import os

    import eosfm_cli

    own = Path(eosfm_cli.__file__).parents[1]
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("EOSFM_", "FORCE_"))}
    return {**kept, "PYTHONPATH": str(own), **extra}


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--help",),
        ("--version",),
        ("train-specialist", "--help"),
        ("fit-ensemble", "-h"),
        ("predict", "-h"),
        ("demo", "-h"),
        ("inspect", "-h"),
        ("merge", "-h"),
        ("rank", "-h"),
        ("compare", "-h"),
        ("evaluate", "-h"),
        ("doctor", "-h"),
        ("runs", "-h"),
        ("runs",),
        ("recipes", "list"),
        ("recipes", "show", "mini"),
    ],
)
def test_light_commands_import_nothing_heavy(tmp_path, arguments):
    code, modules = run(*arguments, cwd=tmp_path)
    assert code == 0
    assert not modules & HEAVY


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("emissions",), 3),
        (("train-specialist", "no-such-recipe"), 2),
        (("fit-ensemble", "no-such-recipe"), 2),
    ],
)
def test_errors_that_need_nothing_heavy_come_at_once(tmp_path, arguments, expected):
    code, modules = run(*arguments, cwd=tmp_path)
    assert code == expected
    assert not modules & HEAVY


def test_emissions_imports_nothing_heavy(tmp_path):
    from eosfm_cli.carbon.ledger import StageRecord, append_record

    append_record(
        tmp_path / "experiments",
        StageRecord(command="a", name="b", state="completed", started="now", seconds=1),
    )
    code, modules = run("emissions", cwd=tmp_path)
    assert code == 0
    assert not modules & HEAVY


def test_top_level_help_does_not_read_recipes(tmp_path):
    _, modules = run("--help", cwd=tmp_path)
    assert not modules & {"pydantic", "yaml"}


def test_an_interrupt_while_modules_are_imported_ends_without_a_word(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", STOP_WHILE_IMPORTING, "--help"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGINT
    assert done.stdout == done.stderr == ""
