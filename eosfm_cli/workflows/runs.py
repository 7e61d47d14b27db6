"""What runs a project has, as far as their folders tell."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

from eosfm_cli.results import MAIN_METRICS, RunRow, RunsResult
from eosfm_cli.run_dir import COMMANDS, Kind, RunDir, State

DAMAGED, FOREIGN = "damaged", "foreign"
_UNFINISHED = {"failed", "interrupted", "killed"}


def list_runs(
    root: Path, *, kind: Kind | None = None, state: str | None = None, limit: int | None = None
) -> RunsResult:
    """Look through a project's folder of runs.

    Folders that are no runs, or that do not say what they are, are in the list as such.

    Args:
        root: The experiments folder; it need not be there.
        kind: Only runs of this kind.
        state: Only runs in this state.
        limit: At most so many.
    """
    rows = sorted(
        (_row(run, one) for one in COMMANDS for run in _folders(root / one)),
        key=lambda row: (row.started, len(row.run.name), row.run.name),
        reverse=True,
    )
    wanted = [row for row in rows if kind in (None, row.kind) and state in (None, row.state)]
    shown = tuple(replace(row, bytes=_size(row.run)) for row in wanted[:limit])
    return RunsResult(shown, len(wanted) - len(shown), _resume(wanted))


def _folders(kind: Path) -> Iterator[RunDir]:
    """Runs lie in `<kind>/<name>/<run>`; whatever lies elsewhere comes as the folder it is in."""
    for name in _subfolders(kind):
        runs = [] if (name / "summary.json").exists() else _subfolders(name)
        yield from map(RunDir, runs or [name])


def _subfolders(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if path.is_dir() and path.name[0] != "."]
    except OSError:  # there is none, or it cannot be read
        return []


def _row(run: RunDir, kind: Kind) -> RunRow:
    summary = run.read_summary()
    metric, score = _score(summary.get("metrics"))
    own = summary.get("kind")
    name = summary.get("name")
    return RunRow(
        kind=own if own in tuple(COMMANDS) else kind,
        name=name if isinstance(name, str) and name else _name(run, kind),
        run=run.path,
        state=_state(run, summary),
        metric=metric,
        score=score,
        bytes=0,
        seconds=_number(summary.get("seconds")),
        energy_kwh=_number(summary.get("energy_kwh")),
        started=_started(run, summary),
        encoder=_text(summary.get("encoder")),
    )


def _name(run: RunDir, kind: Kind) -> str:
    return run.path.name if run.name == kind else run.name


def _state(run: RunDir, summary: Mapping[str, Any]) -> str:
    if not run.summary.exists():
        return FOREIGN
    known = summary.get("state") in get_args(State) and summary.get("kind") in tuple(COMMANDS)
    return str(run.state) if known else DAMAGED


def _score(metrics: object) -> tuple[str | None, float | None]:
    """The metric by which the run's task is judged."""
    if not isinstance(metrics, dict):
        return None, None
    name = next((name for name in MAIN_METRICS if _number(metrics.get(name)) is not None), None)
    return name, None if name is None else _number(metrics[name])


def _number(value: object) -> float | None:
    """What a summary says, if it is a number at all."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _started(run: RunDir, summary: Mapping[str, Any]) -> str:
    """In UTC, so that texts sort like times."""
    try:
        when = datetime.fromisoformat(summary["started"])
    except (LookupError, TypeError, ValueError):
        try:
            when = datetime.fromtimestamp(run.path.stat().st_mtime, UTC)
        except OSError:  # it has just gone
            when = datetime.fromtimestamp(0, UTC)
    return when.astimezone(UTC).isoformat(timespec="seconds")


def _size(folder: Path) -> int:
    """Bytes of the files below a folder; those that go meanwhile do not count."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(parent, name)).st_size
    return total


def _resume(rows: Iterable[RunRow]) -> str | None:
    """How to go on with the newest run that can be gone on with."""
    runs = (RunDir(row.run) for row in rows if row.state in _UNFINISHED)
    return next((run.resume_command for run in runs if run.config.is_file()), None)
