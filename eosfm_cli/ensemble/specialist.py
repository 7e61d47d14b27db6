"""One small trained encoder and what it expects."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import timm
import torch
from timm.models import FeatureListNet
from torch import Tensor, nn

from eosfm_cli.bands import nearest_word
from eosfm_cli.errors import UsageError
from eosfm_cli.manifest import SpecialistInfo

STRIDES = (4, 8, 16, 32)
"""Strides of the pyramid, fine to coarse: level `l` is `(b, c, h/4·2^-l, w/4·2^-l)`."""


@dataclass(frozen=True)
class Specialist:
    """A specialist's description and weights.

    `state` has the parameter names of timm's `features_only` model (`stem_0.weight`).
    """

    info: SpecialistInfo
    state: dict[str, Tensor]

    def build(self) -> nn.Module:
        """The encoder with its weights, in evaluation mode."""
        backbone = build_backbone(self.info.backbone, self.info.in_chans)
        backbone.load_state_dict(self.state)
        return backbone.eval()


def build_backbone(name: str, in_chans: int) -> FeatureListNet:
    """A timm encoder with random weights that gives the four levels of `STRIDES`.

    Raises:
        UsageError: timm has no such model, or it gives no such pyramid.
    """
    if not timm.is_model(name):
        near = nearest_word(name, timm.list_models(module=name.split("_")[0]) or timm.list_models())
        raise UsageError(
            f"timm has no model {name!r}." + (f" Did you mean {near!r}?" if near else ""),
            hint="Any timm model that gives a pyramid of features works, such as convnextv2_atto.",
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
            strides = timm.create_model(name, features_only=True).feature_info.reduction()
    except (RuntimeError, AttributeError, TypeError):
        strides = []
    levels = tuple(i for i, stride in enumerate(strides) if stride in STRIDES)
    if tuple(strides[i] for i in levels) != STRIDES:
        raise UsageError(
            f"{name} gives no pyramid of strides 4, 8, 16 and 32 (it gives {list(strides)}).",
            hint="Use a hierarchical encoder such as convnextv2_atto, resnet18 or swin_tiny.",
        )
    return levels


def parameter_count(module: nn.Module, *, trainable: bool = False) -> int:
    """How many parameters a module has, or how many of them are trained."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trainable)
