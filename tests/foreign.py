"""Somebody's classes, for YAML files that name them."""

from __future__ import annotations

import os

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader

STOPS = "STOPS_IN_THE_SECOND_EPOCH"
"""Environment variable that arms `Stops`."""


class Foreign(pl.LightningDataModule):
    """Somebody's data module: two channels, no test split, and it prints."""

    def __init__(self, size: int = 32) -> None:
        super().__init__()
        self.size = size
        print("hello from somebody's class")  # noqa: T201

    def _loader(self) -> DataLoader:
        generator = torch.Generator().manual_seed(0)
        images = torch.rand((4, 2, self.size, self.size), generator=generator)
        samples = [{"image": image, "mask": (image[0] > 0.5).long()} for image in images]
        return DataLoader(samples, batch_size=2)

    train_dataloader = val_dataloader = _loader


class Stops(pl.Callback):
    """Ctrl-C in the second epoch, where the environment says so."""

    def on_train_epoch_start(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        if STOPS in os.environ and trainer.current_epoch == 1:
            raise KeyboardInterrupt
