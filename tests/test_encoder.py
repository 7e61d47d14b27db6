"""The ensemble encoder: views, fusion, leaving out, keeping, freezing."""

from __future__ import annotations

import pytest
import torch

from eosfm_cli.ensemble.encoder import EosFM, choose_specialists
from eosfm_cli.ensemble.specialist import Specialist, build_backbone, parameter_count
from eosfm_cli.errors import BandError, BundleError, UsageError
from eosfm_cli.manifest import SpecialistInfo

BANDS = ("blue", "green", "red", "nir", "vv", "vh")
FUSIONS = ("concat", "conv1x1")


def info(name: str, *bands: str, backbone: str = "test_convnext") -> SpecialistInfo:
    return SpecialistInfo(name=name, backbone=backbone, in_chans=len(bands), bands=bands)


INFOS = (
    info("rgb", "red", "green", "blue"),
    info("radar", "vv", "vh"),
    info("nir", "nir", "red"),
)


def build(fusion: str = "concat", normalize: str = "batch", *, gated: bool = False) -> EosFM:
    torch.manual_seed(0)
    encoder = EosFM(INFOS, BANDS, fusion=fusion, normalize=normalize, gated=gated)
    encoder.freeze()
    return encoder


@pytest.fixture
def image() -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(2, len(BANDS), 64, 96)


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("normalize", ["batch", "layer", "none"])
def test_pyramid_has_the_stated_shapes(fusion: str, normalize: str, image: torch.Tensor) -> None:
    encoder = build(fusion, normalize)
    shapes = [tuple(level.shape) for level in encoder(image)]
    assert shapes == [
        (2, channels, 64 // stride, 96 // stride)
        for channels, stride in zip(encoder.out_channels, (4, 8, 16, 32), strict=True)
    ]


def test_each_specialist_sees_its_own_bands_in_its_own_order(image: torch.Tensor) -> None:
    encoder = build("concat", "none").eval()
    rgb = image[:, [BANDS.index(b) for b in ("red", "green", "blue")]]
    false_colour = image[:, [BANDS.index(b) for b in ("nir", "red", "green")]]
    radar = image[:, [BANDS.index(b) for b in ("vv", "vh")]]
    nir = image[:, [BANDS.index(b) for b in ("nir", "red")]]
    nets = encoder.backbones
    expected = [
        torch.cat(levels, dim=1)
        for levels in zip(
            nets[0](rgb), nets[0](false_colour), nets[1](radar), nets[2](nir), strict=True
        )
    ]
    for level, want in zip(encoder(image), expected, strict=True):
        torch.testing.assert_close(level, want)


def test_conv1x1_equals_one_convolution_over_the_concatenation(image: torch.Tensor) -> None:
    encoder = build("conv1x1", "none").eval()
    concat = build("concat", "none").eval()
    concat.backbones = encoder.backbones
    for index, (fused, stacked) in enumerate(zip(encoder(image), concat(image), strict=True)):
        weight = torch.cat([view[index].weight for view in encoder.fusion.views], dim=1)
        bias = encoder.fusion.bias[index].flatten()
        want = torch.nn.functional.conv2d(stacked, weight, bias)
        torch.testing.assert_close(fused, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_leaving_out_is_zero_after_the_normaliser(fusion: str, image: torch.Tensor) -> None:
    encoder = build(fusion).eval()
    features = encoder.encode(image)
    without = encoder.combine(features, without={"radar"})
    features[2] = [torch.zeros_like(level) for level in features[2]]
    for level, want in zip(encoder.combine(features), without, strict=True):
        torch.testing.assert_close(level, want)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_keeping_some_equals_leaving_out_the_others(fusion: str, image: torch.Tensor) -> None:
    encoder = build(fusion).eval()
    kept = encoder.keep(["nir", "rgb"]).eval()
    want = encoder.combine(encoder.encode(image), without={"radar"})
    if fusion == "concat":  # the columns of the one left out are zero, and go
        want = [level[:, level.flatten(2).abs().sum(dim=(0, 2)) > 0] for level in want]
    assert kept.names == ("rgb", "nir")
    for level, expected in zip(kept(image), want, strict=True):
        torch.testing.assert_close(level, expected)


def test_keeping_folds_the_gates_into_conv1x1(image: torch.Tensor) -> None:
    encoder = build("conv1x1", gated=True).eval()
    with torch.no_grad():
        encoder.gates.scores.copy_(torch.tensor([0.5, -2.0, 1.0]))
    kept = encoder.keep(["rgb", "radar", "nir"]).eval()
    for level, expected in zip(kept(image), encoder(image), strict=True):
        torch.testing.assert_close(level, expected, rtol=1e-4, atol=1e-5)


def test_widths_may_differ_and_the_outputs_stay_when_the_first_goes(image: torch.Tensor) -> None:
    infos = (info("wide", "vv", "vh", backbone="resnet18"), INFOS[0])
    encoder = EosFM(infos, BANDS, fusion="conv1x1").eval()
    kept = encoder.keep(["rgb"]).eval()
    assert kept.out_channels == encoder.out_channels == [64, 128, 256, 512]
    want = encoder.combine(encoder.encode(image), without={"wide"})
    for level, expected in zip(kept(image), want, strict=True):
        torch.testing.assert_close(level, expected)
    rebuilt = EosFM(
        kept.specialists, BANDS, fusion="conv1x1", out_channels=kept.out_channels
    ).eval()
    rebuilt.load_state_dict(kept.state_dict())
    torch.testing.assert_close(rebuilt(image), kept(image))


def test_frozen_specialists_get_no_gradient_and_stay_in_eval_mode(image: torch.Tensor) -> None:
    encoder = build("conv1x1", gated=True).train()
    sum(level.square().sum() for level in encoder(image)).backward()
    assert all(p.grad is None for p in encoder.backbones.parameters())
    assert not any(module.training for module in encoder.backbones.modules())
    assert all(p.grad is not None for p in encoder.fusion.parameters())
    assert encoder.gates.scores.grad is not None


def test_unfrozen_specialists_learn(image: torch.Tensor) -> None:
    torch.manual_seed(0)
    encoder = EosFM(INFOS, BANDS).train()
    sum(level.square().sum() for level in encoder(image)).backward()
    assert all(p.grad is not None for p in encoder.backbones.parameters())


def test_specialists_that_cannot_be_fed_are_planned_out_with_a_reason() -> None:
    encoder = EosFM(INFOS, ("red", "green", "blue"))
    assert encoder.names == ("rgb", "nir")
    assert encoder.plan.rows[1].reason == "needs vv, vh"


def test_no_usable_specialist_shows_both_lists() -> None:
    with pytest.raises(BandError, match=r"(?s)at hand: red.*radar: vv, vh"):
        EosFM((INFOS[1],), ("red",))


def test_a_specialist_without_band_names_is_refused() -> None:
    nameless = SpecialistInfo(name="old", backbone="test_convnext", in_chans=3)
    with pytest.raises(BundleError, match="not which"):
        EosFM((nameless,), BANDS)


def test_choosing_by_name_or_position() -> None:
    specialists = [Specialist(i, {}) for i in INFOS]

    def names(only: list[str] | None, exclude: list[str]) -> list[str]:
        return [s.info.name for s in choose_specialists(specialists, only, exclude)]

    assert names(None, []) == ["rgb", "radar", "nir"]
    assert names(["nir", "rgb"], []) == ["rgb", "nir"]
    assert names(None, ["radar", "2"]) == ["rgb"]
    with pytest.raises(UsageError, match="Did you mean 'radar'"):
        names(None, ["rader"])
    with pytest.raises(UsageError, match="No specialist is left"):
        names(["rgb"], ["rgb"])


def test_weights_survive_the_way_into_the_encoder(image: torch.Tensor) -> None:
    backbone = build_backbone("test_convnext", 2)
    specialist = Specialist(INFOS[1], backbone.state_dict())
    encoder = EosFM.with_weights([specialist], BANDS, normalize="none").eval()
    radar = image[:, [4, 5]]
    for level, want in zip(encoder(image), backbone.eval()(radar), strict=True):
        torch.testing.assert_close(level, want)
    assert parameter_count(encoder, trainable=True) == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("convnextv2_ato", "Did you mean 'convnextv2_atto'"),
        ("vit_tiny_patch16_224", "pyramid"),
        ("swin_tiny_patch4_window7_224", "channels last"),
    ],
)
def test_backbones_that_cannot_serve_are_refused(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build_backbone(name, 3)
