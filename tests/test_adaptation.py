"""Feeding specialists: matrices that are fixed, learned or folded into the first convolution."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from eosfm_cli.ensemble.adaptation import FoldedAdapter, MatrixAdapter, folded
from eosfm_cli.ensemble.encoder import EnsembleEncoder
from eosfm_cli.ensemble.specialist import build_backbone
from eosfm_cli.manifest import EncoderInfo, SpecialistInfo

BANDS = ("blue", "green", "red", "nir", "vv")


def info(name: str, *bands: str, backbone: str = "test_convnext") -> SpecialistInfo:
    return SpecialistInfo(name=name, backbone=backbone, in_chans=len(bands), bands=bands)


INFOS = (info("rgb", "red", "green", "blue"), info("s2", "green", "nir08"))


def build(*infos: SpecialistInfo, **options: object) -> EnsembleEncoder:
    torch.manual_seed(0)
    encoder = EnsembleEncoder(infos or INFOS, BANDS, EncoderInfo(**options))
    encoder.freeze()
    return encoder


@pytest.fixture
def image() -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(2, len(BANDS), 64, 96)


def test_a_learned_matrix_starts_from_the_rule(image: torch.Tensor) -> None:
    fixed, learned = build().eval(), build(adapt="learned").eval()
    for level, expected in zip(learned(image), fixed(image), strict=True):
        torch.testing.assert_close(level, expected)


def test_a_learned_matrix_trains_though_its_specialist_is_frozen(image: torch.Tensor) -> None:
    encoder = build(adapt="learned", normalize="none").train()
    before = [adapter.matrix.detach().clone() for adapter in encoder.adapters]
    optimiser = torch.optim.SGD((p for p in encoder.parameters() if p.requires_grad), lr=0.1)
    sum(level.square().mean() for level in encoder(image)).backward()
    optimiser.step()
    assert all(p.grad is None for p in encoder.backbones.parameters())
    for adapter, old in zip(encoder.adapters, before, strict=True):
        assert not torch.equal(adapter.matrix, old)
    views = encoder.describe().views
    assert [view.name for view in views["rgb"]] == ["by name, learned", "false colour, learned"]
    assert views["s2"][0].matrix[0] == pytest.approx(encoder.adapters[2].matrix[0].tolist())


@pytest.mark.parametrize("adapt", ["rule", "learned"])
@pytest.mark.parametrize("backbone", ["test_convnext", "resnet18", "test_efficientnet"])
def test_folding_changes_nothing(adapt: str, backbone: str, image: torch.Tensor) -> None:
    infos = [
        info("rgb", "red", "green", "blue", backbone=backbone),
        info("s1", "vv", "vh", backbone=backbone),
    ]
    encoder = build(*infos, adapt=adapt).eval()
    if adapt == "learned":
        with torch.no_grad():
            for adapter in encoder.adapters:
                adapter.matrix.add_(0.1 * torch.randn_like(adapter.matrix))
    image[:, :, :20] = 0  # where there is no data
    expected = encoder(image)
    saved = {name: tensor.clone() for name, tensor in encoder.backbones.state_dict().items()}
    encoder.fold()
    assert all(isinstance(adapter, FoldedAdapter) for adapter in encoder.adapters)
    for level, want in zip(encoder(image), expected, strict=True):
        torch.testing.assert_close(level, want, rtol=1e-4, atol=1e-5)
    for name, tensor in encoder.backbones.state_dict().items():
        torch.testing.assert_close(tensor, saved[name])


def test_bands_as_they_are_need_no_folding(image: torch.Tensor) -> None:
    encoder = build(info("all", *BANDS), normalize="none").eval()
    encoder.fold()
    assert isinstance(encoder.adapters[0], MatrixAdapter)
    for level, want in zip(encoder(image), encoder.backbones[0](image), strict=True):
        torch.testing.assert_close(level, want)


class Standardised(nn.Conv2d):
    """A convolution whose weight is standardised each time: a matrix does not fold into it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.weight - self.weight.mean(dim=(1, 2, 3), keepdim=True)
        return self._conv_forward(x, weight / weight.std(dim=(1, 2, 3), keepdim=True), self.bias)


def test_what_does_not_fold_exactly_stays_as_it_is() -> None:
    torch.manual_seed(0)
    adapter = MatrixAdapter(torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]]))
    assert folded(adapter, nn.Sequential(Standardised(2, 4, 3))) is adapter
    assert folded(adapter, nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(2, 4, 1))) is adapter
    assert folded(adapter, build_backbone("test_convnext", 2).eval()) is not adapter
