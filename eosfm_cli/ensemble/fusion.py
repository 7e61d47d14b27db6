"""From the features of all views to one pyramid.

A level arrives as one tensor per view, `(b, c_i, h, w)`, or `None` for a view that was not
computed, which counts as the fusion's neutral element: one for a product, else zero.

Additive fusions make a sum over the views, of their `terms`, and `finish` it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eosfm_cli.errors import UsageError
from eosfm_cli.manifest import EncoderInfo

Level = Sequence[Tensor | None]
Views = Sequence[Sequence[Tensor] | None]
Widths = Sequence[Sequence[int]]
"""`widths[view][level]`: channels that come in."""
_FEW = 16
"""Pixels of a level up to which a convolution costs more in its preparation than in its sums."""


class Scaling(NamedTuple):
    """`factor · features + shift`."""

    factor: float | Tensor
    """One, or `(channels,)`."""
    shift: Tensor | None = None
    """`(channels,)`; zero if not given."""

    def times(self, factor: float | Tensor) -> Self:
        """A scaling and one factor behind it."""
        return type(self)(self.factor * factor, None if self.shift is None else self.shift * factor)


class Concat(nn.Module):
    """Stack the views along the channels."""

    neutral = 0.0
    additive = False

    def __init__(self, widths: Widths) -> None:
        super().__init__()
        self.widths = tuple(tuple(w) for w in widths)
        self.out_channels = _summed(self.widths)

    def forward(self, views: Views) -> list[Tensor]:
        """One tensor `(b, Σ c_i, h, w)` per level."""
        return [self._stack(index, level) for index, level in enumerate(by_level(views))]

    def _stack(self, index: int, level: Level) -> Tensor:
        like = next(features for features in level if features is not None)
        parts = [
            features
            if features is not None
            else like.new_zeros(like.shape[0], width[index], *like.shape[2:])
            for features, width in zip(level, self.widths, strict=True)
        ]
        return torch.cat(parts, dim=1)

    def at_level(self, level: int) -> Self:
        """The same fusion of one level alone."""
        return type(self)([[width[level]] for width in self.widths])

    def keep(self, views: Sequence[int], gates: Sequence[float]) -> Self:
        """The same fusion for a choice of views."""
        del gates  # nothing is learned here that a gate could be folded into
        return type(self)([self.widths[i] for i in views])


class Addition(nn.Module):
    """Sum the views, which all have the same channels."""

    neutral = 0.0
    additive = True

    def __init__(self, widths: Widths) -> None:
        super().__init__()
        self.widths = tuple(tuple(w) for w in widths)
        self.out_channels = list(self.widths[0])

    def forward(self, views: Views) -> list[Tensor]:
        """One tensor `(b, c, h, w)` per level."""
        return [self._joined(_computed(level)) for level in by_level(views)]

    def terms(self, index: int, levels: Sequence[Tensor]) -> list[Tensor]:
        """What the view `index` adds to the sum, per level."""
        del index
        return list(levels)

    def finish(self, sums: Sequence[Tensor]) -> list[Tensor]:
        """The pyramid of a sum over views."""
        return list(sums)

    def _joined(self, level: Sequence[Tensor]) -> Tensor:
        return sum(level[1:], level[0])

    def at_level(self, level: int) -> Self:
        """The same fusion of one level alone."""
        return type(self)([[width[level]] for width in self.widths])

    def keep(self, views: Sequence[int], gates: Sequence[float]) -> Self:
        """The same fusion for a choice of views."""
        del gates  # nothing is learned here that a gate could be folded into
        return type(self)([self.widths[i] for i in views])


class Multiplication(Addition):
    """Multiply the views, which all have the same channels."""

    neutral = 1.0
    additive = False

    def _joined(self, level: Sequence[Tensor]) -> Tensor:
        return math.prod(level[1:], start=level[0])


class Conv1x1(nn.Module):
    """A 1×1 convolution over the stacked views, written as `Σᵢ Wᵢ fᵢ`: nothing is ever stacked."""

    neutral = 0.0
    additive = True

    def __init__(self, widths: Widths, out_channels: Sequence[int]) -> None:
        """Build for `out_channels[level]` channels that come out."""
        super().__init__()
        self.out_channels = list(out_channels)
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
        return self.finish(_sums(self, views))

    def terms(self, index: int, levels: Sequence[Tensor]) -> list[Tensor]:
        """What the view `index` adds to the sum, per level."""
        return [_mixed(*pair) for pair in zip(self.views[index], levels, strict=True)]

    def finish(self, sums: Sequence[Tensor]) -> list[Tensor]:
        """The pyramid of a sum over views."""
        return [level + bias for level, bias in zip(sums, self.bias, strict=True)]

    def folded(self, before: Sequence[Sequence[Scaling]]) -> Self:
        """The same fusion with a scaling of every view's levels, `before[view][level]`, in it.

        What the scaling shifts belongs to its view: one that is left out adds nothing.
        """
        whole = self._of(self.views)
        whole.bias = self.bias
        whole.views = nn.ModuleList(
            nn.ModuleList(_scaled(*pair) for pair in zip(view, scalings, strict=True))
            for view, scalings in zip(self.views, before, strict=True)
        )
        return whole.train(self.training)

    def at_level(self, level: int) -> Self:
        """The same fusion of one level alone, with the same weights."""
        alone = copy.copy(self)
        alone.out_channels = [self.out_channels[level]]
        alone._modules = {
            "views": nn.ModuleList(nn.ModuleList([view[level]]) for view in self.views),
            "bias": nn.ParameterList([self.bias[level]]),
        }
        return alone

    def keep(self, views: Sequence[int], gates: Sequence[float]) -> Self:
        """The same fusion for a choice of views, each view's gate folded into its weights.

        Bias and output widths stay, so that what stands above still fits.
        """
        kept = self._of([self.views[i] for i in views])
        kept.views = nn.ModuleList(
            nn.ModuleList(_scaled(conv, Scaling(gate)) for conv in self.views[old])
            for old, gate in zip(views, gates, strict=True)
        )
        with torch.no_grad():
            for new_bias, old_bias in zip(kept.bias, self.bias, strict=True):
                new_bias.copy_(old_bias)
        return kept.to(self.bias[0].device)

    def _of(self, views: Iterable[nn.ModuleList]) -> Self:
        """A fusion of views as wide as these, with weights of its own."""
        widths = [[conv.in_channels for conv in view] for view in views]
        return type(self)(widths, self.out_channels)


class Mlp(nn.Module):
    """Two 1×1 convolutions with a ReLU between them; the first one never stacks the views."""

    neutral = 0.0
    additive = True

    def __init__(
        self, widths: Widths, out_channels: Sequence[int], hidden: Sequence[int] | None = None
    ) -> None:
        """Build for `hidden[level]` channels inside; 1.25 × those that come in if not given."""
        super().__init__()
        self.hidden_channels = list(hidden or (int(1.25 * c) for c in _summed(widths)))
        self.out_channels = list(out_channels)
        self.first = Conv1x1(widths, self.hidden_channels)
        self.second = nn.ModuleList(
            nn.Conv2d(c_in, c_out, 1)
            for c_in, c_out in zip(self.hidden_channels, self.out_channels, strict=True)
        )

    def forward(self, views: Views) -> list[Tensor]:
        """One tensor `(b, c, h, w)` per level."""
        return self.finish(_sums(self, views))

    def terms(self, index: int, levels: Sequence[Tensor]) -> list[Tensor]:
        """What the view `index` adds to the sum, per level."""
        return self.first.terms(index, levels)

    def finish(self, sums: Sequence[Tensor]) -> list[Tensor]:
        """The pyramid of a sum over views."""
        hidden = self.first.finish(sums)
        return [conv(F.relu(level)) for conv, level in zip(self.second, hidden, strict=True)]

    def folded(self, before: Sequence[Sequence[Scaling]]) -> Self:
        """The same fusion with a scaling of every view's levels, `before[view][level]`, in it."""
        widths = [[conv.in_channels for conv in view] for view in self.first.views]
        whole = type(self)(widths, self.out_channels, self.hidden_channels)
        whole.first, whole.second = self.first.folded(before), self.second
        return whole.train(self.training)

    def keep(self, views: Sequence[int], gates: Sequence[float]) -> Self:
        """The same fusion for a choice of views, gates folded into the first convolution."""
        kept = type(self)(
            [[conv.in_channels for conv in self.first.views[i]] for i in views],
            self.out_channels,
            self.hidden_channels,
        )
        kept.first = self.first.keep(views, gates)
        kept.second.load_state_dict(self.second.state_dict())
        return kept.to(self.first.bias[0].device)


