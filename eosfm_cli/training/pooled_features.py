"""Features of which a model uses no more than means over all pixels.

A classifier that takes the mean over pixels behind linear layers sees nothing of where things are.
All that it, and normalising before it, can tell of a channel of a tile is the mean and the standard
deviation over the tile's pixels. So two pixels, `mean + std` and `mean - std`, stand for all: they
have the same of both, and whatever is linear in between keeps it so.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from terratorch.models.decoders import IdentityDecoder
from terratorch.models.heads import ScalarHead
from terratorch.models.scalar_output_model import ScalarOutputModel
from torch import Tensor, nn

from eosfm_cli.ensemble.encoder import EnsembleEncoder
from eosfm_cli.ensemble.fusion import Addition, Concat, Conv1x1
from eosfm_cli.training.model import inner_encoder

if TYPE_CHECKING:
    from eosfm_cli.training.stored_features import StoredFeatures

_TOP = -1
"""The level that a classifier looks at."""


def takes_means_only(model: nn.Module) -> bool:
    """Whether a model gives the same of any features with the same means and deviations."""
    if not isinstance(model, ScalarOutputModel) or not isinstance(model.decoder, IdentityDecoder):
        return False
    if model.decoder.dim != _TOP:
        return False
    encoder: EnsembleEncoder = inner_encoder(model)
    linear = all(
        isinstance(part, nn.Sequential | nn.Identity | nn.Linear)
        for part in model.head.head.modules()
    )
    return (
        linear
        and isinstance(model.head, ScalarHead)
        and model.encoder is encoder
        and not model.aux_heads
        and not isinstance(model.neck, nn.Module)
        and not encoder.projections
        and type(encoder.fusion) in (Addition, Concat, Conv1x1)
    )


def two_pixels(level: Tensor) -> Tensor:
    """Features `(b, c, h, w)` → `(b, c, 2, 1)` of the same means and standard deviations."""
    pixels = level.double().flatten(2)
    mean, std = pixels.mean(dim=2), pixels.std(dim=2, correction=0)
    return torch.stack([mean + std, mean - std], dim=2).unsqueeze(3).to(level.dtype)


def top_of_means(encoder: EnsembleEncoder, stored: StoredFeatures) -> Tensor:
    """The coarsest level of the pyramid, `(b, c, 2, 1)`: all that such a model looks at.

    Args:
        encoder: Of the model.
        stored: Two pixels for all.
    """
    top = encoder.at_level(_TOP)
    features = [levels[_TOP:] for levels in stored.features()]
    with _counting_all(top, len(stored.rows[0]), stored.pixels[_TOP]):
        (pyramid,) = top.combine(top.refine(features))
    return pyramid


@contextmanager
def _counting_all(encoder: EnsembleEncoder, tiles: int, pixels: int) -> Iterator[None]:
    """Have batch normalisation remember variances as of all the pixels that two stand for.

    From the variance over a batch of `n` values it estimates that of all values there could be:
    `n / (n - 1)` of it. Pairs of pixels are fewer.

    Args:
        encoder: Whose normalisers, of one level, are used meanwhile.
        tiles: In the batch.
        pixels: Of the level, in a tile.
    """
    found = list(_remembering(encoder))
    before = [(norm.running_var.clone(), int(norm.num_batches_tracked)) for norm in found]
    yield
    factor = _unbiased(tiles * pixels) / _unbiased(tiles * 2)
    with torch.no_grad():
        for norm, (old, count) in zip(found, before, strict=True):
            times = int(norm.num_batches_tracked) - count
            kept = (1 - norm.momentum) ** times * old
            norm.running_var.sub_(kept).mul_(factor).add_(kept)


def _remembering(encoder: EnsembleEncoder) -> Iterator[nn.BatchNorm2d]:
    """The normalisers that keep statistics of batches."""
    for (norm,) in encoder.normalisers:
        if isinstance(norm, nn.BatchNorm2d) and norm.training:
            yield norm


def _unbiased(count: int) -> float:
    return count / max(count - 1, 1)
