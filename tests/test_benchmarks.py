"""Benchmarks do not rot: each runs at toy size, and both of its sides agree there."""

from __future__ import annotations

import pytest
import torch

from tests.benchmarks.__main__ import BENCHMARKS, use
from tests.benchmarks.harness import (
    Benchmark,
    Scale,
    against,
    difference,
    measure,
    table_head,
    within,
)

TOY = Scale(
    backbone="test_convnext",
    many=3,
    some=2,
    chosen=2,
    encoded=64,
    large=512,
    batch=2,
    tile=32,
    tiles=8,
    epochs=2,
    scored=4,
    scene=320,
    channels=8,
)
LONG = ("help", "memory", "allocator", "loading", "ablation-10", "fit-bf16", "predict-bf16")
"""Those that start processes of their own, have sizes of their own, or are like others."""


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] if n in LONG else []) for n in BENCHMARKS],
)
def test_both_sides_agree_and_are_measured(name: str) -> None:
    lines = use(name, TOY, lambda benchmark: measure(benchmark, rounds=1))
    assert lines
    width = table_head().splitlines()[0].count("|")
    assert all(line.count("|") == width and "×" in line for line in lines)


def test_nothing_is_measured_where_results_differ() -> None:
    measured: list[str] = []
    one, other = torch.ones(2), torch.tensor([1.0, 1.1])
    benchmark = Benchmark(
        ways={"plain": lambda: measured.append("plain")},
        check=lambda: within(difference([one], [other]), 1e-2),
        rows=lambda found: [],
    )
    with pytest.raises(AssertionError, match=r"7\.1e-02, at most 1e-02"):
        measure(benchmark, rounds=1)
    assert measured == []


def test_a_row_has_the_median_ratio_and_its_spread() -> None:
    found = {"plain": [2.0, 6.0, 4.0], "eosfm": [1.0, 2.0, 1.0]}
    row = against(found, "work", "plain", "eosfm", "≥ 2 ×")
    assert row.cells("equal") == ("| work | 4 s | 1 s | 3.00 × (2.00 to 4.00) | ≥ 2 × | equal |")
    assert "0.33 × (0.25 to 0.50)" in row.inverted().cells("equal")
