"""Keys under which features are stored: whatever changes the features changes the key."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from weakref import WeakKeyDictionary

import timm
import torch
from torch import Tensor, nn

from eosfm_cli.data.datamodule import TileDataModule
from eosfm_cli.data.splits import SplitName
from eosfm_cli.ensemble.encoder import EnsembleEncoder

_FORMAT = 1
"""Of what is written; another one makes other keys."""


def view_keys(encoder: EnsembleEncoder, precision: str, *, pooled: bool = False) -> list[str]:
    """A key for every view: the specialist's weights, and what it makes of the bands.

    Args:
        encoder: With its specialists' weights, its views not folded into them.
        precision: That of the training in which the features are computed.
        pooled: Whether two pixels of each level stand for all.
    """
    weights = [_weights(backbone) for backbone in encoder.backbones]
    return [
        _digest(
            (_FORMAT, torch.__version__, timm.__version__, precision, pooled),
            (encoder.specialists[slot.specialist].backbone, weights[slot.specialist]),
            slot.view.matrix,
        )
        for slot in encoder.slots
    ]


def tiles_key(data: TileDataModule, split: SplitName) -> str:
    """A key for the pixels of all tiles of a split."""
    return _digest(*data.dataset(split).facts())


def joined(*keys: str) -> str:
    """One key of several."""
    return _digest(*keys)


def _digest(*facts: object) -> str:
    digest = hashlib.sha256()
    for fact in facts:
        digest.update(repr(fact).encode())
        digest.update(b"\n")
    return digest.hexdigest()


def _weights(backbone: nn.Module) -> str:
    """A key for the weights, which are read once while they stay as they are."""
    tensors = backbone.state_dict().values()
    if any(tensor.is_inference() for tensor in tensors):  # nobody tells whether they have changed
        return _hash(backbone)
    version = sum(tensor._version for tensor in tensors)
    known = _known.get(backbone)
    if known is None or known[0] != version:
        known = _known[backbone] = version, _hash(backbone)
    return known[1]


_known: WeakKeyDictionary[nn.Module, tuple[int, str]] = WeakKeyDictionary()


def _hash(backbone: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in _sorted(backbone.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        values = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(memoryview(values.numpy()))
    return digest.hexdigest()


def _sorted(items: Iterable[tuple[str, Tensor]]) -> list[tuple[str, Tensor]]:
    return sorted(items, key=lambda item: item[0])
