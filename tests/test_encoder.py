"""The ensemble encoder: views, fusion, leaving out, keeping, freezing."""

from __future__ import annotations

import pytest
import torch

from eosfm_cli.ensemble.encoder import EnsembleEncoder, choose_specialists
from eosfm_cli.ensemble.specialist import Specialist, build_backbone, parameter_count
from eosfm_cli.errors import BandError, UsageError
from eosfm_cli.manifest import EncoderInfo, SpecialistInfo

BANDS = ("blue", "green", "red", "nir", "vv", "vh")
FUSIONS = ("concat", "conv1x1", "mlp", "addition", "multiplication")


def info(name: str, *bands: str, backbone: str = "test_convnext") -> SpecialistInfo:
    return SpecialistInfo(name=name, backbone=backbone, in_chans=len(bands), bands=bands)


INFOS = (
    info("rgb", "red", "green", "blue"),
    info("radar", "vv", "vh"),
    info("nir", "nir", "red"),
)


def build(**options: object) -> EnsembleEncoder:
    torch.manual_seed(0)
    encoder = EnsembleEncoder(INFOS, BANDS, EncoderInfo(**options))
    encoder.freeze()
    return encoder


@pytest.fixture
def image() -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(2, len(BANDS), 64, 96)


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("normalize", ["batch", "layer", "none"])
def test_pyramid_has_the_stated_shapes(fusion: str, normalize: str, image: torch.Tensor) -> None:
    encoder = build(fusion=fusion, normalize=normalize)
    shapes = [tuple(level.shape) for level in encoder(image)]
    assert shapes == [
        (2, channels, 64 // stride, 96 // stride)
        for channels, stride in zip(encoder.out_channels, (4, 8, 16, 32), strict=True)
    ]


def test_each_specialist_sees_its_own_bands_in_its_own_order(image: torch.Tensor) -> None:
    encoder = build(normalize="none").eval()
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


@pytest.mark.parametrize("fusion", FUSIONS)
def test_leaving_out_is_the_neutral_element(fusion: str, image: torch.Tensor) -> None:
    encoder = build(fusion=fusion, project=True).eval()
    features = encoder.encode(image)
    without = encoder.combine(features, without={"radar"})
    neutral = 1.0 if fusion == "multiplication" else 0.0
    features[2] = [torch.full_like(level, neutral) for level in features[2]]
    for level, want in zip(encoder.combine(features), without, strict=True):
        torch.testing.assert_close(level, want)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_leaving_everybody_out_is_the_neutral_element_too(fusion: str, image: torch.Tensor) -> None:
    encoder = build(fusion=fusion).eval()
    with torch.no_grad():
        for parameter in encoder.fusion.parameters():
            parameter.zero_()
    levels = encoder.combine(encoder.encode(image), without=encoder.names)
    assert [level.shape[1] for level in levels] == encoder.out_channels
    expected = 1.0 if fusion == "multiplication" else 0.0
    assert all((level == expected).all() for level in levels)


@pytest.mark.parametrize("gates", ["none", "smooth", "weights"])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_keeping_some_equals_leaving_out_the_others(
    fusion: str, gates: str, image: torch.Tensor
) -> None:
    options = {"gates": gates, "top_k": 2, "fuse_to_mult": 2, "project": gates == "smooth"}
    encoder = build(fusion=fusion, **options).eval()
    if gates != "none":
        with torch.no_grad():
            encoder.gates.scores.copy_(torch.tensor([0.5, -2.0, 1.0]))
    kept = encoder.keep(["nir", "rgb"]).eval()
    want = encoder.combine(encoder.encode(image), without={"radar"})
    if fusion == "concat":  # the columns of the one left out are zero, and go
        want = [level[:, level.flatten(2).abs().sum(dim=(0, 2)) > 0] for level in want]
    assert kept.names == ("rgb", "nir")
    assert kept.out_channels == [level.shape[1] for level in want]
    for level, expected in zip(kept(image), want, strict=True):
        torch.testing.assert_close(level, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fusion", ["conv1x1", "mlp"])
def test_a_searchs_gates_are_folded_into_weights(fusion: str, image: torch.Tensor) -> None:
    encoder = build(fusion=fusion, gates="search").eval()
    with torch.no_grad():
        encoder.gates.scores.copy_(torch.tensor([0.5, -2.0, 1.0]))
    kept = encoder.keep(["rgb", "radar", "nir"]).eval()
    assert kept.gates() is None
    for level, expected in zip(kept(image), encoder(image), strict=True):
        torch.testing.assert_close(level, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fusion", ["concat", "multiplication"])
def test_a_searchs_gates_go_on_as_weights_if_asked(fusion: str, image: torch.Tensor) -> None:
    encoder = build(fusion=fusion, gates="search", scale_features=True).eval()
    with torch.no_grad():
        encoder.gates.scores.copy_(torch.tensor([0.5, -2.0, 1.0]))
    kept = encoder.keep(["rgb", "nir"]).eval()
    assert kept.describe().gates == "weights"
    torch.testing.assert_close(
        kept.gates().weight, torch.sigmoid(encoder.gates.scores.detach())[[0, 2]]
    )


@pytest.mark.parametrize("fusion", ["conv1x1", "mlp"])
def test_widths_may_differ_and_the_outputs_stay_when_the_first_goes(
    fusion: str, image: torch.Tensor
) -> None:
    infos = (info("wide", "vv", "vh", backbone="resnet18"), INFOS[0])
    encoder = EnsembleEncoder(infos, BANDS, EncoderInfo(fusion=fusion)).eval()
    kept = encoder.keep(["rgb"]).eval()
    assert kept.out_channels == encoder.out_channels == [64, 128, 256, 512]
    want = encoder.combine(encoder.encode(image), without={"wide"})
    for level, expected in zip(kept(image), want, strict=True):
        torch.testing.assert_close(level, expected)


@pytest.mark.parametrize("fusion", ["addition", "multiplication"])
def test_widths_must_agree_where_features_are_joined_one_by_one(fusion: str) -> None:
    infos = (INFOS[0], info("wide", "vv", "vh", backbone="resnet18"))
    with pytest.raises(UsageError, match=r"'wide' has 64, 128, 256, 512 channels, 'rgb' has 24"):
        EnsembleEncoder(infos, BANDS, EncoderInfo(fusion=fusion))


@pytest.mark.parametrize(
    "options",
    [
        {"fusion": "mlp", "project": True, "gates": "smooth", "top_k": 2, "fuse_to_mult": 2},
        {"fusion": "addition", "adapt": "learned", "gates": "search", "scale_features": True},
        {"fusion": "concat", "normalize": "layer", "gates": "smooth", "scale_features": True},
    ],
)
def test_an_encoder_is_built_again_from_its_description(
    options: dict[str, object], image: torch.Tensor
) -> None:
    encoder = build(**options)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    encoder.train()(image)
    kept = encoder.keep(["rgb", "nir"]).eval()
    description = EncoderInfo.model_validate_json(kept.describe().model_dump_json())
    rebuilt = EnsembleEncoder(kept.specialists, BANDS, description).eval()
    rebuilt.load_state_dict(kept.state_dict())
    for level, expected in zip(rebuilt(image), kept(image), strict=True):
        torch.testing.assert_close(level, expected)
    assert rebuilt.describe() == kept.describe()


def test_frozen_specialists_get_no_gradient_and_stay_in_eval_mode(image: torch.Tensor) -> None:
    encoder = build(fusion="conv1x1", gates="search", project=True).train()
    sum(level.square().sum() for level in encoder(image)).backward()
    assert all(p.grad is None for p in encoder.backbones.parameters())
    assert not any(module.training for module in encoder.backbones.modules())
    for part in (encoder.fusion, encoder.gates, encoder.projections):
        assert all(p.grad is not None for p in part.parameters())


def test_unfrozen_specialists_learn(image: torch.Tensor) -> None:
    torch.manual_seed(0)
    encoder = build().train()
    encoder.unfreeze()
    assert all(module.training for module in encoder.backbones.modules())
    sum(level.square().sum() for level in encoder(image)).backward()
    assert all(p.grad is not None for p in encoder.backbones.parameters())


def test_specialists_left_out_are_not_computed(image: torch.Tensor) -> None:
    encoder = build(fusion="conv1x1").eval()
    want = encoder.combine(encoder.encode(image), without={"rgb"})
    encoder.left_out = frozenset({0})
    with torch.no_grad():
        for parameter in encoder.backbones[0].parameters():
            parameter.fill_(float("nan"))
    for level, expected in zip(encoder(image), want, strict=True):
        torch.testing.assert_close(level, expected)
    encoder.train()
    sum(level.sum() for level in encoder(image)).backward()
    assert all(p.grad is not None for p in encoder.fusion.parameters())  # devices wait for all
    assert encoder.keep(["rgb", "nir"]).left_out == frozenset({0})


def test_specialists_that_cannot_be_fed_are_planned_out_with_a_reason() -> None:
    encoder = EnsembleEncoder(INFOS, ("red", "green", "blue"))
    assert encoder.names == ("rgb", "nir")
    assert encoder.plan.rows[1].reason == "needs vv, vh"


def test_no_usable_specialist_shows_both_lists() -> None:
    with pytest.raises(BandError, match=r"(?s)at hand: red.*radar: vv, vh"):
        EnsembleEncoder((INFOS[1],), ("red",))


def test_unknown_bands_are_refused() -> None:
    with pytest.raises(BandError, match=r"'gren'.*'green'"):
        EnsembleEncoder(INFOS, ("red", "gren"))


def test_a_specialist_without_band_names_is_fed_by_count(image: torch.Tensor) -> None:
    nameless = SpecialistInfo(name="old", backbone="test_convnext", in_chans=3)
    torch.manual_seed(0)
    encoder = EnsembleEncoder((nameless, INFOS[1]), BANDS[:4], EncoderInfo(normalize="none"))
    assert encoder.plan.lines() == [
        "old    by count: band 1 ← nir, band 2 ← blue, band 3 ← green",
        "old    by count: band 1 ← blue, band 2 ← green, band 3 ← red",
        "radar  left out: needs vv, vh",
    ]
    encoder.eval()
    x = image[:, :4]
    views = [encoder.backbones[0](x[:, [3, 0, 1]]), encoder.backbones[0](x[:, [0, 1, 2]])]
    for level, first, second in zip(encoder(x), *views, strict=True):
        torch.testing.assert_close(level, torch.cat([first, second], dim=1))


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
    options = EncoderInfo(normalize="none")
    encoder = EnsembleEncoder.with_weights([specialist], BANDS, options).eval()
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
