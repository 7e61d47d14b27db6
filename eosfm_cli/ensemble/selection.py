"""Which specialists matter: weights on their features that learn it.

The published top-k gives its scores no gradient. Here everything is open while scores learn, and
then the best k stay, exactly. `OpenGates` serve a search that a fit of the k best follows;
`SmoothGates` stay and close on their own; `TopK` searches and settles within one training that
nobody steers.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from eosfm_cli.manifest import Gates

GATE_LR = 0.05
"""Gates move on another scale than weights: a search has few steps to open or close them."""


class Gating(NamedTuple):
    """How features enter the fusion: `weight · features + rest · neutral element`."""

    weight: Tensor
    """`(specialists,)`"""
    rest: Tensor | None = None
    """`(specialists,)`; how far the neutral element stands in. Zero if not given."""


class NoGates(nn.Module):
    """Every specialist counts in full."""

    kind: Gates = "none"

    def forward(self) -> None:
        """There are no gates."""

    def running(self) -> None:
        """Every specialist is computed."""

    def keep(self, chosen: Sequence[int]) -> tuple[nn.Module, list[float]]:
        """What stands before a fusion of only these, and what to fold into its weights."""
        return NoGates(), [1.0] * len(chosen)


class Weights(nn.Module):
    """One learned factor of any size per specialist, on all of its views."""

    kind: Gates = "weights"

    def __init__(self, scores: Tensor) -> None:
        """Start from `scores`, `(specialists,)`."""
        super().__init__()
        self.scores = nn.Parameter(scores.detach().clone())

    def forward(self) -> Gating:
        """The factors."""
        return Gating(self.scores)

    def running(self) -> None:
        """Every specialist is computed."""

    def keep(self, chosen: Sequence[int]) -> tuple[nn.Module, list[float]]:
        """The same factors for only these; nothing to fold."""
        return Weights(self.scores[list(chosen)]), [1.0] * len(chosen)


class OpenGates(nn.Module):
    """One learned gate in (0, 1) per specialist, to find out whom to keep.

    A closing gate puts the fusion's neutral element in the place of the features.

    Attributes:
        sparsity: Weight of the penalty in the gradient, for trainings whose loss does not know it.
    """

    kind: Gates = "search"
    sparsity: float = 0.0

    def __init__(
        self, names: Sequence[str], *, weigh: bool = False, barred: Collection[int] = ()
    ) -> None:
        """Build with all gates half open.

        Args:
            names: Of the specialists.
            weigh: Those kept go on being weighted by what their gates were.
            barred: Positions of those that do not take part whatever their gates say.
        """
        super().__init__()
        self.names, self.weigh = tuple(names), weigh
        self.taking_part = [i for i in range(len(names)) if i not in barred]
        self.scores = nn.Parameter(torch.zeros(len(names)))

    def forward(self) -> Gating:
        """The gates, and what they leave to the neutral element."""
        gates = self._openness(self._learning_scores())
        return Gating(gates, 1 - gates)

    def running(self) -> frozenset[int] | None:
        """Which specialists are computed; `None` for all."""
        return None

    def penalty(self) -> Tensor:
        """The mean gate: its gradient closes gates that the task does not hold open."""
        return self._openness(self.scores)[self.taking_part].mean()

    def ranking(self) -> dict[str, float]:
        """How far each specialist's gate is open, best first."""
        gates = self._openness(self.scores).detach().tolist()
        best_first = sorted(self.taking_part, key=lambda i: -gates[i])
        return {self.names[i]: gates[i] for i in best_first}

    def keep(self, chosen: Sequence[int]) -> tuple[nn.Module, list[float]]:
        """Gates that go and are folded into the fusion, or weights that go on learning."""
        gates = self._openness(self.scores).detach()[list(chosen)]
        if self.weigh:
            return Weights(gates), [1.0] * len(chosen)
        return NoGates(), gates.tolist()

    def _openness(self, scores: Tensor) -> Tensor:
        return torch.sigmoid(scores)

    def _learning_scores(self) -> Tensor:
        if not (self.training and self.sparsity):
            return self.scores
        return _WithPenalty.apply(self.scores, self.sparsity * self.penalty())


class SmoothGates(OpenGates):
    """Gates that stay for good, and a penalty that drives the number of open ones to k."""

    def __init__(
        self,
        names: Sequence[str],
        top_k: int,
        *,
        weigh: bool = False,
        barred: Collection[int] = (),
        as_published: bool = False,
    ) -> None:
        """Build with all gates half open, or weights of one.

        Args:
            names: Of the specialists.
            top_k: How many to keep open.
            weigh: Multiply features by the scores themselves instead of gates made of them.
            barred: Positions of those that do not take part whatever their gates say.
            as_published: Start from scores of one, and do no more than multiply: under
                multiplication a closing gate then takes everything along.
        """
        super().__init__(names, weigh=weigh, barred=barred)
        self.as_published = as_published
        self.top_k = min(top_k, len(self.taking_part))
        self.kind = "weights" if weigh else "smooth"
        if weigh or as_published:
            nn.init.ones_(self.scores)

    def forward(self) -> Gating:
        """The gates and what they leave to the neutral element, or the weights."""
        if self.weigh:
            return Gating(self._learning_scores())
        gating = super().forward()
        return Gating(gating.weight) if self.as_published else gating

    def penalty(self) -> Tensor:
        """How far the number of open gates is from k, and how undecided the gates are."""
        gates = self._openness(self.scores)[self.taking_part]
        surplus = (gates.sum() - self.top_k).abs() / len(gates)
        return surplus + (gates * (1 - gates)).mean()

    def keep(self, chosen: Sequence[int]) -> tuple[nn.Module, list[float]]:
        """The same gates for only these; nothing to fold."""
        kept = SmoothGates(
            [self.names[i] for i in chosen],
            self.top_k,
            weigh=self.weigh,
            as_published=self.as_published,
        )
        with torch.no_grad():
            kept.scores.copy_(self.scores[list(chosen)])
        return kept, [1.0] * len(chosen)

    def _openness(self, scores: Tensor) -> Tensor:
        return torch.tanh(scores.abs()) if self.weigh else torch.sigmoid(scores)


