"""What measuring energy costs a training; run by hand on an idle machine.

    python -m tests.benchmarks.tracker_overhead
    python -m tests.benchmarks.tracker_overhead --seconds 60 --pairs 3

Two figures. The processor time that the tracker takes, alone beside a process that only sleeps:
that is exact, and the same on a busy machine. And the time on the clock of the same training steps
with the tracker, of those without: each run is a process of its own, they take turns, and the ratio
is the median over the pairs.
"""

# ruff: noqa: T201 - what it measures goes to the terminal

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

_WARM_UP = 3


def main() -> None:
    """Measure, and print each figure as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seconds", type=float, default=60, help="how long a training is")
    parser.add_argument("--pairs", type=int, default=3, help="how often with and without")
    parser.add_argument("--only", choices=["processor", "clock"], help="one of the two figures")
    parser.add_argument("--as-one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.as_one:
        print(json.dumps(_run_one(**json.loads(given.as_one))))
        return
    if given.only != "clock":
        _report_processor_time(given.seconds)
    if given.only != "processor":
        _report_ratio(given.seconds, given.pairs)


def _report_processor_time(seconds: float) -> None:
    at_first = _ask(tracked=True, sleep=5.0)["cpu_seconds"]
    in_all = _ask(tracked=True, sleep=seconds)["cpu_seconds"]
    later = max(in_all - at_first, 0.0) / (seconds - 5)
    share = in_all / seconds / (os.cpu_count() or 1)
    print(f"processor time: {at_first:.2f} s at the start, then {1000 * later:.1f} ms a second")
    print(f"  of {seconds:.0f} s on {os.cpu_count()} cores: {share:.2%}")


def _report_ratio(seconds: float, pairs: int) -> None:
    steps = round(_WARM_UP * seconds / _ask(tracked=False, steps=_WARM_UP)["seconds"])
    ratios = []
    for number in range(pairs):
        order = (True, False) if number % 2 else (False, True)
        taken = {tracked: _ask(tracked=tracked, steps=steps)["seconds"] for tracked in order}
        ratios.append(taken[True] / taken[False])
        print(f"with {taken[True]:.2f} s, without {taken[False]:.2f} s: {ratios[-1]:.4f}")
    print(f"time with the tracker, of that without: {statistics.median(ratios):.4f}")


def _ask(**one: object) -> dict[str, float]:
    """Measure in a process of its own."""
    words = ["-m", "tests.benchmarks.tracker_overhead", "--as-one", json.dumps(one)]
    done = subprocess.run([sys.executable, *words], check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _run_one(*, tracked: bool, steps: int = 0, sleep: float = 0.0) -> dict[str, float]:
    """Train some steps, or sleep, with or without the tracker."""
    import pandas  # noqa: F401 - as in every training, which has imported it for its data

    from eosfm_cli.carbon.tracker import track

    train = _training()
    train(_WARM_UP if steps else 0)
    with tempfile.TemporaryDirectory() as folder:
        began, cpu_began = time.perf_counter(), sum(os.times()[:4])
        tracking = track(Path(folder), command="train-specialist", name="benchmark")
        with tracking if tracked else nullcontext():
            train(steps)
            time.sleep(sleep)
        return {
            "seconds": time.perf_counter() - began,
            "cpu_seconds": sum(os.times()[:4]) - cpu_began,
        }


def _training() -> Callable[[int], None]:
    """A small network, and so many steps of its training, all alike."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(4, 32, 3, padding=1), nn.ReLU(), *(nn.Conv2d(32, 32, 3, padding=1),) * 3
    )
    optimiser = torch.optim.AdamW(model.parameters())
    images = torch.rand(8, 4, 128, 128)

    def train(steps: int) -> None:
        for _ in range(steps):
            optimiser.zero_grad()
            model(images).square().mean().backward()
            optimiser.step()

    return train


if __name__ == "__main__":
    main()
