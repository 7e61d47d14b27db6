"""Sum up what a project's stages, a run, a file, or another tool's table took."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from eosfm_cli.carbon.codecarbon_csv import read_codecarbon_csv
from eosfm_cli.carbon.ledger import (
    LEDGER_NAME,
    NOT_MEASURED,
    Hardware,
    Ledger,
    StageRecord,
    read_ledger,
    shown_run,
)
from eosfm_cli.errors import DataError
from eosfm_cli.progress import Silent
from eosfm_cli.results import Cost
from eosfm_cli.run_dir import RunDir, write_csv

By = Literal["stage", "command", "specialist", "day", "hardware"]
PARTS = ("cpu", "gpu", "ram")
_ENSEMBLES = {".safetensors", ".pth", ".pt", ".ckpt"}


@dataclass(frozen=True)
class EmissionsRow:
    """What one group of runs took together."""

    group: dict[str, str]
    """What they have in common: `command` and `name`, or what `--by` says."""
    runs: int
    seconds: float
    energy_kwh: float
    cpu_kwh: float
    gpu_kwh: float
    ram_kwh: float
    emissions_kg: float
    share: float
    """Of all energy."""
    unmeasured: int
    """Runs without figures of energy."""
    area_km2: float = 0.0
    """What predictions have mapped."""


@dataclass(frozen=True)
class Equivalent:
    """An amount as something from every day."""

    amount: float
    unit: str
    source: str


@dataclass(frozen=True)
class EmissionsResult:
    """What something took."""

    ledger: Path
    """Where the figures are from."""
    subject: str
    rows: tuple[EmissionsRow, ...]
    """In the order in which they first ran."""
    total: Cost
    unmeasured: dict[str, int]
    """Why stages have no figures of energy -> how many."""
    skipped: int
    """Lines that are no records."""
    unfinished: int
    """Stages that were killed, or still run; what they took until then is counted."""
    side_by_side: int
    """Stages that ran beside another on a machine which only measures both together."""
    intensities: tuple[str, ...]
    """Every carbon intensity that was counted with, and its source."""
    places: tuple[str, ...]
    """The countries whose electricity was counted."""
    hardware: tuple[str, ...]
    tools: tuple[str, ...]
    obtained: dict[str, tuple[str, ...]]
    """`cpu`, `gpu`, `ram` -> every way in which its energy was found."""
    methods: dict[str, float]
    """`measured`, `modelled`, `constant`, `not stated` -> share of the energy."""
    equivalents: tuple[Equivalent, ...]
    new: Cost | None = None
    """Of a file: what was done for it alone."""
    reused: Cost | None = None
    """Of a file: what was there before."""
    files: tuple[Path, ...] = field(default=())


def emissions(
    root: Path,
    *,
    subject: Path | None = None,
    by: By = "stage",
    per_km2: bool = False,
    csv: Path | None = None,
    plot: Path | None = None,
) -> EmissionsResult:
    """Sum up what was recorded, and write the table and a chart where asked to.

    Args:
        root: The project's folder of runs, whose ledger counts if there is no subject.
        subject: A run, a project's folder, a ledger, an ensemble, a model, or a table that
            codecarbon wrote.
        by: What the rows are.
        per_km2: Predictions alone, those that know what area they mapped.
        csv: Where to write the rows.
        plot: Where to draw them.

    Raises:
        DataError: There is nothing of the kind.
        OutputError: A file cannot be written.
    """
    found = _found(subject, root)
    records = [r for r in found.ledger.records if not per_km2 or r.area_km2]
    if per_km2 and not records:
        raise DataError(
            f"No prediction in {found.ledger.path} says what area it mapped.",
            hint="Predictions of scenes with a coordinate system do: eosfm predict SCENE",
        )
    rows = _rows(records, found.groups or _GROUPS[by])
    if csv is not None:
        _write_rows(csv, rows)
    if plot is not None:
        _draw(plot, rows)
    return _result(found, records, rows, files=tuple(filter(None, (csv, plot))))


# ------------------------------------------------------------------------------ what is meant


Groups = Callable[[StageRecord], dict[str, str]]


@dataclass(frozen=True)
class _Found:
    """Stages, and what they are of."""

    ledger: Ledger
    subject: str
    groups: Groups | None = None
    """What the rows are, where it is no choice."""
    new: Cost | None = None
    reused: Cost | None = None


def _found(subject: Path | None, root: Path) -> _Found:
    if subject is None:
        return _Found(read_ledger(root), f"the project {root}")
    if subject.is_dir():
        return _of_folder(subject)
    if not subject.exists():
        raise DataError(
            f"There is no run or file {subject}.",
            hint="`eosfm runs` lists the runs there are. Without a name, the project is summed up.",
        )
    if subject.suffix.lower() in _ENSEMBLES:
        return _of_file(subject, root)
    if subject.suffix.lower() == ".jsonl":
        return _Found(read_ledger(subject), str(subject))
    return _Found(read_codecarbon_csv(subject), str(subject))


def _of_folder(path: Path) -> _Found:
    """A project with its ledger, or a run: what the ledger knows of it, else its own table."""
    if (path / LEDGER_NAME).is_file():
        return _Found(read_ledger(path), f"the project {path}")
    run = RunDir(path)
    root = run.experiments
    if (root / LEDGER_NAME).is_file():
        ledger = read_ledger(root)
        own = tuple(one for one in ledger.records if one.run == shown_run(root, path))
        if own:
            return _Found(Ledger(ledger.path, own, ledger.skipped), f"the run {path}")
    if run.emissions.is_file():
        return _Found(read_codecarbon_csv(run.emissions), f"the run {path}")
    raise DataError(
        f"Nothing is known of what {path} took: no ledger has it, and it has no emissions.csv.",
        hint="Name a run below experiments, or a project's folder.",
    )


def _of_file(path: Path, root: Path) -> _Found:
    """An ensemble or a model: what it says of the work behind it."""
    from eosfm_cli.lineage import Made, cost_in_all, lineage
    from eosfm_cli.workflows.inspect import inspect  # torch, for files in the published format

    work = lineage(inspect(str(path), root=root, progress=Silent()).manifest)

    def record(made: Made) -> StageRecord:
        return StageRecord(
            command=made.command,
            name=made.name,
            run=made.where,
            specialist=made.name if made.command == "train-specialist" else None,
            state="completed",
            started="",
            seconds=made.cost.seconds,
            covered_seconds=made.cost.seconds if made.measured else 0.0,
            energy_kwh=made.cost.energy_kwh,
            emissions_kg=made.cost.emissions_kg,
            problem=None if made.measured else "the file does not tell",
        )

    records = tuple(record(made) for made in work)
    kinds = {id(r): "reused" if m.reused else "new" for r, m in zip(records, work, strict=True)}
    return _Found(
        Ledger(path, records, skipped=0),
        str(path),
        lambda one: {"command": one.command, "name": one.name, "work": kinds[id(one)]},
        new=cost_in_all(made for made in work if not made.reused),
        reused=cost_in_all(made for made in work if made.reused),
    )


# ------------------------------------------------------------------------------ sums


def _machine(hardware: Hardware) -> str:
    gpu = f"{hardware.gpu_count or 1} × {hardware.gpu}" if hardware.gpu else None
    return ", ".join(filter(None, (gpu, hardware.cpu)))


_GROUPS: dict[By, Groups] = {
    "stage": lambda one: {"command": one.command, "name": one.name},
    "command": lambda one: {"command": one.command},
    "specialist": lambda one: {"specialist": one.specialist or "none in particular"},
    "day": lambda one: {"day": one.started[:10] or "not stated"},
    "hardware": lambda one: {"hardware": _machine(one.hardware) or "not stated"},
}


def _rows(records: Sequence[StageRecord], groups: Groups) -> tuple[EmissionsRow, ...]:
    found: dict[tuple[str, ...], list[StageRecord]] = {}
    for record in records:
        found.setdefault(tuple(groups(record).values()), []).append(record)
    whole = _sum(records).energy_kwh
    return tuple(_row(groups(members[0]), members, whole) for members in found.values())


def _row(group: dict[str, str], records: Sequence[StageRecord], whole: float) -> EmissionsRow:
    cost = _sum(records)
    return EmissionsRow(
        group,
        runs=len(records),
        seconds=cost.seconds,
        energy_kwh=cost.energy_kwh,
        cpu_kwh=sum(record.cpu_kwh for record in records),
        gpu_kwh=sum(record.gpu_kwh for record in records),
        ram_kwh=sum(record.ram_kwh for record in records),
        emissions_kg=cost.emissions_kg,
        share=cost.energy_kwh / whole if whole else 0.0,
        unmeasured=sum(not record.measured for record in records),
        area_km2=sum(record.area_km2 or 0.0 for record in records),
    )


def _sum(records: Iterable[StageRecord]) -> Cost:
    return sum((record.cost for record in records), Cost())


def _result(
    found: _Found,
    records: Sequence[StageRecord],
    rows: tuple[EmissionsRow, ...],
    *,
    files: tuple[Path, ...],
) -> EmissionsResult:
    measured = [record for record in records if record.measured]
    told = measured if found.groups is None else []  # a file keeps sums alone
    total = _sum(records)
    return EmissionsResult(
        ledger=found.ledger.path,
        subject=found.subject,
        rows=rows,
        total=total,
        unmeasured=dict(Counter(r.problem or NOT_MEASURED for r in records if not r.measured)),
        skipped=found.ledger.skipped,
        unfinished=sum(record.state == "running" for record in records),
        side_by_side=_side_by_side(records),
        intensities=_intensities(told),
        places=_distinct(_place(r.intensity.source) for r in told if r.intensity),
        hardware=_distinct(_machine(record.hardware) for record in told),
        tools=_distinct(record.tool or "" for record in told),
        obtained={
            part: _distinct(getattr(record.obtained, part) for record in told)
            for part in PARTS
            if told
        },
        methods=_methods(told),
        equivalents=_equivalents(total),
        new=found.new,
        reused=found.reused,
        files=files,
    )


def _methods(records: Iterable[StageRecord]) -> dict[str, float]:
    """How much of the energy was measured, how much modelled, and how much is a constant."""
    found: Counter[str] = Counter()
    for record in records:
        told = {part: getattr(record, f"{part}_kwh") for part in PARTS}
        for part, kwh in told.items():
            found[_method(getattr(record.obtained, part))] += kwh
        found["not stated"] += max(record.energy_kwh - sum(told.values()), 0.0)
    whole = sum(found.values())
    return {method: kwh / whole for method, kwh in found.most_common() if kwh > 1e-9 * whole}


def _method(way: str) -> str:
    word = way.partition(" ")[0].rstrip(":,")
    return word if word in {"measured", "modelled", "constant"} else "not stated"


def _side_by_side(records: Iterable[StageRecord]) -> int:
    """Stages that overlap with another whose energy the same counter shows."""
    shared = [
        record
        for record in records
        if record.node
        and record.written
        and ("whole" in record.obtained.cpu or "whole" in record.obtained.gpu)
    ]
    found: set[int] = set()
    ordered = sorted(shared, key=lambda one: (one.node or "", one.started))
    last: StageRecord | None = None
    for record in ordered:
        if last is not None and last.node == record.node and record.started < (last.written or ""):
            found |= {id(last), id(record)}
        ends = record.written or ""
        if last is None or last.node != record.node or ends > (last.written or ""):
            last = record
    return len(found)


def _intensities(records: Iterable[StageRecord]) -> tuple[str, ...]:
    given = (record.intensity for record in records if record.intensity)
    return _distinct(f"{one.g_per_kwh:.0f} g CO₂eq/kWh, {one.source}" for one in given)


def _place(source: str) -> str:
    """The country, as the ledger's sources begin with it; nothing where it is none."""
    if source.startswith(("world average", "set in ")):
        return ""
    return source.partition(" (")[0].partition(",")[0]


