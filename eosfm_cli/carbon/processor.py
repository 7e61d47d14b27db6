"""The processor's name, without a second's work to find it, and whether its power is known."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

_PROCESSORS = Path("/proc/cpuinfo")


@contextmanager
def named_at_once(source: Path = _PROCESSORS) -> Iterator[None]:
    """Let codecarbon read the processor's name where Linux tells it.

    It asks cpuinfo, which starts a Python of its own that computes for a second and more, to read
    the same line in the end. Where there is no such line, cpuinfo does as ever.
    """
    name = _name(source)
    if name is None:
        yield
        return
    import cpuinfo

    asked = cpuinfo.get_cpu_info
    cpuinfo.get_cpu_info = lambda: {"brand_raw": name}
    try:
        yield
    finally:
        cpuinfo.get_cpu_info = asked


def _name(source: Path) -> str | None:
    try:
        lines = source.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(filter(None, named), None)


@cache
def has_known_power(model: str | None) -> bool:
    """Whether codecarbon's table has a processor; it takes 4 W for each thread of any other."""
    from codecarbon.core import cpu
    from codecarbon.core.hardware_cache import get_cached_tdp

    try:
        return bool(get_cached_tdp(cpu)._get_cpu_power_from_registry(model or ""))
    except Exception:  # figures without their origin are better than none
        return True
