"""Windows cover every pixel, and blending them gives back what one look at everything gives."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eosfm_cli.raster.mosaic import ScoredTile, blend
from eosfm_cli.raster.windows import WindowPlan, blend_weights, pad, plan_windows

plans = st.builds(
    WindowPlan,
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    size=st.integers(8, 48),
    overlap=st.integers(0, 4),
)


def cut(image, valid, plan, *, skip_empty=True):
    for tile in plan:
        rows, cols = tile.slices
        empty = skip_empty and not valid[rows, cols].any()
        yield ScoredTile(tile, None if empty else image[:, rows, cols], valid[rows, cols])


@given(plans, st.integers(0, 2**32 - 1))
def test_identity_model_gives_the_image_back(plan, seed):
    rng = np.random.default_rng(seed)
    image = rng.random((3, plan.height, plan.width), np.float32)
    valid = rng.random((plan.height, plan.width)) < 0.3
    strips = list(blend(cut(image, valid, plan), plan, 3))
    whole = np.concatenate([s.scores for s in strips], axis=1)
    assert whole.shape == image.shape
    np.testing.assert_allclose(whole[:, valid], image[:, valid], rtol=1e-4)
    np.testing.assert_array_equal(np.concatenate([s.valid for s in strips]), valid)


@given(plans)
def test_each_row_leaves_once_and_in_order(plan):
    image = np.ones((1, plan.height, plan.width), np.float32)
    strips = list(blend(cut(image, image[0] > 0, plan), plan, 1))
    rows = [row for s in strips for row in range(s.row, s.row + s.scores.shape[1])]
    assert rows == list(range(plan.height))


@given(plans)
def test_rows_leave_before_later_windows_are_read(plan):
    """Or else memory would grow with the height."""
    seen = []

    def windows():
        for item in cut(np.ones((1, plan.height, plan.width), np.float32), ones, plan):
            seen.append(item.tile.row)
            yield item

    ones = np.ones((plan.height, plan.width), bool)
    for strip in blend(windows(), plan, 1):
        assert seen[-1] <= strip.row + strip.scores.shape[1] + plan.size


@given(plans)
def test_pixels_of_skipped_windows_score_nothing(plan):
    nothing = np.zeros((plan.height, plan.width), bool)
    image = np.ones((2, plan.height, plan.width), np.float32)
    for strip in blend(cut(image, nothing, plan), plan, 2):
        assert not strip.scores.any()
        assert not strip.valid.any()


@given(st.integers(1, 70), st.integers(1, 70), st.integers(0, 40))
def test_weights_are_positive_and_at_most_one(height, width, overlap):
    weights = blend_weights(height, width, overlap)
    assert weights.shape == (height, width)
    assert weights.min() > 0
    assert weights.max() <= 1


@given(st.integers(1, 16), st.integers(1, 16))
def test_neighbours_weights_sum_to_one(half_overlap, core):
    overlap, length = 2 * half_overlap, 4 * half_overlap + core
    row = blend_weights(1, length, overlap)[0] / blend_weights(1, length, overlap)[0].max()
    np.testing.assert_allclose(row[-overlap:] + row[:overlap], 1, atol=1e-5)


@given(st.integers(1, 2000), st.integers(1, 2000), st.sampled_from([32, 64, 224, 256, 512]))
def test_plans_count_their_windows_and_keep_to_steps_of_32(height, width, size):
    plan = plan_windows(height, width, size)
    assert len(plan) == sum(1 for _ in plan)
    assert all(edge % 32 == 0 and edge <= size for edge in plan.padded)
    if size > 32:
        assert (plan.size - plan.overlap) % 32 == 0


@pytest.mark.parametrize(
    ("shape", "to"), [((5, 7), (32, 32)), ((1, 1), (32, 64)), ((33, 3), (64, 32))]
)
def test_padding_mirrors_and_keeps_the_image(shape, to):
    values = np.random.default_rng(0).random((2, *shape), np.float32)
    grown = pad(values, *to)
    assert grown.shape == (2, *to)
    np.testing.assert_array_equal(grown[:, : shape[0], : shape[1]], values)
    assert set(np.unique(grown)) == set(np.unique(values))