def _distinct(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(filter(None, texts)))


# ------------------------------------------------------------------------------ everyday


_KETTLE_KWH = 4186 * 85 / 3.6e6
_CAR_KG = 0.4 / 1.609


def _equivalents(total: Cost) -> tuple[Equivalent, ...]:
    if not total.energy_kwh:
        return ()
    return (
        Equivalent(
            total.energy_kwh / _KETTLE_KWH,
            "l of water heated from 15 to 100 °C",
            "4186 J per kg and kelvin, no losses",
        ),
        Equivalent(
            total.emissions_kg / _CAR_KG,
            "km by car",
            "400 g CO₂ per mile: US EPA, Greenhouse Gas Emissions from a Typical Passenger Vehicle",
        ),
    )


# ------------------------------------------------------------------------------ compared


@dataclass(frozen=True)
class EmissionsComparison:
    """What two things took, side by side."""

    first: EmissionsResult
    second: EmissionsResult


def compare_emissions(first: Path, second: Path, root: Path) -> EmissionsComparison:
    """Put two runs, files or projects side by side.

    Raises:
        DataError: There is nothing of the kind.
    """
    return EmissionsComparison(emissions(root, subject=first), emissions(root, subject=second))


# ------------------------------------------------------------------------------ files


_COLUMNS = (
    "runs",
    "seconds",
    "energy_kwh",
    "cpu_kwh",
    "gpu_kwh",
    "ram_kwh",
    "emissions_kg",
    "share",
    "unmeasured",
    "area_km2",
)


def _write_rows(path: Path, rows: Sequence[EmissionsRow]) -> None:
    keys = list(rows[0].group) if rows else []
    lines = [[*row.group.values(), *(getattr(row, column) for column in _COLUMNS)] for row in rows]
    write_csv(path, [*keys, *_COLUMNS], lines)


def _draw(path: Path, rows: Sequence[EmissionsRow]) -> None:
    from eosfm_cli.carbon.chart import draw_energy  # matplotlib, only where a chart is wanted

    labels = [" ".join(row.group.values()) for row in rows]
    draw_energy(path, labels, [row.energy_kwh for row in rows])
