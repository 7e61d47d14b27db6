"""What `eosfm doctor` finds, and that nothing broken breaks it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from eosfm_cli.commands.app import main
from eosfm_cli.progress import Silent
from eosfm_cli.results import Finding
from eosfm_cli.training.health import Driver, no_gpu
from eosfm_cli.workflows.doctor import check_place, check_terminal, diagnose


def findings(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> dict[str, dict]:
    assert main(["doctor", "--json", *words]) == code
    found = json.loads(capsys.readouterr().out)["findings"]
    return {finding["topic"]: finding for finding in found}


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("EOSFM_DATA", "EOSFM_EXPERIMENTS", "EOSFM_COUNTRY"):
        monkeypatch.delenv(name, raising=False)


def test_every_topic_is_looked_at_and_nothing_is_left_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = findings(capsys)
    for topic in ("Python", "packages", "torch", "GPU", "GDAL", "formats", "PROJ", "hub"):
        assert topic in found
    assert found["Python"]["text"].startswith(".".join(map(str, sys.version_info[:3])))
    assert {found[topic]["level"] for topic in ("packages", "torch", "PROJ", "formats")} == {"ok"}
    assert "COG" in found["formats"]["text"]
    assert "world average" in found["emissions"]["text"]
    assert "not asked" in found["hub"]["text"]
    assert not [f for f in found.values() if "could not be checked" in f["text"]]
    assert not list(tmp_path.iterdir())


def test_findings_are_lines_with_their_fixes_below(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EOSFM_COUNTRY", "France")
    monkeypatch.setenv("EOSFM_DATA", "nowhere")
    assert main(["doctor"]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    at = next(i for i, line in enumerate(lines) if "EOSFM_COUNTRY=FRANCE" in line)
    assert lines[at].startswith("warning  emissions")
    assert lines[at + 1].strip() == "→ Three letters are needed: export EOSFM_COUNTRY=FRA"
    assert lines[at + 1].index("→") == lines[at].index("475")
    assert any(line.startswith("warning  datasets") and "nowhere" in line for line in lines)
    assert re.search(r"^\d+ warnings$", err, re.MULTILINE)


def test_a_place_that_cannot_be_written_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    found = findings(capsys, "--experiments", "file/runs", code=1)
    assert found["experiments"]["level"] == "error"
    assert "--experiments" in found["experiments"]["fix"]
    (only,) = check_place(tmp_path / "file" / "data", "warning", "--data-root")
    assert only.level == "warning"


def test_datasets_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("b", "a", ".hidden"):
        (tmp_path / "data" / name).mkdir(parents=True)
    assert findings(capsys)["datasets"]["text"] == "a, b in data"


def test_a_check_that_fails_is_a_finding_and_the_others_go_on() -> None:
    def breaks() -> Iterator[Finding]:
        yield Finding("ok", "so far")
        raise RuntimeError("no such thing\nat all")

    def fine() -> Iterator[Finding]:
        yield Finding("error", "bad", "mend it")

    result = diagnose([("one", breaks), ("two", fine)], Silent())
    assert result.findings == (
        Finding("ok", "so far", None, "one"),
        Finding("warning", "this could not be checked: RuntimeError: no such thing", None, "one"),
        Finding("error", "bad", "mend it", "two"),
    )
    assert (result.count("error"), result.count("warning")) == (1, 1)


@pytest.mark.parametrize(
    ("encoding", "level"),
    [("utf-8", "ok"), ("UTF8", "ok"), ("ascii", "warning"), (None, "warning"), ("x", "warning")],
)
def test_terminals_without_utf8_are_told(encoding: str | None, level: str) -> None:
    (found,) = check_terminal(encoding)
    assert found.level == level
    assert (found.fix is None) == (level == "ok")


OLD, NEW = Driver("470.1", (11, 4)), Driver("580.2", (13, 0))


@pytest.mark.parametrize(
    ("driver", "built", "card", "hidden", "level", "said"),
    [
        (None, "13.2", False, None, "ok", "none: everything runs on the CPU"),
        (None, "13.2", True, None, "warning", "its driver does not answer"),
        (NEW, "13.2", True, "", "warning", "hidden by CUDA_VISIBLE_DEVICES=''"),
        (NEW, None, True, None, "warning", "torch was built for the CPU"),
        (OLD, "13.2", True, None, "warning", "470.1 runs CUDA up to 11.4, and torch"),
        (NEW, "13.2", True, "0", "warning", "torch finds no GPU: odd"),
    ],
)
def test_why_there_is_no_gpu(
    driver: Driver | None,
    built: str | None,
    card: bool,
    hidden: str | None,
    level: str,
    said: str,
) -> None:
    found = no_gpu(driver, built, card=card, hidden=hidden, said="odd")
    assert found.level == level
    assert said in found.text
    assert (found.fix is None) == (level == "ok")


def test_another_installations_proj_data_is_found_out(tmp_path: Path) -> None:
    script = (
        "from eosfm_cli.raster.health import proj\n"
        "(found,) = proj()\n"
        "print(found.level, found.fix)\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", script],
        env={
            **os.environ,
            "PROJ_DATA": str(tmp_path),
            "PYTHONPATH": str(Path(__file__).parents[1]),
        },
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert told.startswith("error unset PROJ_DATA")
    assert str(tmp_path) in told


def test_the_hub_is_left_alone_where_it_is_switched_off(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    found = findings(capsys, "--network")
    assert (found["hub"]["level"], found["hub"]["fix"]) == ("warning", "unset HF_HUB_OFFLINE")
