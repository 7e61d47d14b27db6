"""Windows cover every pixel, and blending them gives back what one look at everything gives."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eosfm_cli.raster.carry import Carry
from eosfm_cli.raster.mosaic import Mosaic, ScoredTile, carried
from eosfm_cli.raster.windows import (
    WindowPlan,
    blend_weights,
    pad,
    plan_fitting_windows,
    plan_windows,
)

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


def blended(scored, plan, depth):
    """Every block of a plan; what one row leaves to the next goes through files."""
    with TemporaryDirectory() as folder:
        carry = Carry(Path(folder), carried(plan, depth))
        mosaic = Mosaic(plan, depth, carry)
        blocks = [mosaic.add(item) for item in scored]
        carry.close()
    return blocks


def joined(blocks, plan, depth):
    """Scores and validity of the scene, and how often each pixel was handed out."""
    scores = np.zeros((depth, plan.height, plan.width), np.float32)
    valid = np.zeros((plan.height, plan.width), bool)
    count = np.zeros((plan.height, plan.width), int)
    for block in blocks:
        place = block.tile.slices
        scores[:, *place], valid[place] = block.scores, block.valid
        count[place] += 1
    return scores, valid, count


@given(plans, st.integers(0, 2**32 - 1))
def test_identity_model_gives_the_image_back(plan, seed):
    rng = np.random.default_rng(seed)
    image = rng.random((3, plan.height, plan.width), np.float32)
    there = rng.random((plan.height, plan.width)) < 0.3
    scores, valid, count = joined(blended(cut(image, there, plan), plan, 3), plan, 3)
    np.testing.assert_allclose(scores[:, there], image[:, there], rtol=1e-4)
    np.testing.assert_array_equal(valid, there)
    assert (count == 1).all()


@given(plans, st.integers(0, 2**32 - 1))
def test_overlapping_windows_are_averaged_by_weight(plan, seed):
    rng = np.random.default_rng(seed)
    sums = np.zeros((plan.height, plan.width))
    weights = np.zeros_like(sums)
    scored = []
    for tile in plan:
        window = rng.random((1, tile.height, tile.width), np.float32)
        weight = blend_weights(tile.height, tile.width, plan.overlap)
        sums[tile.slices] += window[0] * weight
        weights[tile.slices] += weight
        scored.append(ScoredTile(tile, window, np.ones((tile.height, tile.width), bool)))
    scores, _, _ = joined(blended(scored, plan, 1), plan, 1)
    np.testing.assert_allclose(scores[0], sums / weights, rtol=1e-4)


@given(plans)
def test_blocks_leave_in_reading_order(plan):
    ones = np.ones((1, plan.height, plan.width), np.float32)
    blocks = blended(cut(ones, ones[0] > 0, plan), plan, 1)
    corners = [(block.tile.row, block.tile.col) for block in blocks]
    assert corners == sorted(corners)
    assert corners == [(tile.row, tile.col) for tile in plan]


@given(plans)
def test_pixels_of_skipped_windows_score_nothing(plan):
    nothing = np.zeros((plan.height, plan.width), bool)
    image = np.ones((2, plan.height, plan.width), np.float32)
    for block in blended(cut(image, nothing, plan), plan, 2):
        assert not block.scores.any()
        assert not block.valid.any()


@given(plans, st.data())
def test_a_row_that_broke_off_can_be_done_again(plan, data):
    """The files of the row before stay as they are until the row is finished."""
    rng = np.random.default_rng(0)
    image = rng.random((2, plan.height, plan.width), np.float32)
    ones = np.ones((plan.height, plan.width), bool)
    scored = list(cut(image, ones, plan))
    row = data.draw(st.integers(0, len(plan.rows) - 1))
    first, lost = row * len(plan.cols), data.draw(st.integers(0, len(plan.cols) - 1))
    with TemporaryDirectory() as folder:
        carry = Carry(Path(folder), carried(plan, 2))
        mosaic = Mosaic(plan, 2, carry)
        blocks = [mosaic.add(item) for item in scored[:first]]
        state = json.loads(json.dumps(carry.state))
        for item in scored[first : first + lost]:
            mosaic.add(item)
        carry.close()
        again = Carry(Path(folder), carried(plan, 2), state if row else None)
        mosaic = Mosaic(plan, 2, again)
        blocks += [mosaic.add(item) for item in scored[first:]]
        again.close()
    found, _, _ = joined(blocks, plan, 2)
    expected, _, _ = joined(blended(scored, plan, 2), plan, 2)
    np.testing.assert_array_equal(found, expected)


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


@given(plans, st.integers(1, 30))
def test_windows_are_sampled_from_all_over_the_scene(plan, count):
    tiles = plan.spread(count)
    assert 1 <= len(tiles) <= count
    everything = list(plan)
    numbers = [everything.index(tile) for tile in tiles]
    gaps = np.diff([-1, *numbers, len(plan)])
    assert gaps.max() <= -(-len(plan) // count) + 1


@given(st.integers(1, 4000), st.integers(1, 4000), st.sampled_from([256, 512, 768]))
def test_fitting_windows_compute_no_more_than_those_of_the_size(height, width, size):
    plan, usual = plan_fitting_windows(height, width, size), plan_windows(height, width, size)
    assert len(plan) * np.prod(plan.padded) <= len(usual) * np.prod(usual.padded)
    assert size * 2 // 3 <= plan.size <= size * 17 // 16
    if size == 768 and height == width > 768:
        assert len(plan) * np.prod(plan.padded) < 1.7 * height * width


@pytest.mark.parametrize(
    ("shape", "to"), [((5, 7), (32, 32)), ((1, 1), (32, 64)), ((33, 3), (64, 32))]
)
def test_padding_mirrors_and_keeps_the_image(shape, to):
    values = np.random.default_rng(0).random((2, *shape), np.float32)
    grown = pad(values, *to)
    assert grown.shape == (2, *to)
    np.testing.assert_array_equal(grown[:, : shape[0], : shape[1]], values)
    assert set(np.unique(grown)) == set(np.unique(values))
