"""Numbers as people read them."""

from __future__ import annotations

from collections.abc import Mapping

from eosfm_cli.results import MAIN_METRICS

UNKNOWN = "–"


def duration(seconds: float) -> str:
    """`12.3 s`, `4 min 05 s`, `2 h 07 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def energy(kwh: float) -> str:
    """Energy in Wh below one kWh, else in kWh; nothing at all means that nobody measured."""
    if kwh == 0:
        return UNKNOWN
    return f"{three(kwh * 1000)} Wh" if kwh < 1 else f"{three(kwh)} kWh"


def mass(kg: float) -> str:
    """Mass in g below one kg, else in kg; as with `energy`, nothing means unknown."""
    if kg == 0:
        return UNKNOWN
    return f"{three(kg * 1000)} g" if kg < 1 else f"{three(kg)} kg"


def latency(seconds: float) -> str:
    """A time that is mostly below a second: `41.3 ms`."""
    return f"{three(seconds * 1000)} ms" if seconds < 1 else duration(seconds)


def operations(number: float) -> str:
    """Floating-point operations: `35.2 kFLOP`."""
    for unit, power in (("G", 9), ("M", 6), ("k", 3)):
        if number >= 10**power:
            return f"{three(number / 10**power)} {unit}FLOP"
    return f"{three(number)} FLOP"


def count(number: int) -> str:
    """A count of parameters: `3.71 M`, `12.4 k`, `512`."""
    if number >= 1_000_000:
        return f"{three(number / 1_000_000)} M"
    return f"{three(number / 1000)} k" if number >= 1000 else str(number)


def size(number: int) -> str:
    """An amount of data: `118 MB`, `1.40 GB`; nothing means unknown."""
    if number == 0:
        return UNKNOWN
    for unit, power in (("GB", 9), ("MB", 6)):
        if number >= 10**power:
            return f"{three(number / 10**power)} {unit}"
    return f"{three(number / 1000)} kB"


def score(value: float) -> str:
    """A metric between 0 and 1."""
    return f"{value:.3f}"


def main_metric(metrics: Mapping[str, float]) -> tuple[str | None, str]:
    """The metric by which a task is judged, and its value."""
    for name in MAIN_METRICS:
        if name in metrics:
            return name, score(metrics[name])
    return None, UNKNOWN


def change(value: float) -> str:
    """A difference of metrics, always with its sign."""
    return f"{value:+.3f}"


def share(value: float) -> str:
    """A fraction in per cent."""
    return f"{value * 100:.1f} %"


def three(value: float) -> str:
    """Three significant digits, without an exponent."""
    if value == 0:
        return "0"
    if abs(value) < 0.001:
        return "<0.001"
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:#.3g}".rstrip(".")
