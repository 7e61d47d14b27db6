"""What a piece of work takes, measured by codecarbon in the background.

Nothing here asks the network where the machine is, asks for a password, locks, logs, or delays
the work; and nothing that goes wrong here ends it. Only this process and its children are counted
where the machine can tell them apart.
"""

from __future__ import annotations

import concurrent.futures.thread  # noqa: F401 - it has hooks around forks; not to come amid one
import logging
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from eosfm_cli.carbon.country import intensity
from eosfm_cli.carbon.ledger import Hardware, Intensity, Obtained
from eosfm_cli.carbon.processor import has_known_power, named_at_once
from eosfm_cli.results import Cost

if TYPE_CHECKING:
    from codecarbon import OfflineEmissionsTracker
    from codecarbon.output_methods.emissions_data import EmissionsData

_SAMPLE_EVERY_S = 7.5
_SAMPLING_SHARE = 0.002
"""How much of one processor core may go into looking at the power."""
_FRESH_S = 1.0
"""Figures so far that are younger than this are given again."""
_PROBE_PATIENCE_S = 5.0
"""How long the end of the work waits for hardware that is still being looked at."""
_SHORTEST_S = 0.5
"""Less than this under measurement says nothing about the rest."""
_FORKED_S = 0.2
"""When a fork is over for sure."""
_NEVER_S = 1e6
"""codecarbon's own sampling is left out: two threads at once would count a moment twice."""


_probing: set[threading.Event] = set()
"""Of meters that look at the hardware."""


def _wait_for_probes() -> None:
    """Let no process be forked while a thread imports: it would wait for those modules for ever."""
    if _probing and threading.current_thread() is threading.main_thread():
        with _signals_later():
            for probed in tuple(_probing):
                probed.wait(_PROBE_PATIENCE_S)


@contextmanager
def _signals_later() -> Iterator[None]:
    """Give signals that come inside when the fork is over; Python drops what is raised before."""
    came: set[int] = set()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    ours = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in ours:
        signal.signal(number, lambda sent, _: came.add(sent))
    try:
        yield
    finally:
        for number, handler in ours.items():
            signal.signal(number, handler)
        for number in came:
            threading.Timer(_FORKED_S, os.kill, (os.getpid(), number)).start()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no forks
    os.register_at_fork(before=_wait_for_probes, after_in_child=_probing.clear)


@dataclass(frozen=True)
class Amounts:
    """What adds up."""

    seconds: float = 0.0
    covered_seconds: float = 0.0
    cpu_kwh: float = 0.0
    gpu_kwh: float = 0.0
    ram_kwh: float = 0.0
    emissions_kg: float = 0.0

    @property
    def energy_kwh(self) -> float:
        """Of all parts."""
        return self.cpu_kwh + self.gpu_kwh + self.ram_kwh

    @property
    def cost(self) -> Cost:
        """Time, energy and emissions."""
        return Cost(self.seconds, self.energy_kwh, self.emissions_kg)

    def since(self, before: Amounts) -> Amounts:
        """What has come since; no counter that was set back takes anything away."""
        return Amounts(
            max(self.seconds - before.seconds, 0.0),
            max(self.covered_seconds - before.covered_seconds, 0.0),
            max(self.cpu_kwh - before.cpu_kwh, 0.0),
            max(self.gpu_kwh - before.gpu_kwh, 0.0),
            max(self.ram_kwh - before.ram_kwh, 0.0),
            max(self.emissions_kg - before.emissions_kg, 0.0),
        )

    def plus(self, other: Amounts) -> Amounts:
        """Both together."""
        return Amounts(
            self.seconds + other.seconds,
            self.covered_seconds + other.covered_seconds,
            self.cpu_kwh + other.cpu_kwh,
            self.gpu_kwh + other.gpu_kwh,
            self.ram_kwh + other.ram_kwh,
            self.emissions_kg + other.emissions_kg,
        )

    def energy_times(self, factor: float) -> Amounts:
        """This energy so many times over, and no time."""
        return Amounts(
            cpu_kwh=self.cpu_kwh * factor,
            gpu_kwh=self.gpu_kwh * factor,
            ram_kwh=self.ram_kwh * factor,
            emissions_kg=self.emissions_kg * factor,
        )


@dataclass(frozen=True)
class Reading:
    """What the meter shows."""

    amounts: Amounts
    intensity: Intensity | None = None
    hardware: Hardware = field(default_factory=Hardware)
    obtained: Obtained = field(default_factory=Obtained)
    tool: str | None = None
    problem: str | None = None
    """Why there are no figures."""
    data: EmissionsData | None = None
    """codecarbon's own, of the time that was under measurement."""


