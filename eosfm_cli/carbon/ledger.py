"""The project's ledger: what each stage that computed something took, line by line.

A stage writes a line whenever it notes what it took since its last line: after every epoch, every
few seconds, at its end. So a run that is killed keeps its part, and one that is gone on with adds
a stage. Lines are only ever appended, each in one write, so that runs side by side lose nothing and
a killed one leaves at most one line cut off. Such lines, and foreign ones, are left out by readers,
who count them.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from eosfm_cli.errors import DataError, unwritable
from eosfm_cli.results import Cost

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LEDGER_NAME = "emissions.jsonl"

Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
State = Literal["running", "completed", "failed", "interrupted"]

NOT_MEASURED = "not measured"

_LOCK_PATIENCE_S = 1.0
"""How long a line waits for another machine's."""

_AMOUNTS = (
    "seconds",
    "covered_seconds",
    "energy_kwh",
    "cpu_kwh",
    "gpu_kwh",
    "ram_kwh",
    "emissions_kg",
)


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
    gpu_ids: tuple[int, ...] = ()
    """By the driver's numbers."""
    ram_gb: float | None = None


class Obtained(_Value):
    """How each part's energy was found: measured, modelled, constant, or not at all."""

    cpu: str = NOT_MEASURED
    gpu: str = NOT_MEASURED
    ram: str = NOT_MEASURED


class StageRecord(_Value):
    """What a stage of a run took: all of it, or in a line of the ledger, since its last line."""

    version: Literal[1] = 1
    stage: str | None = None
    """The same in all lines of a stage; a line without is a stage of its own."""
    part: int = 0
    """Which of its stage's lines it is."""
    command: str
    name: str
    """The specialist, recipe or file that the command worked on."""
    recipe: str | None = None
    specialist: str | None = None
    """The one that is trained."""
    run: str | None = None
    """The run folder, relative to the ledger where it is inside."""
    state: State
    """`running` is also said of stages that were killed."""
    started: str
    """When the stage did: UTC, ISO 8601."""
    written: str | None = None
    """When the line was: UTC, ISO 8601."""
    node: str | None = None
    """The machine's name."""
    seconds: Amount
    covered_seconds: Amount = 0.0
    """How much of `seconds` was under measurement; the rest is taken to have had its power."""
    energy_kwh: Amount = 0.0
    cpu_kwh: Amount = 0.0
    gpu_kwh: Amount = 0.0
    ram_kwh: Amount = 0.0
    emissions_kg: Amount = 0.0
    area_km2: Amount | None = None
    """What was mapped, of predictions."""
    intensity: Intensity | None = None
    hardware: Hardware = Hardware()
    obtained: Obtained = Obtained()
    tool: str | None = None
    """What measured, with its version."""
    problem: str | None = None
    """Why it was not measured."""
    columns: dict[str, JsonValue] = {}
    """What else codecarbon's table says, by its own names."""

    @property
    def measured(self) -> bool:
        """Whether there are figures of energy at all."""
        return self.covered_seconds > 0 or self.energy_kwh > 0

    @property
    def cost(self) -> Cost:
        """Time, energy and emissions."""
        return Cost(self.seconds, self.energy_kwh, self.emissions_kg)


@dataclass(frozen=True)
class Ledger:
    """What a ledger file holds."""

    path: Path
    records: tuple[StageRecord, ...]
    """One for each stage, in the order in which they began to write."""
    skipped: int
    """Lines that are no records: cut off, impossible, or of something else."""


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
            _keep_others_out(descriptor)
            _append_line(descriptor, record.model_dump_json(exclude_defaults=True).encode())
        finally:
            os.close(descriptor)
    except OSError as error:
        raise unwritable(path, error) from None
    return path


def _keep_others_out(descriptor: int) -> None:
    """Let other machines wait until the file is closed: network drives append to no line's end.

    Where there are no locks, or somebody does not give theirs up, the line is written all the same.
    """
    deadline = time.monotonic() + _LOCK_PATIENCE_S
    while fcntl is not None and time.monotonic() < deadline:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            if error.errno not in {errno.EACCES, errno.EAGAIN}:
                return
        time.sleep(0.005)


