"""A stage of work: measured while it runs, written down bit by bit, however it ends."""

from __future__ import annotations

import os
import platform
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from eosfm_cli.carbon.codecarbon_csv import OWN_COLUMNS, write_codecarbon_csv
from eosfm_cli.carbon.country import COUNTRY_VARIABLE, intensity
from eosfm_cli.carbon.ledger import (
    LEDGER_NAME,
    StageRecord,
    State,
    append_record,
    read_ledger,
    shown_run,
)
from eosfm_cli.carbon.meter import Amounts, Meter, Reading
from eosfm_cli.errors import BudgetReached, EosfmError, Interrupted
from eosfm_cli.progress import Progress, Silent
from eosfm_cli.run_dir import RunDir, now

__all__ = ["COUNTRY_VARIABLE", "Meter", "intensity", "track"]

TABLE_NAME = "emissions.csv"
_LINE_EVERY_S = 15.0
"""How much of a stage without epochs is lost at most when it is killed, and a little more."""
_LINE_APART_S = 1.0
"""Lines of shorter epochs are not worth their length."""
_TABLE_TRIES = 3


@contextmanager
def track(
    ledger_root: Path,
    *,
    command: str,
    name: str,
    recipe: str | None = None,
    specialist: str | None = None,
    run: Path | None = None,
    gpus: int = 1,
    progress: Progress | None = None,
) -> Iterator[Meter]:
    """Measure the work inside and write what it takes to the ledger, however the work ends.

    Args:
        ledger_root: The project's folder of runs; the ledger is in it.
        command: As typed: `train-specialist`.
        name: The specialist, recipe or file worked on.
        recipe: The recipe worked on.
        specialist: The specialist that is trained.
        run: The run folder, which gets an `emissions.csv` with codecarbon's columns.
        gpus: How many of the visible GPUs the work uses.
        progress: Told if the ledger cannot be written; the work goes on.
    """
    if not _is_first_process():  # the first one counts its node
        yield Meter(idle=True)
        return
    known = {"command": command, "name": name, "recipe": recipe, "specialist": specialist}
    stage = _Stage(ledger_root, {**known, "run": run and shown_run(ledger_root, run)})
    meter = stage.meter = Meter(gpus=gpus, beat=stage.beat)
    meter.flush = stage.flush
    state: State = "failed"
    try:
        yield meter
        state = "completed"
    except (Interrupted, KeyboardInterrupt, BudgetReached):
        state = "interrupted"
        raise
    finally:
        stage.end(state, run, progress or Silent())


def _is_first_process() -> bool:
    """Whether this is the one of several training processes on a node that keeps the ledger."""
    return os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")) == "0"


class _Stage:
    """What is known of a stage, and how much of it stands in the ledger."""

    meter: Meter

    def __init__(self, root: Path, known: dict[str, str | None]) -> None:
        self._root, self._known = root, known
        self._id, self._started = secrets.token_hex(8), now()
        self._part, self._written = 0, Amounts()
        self._area_km2: float | None = None
        self._written_at = time.perf_counter()
        self._lock = threading.Lock()
        self._over = False

    def beat(self) -> None:
        """Look at the meter, and write where the last line is some time ago."""
        self.meter.read()
        if time.perf_counter() - self._written_at >= _LINE_EVERY_S:
            self.flush()

    def flush(self) -> None:
        """Write a line; what cannot be written now goes with the next one."""
        if time.perf_counter() - self._written_at >= _LINE_APART_S:
            self._write(self.meter.read(), "running")

    def end(self, state: State, run: Path | None, progress: Progress) -> None:
        """Write the last line and codecarbon's tables; what cannot be written ends nothing."""
        error = self._write(self.meter.stop(), state) or self._tables(run)
        if error is not None:
            progress.warn(f"What this stage cost is not recorded: {error}")

    def _write(self, reading: Reading, state: State) -> Exception | None:
        with self._lock:
            if self._over:  # the meter's thread may be late
                return None
            self._over = state != "running"
            self._written_at = time.perf_counter()
            try:
                append_record(self._root, self._record(reading, state))
            except (EosfmError, OSError, ValueError) as error:
                return error
            self._written, self._part = reading.amounts, self._part + 1
            self._area_km2 = self.meter.area_km2
        return None

    def _record(self, reading: Reading, state: State) -> StageRecord:
        new = reading.amounts.since(self._written)
        data = reading.data
        return StageRecord(
            stage=self._id,
            part=self._part,
            **self._known,
            state=state,
            started=self._started,
            written=now(),
            node=platform.node() or None,
            seconds=new.seconds,
            covered_seconds=new.covered_seconds,
            energy_kwh=new.energy_kwh,
            cpu_kwh=new.cpu_kwh,
            gpu_kwh=new.gpu_kwh,
            ram_kwh=new.ram_kwh,
            emissions_kg=new.emissions_kg,
            area_km2=self._new_area(),
            intensity=reading.intensity,
            hardware=reading.hardware,
            obtained=reading.obtained,
            tool=reading.tool,
            problem=reading.problem,
            columns={k: v for k, v in data.values.items() if k not in OWN_COLUMNS} if data else {},
        )

    def _new_area(self) -> float | None:
        """What was mapped since the last line."""
        now_km2, before_km2 = self.meter.area_km2, self._area_km2 or 0.0
        return None if now_km2 is None else max(now_km2 - before_km2, 0.0)

    def _tables(self, run: Path | None) -> Exception | None:
        """Write codecarbon's tables of the run and the project from the ledger, if it is there."""
        if self.meter.problem is not None:
            return None
        try:
            records = _write_table(self._root)
            if run is not None:
                shown = shown_run(self._root, run)
                own = [one for one in records if one.run == shown]
                write_codecarbon_csv(RunDir(run).emissions, own)
        except (EosfmError, OSError) as error:
            return error
        except Exception:  # codecarbon cannot be imported
            return None
        return None


def _write_table(root: Path) -> tuple[StageRecord, ...]:
    """Write the project's table, again if another process has added to the ledger meanwhile.

    Not for ever: others that go on adding write it themselves when they end.
    """
    for _ in range(_TABLE_TRIES):
        size = (root / LEDGER_NAME).stat().st_size
        records = read_ledger(root).records
        write_codecarbon_csv(root / TABLE_NAME, records)
        if (root / LEDGER_NAME).stat().st_size == size:
            break
    return records
