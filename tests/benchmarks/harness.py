"""What a benchmark is, how it is measured, and the table that comes of it."""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

Way = Callable[[], object]
"""One way of doing the work that is measured."""
Figures = Mapping[str, Sequence[float]]
"""Way -> a figure per round."""


def seconds(way: Way) -> float:
    """How long a way takes."""
    gc.collect()
    began = time.perf_counter()
    way()
    return time.perf_counter() - began


@dataclass(frozen=True)
class Row:
    """A line of the table: ours against the plain implementation."""

    what: str
    plain: str
    eosfm: str
    ratios: tuple[float, ...]
    """One per round; above 1 is better, unless the aim is an upper bound."""
    aim: str

    def inverted(self) -> Row:
        """Ours by the plain figure: how much of it, or how many times as much, ours takes."""
        return replace(self, ratios=tuple(1 / ratio for ratio in self.ratios))

    def cells(self, equal: str) -> str:
        """The line, in Markdown."""
        low, high = min(self.ratios), max(self.ratios)
        spread = f"{_short(low)} to {_short(high)}" if len(self.ratios) > 1 else "one turn"
        ratio = f"{_short(statistics.median(self.ratios))} × ({spread})"
        return _line([self.what, self.plain, self.eosfm, ratio, self.aim, equal])


@dataclass(frozen=True)
class Benchmark:
    """Several ways of doing the same, ready to be measured in turns.

    `check` runs before anything is measured, and so is what warms up all ways. It raises an
    `AssertionError` where results differ by more than it says.
    """

    ways: Mapping[str, Way]
    check: Callable[[], str]
    rows: Callable[[Figures], list[Row]]
    figure: Callable[[Way], float] = seconds


@dataclass(frozen=True)
class Scale:
    """How large the work is; the default is what the table is about."""

    backbone: str = "convnextv2_atto"
    many: int = 20
    some: int = 10
    chosen: int = 5
    encoded: int = 256
    """Edge of the images that encoders are measured on."""
    large: int = 512
    """The same where memory is measured."""
    batch: int = 4
    tile: int = 128
    tiles: int = 200
    epochs: int = 20
    scored: int = 8
    """Tiles that an ablation is measured on."""
    scene: int = 3000
    channels: int = 128
    """Of the decoder."""


def table_head() -> str:
    """The table's first two lines."""
    return "\n".join(
        [
            _line(["what", "plain", "eosfm", "ratio (spread)", "aim", "equal results"]),
            _line(["---"] * 6),
        ]
    )


def measure(benchmark: Benchmark, rounds: int) -> list[str]:
    """Check that the ways agree, measure them in turns, and give the lines of the table."""
    equal = benchmark.check()
    found: dict[str, list[float]] = {name: [] for name in benchmark.ways}
    for _ in range(rounds):
        for name, way in benchmark.ways.items():
            found[name].append(benchmark.figure(way))
    return [row.cells(equal) for row in benchmark.rows(found)]


def profile(benchmark: Benchmark, lines: int = 15) -> str:
    """Where the time of each way goes."""
    benchmark.check()
    parts = []
    for name, way in benchmark.ways.items():
        with torch.profiler.profile() as profiler:
            way()
        table = profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=lines)
        parts.append(f"{name}\n{table}")
    return "\n".join(parts)


def against(found: Figures, what: str, plain: str, eosfm: str, aim: str, *, unit: str = "s") -> Row:
    """A row of two ways as they were measured: the plain figure by ours, round by round."""
    theirs, ours = found[plain], found[eosfm]
    return Row(
        what,
        amount(statistics.median(theirs), unit),
        amount(statistics.median(ours), unit),
        tuple(a / b for a, b in zip(theirs, ours, strict=True)),
        aim,
    )


def amount(value: float, unit: str = "s") -> str:
    """Write a figure with as many digits as mean something."""
    if unit == "s" and value < 1:
        return f"{1000 * value:.3g} ms"
    return f"{value:.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"


def difference(plain: Sequence[Tensor], ours: Sequence[Tensor]) -> float:
    """The largest relative distance (L2) of tensors that should be equal."""
    return max(
        float((a.float() - b.float()).norm() / a.float().norm())
        for a, b in zip(plain, ours, strict=True)
    )


def within(found: float, limit: float, what: str = "relative difference") -> str:
    """Say how equal things are.

    Raises:
        AssertionError: They are not.
    """
    if not found <= limit:
        raise AssertionError(f"{what} {found:.1e}, at most {limit:.0e} is allowed")
    return f"{what} {found:.0e}, limit {limit:.0e}"


def machine() -> str:
    """What the figures were measured on."""
    flags = _processor().get("flags", "").split()
    has = [flag for flag in ("avx2", "avx512f", "avx512_vnni") if flag in flags]
    has += ["bf16" if has_bf16() else "no bf16"]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{_processor().get('model name', 'unknown processor')}, {os.cpu_count()} processors "
        f"({', '.join(has)}), {memory:.0f} GB; torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads; load {os.getloadavg()[0]:.1f}"
    )


def has_bf16() -> bool:
    """Whether the processor multiplies in bf16 itself."""
    return bool({"avx512_bf16", "amx_bf16"} & set(_processor().get("flags", "").split()))


def _processor() -> dict[str, str]:
    """What the system says of its last processor."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}" if value >= 10 else f"{value:.2f}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
