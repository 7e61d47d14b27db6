"""One small trained encoder and what it expects."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import timm
import torch
from timm.layers import Format
from timm.models import FeatureListNet
from torch import Tensor, nn

from eosfm_cli.bands import nearest_word
from eosfm_cli.errors import UsageError
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


def build_backbone(name: str, in_chans: int) -> FeatureListNet:
    """A timm encoder with random weights that gives the four levels of `STRIDES`.

    Raises:
        UsageError: timm has no such model, or it gives no such pyramid.
    """
    if not timm.is_model(name):
        near = nearest_word(name, timm.list_models(module=name.split("_")[0]) or timm.list_models())
        raise UsageError(
            f"timm has no model {name!r}." + (f" Did you mean {near!r}?" if near else ""),
            hint=_GOOD_BACKBONES,
        )
    levels = _levels(name)
    return timm.create_model(
        name, features_only=True, in_chans=in_chans, pretrained=False, out_indices=levels
    )


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
