"""The ensemble as published, written down plainly: what the benchmarks compare with.

Every specialist is computed in every step, also those that selection or ablation then multiplies by
zero; features are normalised one by one, concatenated, and go through a 1×1 convolution per level.
The specialists are timm's own modules. Nothing is folded, skipped or stored.

One thing differs on purpose: ablated features are zeroed after their normaliser, not before it, as
eosfm defines ablation so. It costs the same, and both sides give the same numbers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import timm
import torch
from torch import Tensor, nn


class PlainEnsemble(nn.Module):
    """A frozen ensemble with 1×1 convolutions over concatenated features.

    Attributes:
        out_channels: Channels per level, fine to coarse.
        factors: What each specialist's features are multiplied by; zero leaves one out.
    """

    def __init__(self, backbone: str, count: int, in_chans: int) -> None:
        """Build with random weights."""
        super().__init__()
        self.backbones = nn.ModuleList(
            timm.create_model(backbone, features_only=True, in_chans=in_chans) for _ in range(count)
        )
        widths = self.backbones[0].feature_info.channels()
        self.normalisers = nn.ModuleList(
            nn.ModuleList(nn.BatchNorm2d(width, affine=False) for width in widths)
            for _ in range(count)
        )
        self.fusion = nn.ModuleList(nn.Conv2d(count * width, width, 1) for width in widths)
        self.out_channels = list(widths)
        self.factors = [1.0] * count
        self.backbones.requires_grad_(False)

    def train(self, mode: bool = True) -> PlainEnsemble:
        """Set training mode; frozen specialists stay in evaluation mode."""
        super().train(mode)
        self.backbones.eval()
        return self

    def leave_out(self, numbers: Collection[int]) -> None:
        """Multiply the features of these specialists by zero."""
        self.factors = [float(number not in numbers) for number in range(len(self.backbones))]

    def forward(self, x: Tensor, **_: object) -> list[Tensor]:
        """Encode `(b, bands, h, w)` into a pyramid, fine to coarse."""
        views = []
        for backbone, normalisers, factor in zip(
            self.backbones, self.normalisers, self.factors, strict=True
        ):
            levels = [norm(level) for norm, level in zip(normalisers, backbone(x), strict=True)]
            views.append([level * factor for level in levels] if factor != 1 else levels)
        stacked = [torch.cat(level, dim=1) for level in zip(*views, strict=True)]
        return [conv(level) for conv, level in zip(self.fusion, stacked, strict=True)]


def plain_ensemble(backbone: str, state: Mapping[str, Tensor]) -> PlainEnsemble:
    """A plain ensemble with the weights of an eosfm encoder.

    Args:
        backbone: timm's name for each specialist.
        state: The encoder's `state_dict()`; its fusion is `conv1x1`.
    """
    count = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("backbones."))
    stem = state["backbones.0.stem_0.weight"]
    plain = PlainEnsemble(backbone, count, stem.shape[1])
    own = {key: tensor for key, tensor in state.items() if not key.startswith("fusion.")}
    for level in range(len(plain.fusion)):
        parts = [state[f"fusion.views.{number}.{level}.weight"] for number in range(count)]
        own[f"fusion.{level}.weight"] = torch.cat(parts, dim=1)
        own[f"fusion.{level}.bias"] = state[f"fusion.bias.{level}"].flatten()
    plain.load_state_dict(own)
    return plain.eval()
