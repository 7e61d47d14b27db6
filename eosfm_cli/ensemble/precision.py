"""Models that compute in bfloat16: half the bits, as many orders of magnitude, fewer digits."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

HALF = torch.bfloat16


def halve(module: nn.Module) -> None:
    """Have a module compute in bfloat16 what it is given in bfloat16; it learns no more.

    What batch normalisation knows of its input stays as it is: torch takes it so.
    """
    for part in module.modules():
        if isinstance(part, _BatchNorm):
            continue
        for name, weight in part._parameters.items():
            if weight is not None:
                part._parameters[name] = nn.Parameter(weight.detach().to(HALF), requires_grad=False)
        for name, buffer in part._buffers.items():
            if buffer is not None and buffer.is_floating_point():
                part._buffers[name] = buffer.detach().to(HALF)
