"""The fast forward and folded encoders give what the plain way gives."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers.grn import GlobalResponseNorm
from timm.models import FeatureListNet
from torch import Tensor, nn
from torch.export import Dim
from torch.utils._python_dispatch import TorchDispatchMode

from eosfm_cli.ensemble.encoder import EnsembleEncoder
from eosfm_cli.ensemble.fast_convnext import FastConvNeXt, fast
from eosfm_cli.ensemble.specialist import build_backbone
from eosfm_cli.manifest import EncoderInfo, SpecialistInfo

BANDS = ("blue", "green", "red", "nir", "vv", "vh")
INFOS = tuple(
    SpecialistInfo(name=name, backbone=backbone, in_chans=len(bands), bands=bands)
    for name, backbone, bands in (
        ("rgb", "test_convnext", ("red", "green", "blue")),  # two views, of which one is false
        ("radar", "test_convnext", ("vv", "vh")),
        ("nir", "test_convnext", ("nir", "red")),
    )
)
FUSIONS = ("concat", "conv1x1", "mlp", "addition", "multiplication")


def grown(module: nn.Module, seed: int = 0) -> nn.Module:
    """Weights as training might leave them: new response norms and layer scales do nothing yet."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, GlobalResponseNorm):
                part.weight.normal_()
                part.bias.normal_()
            if getattr(part, "gamma", None) is not None:
                part.gamma.normal_()
            if isinstance(part, nn.LayerNorm):
                part.weight.normal_(1, 0.3)
                part.bias.normal_(0, 0.3)
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.normal_()
                part.running_var.uniform_(0.3, 3)
    return module.eval().requires_grad_(False)


def distances(found: list[Tensor], wanted: list[Tensor]) -> list[float]:
    """Relative, per level."""
    pairs = zip(found, wanted, strict=True)
    return [float((one.float() - other).norm() / other.norm()) for one, other in pairs]


# --------------------------------------------------------------------------- one encoder


@pytest.mark.parametrize("size", [(64, 64), (70, 101), (33, 47)])
@pytest.mark.parametrize(
    "name", ["convnextv2_atto", "convnextv2_femto", "convnext_atto", "test_convnext"]
)
def test_the_fast_forward_gives_the_same(name: str, size: tuple[int, int]) -> None:
    plain = grown(build_backbone(name, 3))
    quick = fast(copy.deepcopy(plain))
    assert isinstance(quick, FastConvNeXt)
    x = torch.randn(2, 3, *size)
    kept = x.clone()
    assert max(distances(quick(x), plain(x))) < 1e-5
    assert torch.equal(x, kept)


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 3), st.integers(32, 80), st.integers(32, 80))
def test_whatever_the_weights_and_the_size(seed: int, count: int, height: int, width: int) -> None:
    plain = grown(build_backbone("convnextv2_atto", 2), seed)
    x = 3 * torch.randn(count, 2, height, width)
    assert max(distances(fast(copy.deepcopy(plain))(x), plain(x))) < 1e-5


class Largest(TorchDispatchMode):
    """Notes how many values the largest result of an operation has, views of weights among them."""

    values = 0

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        found = func(*args, **(kwargs or {}))
        if isinstance(found, Tensor):
            self.values = max(self.values, found.numel())
        return found


def test_many_small_images_take_no_matrix_each() -> None:
    quick = fast(grown(build_backbone("convnextv2_atto", 3)))
    x = torch.randn(8, 3, 32, 32)
    with Largest() as plain:
        wanted = quick.as_timm(x)
    with Largest() as ours:
        found = quick(x)
    assert ours.values <= max(plain.values, *(weight.numel() for weight in quick.parameters()))
    assert max(distances(found, wanted)) < 1e-5


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto_ols", "test_convnext3"])
def test_other_encoders_run_as_they_are(name: str) -> None:
    backbone = build_backbone(name, 3)
    assert fast(backbone) is backbone


def test_an_encoder_that_was_changed_runs_as_it_is() -> None:
    class Louder(nn.LayerNorm):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    backbone = build_backbone("convnext_atto", 3)
    block = backbone["stages_2"].blocks[1]
    block.norm = Louder(block.norm.normalized_shape)
    assert fast(backbone) is backbone
    backbone = build_backbone("convnext_atto", 3)
    backbone["stages_0"].blocks[0].register_forward_hook(lambda module, given, found: 2 * found)
    assert fast(backbone) is backbone


def test_names_and_weights_stay_and_weights_can_be_replaced() -> None:
    plain, other = (grown(build_backbone("convnextv2_atto", 3), seed) for seed in (0, 1))
    quick = fast(copy.deepcopy(plain))
    saved = quick.state_dict()
    assert list(saved) == list(plain.state_dict())
    assert all(torch.equal(saved[name], tensor) for name, tensor in plain.state_dict().items())
    quick.load_state_dict(other.state_dict())
    x = torch.randn(1, 3, 64, 64)
    assert max(distances(quick(x), other(x))) < 1e-5
    assert max(distances(copy.deepcopy(quick)(x), other(x))) < 1e-5


