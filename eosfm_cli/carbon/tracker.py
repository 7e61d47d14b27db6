"""What a piece of work costs, measured by codecarbon in the background.

Nothing here asks the network where the machine is, asks for a password, locks, logs, or delays
the work; and nothing that goes wrong here ends it. Only this process and its children are counted
where the machine can tell them apart.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eosfm_cli.carbon.ledger import (
    TOO_SHORT,
    Hardware,
    Intensity,
    Obtained,
    StageRecord,
    State,
    append_record,
    append_row,
)
from eosfm_cli.errors import EosfmError, Interrupted
from eosfm_cli.progress import Progress, Silent
from eosfm_cli.results import Cost
from eosfm_cli.run_dir import RunDir, now

if TYPE_CHECKING:
    from codecarbon import OfflineEmissionsTracker
    from codecarbon.output_methods.emissions_data import EmissionsData

COUNTRY_VARIABLE = "EOSFM_COUNTRY"
_SAMPLE_EVERY_S = 5
_PROBE_PATIENCE_S = 5.0
"""How long the end of the work waits for hardware that is still being looked at."""
_SHORTEST_S = 0.5
"""Less than this under measurement says nothing about the rest."""


@contextmanager
def track(
    ledger_root: Path,
    *,
    command: str,
    name: str,
    run: Path | None = None,
    progress: Progress | None = None,
) -> Iterator[Meter]:
    """Measure the work inside and add one record to the ledger, however the work ends.

    Args:
        ledger_root: The project's folder of runs; the ledger is in it.
        command: As typed: `train-specialist`.
        name: The specialist, recipe or file worked on.
        run: The run folder, which gets an `emissions.csv` with codecarbon's columns.
        progress: Told if the ledger cannot be written; the work goes on.
    """
    meter, started = Meter(), now()
    state: State = "failed"
    try:
        yield meter
        state = "completed"
    except (Interrupted, KeyboardInterrupt):
        state = "interrupted"
        raise
    finally:
        reading = meter.stop()
        if _is_first_process():
            record = _record(reading, command=command, name=name, state=state, started=started)
            _write(record, reading, ledger_root, run, progress or Silent())


def _is_first_process() -> bool:
    """Whether this is the one of several training processes on a node that keeps the ledger."""
    return os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")) == "0"


# ------------------------------------------------------------------------------ measuring


@dataclass(frozen=True)
class Reading:
    """What the meter shows when the work is over."""

    seconds: float
    covered_seconds: float
    data: EmissionsData | None
    """Scaled to `seconds`; `None` if nothing was measured."""
    intensity: Intensity | None
    obtained: Obtained
    problem: str | None

    @property
    def cost(self) -> Cost:
        """Time, energy and emissions."""
        if self.data is None:
            return Cost(self.seconds)
        return Cost(self.seconds, self.data.energy_consumed, self.data.emissions)


class Meter:
    """What the work inside `track` costs: so far while it runs, in all when it is over."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._covered_since = self._began
        self._tracker: OfflineEmissionsTracker | None = None
        self._intensity: Intensity | None = None
        self._problem: str | None = None
        self._over = False
        self._reading: Reading | None = None
        self._lock = threading.Lock()
        # the first look at the hardware takes seconds, which the work need not wait for
        self._starter = threading.Thread(target=self._start, name="eosfm-energy", daemon=True)
        self._starter.start()

    @property
    def cost(self) -> Cost:
        """Time, energy and emissions so far, or in all once the work is over."""
        if self._reading is not None:
            return self._reading.cost
        seconds = time.perf_counter() - self._began
        covered = time.perf_counter() - self._covered_since
        kg = self._emitted_kg()
        if not kg or self._intensity is None or covered < _SHORTEST_S:
            return Cost(seconds)
        kg *= seconds / covered
        return Cost(seconds, kg * 1000 / self._intensity.g_per_kwh, kg)

    def _emitted_kg(self) -> float | None:
        with suppress(Exception):  # figures that cannot be had so far may come yet
            return self._tracker.flush() if self._tracker is not None else None
        return None

    def stop(self) -> Reading:
        """End the measurement; what it showed stays readable."""
        seconds = time.perf_counter() - self._began
        self._starter.join(_PROBE_PATIENCE_S)
        with self._lock:
            self._over = True
            self._reading = self._read(seconds)
        return self._reading

    def _start(self) -> None:
        try:
            tracker, intensity = _build_tracker()
            with self._lock:
                if not self._over:
                    tracker.start()
                    self._covered_since = time.perf_counter()
                    self._tracker, self._intensity = tracker, intensity
        except Exception as error:  # the work goes on without figures, and the record says why
            self._problem = f"{type(error).__name__}: {error}"

    def _read(self, seconds: float) -> Reading:
        covered = max(self._began + seconds - self._covered_since, 0.0)
        data = _final(self._tracker) if self._tracker is not None else None
        if data is None or covered < _SHORTEST_S:
            problem = self._problem or TOO_SHORT
            return Reading(seconds, 0.0, None, self._intensity, Obtained(), problem)
        return Reading(
            seconds,
            covered,
            _scaled(data, seconds, seconds / covered),
            self._intensity,
            _obtained(self._tracker),
            None,
        )


def _final(tracker: OfflineEmissionsTracker) -> EmissionsData | None:
    with suppress(Exception):  # a tracker that fails costs the record its figures, nothing else
        tracker.stop()
    return getattr(tracker, "final_emissions_data", None)


