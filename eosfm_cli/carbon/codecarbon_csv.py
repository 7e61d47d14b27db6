"""codecarbon's own table of emissions, in all the sets of columns that its versions have had."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path

from pydantic import ValidationError

from eosfm_cli.carbon.ledger import Hardware, Intensity, Ledger, Obtained, StageRecord
from eosfm_cli.errors import DataError
from eosfm_cli.run_dir import write_csv

FOREIGN = "codecarbon"
"""The command of stages that another tool measured."""

_NEEDED = {"timestamp", "duration", "emissions", "energy_consumed"}
_NOT_STATED = "not stated"


def write_codecarbon_csv(path: Path, records: Iterable[StageRecord]) -> None:
    """Write stages as codecarbon would, one row each; those without figures are left out.

    Raises:
        OutputError: The file cannot be written.
    """
    from codecarbon.output_methods.emissions_data import EmissionsData

    columns = [field.name for field in dataclasses.fields(EmissionsData)]
    rows = [codecarbon_row(record) for record in records if record.measured]
    write_csv(path, columns, [[row.get(column) for column in columns] for row in rows])


def codecarbon_row(record: StageRecord) -> dict[str, object]:
    """A stage in codecarbon's columns; powers in W are means over the stage."""
    hours = record.seconds / 3600

    def power(kwh: float) -> float:
        return 1000 * kwh / hours if hours else 0.0

    return {
        **record.columns,
        "timestamp": _local_time(record.written or record.started),
        "project_name": "eosfm",
        "run_id": record.stage or "",
        "experiment_id": f"{record.command} {record.name}",
        "duration": record.seconds,
        "emissions": record.emissions_kg,
        "emissions_rate": record.emissions_kg / record.seconds if record.seconds else 0.0,
        "cpu_power": power(record.cpu_kwh),
        "gpu_power": power(record.gpu_kwh),
        "ram_power": power(record.ram_kwh),
        "cpu_energy": record.cpu_kwh,
        "gpu_energy": record.gpu_kwh,
        "ram_energy": record.ram_kwh,
        "energy_consumed": record.energy_kwh,
        "gpu_count": record.hardware.gpu_count,
        "gpu_model": _counted(record.hardware),
    }


def _counted(hardware: Hardware) -> str:
    return f"{hardware.gpu_count or 1} x {hardware.gpu}" if hardware.gpu else ""


def _local_time(utc: str) -> str:
    """The time on the wall, without a zone, as codecarbon writes it."""
    try:
        return datetime.fromisoformat(utc).astimezone().strftime("%Y-%m-%dT%H:%M:%S")
    except ValueError:
        return utc


OWN_COLUMNS = frozenset(
    codecarbon_row(StageRecord(command="", name="", state="completed", started="", seconds=0))
)
"""Columns that follow from a stage's amounts and need no keeping."""


# ------------------------------------------------------------------------------ reading


def read_codecarbon_csv(path: Path) -> Ledger:
    """Read a table that codecarbon wrote, of any version, as stages.

    A heading may stand in the middle, where files of several versions were joined.

    Raises:
        DataError: The file cannot be read, or is no such table.
    """
    try:
        text = path.read_text(encoding="utf-8-sig", errors="replace").replace("\0", "")
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror or error}.") from None
    heading: list[str] | None = None
    records: list[StageRecord | None] = []
    for cells in _cells(text):
        if set(cells) >= _NEEDED:
            heading = cells
        elif heading is None:
            break
        elif cells:
            records.append(_record(heading, cells))
    if heading is None:
        raise DataError(
            f"{path} is no table of codecarbon's: it lacks the columns "
            f"{', '.join(sorted(_NEEDED))}.",
            hint="Name a run, a ledger (emissions.jsonl), an ensemble, a model, or an "
            "emissions.csv that codecarbon wrote.",
        )
    found = [record for record in records if record is not None]
    return Ledger(path, _latest(found), skipped=len(records) - len(found))


def _latest(records: Iterable[StageRecord]) -> tuple[StageRecord, ...]:
    """One row of each run: codecarbon adds another, with all so far, whenever it is flushed.

    Rows of the oldest versions name no run; those that are alike to the last digit are copies.
    """
    stages: dict[object, StageRecord] = {}
    for record in records:
        key: object = record.stage or record.model_dump_json()
        if key not in stages or _extent(record) >= _extent(stages[key]):
            stages[key] = record
    return tuple(stages.values())


def _extent(record: StageRecord) -> tuple[float, float]:
    """A tracker that was started again counts its time from there on, its energy from the first."""
    return record.energy_kwh, record.seconds


def _cells(text: str) -> Iterator[list[str]]:
    csv.field_size_limit(1 << 24)
    reader = csv.reader(io.StringIO(text))
    while True:
        try:
            yield next(reader)
        except StopIteration:
            return
        except csv.Error:
            yield ["?"]  # a line that is no row counts as one left out


def _record(heading: list[str], cells: list[str]) -> StageRecord | None:
    """A row; `None` if it is cut off, or its figures are none."""
    if len(cells) != len(heading):
        return None
    row = dict(zip(heading, cells, strict=True))
    try:
        return _stage(row)
    except (ValueError, ValidationError):
        return None


def _stage(row: Mapping[str, str]) -> StageRecord:
    kwh, kg = float(row["energy_consumed"]), float(row["emissions"])
    seconds = float(row["duration"])
    place = row.get("country_name") or row.get("country_iso_code") or "a place not stated"
    version = row.get("codecarbon_version")
    intensity = Intensity(g_per_kwh=1000 * kg / kwh, source=f"{place}, codecarbon") if kwh else None
    return StageRecord(
        stage=f"{row['run_id']} {row.get('task_name', '')}" if row.get("run_id") else None,
        command=FOREIGN,
        name=row.get("task_name") or row.get("project_name") or row.get("experiment_id") or FOREIGN,
        state="completed",
        started=row["timestamp"],
        seconds=seconds,
        covered_seconds=seconds,
        energy_kwh=kwh,
        cpu_kwh=_amount(row, "cpu_energy"),
        gpu_kwh=_amount(row, "gpu_energy"),
        ram_kwh=_amount(row, "ram_energy"),
        emissions_kg=kg,
        intensity=intensity,
        hardware=Hardware(cpu=row.get("cpu_model") or None, gpu=row.get("gpu_model") or None),
        obtained=Obtained(cpu=_NOT_STATED, gpu=_NOT_STATED, ram=_NOT_STATED),
        tool=f"codecarbon {version}" if version else FOREIGN,
        columns={"pue": float(row["pue"])} if row.get("pue") else {},
    )


def _amount(row: Mapping[str, str], column: str) -> float:
    """A part's energy; the oldest versions do not tell it."""
    return float(row.get(column) or 0)