FusionModule = Concat | Addition | Conv1x1 | Mlp


def build_fusion(options: EncoderInfo, widths: Widths, names: Sequence[str]) -> FusionModule:
    """The fusion of an encoder.

    `conv1x1` and `mlp` give `fuse_to_mult` × the channels of the first view, or what the options
    say.

    Args:
        options: Which one, and its widths where they are known.
        widths: `widths[view][level]`.
        names: The specialist of each view, for messages.

    Raises:
        UsageError: The specialists' widths differ where they must not.
    """
    if options.fusion == "concat":
        return Concat(widths)
    if options.fusion in ("addition", "multiplication"):
        _refuse_unequal(options.fusion, widths, names)
        return (Addition if options.fusion == "addition" else Multiplication)(widths)
    out_channels = options.out_channels or [c * options.fuse_to_mult for c in widths[0]]
    if options.fusion == "conv1x1":
        return Conv1x1(widths, out_channels)
    return Mlp(widths, out_channels, options.hidden_channels)


def _refuse_unequal(fusion: str, widths: Widths, names: Sequence[str]) -> None:
    for name, width in zip(names, widths, strict=True):
        if list(width) != list(widths[0]):
            raise UsageError(
                f"{fusion} needs specialists of the same width: {name!r} has "
                f"{_listed(width)} channels, {names[0]!r} has {_listed(widths[0])}.",
                hint=f"Leave {name!r} out with --exclude, or fuse by concat, conv1x1 or mlp.",
            )


