"""Whether energy can be measured here, or only be modelled."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

from eosfm_cli.carbon.country import COUNTRY_VARIABLE, intensity
from eosfm_cli.carbon.processor import has_known_power, named_at_once
from eosfm_cli.results import Finding

_COUNTERS = "/sys/class/powercap"


def cpu_counters() -> Iterator[Finding]:
    """Whether the CPU's energy counters are there and can be read."""
    from codecarbon.core.cpu import is_rapl_available

    logging.getLogger("codecarbon").setLevel(logging.CRITICAL + 1)
    if is_rapl_available():
        yield Finding("ok", "CPU: measured (RAPL)")
    elif list(Path(_COUNTERS).glob("**/energy_uj")):
        yield Finding(
            "warning",
            f"CPU: modelled from its load, as the counters in {_COUNTERS} may not be read",
            f"sudo chmod -R a+r {_COUNTERS}/*  (until the next start of the machine)",
        )
    else:
        yield Finding("ok", "CPU: modelled from its load, as this machine shows no counters")
        yield from _nominal_power()


def _nominal_power() -> Iterator[Finding]:
    """What is guessed of a processor that codecarbon does not know."""
    from codecarbon.core.config import get_hierarchical_config
    from codecarbon.core.util import detect_cpu_model

    with named_at_once():
        model = detect_cpu_model()
        known = has_known_power(model)
    if not known and not get_hierarchical_config().get("force_cpu_power"):
        yield Finding(
            "warning",
            f"CPU: 4 W for each thread is a guess, as codecarbon does not know {model or 'it'}",
            "export CODECARBON_FORCE_CPU_POWER=… with its nominal power (TDP) in W",
        )


def gpu_counters() -> Iterator[Finding]:
    """Whether NVIDIA's driver tells the energy of its GPUs; nothing where there is none."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # no library or no driver: no GPU to measure
        return
    try:
        for index in range(pynvml.nvmlDeviceGetCount()):
            pynvml.nvmlDeviceGetTotalEnergyConsumption(pynvml.nvmlDeviceGetHandleByIndex(index))
        yield Finding("ok", "GPU: measured (driver)")
    except pynvml.NVMLError as error:
        yield Finding(
            "warning",
            f"GPU: cannot be measured ({error})",
            "Its energy is missing in the sums; older GPUs and shares of one do not tell it.",
        )
    finally:
        pynvml.nvmlShutdown()


def country() -> Iterator[Finding]:
    """Whose electricity is counted."""
    known, found = intensity()
    text = f"{found.g_per_kwh:.0f} g CO₂eq per kWh: {found.source}"
    if known is None and os.environ.get(COUNTRY_VARIABLE, "").strip():
        yield Finding("warning", text, f"Three letters are needed: export {COUNTRY_VARIABLE}=FRA")
    else:
        yield Finding("ok", text)
