"""What stands between a specialist's features and the fusion: normaliser and projection."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from eosfm_cli.ensemble.fusion import Scaling
from eosfm_cli.recipe import Normalize


def build_normaliser(kind: Normalize, channels: int) -> nn.Module:
    """An affine-free normaliser of `(b, channels, h, w)`."""
    if kind == "batch":
        return nn.BatchNorm2d(channels, affine=False)
    if kind == "layer":
        return nn.GroupNorm(1, channels, affine=False)
    return nn.Identity()


def is_scaling(normaliser: nn.Module) -> bool:
    """Whether a normaliser only scales and shifts each channel, whatever the features."""
    if isinstance(normaliser, nn.BatchNorm2d):
        return not (normaliser.training or normaliser.affine)
    return isinstance(normaliser, nn.Identity)


def as_scaling(normaliser: nn.Module) -> Scaling:
    """What a normaliser does that only scales."""
    if isinstance(normaliser, nn.Identity):
        return Scaling(1.0)
    factor = (normaliser.running_var + normaliser.eps).rsqrt()
    return Scaling(factor, -normaliser.running_mean * factor)


def build_projection(channels: int) -> nn.Module:
    """A learned 1×1 convolution of as many channels, with a leaky ReLU behind it."""
    return nn.Sequential(nn.Conv2d(channels, channels, 1), nn.LeakyReLU())


def build_refiners(
    widths: Sequence[Sequence[int]], normalize: Normalize, *, project: bool
) -> tuple[nn.ModuleList, nn.ModuleList]:
    """Normalisers and projections, `[specialist][level]`; its views share a specialist's.

    Without projections the second list is empty.
    """
    normalisers = nn.ModuleList(
        nn.ModuleList(build_normaliser(normalize, channels) for channels in width)
        for width in widths
    )
    projections = nn.ModuleList(
        nn.ModuleList(build_projection(channels) for channels in width)
        for width in (widths if project else ())
    )
    return normalisers, projections
