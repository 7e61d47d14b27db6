"""The Lightning trainer of a run folder: checkpoints, history, progress."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from eosfm_cli.data.datamodule import TileDataModule
from eosfm_cli.errors import (
    DataError,
    EosfmError,
    OutOfMemoryError,
    UsageError,
    is_out_of_memory,
    unwritable,
)
from eosfm_cli.progress import Progress
from eosfm_cli.recipe import Recipe, TrainingSpec
from eosfm_cli.run_dir import RunDir, replacing
from eosfm_cli.training.callbacks import Report, WriteHistory
from eosfm_cli.training.task import METRICS


def build_trainer(
    recipe: Recipe,
    spec: TrainingSpec,
    run: RunDir,
    *,
    epochs: int,
    progress: Progress,
    title: str,
    phase: str = "fit",
) -> pl.Trainer:
    """A trainer that leaves `metrics.csv`, `history.png`, checkpoints and TensorBoard events.

    Args:
        recipe: Whose task it is; its metric picks the best checkpoint.
        spec: Devices and precision.
        run: Where everything goes.
        epochs: How long.
        progress: Who is told.
        title: What the progress bar says.
        phase: `search` keeps its checkpoints apart from those of the `fit` that follows it.

    """
    metric = METRICS[recipe.task]
    callbacks: list[Callback] = [
        *_checkpoints(run.checkpoints if phase == "fit" else run.checkpoints / phase, metric),
        WriteHistory(run, metric=metric, phase=phase),
        Report(progress, title, metric),
    ]
    return pl.Trainer(
        accelerator="auto",
        devices=choose_devices(spec),
        precision=spec.precision,
        max_epochs=epochs,
        callbacks=callbacks,
        plugins=[_WholeFiles()],
        logger=TensorBoardLogger(run.path, name="", version="tensorboard", sub_dir=phase),
        default_root_dir=run.path,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
    )


def check_machine(spec: TrainingSpec, progress: Progress) -> None:
    """Check that this machine has the devices and the precision, and tell which are taken.

    Raises:
        UsageError: It has not.
    """
    options = f"--devices {spec.devices} --precision {spec.precision}"
    try:
        with library_messages_to(Path(os.devnull)):
            pl.Trainer(
                accelerator="auto",
                devices=choose_devices(spec),
                precision=spec.precision,
                logger=False,
                enable_checkpointing=False,
            )
    except (MisconfigurationException, ValueError, RuntimeError) as error:
        raise UsageError(
            f"This machine cannot train with {options}: {error}",
            hint="Leave the options out to take what is there.",
        ) from None
    progress.say(f"device: {_device_words(choose_devices(spec))}")


def check_batches(data: TileDataModule, spec: TrainingSpec) -> None:
    """Check that every training batch has at least two tiles, as batch normalisation needs.

    Raises:
        UsageError: `batch_size` is 1.
        DataError: There is one training tile only.
    """
    if spec.batch_size < 2:
        raise UsageError(
            "--batch-size 1 cannot train: decoders normalise over the batch.",
            hint="Take 2 or more, and smaller tiles if memory is short: --set tile.size=…",
        )
    if data.tile_counts["train"] < 2:
        raise DataError(
            "The training split has one tile only; training needs two or more.",
            hint="Add images, or cut them smaller: --set tile.size=… or --set tile.stride=…",
        )


def choose_devices(spec: TrainingSpec) -> int:
    """How many devices to train on: GPUs where there are any, else processes on the CPU.

    Raises:
        UsageError: There are not that many.
    """
    gpus = torch.cuda.device_count()
    there = gpus or os.cpu_count() or 1
    wanted = (gpus or 1) if spec.devices == "auto" else spec.devices
    if not 1 <= wanted <= there:
        kind = "GPUs" if gpus else "processors and no GPU"
        raise UsageError(
            f"--devices {wanted} cannot be had: this machine has {there} {kind}.",
            hint="Leave --devices out to train on one, or say auto for all GPUs.",
        )
    return wanted


def _device_words(devices: int) -> str:
    if not torch.cuda.is_available():
        return "CPU" if devices == 1 else f"CPU, {devices} processes"
    return ", ".join(torch.cuda.get_device_name(index) for index in range(devices))


def _checkpoints(folder: Path, metric: str) -> tuple[ModelCheckpoint, ModelCheckpoint]:
    """The best epoch's weights, and all that it takes to go on after the last one."""
    best = ModelCheckpoint(
        dirpath=folder,
        filename="best",
        monitor=f"val/{metric}",
        mode="max",
        save_weights_only=True,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
    last = ModelCheckpoint(
        dirpath=folder,
        filename="last",
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
    return best, last


class _WholeFiles(TorchCheckpointIO):
    """Checkpoints that appear under their names only when they are complete."""

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: str | Path,
        storage_options: object | None = None,
    ) -> None:
        """Write beside the final name, then rename."""
        with replacing(Path(path)) as temporary:
            torch.save(checkpoint, temporary)


def fit(trainer: pl.Trainer, task: pl.LightningModule, data: pl.LightningDataModule) -> None:
    """Train a task.

    Raises:
        OutOfMemoryError: The batches do not fit into memory.
    """
    with memory_errors():
        trainer.fit(task, datamodule=data)


def measure_best(
    trainer: pl.Trainer, task: pl.LightningModule, data: pl.LightningDataModule
) -> dict[str, float]:
    """Load the best epoch into the task and measure it on the test split.

    Several devices would share the tiles out and pad them, so that some would count twice. So each
    process measures all tiles on its own device: what they gather then is the same, n times over,
    and scores are shares.

    Returns:
        The metrics, by TerraTorch's names.

    Raises:
        OutOfMemoryError: The batches do not fit into memory.
    """
    path = trainer.checkpoint_callback.best_model_path
    task.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["state_dict"])
    if not all(bool(value.isfinite().all()) for value in task.state_dict().values()):
        raise EosfmError(
            "Training diverged: weights are no longer finite numbers.", hint="Lower --lr."
        )
    tester = pl.Trainer(
        accelerator="auto",
        devices=1,
        precision=trainer.precision,
        logger=False,
        default_root_dir=trainer.default_root_dir,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with memory_errors():
        tester.test(task, datamodule=data, verbose=False)
    return {
        name.removeprefix("test/"): float(value)
        for name, value in tester.callback_metrics.items()
        if name.startswith("test/")
    }


@contextmanager
def memory_errors() -> Iterator[None]:
    """Turn a device or host out of memory into one message."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(
            f"Out of memory: {str(error).splitlines()[0] if str(error) else 'no more to be had'}",
            hint="Make batches smaller with --batch-size, or tiles with --set tile.size=….",
        ) from None


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pl.seed_everything(seed, workers=True, verbose=False)


@contextmanager
def library_messages_to(log: Path) -> Iterator[None]:
    """Send what libraries warn and log to the run's log instead of the terminal."""
    try:
        handler = logging.FileHandler(log, encoding="utf-8")
    except OSError as error:
        raise unwritable(log, error) from None
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s"))
    names = [
        "py.warnings",
        "lightning",
        "lightning.pytorch",
        "lightning.fabric",
        "terratorch",
        "timm",
    ]
    loggers = [logging.getLogger(name) for name in names]
    before = [(logger.handlers[:], logger.propagate) for logger in loggers]
    logging.captureWarnings(True)
    try:
        for logger in loggers:
            logger.handlers, logger.propagate = [handler], False
        yield
    finally:
        logging.captureWarnings(False)
        for logger, (handlers, propagate) in zip(loggers, before, strict=True):
            logger.handlers, logger.propagate = handlers, propagate
        handler.close()