class Meter:
    """What the work inside `track` costs: so far while it runs, in all when it is over.

    Args:
        gpus: How many of the visible GPUs the work uses, from the first one on.
        beat: Called every few seconds from a thread of the meter's own.
        idle: Show time alone: another process counts the energy.
    """

    def __init__(
        self, *, gpus: int = 1, beat: Callable[[], None] | None = None, idle: bool = False
    ) -> None:
        self.area_km2: float | None = None
        """What the work has mapped, for those who know."""
        self.flush: Callable[[], None] = lambda: None
        """Write down what the work has taken so far, should it be killed before its end."""
        self._began = time.perf_counter()
        self._cpu_began = _cpu_seconds()
        self._gpus, self._beat = gpus, beat
        self._tracker: OfflineEmissionsTracker | None = None
        self._latest = _Latest()
        self._intensity: Intensity | None = None
        self._obtained = Obtained()
        self._problem: str | None = None
        self._head: Amounts | None = None
        self._reading: Reading | None = None
        self._read_at = -math.inf
        self._lock = threading.RLock()
        self._over = threading.Event()
        self._probed = threading.Event()
        # the first look at the hardware takes seconds, which the work need not wait for
        if idle:
            self._probed.set()
        else:
            _probing.add(self._probed)
            threading.Thread(target=self._run, name="eosfm-energy", daemon=True).start()

    @property
    def cost(self) -> Cost:
        """Time, energy and emissions so far, or in all once the work is over."""
        return self.read().amounts.cost

    @property
    def settled_cost(self) -> Cost:
        """The cost so far for files that keep it: also of work too short to be measured."""
        self._probed.wait(_PROBE_PATIENCE_S)
        reading = self.read()
        if reading.amounts.cost.energy_kwh or self._over.is_set() or self._tracker is None:
            return reading.amounts.cost
        seconds, cpu = time.perf_counter() - self._began, _cpu_seconds() - self._cpu_began
        try:
            return self._by_processor_time(reading, seconds, cpu).amounts.cost
        except Exception:  # the work goes on without figures; the record says why
            return reading.amounts.cost

    @property
    def problem(self) -> str | None:
        """Why there are no figures and will be none."""
        return self._problem

    def read(self) -> Reading:
        """What the work has taken so far, or in all once it is over."""
        with self._lock:
            if self._reading is None or not self._over.is_set():
                self._reading = self._measured()
            return self._reading

    def stop(self) -> Reading:
        """End the measurement; what it showed stays readable."""
        seconds = time.perf_counter() - self._began
        cpu_seconds = _cpu_seconds() - self._cpu_began
        self._probed.wait(_PROBE_PATIENCE_S)
        with self._lock:
            if not self._over.is_set():
                self._reading = self._final(seconds, cpu_seconds)
                self._over.set()
            return self.read()

    # -------------------------------------------------------------------------- in the background

    def _run(self) -> None:
        self._start()
        self._probed.set()
        _probing.discard(self._probed)
        while not self._over.wait(_SAMPLE_EVERY_S):
            if self._beat is not None:
                self._beat()
            else:
                self.read()

    def _start(self) -> None:
        try:
            tracker, found = _build_tracker(self._gpus)
            tracker._output_handlers.append(self._latest)
            with named_at_once():
                tracker.start()
            if tracker._start_time is None:  # it keeps to itself why
                raise RuntimeError("codecarbon found no way to measure here")
            _sample_sparingly(tracker)
            obtained = _obtained(tracker)
            with self._lock:
                self._intensity, self._obtained = found, obtained
                if not self._over.is_set():
                    self._tracker = tracker
            if self._tracker is None:
                tracker.stop()
        except (Exception, SystemExit) as error:  # the work goes on, and the record says why
            self._problem = f"{type(error).__name__}: {error}"

    # -------------------------------------------------------------------------- figures

    def _measured(self) -> Reading:
        """So far, of a tracker that goes on."""
        now = time.perf_counter()
        if self._tracker is not None and now - self._read_at >= _FRESH_S:
            with suppress(Exception):  # figures that cannot be had so far may come yet
                self._tracker.flush()
            self._read_at = now
        return self._shown(now - self._began)

    def _final(self, seconds: float, cpu_seconds: float) -> Reading:
        if self._tracker is None:
            return Reading(Amounts(seconds), problem=self._problem or "no figures in time")
        with suppress(Exception):  # a tracker that fails costs the record its figures, nothing else
            self._tracker.stop()
        shown = self._shown(seconds)
        if shown.amounts.covered_seconds > 0:
            return shown
        try:
            return self._by_processor_time(shown, seconds, cpu_seconds)
        except Exception:  # of a machine whose processor has no power that is known
            return replace(shown, problem="too short to measure")

    def _shown(self, seconds: float) -> Reading:
        """Figures of the time under measurement, and of the moments before at the same power."""
        data, tracker = self._latest.data, self._tracker
        if data is None or tracker is None:
            return Reading(Amounts(seconds), problem=self._problem)
        found = Reading(
            Amounts(seconds),
            intensity=self._intensity,
            hardware=_hardware(tracker, data),
            obtained=self._obtained,
            tool=f"codecarbon {data.codecarbon_version}",
            data=data,
        )
        figures = _amounts(data)
        covered = figures.covered_seconds
        if covered < _SHORTEST_S:
            return found
        if self._head is None:
            self._head = figures.energy_times(max(seconds - covered, 0.0) / covered)
        total = replace(figures.plus(self._head), seconds=max(seconds, covered))
        return replace(found, amounts=replace(total, covered_seconds=min(covered, total.seconds)))

    def _by_processor_time(self, shown: Reading, seconds: float, cpu_seconds: float) -> Reading:
        """Of work too short to be measured: what codecarbon's model says of its processor time."""
        parts = {type(part).__name__: part for part in getattr(self._tracker, "_hardware", ())}
        cpu, ram, pue = parts["CPU"], parts["RAM"], getattr(self._tracker, "_pue", 1)
        load = min(cpu_seconds / max(seconds, 1e-9) / (cpu._cpu_count or 1), 1.0)
        hours = seconds / 3600 * pue
        cpu_kwh, ram_kwh = cpu._tdp * load * hours / 1000, ram.total_power().W * hours / 1000
        grams = self._intensity.g_per_kwh if self._intensity else 0.0
        nominal = f"{cpu._tdp:.0f} W of nominal power{_where_from(cpu, self._tracker)}"
        obtained = shown.obtained.model_copy(
            update={
                "cpu": f"modelled from its processor time, as it was short, and {nominal}",
                **({"gpu": "not measured, as it was too short"} if "GPU" in parts else {}),
            }
        )
        amounts = Amounts(
            seconds,
            cpu_kwh=cpu_kwh,
            ram_kwh=ram_kwh,
            emissions_kg=(cpu_kwh + ram_kwh) * grams / 1000,
        )
        return replace(shown, amounts=amounts, obtained=obtained, problem=None)


