"""The Lightning trainer of a run folder: checkpoints, history, progress."""

from __future__ import annotations

import io
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from eosfm_cli.data.datamodule import TileDataModule
from eosfm_cli.errors import (
    BundleError,
    DataError,
    EosfmError,
    OutOfMemoryError,
    UsageError,
    is_out_of_memory,
    unwritable,
)
from eosfm_cli.progress import Progress
from eosfm_cli.recipe import Recipe, TrainingSpec
from eosfm_cli.results import lower_is_better
from eosfm_cli.run_dir import RunDir, replacing
from eosfm_cli.training.callbacks import KeepBudget, RandomState, Report, WriteHistory
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
    after_epoch: Callable[[], None] = lambda: None,
    keep_budget: KeepBudget | None = None,
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
        after_epoch: Called when an epoch is written down.
        keep_budget: What ends training when it has used what it was given.
    """
    metric = METRICS[recipe.task]
    mode = "min" if lower_is_better(metric) else "max"
    best, last = checkpoints(checkpoint_folder(run, phase), f"val/{metric}", mode)
    callbacks: list[Callback] = [
        Report(progress, title, metric),
        RandomState(),
        # In this order: what `last` goes on after is written down before it.
        best,
        WriteHistory(run, metric=metric, phase=phase, after_epoch=after_epoch),
        last,
        *([keep_budget] if keep_budget else []),
    ]
    return pl.Trainer(
        accelerator="auto",
        devices=choose_devices(spec),
        precision=spec.precision,
        max_epochs=epochs,
        callbacks=callbacks,
        plugins=[WholeFiles()],
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


def checkpoints(
    folder: Path, monitor: str | None, mode: str
) -> tuple[ModelCheckpoint, ModelCheckpoint]:
    """The best epoch's weights, and all that it takes to go on after the last one.

    Args:
        folder: Where they go.
        monitor: The value that picks the best epoch; the last one is best if not given.
        mode: `max` or `min`.
    """
    best = ModelCheckpoint(
        dirpath=folder,
        filename="best",
        monitor=monitor,
        mode=mode,
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


def checkpoint_folder(run: RunDir, phase: str) -> Path:
    """Where the checkpoints of a phase are."""
    return run.checkpoints if phase == "fit" else run.checkpoints / phase


class WholeFiles(TorchCheckpointIO):
    """Checkpoints that appear under their names only when complete, and are read as plain data."""

    def load_checkpoint(self, path: str | Path, *args: object, **kwargs: object) -> dict[str, Any]:
        """Read a checkpoint of ours, wherever its run's folder is by now."""
        checkpoint = read_last(Path(path))
        for state in checkpoint.get("callbacks", {}).values():
            if "best_model_path" in state:
                # Lightning forgets which epoch was best where a folder is not written as it does
                _move(state, Path(os.path.realpath(path)).parent)
        return checkpoint

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: str | Path,
        storage_options: object | None = None,
    ) -> None:
        """Write beside the final name, then rename."""
        content = io.BytesIO()  # torch, writing to disk itself, does not say why it cannot
        torch.save(checkpoint, content)
        with replacing(Path(path)) as temporary:
            temporary.write_bytes(content.getbuffer())


def _move(state: dict[str, Any], folder: Path) -> None:
    """Make what Lightning knows of its checkpoints true for the folder that they are in now."""

    def moved(path: str) -> str:
        return str(folder / Path(path).name) if path else path

    state["dirpath"] = str(folder)
    for key in ("best_model_path", "last_model_path", "kth_best_model_path"):
        state[key] = moved(state.get(key, ""))
    state["best_k_models"] = {moved(k): v for k, v in state.get("best_k_models", {}).items()}


def read_last(path: Path) -> dict[str, Any]:
    """Read one of our own checkpoints, which hold plain data only.

    Raises:
        BundleError: It is damaged.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        checkpoint["state_dict"], checkpoint["epoch"]
    except (FileNotFoundError, PermissionError) as error:
        raise BundleError(f"Cannot read {path}: {error.strerror}.") from None
    except Exception as error:  # torch raises whatever its archive reader meets
        raise BundleError(
            f"{path} is damaged: {str(error).splitlines()[0] if str(error) else 'no checkpoint'}",
            hint="Nothing can go on from it. Start a run of its own; best.ckpt beside it still "
            "has the best epoch's weights.",
        ) from None
    return checkpoint


def fit(
    trainer: pl.Trainer,
    task: pl.LightningModule,
    data: pl.LightningDataModule,
    *,
    folder: Path,
    progress: Progress,
) -> None:
    """Train a task, from its last checkpoint on if it has one.

    Args:
        trainer: Of `build_trainer`.
        task: What to train.
        data: What to train on.
        folder: The phase's checkpoints.
        progress: Told where training goes on, and what is lost.

    Raises:
        OutOfMemoryError: The batches do not fit into memory.
        BundleError: The last checkpoint is damaged.
    """
    last = folder / "last.ckpt"
    with memory_errors():
        if not last.is_file():
            trainer.fit(task, datamodule=data)
            return
        checkpoint = read_last(last)
        done, epochs = checkpoint["epoch"] + 1, trainer.max_epochs or -1
        of = f" of {epochs}" if epochs > 0 else ""
        progress.say(f"goes on after epoch {done}{of}, the last one that was finished")
        over = checkpoint.get("stopped") or 0 < epochs <= done  # -1: until something else stops it
        if not over:
            trainer.fit(task, datamodule=data, ckpt_path=last)
        else:
            task.load_state_dict(checkpoint["state_dict"])
            RandomState.restore(checkpoint, trainer.global_rank)


def measure_best(
    trainer: pl.Trainer,
    task: pl.LightningModule,
    data: pl.LightningDataModule,
    best: Path,
    *,
    split: Literal["test", "val"] = "test",
) -> dict[str, float]:
    """Load the best epoch into the task and measure it on the test split, or the one named.

    Several devices would share the tiles out and pad them, so that some would count twice. So each
    process measures all tiles on its own device: what they gather then is the same, n times over,
    and scores are shares.

    Returns:
        The metrics, by TerraTorch's names.

    Raises:
        OutOfMemoryError: The batches do not fit into memory.
    """
    task.load_state_dict(read_last(best)["state_dict"])
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
        measure = tester.test if split == "test" else tester.validate
        measure(task, datamodule=data, verbose=False)
    prefixes = (f"{split}/", f"{split}_")  # TerraTorch's way and that of many others
    return {
        name[len(prefixes[0]) :]: float(value)
        for name, value in tester.callback_metrics.items()
        if name.startswith(prefixes)
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