def _scaled(data: EmissionsData, seconds: float, factor: float) -> EmissionsData:
    """The same mean power over all of the work, its first moments included."""
    amounts = ("emissions", "cpu_energy", "gpu_energy", "ram_energy", "energy_consumed")
    scaled = {amount: getattr(data, amount) * factor for amount in amounts}
    rate = scaled["emissions"] / seconds
    return dataclasses.replace(data, duration=seconds, emissions_rate=rate, **scaled)


# ------------------------------------------------------------------------------ codecarbon


def _build_tracker() -> tuple[OfflineEmissionsTracker, Intensity]:
    from codecarbon import OfflineEmissionsTracker

    logging.getLogger("codecarbon").setLevel(logging.CRITICAL + 1)
    country, found = intensity()
    tracker = OfflineEmissionsTracker(
        country_iso_code=country,
        # what a codecarbon configuration of the user's might otherwise send somewhere
        cloud_provider=None,
        cloud_region=None,
        region=None,
        electricitymaps_api_token="",
        emissions_endpoint=None,
        output_methods=[],
        api_call_interval=-1,
        log_level=logging.CRITICAL,
        allow_multiple_runs=True,
        tracking_mode="process",
        measure_power_secs=_SAMPLE_EVERY_S,
        project_name="eosfm",
        # on Macs, the alternative asks for the administrator's password
        force_mode_cpu_load=sys.platform == "darwin",
        **_visible_gpus(),
    )
    return tracker, found


def _visible_gpus() -> dict[str, Any]:
    """An empty CUDA_VISIBLE_DEVICES hides every GPU; codecarbon takes it for none given."""
    return {"gpu_ids": []} if os.environ.get("CUDA_VISIBLE_DEVICES") == "" else {}


def intensity() -> tuple[str | None, Intensity]:
    """The country to count for, `None` for the world, and its electricity's intensity."""
    from codecarbon.core.emissions import Emissions
    from codecarbon.core.units import Energy
    from codecarbon.external.geography import GeoMetadata
    from codecarbon.input import DataSource

    wanted = os.environ.get(COUNTRY_VARIABLE, "").strip().upper() or None
    data = DataSource()
    table = data.get_global_energy_mix_data()
    known = wanted in table
    country = wanted if known else None
    place = GeoMetadata(country_iso_code=country)
    kg_per_kwh = Emissions(data).get_country_emissions(Energy.from_energy(kWh=1), place)
    if known:
        source = f"{table[wanted]['country_name']} ({COUNTRY_VARIABLE}), codecarbon's table"
    elif wanted:
        source = f"world average, as {COUNTRY_VARIABLE}={wanted} is no country of the table"
    else:
        source = f"world average, as {COUNTRY_VARIABLE} is not set"
    return country, Intensity(g_per_kwh=round(kg_per_kwh * 1000, 6), source=source)


_CPU_WAYS = {
    "intel_rapl": "measured for the whole machine (RAPL)",
    "windows_emi": "measured for the whole machine (energy meter)",
    "intel_power_gadget": "measured for the whole machine (Power Gadget)",
    "cpu_load": "modelled from this process's load and the CPU's nominal power",
    "constant": "constant, from the CPU's nominal power",
}


def _obtained(tracker: OfflineEmissionsTracker) -> Obtained:
    """How codecarbon found each part's energy; it tells that only by the objects it made."""
    found = {"gpu": "none in use"}
    for part in getattr(tracker, "_hardware", ()):
        kind = type(part).__name__
        if kind == "CPU":
            found["cpu"] = _CPU_WAYS.get(part._mode, str(part._mode))
        elif kind == "GPU":
            found["gpu"] = "measured for the whole device (driver)"
        elif kind == "RAM":
            found["ram"] = "modelled from the memory modules"
    return Obtained(**found)


# ------------------------------------------------------------------------------ records


def _record(
    reading: Reading, *, command: str, name: str, state: State, started: str
) -> StageRecord:
    stage = {"command": command, "name": name, "state": state, "started": started}
    data = reading.data
    if data is None:
        return StageRecord(**stage, seconds=reading.seconds, problem=reading.problem)
    return StageRecord(
        **stage,
        seconds=reading.seconds,
        covered_seconds=reading.covered_seconds,
        energy_kwh=data.energy_consumed,
        cpu_kwh=data.cpu_energy,
        gpu_kwh=data.gpu_energy,
        ram_kwh=data.ram_energy,
        emissions_kg=data.emissions,
        intensity=reading.intensity,
        hardware=Hardware(
            cpu=data.cpu_model or None,
            cpu_count=data.cpu_count,
            gpu=data.gpu_model or None,
            gpu_count=data.gpu_count or 0,
            ram_gb=data.ram_total_size,
        ),
        obtained=reading.obtained,
        tool=f"codecarbon {data.codecarbon_version}",
    )


def _write(
    record: StageRecord, reading: Reading, root: Path, run: Path | None, progress: Progress
) -> None:
    """Write ledger and CSV; what cannot be written is told and ends nothing."""
    if run is not None:
        inside = run.is_relative_to(root)
        shown = run.relative_to(root) if inside else run
        record = record.model_copy(update={"run": str(shown)})
    try:
        append_record(root, record)
        if run is not None and reading.data is not None:
            append_row(RunDir(run).emissions, reading.data.values)
    except (EosfmError, OSError) as error:
        progress.warn(f"What this stage cost is not recorded: {error}")
