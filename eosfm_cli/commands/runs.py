"""`eosfm runs`."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from eosfm_cli.commands import figures, options
from eosfm_cli.commands.console import (
    ConsoleProgress,
    fits,
    next_command,
    write_json,
    write_table,
)
from eosfm_cli.commands.options import example, new_app
from eosfm_cli.words import counted

if TYPE_CHECKING:
    from eosfm_cli.results import RunRow, RunsResult

app = new_app()

_SHORT = ("run", "state", "score", "size")
_LONG = (*_SHORT, "time", "energy", "started")
_FEWER = ((*_LONG, "kind", "name", "encoder"), (*_LONG, "encoder"), _LONG, _SHORT, _SHORT[:3])
"""What is shown where the terminal is narrower and narrower."""


@app.command(epilog=example("eosfm runs --state interrupted"))
def runs(
    kind: Annotated[
        Literal["train", "fit"] | None, typer.Option(help="Only specialists, or only fits.")
    ] = None,
    state: Annotated[
        Literal["running", "completed", "failed", "interrupted", "killed", "damaged", "foreign"]
        | None,
        typer.Option(help="Only runs in this state."),
    ] = None,
    limit: Annotated[
        int,
        typer.Option(min=1, metavar="N", help="At most so many."),
    ] = 20,
    experiments: options.Experiments = None,
    json: options.Json = False,
) -> None:
    """List the runs that are there, newest first.

    A run that ended without a word is `killed`, one whose summary cannot be read `damaged`, and a
    folder that eosfm did not make `foreign`. The score is that of the test split.
    """
    from eosfm_cli.workflows.runs import list_runs

    root = options.root(experiments)
    result = list_runs(root, kind=kind, state=state, limit=limit)
    if json:
        write_json(result)
    elif result.rows:
        _show(result)
    else:
        _say_none(root, filtered=kind is not None or state is not None)
    if result.left_out:
        ConsoleProgress().say(
            f"{counted(result.left_out, 'older one')}: --limit {len(result.rows) + result.left_out}"
        )
    if result.resume:
        next_command(result.resume)


def _say_none(root: Path, *, filtered: bool) -> None:
    if filtered:
        ConsoleProgress().say(f"No run in {root} is like that; `eosfm runs` lists all.")
        return
    ConsoleProgress().say(f"There are no runs in {root} yet.")
    next_command("eosfm train-specialist RECIPE")


def _show(result: RunsResult) -> None:
    rows = [_cells(row) for row in result.rows]
    tables = [(columns, [[row[c] for c in columns] for row in rows]) for columns in _FEWER]
    columns, cells = next((table for table in tables if fits(*table)), tables[0])
    write_table(columns, cells)


def _cells(row: RunRow) -> dict[str, str | None]:
    return {
        "run": str(row.run),
        "state": row.state,
        "score": None if row.score is None else f"{row.metric} {figures.score(row.score)}",
        "size": figures.size(row.bytes),
        "time": None if row.seconds is None else figures.duration(row.seconds),
        "energy": None if row.energy_kwh is None else figures.energy(row.energy_kwh),
        "started": datetime.fromisoformat(row.started).astimezone().strftime("%Y-%m-%d %H:%M"),
        "kind": row.kind,
        "name": row.name,
        "encoder": row.encoder,
    }
