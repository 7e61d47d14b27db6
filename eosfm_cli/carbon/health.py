"""Whether energy can be measured here, or only be modelled."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

from eosfm_cli.carbon.country import COUNTRY_VARIABLE, intensity
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