def _append_line(descriptor: int, line: bytes) -> None:
    """Write one line in one go, on a fresh line even after one that was cut off."""
    size = os.fstat(descriptor).st_size
    cut_off = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
    data = (b"\n" if cut_off else b"") + line + b"\n"
    if os.write(descriptor, data) != len(data):
        raise OSError("the disk is full")


def read_ledger(root: Path, *, run: str | None = None) -> Ledger:
    """Read the project's ledger, or the ledger file that is named.

    Args:
        root: The project's folder of runs, or the file.
        run: Only the stages of this one, as the ledger names it; of a long ledger that is quick.

    Raises:
        DataError: There is none, or it cannot be read.
    """
    path = root if root.is_file() else root / LEDGER_NAME
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        raise DataError(
            f"There is no ledger {path} yet.",
            hint="Every command that computes adds to it; begin with: eosfm demo",
        ) from None
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror or error}.") from None
    wanted = lines if run is None else filter(_naming(run), lines)
    parsed = [record for line in wanted if line.strip() for record in _parsed(line)]
    records = [one for one in parsed if one is not None and run in (None, one.run)]
    return Ledger(path, joined(records), skipped=len(parsed) - len(records))


def _naming(run: str) -> Callable[[bytes], bool]:
    """Whether a line may be of a run, by its bytes."""
    written = {json.dumps(run, ensure_ascii=plain)[1:-1].encode() for plain in (True, False)}
    return lambda line: any(name in line for name in written)


_MARKS = b"\0\xef\xbb\xbf \t\r"
"""Around a line: what a machine that went down leaves behind, and what editors put there."""


def _parsed(line: bytes) -> Iterator[StageRecord | None]:
    """The records in a line, which is one; `None` for what is none."""
    try:
        yield StageRecord.model_validate_json(line)
    except ValidationError:
        yield from _several(line.strip(_MARKS).decode(errors="replace"))


def _several(text: str) -> Iterator[StageRecord | None]:
    """Records that follow each other: of joined files, the first may not have ended its line."""
    decoder = json.JSONDecoder()
    while True:
        try:
            _, end = decoder.raw_decode(text)
            yield StageRecord.model_validate_json(text[:end])
        except (ValueError, RecursionError):
            yield None
            return
        text = text[end:].lstrip()
        if not text:
            return


def joined(lines: Iterable[StageRecord]) -> tuple[StageRecord, ...]:
    """Stages from their lines; a line that is there twice, say of joined copies, counts once."""
    stages: dict[object, dict[int, StageRecord]] = {}
    for number, line in enumerate(lines):
        key: object = number if line.stage is None else line.stage
        stages.setdefault(key, {})[line.part] = line
    return tuple(_joined([parts[n] for n in sorted(parts)]) for parts in stages.values())


def _joined(parts: list[StageRecord]) -> StageRecord:
    """One stage; what is no amount is as its last line has it that was measured."""
    if len(parts) == 1:
        return parts[0]
    last = next((part for part in reversed(parts) if part.measured), parts[-1])
    sums = {name: sum(getattr(part, name) for part in parts) for name in _AMOUNTS}
    areas = [part.area_km2 for part in parts if part.area_km2 is not None]
    ending = {"state": parts[-1].state, "written": parts[-1].written, "part": parts[-1].part}
    area = {"area_km2": sum(areas)} if areas else {}
    return last.model_copy(update={**sums, **ending, **area})


def cost_of_run(root: Path, run: Path) -> Cost | None:
    """What a run has taken by the ledger, its killed and resumed stages all together.

    `None` where the ledger cannot be read or does not know the run.
    """
    try:
        records = read_ledger(root, run=shown_run(root, run)).records
    except DataError:
        return None
    own = [record.cost for record in records]
    return sum(own, Cost()) if own else None


def shown_run(root: Path, run: Path) -> str:
    """A run's folder as the ledger names it."""
    own, base = run.absolute(), root.absolute()
    return own.relative_to(base).as_posix() if own.is_relative_to(base) else str(run)
