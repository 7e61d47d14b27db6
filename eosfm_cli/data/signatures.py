"""What Sentinel-2 and Sentinel-1 would see of an imagined place.

Reflectances follow the published shape of each surface's curve at Sentinel-2's band centres (the
ECOSTRESS and USGS spectral libraries: green peak and red edge of plants, water absorption near
1.4 µm, the steady rise of soils, flat concrete, dark water). Backscatter follows published C-band
means: rough fields and grass around -12 dB in VV, forests around -9, double bounce between
houses, or trunks and water, of -7 to -4, and smooth water below -17; VH is 5 to 9 dB lower. No
pixel comes from any image.

The sensors complement each other as they do in nature: bare soil and roofs look alike in visible
light, not to radar; flooded plants look like dry ones, except for their double bounce; crops and
grass differ in red edge and short-wave infrared only; clouds hide the ground from one sensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eosfm_cli.data.landscape import Cover, Landscape, blur, noise

_VISIBLE_AND_RED_EDGE = ("B01", "B02", "B03", "B04", "B05", "B06", "B07")
_INFRARED = ("B08", "B8A", "B09", "B10", "B11", "B12")
OPTICAL = (*_VISIBLE_AND_RED_EDGE, *_INFRARED)
RADAR = ("VV", "VH")

# In the order of OPTICAL.
_REFLECTANCE_PERCENT = {
    Cover.WATER: (6.0, 5.5, 5.2, 3.8, 3.2, 2.4, 2.2, 2.0, 1.8, 1.4, 0.1, 1.2, 0.8),
    Cover.FOREST: (2.6, 2.9, 4.6, 3.0, 7.8, 19.5, 24.5, 26.5, 27.5, 25.5, 0.2, 14.0, 6.8),
    Cover.CROPLAND: (3.4, 4.2, 7.2, 5.2, 11.6, 25.5, 31.0, 33.0, 34.5, 32.0, 0.2, 20.0, 10.5),
    Cover.GRASSLAND: (3.5, 4.3, 7.3, 5.5, 12.6, 23.0, 27.0, 29.0, 30.5, 28.5, 0.2, 24.5, 14.0),
    Cover.FLOODED_VEGETATION: (
        2.9,
        3.4,
        5.6,
        4.0,
        9.2,
        19.5,
        23.5,
        25.0,
        26.0,
        24.0,
        0.2,
        15.0,
        7.6,
    ),
    Cover.BUILT_UP: (9.5, 11.2, 13.2, 15.0, 16.2, 17.4, 18.4, 19.4, 20.2, 19.8, 0.3, 22.5, 20.0),
    Cover.BARE_SOIL: (8.8, 10.4, 13.0, 15.6, 17.4, 18.8, 20.0, 21.2, 22.4, 22.0, 0.3, 27.0, 23.0),
}
# VV, VH.
_BACKSCATTER_DB = {
    Cover.WATER: (-18.5, -26.0),
    Cover.FOREST: (-9.3, -14.8),
    Cover.CROPLAND: (-12.0, -18.3),
    Cover.GRASSLAND: (-12.8, -19.2),
    Cover.FLOODED_VEGETATION: (-6.6, -15.6),
    Cover.BUILT_UP: (-5.0, -12.6),
    Cover.BARE_SOIL: (-13.6, -21.6),
}
_CLOUD_PERCENT = (58, 57, 56, 57, 58, 59, 60, 60, 60, 40, 6, 38, 28)
_PSF_10_M = dict.fromkeys(("B02", "B03", "B04", "B08"), 0.5)
_PSF_60_M = dict.fromkeys(("B01", "B09", "B10"), 2.5)
_PSF_PX = _PSF_10_M | _PSF_60_M
_PSF_20_M_PX = 0.9
_LOOKS = 5.0


@dataclass(frozen=True)
class Region:
    """How one part of the world differs from the textbook."""

    vigour: float = 0.85
    """Mean share of green in vegetated pixels; the rest is soil."""
    soil: float = 1.0
    """Brightness of soil and roofs."""
    dryness: float = 1.0
    """Factor on short-wave infrared."""
    backscatter_db: float = 0.0
    """Offset of all land, as moist soil causes."""


def optical(place: Landscape, region: Region, rng: np.random.Generator) -> np.ndarray:
    """Sentinel-2 of a place: 13 bands in `OPTICAL`'s order, uint16, reflectance × 10 000."""
    ground = _ground(place, region, rng) * _light(place, rng)
    shape = place.cover.shape
    cloud, shadow = _clouds(shape, rng)
    seen = ground * (1 - 0.6 * shadow)
    white = _column(_CLOUD_PERCENT) / 100 * (1 + 0.12 * noise(shape, 4, rng))
    seen = seen * (1 - cloud) + white * cloud
    for layer, band in zip(seen, OPTICAL, strict=True):
        layer[:] = blur(layer, _PSF_PX.get(band, _PSF_20_M_PX))
    seen += 0.0025 * rng.standard_normal(seen.shape, np.float32)
    return (seen * 10_000).round().clip(1, 16_000).astype(np.uint16)


