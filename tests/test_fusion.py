"""Fusion: from the features of several views to one pyramid."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from eosfm_cli.ensemble.fusion import (
    Addition,
    Concat,
    Conv1x1,
    Mlp,
    Multiplication,
    build_fusion,
)
from eosfm_cli.manifest import EncoderInfo

WIDTHS = ((4, 6), (8, 2), (4, 6))


def views(widths: tuple[tuple[int, ...], ...] = WIDTHS) -> list[list[torch.Tensor]]:
    torch.manual_seed(1)
    return [[torch.randn(2, c, 8 // 2**i, 8 // 2**i) for i, c in enumerate(w)] for w in widths]


def test_a_1x1_convolution_over_all_views_without_stacking_them() -> None:
    fusion, features = Conv1x1(WIDTHS, [5, 7]), views()
    for index, level in enumerate(fusion(features)):
        weight = torch.cat([view[index].weight for view in fusion.views], dim=1)
        stacked = torch.cat([view[index] for view in features], dim=1)
        want = F.conv2d(stacked, weight, fusion.bias[index].flatten())
        torch.testing.assert_close(level, want, rtol=1e-4, atol=1e-5)


def test_an_mlp_has_a_hidden_layer_a_quarter_wider_than_what_comes_in() -> None:
    fusion, features = Mlp(WIDTHS, [5, 7]), views()
    assert fusion.hidden_channels == [20, 17]
    assert fusion.out_channels == [5, 7]
    for index, level in enumerate(fusion(features)):
        weight = torch.cat([view[index].weight for view in fusion.first.views], dim=1)
        stacked = torch.cat([view[index] for view in features], dim=1)
        hidden = F.relu(F.conv2d(stacked, weight, fusion.first.bias[index].flatten()))
        torch.testing.assert_close(level, fusion.second[index](hidden), rtol=1e-4, atol=1e-5)


def test_sums_and_products() -> None:
    widths = ((3, 5),) * 3
    features = views(widths)
    summed, product = Addition(widths)(features), Multiplication(widths)(features)
    for index in range(2):
        stacked = torch.stack([view[index] for view in features])
        torch.testing.assert_close(summed[index], stacked.sum(0))
        torch.testing.assert_close(product[index], stacked.prod(0))


@pytest.mark.parametrize(
    ("fusion", "expected"),
    [("concat", [16, 14]), ("conv1x1", [12, 18]), ("mlp", [12, 18])],
)
def test_widths_that_come_out(fusion: str, expected: list[int]) -> None:
    options = EncoderInfo(fusion=fusion, fuse_to_mult=1 if fusion == "concat" else 3)
    assert build_fusion(options, WIDTHS, "abc").out_channels == expected


def _build(fusion: str) -> Concat | Conv1x1 | Mlp | Addition:
    torch.manual_seed(0)
    return build_fusion(EncoderInfo(fusion=fusion), ((4, 6),) * 4, "abcd")


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(["concat", "conv1x1", "mlp", "addition", "multiplication"]),
    st.sets(st.integers(0, 3), min_size=1),
)
def test_what_is_not_computed_is_the_neutral_element(fusion: str, present: set[int]) -> None:
    module, features = _build(fusion), views(((4, 6),) * 4)
    neutral = [
        view if i in present else [torch.full_like(level, module.neutral) for level in view]
        for i, view in enumerate(features)
    ]
    missing = [view if i in present else None for i, view in enumerate(features)]
    for level, want in zip(module(missing), module(neutral), strict=True):
        torch.testing.assert_close(level, want, rtol=1e-4, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(["conv1x1", "mlp", "addition", "multiplication"]),
    st.sets(st.integers(0, 3), min_size=1),
)
def test_keeping_views_equals_missing_the_others(fusion: str, present: set[int]) -> None:
    module, features = _build(fusion), views(((4, 6),) * 4)
    order = sorted(present)
    kept = module.keep(order, [1.0] * len(order))
    missing = [view if i in present else None for i, view in enumerate(features)]
    for level, want in zip(kept([features[i] for i in order]), module(missing), strict=True):
        torch.testing.assert_close(level, want, rtol=1e-4, atol=1e-5)
