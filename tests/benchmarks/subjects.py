"""Tiles to learn from, and the same model twice: plain and eosfm's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import nn

from eosfm_cli.manifest import DecoderInfo
from eosfm_cli.recipe import Recipe
from eosfm_cli.training.model import build_model
from tests.benchmarks.ensembles import BANDS, images, random_ensemble, settle
from tests.benchmarks.harness import Scale
from tests.benchmarks.plain import plain_ensemble
from tests.rasters import write_tif

CLASSES = ("water", "field", "town", "forest")
VALIDATED = len(CLASSES)
"""Tiles to validate on."""
_MEAN, _STD = 1000, 300


def decoder(scale: Scale, name: str = "UperNetDecoder") -> DecoderInfo:
    """TerraTorch's decoder."""
    if name != "UperNetDecoder":
        return DecoderInfo(name=name)
    return DecoderInfo(name=name, arguments={"channels": scale.channels, "align_corners": False})


def models(
    scale: Scale, count: int, recipe: Recipe, head: DecoderInfo
) -> tuple[nn.Module, nn.Module]:
    """The plain ensemble and eosfm's under the same decoder and head, which TerraTorch builds."""
    encoder = random_ensemble(scale, count)
    ours = build_model(encoder, task=recipe.task, decoder=head, classes=len(recipe.classes))
    settle(ours, images(8, 64))
    plain = plain_ensemble(scale.backbone, encoder.state_dict())
    theirs = build_model(plain, task=recipe.task, decoder=head, classes=len(recipe.classes))
    above = {k: v for k, v in ours.state_dict().items() if not k.startswith("encoder.")}
    missing, unknown = theirs.load_state_dict(above, strict=False)
    assert not unknown
    assert all(key.startswith("encoder.") for key in missing)
    return theirs.eval(), ours.eval()


def write_tiles(root: Path, count: int, side: int) -> None:
    """Write images of three bands, one tile each, and what is there.

    Each stands in `images/` with its mask in `masks/`, and in `sorted/` in a folder of its class.
    """
    rng = np.random.default_rng(0)
    for number, x in enumerate(images(count, side).numpy()):
        cells = rng.integers(0, len(CLASSES), (-(-side // 16), -(-side // 16)))
        cover = np.kron(cells, np.ones((16, 16), int))[:side, :side]
        pixels = (_MEAN + _STD * (x + (cover[None] - 1.5))).clip(1, 10_000).astype(np.uint16)
        name = f"{number:04}.tif"
        write_tif(root / "images" / name, pixels)
        write_tif(root / "masks" / name, cover.astype(np.uint8))
        write_tif(root / "sorted" / CLASSES[number % len(CLASSES)] / name, pixels)


def tile_recipe(scale: Scale, root: Path, train: int, test: int, *, maps: bool = True) -> Recipe:
    """A recipe over `write_tiles`: `train` tiles to train on, then some to validate, then `test`.

    Args:
        scale: Of tiles, decoder and training.
        root: Where the tiles are.
        train: How many are trained on.
        test: How many are tested on.
        maps: Whether the model makes maps, or tells whole tiles apart.
    """
    names = [f"{number:04}" for number in range(train + VALIDATED + test)]
    cut = train + VALIDATED
    split = {"train": names[:train], "val": names[train:cut], "test": names[cut:]}
    spec = {"batch_size": 8, "workers": 0, "decoder_channels": scale.channels}
    path = "images/{id}.tif" if maps else "{class}/{id}.tif"
    dataset = {
        "root": str(root if maps else root / "sorted"),
        "images": {"rgb": {"path": path, "bands": list(BANDS)}},
        "split": {"by": "list", **split},
        **({"masks": {"path": "masks/{id}.tif"}} if maps else {}),
    }
    return Recipe.model_validate(
        {
            "name": "benchmark",
            "title": "Benchmark",
            "task": "segmentation" if maps else "classification",
            "dataset": dataset,
            "classes": [{"name": name} for name in CLASSES],
            "statistics": {band: {"mean": _MEAN, "std": _STD} for band in BANDS},
            "tile": {"size": scale.tile},
            "training": spec,
            "fit": {**spec, "fusion": "conv1x1", "epochs": scale.epochs, "cache": "disk"},
        }
    )
