"""What predicts with a fitted model: the model itself, or one that tells of disagreement too."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn

from eosfm_cli.precision import Precision
from eosfm_cli.recipe import Task
from eosfm_cli.training.decoding import Decoder, dates_as_batch
from eosfm_cli.training.model import FittedModel, inner_encoder, load_model


def build_module(path: Path, disagreement: bool, precision: Precision = "32-true") -> nn.Module:
    """Build a fitted model from its file, through TerraTorch, to predict with it.

    Args:
        path: The model's file.
        disagreement: Whether it gives `(logits, disagreement)` instead of logits alone.
        precision: What it computes in; the output is always `float32`.

    Raises:
        BundleError: The file is damaged or does not fit its own manifest.
    """
    fitted = load_model(path, precision)
    return Disagreeing(fitted).eval() if disagreement else fitted.module


class Disagreeing(nn.Module):
    """A fitted model that also tells how far its specialists differ.

    Each specialist answers alone: the others count as the fusion's neutral element, as when they
    are left out. All are encoded once; fusion, decoder and head run once more per specialist.

    Where one class is so, the disagreement of `n` specialists over `c` classes is the generalised
    Jensen–Shannon divergence of their class distributions, `H(mean p) - mean H(p)`, divided by
    `log(min(n, c))`, the most that it can be: 0 where all give the same probabilities, 1 where each
    is certain and they differ as much as they can. Where any class may be so it is the mean of this
    over the classes, each there or not. Of values it is the standard deviation of the specialists'
    answers, in the target's unit. Of a single specialist it is 0.

    Args:
        fitted: The model.
    """

    def __init__(self, fitted: FittedModel) -> None:
        super().__init__()
        model = fitted.module.model
        self.encoder, self.dtype = inner_encoder(model), fitted.module.dtype
        self.decoder = Decoder(model)
        self.task = fitted.manifest.task

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Windows → what the model gives, and `(b, h, w)`; `(b,)` of whole images."""
        x = x.to(self.dtype)
        features = self.encoder.encode(dates_as_batch(x))
        everybody = frozenset(self.encoder.names)
        together = self.decoder(x, self.encoder.combine(features))
        alone = [
            self.decoder(x, self.encoder.combine(features, without=everybody - {name}))
            for name in self.encoder.names
        ]
        return together.float(), disagreement([answer.float() for answer in alone], self.task)


def disagreement(answers: list[Tensor], task: Task) -> Tensor:
    """How far answers of specialists differ, see `Disagreeing`.

    Args:
        answers: Of each, logits `(b, classes, …)`, or values `(b, …)`.
        task: What they are.
    """
    stacked = torch.stack(answers)
    if task == "regression":
        return stacked.std(dim=0, correction=0)
    if task == "multilabel":
        there = stacked.sigmoid()
        return _divergence(torch.stack([there, 1 - there], dim=2)).mean(dim=1)
    return _divergence(stacked.softmax(dim=2))


def _divergence(shares: Tensor) -> Tensor:
    """Generalised Jensen–Shannon divergence of `(specialists, b, classes, …)` as a share of most.

    Raises no error for a single specialist or class: nothing can differ then.
    """
    most = math.log(min(shares.shape[0], shares.shape[2]))
    if most == 0:
        return torch.zeros_like(shares[0, :, 0])
    mixed = torch.special.entr(shares.mean(dim=0)).sum(dim=1)
    own = torch.special.entr(shares).sum(dim=2).mean(dim=0)
    return ((mixed - own) / most).clamp(0, 1)
