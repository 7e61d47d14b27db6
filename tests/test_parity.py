"""The same weights give what the published encoder recorded, whatever the options."""

from __future__ import annotations

import itertools
import json
import shutil
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from eosfm_cli.ensemble import EosFM
from eosfm_cli.errors import BandError, BundleError, EosfmError, UsageError

RECORDED = [
    f"{number:02}-{mode}"
    for number in (0, 1, 2, 5, 6, 7, 8, 10, 13, 15, 17, 18, 20, 22, 24, 26)
    for mode in ("train", "eval")
    if (number, mode) != (18, "eval")
]


@pytest.fixture(scope="module")
def folder(sample_data: Callable[[str], Path]) -> Path:
    return sample_data("parity")


@pytest.fixture(scope="module")
def weights(folder: Path) -> str:
    return str(folder / "ensemble.pth")


def options_of(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        return json.loads(json.loads(file.read(length))["__metadata__"]["options"])


def published_parameters(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    found = {n.removeprefix("param."): t for n, t in tensors.items() if n.startswith("param.")}
    if "scores" in tensors:
        found["encoder_selector.specialists_weights"] = tensors["scores"]
    return found


@pytest.mark.parametrize(
    ("name", "legacy"),
    [*((name, False) for name in RECORDED), *((name, True) for name in RECORDED[-6:])],
)
def test_outputs_equal_the_recorded_ones(
    name: str, legacy: bool, folder: Path, weights: str
) -> None:
    path = folder / f"{name}.safetensors"
    tensors = load_file(path)
    encoder = EosFM(model_weights=weights, legacy=legacy, **options_of(path))
    encoder.load_published_parameters(published_parameters(tensors))
    encoder.train()
    with torch.no_grad():
        if "warm" in tensors:
            encoder(tensors["warm"])
            encoder.eval()
        pyramid = encoder(tensors["x"])
    assert encoder.out_channels == [level.shape[1] for level in pyramid]
    for index, level in enumerate(pyramid):
        # The coarsest level has one pixel: normalised by a batch of two, two numbers that hardly
        # differ become -1 and 1, and rounding is magnified.
        tolerance = 2e-4 if name.endswith("train") and index == 3 else 1e-5
        torch.testing.assert_close(level, tensors[f"out.{index}"], rtol=1e-4, atol=tolerance)


# ------------------------------------------------------------------------------ other options


def run(weights: str, seed: int = 0, mode: str = "train", **options: Any) -> list[torch.Tensor]:
    """What an encoder with seeded weights and scores gives for a seeded image."""
    torch.manual_seed(seed)
    encoder = EosFM(weights, **options)
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(2, options["in_chans"], 32, 32, generator=generator)
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if name.startswith(("fusion", "projections")):
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
        if options.get("max_encoders"):
            scores = torch.tensor([1.3, -0.4, 0.9, 0.2, 1.7, 0.6])
            encoder.load_published_parameters({"encoder_selector.specialists_weights": scores})
        encoder.train()
        encoder(image + 1)
        encoder.train(mode == "train")
        return encoder(image)


FUSIONS = (None, "conv1x1", "mlp", "addition", "multiplication")


@pytest.mark.parametrize(
    ("number", "fusion", "normalize"),
    [(i, *both) for i, both in enumerate(itertools.product(FUSIONS, ("batch", "layer", None)))],
)
def test_legacy_changes_nothing_where_the_published_encoder_is_right(
    number: int, fusion: str | None, normalize: str | None, weights: str
) -> None:
    options = {
        "in_chans": 2,
        "feature_fusion": fusion,
        "normalize_features": normalize is not None,
        "normalization_type": normalize or "batch",
        "projection_layer": number % 2 == 0,
    }
    for ours, published in zip(
        run(weights, **options), run(weights, legacy=True, **options), strict=True
    ):
        torch.testing.assert_close(ours, published)


@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize(
    ("fusion", "mode"),
    [
        (None, "topk"),
        (None, "smooth"),
        ("mlp", "topk"),
        ("mlp", "smooth"),
        ("multiplication", "smooth"),  # with top-k the published encoder multiplies by zero
    ],
)
def test_selection_gives_the_published_result_where_everybody_can_run(
    fusion: str | None, mode: str, scale: bool, weights: str
) -> None:
    options = {
        "in_chans": 2,
        "feature_fusion": fusion,
        "max_encoders": 3,
        "encoder_selection_mode": mode,
        "scale_features": scale,
        "mode": "eval",
    }
    for ours, published in zip(
        run(weights, **options), run(weights, legacy=True, **options), strict=True
    ):
        torch.testing.assert_close(ours, published, rtol=1e-4, atol=1e-5)


def test_top_k_is_of_those_that_can_run(weights: str) -> None:
    """Of the scores' best three, s1 has no rule for three bands."""
    scores = torch.tensor([1.3, -0.4, 0.9, 0.2, 1.7, 0.6])
    options = {"in_chans": 3, "max_encoders": 3, "normalize_features": False}
    image = torch.randn(1, 3, 32, 32)
    counts = []
    for legacy in (False, True):
        encoder = EosFM(weights, legacy=legacy, **options).eval()
        encoder.load_published_parameters({"encoder_selector.specialists_weights": scores})
        parts = encoder(image)[0].split(24, dim=1)
        counts.append([bool(part.abs().sum() > 0) for part in parts])
    assert counts == [[True, False, False, True, True], [True, False, False, True, False]]


def test_ablated_specialists_count_as_nothing_or_as_published(weights: str) -> None:
    options = {"in_chans": 3, "ablate_encoders": [0, 3], "projection_layer": True}
    ours, published = run(weights, **options), run(weights, legacy=True, **options)
    whole = run(weights, in_chans=3, projection_layer=True)
    for index, level in enumerate(ours):
        width = level.shape[1] // 5
        for part, ablated in enumerate((True, False, True, False, False)):
            where = slice(part * width, (part + 1) * width)
            if ablated:  # the published ones still go through the projection
                assert not level[:, where].any()
                assert published[index][:, where].any()
            else:
                torch.testing.assert_close(level[:, where], whole[index][:, where])
                torch.testing.assert_close(level[:, where], published[index][:, where])


def test_multiplication_leaves_out_by_one_or_as_published_by_zero(weights: str) -> None:
    options = {"in_chans": 3, "feature_fusion": "multiplication", "ablate_encoders": ["rgb-b"]}
    assert all(level.any() for level in run(weights, **options))
    assert not any(level.any() for level in run(weights, legacy=True, **options))


def test_bands_with_names_are_matched_by_name(weights: str) -> None:
    """The file does not name its bands, so names of the input change nothing: the count rules."""
    torch.manual_seed(0)
    image = torch.randn(1, 3, 32, 32)
    by_count = EosFM(weights, in_chans=3).eval()(image)
    named = EosFM(weights, bands=["B04", "green", "blue"]).eval()
    torch.testing.assert_close(named(image), by_count)
    assert named.plan.lines()[0] == "rgb-a   by count: band 1 ← red, band 2 ← green, band 3 ← blue"


def test_several_files_are_joined_under_names_of_their_own(weights: str, tmp_path: Path) -> None:
    shutil.copy(weights, tmp_path / "other.pth")
    encoder = EosFM([weights, tmp_path / "other.pth"], in_chans=3)
    assert encoder.names[:2] == ("rgb-a", "rgb-b")
    assert encoder.names[5:7] == ("rgb-a-2", "rgb-b-2")


def test_the_list_itself_is_taken_too(weights: str) -> None:
    entries = torch.load(weights, weights_only=True)
    image = torch.randn(1, 3, 32, 32)
    listed = EosFM(entries[:2], in_chans=3).eval()
    assert listed.names == ("rgb-a", "rgb-b")
    whole = EosFM(weights, in_chans=3).eval()
    for level, expected in zip(listed(image), whole(image), strict=True):
        torch.testing.assert_close(level, expected[:, : level.shape[1]])
    with pytest.raises(BundleError, match="entry 1 is no"):
        EosFM([3], in_chans=3)


# ------------------------------------------------------------------------------ learning


def test_a_fresh_top_k_learns_every_score_and_settles_on_k(weights: str) -> None:
    torch.manual_seed(0)
    encoder = EosFM(weights, in_chans=3, max_encoders=2, search_steps=3).train()
    image = torch.randn(2, 3, 32, 32)
    optimiser = torch.optim.SGD(encoder.gates.parameters(), lr=0.1)
    for _ in range(3):
        assert len(encoder._running()) == 5
        best = list(encoder.gates.ranking())[:2]
        optimiser.zero_grad()
        sum(level.square().mean() for level in encoder(image)).backward()
        assert encoder.gates.scores.grad.abs().min() > 0
        optimiser.step()
    assert {encoder.names[i] for i in encoder._running()} == set(best)
    sum(level.square().mean() for level in encoder(image)).backward()  # nobody waits in vain
    with torch.no_grad():
        encoder.gates.scores.neg_()
    assert {encoder.names[i] for i in encoder._running()} == set(best)
    pruned = encoder.eval().keep(best)
    for level, expected in zip(pruned(image), encoder(image), strict=True):
        columns = expected.flatten(2).abs().sum(dim=(0, 2)) > 0
        torch.testing.assert_close(level, expected[:, columns])


def test_specialists_are_frozen_and_what_stands_on_them_learns(weights: str) -> None:
    options = {"in_chans": 3, "projection_layer": True, "feature_fusion": "mlp", "max_encoders": 2}
    encoder = EosFM(weights, **options).train()
    sum(level.sum() for level in encoder(torch.randn(2, 3, 32, 32))).backward()
    learned = {n.split(".")[0] for n, p in encoder.named_parameters() if p.grad is not None}
    assert learned == {"projections", "gates", "fusion"}
    thawed = EosFM(weights, freeze=False, **options)
    assert all(p.requires_grad for p in thawed.parameters())


# ------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"in_chans": 7}, BandError, r"No specialist can be fed"),
        ({}, UsageError, "backbone_in_chans"),
        ({"in_chans": 0}, UsageError, "in_chans should be a whole number"),
        ({"in_chans": 3, "bands": ["red"]}, UsageError, "names 1"),
        ({"bands": ["red", "gren", "blue"]}, UsageError, "Did you mean 'green'"),
        ({"in_chans": 3, "feature_fusion": "conv"}, UsageError, "Did you mean 'conv1x1'"),
        ({"in_chans": 3, "normalization_type": "group"}, UsageError, "batch, layer"),
        ({"in_chans": 3, "encoder_selection_mode": "top"}, UsageError, "Did you mean 'topk'"),
        ({"in_chans": 3, "max_encoders": 0}, UsageError, "max_encoders"),
        ({"in_chans": 3, "ablate_encoders": [6]}, UsageError, "no specialist '6'"),
        ({"in_chans": 3, "ablate_encoders": ["rgb-c"]}, UsageError, "Did you mean 'rgb-"),
        ({"in_chans": 3, "ablate_encoders": [0, 1, 3, 4, 5]}, UsageError, "no specialist that can"),
        ({"in_chans": 3, "ablate_encoders": list(range(6))}, UsageError, "No specialist is left"),
        ({"in_chans": 3, "adapt": "learn"}, UsageError, "Did you mean 'learned'"),
    ],
)
def test_arguments_that_cannot_be_used(
    options: dict[str, Any], kind: type[EosfmError], message: str, weights: str
) -> None:
    with pytest.raises(kind) as caught:
        EosFM(weights, **options)
    assert message in f"{caught.value.message} {caught.value.hint}".replace("\n", " ")


