"""The forward of an ensemble's encoder, with and without selection."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from eosfm_cli.ensemble.precision import HALF, halve
from tests.benchmarks.ensembles import images, pair
from tests.benchmarks.harness import Benchmark, Figures, Row, Scale, against, difference, within

EQUAL = 1e-5
"""Relative distance up to which results in full precision count as equal."""
ROUNDED = 7e-2
"""The same in half precision: with these random weights the plain model in bf16 is off by 4e-2."""


def forward(encoder: nn.Module, x: Tensor) -> list[Tensor]:
    """The pyramid, without anything that training would need."""
    with torch.inference_mode():
        return encoder(x)


def encoder(scale: Scale, folder: Path) -> Benchmark:
    """All specialists of an ensemble, in full precision."""
    plain, ours = pair(scale, scale.some)
    ours.fold()
    return _forwards(scale, plain, ours, f"encoder forward, N = {scale.some}", "≥ 1.35 ×")


def encoder_bf16(scale: Scale, folder: Path) -> Benchmark:
    """All specialists of an ensemble, ours in half precision."""
    plain, ours = pair(scale, scale.some)
    ours.fold()
    halve(ours)
    title = f"encoder forward in bf16, N = {scale.some}"
    return _forwards(scale, plain, _Half(ours), title, "≥ 2 ×", equal=ROUNDED)


def selection(scale: Scale, folder: Path) -> Benchmark:
    """A few specialists out of many: the others are multiplied by zero, or not computed."""
    plain, everybody = pair(scale, scale.many)
    plain.leave_out(range(scale.chosen, scale.many))
    ours = everybody.keep(everybody.names[: scale.chosen])
    ours.fold()
    title = f"inference with k = {scale.chosen} of N = {scale.many}"
    return _forwards(scale, plain, ours, title, "≥ 5 ×")


class _Half(nn.Module):
    """What computes in half precision, for images in full precision."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> list[Tensor]:
        return self.module(x.to(HALF))


def _forwards(
    scale: Scale, plain: nn.Module, ours: nn.Module, title: str, aim: str, equal: float = EQUAL
) -> Benchmark:
    x = images(scale.batch, scale.encoded)

    def check() -> str:
        return within(difference(forward(plain, x), forward(ours, x)), equal)

    def rows(found: Figures) -> list[Row]:
        what = f"{title}, {scale.batch} × 3×{scale.encoded}²"
        return [against(found, what, "plain", "eosfm", aim)]

    ways = {"plain": lambda: forward(plain, x), "eosfm": lambda: forward(ours, x)}
    return Benchmark(ways, check, rows)
