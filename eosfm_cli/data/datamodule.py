"""The one datamodule: train, validation and test tiles of any recipe."""

from __future__ import annotations

import copy
import gc
import hashlib
import os
import random
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import distributed
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from eosfm_cli.data.folder import FolderSource
from eosfm_cli.data.labelled import keep_labelled
from eosfm_cli.data.scarcity import ChosenTiles
from eosfm_cli.data.sources import open_source
from eosfm_cli.data.splits import SPLIT_NAMES, SplitName
from eosfm_cli.data.statistics import compute_statistics, target_mean
from eosfm_cli.data.tiles import TileDataset
from eosfm_cli.errors import DataError
from eosfm_cli.progress import Progress
from eosfm_cli.recipe import Recipe, TrainingSpec


class EpochSampler(Sampler[tuple[int, int]]):
    """Seeded order that tells the dataset the epoch with each index.

    So the epoch reaches workers that live on from epoch to epoch. Lightning calls `set_epoch`;
    where nobody does, each pass counts as the next epoch.

    Args:
        length: How many samples there are.
        seed: Together with the epoch it fixes the order.
    """

    def __init__(self, length: int, *, seed: int) -> None:
        self._length = length
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Make the next pass that of this epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        """Count the samples of one epoch."""
        return self._length

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Go through `(epoch, index)` in this epoch's order."""
        epoch = self._epoch
        self._epoch += 1
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + epoch)
        for index in torch.randperm(self._length, generator=generator).tolist():
            yield epoch, index


class TileLoader(DataLoader):
    """A loader that raises what is wrong with the data as it is, without a worker's traceback."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Go through batches.

        Raises:
            DataError: A file is damaged, or has labels that the recipe does not list.
        """
        if self.num_workers and self._iterator is None:
            gc.collect()  # loaders that are done with must not be inherited: see `start_worker`
        for batch in super().__iter__():
            if isinstance(batch, DataError):
                # What the error's traceback refers to lives as long as the error. Let go of the
                # workers and of the error itself, so that the workers stop here and now: collected
                # later as part of a cycle, perhaps in another worker, they can hang.
                self._iterator = None
                try:
                    raise batch
                finally:
                    del batch
            yield batch


def _collate(
    samples: list[dict[str, Any]] | dict[str, Any] | DataError,
) -> dict[str, Any] | DataError:
    """A batch of samples, or what is one already."""
    return default_collate(samples) if isinstance(samples, list) else samples


def start_worker(number: int) -> None:
    """Leave to the main process what is its own: Ctrl-C, and the rubbish that it has not collected.

    Among that may be loaders, which a worker that collects them would try to shut down, and hang.
    """
    gc.freeze()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


