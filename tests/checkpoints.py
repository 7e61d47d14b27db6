"""Tiny specialists and checkpoints, as eosfm, TerraTorch and strangers write them."""

from __future__ import annotations

import json
import pickle
import zipfile
import zlib
from pathlib import Path
from typing import Any

import timm
import torch

from eosfm_cli.ensemble.specialist import Specialist
from eosfm_cli.manifest import SpecialistInfo
from eosfm_cli.recipe import BandStatistics

BACKBONE = "test_convnext"
PARAMETERS_3 = 207000
"""Of the backbone with three channels."""


def tiny_state(in_chans: int = 3, seed: int = 0) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return timm.create_model(BACKBONE, features_only=True, in_chans=in_chans).state_dict()


def tiny_specialist(name: str = "rgb", in_chans: int = 3, seed: int = 0) -> Specialist:
    bands = ("red", "green", "blue", "nir", "swir16")[:in_chans]
    info = SpecialistInfo(
        name=name,
        backbone=BACKBONE,
        in_chans=in_chans,
        bands=bands,
        statistics={band: BandStatistics(mean=1.5, std=0.25) for band in bands},
        recipe="mini-rgb",
        task="segmentation",
        classes=("water", "land"),
        metrics={"mIoU": 0.5},
        parameters=sum(t.numel() for t in tiny_state(in_chans).values()),
        licence="CC-BY-4.0",
        seconds=12.5,
        energy_kwh=0.001,
        emissions_kg=0.0002,
        run="train/mini-rgb/20260101-000000",
    )
    return Specialist(info, tiny_state(in_chans, seed))


def lightning(
    state: dict[str, torch.Tensor], prefix: str = "model.encoder.", **hyper_parameters: Any
) -> dict[str, Any]:
    """What Lightning's `save_checkpoint` writes for a TerraTorch encoder-decoder task."""
    return {
        "epoch": 1,
        "global_step": 2,
        "pytorch-lightning_version": "2.6.0",
        "state_dict": {
            **{f"{prefix}{name}": tensor for name, tensor in state.items()},
            "model.decoder.psp.weight": torch.zeros(2, 2),
            "model.head.weight": torch.zeros(2),
        },
        "loops": {},
        "callbacks": {},
        "optimizer_states": [],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": hyper_parameters
        or {
            "model_args": {
                "backbone": f"timm_{BACKBONE}",
                "backbone_in_chans": next(iter(state.values())).shape[1],
                "decoder": "UperNetDecoder",
            },
            "class_names": ["water", "land"],
        },
    }


RECIPE = """\
name: {name}
title: Tiny
task: segmentation
dataset:
  root: tiny
  licence: CC-BY-4.0
  images:
    s2: {{path: "images/{{id}}.tif", bands: [red, green, blue]}}
  masks: {{path: "masks/{{id}}.tif"}}
  split: {{by: fraction}}
classes: [{{name: water}}, {{name: land}}]
statistics:
  red: {{mean: 1, std: 2}}
  green: {{mean: 3, std: 4}}
  blue: {{mean: 5, std: 6}}
training: {{backbone: test_convnext}}
"""


def train_run(
    root: Path, name: str, stamp: str = "20260101-000000", *, state: str = "completed", **more: Any
) -> Path:
    """A run folder as `train-specialist` leaves it; every run has weights of its own."""
    run = root / "train" / name / stamp
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text(RECIPE.format(name=name))
    summary = {"kind": "train", "name": name, "state": state, "metrics": {"mIoU": 0.25}}
    costs = {"seconds": 3.0, "energy_kwh": 0.5, "emissions_kg": 0.125}
    (run / "summary.json").write_text(json.dumps({**summary, **costs, **more}))
    state = tiny_state(seed=zlib.crc32(f"{name}/{stamp}".encode()))
    torch.save(lightning(state), run / "checkpoints" / "best.ckpt")
    return run


def as_zip(path: Path, raw: bytes, compression: int = zipfile.ZIP_STORED) -> Path:
    """A file in PyTorch's format around hand-made pickle code."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", raw)
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/version", "3\n")
    return path


def as_legacy(path: Path, raw: bytes) -> Path:
    """The same in the format from before PyTorch 1.6."""
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    head = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, system)]
    path.write_bytes(b"".join([*head, raw, pickle.dumps([], 2)]))
    return path