class TopK(OpenGates):
    """Gates that are open at first and close to exactly k over the first training steps.

    In evaluation the best k count in full, or by their scores with `weigh`, and the others are not
    computed. In training that comes about step by step, with a gradient for every score; then the
    choice is final and the others are not computed any more.
    """

    def __init__(
        self,
        names: Sequence[str],
        top_k: int,
        *,
        weigh: bool = False,
        barred: Collection[int] = (),
        search_steps: int = 500,
    ) -> None:
        """Build with equal scores.

        Args:
            names: Of the specialists.
            top_k: How many to keep.
            weigh: Multiply the features of those kept by their scores.
            barred: Positions of those that do not take part whatever their gates say.
            search_steps: Training steps until the choice is final.
        """
        super().__init__(names, weigh=weigh, barred=barred)
        self.top_k, self.search_steps = top_k, search_steps
        nn.init.ones_(self.scores)
        self.register_buffer("steps", torch.tensor(0))
        self.register_buffer("final", torch.zeros(len(names)))

    def forward(self) -> Gating:
        """The gates; they close on their way through training."""
        scores, gates = self._learning_scores(), self._hard()
        if self.training and not self._settled:
            soft, progress = self._openness(scores), int(self.steps) / self.search_steps
            gates = soft + progress * (gates - soft).detach()  # the gradient stays that of `soft`
            self._step()
        return Gating(gates * scores if self.weigh else gates, 1 - gates)

    def running(self) -> frozenset[int] | None:
        """All while the search is on, then the best k."""
        if self.training and not self._settled:
            return None
        return frozenset(self._hard().nonzero().flatten().tolist())

    def settle(self) -> None:
        """Take the choice as it is for final."""
        self.final.copy_(self._hard())
        self.steps.fill_(self.search_steps)

    def keep(self, chosen: Sequence[int]) -> tuple[nn.Module, list[float]]:
        """The chosen ones in full, or weighted by their scores; nothing to fold."""
        kept = Weights(self.scores[list(chosen)]) if self.weigh else NoGates()
        return kept, [1.0] * len(chosen)

    @property
    def _settled(self) -> bool:
        return int(self.steps) >= self.search_steps

    def _hard(self) -> Tensor:
        if self._settled:
            return self.final
        mine = torch.tensor(self.taking_part, device=self.scores.device)
        order = self.scores.detach()[mine].argsort(descending=True, stable=True)
        return torch.zeros_like(self.final).index_fill(0, mine[order[: self.top_k]], 1.0)

    def _step(self) -> None:
        if int(self.steps) + 1 == self.search_steps:
            self.settle()
        else:
            self.steps += 1


class PublishedGates(nn.Module):
    """The published selector, for comparing with it.

    It chooses among all specialists of the file, also those that cannot run, multiplies by zero
    what it does not choose, and its choice gets no gradient.
    """

    def __init__(
        self, total: int, taking_part: Sequence[int], top_k: int, mode: str, *, weigh: bool
    ) -> None:
        """Build with equal scores.

        Args:
            total: Specialists in the file.
            taking_part: Which of them can run.
            top_k: How many to choose.
            mode: `topk` or `smooth`.
            weigh: Multiply by the scores themselves.
        """
        super().__init__()
        self.taking_part, self.top_k, self.mode = list(taking_part), min(top_k, total), mode
        self.weigh = weigh
        self.scores = nn.Parameter(torch.ones(total))

    def forward(self) -> Gating:
        """The factors of those that take part."""
        factors = self.scores if self.weigh else torch.sigmoid(self.scores)
        if self.mode == "topk":
            chosen = torch.zeros_like(self.scores)
            chosen[self.scores.topk(self.top_k).indices] = 1
            factors = chosen * self.scores if self.weigh else chosen
        return Gating(factors[self.taking_part])

    def running(self) -> None:
        """Every specialist is computed."""


class _WithPenalty(torch.autograd.Function):
    """Passes scores on; on the way back adds a penalty's gradient, as if the loss contained it."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, penalty: Tensor) -> Tensor:  # noqa: ANN401 - torch's
        return scores.view_as(scores)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ANN401 - torch's
        return gradient, gradient.new_ones(())


def build_gates(
    kind: Gates, names: Sequence[str], top_k: int | None, *, weigh: bool = False
) -> nn.Module:
    """What stands before the fusion of these specialists."""
    if kind == "search":
        return OpenGates(names, weigh=weigh)
    if kind == "smooth":
        return SmoothGates(names, top_k or len(names), weigh=weigh)
    if kind == "weights":
        return Weights(torch.ones(len(names)))
    return NoGates()
