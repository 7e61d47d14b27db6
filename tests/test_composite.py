"""One image out of several dates."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eosfm_cli.data import composite as module
from eosfm_cli.data.composite import composite
from eosfm_cli.tiling import Tile

REFERENCE = {"median": np.median, "mean": np.mean, "min": np.min, "max": np.max}


def take(series: np.ndarray, known: np.ndarray, tile: Tile, how: str) -> module.Pixels:
    dates = [
        lambda tile, t=t: (series[t][:, *tile.slices], known[t][:, *tile.slices])
        for t in range(len(series))
    ]
    return composite(dates, tile, series.shape[1], how)


@given(st.integers(1, 7), st.integers(0, 2**16), st.sampled_from(sorted(REFERENCE)), st.booleans())
def test_it_is_numpys_over_the_valid_values(
    dates: int, seed: int, how: str, whole_numbers: bool
) -> None:
    rng = np.random.default_rng(seed)
    series = rng.normal(0, 1000, (dates, 2, 3, 4)).astype(np.int16 if whole_numbers else np.float32)
    known = rng.random(series.shape) < 0.5
    values, valid = take(series, known, Tile(0, 0, 3, 4), how)
    assert values.dtype == np.float32
    assert np.array_equal(valid, known.any(axis=0))
    for place in np.ndindex(valid.shape):
        there = series[:, *place][known[:, *place]]
        expected = REFERENCE[how](there) if there.size else 0
        assert values[place] == pytest.approx(expected, rel=1e-5, abs=1e-3)


@pytest.mark.parametrize("how", sorted(REFERENCE))
def test_strips_of_a_tall_window_are_seamless(how: str) -> None:
    """A window of more values than are looked at together."""
    rows, dates = 600, 64
    series = np.random.default_rng(0).normal(size=(dates, 1, rows, 100)).astype(np.float32)
    assert series.size > module._MOST_VALUES
    known = np.ones(series.shape, bool)
    values, _ = take(series, known, Tile(3, 5, rows - 3, 95), how)
    assert values[0] == pytest.approx(REFERENCE[how](series[:, 0, 3:, 5:], axis=0), abs=1e-6)
