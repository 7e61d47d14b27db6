"""Coarser rasters on a finer grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from rasterio.enums import Resampling
from rasters import write_tif

from eosfm_cli.data.resampling import Pixels, covers, resampled
from eosfm_cli.tiling import Tile

Case = tuple[np.ndarray, np.ndarray, tuple[int, int], Tile]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """A coarse image, where it is valid, the size of the finer grid, and a window of that."""
    coarse = draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
    factor = draw(st.integers(1, 6))
    fine = tuple(max(n, n * factor - draw(st.integers(0, factor // 2))) for n in coarse)
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    values = rng.normal(size=(2, *coarse)).astype(np.float32)
    valid = rng.random(values.shape) < draw(st.sampled_from([0, 0.5, 1]))
    row, col = (draw(st.integers(0, n - 1)) for n in fine)
    size = draw(st.integers(1, fine[0] - row)), draw(st.integers(1, fine[1] - col))
    return values, valid, fine, Tile(row, col, *size)


def reading(values: np.ndarray, valid: np.ndarray, fine: tuple[int, int], method: str) -> object:
    """What reads windows of the finer grid; the file is asked for what it has alone."""

    def window(tile: Tile) -> Pixels:
        assert tile.row >= 0 <= tile.col
        assert tile.row + tile.height <= values.shape[1]
        assert tile.col + tile.width <= values.shape[2]
        return values[:, *tile.slices], valid[:, *tile.slices]

    return lambda tile: resampled(window, tile, coarse=values.shape[1:], fine=fine, method=method)


@given(cases(), st.sampled_from(["nearest", "bilinear"]))
def test_any_window_equals_that_of_the_whole(case: Case, method: str) -> None:
    values, valid, fine, tile = case
    read = reading(values, valid, fine, method)
    for window, whole in zip(read(tile), read(Tile(0, 0, *fine)), strict=True):
        assert np.array_equal(window, whole[:, *tile.slices])


@given(cases())
def test_a_hole_elsewhere_changes_nothing(case: Case) -> None:
    """Where all is valid a shorter way is taken: to the same values, bit by bit."""
    values, _, fine, _ = case
    whole, holed = np.ones(values.shape, bool), np.ones(values.shape, bool)
    holed[1, 0, 0] = False
    (one, _), (other, _) = (
        reading(values, valid, fine, "bilinear")(Tile(0, 0, *fine)) for valid in (whole, holed)
    )
    assert np.array_equal(one[0], other[0])


@given(cases())
def test_nodata_never_mixes_in(case: Case) -> None:
    values, valid, fine, _ = case
    values[~valid] = 1e6
    found, there = reading(values, valid, fine, "bilinear")(Tile(0, 0, *fine))
    _, nearest = reading(values, valid, fine, "nearest")(Tile(0, 0, *fine))
    assert np.array_equal(there, nearest)
    assert (np.abs(found[there]) < 10).all()


@pytest.mark.parametrize("method", ["nearest", "bilinear"])
@pytest.mark.parametrize("factor", [2, 3, 6])
def test_pixel_centres_are_those_of_gdal(tmp_path: Path, method: str, factor: int) -> None:
    values = np.random.default_rng(0).normal(size=(2, 7, 5)).astype(np.float32)
    fine = (7 * factor, 5 * factor)
    with rasterio.open(write_tif(tmp_path / "a.tif", values)) as raster:
        expected = raster.read(out_shape=(2, *fine), resampling=Resampling[method])
    found, _ = reading(values, np.ones(values.shape, bool), fine, method)(Tile(0, 0, *fine))
    assert found == pytest.approx(expected, abs=1e-5)


def test_a_value_beside_nodata_keeps_its_level() -> None:
    values = np.array([[[10, -9999]]], np.float32)
    found, valid = reading(values, values > 0, (2, 4), "bilinear")(Tile(0, 0, 2, 4))
    assert found[0].tolist() == [[10, 10, 0, 0]] * 2
    assert valid[0].tolist() == [[True, True, False, False]] * 2


@pytest.mark.parametrize(
    ("coarse", "fine", "fits"),
    [
        ((60, 60), (120, 120), True),
        ((1000, 1000), (2000, 2000), True),
        ((1000, 1001), (2000, 2001), True),
        ((120, 120), (120, 120), True),
        ((20, 20), (120, 60), False),
        ((240, 240), (120, 120), False),
        ((100, 90), (200, 200), False),
    ],
)
def test_which_sizes_cover_the_same_extent(
    coarse: tuple[int, int], fine: tuple[int, int], fits: bool
) -> None:
    assert covers(coarse, fine) is fits
