"""Sum up what a project's stages, a run, a file, or another tool's table took."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

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
from eosfm_cli.errors import DataError, UsageError
from eosfm_cli.progress import Silent
from eosfm_cli.results import Cost
from eosfm_cli.run_dir import RunDir, write_csv

if TYPE_CHECKING:
    from eosfm_cli.lineage import Made

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
    commands: tuple[str, ...]
    total: Cost
    unmeasured: dict[str, int]
    """Why stages have no figures of energy -> how many."""
    skipped: int
    """Lines that are no records."""
    unfinished: int
    """Stages that were killed, or still run; what they took until then is counted."""
    side_by_side: int
    """Stages that ran beside another which counts the same part of the machine as its own."""
    counted_twice: tuple[str, ...]
    """Those parts: `cpu`, `gpu`, `ram`."""
    pue: tuple[float, ...]
    """By what the energy was multiplied for what the building takes, where it was."""
    no_area: int
    """Of the energy per area: predictions left out, as they do not know what they mapped."""
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
        UsageError: A file to write is the one that is read, or a file's sums are wanted by what
            it does not tell.
        OutputError: A file cannot be written.
    """
    found = _found(subject, root)
    if found.groups is not None and by != "stage":
        raise UsageError(
            f"{subject} keeps one sum for each piece of work behind it, and nothing else to go by.",
            hint="Leave out --by, or sum up the project: eosfm emissions --by " + by,
        )
    records = [r for r in found.ledger.records if not per_km2 or r.area_km2]
    no_area = [r for r in found.ledger.records if r.command == "predict" and not r.area_km2]
    _refuse_to_replace(found.ledger.path, (csv, plot))
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
    return _result(
        found,
        records,
        rows,
        files=tuple(filter(None, (csv, plot))),
        no_area=len(no_area) if per_km2 else 0,
    )


def _refuse_to_replace(ledger: Path, targets: Iterable[Path | None]) -> None:
    for target in filter(None, targets):
        if target.exists() and target.samefile(ledger):
            raise UsageError(
                f"{target} is where the figures are from; it is not written over.",
                hint="Give the table a name of its own: --csv energy.csv",
            )


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
    told: tuple[StageRecord, ...] | None = None
    """Of a file: the stages behind it that tell how they were measured, if all do."""


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
    for project in (path, path / "experiments"):
        if (project / LEDGER_NAME).is_file():
            return _Found(read_ledger(project), f"the project {project}")
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
    from eosfm_cli.lineage import cost_in_all, lineage, new_work
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
        told=_stages_behind(work, path, root),
        new=new_work(work),
        reused=cost_in_all(made for made in work if made.reused),
    )


def _stages_behind(work: Sequence[Made], path: Path, root: Path) -> tuple[StageRecord, ...]:
    """What the project's ledger knows of the runs behind a file; nothing if it lacks one."""
    runs = {made.where for made in work if made.command == "train-specialist"}
    if any(made.command == "fit-ensemble" for made in work):
        runs.add(shown_run(root, path.parent))
    try:
        known = [one for one in read_ledger(root).records if one.run in runs]
    except DataError:
        return ()
    return tuple(known) if runs == {one.run for one in known if one.measured} else ()


# ------------------------------------------------------------------------------ sums


_COUNT = re.compile(r"^\d+ x ")
"""How codecarbon begins the name of GPUs."""


def _machine(hardware: Hardware) -> str:
    name = _COUNT.sub("", hardware.gpu or "")
    gpu = f"{hardware.gpu_count or 1} × {name}" if name else None
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
    return tuple(
        _row({key: _on_one_line(text) for key, text in groups(members[0]).items()}, members, whole)
        for members in found.values()
    )


def _on_one_line(text: str) -> str:
    """A name as a table can show it: those of files may hold anything."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


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
    no_area: int,
) -> EmissionsResult:
    measured = [record for record in records if record.measured]
    told = measured if found.told is None else list(found.told)  # a file keeps sums alone
    total = _sum(records)
    side_by_side, counted_twice = _side_by_side(records)
    return EmissionsResult(
        ledger=found.ledger.path,
        subject=found.subject,
        rows=rows,
        commands=_distinct(record.command for record in records),
        total=total,
        unmeasured=dict(Counter(r.problem or NOT_MEASURED for r in records if not r.measured)),
        skipped=found.ledger.skipped,
        unfinished=sum(record.state == "running" for record in records),
        side_by_side=side_by_side,
        counted_twice=counted_twice,
        pue=tuple(dict.fromkeys(filter(None, map(_pue, told)))),
        no_area=no_area,
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


def _pue(record: StageRecord) -> float | None:
    found = record.columns.get("pue")
    return float(found) if isinstance(found, int | float) and found not in (0, 1) else None


def _side_by_side(records: Iterable[StageRecord]) -> tuple[int, tuple[str, ...]]:
    """Stages that ran at once on one machine, and the parts of it that each counts as its own."""
    timed = [record for record in records if record.node and record.written]
    found: set[int] = set()
    parts: set[str] = set()
    running: list[StageRecord] = []
    for record in sorted(timed, key=lambda one: (one.node or "", one.started)):
        running = [
            one
            for one in running
            if one.node == record.node and (one.written or "") > record.started
        ]
        for other in running:
            if both := _counted_by_both(record, other):
                found |= {id(record), id(other)}
                parts |= both
        running.append(record)
    return len(found), tuple(part for part in PARTS if part in parts)


def _counted_by_both(one: StageRecord, other: StageRecord) -> set[str]:
    """What a counter shows for all of a machine, or a model of it takes to be there for one run."""
    both = {part for part in PARTS if _is_whole(one, part) and _is_whole(other, part)}
    mine, theirs = set(one.hardware.gpu_ids), set(other.hardware.gpu_ids)
    return both - {"gpu"} if mine and theirs and mine.isdisjoint(theirs) else both


def _is_whole(record: StageRecord, part: str) -> bool:
    way = getattr(record.obtained, part)
    return "whole" in way or (part == "ram" and way.startswith("constant"))


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
    found = (
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
    return tuple(one for one in found if one.amount)


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
