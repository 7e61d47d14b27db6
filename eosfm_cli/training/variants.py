"""A model with only some of its specialists: what it gives, for many sets of them at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from eosfm_cli.coalitions import Coalition
from eosfm_cli.ensemble.encoder import EnsembleEncoder, Features
from eosfm_cli.training.decoding import Decoder
from eosfm_cli.training.model import inner_encoder

_PIXELS = {"cpu": 2**18, "cuda": 2**23}
"""Of images that are decoded at a time; more leave a processor's caches, or fill the memory."""


class Part(NamedTuple):
    """What the model gives of some tiles of a batch, with some sets of its specialists."""

    coalitions: range
    tiles: range
    output: Tensor
    """`(coalitions, tiles, …)`"""


class Variants:
    """Fusion, decoder and head of a model, with sets of its specialists.

    Where the fusion is a sum, what each specialist adds is computed once; a matrix of zeros and
    ones then gives the sums of all sets, without subtracting anything. Other fusions run once per
    set.

    Args:
        model: As TerraTorch builds it, in evaluation mode. The weights of its decoder and head are
            laid out anew, channels last, where convolutions are faster.
        coalitions: The sets; those not in one count as the fusion's neutral element.
    """

    def __init__(self, model: nn.Module, coalitions: Sequence[Coalition]) -> None:
        self._encoder: EnsembleEncoder = inner_encoder(model)
        self._decode = Decoder(model).to(memory_format=torch.channels_last)
        self._coalitions = tuple(coalitions)
        device = next(model.parameters()).device
        self._most_pixels = _PIXELS.get(device.type, 2**18)
        self._members = torch.tensor(
            [[float(name in one) for name in self._encoder.names] for one in coalitions],
            device=device,
        )

    def outputs(self, images: Tensor, features: Features) -> Iterator[Part]:
        """Decode a batch with every set, part by part: memory does not grow with their number.

        Args:
            images: `(b, c, [dates,] h, w)`; only their shape counts.
            features: What `EnsembleEncoder.encode` gives of their dates, one after the other.
        """
        like, dates = images[:1, :1], images.shape[2] if images.ndim == 5 else 1
        most = max(1, self._most_pixels // like.numel())
        for tiles in _split(len(images), self._tiles_at_a_time(most)):
            chosen = _chosen(features, range(tiles.start * dates, tiles.stop * dates))
            terms = self._encoder.contributions(chosen)
            for sets in _split(len(self._coalitions), max(1, most // len(tiles))):
                pyramid = self._fused(chosen, sets) if terms is None else self._summed(terms, sets)
                stand_in = like.expand(len(sets) * len(tiles), *like.shape[1:])
                output = self._decode(stand_in, pyramid)
                yield Part(sets, tiles, output.unflatten(0, (len(sets), len(tiles))))

    def _tiles_at_a_time(self, most: int) -> int:
        """Few, with all the sets that their terms serve; where nothing is shared, many of a set."""
        return max(1, most // len(self._coalitions)) if self._encoder.fusion.additive else most

    def _summed(self, terms: Features, sets: range) -> list[Tensor]:
        """The pyramids `(sets · images, c, h, w)` of sums."""
        there = [i for i, levels in enumerate(terms) if levels is not None]
        members = self._members[sets.start : sets.stop, there]
        sums = [
            torch.tensordot(members, torch.stack([level.movedim(1, -1) for level in levels]), 1)
            for levels in zip(*(terms[i] for i in there), strict=True)
        ]
        return self._encoder.complete([level.flatten(0, 1).movedim(-1, 1) for level in sums])

    def _fused(self, features: Features, sets: range) -> list[Tensor]:
        """The same of any fusion."""
        everybody = set(self._encoder.names)
        found = [
            self._encoder.combine(features, without=everybody - self._coalitions[i]) for i in sets
        ]
        return [torch.cat(level) for level in zip(*found, strict=True)]


def _chosen(features: Features, images: range) -> Features:
    """The features of some of the images."""
    some = slice(images.start, images.stop)
    return [levels and [level[some] for level in levels] for levels in features]


def _split(count: int, most: int) -> Iterator[range]:
    """Ranges of about the same length, none of which is longer than `most`."""
    parts = -(-count // most)
    for part in range(parts):
        yield range(count * part // parts, count * (part + 1) // parts)
