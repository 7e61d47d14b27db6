"""From the features of all views to one pyramid.

A level arrives as one tensor per view, `(b, c_i, h, w)`, or `None` for a view that was not
computed, which counts as zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

Level = Sequence[Tensor | None]
Views = Sequence[Sequence[Tensor] | None]


def _present(level: Level) -> Tensor:
    """Any view that was computed: it lends its batch, size and device."""
    return next(features for features in level if features is not None)


class Concat(nn.Module):
    """Stack the views along the channels."""

    def __init__(
        self, widths: Sequence[Sequence[int]], out_channels: Sequence[int] | None = None
    ) -> None:
        """Build for `widths[view][level]` channels; their sums come out, there is no choice."""
        super().__init__()
        self.widths = tuple(tuple(w) for w in widths)
        self.out_channels = [sum(level) for level in zip(*self.widths, strict=True)]
        if out_channels is not None and list(out_channels) != self.out_channels:
            raise ValueError(f"concat gives {self.out_channels} channels, not {list(out_channels)}")

    def forward(self, views: Views) -> list[Tensor]:
        """One tensor `(b, Σ c_i, h, w)` per level."""
        return [self._stack(index, level) for index, level in enumerate(by_level(views))]

    def _stack(self, index: int, level: Level) -> Tensor:
        like = _present(level)
        parts = [
            features
            if features is not None
            else like.new_zeros(like.shape[0], width[index], *like.shape[2:])
            for features, width in zip(level, self.widths, strict=True)
        ]
        return torch.cat(parts, dim=1)

    def keep(self, views: Sequence[int], gates: Sequence[float]) -> Self:
        """The same fusion for a choice of views."""
        del gates  # nothing is learned here that a gate could be folded into
        return type(self)([self.widths[i] for i in views])


class Conv1x1(nn.Module):
    """A 1×1 convolution over the stacked views, written as `Σᵢ Wᵢ fᵢ`: nothing is ever stacked."""

    def __init__(
        self, widths: Sequence[Sequence[int]], out_channels: Sequence[int] | None = None
    ) -> None:
        """Build for `widths[view][level]` channels; the first view's widths come out by default."""
        super().__init__()
        self.out_channels = list(out_channels or widths[0])
        self.views = nn.ModuleList(
            nn.ModuleList(
                nn.Conv2d(c_in, c_out, 1, bias=False)
                for c_in, c_out in zip(width, self.out_channels, strict=True)
            )
            for width in widths
        )
        self.bias = nn.ParameterList(torch.zeros(c, 1, 1) for c in self.out_channels)
        self._start_as_one_convolution()

    def _start_as_one_convolution(self) -> None:
        """Draw the weights as one convolution over all views would, whatever their number."""
        for level in range(len(self.out_channels)):
            convolutions = [view[level] for view in self.views]
            bound = sum(conv.in_channels for conv in convolutions) ** -0.5
            for conv in convolutions:
                nn.init.uniform_(conv.weight, -bound, bound)

    def forward(self, views: Views) -> list[Tensor]:
        """One tensor `(b, c, h, w)` per level."""
        return [self._sum(index, level) for index, level in enumerate(by_level(views))]

    def _sum(self, index: int, level: Level) -> Tensor:
        terms = [
            conv[index](features)
            for conv, features in zip(self.views, level, strict=True)
            if features is not None
        ]
        return sum(terms[1:], terms[0]) + self.bias[index]

    def keep(self, views: Sequence[int], gates: Sequence[float]) -> Self:
        """The same fusion for a choice of views, each view's gate folded into its weights.

        Bias and output widths stay, so that what stands above still fits.
        """
        widths = [[conv.in_channels for conv in self.views[i]] for i in views]
        kept = type(self)(widths, self.out_channels)
        with torch.no_grad():
            for new, old, gate in zip(kept.views, views, gates, strict=True):
                for new_conv, old_conv in zip(new, self.views[old], strict=True):
                    new_conv.weight.copy_(old_conv.weight * gate)
            for new_bias, old_bias in zip(kept.bias, self.bias, strict=True):
                new_bias.copy_(old_bias)
        return kept


FUSIONS: dict[str, type[Concat] | type[Conv1x1]] = {"concat": Concat, "conv1x1": Conv1x1}


def by_level(views: Views) -> list[list[Tensor | None]]:
    """Turn `views[view][level]` into `levels[level][view]`."""
    depth = len(next(view for view in views if view is not None))
    return [[view and view[level] for view in views] for level in range(depth)]
