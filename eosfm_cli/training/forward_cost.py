"""What one forward of a fitted model costs: operations counted, time measured."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from eosfm_cli.training.trainer import memory_errors

_WARM_UP, _TIMED = 2, 9


@dataclass(frozen=True)
class ForwardCost:
    """What a model takes for one input."""

    flops: int
    """Floating-point operations of convolutions and matrix products, nearly all there are; a
    multiplication and an addition count as two."""
    seconds: float
    """The median of a few forwards."""


def forward_cost(module: nn.Module, shape: tuple[int, ...], device: torch.device) -> ForwardCost:
    """Count and time a forward of one input.

    Args:
        module: In evaluation mode; it is moved to the device.
        shape: Of the input, with its batch.
        device: Where to run.

    Raises:
        OutOfMemoryError: The input does not fit into memory.
    """
    generator = torch.Generator().manual_seed(0)
    with memory_errors(), torch.no_grad():
        module = module.to(device)
        x = torch.randn(shape, generator=generator).to(device)
        with FlopCounterMode(display=False, custom_mapping=_IN_PLACE) as counter:
            module(x)
        times = [_timed(module, x) for _ in range(_WARM_UP + _TIMED)]
    return ForwardCost(counter.get_total_flops(), median(times[_WARM_UP:]))


def _of_product(
    into: tuple[int, ...], one: tuple[int, ...], other: tuple[int, ...], **_: object
) -> int:
    """Operations of `(…, m, k)` times `(…, k, n)`, by their shapes."""
    return 2 * math.prod(one) * other[-1]


_IN_PLACE = {torch.ops.aten.addmm_: _of_product, torch.ops.aten.baddbmm_: _of_product}
"""Products that are added to what is there, which torch does not count by itself."""


def _timed(module: nn.Module, x: Tensor) -> float:
    _wait(x.device)
    began = time.perf_counter()
    module(x)
    _wait(x.device)
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
