"""One small trained encoder and what it expects."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache

import timm
import torch
from timm.layers import Format
from timm.models import FeatureListNet
from torch import Tensor, nn

from eosfm_cli.bands import nearest_word
from eosfm_cli.errors import (
    EosfmError,
    UsageError,
    WeightsUnavailableError,
    is_out_of_memory,
)
from eosfm_cli.manifest import SpecialistInfo

STRIDES = (4, 8, 16, 32)
"""Strides of the pyramid, fine to coarse: level `l` is `(b, c, h/4·2^-l, w/4·2^-l)`."""
_GOOD_BACKBONES = "Convolutional pyramids of timm work, such as convnextv2_atto or resnet18."


@dataclass(frozen=True)
class Specialist:
    """A specialist's description and weights.

    `state` has the parameter names of timm's `features_only` model (`stem_0.weight`).
    """

    info: SpecialistInfo
    state: dict[str, Tensor]


def build_backbone(name: str, in_chans: int, *, pretrained: bool = False) -> FeatureListNet:
    """A timm encoder that gives the four levels of `STRIDES`.

    Args:
        name: Of timm's model.
        in_chans: How many bands go in.
        pretrained: With timm's published weights, which the hub is asked for; else random ones.

    Raises:
        UsageError: timm has no such model, or it gives no such pyramid.
        WeightsUnavailableError: Published weights cannot be had.
    """
    if not timm.is_model(name):
        near = nearest_word(name, timm.list_models(module=name.split("_")[0]) or timm.list_models())
        raise UsageError(
            f"timm has no model {name!r}." + (f" Did you mean {near!r}?" if near else ""),
            hint=_GOOD_BACKBONES,
        )
    levels = _levels(name)
    with hub_errors(name) if pretrained else nullcontext():
        return timm.create_model(
            name, features_only=True, in_chans=in_chans, pretrained=pretrained, out_indices=levels
        )


@contextmanager
def hub_errors(backbone: str) -> Iterator[None]:
    """Say clearly that pretrained weights could not be had, whatever the hub's library raised.

    Raises:
        WeightsUnavailableError: They could not.
    """
    try:
        yield
    except Exception as error:  # whatever the hub's library and its transport have in store
        if isinstance(error, EosfmError) or is_out_of_memory(error):
            raise
        raise WeightsUnavailableError(
            f"Pretrained weights of {backbone} cannot be had: "
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no answer'}",
            hint="Go on from random weights with --no-pretrained, or try again where the hub is "
            "in reach.",
        ) from error


@cache
def _levels(name: str) -> tuple[int, ...]:
    """Which of a timm model's feature levels have the strides of the pyramid."""
    try:
        with torch.device("meta"):  # the layout alone: no weights are drawn
            model = timm.create_model(name, features_only=True)
            strides = model.feature_info.reduction()
    except (RuntimeError, AttributeError, TypeError):
        strides = []
    else:
        if getattr(model, "output_fmt", Format.NCHW) == Format.NHWC:
            raise UsageError(
                f"{name} gives features with the channels last, which TerraTorch's decoders do "
                "not take.",
                hint=_GOOD_BACKBONES,
            )
    levels = tuple(i for i, stride in enumerate(strides) if stride in STRIDES)
    if tuple(strides[i] for i in levels) != STRIDES:
        raise UsageError(
            f"{name} gives no pyramid of strides 4, 8, 16 and 32 (it gives {list(strides)}).",
            hint=_GOOD_BACKBONES,
        )
    return levels


def parameter_count(module: nn.Module, *, trainable: bool = False) -> int:
    """How many parameters a module has, or how many of them are trained."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trainable)