def test_more_than_can_run_keeps_all_and_says_so(weights: str) -> None:
    with pytest.warns(UserWarning, match="5 specialists can run"):
        encoder = EosFM(weights, in_chans=3, max_encoders=6).eval()
    assert len(encoder._running()) == 5


@pytest.mark.parametrize(
    ("options", "name", "shape", "message"),
    [
        ({}, "feature_fusion.0.weight", (24, 120, 1, 1), "no parameter"),
        ({"feature_fusion": "conv1x1"}, "feature_fusion.0.weight", (24, 96, 1, 1), "expected"),
        ({"feature_fusion": "conv1x1"}, "feature_fusion.4.bias", (24,), "no parameter"),
        ({"feature_fusion": "conv1x1"}, "feature_fusion.0.0.bias", (24,), "no parameter"),
        ({"feature_fusion": "mlp"}, "feature_fusion.0.bias", (150,), "no parameter"),
        ({"feature_fusion": "mlp"}, "feature_fusion.0.1.bias", (150,), "no parameter"),
        ({"projection_layer": True}, "feature_projections.9.0.0.bias", (24,), "no parameter"),
        ({}, "encoder_selector.specialists_weights", (6,), "max_encoders"),
        ({"max_encoders": 2}, "encoder_selector.specialists_weights", (5,), "expected [6]"),
        ({}, "weight", (1,), "no parameter"),
        ({}, "feature_fusion", (1,), "no parameter"),
    ],
)
def test_published_parameters_that_do_not_fit(
    options: dict[str, Any], name: str, shape: tuple[int, ...], message: str, weights: str
) -> None:
    encoder = EosFM(weights, in_chans=3, **options)
    with pytest.raises(BundleError) as caught:
        encoder.load_published_parameters({name: torch.zeros(shape)})
    assert message in caught.value.message
    assert name in caught.value.message


def test_weights_that_are_no_numbers_are_refused(weights: str, tmp_path: Path) -> None:
    entries = torch.load(weights, weights_only=True)
    entries[1][1]["stem_0.weight"][0, 0, 0, 0] = float("nan")
    torch.save(entries, tmp_path / "nan.pth")
    with pytest.raises(BundleError, match=r"'rgb-b'.*not finite.*stem_0\.weight"):
        EosFM(tmp_path / "nan.pth", in_chans=3)
    with pytest.raises(BundleError, match="There is no file"):
        EosFM(tmp_path / "none.pth", in_chans=3)


def test_nothing_is_warned_about_without_a_reason(weights: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        EosFM(weights, in_chans=3, max_encoders=5, feature_fusion="conv1x1")


def test_legacy_is_for_comparing_not_for_pruning(weights: str) -> None:
    with pytest.raises(UsageError, match="legacy"):
        EosFM(weights, in_chans=3, legacy=True).keep(["rgb-a"])