class _Latest:
    """What codecarbon has said last: it hands its figures to outputs, of which this is one."""

    def __init__(self) -> None:
        self.data: EmissionsData | None = None

    def out(self, total: EmissionsData, delta: EmissionsData) -> None:
        """Keep the figures, unless they are none."""
        parts = (total.cpu_energy, total.gpu_energy, total.ram_energy, total.emissions)
        if all(math.isfinite(value) and value >= 0 for value in parts):
            self.data = total

    def exit(self) -> None:
        """Do nothing: there is nothing to close."""


def _amounts(data: EmissionsData) -> Amounts:
    return Amounts(
        data.duration,
        data.duration,
        data.cpu_energy,
        data.gpu_energy,
        data.ram_energy,
        data.emissions,
    )


def _cpu_seconds() -> float:
    """Processor time of this process and of children that have ended."""
    return sum(os.times()[:4])


# ------------------------------------------------------------------------------ codecarbon


def _build_tracker(gpus: int) -> tuple[OfflineEmissionsTracker, Intensity]:
    from codecarbon import OfflineEmissionsTracker

    logging.getLogger("codecarbon").setLevel(logging.CRITICAL + 1)
    country, found = intensity()
    tracker = OfflineEmissionsTracker(
        country_iso_code=country,
        # what a codecarbon configuration of the user's might otherwise send or write somewhere
        cloud_provider=None,
        cloud_region=None,
        region=None,
        electricitymaps_api_token="",
        emissions_endpoint=None,
        output_dir=".",
        output_methods=[],
        api_call_interval=-1,
        log_level=logging.CRITICAL,
        allow_multiple_runs=True,
        tracking_mode="process",
        measure_power_secs=_NEVER_S,
        project_name="eosfm",
        # on Macs, the alternative asks for the administrator's password
        force_mode_cpu_load=sys.platform == "darwin",
        **_gpus_in_use(gpus),
    )
    return tracker, found