class TileDataModule(LightningDataModule):
    """Tiles of a source, batched.

    Args:
        source: The samples of each split.
        recipe: With statistics.
        spec: Batch size, workers, seed, augmentation.
    """

    def __init__(self, source: FolderSource, recipe: Recipe, spec: TrainingSpec) -> None:
        super().__init__()
        self.source = source
        self.recipe = recipe
        self._spec = spec
        self._workers: dict[SplitName, int] = dict.fromkeys(SPLIT_NAMES, spec.workers)
        self._datasets: dict[SplitName, TileDataset | ChosenTiles] = {
            name: TileDataset(
                source.samples[name],
                recipe,
                split=name,
                spec=spec,
                areas=source.areas.get(name),
            )
            for name in SPLIT_NAMES
        }

    def dataset(self, split: SplitName) -> TileDataset | ChosenTiles:
        """The tiles of a split, one at a time."""
        return self._datasets[split]

    def keep_labelled_tiles(self, progress: Progress) -> None:
        """Leave out the tiles of all splits that have no label.

        Raises:
            DataError: A mask is damaged or has unknown labels, or no tile of a split has a label.
        """
        for name, tiles in self._datasets.items():
            areas = self.source.areas.get(name)
            keep_labelled(tiles, self.recipe, name, areas, self.source.root, progress)

    def keep_training_tiles(self, tiles: Sequence[int], samples: Sequence[int]) -> None:
        """Train on some tiles alone.

        Args:
            tiles: Which ones, by index.
            samples: The positions of the samples that they are cut from.
        """
        self._datasets["train"] = ChosenTiles(self._datasets["train"], tiles)
        kept = tuple(self.source.samples["train"][number] for number in samples)
        self.source = replace(self.source, samples={**self.source.samples, "train": kept})

    @cached_property
    def target_mean(self) -> float | None:
        """About the mean of a regression's target over the training split; of others `None`."""
        if self.recipe.task != "regression":
            return None
        areas = self.source.areas.get("train")
        return target_mean(self.source.samples["train"], self.recipe, areas)

    @property
    def sample_counts(self) -> dict[SplitName, int]:
        """Samples (images) of each split."""
        return {name: len(samples) for name, samples in self.source.samples.items()}

    @property
    def tile_counts(self) -> dict[SplitName, int]:
        """Tiles of each split; of an epoch for training."""
        return {name: len(dataset) for name, dataset in self._datasets.items()}

    @property
    def workers(self) -> int:
        """Processes that read tiles."""
        return self._spec.workers

    @property
    def batch_size(self) -> int:
        """Tiles of a batch."""
        return self._spec.batch_size

    @property
    def draws_anew(self) -> bool:
        """Whether training has other tiles in every epoch."""
        return not self._spec.fixed_tiles

    @property
    def facts(self) -> dict[str, Any]:
        """What must not change while a run is stopped: the tiles, and whose they are."""
        digest = hashlib.sha256()
        for name in SPLIT_NAMES:
            for sample in self.source.samples[name]:
                place = sample.place.relative_to(self.source.root)
                window = f" {sample.window}" if sample.window else ""
                digest.update(os.fsencode(f"{name} {place.as_posix()}{window}\n"))
            if self.source.areas:
                digest.update(f"{name} {sorted(self.source.areas[name])}\n".encode())
        return {"tiles": self.tile_counts, "samples": digest.hexdigest()}

    def train_dataloader(self) -> TileLoader:
        """Batches of training tiles in a new order each epoch.

        A last batch of a single tile is left out where there are others: batch normalisation over
        one value cannot be trained. Several processes share the tiles out.
        """
        tiles, batch = len(self._datasets["train"]), self._spec.batch_size
        sampler = EpochSampler(tiles, seed=self._spec.seed)
        together = distributed.is_available() and distributed.is_initialized()
        share = -(-tiles // (distributed.get_world_size() if together else 1))
        return self._loader(
            "train", sampler=sampler, drop_last=share > batch and share % batch == 1
        )

    def val_dataloader(self) -> TileLoader:
        """Batches of validation tiles, in order."""
        return self._loader("val")

    def test_dataloader(self) -> TileLoader:
        """Batches of test tiles, in order."""
        return self._loader("test")

    def some_tiles(self, split: SplitName, most: int, *, seed: int) -> TileLoader:
        """Batches of at most `most` tiles of a split, drawn by seed, in the split's order."""
        tiles = self._datasets[split]
        count = min(most, len(tiles))
        drawn = sorted(random.Random(seed).sample(range(len(tiles)), count))
        return self._loader(split, sampler=drawn)

    def tiles_in(self, split: SplitName, batches: Sequence[Sequence[int]]) -> TileLoader:
        """Batches of tiles of a split, each of the tiles that are named, by index."""
        return self._loader(split, batch_sampler=batches)

    def reading(
        self, datasets: Mapping[SplitName, Dataset[dict[str, Any]]], *, workers: int
    ) -> TileDataModule:
        """The same batches in the same order, the tiles of some splits read by others.

        Args:
            datasets: As long as the split's own, and read by the same keys.
            workers: Processes that read these.
        """
        other = copy.copy(self)
        other._datasets = {**self._datasets, **datasets}
        other._workers = {**self._workers, **dict.fromkeys(datasets, workers)}
        return other

    def _loader(self, split: SplitName, **options: Any) -> TileLoader:  # noqa: ANN401
        if "batch_sampler" not in options:
            options["batch_size"] = self._spec.batch_size
        return TileLoader(
            self._datasets[split],
            num_workers=self._workers[split],
            persistent_workers=self._workers[split] > 0,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator().manual_seed(self._spec.seed),
            collate_fn=_collate,
            worker_init_fn=start_worker,
            **options,
        )


def build_datamodule(
    recipe: Recipe, data_root: Path | None, *, spec: TrainingSpec, progress: Progress
) -> TileDataModule:
    """Open a recipe's data as train, validation and test tiles.

    Args:
        recipe: Statistics that it does not have are computed from its training split; those used
            are in the datamodule's `recipe`.
        data_root: The folder of all datasets; see `resolve_root`.
        spec: `recipe.training` or `recipe.fit`.
        progress: Told about making and checking the data.

    Raises:
        DataError: The dataset is missing, half there, or not as the recipe says.
    """
    source = open_source(recipe, data_root, progress)
    if recipe.statistics is None:
        found = compute_statistics(source.samples["train"], recipe, progress)
        recipe = recipe.with_statistics(found)
    data = TileDataModule(source, recipe, spec)
    if recipe.has_masks and recipe.tile.unlabelled == "skip":
        data.keep_labelled_tiles(progress)
    return data
