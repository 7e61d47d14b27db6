"""Notice scenes whose values are in other units than the model was fitted on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from eosfm_cli.errors import RasterError
from eosfm_cli.raster.scale import DECIBELS, KINDS, LINEAR, Scale, Step
from eosfm_cli.tiling import Tile

if TYPE_CHECKING:
    from eosfm_cli.raster.pair import ScenePair
    from eosfm_cli.raster.scene import Scene
    from eosfm_cli.raster.windows import WindowPlan

_FAR = 20.0
"""Standard deviations between a scene's median and the model's mean that no season explains."""
_TINY = 0.02
"""Below this share of the expected mean and spread, values are in a larger unit."""
_ENOUGH = 5
"""Windows to look at."""
_LOOKS = ((_ENOUGH, 128), (40, 128), (40, 512))
"""How many windows to look into and how large a part of each, until there is enough data."""
_TOLD = 4
"""Bands that a message lists."""
_SAMPLED_PIXELS = 4000
"""Of each window, at most."""


@dataclass(frozen=True)
class Doubt:
    """A band that looks wrong."""

    band: str
    median: float
    """Of the scene."""
    mean: float
    """Of the data that the model was fitted on, as is `std`."""
    std: float

    def describe(self) -> str:
        """Write it as `blue: median 0.08 here, about 1350 ± 240 expected`."""
        return (
            f"{self.band}: median {self.median:.3g} here, about {self.mean:.3g} ± {self.std:.2g} "
            "expected"
        )


def check_units(scene: Scene | ScenePair, plan: WindowPlan, product: str = "map") -> list[str]:
    """Look at a few windows of a scene before all of them are computed.

    Args:
        scene: What is mapped.
        plan: Its windows.
        product: What is made of it, for messages.

    Returns:
        Warnings, for what may be right all the same.

    Raises:
        RasterError: The values are clearly in other units; the hint says what turns them into the
            right ones. Not where the user gave `--scale`, who then knows better.
    """
    warnings = []
    for date in scene.dates:
        mean, std = date.mean.ravel(), date.std.ravel()
        values = np.concatenate([np.empty((len(mean), 0)), *_sample(date, plan)], axis=1)
        doubts = doubtful_bands(date.bands, values, mean, std)
        fixes = {} if date.scale is not None else clear_fixes(date.bands, values, mean, std)
        if fixes:
            raise _refusal(date.name, date.bands, fixes, values, mean, std)
        if doubts:
            listed = "".join(f"\n  {doubt.describe()}" for doubt in doubts)
            warnings.append(
                f"The values of {date.name} are not those that the model was fitted on, so its "
                f"{product} will hardly be right:{listed}\nBring the scene into the same units: "
                "--scale multiplies its values."
            )
    return warnings


def doubtful_bands(
    bands: Sequence[str],
    values: NDArray[np.float32],
    mean: NDArray[np.float32],
    std: NDArray[np.float32],
) -> tuple[Doubt, ...]:
    """The bands whose values are far from those that the model was fitted on.

    Args:
        bands: Their names.
        values: Standardised sample of the scene, `(bands, pixels)`.
        mean: Of the data that the model was fitted on, one per band.
        std: Likewise.
    """
    if values.shape[1] == 0:
        return ()
    medians = np.median(values, axis=1)
    spreads = values.std(axis=1)
    original = medians * std + mean
    shrunk = (np.abs(original) < _TINY * np.abs(mean)) & (spreads < _TINY)
    return tuple(
        Doubt(band, float(original[i]), float(mean[i]), float(std[i]))
        for i, band in enumerate(bands)
        if abs(medians[i]) > _FAR or shrunk[i]
    )


def clear_fixes(
    bands: Sequence[str],
    values: NDArray[np.float32],
    mean: NDArray[np.float32],
    std: NDArray[np.float32],
) -> dict[str, Step]:
    """What would bring a scene into the model's units, where there is no doubt about it.

    That is where the values are those of another usual unit, of all bands of a kind, and fit after
    the change.

    Args:
        bands: Their names.
        values: Standardised sample of the scene, `(bands, pixels)`.
        mean: Of the data that the model was fitted on, one per band.
        std: Likewise.

    Returns:
        Band -> what to do to it; nothing where nothing is clear.
    """
    if values.shape[1] == 0:
        return {}
    found: dict[str, Step] = {}
    original = values * std[:, None] + mean[:, None]
    for choose, kind in ((_reflectance, "optical"), (_radar, "sar")):
        members = [i for i, band in enumerate(bands) if band in KINDS[kind]]
        if not members:
            continue
        names = [bands[i] for i in members]
        step = choose(original[members], mean[members], std[members])
        if step is not None and _fits(names, original[members], step, mean[members], std[members]):
            found.update(dict.fromkeys(names, step))
    return found


# --------------------------------------------------------------------------- kinds of bands


_FACTORS = {
    ("unit", "ten thousand"): 10_000.0,
    ("ten thousand", "unit"): 0.0001,
    ("unit", "byte"): 255.0,
    ("byte", "unit"): 1 / 255,
}
"""What is given, what is expected -> what to multiply with."""


def _reflectance(
    values: NDArray[np.float64], mean: NDArray[np.float32], std: NDArray[np.float32]
) -> Step | None:
    """From 0 to 1, from 0 to 255, or from 0 to 10,000."""
    low, high = np.percentile(values, [1, 99], axis=1)
    if mean.min() <= 0 or (std > 3 * mean).any() or low.min() < -0.25 * high.max():
        return None
    expected = _unit(float((mean + 2 * std).max()))
    return _FACTORS.get((_unit(float(high.max())), expected))


def _unit(largest: float) -> str:
    if largest <= 3:
        return "unit"
    if largest <= 350:
        return "byte"
    return "ten thousand" if largest <= 40_000 else "unknown"


def _radar(
    values: NDArray[np.float64], mean: NDArray[np.float32], std: NDArray[np.float32]
) -> Step | None:
    """Linear backscatter is above 0 and mostly below 1; decibels are mostly below 0."""
    low, high = np.percentile(values, [1, 99], axis=1)
    if mean.max() < -3 and low.min() >= -1e-3 and high.max() < 20:
        return DECIBELS
    if mean.min() > 0 and (mean + 2 * std).max() < 20 and np.median(values, axis=1).max() < -3:
        return LINEAR
    return None


def _fits(
    bands: Sequence[str],
    values: NDArray[np.float64],
    step: Step,
    mean: NDArray[np.float32],
    std: NDArray[np.float32],
) -> bool:
    """Whether values are wrong as they are, and right after the change."""
    standard = (values - mean[:, None]) / std[:, None]
    doubted = len(doubtful_bands(bands, standard, mean, std))
    # Radar in the other unit may fit by chance, but never has the sign that was looked at before.
    if step not in (DECIBELS, LINEAR) and 2 * doubted < len(bands):
        return False
    changed = values.astype(np.float32)
    with np.errstate(all="ignore"):
        Scale(step).apply(bands, changed)
    changed = changed[:, np.isfinite(changed).all(axis=0)]
    after = (changed - mean[:, None]) / std[:, None]
    return bool(after.size) and not doubtful_bands(bands, after, mean, std)


def _refusal(
    name: str,
    bands: Sequence[str],
    fixes: dict[str, Step],
    values: NDArray[np.float32],
    mean: NDArray[np.float32],
    std: NDArray[np.float32],
) -> RasterError:
    medians = np.median(values, axis=1) * std + mean
    told = [
        Doubt(band, float(medians[i]), float(mean[i]), float(std[i])).describe()
        for i, band in enumerate(bands)
        if band in fixes
    ]
    if len(told) > _TOLD:
        told = [*told[:_TOLD], f"and {len(told) - _TOLD} more"]
    listed = "".join(f"\n  {line}" for line in told)
    return RasterError(
        f"The values of {name} are in other units than those that the model was fitted on:{listed}",
        hint=f"Turn them into the model's units with --scale {_option(bands, fixes)}; if they are "
        "right as they are, say so with --scale 1.",
    )


def _option(bands: Sequence[str], fixes: dict[str, Step]) -> str:
    """What to give with `--scale`, in few words."""
    if len(fixes) == len(bands) and len(set(fixes.values())) == 1:
        return _written(fixes[bands[0]])
    rest, words = dict(fixes), []
    for kind, members in KINDS.items():
        found = [band for band in bands if band in members]
        if found and len({rest.get(band) for band in found}) == 1 and found[0] in rest:
            words.append(f"{kind}={_written(rest[found[0]])}")
            rest = {band: step for band, step in rest.items() if band not in found}
    return ",".join([*words, *(f"{band}={_written(step)}" for band, step in rest.items())])


def _written(step: Step) -> str:
    return f"{step:.6g}" if isinstance(step, float) else step


# --------------------------------------------------------------------------- the sample


def _sample(scene: Scene, plan: WindowPlan) -> Iterator[NDArray[np.float32]]:
    """Pixels with a value, `(bands, pixels)`, of windows all over the scene."""
    found = 0
    for count, edge in _LOOKS:
        for tile in plan.spread(count):
            pixels = scene.read(_middle(tile, edge))
            if pixels.valid.any():
                values = pixels.values[:, pixels.valid]
                yield values[:, :: -(-values.shape[1] // _SAMPLED_PIXELS)]
                found += 1
            if found == _ENOUGH:
                return
        if found:
            return


def _middle(tile: Tile, edge: int) -> Tile:
    """The middle of a window; all of a small one."""
    height, width = min(tile.height, edge), min(tile.width, edge)
    row, col = tile.row + (tile.height - height) // 2, tile.col + (tile.width - width) // 2
    return Tile(row, col, height, width)
