"""How one view of the bands at hand becomes a specialist's input.

An adapter runs its specialist on `(b, available, h, w)`. All but a user's own code are matrices
over the bands, so that they fold into the specialist's first convolution.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call

from eosfm_cli.bands import View
from eosfm_cli.ensemble.strategies import BandAdaptationStrategy, find_strategy
from eosfm_cli.recipe import Adapt


class MatrixAdapter(nn.Module):
    """A fixed matrix `(required, available)`."""

    learns = False

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        # Not persistent: the manifest says the views, and rules need no weights.
        self.register_buffer("matrix", matrix, persistent=False)
        rows, columns = matrix.shape
        self.as_is = rows == columns and bool((matrix == torch.eye(rows)).all())

    def forward(self, backbone: nn.Module, x: Tensor) -> list[Tensor]:
        """The specialist's levels."""
        return backbone(x if self.as_is else mixed(self.matrix, x))


class LearnedAdapter(nn.Module):
    """The same matrix as a parameter, which starts from the rule."""

    learns = True
    as_is = False

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.matrix = nn.Parameter(matrix)

    def forward(self, backbone: nn.Module, x: Tensor) -> list[Tensor]:
        """The specialist's levels."""
        return backbone(mixed(self.matrix, x))


class StrategyAdapter(nn.Module):
    """A user's own code, on the bands that the matrix picks for it."""

    learns = False

    def __init__(self, matrix: Tensor, strategy: BandAdaptationStrategy) -> None:
        super().__init__()
        self.register_buffer("matrix", matrix, persistent=False)
        self.strategy = strategy

    def forward(self, backbone: nn.Module, x: Tensor) -> list[Tensor]:
        """The specialist's levels; a user's code need know of no other format than 32 bits."""
        return backbone(self.strategy.adapt(mixed(self.matrix, x).float()).to(x.dtype))


class FoldedAdapter(nn.Module):
    """A matrix that has gone into the first convolution: adapting costs nothing."""

    learns = False

    def __init__(self, parameter: str, weight: Tensor) -> None:
        """Run a specialist with `weight`, `(out, available, h, w)`, in the place of `parameter`."""
        super().__init__()
        self.parameter = parameter
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, backbone: nn.Module, x: Tensor) -> list[Tensor]:
        """The specialist's levels."""
        return functional_call(backbone, {self.parameter: self.weight}, (x,))


Adapter = MatrixAdapter | LearnedAdapter | StrategyAdapter | FoldedAdapter


def build_adapter(view: View, adapt: Adapt) -> Adapter:
    """What makes a specialist's input of the bands at hand.

    Raises:
        BundleError: The view needs a user's code that is not loaded.
    """
    matrix = torch.tensor(view.matrix)
    if view.strategy is not None:
        return StrategyAdapter(matrix, find_strategy(view.strategy, view.plugin))
    return LearnedAdapter(matrix) if adapt == "learned" else MatrixAdapter(matrix)


def mixed(matrix: Tensor, x: Tensor) -> Tensor:
    """Mix bands: `(required, available)` on `(b, available, h, w)`."""
    return torch.einsum("ra,bahw->brhw", matrix.to(x.dtype), x)


@torch.no_grad()
def folded(adapter: Adapter, backbone: nn.Module) -> Adapter:
    """An adapter with its matrix in the backbone's first convolution, if that gives the same.

    The backbone is left as it is: another view may need it. It has to be in evaluation mode.
    """
    if isinstance(adapter, StrategyAdapter | FoldedAdapter) or adapter.as_is:
        return adapter
    required, available = adapter.matrix.shape
    for name, module in backbone.named_modules():
        if isinstance(module, nn.Conv2d) and module.in_channels == required and module.groups == 1:
            weight = torch.einsum("orhw,ra->oahw", module.weight, adapter.matrix)
            fixed = FoldedAdapter(f"{name}.weight", weight)
            return fixed if _agree(adapter, fixed, backbone, available) else adapter
    return adapter


def _agree(one: Adapter, other: Adapter, backbone: nn.Module, available: int) -> bool:
    """Whether two adapters give the same; a convolution may do more than convolve."""
    like = next(backbone.parameters())
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, available, 64, 64, generator=generator, device="cpu").to(like)
    try:
        levels = zip(one(backbone, x), other(backbone, x), strict=True)
        return all(torch.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in levels)
    except RuntimeError:  # the first convolution found is not the one that sees the image
        return False
