"""Mapping a scene, against TerraTorch's tiled inference of the same model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from eosfm_cli.training.model import FittedModel, Logits, load_model
from tests.benchmarks.encoding import ROUNDED
from tests.benchmarks.ensembles import images
from tests.benchmarks.harness import Benchmark, Figures, Row, Scale, against, difference, within
from tests.benchmarks.predict_scene import Options, bare, make_scene, mapped, tiled
from tests.benchmarks.subjects import decoder, models, tile_recipe
from tests.fits import write_fit

_SPECIALISTS = 3
_CHANNELS = 64
_TILE = 256
_EQUAL, _SAME = 1e-5, 1e-3
"""Relative distance of outputs, and share of pixels that may be of another class: where two classes
are as good as equal, rounding decides."""


def scene(scale: Scale, folder: Path) -> Benchmark:
    """From a scene's file to a map's, in full precision."""
    return _prediction(scale, folder, "32-true", ("≥ 1.6 ×", "≥ 0.85 ×"), _EQUAL, _SAME)


def scene_bf16(scale: Scale, folder: Path) -> Benchmark:
    """The same in half precision, ours alone."""
    return _prediction(scale, folder, "bf16", ("≥ 2.5 ×", "≥ 0.85 ×"), ROUNDED, 5e-2)


def _prediction(
    scale: Scale, folder: Path, precision: str, aims: tuple[str, str], equal: float, same: float
) -> Benchmark:
    """TerraTorch's tiles are its usual ones, and the model that it runs is the plain one."""
    small = replace(scale, tile=_TILE, channels=min(scale.channels, _CHANNELS))
    recipe, head = tile_recipe(small, folder, train=1, test=1), decoder(small)
    plain, ours = models(small, _SPECIALISTS, recipe, head)
    path = write_fit(folder / "fit", recipe, decoder=head, model=ours).model
    fitted = load_model(path, precision)
    published = FittedModel(fitted.manifest, Logits(plain).eval())
    options = Options(folder, path, path, 1, scale.scene, ())
    whole, corner = folder / "scene.tif", folder / "corner.tif"
    make_scene(whole, path, scale.scene, 1)
    make_scene(corner, path, min(scale.scene, 3 * _TILE), 1)

    def check() -> str:
        x = images(2, _TILE)
        with torch.inference_mode():
            found = difference([published.module(x)], [fitted.module(x)])
        maps = [mapped(corner, model, options) for model in (published, fitted)]
        other = float((maps[0] != maps[1]).mean())
        tiled(corner, published, folder / "tt.tif")
        within(found, equal)
        return within(other, same, "share of pixels of another class")

    def rows(found: Figures) -> list[Row]:
        title = f"prediction, {scale.scene:,}², {precision}"
        return [
            against(found, f"{title}, and TerraTorch's tiled inference", "plain", "eosfm", aims[0]),
            against(found, f"{title}, and the bare forward of its model", "bare", "eosfm", aims[1]),
        ]

    ways = {
        "plain": lambda: tiled(whole, published, folder / "tt.tif"),
        "bare": bare(whole, fitted),
        "eosfm": lambda: mapped(whole, fitted, options),
    }
    return Benchmark(ways, check, rows)
