"""Tiles cover an image, stay inside it, and overlap no more than they must."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eosfm_cli.tiling import Tile, grid, offsets, random_tile, round_up

lengths = st.integers(1, 300)


@st.composite
def strides(draw: st.DrawFn) -> tuple[int, int, int]:
    size = draw(st.integers(1, 128))
    return draw(lengths), size, draw(st.integers(1, size))


@given(strides())
def test_offsets_cover_every_pixel_and_end_flush(case: tuple[int, int, int]) -> None:
    length, size, stride = case
    starts = offsets(length, size, stride)
    covered = {pixel for start in starts for pixel in range(start, min(start + size, length))}
    assert covered == set(range(length))
    assert starts[0] == 0
    assert starts[-1] == max(length - size, 0)


@given(strides())
def test_offsets_are_a_stride_apart_but_for_the_last(case: tuple[int, int, int]) -> None:
    length, size, stride = case
    starts = offsets(length, size, stride)
    steps = [after - before for before, after in itertools.pairwise(starts)]
    assert all(step == stride for step in steps[:-1])
    assert all(0 < step <= stride for step in steps[-1:])


@given(lengths, st.integers(1, 128))
def test_no_more_tiles_than_needed(length: int, size: int) -> None:
    assert len(offsets(length, size, size)) == -(-length // size)


@pytest.mark.parametrize(("length", "size", "stride"), [(0, 4, 4), (4, 0, 1), (4, 4, 0), (9, 2, 3)])
def test_tiles_that_cannot_cover_are_refused(length: int, size: int, stride: int) -> None:
    with pytest.raises(ValueError, match="cannot cover"):
        offsets(length, size, stride)


@given(lengths, lengths, st.integers(16, 128))
def test_grid_tiles_are_whole_and_inside(height: int, width: int, size: int) -> None:
    tiles = list(grid(height, width, size))
    assert len(set(tiles)) == len(tiles)
    assert tiles == sorted(tiles, key=lambda tile: (tile.row, tile.col))
    for tile in tiles:
        assert (tile.height, tile.width) == (min(size, height), min(size, width))
        assert 0 <= tile.row <= height - tile.height
        assert 0 <= tile.col <= width - tile.width


def test_a_tile_indexes_an_array() -> None:
    assert Tile(2, 3, 4, 5).slices == (slice(2, 6), slice(3, 8))


@given(lengths, lengths, st.integers(1, 128), st.integers())
def test_random_tiles_are_inside_and_repeatable(
    height: int, width: int, size: int, seed: int
) -> None:
    tile = random_tile(height, width, size, random.Random(seed))
    assert tile == random_tile(height, width, size, random.Random(seed))
    assert (tile.height, tile.width) == (min(size, height), min(size, width))
    assert 0 <= tile.row <= height - tile.height
    assert 0 <= tile.col <= width - tile.width


def test_random_tiles_reach_every_position() -> None:
    rng = random.Random(0)
    drawn = {(t.row, t.col) for t in (random_tile(5, 4, 3, rng) for _ in range(200))}
    assert drawn == {(row, col) for row in range(3) for col in range(2)}


@given(lengths, st.integers(1, 64))
def test_round_up_is_the_next_multiple(length: int, multiple: int) -> None:
    rounded = round_up(length, multiple)
    assert rounded % multiple == 0
    assert 0 <= rounded - length < multiple
