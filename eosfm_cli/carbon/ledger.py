"""The project's ledger: one line of JSON for each stage that computed something.

Lines are only ever appended, each in one write, so that runs side by side lose nothing and a run
that is killed leaves at most one line cut off. Such lines, and foreign ones, are left out by
readers, who count them.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from eosfm_cli.errors import DataError, unwritable
from eosfm_cli.run_dir import write_csv

LEDGER_NAME = "emissions.jsonl"

Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
State = Literal["completed", "failed", "interrupted"]

NOT_MEASURED = "not measured"
TOO_SHORT = "too short to measure"


class _Value(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Intensity(_Value):
    """Greenhouse gas per electricity, and where the figure is from."""

    g_per_kwh: Amount
    source: str


class Hardware(_Value):
    """What the work ran on."""

    cpu: str | None = None
    cpu_count: int | None = None
    gpu: str | None = None
    gpu_count: int = 0
    ram_gb: float | None = None


class Obtained(_Value):
    """How each part's energy was found: measured, modelled, or not at all."""

    cpu: str = NOT_MEASURED
    gpu: str = NOT_MEASURED
    ram: str = NOT_MEASURED


class StageRecord(_Value):
    """One line of the ledger: what one stage of one run took."""

    version: Literal[1] = 1
    command: str
    name: str
    """The specialist, recipe or file that the command worked on."""
    run: str | None = None
    """The run folder, relative to the ledger where it is inside."""
    state: State
    started: str
    """UTC, ISO 8601."""
    seconds: Amount
    covered_seconds: Amount = 0.0
    """How much of `seconds` was under measurement; energy is scaled up from it."""
    energy_kwh: Amount = 0.0
    cpu_kwh: Amount = 0.0
    gpu_kwh: Amount = 0.0
    ram_kwh: Amount = 0.0
    emissions_kg: Amount = 0.0
    intensity: Intensity | None = None
    hardware: Hardware = Hardware()
    obtained: Obtained = Obtained()
    tool: str | None = None
    """What measured, with its version."""
    problem: str | None = None
    """Why it was not measured."""

    @property
    def measured(self) -> bool:
        """Whether there are figures of energy at all."""
        return self.covered_seconds > 0


@dataclass(frozen=True)
class Ledger:
    """What a ledger file holds."""

    path: Path
    records: tuple[StageRecord, ...]
    skipped: int
    """Lines that are no records: cut off, or of something else."""


def append_record(root: Path, record: StageRecord) -> Path:
    """Add one line to the project's ledger and return the ledger's path.

    Raises:
        OutputError: The ledger cannot be written.
    """
    path = root / LEDGER_NAME
    try:
        root.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            _append_line(descriptor, record.model_dump_json(exclude_none=True).encode())
        finally:
            os.close(descriptor)
    except OSError as error:
        raise unwritable(path, error) from None
    return path


def _append_line(descriptor: int, line: bytes) -> None:
    """Write one line in one go, on a fresh line even after one that was cut off."""
    size = os.fstat(descriptor).st_size
    cut_off = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
    data = (b"\n" if cut_off else b"") + line + b"\n"
    if os.write(descriptor, data) != len(data):
        raise OSError("the disk is full")


def read_ledger(root: Path) -> Ledger:
    """Read the project's ledger.

    Raises:
        DataError: There is none, or it cannot be read.
    """
    path = root / LEDGER_NAME
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        raise DataError(
            f"There is no ledger {path} yet.",
            hint="Every command that computes adds to it; begin with: eosfm demo",
        ) from None
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror or error}.") from None
    parsed = [_parse(line) for line in lines if line.strip()]
    records = tuple(record for record in parsed if record is not None)
    return Ledger(path, records, skipped=len(parsed) - len(records))


def _parse(line: bytes) -> StageRecord | None:
    try:
        return StageRecord.model_validate_json(line)
    except ValidationError:
        return None


def append_row(path: Path, row: Mapping[str, object]) -> None:
    """Add a row to a CSV file of few rows; columns that only one side has stay empty on the other.

    Raises:
        OutputError: The file cannot be written.
    """
    rows: list[Mapping[str, object]] = []
    if path.is_file():
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
    rows.append(row)
    columns = list(dict.fromkeys(column for each in rows for column in each))
    write_csv(path, columns, [[each.get(column) for column in columns] for each in rows])
