"""What power a short piece of work draws."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from eosfm_cli.carbon.meter import Meter


@dataclass
class Power:
    """Known once the work is over."""

    watts: float = 0.0
    """The mean; 0 where it cannot be told."""
    g_per_kwh: float = 0.0
    """Of the electricity; 0 where there are no figures."""


@contextmanager
def power_of(*, gpus: int = 1) -> Iterator[Power]:
    """Find the mean power of the work inside; nothing is written down.

    Args:
        gpus: How many of the visible GPUs the work uses.
    """
    power, meter = Power(), Meter(gpus=gpus)
    try:
        yield power
    finally:
        reading = meter.stop()
        seconds = reading.amounts.seconds
        if seconds > 0:
            power.watts = reading.amounts.energy_kwh * 3.6e6 / seconds
        if reading.intensity is not None:
            power.g_per_kwh = reading.intensity.g_per_kwh
