"""`eosfm emissions`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eosfm_cli.commands import figures, options
from eosfm_cli.commands.console import ConsoleProgress, write_json, write_table
from eosfm_cli.commands.options import OUTPUT, example, new_app

if TYPE_CHECKING:
    from eosfm_cli.workflows.emissions import EmissionsResult, EmissionsRow

app = new_app()


@app.command(epilog=example("eosfm emissions --csv emissions.csv --plot emissions.png"))
def emissions(
    experiments: options.Experiments = None,
    csv: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also write the table as CSV.", rich_help_panel=OUTPUT),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Also draw the stages' energy as PNG.", rich_help_panel=OUTPUT
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Show what each stage cost in time, energy and CO₂.

    Sums up the project's ledger, experiments/emissions.jsonl, which every command that computes
    adds to. The electricity's carbon intensity is that of the country in EOSFM_COUNTRY (three
    letters, as in FRA), or else the world's average.
    """
    from eosfm_cli.workflows.emissions import emissions as sum_up

    result = sum_up(options.root(experiments), csv=csv, plot=plot)
    if json:
        write_json(result)
    else:
        _show(result)
    _remark(result)


def _show(result: EmissionsResult) -> None:
    total = result.total
    write_table(
        ["command", "name", "runs", "time", "energy", "CO₂eq", "share of energy"],
        [_cells(row) for row in result.rows],
        total=[
            "total",
            None,
            str(sum(row.runs for row in result.rows)),
            figures.duration(total.seconds),
            figures.energy(total.energy_kwh),
            figures.mass(total.emissions_kg),
            None,
        ],
    )


def _cells(row: EmissionsRow) -> list[str | None]:
    return [
        row.command,
        row.name,
        str(row.runs),
        figures.duration(row.seconds),
        figures.energy(row.energy_kwh),
        figures.mass(row.emissions_kg),
        figures.share(row.share) if row.energy_kwh else None,
    ]


def _remark(result: EmissionsResult) -> None:
    progress = ConsoleProgress()
    for part, ways in result.obtained.items():
        progress.say(f"{part}: {', '.join(ways)}")
    for intensity in result.intensities:
        progress.say(f"carbon intensity: {intensity}")
    for reason, runs in result.unmeasured.items():
        progress.say(
            f"without figures ({figures.UNKNOWN}): {runs} run{'s' if runs > 1 else ''}, {reason}"
        )
    if result.skipped:
        progress.warn(f"lines of {result.ledger} left out, as no records: {result.skipped}")
    for path in result.files:
        progress.say(f"wrote {path}")
