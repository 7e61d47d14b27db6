"""Land cover of imagined places: a river, lakes, wetlands, fields, woods, towns.

Everything follows from smooth random fields, so that shapes repeat in kind but never in detail.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np


class Cover(IntEnum):
    """Land-cover classes, as the masks write them."""

    WATER = 0
    FOREST = 1
    CROPLAND = 2
    GRASSLAND = 3
    FLOODED_VEGETATION = 4
    BUILT_UP = 5
    BARE_SOIL = 6


@dataclass(frozen=True)
class Landscape:
    """One place; every array is `(h, w)`."""

    cover: np.ndarray
    """`Cover` of each pixel, uint8."""
    field: np.ndarray
    """Number of the parcel a pixel lies in, whatever grows there."""
    garden: np.ndarray
    """Share of green between the houses of a town, 0 to 1."""
    relief: np.ndarray
    """Height, zero mean and unit variance."""


Shape = tuple[int, int]


def noise(shape: Shape, scale_px: float, rng: np.random.Generator) -> np.ndarray:
    """A smooth random field with zero mean and unit variance.

    Args:
        shape: Rows and columns.
        scale_px: Standard deviation of the Gaussian that smooths it.
        rng: Where chance comes from.
    """
    half = (shape[0], shape[1] // 2 + 1)
    white = rng.standard_normal(half, np.float32) + 1j * rng.standard_normal(half, np.float32)
    field = np.fft.irfft2(white * _gaussian(shape, scale_px), s=shape)
    return (field - field.mean()) / field.std()


def blur(field: np.ndarray, scale_px: float) -> np.ndarray:
    """Smooth `(h, w)` by a Gaussian; the edges wrap around."""
    return np.fft.irfft2(np.fft.rfft2(field) * _gaussian(field.shape, scale_px), s=field.shape)


def _gaussian(shape: Shape, scale_px: float) -> np.ndarray:
    """What a Gaussian leaves of each frequency of a real field, in single precision."""
    rows = np.exp(-2 * (np.pi * scale_px * np.fft.fftfreq(shape[0])) ** 2)
    cols = np.exp(-2 * (np.pi * scale_px * np.fft.rfftfreq(shape[1])) ** 2)
    return np.outer(rows, cols).astype(np.float32)


def _top(field: np.ndarray, share: float) -> np.ndarray:
    """Where a field has its highest values, `share` of all pixels."""
    return field > np.quantile(field, 1 - share)


def imagine(shape: Shape, rng: np.random.Generator) -> Landscape:
    """Make up one place of `shape` pixels, 10 m each."""
    relief = noise(shape, 28, rng) + 0.4 * noise(shape, 9, rng)
    river = _distance_to_river(shape, rng)
    field = _parcels(shape, rng)
    cover = _farmland(field, noise(shape, 30, rng) - 0.4 * relief, rng)
    cover[_top(relief + 0.7 * noise(shape, 12, rng) + 0.35 * noise(shape, 2.5, rng), 0.22)] = (
        Cover.FOREST
    )
    cover[_top(noise(shape, 5, rng) + 0.3 * noise(shape, 1.5, rng), 0.012)] = Cover.BARE_SOIL
    town, garden = _towns(shape, relief, rng)
    cover[town] = Cover.BUILT_UP
    width = 2.5 + 1.2 * noise(shape, 20, rng)
    wetness = -river / 14 + 0.8 * noise(shape, 10, rng) + 0.3 * noise(shape, 2, rng) - 0.3 * relief
    cover[_top(np.where(town, -9, wetness), 0.11)] = Cover.FLOODED_VEGETATION
    lake = _top(-relief + 0.2 * noise(shape, 6, rng), 0.035)
    cover[lake | (river < width)] = Cover.WATER
    return Landscape(cover, field, garden, relief / relief.std())


def _distance_to_river(shape: Shape, rng: np.random.Generator) -> np.ndarray:
    """Pixels to a river that crosses the place: the zero line of a tilted random field."""
    row, col = np.mgrid[: shape[0], : shape[1]]
    angle = rng.uniform(0, np.pi)
    across = (col - shape[1] / 2) * np.cos(angle) + (row - shape[0] / 2) * np.sin(angle)
    field = (across + rng.uniform(-0.2, 0.2) * min(shape)) / 30 + 0.75 * noise(shape, 24, rng)
    return np.abs(field) / (np.hypot(*np.gradient(field)) + 0.01)


def _parcels(shape: Shape, rng: np.random.Generator) -> np.ndarray:
    """Rectangular fields in strips, turned by one angle: a number for each pixel."""
    row, col = np.mgrid[: shape[0], : shape[1]]
    angle = rng.uniform(0, np.pi / 2)
    along = col * np.cos(angle) + row * np.sin(angle)
    across = row * np.cos(angle) - col * np.sin(angle)
    strips = np.cumsum(rng.uniform(9, 20, size=2 * sum(shape) // 9))
    strip = np.searchsorted(strips, across - across.min())
    length, offset = rng.uniform(14, 40, strips.size), rng.uniform(0, 40, strips.size)
    cell = ((along - along.min() + offset[strip]) / length[strip]).astype(int)
    return np.unique(strip * 10_000 + cell, return_inverse=True)[1].reshape(shape)


def _farmland(field: np.ndarray, suitability: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Whole parcels of crops, ploughed soil and meadow where the land suits; grass elsewhere."""
    size = np.bincount(field.ravel())
    suits = np.bincount(field.ravel(), suitability.ravel()) / size
    uses = rng.choice(
        [Cover.CROPLAND, Cover.BARE_SOIL, Cover.GRASSLAND], size=size.size, p=[0.55, 0.22, 0.23]
    )
    uses[suits < np.quantile(suits, 0.35)] = Cover.GRASSLAND
    return uses.astype(np.uint8)[field]


def _towns(
    shape: Shape, relief: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Towns on gentle ground, and the share of green in them: little on streets, much in parks."""
    row, col = np.mgrid[: shape[0], : shape[1]]
    town = np.zeros(shape, bool)
    ragged = 0.22 * noise(shape, 5, rng) + 0.12 * noise(shape, 1.5, rng)
    for _ in range(max(2, round(shape[0] * shape[1] / 22_000))):
        centre = rng.uniform(0.12, 0.88, 2) * shape
        radius = rng.uniform(11, 30)
        town |= np.hypot(row - centre[0], col - centre[1]) / radius + ragged < 1
    angle, block = rng.uniform(0, np.pi / 2), rng.uniform(6, 9)
    along = col * np.cos(angle) + row * np.sin(angle)
    across = row * np.cos(angle) - col * np.sin(angle)
    street = np.minimum(along % block, across % (1.4 * block)) < 1.2
    garden = np.clip(0.3 + 0.2 * noise(shape, 1.2, rng) + 0.1 * noise(shape, 6, rng), 0, 0.75)
    return town & (relief < np.quantile(relief, 0.92)), np.where(street, 0.05, garden)
