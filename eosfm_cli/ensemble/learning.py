"""Parameters that go on learning where others freeze a whole encoder.

TerraTorch's `freeze_backbone` calls an encoder's `freeze()` in some of its models. In others, and
wherever it puts an encoder of several dates around ours, it freezes one parameter after the other,
those of fusion, projection and selection among them: nothing would be left to learn.
"""

from __future__ import annotations

from typing import Self

from torch import nn


class Learning(nn.Parameter):
    """A parameter that `requires_grad_(False)` leaves as it is.

    `parameter.requires_grad = False` stops it all the same.
    """

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Let it learn; there is no way to say the contrary."""
        return super().requires_grad_(True) if requires_grad else self


def keep_learning(module: nn.Module) -> None:
    """Put a `Learning` in the place of every parameter in `module`."""
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            setattr(part, name, Learning(parameter.data, parameter.requires_grad))
