"""The list of runs: what each folder tells, and what folders tell that are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from eosfm_cli.commands.app import main
from eosfm_cli.run_dir import RunDir, create_run


def write_run(root: Path, place: str, **summary: Any) -> RunDir:
    run = RunDir(root / place)
    run.path.mkdir(parents=True)
    kind, name, _ = place.split("/")
    run.summary.write_text(json.dumps({"kind": kind, "name": name, **summary}))
    run.config.write_text("title: x\n")
    return run


def listed(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main(["runs", "--json", *words]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    root = Path("experiments")
    write_run(
        root,
        "train/rgb/20260101-000000",
        state="completed",
        started="2026-01-01T00:00:00+00:00",
        metrics={"mIoU": 0.25, "Accuracy": 0.5},
        seconds=3.0,
        energy_kwh=0.5,
    )
    write_run(
        root,
        "fit/cover/20260102-000000",
        state="interrupted",
        started="2026-01-02T00:00:00+00:00",
        seconds=61.0,
    )
    write_run(
        root,
        "fit/kinds/20260103-000000",
        state="completed",
        started="2026-01-03T01:00:00+02:00",
        metrics={"Accuracy": 0.9, "Precision": 0.1},
    )
    return root


def test_runs_come_newest_first_with_score_size_time_and_energy(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = listed(capsys)
    assert [row["name"] for row in found["rows"]] == ["kinds", "cover", "rgb"]
    kinds, cover, rgb = found["rows"]
    assert rgb["run"] == "experiments/train/rgb/20260101-000000"
    assert (rgb["kind"], rgb["state"], rgb["metric"], rgb["score"]) == (
        "train",
        "completed",
        "mIoU",
        0.25,
    )
    assert (rgb["seconds"], rgb["energy_kwh"]) == (3.0, 0.5)
    folder = Path(rgb["run"])
    assert rgb["bytes"] == sum(path.stat().st_size for path in folder.iterdir())
    assert (kinds["metric"], kinds["score"]) == ("Accuracy", 0.9)
    assert kinds["started"] == "2026-01-02T23:00:00+00:00"
    assert (cover["state"], cover["metric"], cover["score"]) == ("interrupted", None, None)


def test_the_table_says_the_same(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs"]) == 0
    out, err = capsys.readouterr()
    heading, first, *_, last = out.splitlines()
    assert heading.split()[:4] == ["run", "state", "score", "size"]
    assert first.startswith("experiments/fit/kinds/20260103-000000")
    for part in ("completed", "mIoU 0.250", "3.0 s", "500 Wh"):
        assert part in last
    assert "next: eosfm fit-ensemble --resume experiments/fit/cover/20260102-000000" in err


def test_runs_can_be_filtered_and_limited(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert [row["name"] for row in listed(capsys, "--kind", "fit")["rows"]] == ["kinds", "cover"]
    done = listed(capsys, "--state", "completed", "--limit", "1")
    assert [row["name"] for row in done["rows"]] == ["kinds"]
    assert done["left_out"] == 1
    assert main(["runs", "--state", "failed"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "No run in experiments is like that" in err


def test_a_run_is_running_only_while_somebody_works_in_it(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = create_run(root, "train", "new")
    run.config.write_text("title: x\n")
    with run.hold():
        assert listed(capsys, "--state", "running")["rows"][0]["name"] == "new"
    found = listed(capsys)
    assert (found["rows"][0]["name"], found["rows"][0]["state"]) == ("new", "killed")
    assert found["resume"] == f"eosfm train-specialist --resume {run.path}"


def test_what_to_go_on_with_is_one_of_those_asked_for(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert listed(capsys, "--kind", "fit")["resume"].endswith("fit/cover/20260102-000000")
    assert listed(capsys, "--kind", "train")["resume"] is None
    assert listed(capsys, "--state", "completed")["resume"] is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[1]",
        "{}",
        '{"kind": "train"}',
        '{"kind": "train", "state": "done"}',
        '{"kind": ["train"], "state": "completed"}',
        '{"kind": "fit", "state": ["completed"]}',
        "[" * 100_000,
        "\0",
    ],
)
def test_a_damaged_summary_is_listed_as_such(
    root: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    path = root / "train" / "odd" / "20260104-000000"
    path.mkdir(parents=True)
    (path / "summary.json").write_text(text)
    (row,) = listed(capsys, "--state", "damaged")["rows"]
    assert (row["run"], row["name"], row["score"]) == (str(path), "odd", None)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("metrics", [1]),
        ("metrics", {"mIoU": None}),
        ("metrics", {"mIoU": "high"}),
        ("metrics", {"mIoU": float("nan")}),
        ("seconds", "long"),
        ("energy_kwh", True),
        ("started", "yesterday"),
        ("started", 3),
        ("name", ["a"]),
        ("name", ""),
    ],
)
def test_odd_values_of_a_summary_hurt_nobody(
    root: Path, capsys: pytest.CaptureFixture[str], key: str, value: object
) -> None:
    good = {"state": "completed", "metrics": {}, "seconds": 1, "started": "2027-01-01T00:00:00"}
    write_run(root, "train/odd/20270101-000000", **{**good, key: value})
    row = next(row for row in listed(capsys)["rows"] if "/odd/" in row["run"])
    assert row["state"] == "completed"
    assert row["name"] == "odd"
    assert row["score"] is None
    assert main(["runs"]) == 0
    assert "train/odd" in capsys.readouterr().out


def test_other_peoples_folders_are_listed_as_such(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "train" / "theirs" / "version_0" / "checkpoints").mkdir(parents=True)
    (root / "train" / "loose").mkdir()
    (root / "train" / "loose" / "best.ckpt").write_bytes(b"0" * 10)
    (root / "train" / ".hidden").mkdir()
    (root / "train" / "a file").write_text("")
    rows = {row["name"]: row for row in listed(capsys, "--state", "foreign")["rows"]}
    assert set(rows) == {"theirs", "loose"}
    assert rows["theirs"]["run"] == "experiments/train/theirs/version_0"
    assert rows["loose"]["bytes"] == 10


def test_without_runs_the_first_command_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["runs"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "There are no runs in experiments yet." in err
    assert "next: eosfm train-specialist" in err
    assert not list(tmp_path.iterdir())
