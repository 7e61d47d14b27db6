"""`eosfm emissions`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from eosfm_cli.commands import figures, options
from eosfm_cli.commands.console import ConsoleProgress, write_json, write_table, write_text
from eosfm_cli.commands.options import OUTPUT, example, new_app
from eosfm_cli.errors import UsageError
from eosfm_cli.results import Cost
from eosfm_cli.words import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eosfm_cli.workflows.emissions import EmissionsResult, EmissionsRow, Equivalent

app = new_app()

ROWS = "Rows"

By = Literal["stage", "command", "specialist", "day", "hardware"]

Subject = Annotated[
    Path | None,
    typer.Argument(
        metavar="RUN|FILE",
        help="A run, an ensemble, a model, a ledger, or an emissions.csv of codecarbon's.",
        show_default="the whole project",
    ),
]
ByOption = Annotated[
    By,
    typer.Option(
        "--by",
        metavar="NAME",
        help="What the rows are: stage, command, specialist, day or hardware.",
        rich_help_panel=ROWS,
    ),
]
Per = Annotated[
    Literal["km2"] | None,
    typer.Option(
        "--per",
        metavar="km2",
        help="Predictions by the area that they mapped.",
        rich_help_panel=ROWS,
    ),
]
Compare = Annotated[
    tuple[Path, Path] | None,
    typer.Option(
        metavar="A B", help="Two runs, files or projects side by side.", rich_help_panel=ROWS
    ),
]
Csv = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Also write the table as CSV.", rich_help_panel=OUTPUT),
]
Markdown = Annotated[
    bool, typer.Option("--markdown", help="Write the table as Markdown.", rich_help_panel=OUTPUT)
]
Plot = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Also draw the energy as PNG.", rich_help_panel=OUTPUT),
]
Card = Annotated[
    bool,
    typer.Option(
        "--card",
        help="Write the block for a model card and sentences for a paper.",
        rich_help_panel=OUTPUT,
    ),
]


@app.command(epilog=example("eosfm emissions --by command --plot emissions.png"))
def emissions(
    subject: Subject = None,
    by: ByOption = "stage",
    per: Per = None,
    compare: Compare = None,
    experiments: options.Experiments = None,
    csv: Csv = None,
    plot: Plot = None,
    markdown: Markdown = False,
    card: Card = False,
    json: options.Json = False,
) -> None:
    """Show what each stage cost in time, energy and CO₂.

    Sums up the project's ledger, experiments/emissions.jsonl, which every command that computes
    adds to while it runs, so that killed runs are in it too. Of an ensemble or a model it shows
    what making it took, and how much of that was there before.

    The electricity's carbon intensity is that of the country in `--country` or EOSFM_COUNTRY
    (three letters, as in FRA), which the commands that compute take, or else the world's average.
    """
    root = options.root(experiments)
    _refuse_two_forms(json=json, markdown=markdown, card=card)
    if compare is not None:
        if subject or per or csv or plot or card or by != "stage":
            raise UsageError(
                "--compare stands alone, with --json or --markdown.",
                hint="eosfm emissions --compare RUN RUN",
            )
        _compare(compare, root, as_json=json, markdown=markdown)
        return
    from eosfm_cli.workflows.emissions import emissions as sum_up

    result = sum_up(root, subject=subject, by=by, per_km2=per is not None, csv=csv, plot=plot)
    if json:
        write_json(_entry(result))
    elif card:
        from eosfm_cli.workflows.emissions_card import emissions_card

        write_text(emissions_card(result))
    else:
        columns, rows = _table(result, per_km2=per is not None)
        total = _total(result, columns, per_km2=per is not None)
        _write(columns, rows, total, markdown=markdown)
    _remark(result)


def _entry(result: EmissionsResult) -> dict[str, Any]:
    """The result as `--json` shows it: what a row is of stands beside its figures."""
    entry = asdict(result)
    rows = [{**row.pop("group"), **row} for row in entry.pop("rows")]
    return {"ledger": entry.pop("ledger"), "rows": rows, **entry}


def _refuse_two_forms(**forms: bool) -> None:
    given = [f"--{name}" for name, wanted in forms.items() if wanted]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} write to the same place.", hint="Choose one.")


# ------------------------------------------------------------------------------ the table


def _table(result: EmissionsResult, *, per_km2: bool) -> tuple[list[str], list[list[str | None]]]:
    keys = list(result.rows[0].group) if result.rows else []
    last = ["km²", "energy per km²", "CO₂eq per km²"] if per_km2 else ["share of energy"]
    columns = [*keys, "runs", "time", "energy", "CO₂eq", *last]
    return columns, [_cells(row, per_km2=per_km2) for row in result.rows]


def _cells(row: EmissionsRow, *, per_km2: bool) -> list[str | None]:
    share = figures.share(row.share) if row.energy_kwh else None
    cost = Cost(row.seconds, row.energy_kwh, row.emissions_kg)
    return [
        *row.group.values(),
        str(row.runs),
        *_figures(cost),
        *(_per_area(cost, row.area_km2) if per_km2 else [share]),
    ]


def _per_area(cost: Cost, area_km2: float) -> list[str | None]:
    return [
        figures.three(area_km2),
        _sized(1000 * cost.energy_kwh / area_km2, "Wh"),
        _sized(1000 * cost.emissions_kg / area_km2, "g"),
    ]


def _sized(amount: float, unit: str) -> str | None:
    """A small amount in a unit that leaves it readable; nothing where nobody measured."""
    if not amount:
        return None
    for prefix in ("", "m"):
        if amount >= 0.1:
            return f"{figures.three(amount)} {prefix}{unit}"
        amount *= 1000
    return f"{figures.three(amount)} µ{unit}"


def _total(result: EmissionsResult, columns: Sequence[str], *, per_km2: bool) -> list[str | None]:
    labels = list(result.rows[0].group) if result.rows else []
    runs = str(sum(row.runs for row in result.rows))
    area = sum(row.area_km2 for row in result.rows)
    last = _per_area(result.total, area) if per_km2 else []
    own = ["total", *([None] * (len(labels) - 1)), runs, *_figures(result.total), *last]
    return [*own, *([None] * (len(columns) - len(own)))]


def _figures(cost: Cost) -> list[str | None]:
    return [
        figures.duration(cost.seconds),
        figures.energy(cost.energy_kwh),
        figures.mass(cost.emissions_kg),
    ]


def _write(
    columns: Sequence[str],
    rows: Sequence[Sequence[str | None]],
    total: Sequence[str | None] | None,
    *,
    markdown: bool,
) -> None:
    if not markdown:
        write_table(columns, rows, total=total)
        return
    lines = [columns, ["---"] * len(columns), *rows, *([total] if total else [])]
    write_text("".join(f"| {' | '.join(map(_plain, line))} |\n" for line in lines))


def _plain(cell: str | None) -> str:
    return (cell or "").replace("|", r"\|").replace("\n", " ")


# ------------------------------------------------------------------------------ two at once


def _compare(pair: tuple[Path, Path], root: Path, *, as_json: bool, markdown: bool) -> None:
    from eosfm_cli.workflows.emissions import compare_emissions

    found = compare_emissions(*pair, root)
    if as_json:
        write_json({"first": _entry(found.first), "second": _entry(found.second)})
        return
    one, other = found.first.total, found.second.total
    ratios = [
        f"{b / a:.3g} ×" if a and b else None
        for a, b in (
            (one.seconds, other.seconds),
            (one.energy_kwh, other.energy_kwh),
            (one.emissions_kg, other.emissions_kg),
        )
    ]
    rows = [
        [str(pair[0]), *_figures(one)],
        [str(pair[1]), *_figures(other)],
        ["the second, of the first", *ratios],
    ]
    _write(["", "time", "energy", "CO₂eq"], rows, None, markdown=markdown)
    if found.first.intensities != found.second.intensities:
        ConsoleProgress().warn(
            "their electricity was not counted alike: compare energy rather than CO₂eq"
        )
    for result in (found.first, found.second):
        _remark(result)


# ------------------------------------------------------------------------------ what it rests on


def _remark(result: EmissionsResult) -> None:
    """Say what the figures rest on, and what is not in them."""
    progress = ConsoleProgress()
    for part, ways in result.obtained.items():
        progress.say(f"{part}: {', '.join(ways)}")
    if result.methods:
        shares = [f"{figures.share(share)} {how}" for how, share in result.methods.items()]
        progress.say(f"of the energy: {', '.join(shares)}")
    for pue in result.pue:
        progress.say(f"the building counts too: energy is {pue:g} times the machine's (PUE)")
    for intensity in result.intensities:
        progress.say(f"carbon intensity: {intensity}")
    if any(intensity.partition(", ")[2].startswith("world") for intensity in result.intensities):
        progress.say("to count a country's electricity: export EOSFM_COUNTRY=FRA, or --country FRA")
    _remark_origin(result)
    for one in result.equivalents:
        progress.say(f"as much as {_everyday(one)} ({one.source})")
    for reason, runs in result.unmeasured.items():
        progress.say(f"without figures ({figures.UNKNOWN}): {counted(runs, 'run')}, {reason}")
    _warn(result, progress)
    for path in result.files:
        progress.say(f"wrote {path}")


_SMALLER = {"l of": "ml of", "km by": "m by"}


def _everyday(one: Equivalent) -> str:
    """An amount in the unit in which it is easily read."""
    if one.amount >= 1:
        return f"{figures.three(one.amount)} {one.unit}"
    larger = next(unit for unit in _SMALLER if one.unit.startswith(unit))
    return f"{figures.three(1000 * one.amount)} {one.unit.replace(larger, _SMALLER[larger], 1)}"


def _remark_origin(result: EmissionsResult) -> None:
    """Of a file, how much of the work was done for it."""
    if result.new is None or result.reused is None or not result.total.energy_kwh:
        return
    new = result.new.energy_kwh / result.total.energy_kwh
    ConsoleProgress().say(
        f"new work: {figures.share(new)} of the energy; reused, as it was there before: "
        f"{figures.share(1 - new)}"
    )


def _warn(result: EmissionsResult, progress: ConsoleProgress) -> None:
    if result.unfinished:
        progress.say(
            f"killed, or still running: {counted(result.unfinished, 'run')}, with what they took "
            "so far"
        )
    if result.side_by_side:
        progress.warn(
            f"{result.side_by_side} runs ran side by side on one machine, and each counts all of: "
            f"{', '.join(result.counted_twice)}; what of it is whose cannot be told"
        )
    if result.no_area:
        progress.warn(
            f"left out: {counted(result.no_area, 'prediction')} that "
            f"{'does' if result.no_area == 1 else 'do'} not tell what area was mapped"
        )
    if result.skipped:
        progress.warn(f"lines of {result.ledger} left out, as no records: {result.skipped}")