def test_an_encoder_that_learns_gets_its_gradients() -> None:
    plain = grown(build_backbone("convnextv2_atto", 3)).requires_grad_(True)
    quick = fast(copy.deepcopy(plain))
    x = torch.randn(1, 3, 64, 64)
    for net in (plain, quick):
        sum(level.square().sum() for level in net(x)).backward()
    for one, other in zip(plain.parameters(), quick.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.slow
def test_a_fast_encoder_can_be_exported() -> None:
    plain = grown(build_backbone("convnextv2_atto", 3))
    quick = fast(copy.deepcopy(plain))
    varies = {0: Dim("windows", min=1, max=64), 2: Dim.AUTO, 3: Dim.AUTO}
    example = torch.randn(3, 3, 64, 96)
    with torch.no_grad():
        program = torch.export.export(quick, (example,), dynamic_shapes=(varies,), strict=False)
    for shape in ((1, 3, 96, 160), (2, 3, 64, 64)):
        x = torch.randn(shape)
        assert max(distances(program.module()(x), plain(x))) < 1e-5


# --------------------------------------------------------------------------- an ensemble of them


def ensemble(**options: object) -> EnsembleEncoder:
    torch.manual_seed(0)
    encoder = EnsembleEncoder(INFOS, BANDS, EncoderInfo(**options))
    encoder.freeze()
    grown(encoder)
    if len(list(encoder.gates.parameters())):
        encoder.gates.scores.copy_(torch.tensor([0.5, -2.0, 1.0]))
    return encoder


@pytest.fixture
def image() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(2, len(BANDS), 64, 96)


CASES = [
    *itertools.product(FUSIONS, ["batch", "layer", "none"], ["none"], [False]),
    *itertools.product(FUSIONS, ["batch"], ["search", "smooth", "weights"], [False, True]),
]


@pytest.mark.parametrize(("fusion", "normalize", "gates", "project"), CASES)
def test_a_folded_encoder_gives_the_same(
    fusion: str, normalize: str, gates: str, project: bool, image: Tensor
) -> None:
    plain = ensemble(fusion=fusion, normalize=normalize, gates=gates, project=project)
    whole = copy.deepcopy(plain)
    whole.fold()
    with torch.no_grad():
        features, folded = plain.encode(image), whole.encode(image)
        for without in ((), ("radar",), ("rgb", "nir")):
            wanted = plain.combine(features, without=without)
            assert max(distances(whole.combine(folded, without=without), wanted)) < 1e-5
        wanted = plain.combine(features)
        assert max(distances(whole(image), wanted)) < 1e-5
        assert max(distances(plain(image), wanted)) < 1e-5
        for encoder in (plain, whole):
            encoder.left_out = frozenset({1})
            wanted = plain.combine(features, without=("radar",))
            assert max(distances(encoder(image), wanted)) < 1e-5


@pytest.mark.parametrize("fusion", FUSIONS)
def test_nobody_adds_nothing_folded_or_not(fusion: str, image: Tensor) -> None:
    plain = ensemble(fusion=fusion, gates="smooth")
    for part in plain.fusion.parameters():
        part.normal_()
    whole = copy.deepcopy(plain)
    whole.fold()
    with torch.no_grad():
        wanted = plain.combine(plain.encode(image), without=plain.names)
        found = whole.combine(whole.encode(image), without=whole.names)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)
        assert (other == other[:, :, :1, :1]).all()


def test_a_normaliser_and_gates_in_the_fusion_cost_nothing_any_more() -> None:
    encoder = ensemble(fusion="conv1x1", gates="smooth")
    encoder.fold()
    assert encoder.gates() is None
    norms = [norm for levels in encoder.normalisers for norm in levels]
    assert all(isinstance(norm, nn.Identity) for norm in norms)


@pytest.mark.parametrize("fold", [False, True])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_contributions_add_up(fusion: str, fold: bool, image: Tensor) -> None:
    encoder = ensemble(fusion=fusion, gates="smooth")
    if fold:
        encoder.fold()
    with torch.no_grad():
        features = encoder.encode(image)
        parts = encoder.contributions(features)
        if fusion in ("concat", "multiplication"):
            assert parts is None
            return
        sums = [sum(levels) for levels in zip(parts[0], parts[2], strict=True)]
        wanted = encoder.combine(features, without=("radar",))
        assert max(distances(encoder.complete(sums), wanted)) < 1e-5


@pytest.mark.parametrize("fusion", ["conv1x1", "mlp"])
def test_keeping_some_of_a_folded_encoder(fusion: str, image: Tensor) -> None:
    encoder = ensemble(fusion=fusion)
    encoder.fold()
    with torch.no_grad():
        wanted = encoder.combine(encoder.encode(image), without=("radar",))
        assert max(distances(encoder.keep(("rgb", "nir"))(image), wanted)) < 1e-5


def test_features_are_let_go_one_after_the_other(image: Tensor) -> None:
    encoder = ensemble(fusion="conv1x1")
    alive: list[int] = []
    held: set[int] = set()

    class Counted(Tensor):
        def __del__(self) -> None:
            held.discard(id(self))

    def count(*given: object) -> list[Tensor]:
        levels = [level.as_subclass(Counted) for level in given[-1]]
        held.update(map(id, levels))
        alive.append(len(held))
        return levels

    for backbone in encoder.backbones:
        backbone.register_forward_hook(count)
    with torch.no_grad():
        encoder(image)
    assert len(alive) == 4
    assert max(alive) <= 2 * 4


def test_frozen_specialists_are_fast_in_training_and_others_learn(image: Tensor) -> None:
    encoder = EnsembleEncoder(INFOS, BANDS, EncoderInfo(fusion="conv1x1"))
    encoder.freeze()
    encoder.train()
    asked: list[str] = []
    for backbone in encoder.backbones:
        assert isinstance(backbone, FastConvNeXt)
        backbone.quickly = lambda x, net=backbone: asked.append("quick") or net.as_timm(x)
    sum(level.sum() for level in encoder(image)).backward()
    assert asked == ["quick"] * 4
    encoder.unfreeze()
    sum(level.sum() for level in encoder(image)).backward()
    assert asked == ["quick"] * 4
    assert all(weight.grad is not None for weight in encoder.backbones.parameters())


def test_a_plain_encoder_stays_what_timm_built() -> None:
    assert type(build_backbone("convnextv2_atto", 3)) is FeatureListNet
