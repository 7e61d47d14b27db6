"""Somebody's classes, for YAML files that name them."""

from __future__ import annotations

import os
from collections.abc import Iterator

import lightning.pytorch as pl
import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, default_collate

STOPS = "STOPS_IN_THE_SECOND_EPOCH"
"""Environment variable that arms `Stops`."""


def _noisy(samples: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """A batch with noise, as somebody's transforms draw it."""
    batch = default_collate(samples)
    noise = np.random.normal(0, 0.1, batch["image"].shape)
    return {**batch, "image": batch["image"] + torch.from_numpy(noise).float()}


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
        return DataLoader(samples, batch_size=2, collate_fn=_noisy)

    train_dataloader = val_dataloader = _loader


class Stream(Foreign):
    """Data that does not say how much it is."""

    def _loader(self) -> DataLoader:
        loader = super()._loader()
        return DataLoader(_Stream(loader.dataset), batch_size=2)

    train_dataloader = val_dataloader = _loader


class _Stream(IterableDataset):
    def __init__(self, samples: list[dict[str, torch.Tensor]]) -> None:
        self.samples = samples

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        return iter(self.samples)


class Stops(pl.Callback):
    """Ctrl-C in the second epoch, where the environment says so."""

    def on_train_epoch_start(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        if STOPS in os.environ and trainer.current_epoch == 1:
            raise KeyboardInterrupt
