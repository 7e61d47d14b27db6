"""The data of a fit: tiles, or stored features in their place where that pays."""

from __future__ import annotations

from collections.abc import Callable

from lightning.pytorch import LightningDataModule
from torch import nn

from eosfm_cli.data.datamodule import TileDataModule, TileLoader
from eosfm_cli.data.splits import SplitName
from eosfm_cli.training.feature_store import FeatureStore
from eosfm_cli.training.model import inner_encoder
from eosfm_cli.training.pooled_features import takes_means_only

_SPLITS: dict[str, tuple[SplitName, ...]] = {
    "fit": ("train", "val"),
    "validate": ("val",),
    "test": ("test",),
}


class FitData(LightningDataModule):
    """Tiles whose features a store has.

    What is missing is computed when Lightning sets the data up: by then all processes that train
    together are there.

    Args:
        data: The tiles.
        model: What is trained, around an ensemble encoder.
        store: Where its features are.
        check: Called while features are computed; what it raises ends that.
        ready: Called once they are there, or not wanted, before each training.
    """

    def __init__(
        self,
        data: TileDataModule,
        model: nn.Module,
        store: FeatureStore,
        check: Callable[[], None],
        ready: Callable[[], None],
    ) -> None:
        super().__init__()
        self._plain, self._store, self._check, self._ready = data, store, check, ready
        self._encoder, self._pooled = inner_encoder(model), takes_means_only(model)
        self._data = data

    def setup(self, stage: str) -> None:
        """Compute what is missing for a stage."""
        splits = tuple(split for split in _SPLITS[stage] if self._plain.tile_counts[split])
        self._encoder.to(self.trainer.strategy.root_device)
        wanted = self._encoder, self._plain, splits
        there = self._store.ensure(*wanted, pooled=self._pooled, check=self._check)
        self._data = self._store.stored(*wanted, pooled=self._pooled) if there else self._plain
        if stage == "fit":
            self._ready()

    def train_dataloader(self) -> TileLoader:
        """Batches of training tiles in a new order each epoch."""
        return self._data.train_dataloader()

    def val_dataloader(self) -> TileLoader:
        """Batches of validation tiles, in order."""
        return self._data.val_dataloader()

    def test_dataloader(self) -> TileLoader:
        """Batches of test tiles, in order."""
        return self._data.test_dataloader()