def _column(values: Sequence[float] | np.ndarray) -> np.ndarray:
    """One value per band as `(c, 1, 1)`, in single precision."""
    return np.array(values, np.float32)[:, None, None]


def _ground(place: Landscape, region: Region, rng: np.random.Generator) -> np.ndarray:
    """Reflectance `(13, h, w)` of the ground: each pixel mixes its surface with soil or green."""
    shape = place.cover.shape
    curves = np.array([_REFLECTANCE_PERCENT[cover] for cover in Cover], np.float32) / 100
    curves[:, -2:] *= region.dryness
    curves[[Cover.BUILT_UP, Cover.BARE_SOIL]] *= region.soil
    # Parcels differ as whole, plants within them a little.
    parcel = rng.standard_normal((2, place.field.max() + 1), np.float32)[:, place.field]
    vigour = region.vigour + 0.08 * parcel[0] + 0.05 * noise(shape, 6, rng)
    vigour += 0.06 * noise(shape, 1.2, rng)
    brightness = 1 + 0.07 * parcel[1] + 0.08 * noise(shape, 8, rng) + 0.06 * noise(shape, 1, rng)
    tilt = 0.06 * noise(shape, 5, rng) * _column(np.linspace(-1, 1, len(OPTICAL)))
    return _mixed(place, curves, vigour.clip(0.3, 1)) * brightness * (1 + tilt)


def _mixed(place: Landscape, curves: np.ndarray, vigour: np.ndarray) -> np.ndarray:
    """Blend plants with soil and towns with gardens, band by band."""
    cover = place.cover
    plants = np.isin(
        cover, (Cover.FOREST, Cover.CROPLAND, Cover.GRASSLAND, Cover.FLOODED_VEGETATION)
    )
    town = cover == Cover.BUILT_UP
    other = np.where(town, Cover.GRASSLAND, Cover.BARE_SOIL)
    share = np.where(plants, 1 - vigour, np.where(town, place.garden, 0))
    return np.stack([band[cover] * (1 - share) + band[other] * share for band in curves.T])


def _light(place: Landscape, rng: np.random.Generator) -> np.ndarray:
    """Brightness of slopes towards and away from the sun; flat water has none."""
    down, right = np.gradient(place.relief)
    slope = 0.5 * (right + down) / np.abs(down).max() + 0.02 * noise(place.cover.shape, 2, rng)
    return np.where(place.cover == Cover.WATER, 1, 1 + 0.25 * slope)


def _clouds(shape: tuple[int, int], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Opacity of clouds and of their shadows, 0 to 1, with soft edges."""
    field = noise(shape, 13, rng) + 0.35 * noise(shape, 4, rng) + 0.15 * noise(shape, 1.5, rng)
    edge = np.quantile(field, 1 - rng.uniform(0.1, 0.2))
    cloud = np.clip((field - edge) / 0.35, 0, 1)
    offset = rng.integers(7, 13, 2) * (1, -1)
    shadow = np.roll(cloud, offset, axis=(0, 1))
    return cloud, shadow * (1 - cloud)


def radar(place: Landscape, region: Region, rng: np.random.Generator) -> np.ndarray:
    """Sentinel-1 of a place: VV and VH, float32 dB, with the speckle of a few looks."""
    shape = place.cover.shape
    means = np.array([_BACKSCATTER_DB[cover] for cover in Cover])
    means[1:] += region.backscatter_db
    means[Cover.WATER] += rng.uniform(-1.5, 2.5)  # wind roughens water
    parcel = rng.standard_normal(place.field.max() + 1)[place.field]
    slope = np.gradient(place.relief, axis=1)
    both = 0.7 * parcel + 0.7 * noise(shape, 6, rng) + 0.4 * noise(shape, 1, rng)
    both += 0.6 * slope / slope.std()
    town = place.cover == Cover.BUILT_UP
    both += town * (2.0 * noise(shape, 1, rng) - 6 * (place.garden - 0.3))
    return np.stack([_speckled(means[place.cover, i] + both, rng) for i in range(len(RADAR))])


def _speckled(level_db: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blur power over the footprint and multiply it by gamma-distributed speckle."""
    power = blur(10 ** (level_db / 10), 0.6).clip(1e-4)
    return (10 * np.log10(power * rng.gamma(_LOOKS, 1 / _LOOKS, power.shape))).astype(np.float32)