def _sample_sparingly(tracker: OfflineEmissionsTracker) -> None:
    """Look at the power less often than every second where that takes long: among many processes.

    Each look goes through all of them to find the children of this one.
    """
    began = time.thread_time()
    tracker._monitor_power()
    seconds = (time.thread_time() - began) / _SAMPLING_SHARE
    tracker._scheduler_monitor_power.interval = min(max(seconds, 1.0), _SAMPLE_EVERY_S)


_VISIBLE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")


def _gpus_in_use(count: int) -> dict[str, Any]:
    """The first visible GPUs: those of others on the same machine are not counted."""
    from codecarbon.core.gpu import is_nvidia_system, is_rocm_system

    for visible in filter(lambda given: given is not None, map(os.environ.get, _VISIBLE)):
        # nothing but a list is taken for no GPU at all
        return {"gpu_ids": ",".join(visible.split(",")[:count]) if visible.strip() else []}
    return {"gpu_ids": list(range(count))} if is_nvidia_system() or is_rocm_system() else {}


_CPU_WAYS = {
    "intel_rapl": "measured for the whole machine (RAPL)",
    "windows_emi": "measured for the whole machine (energy meter)",
    "intel_power_gadget": "measured for the whole machine (Power Gadget)",
    "cpu_load": "modelled from this process's load and {tdp:.0f} W of nominal power",
    "constant": "constant: half of {tdp:.0f} W of nominal power",
}
_NOMINAL = {"cpu_load", "constant"}
_GUESSED = ", a guess: codecarbon does not know this processor"
_ANY = ", a guess for any processor"
_SET = ", set in codecarbon's configuration"
_CONSTANT_RAM = "constant per memory module; how many is guessed from the memory in use"
_ALONE = "; this node's other training processes are not in it"


def _has_siblings() -> bool:
    """Whether something else than this process started others beside it, torchrun or srun."""
    counts = (os.environ.get(name, "") for name in ("LOCAL_WORLD_SIZE", "SLURM_NTASKS_PER_NODE"))
    return any(count.isdecimal() and int(count) > 1 for count in counts)


def _obtained(tracker: OfflineEmissionsTracker) -> Obtained:
    """How codecarbon found each part's energy; it tells that only by the objects it made."""
    found = {"gpu": "none in use"}
    for part in getattr(tracker, "_hardware", ()):
        kind = type(part).__name__
        if kind == "CPU":
            found["cpu"] = _cpu_way(part, tracker)
        elif kind == "GPU" and _counted_gpus(part):
            found["gpu"] = "measured for the whole device (driver)"
        elif kind == "RAM":
            given = getattr(tracker, "_force_ram_power", None)
            found["ram"] = _CONSTANT_RAM if given is None else f"constant: {given:g} W{_SET}"
        elif kind in {"Raspberry", "AppleSiliconChip"}:
            found[part.chip_part.lower()] = "measured for the whole machine (power meter)"
    return Obtained(**found)


def _cpu_way(cpu: Any, tracker: OfflineEmissionsTracker) -> str:  # noqa: ANN401 - a part of codecarbon's
    way = _CPU_WAYS.get(cpu._mode, str(cpu._mode)).format(tdp=cpu._tdp or 0)
    if cpu._mode in _NOMINAL:
        way += _where_from(cpu, tracker)
    return way + (_ALONE if cpu._mode == "cpu_load" and _has_siblings() else "")


def _where_from(cpu: Any, tracker: OfflineEmissionsTracker) -> str:  # noqa: ANN401
    """Where a processor's nominal power is from, unless it is codecarbon's table."""
    if getattr(tracker, "_force_cpu_power", None) is not None:
        return _SET
    if getattr(cpu, "_is_generic_tdp", False):
        return _ANY
    return "" if has_known_power(cpu._model) else _GUESSED


def _counted_gpus(part: Any) -> dict[int, str]:  # noqa: ANN401 - a part of codecarbon's
    """Those that are counted: the driver's number -> name."""
    ids = part._get_gpu_ids()
    devices = part.devices.get_gpu_static_info()
    return {one["gpu_index"]: str(one["name"]) for one in devices if one["gpu_index"] in ids}


def _hardware(tracker: OfflineEmissionsTracker, data: EmissionsData) -> Hardware:
    parts = [one for one in getattr(tracker, "_hardware", ()) if type(one).__name__ == "GPU"]
    gpus = {number: name for part in parts for number, name in _counted_gpus(part).items()}
    return Hardware(
        cpu=data.cpu_model or None,
        cpu_count=data.cpu_count,
        gpu=", ".join(dict.fromkeys(gpus.values())) or None,
        gpu_count=len(gpus),
        gpu_ids=tuple(gpus),
        ram_gb=data.ram_total_size,
    )
