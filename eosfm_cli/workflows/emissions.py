"""Sum up what the project's stages cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from eosfm_cli.carbon.ledger import NOT_MEASURED, Ledger, StageRecord, read_ledger
from eosfm_cli.results import Cost
from eosfm_cli.run_dir import write_csv


@dataclass(frozen=True)
class EmissionsRow:
    """What one stage cost, all its runs together."""

    command: str
    name: str
    runs: int
    seconds: float
    energy_kwh: float
    emissions_kg: float
    share: float
    """Of the project's energy."""
    unmeasured: int
    """Runs without figures of energy."""


@dataclass(frozen=True)
class EmissionsResult:
    """What a project cost."""

    ledger: Path
    rows: tuple[EmissionsRow, ...]
    """In the order in which the stages first ran."""
    total: Cost
    unmeasured: dict[str, int]
    """Why stages have no figures of energy -> how many runs."""
    skipped: int
    """Lines of the ledger that are no records."""
    intensities: tuple[str, ...]
    """Every carbon intensity that was counted with, and its source."""
    obtained: dict[str, tuple[str, ...]]
    """`cpu`, `gpu`, `ram` -> every way in which its energy was found."""
    files: tuple[Path, ...]


def emissions(root: Path, *, csv: Path | None = None, plot: Path | None = None) -> EmissionsResult:
    """Sum up the ledger by stage, and write the table and a chart where asked to.

    Raises:
        DataError: There is no ledger.
        OutputError: A file cannot be written.
    """
    ledger = read_ledger(root)
    rows = _rows(ledger.records)
    if csv is not None:
        columns = [field.name for field in fields(EmissionsRow)]
        write_csv(csv, columns, map(astuple, rows))
    if plot is not None:
        _draw(plot, rows)
    return _result(ledger, rows, files=tuple(filter(None, (csv, plot))))


def _result(
    ledger: Ledger, rows: tuple[EmissionsRow, ...], *, files: tuple[Path, ...]
) -> EmissionsResult:
    measured = [record for record in ledger.records if record.measured]
    parts = ("cpu", "gpu", "ram") if measured else ()
    return EmissionsResult(
        ledger=ledger.path,
        rows=rows,
        total=_sum(ledger.records),
        unmeasured=dict(
            Counter(r.problem or NOT_MEASURED for r in ledger.records if not r.measured)
        ),
        skipped=ledger.skipped,
        intensities=_intensities(measured),
        obtained={
            part: _distinct(getattr(record.obtained, part) for record in measured) for part in parts
        },
        files=files,
    )


def _rows(records: Sequence[StageRecord]) -> tuple[EmissionsRow, ...]:
    stages = Counter((record.command, record.name) for record in records)
    whole = _sum(records).energy_kwh
    return tuple(
        _row(command, name, [r for r in records if (r.command, r.name) == (command, name)], whole)
        for command, name in stages
    )


def _row(command: str, name: str, records: Sequence[StageRecord], whole: float) -> EmissionsRow:
    cost = _sum(records)
    share = cost.energy_kwh / whole if whole else 0.0
    return EmissionsRow(
        command,
        name,
        runs=len(records),
        seconds=cost.seconds,
        energy_kwh=cost.energy_kwh,
        emissions_kg=cost.emissions_kg,
        share=share,
        unmeasured=sum(not record.measured for record in records),
    )


def _sum(records: Iterable[StageRecord]) -> Cost:
    costs = (Cost(r.seconds, r.energy_kwh, r.emissions_kg) for r in records)
    return sum(costs, Cost())


def _intensities(records: Iterable[StageRecord]) -> tuple[str, ...]:
    given = (record.intensity for record in records if record.intensity)
    return _distinct(f"{one.g_per_kwh:.0f} g CO₂eq/kWh, {one.source}" for one in given)


def _distinct(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(texts))


def _draw(path: Path, rows: Sequence[EmissionsRow]) -> None:
    from eosfm_cli.carbon.chart import draw_energy  # matplotlib, only where a chart is wanted

    draw_energy(path, [f"{r.command} {r.name}" for r in rows], [r.energy_kwh for r in rows])
