"""A fitted model with fewer specialists, which gives what the whole one gives without the others.

Most fusions give as many channels as before. Under `concat` the channels of those left out go: they
were zeros to the decoder's first layers, so their weights are cut out with them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from eosfm_cli.ensemble.encoder import EnsembleEncoder
from eosfm_cli.ensemble.fusion import Concat
from eosfm_cli.errors import EosfmError, UsageError
from eosfm_cli.manifest import ModelManifest
from eosfm_cli.training.model import build_model, inner_encoder

_INPUTS: dict[str, dict[str, int]] = {
    "UperNetDecoder": {
        r"decoder\.lateral_convs\.(?P<level>\d+)\.conv\.weight": 1,
        r"decoder\.psp_modules\.\d+\.1\.conv\.weight": 1,
        r"decoder\.bottleneck\.conv\.weight": 1,
    },
    "FCNDecoder": {r"decoder\.convs\.0\.0\.weight": 0},
    "IdentityDecoder": {r"head\.head\.\d+\.weight": 1},
}
"""Decoder -> its weights on the encoder's features, and the dimension in which these lie. They are
those of the level in the name, else of the coarsest, and come before all else."""
_SIZE_PX = 64
_TOLERANCE = 1e-4


def can_prune(manifest: ModelManifest) -> bool:
    """Whether what stands on the specialists stays as it is without some of them."""
    return manifest.encoder.fusion != "concat" or manifest.decoder.name in _INPUTS


@dataclass(frozen=True)
class Pruned:
    """A smaller model."""

    model: nn.Module
    difference: float
    """The largest between what it gives and what the whole one gives without those left out."""


@torch.no_grad()
def prune_model(model: nn.Module, manifest: ModelManifest, names: Collection[str]) -> Pruned:
    """Keep only these specialists of a fitted model, and check that this changes nothing else.

    Args:
        model: As `open_model` builds it.
        manifest: Of the model.
        names: Of the specialists to keep.

    Raises:
        UsageError: The decoder stands on all specialists in a way that cannot be cut.
        EosfmError: The outputs differ.
    """
    _refuse_uncuttable(manifest, names)
    encoder: EnsembleEncoder = inner_encoder(model)
    small = build_model(
        encoder.keep(names),
        task=manifest.task,
        decoder=manifest.decoder,
        classes=len(manifest.classes),
        pooling=manifest.pooling,
    ).eval()
    cut = _cut(model, small, _kept_channels(encoder, names, manifest), manifest.decoder.name)
    small.load_state_dict(cut, strict=False)
    return Pruned(small, _difference(model, small, manifest, names))


def _refuse_uncuttable(manifest: ModelManifest, names: Collection[str]) -> None:
    if not can_prune(manifest):
        left = ",".join(s.name for s in manifest.specialists if s.name in names)
        raise UsageError(
            f"{manifest.decoder.name} on concatenated features cannot be cut to fewer specialists.",
            hint=f"Fit it again with those: eosfm fit-ensemble RECIPE --specialists {left}",
        )


def _kept_channels(
    encoder: EnsembleEncoder, names: Collection[str], manifest: ModelManifest
) -> list[Tensor]:
    """Per level, which channels of the whole pyramid are in the smaller one."""
    if not isinstance(encoder.fusion, Concat):
        kept = [torch.arange(channels) for channels in encoder.out_channels]
    else:
        stays = [encoder.names[slot.specialist] in names for slot in encoder.slots]
        kept = [
            torch.cat([torch.full((c,), stay) for c, stay in zip(level, stays, strict=True)])
            .nonzero()
            .flatten()
            for level in zip(*encoder.fusion.widths, strict=True)
        ]
    if manifest.pooling != "concat":
        return kept
    widths = encoder.out_channels  # the second date stands behind the first
    return [torch.cat([one, one + width]) for one, width in zip(kept, widths, strict=True)]


def _cut(
    model: nn.Module, small: nn.Module, kept: list[Tensor], decoder: str
) -> Mapping[str, Tensor]:
    """The weights of decoder and head, for the smaller pyramid."""
    wanted = small.state_dict()
    whole = model.encoder.out_channels
    cut = {}
    for name, weight in model.state_dict().items():
        if name.startswith("encoder."):
            continue
        for pattern, dimension in _INPUTS.get(decoder, {}).items():
            if weight.shape != wanted[name].shape and (found := re.fullmatch(pattern, name)):
                level = int(found.groupdict().get("level", -1))
                rest = torch.arange(whole[level], weight.shape[dimension])
                weight = weight.index_select(dimension, torch.cat([kept[level], rest]))
        cut[name] = weight
    return cut


def _difference(
    model: nn.Module, small: nn.Module, manifest: ModelManifest, names: Collection[str]
) -> float:
    """Compare both on random standardised input."""
    dates = () if manifest.pooling is None else (2,)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, len(manifest.bands), *dates, _SIZE_PX, _SIZE_PX, generator=generator)
    encoder: EnsembleEncoder = inner_encoder(model)
    before = encoder.left_out
    encoder.left_out = before | {i for i, name in enumerate(encoder.names) if name not in names}
    try:
        wanted, found = model(x).output, small(x).output
    finally:
        encoder.left_out = before
    difference = float((wanted - found).abs().max())
    if not difference <= _TOLERANCE * max(1.0, float(wanted.abs().max())):
        raise EosfmError(
            f"Without the others these specialists would not give the same: outputs differ by up "
            f"to {difference:.1g}. Nothing was written.",
            hint="Fit the model again with them: eosfm fit-ensemble RECIPE --specialists …",
        )
    return difference
