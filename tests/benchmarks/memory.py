"""What depends on a process as a whole: peaks of memory, and how memory is allocated."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import torch

from eosfm_cli.allocator import keep_memory
from tests.benchmarks.encoding import EQUAL, forward
from tests.benchmarks.ensembles import images, pair
from tests.benchmarks.harness import (
    Benchmark,
    Figures,
    Row,
    Scale,
    against,
    difference,
    seconds,
    within,
)

Side = Literal["plain", "eosfm"]
_FORWARDS = 5


def memory(scale: Scale, folder: Path) -> Benchmark:
    """What a forward takes on top of the model, at most, each in a process of its own.

    It is the peak of resident memory during the forward less what was resident before it, after a
    small forward that has the libraries make what they keep.
    """

    def megabytes(side: Side) -> float:
        return apart(extra_megabytes, side, scale, folder / f"{side}.pt")

    def rows(found: Figures) -> list[Row]:
        what = f"extra memory of the fused forward, N = {scale.many}, {scale.large}²"
        return [against(found, what, "plain", "eosfm", "≤ 0.35 ×", unit="MB").inverted()]

    ways = {"plain": lambda: megabytes("plain"), "eosfm": lambda: megabytes("eosfm")}
    return Benchmark(ways, lambda: _equal(ways, folder), rows, figure=lambda way: way())


def extra_megabytes(side: Side, scale: Scale, output: Path) -> float:
    """Run one side's forward, keep its pyramid in a file, and give the memory that it took."""
    plain, ours = pair(scale, scale.many)
    ours.fold()
    model = {"plain": plain, "eosfm": ours}[side]
    forward(model, images(1, 64))
    x = images(1, scale.large)
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is that of building
    pyramid = forward(model, x)
    peak = _resident("VmHWM")
    torch.save([level.clone() for level in pyramid], output)
    return peak - before


def _resident(key: str) -> float:
    """A line of the process's status, in megabytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


def allocator(scale: Scale, folder: Path) -> Benchmark:
    """The same forward as it is, and in a process that keeps the memory it had."""

    def timed(name: str, start: Callable[[], object] | None) -> float:
        return apart(median_seconds, scale, folder / f"{name}.pt", start=start)

    def rows(found: Figures) -> list[Row]:
        what = f"allocator setting, N = {scale.some}, {scale.batch} × 3×{scale.encoded}²"
        return [against(found, what, "plain", "eosfm", "as measured")]

    ways = {"plain": lambda: timed("plain", None), "eosfm": lambda: timed("eosfm", keep_memory)}
    return Benchmark(ways, lambda: _equal(ways, folder), rows, figure=lambda way: way())


def median_seconds(scale: Scale, output: Path) -> float:
    """Run eosfm's forward again and again, and keep its pyramid in a file."""
    _, ours = pair(scale, scale.some)
    ours.fold()
    x = images(scale.batch, scale.encoded)
    torch.save([level.clone() for level in forward(ours, x)], output)
    return statistics.median(seconds(lambda: forward(ours, x)) for _ in range(_FORWARDS))


def apart(
    work: Callable[..., float], *arguments: object, start: Callable[[], object] | None = None
) -> float:
    """Work in a fresh process, in which `start` runs before anything else is imported."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=start) as process:
        return process.submit(work, *arguments).result()


def _equal(ways: dict[str, Callable[[], float]], folder: Path) -> str:
    """Run both sides, and compare the pyramids that they have left behind."""
    pyramids = []
    for name, way in ways.items():
        way()
        pyramids.append(torch.load(folder / f"{name}.pt", weights_only=True))
    return within(difference(*pyramids), EQUAL)
