"""The Lightning trainer of a run folder: checkpoints, history, progress."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

from eosfm_cli.errors import OutOfMemoryError, UsageError
from eosfm_cli.progress import Progress
from eosfm_cli.recipe import Recipe, TrainingSpec
from eosfm_cli.run_dir import RunDir
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

    Raises:
        UsageError: The devices or the precision asked for are not there.
    """
    metric = METRICS[recipe.task]
    callbacks: list[Callback] = [
        *_checkpoints(run.checkpoints if phase == "fit" else run.checkpoints / phase, metric),
        WriteHistory(run, metric=metric, phase=phase),
        Report(progress, title, metric),
    ]
    try:
        return pl.Trainer(
            accelerator="auto",
            devices=spec.devices,
            precision=spec.precision,
            max_epochs=epochs,
            callbacks=callbacks,
            logger=TensorBoardLogger(run.path, name="", version="tensorboard", sub_dir=phase),
            default_root_dir=run.path,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            log_every_n_steps=1,
        )
    except (pl.utilities.exceptions.MisconfigurationException, ValueError, RuntimeError) as error:
        raise UsageError(
            f"This machine cannot train with --devices {spec.devices} --precision "
            f"{spec.precision}: {error}",
            hint="Leave the options out to take what is there.",
        ) from None


def _checkpoints(folder: Path, metric: str) -> tuple[ModelCheckpoint, ModelCheckpoint]:
    """The best epoch's weights, and all that it takes to go on after the last one."""
    best = ModelCheckpoint(
        dirpath=folder,
        filename="best",
        monitor=f"val/{metric}",
        mode="max",
        save_weights_only=True,
        enable_version_counter=False,
    )
    last = ModelCheckpoint(dirpath=folder, filename="last", enable_version_counter=False)
    return best, last


def fit(trainer: pl.Trainer, task: pl.LightningModule, data: pl.LightningDataModule) -> None:
    """Train a task.

    Raises:
        OutOfMemoryError: The batches do not fit into memory.
    """
    with memory_errors():
        trainer.fit(task, datamodule=data)


def test_best(
    trainer: pl.Trainer, task: pl.LightningModule, data: pl.LightningDataModule
) -> dict[str, float]:
    """Load the best epoch into the task and measure it on the test split.

    Returns:
        The metrics, by TerraTorch's names.

    Raises:
        OutOfMemoryError: The batches do not fit into memory.
    """
    path = trainer.checkpoint_callback.best_model_path
    task.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["state_dict"])
    with memory_errors():
        trainer.test(task, datamodule=data, verbose=False)
    return {
        name.removeprefix("test/"): float(value)
        for name, value in trainer.callback_metrics.items()
        if name.startswith("test/")
    }


@contextmanager
def memory_errors() -> Iterator[None]:
    """Turn a device or host out of memory into one message."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _out_of_memory(error) from None
    except RuntimeError as error:
        if "not enough memory" in str(error) or "out of memory" in str(error):
            raise _out_of_memory(error) from None
        raise


def _out_of_memory(error: BaseException) -> OutOfMemoryError:
    return OutOfMemoryError(
        f"Out of memory: {str(error).splitlines()[0] if str(error) else 'no more to be had'}",
        hint="Make batches smaller with --batch-size, or tiles with --set tile.size=….",
    )


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pl.seed_everything(seed, workers=True, verbose=False)


@contextmanager
def library_messages_to(log: Path) -> Iterator[None]:
    """Send what libraries warn and log to the run's log instead of the terminal."""
    handler = logging.FileHandler(log, encoding="utf-8")
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
