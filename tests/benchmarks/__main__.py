"""How fast eosfm is, against a plain implementation of the published behaviour.

    python -m tests.benchmarks
    python -m tests.benchmarks --only encoder --only memory --rounds 9
    python -m tests.benchmarks --profile fit

Both sides run on one machine at one time, in turns; a ratio is the median over the rounds, with the
smallest and the largest one. Before anything is measured both sides have to give equal results;
where they do not, it says so and exits with 1. The plain side is tests/benchmarks/plain.py.
"""

# ruff: noqa: T201 - what it measures goes to the terminal

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.benchmarks.harness import (
    Benchmark,
    Scale,
    has_bf16,
    machine,
    measure,
    profile,
    table_head,
)

BENCHMARKS: dict[str, tuple[str, int]] = {
    "help": ("startup.startup", 2),
    "encoder": ("encoding.encoder", 7),
    "encoder-bf16": ("encoding.encoder_bf16", 2),
    "selection": ("encoding.selection", 5),
    "memory": ("memory.memory", 1),
    "allocator": ("memory.allocator", 2),
    "ablation-20": ("ablation.of_many", 2),
    "ablation-10": ("ablation.of_some", 2),
    "fit": ("fitting.segmentation", 2),
    "fit-bf16": ("fitting.segmentation_bf16", 2),
    "classify": ("fitting.classification", 2),
    "loading": ("data_loading.loading", 2),
    "predict": ("prediction.scene", 2),
    "predict-bf16": ("prediction.scene_bf16", 1),
}
"""What there is: where it is made, imported only then, and in how many rounds it is measured."""
NEED_BF16 = ("fit-bf16", "predict-bf16")
"""What would take very long where the processor knows no bf16."""


def main() -> int:
    """Measure, and print each line as soon as it is known."""
    given = arguments()
    print(f"{machine()}\n", flush=True)
    if given.profile:
        print(use(given.profile, Scale(), profile))
        return 0
    print(table_head(), flush=True)
    first = time.perf_counter()
    failed = 0
    for name in given.only or [*affordable()]:
        began = time.perf_counter()
        rounds = given.rounds or BENCHMARKS[name][1]
        try:
            lines = use(name, Scale(), lambda benchmark, n=rounds: measure(benchmark, n))
        except Exception as error:  # one that fails is told, and the others are still measured
            failed, lines = 1, [f"| {name} | | | | | {type(error).__name__}: {error} |"]
            traceback.print_exc()
        print("\n".join(lines), flush=True)
        print(f"{name}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    print(f"in all: {time.perf_counter() - first:.0f} s", file=sys.stderr)
    return failed


def arguments() -> argparse.Namespace:
    """What is asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    known: dict[str, Any] = {"choices": BENCHMARKS, "metavar": "NAME"}
    parser.add_argument("--only", action="append", **known, help=f"of {', '.join(BENCHMARKS)}")
    parser.add_argument("--rounds", type=int, help="turns of each side; by the benchmark if left")
    parser.add_argument("--profile", **known, help="print where the time goes, and measure nothing")
    return parser.parse_args()


def affordable() -> Iterator[str]:
    """What is measured unless told otherwise."""
    for name in BENCHMARKS:
        if name not in NEED_BF16 or has_bf16():
            yield name
        else:
            print(f"{name}: left out, as this processor has no bf16 instructions", file=sys.stderr)


def use(name: str, scale: Scale, work: Callable[[Benchmark], Any]) -> Any:
    """Make a benchmark, whose files are gone afterwards, and work with it."""
    module, _, function = BENCHMARKS[name][0].partition(".")
    make = getattr(import_module(f"tests.benchmarks.{module}"), function)
    with tempfile.TemporaryDirectory() as folder:
        return work(make(scale, Path(folder)))


if __name__ == "__main__":
    sys.exit(main())
