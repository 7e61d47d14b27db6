"""A model's decoder and head, fed with pyramids instead of images."""

from __future__ import annotations

import copy

from terratorch.models.model import ModelOutput
from torch import Tensor, nn

from eosfm_cli.ensemble.encoder import EnsembleEncoder
from eosfm_cli.training.model import inner_encoder
from eosfm_cli.training.pooled_features import top_of_means
from eosfm_cli.training.stored_features import StoredFeatures


class Decoder(nn.Module):
    """Decoder and head of a model, whose weights it shares.

    What joins the features of two dates belongs to it.

    Args:
        model: As TerraTorch builds it, around an ensemble encoder.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.replay = _Replay()
        self.model = _with_inner(model, self.replay)

    def forward(self, x: Tensor, pyramid: list[Tensor]) -> Tensor:
        """Logits of a pyramid of single dates; `x` gives the size that they have."""
        return self.decode(x, pyramid).output

    def decode(self, x: Tensor, pyramid: list[Tensor]) -> ModelOutput:
        """The same as TerraTorch's models give it."""
        self.replay.pyramid = pyramid
        try:
            return self.model(x)
        finally:
            self.replay.pyramid = []


def decode_stored(model: nn.Module, stored: StoredFeatures) -> ModelOutput:
    """What a model gives of a batch of images whose features were stored.

    Args:
        model: As TerraTorch builds it, around an ensemble encoder.
        stored: What stands for the images.
    """
    encoder: EnsembleEncoder = inner_encoder(model)
    if stored.pixels is None:
        pyramid = encoder.combine(encoder.refine(stored.features()))
    else:
        pyramid = [top_of_means(encoder, stored)]
    return Decoder(model).decode(stored.like, pyramid)


def dates_as_batch(x: Tensor) -> Tensor:
    """Two dates `(b, c, t, h, w)` one after the other, `(b·t, c, h, w)`; one date as it is."""
    return x if x.ndim == 4 else x.transpose(1, 2).flatten(0, 1)


class _Replay(nn.Module):
    """Hands a ready pyramid to the decoder, in the encoder's place."""

    def __init__(self) -> None:
        super().__init__()
        self.pyramid: list[Tensor] = []

    def forward(self, x: Tensor, **_: object) -> list[Tensor]:
        return self.pyramid


def _with_inner(model: nn.Module, encoder: nn.Module) -> nn.Module:
    """The model with another encoder of a single date; all else is shared."""
    if inner_encoder(model) is not model.encoder:
        encoder = _with(model.encoder, encoder)
    return _with(model, encoder)


def _with(module: nn.Module, encoder: nn.Module) -> nn.Module:
    changed = copy.copy(module)
    changed._modules = {**module._modules, "encoder": encoder}
    return changed
