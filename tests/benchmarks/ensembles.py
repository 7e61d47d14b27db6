"""Ensembles with random weights, as trained ones have them, and images for them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from eosfm_cli.ensemble.encoder import EnsembleEncoder
from eosfm_cli.manifest import EncoderInfo, SpecialistInfo
from tests.benchmarks.harness import Scale
from tests.benchmarks.plain import PlainEnsemble, plain_ensemble

BANDS = ("red", "green", "blue")


@torch.no_grad()
def random_ensemble(scale: Scale, count: int) -> EnsembleEncoder:
    """An ensemble no weight of which is as it was at first, the same each time.

    What timm starts as zeros or ones (a fresh GRN does nothing) is random, and each normaliser's
    statistics are those of the features that it gets.
    """
    torch.manual_seed(0)
    infos = [
        SpecialistInfo(name=f"s{number:02}", backbone=scale.backbone, in_chans=3, bands=BANDS)
        for number in range(count)
    ]
    encoder = EnsembleEncoder(infos, BANDS, EncoderInfo(fusion="conv1x1"))
    for parameter in encoder.backbones.parameters():
        if parameter.ndim == 1:
            parameter.add_(0.2 * torch.randn_like(parameter))
    encoder.freeze()
    settle(encoder, images(8, 64))
    return encoder


@torch.no_grad()
def settle(model: nn.Module, x: Tensor) -> None:
    """Have all batch normalisation know what it gets, as after training."""
    layers = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for layer in layers:
        layer.momentum = 1.0
    model.train()
    model(x)
    model.eval()
    for layer in layers:
        layer.momentum = 0.1


def pair(scale: Scale, count: int) -> tuple[PlainEnsemble, EnsembleEncoder]:
    """The same ensemble twice: as published, and eosfm's."""
    encoder = random_ensemble(scale, count)
    return plain_ensemble(scale.backbone, encoder.state_dict()), encoder


def images(count: int, side: int) -> Tensor:
    """Standardised images `(count, 3, side, side)`: smooth values and some noise."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.randn(count, 3, max(side // 16, 1), max(side // 16, 1), generator=generator)
    smooth = nn.functional.interpolate(coarse, size=(side, side), mode="bicubic")
    return smooth + 0.3 * torch.randn(smooth.shape, generator=generator)