def _listed(width: Sequence[int]) -> str:
    return ", ".join(map(str, width))


def _summed(widths: Widths) -> list[int]:
    return [sum(level) for level in zip(*widths, strict=True)]


def added(sums: list[Tensor] | None, terms: Sequence[Tensor]) -> list[Tensor]:
    """A sum over views and what one more view adds, per level; of the first it is the sum."""
    if sums is None:
        return list(terms)
    return [total + term for total, term in zip(sums, terms, strict=True)]


def _sums(fusion: Conv1x1 | Mlp, views: Views) -> list[Tensor]:
    sums = None
    for index, levels in enumerate(views):
        if levels is not None:
            sums = added(sums, fusion.terms(index, levels))
    return sums


def _mixed(conv: nn.Conv2d, level: Tensor) -> Tensor:
    """A 1×1 convolution of a level; of few pixels as the linear map that it is, which is faster."""
    if level.shape[-2] * level.shape[-1] > _FEW:
        return conv(level)
    pixels = F.linear(level.permute(0, 2, 3, 1), conv.weight.flatten(1), conv.bias)
    return pixels.permute(0, 3, 1, 2)


@torch.no_grad()
def _scaled(conv: nn.Conv2d, before: Scaling) -> nn.Conv2d:
    """A 1×1 convolution and what scales its input, as one."""
    bias = conv.bias
    if before.shift is not None:
        shifted = conv.weight.flatten(1) @ before.shift
        bias = shifted if bias is None else bias + shifted
    whole = nn.Conv2d(conv.in_channels, conv.out_channels, 1, bias=bias is not None)
    whole.to(conv.weight)
    factor = torch.as_tensor(before.factor, device=conv.weight.device)
    whole.weight.copy_(conv.weight * factor.reshape(-1, 1, 1))
    if bias is not None:
        whole.bias.copy_(bias)
    return whole


def _computed(level: Level) -> list[Tensor]:
    return [features for features in level if features is not None]


def by_level(views: Views) -> list[list[Tensor | None]]:
    """Turn `views[view][level]` into `levels[level][view]`."""
    depth = len(next(view for view in views if view is not None))
    return [[view and view[level] for view in views] for level in range(depth)]
