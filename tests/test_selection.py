"""Selection finds the specialists that carry the signal."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eosfm_cli.ensemble.encoder import EosFM
from eosfm_cli.ensemble.selection import GATE_LR, OpenGates
from eosfm_cli.manifest import SpecialistInfo

BANDS = ("coastal", "blue", "green", "red", "nir", "vv")
PLANTED = ("red", "vv")


class Toy(nn.Module):
    """An ensemble of one specialist per band and a small decoder."""

    def __init__(self, fusion: str) -> None:
        super().__init__()
        infos = [
            SpecialistInfo(name=band, backbone="test_convnext", in_chans=1, bands=(band,))
            for band in BANDS
        ]
        self.encoder = EosFM(infos, BANDS, fusion=fusion, gated=True)
        self.encoder.freeze()
        self.laterals = nn.ModuleList(nn.Conv2d(c, 16, 1) for c in self.encoder.out_channels)
        self.head = nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        levels = zip(self.laterals, self.encoder(x), strict=True)
        summed = sum(F.interpolate(conv(level), size=4, mode="area") for conv, level in levels)
        return self.head(F.relu(summed))


def batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images whose labels only the planted bands tell."""
    coarse = torch.randn(8, len(BANDS), 4, 4, generator=generator)
    first, second = (coarse[:, BANDS.index(band)] > 0 for band in PLANTED)
    return F.interpolate(coarse, scale_factor=8.0), first.long() * 2 + second.long()


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("fusion", ["concat", "conv1x1"])
def test_a_search_finds_exactly_the_planted_specialists(fusion: str, seed: int) -> None:
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = Toy(fusion).train()
    gates: OpenGates = model.encoder.gates
    others = [p for n, p in model.named_parameters() if p.requires_grad and "gates" not in n]
    optimiser = torch.optim.AdamW(
        [{"params": others}, {"params": gates.parameters(), "lr": GATE_LR}], lr=1e-3
    )
    for _ in range(40):
        x, y = batch(generator)
        loss = F.cross_entropy(model(x), y) + 0.05 * gates.penalty()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    ranking = gates.ranking()
    assert set(list(ranking)[:2]) == set(PLANTED)
    assert min(ranking[name] for name in PLANTED) > 2 * sorted(ranking.values())[-3]


def test_gates_start_equal_and_rank_by_score() -> None:
    gates = OpenGates(["a", "b"])
    assert gates.ranking() == {"a": 0.5, "b": 0.5}
    with torch.no_grad():
        gates.scores[1] = 1.0
    assert list(gates.ranking()) == ["b", "a"]
