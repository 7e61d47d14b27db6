"""Which specialists matter: gates that are open while they learn.

The published top-k gives its scores no gradient. Here a search trains one sigmoid gate per
specialist with an L1 term, everything open; then the best k stay, exactly, and train on.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

GATE_LR = 0.05
"""Gates move on another scale than weights: a search has few steps to open or close them."""


class OpenGates(nn.Module):
    """One learned gate in (0, 1) per specialist; a specialist's views share it."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = tuple(names)
        self.scores = nn.Parameter(torch.zeros(len(names)))

    def forward(self) -> Tensor:
        """The gates, `(specialists,)`."""
        return torch.sigmoid(self.scores)

    def penalty(self) -> Tensor:
        """The mean gate: its gradient closes gates that the task does not hold open."""
        return self().mean()

    def ranking(self) -> dict[str, float]:
        """Gate of each specialist, best first."""
        gates = self().detach().tolist()
        return dict(sorted(zip(self.names, gates, strict=True), key=lambda item: -item[1]))


class NoGates(nn.Module):
    """Every specialist counts in full."""

    def forward(self) -> None:
        """There are no gates."""
