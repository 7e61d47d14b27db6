"""Selection finds the specialists that carry the signal, and how gates count."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eosfm_cli.ensemble.encoder import EnsembleEncoder
from eosfm_cli.ensemble.selection import (
    GATE_LR,
    NoGates,
    OpenGates,
    PublishedGates,
    SmoothGates,
    TopK,
    Weights,
)
from eosfm_cli.manifest import EncoderInfo, SpecialistInfo

BANDS = ("coastal", "blue", "green", "red", "nir", "vv")
PLANTED = ("red", "vv")
STEPS = 40


class Toy(nn.Module):
    """An ensemble of one specialist per band and a small decoder."""

    def __init__(self, fusion: str, gates: OpenGates) -> None:
        super().__init__()
        infos = [
            SpecialistInfo(name=band, backbone="test_convnext", in_chans=1, bands=(band,))
            for band in BANDS
        ]
        self.encoder = EnsembleEncoder(infos, BANDS, EncoderInfo(fusion=fusion))
        self.encoder.gates = gates
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


def gates_of(kind: str) -> OpenGates:
    if kind == "smooth":
        return SmoothGates(BANDS, 2)
    if kind == "smooth weights":
        return SmoothGates(BANDS, 2, weigh=True)
    if kind == "top-k":
        gates = TopK(BANDS, 2, search_steps=STEPS)
        gates.sparsity = 0.05
        return gates
    return OpenGates(BANDS)


@pytest.mark.parametrize(
    ("kind", "fusion", "seed"),
    [
        ("search", "concat", 0),
        ("search", "conv1x1", 1),
        ("smooth", "concat", 0),
        ("smooth", "conv1x1", 1),
        ("top-k", "concat", 0),
        pytest.param("search", "concat", 2, marks=pytest.mark.slow),
        pytest.param("search", "multiplication", 0, marks=pytest.mark.slow),
        pytest.param("smooth", "concat", 2, marks=pytest.mark.slow),
        pytest.param("smooth weights", "concat", 0, marks=pytest.mark.slow),
        pytest.param("top-k", "conv1x1", 1, marks=pytest.mark.slow),
    ],
)
def test_exactly_the_planted_specialists_are_found(kind: str, fusion: str, seed: int) -> None:
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    gates = gates_of(kind)
    model = Toy(fusion, gates).train()
    others = [p for n, p in model.named_parameters() if p.requires_grad and "gates" not in n]
    optimiser = torch.optim.AdamW(
        [{"params": others}, {"params": gates.parameters(), "lr": GATE_LR}], lr=1e-3
    )
    for _ in range(STEPS):
        x, y = batch(generator)
        loss = F.cross_entropy(model(x), y) + 0.05 * (kind != "top-k") * gates.penalty()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    ranking = gates.ranking()
    assert set(list(ranking)[:2]) == set(PLANTED)
    assert min(ranking[name] for name in PLANTED) > 2 * sorted(ranking.values())[-3]
    if kind.startswith("smooth"):
        assert sum(gate > 0.5 for gate in ranking.values()) == gates.top_k
    if kind == "top-k":
        assert gates.running() == {BANDS.index(name) for name in PLANTED}


@pytest.mark.parametrize("weigh", [False, True])
@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_the_penalty_alone_opens_k_smooth_gates(top_k: int, weigh: bool) -> None:
    torch.manual_seed(0)
    gates = SmoothGates("abcde", top_k, weigh=weigh)
    with torch.no_grad():
        gates.scores.add_(0.1 * torch.randn(5))
    optimiser = torch.optim.Adam(gates.parameters(), lr=GATE_LR)
    for _ in range(400):
        optimiser.zero_grad()
        gates.penalty().backward()
        optimiser.step()
    openness = list(gates.ranking().values())
    assert min(openness[:top_k]) > 0.8
    assert max(openness[top_k:]) < 0.2


def test_gates_start_equal_and_rank_by_score() -> None:
    gates = OpenGates(["a", "b"])
    assert gates.ranking() == {"a": 0.5, "b": 0.5}
    with torch.no_grad():
        gates.scores[1] = 1.0
    assert list(gates.ranking()) == ["b", "a"]


def test_a_closed_gate_makes_way_for_the_neutral_element() -> None:
    gates = OpenGates(["a", "b"])
    with torch.no_grad():
        gates.scores.copy_(torch.tensor([50.0, -50.0]))
    weight, rest = gates()
    torch.testing.assert_close(weight, torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(rest, torch.tensor([0.0, 1.0]))


def test_what_gates_leave_when_some_are_kept() -> None:
    smooth = SmoothGates("abc", 2)
    with torch.no_grad():
        smooth.scores.copy_(torch.tensor([1.0, 2.0, 3.0]))
    kept, factors = smooth.keep([0, 2])
    assert (kept.kind, kept.names, kept.top_k, factors) == ("smooth", ("a", "c"), 2, [1.0, 1.0])
    assert kept.scores.tolist() == [1.0, 3.0]
    weights, _ = Weights(torch.tensor([1.0, 2.0, 3.0])).keep([2])
    assert weights().weight.tolist() == [3.0]
    assert isinstance(NoGates().keep([0])[0], NoGates)
    assert isinstance(TopK("abc", 1).keep([0])[0], NoGates)
    assert TopK("abc", 1, weigh=True).keep([0])[0]().weight.tolist() == [1.0]


def test_top_k_closes_step_by_step_and_stays() -> None:
    gates = TopK("abc", 1, search_steps=4).train()
    with torch.no_grad():
        gates.scores.copy_(torch.tensor([0.0, 1.0, -1.0]))
    seen = [gates().weight.tolist() for _ in range(6)]
    assert seen[0] == pytest.approx([0.5, 0.731, 0.269], abs=1e-3)
    assert seen[2] == pytest.approx([0.25, 0.866, 0.134], abs=1e-3)
    assert seen[4] == seen[5] == [0.0, 1.0, 0.0]
    with torch.no_grad():
        gates.scores[0] = 9.0
    assert gates.running() == {1}
    copy = TopK("abc", 1, search_steps=4)
    copy.load_state_dict(gates.state_dict())
    assert copy.running() == {1}


def test_top_k_passes_over_those_that_are_barred() -> None:
    gates = TopK("abc", 2, barred=[0]).eval()
    assert gates.running() == {1, 2}
    assert list(gates.ranking()) == ["b", "c"]


def test_a_penalty_in_the_gradient_equals_one_in_the_loss() -> None:
    gates = SmoothGates("abc", 1)
    with torch.no_grad():
        gates.scores.copy_(torch.tensor([0.3, -0.2, 1.0]))

    def gradient(loss: Tensor) -> Tensor:
        gates.scores.grad = None
        loss.backward()
        return gates.scores.grad

    expected = gradient(gates().weight.square().sum() + 0.3 * gates.penalty())
    gates.sparsity = 0.3
    torch.testing.assert_close(gradient(gates().weight.square().sum()), expected)
    gates.eval()
    assert not torch.equal(gradient(gates().weight.square().sum()), expected)


def test_the_published_choice_gets_no_gradient() -> None:
    gates = PublishedGates(3, [0, 2], 1, "topk", weigh=False)
    assert gates().weight.tolist() == [1.0, 0.0]
    assert not gates().weight.requires_grad
