"""The run folder of a fit whose weights are random: what `fit-ensemble` leaves, in no time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from eosfm_cli.ensemble.bundle import write_model
from eosfm_cli.ensemble.encoder import EnsembleEncoder
from eosfm_cli.manifest import DecoderInfo, EncoderInfo, ModelManifest, SpecialistInfo
from eosfm_cli.recipe import Recipe
from eosfm_cli.run_dir import RunDir
from eosfm_cli.training.model import build_model
from tests.tiny import RECIPE

SPECIALISTS: dict[str, tuple[str, ...]] = {
    "rgb": ("red", "green", "blue"),
    "nir": ("nir", "red"),
    "s1": ("vv", "vh"),
}
BANDS = ("blue", "green", "red", "nir", "vv", "vh")
UPERNET = DecoderInfo(name="UperNetDecoder", arguments={"channels": 8, "align_corners": False})


def tiny_recipe(**changes: Any) -> Recipe:
    """The recipe of `tests.tiny`, with four images to test on and keys replaced."""
    split = {"by": "scene", "pattern": r"(\w)-", "val": ["c"], "test": ["b", "d"]}
    raw = {key: value for key, value in RECIPE.items() if "variant" not in key}
    return Recipe.model_validate(
        {
            **raw,
            "name": "tiny",
            "dataset": {**RECIPE["dataset"], "split": split},
            "bands": BANDS,
            "statistics": {b: {"mean": -10 if b[0] == "v" else 1200, "std": 300} for b in BANDS},
            **changes,
        }
    )


def random_model(
    recipe: Recipe,
    specialists: Mapping[str, Sequence[str]],
    decoder: DecoderInfo,
    **options: Any,
) -> nn.Module:
    """A model no weight of which is as it was at first, the same each time."""
    torch.manual_seed(0)
    infos = [
        SpecialistInfo(name=name, backbone="test_convnext", in_chans=len(bands), bands=bands)
        for name, bands in specialists.items()
    ]
    encoder = EnsembleEncoder(infos, recipe.bands, EncoderInfo(**options))
    model = build_model(
        encoder,
        task=recipe.task,
        decoder=decoder,
        classes=len(recipe.classes),
        pooling=recipe.pooling,
    )
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            noise = 0.1 * torch.randn_like(tensor)
            tensor.add_(noise.abs() if "running_var" in name else noise)
    return model.eval()


def write_fit(
    folder: Path,
    recipe: Recipe,
    specialists: Mapping[str, Sequence[str]] = SPECIALISTS,
    *,
    decoder: DecoderInfo = UPERNET,
    model: nn.Module | None = None,
    **options: Any,
) -> RunDir:
    """Write model and recipe of a fit."""
    model = model or random_model(recipe, specialists, decoder, **options)
    encoder = getattr(model.encoder, "encoder", model.encoder)
    manifest = ModelManifest(
        recipe=recipe.name,
        title=recipe.title,
        task=recipe.task,
        bands=recipe.bands,
        statistics=recipe.statistics,
        classes=recipe.classes,
        target=recipe.target,
        pooling=recipe.pooling,
        ignore_index=recipe.ignore_index,
        tile_size=recipe.tile.size,
        encoder=encoder.describe(),
        specialists=encoder.specialists,
        decoder=decoder,
        metrics={"mIoU": 0.5},
        energy_kwh=0.25,
    )
    run = RunDir(folder)
    folder.mkdir(parents=True)
    write_model(run.model, model.state_dict(), manifest)
    run.config.write_text(recipe.to_yaml())
    run.write_summary(kind="fit", name=recipe.name, state="completed", metrics={"mIoU": 0.5})
    return run
