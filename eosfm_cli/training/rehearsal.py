"""A few steps of a training, run to see how long all of it takes and what memory it needs."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import lightning.pytorch as pl
import torch

from eosfm_cli.data.datamodule import TileDataModule
from eosfm_cli.ensemble.specialist import parameter_count
from eosfm_cli.recipe import TrainingSpec
from eosfm_cli.results import PhasePlan, WorkPlan
from eosfm_cli.training.trainer import choose_devices, library_messages_to, memory_errors

_TRAIN_STEPS, _VAL_STEPS = 4, 2


def rehearse(
    phase: str, task: pl.LightningModule, data: TileDataModule, spec: TrainingSpec, epochs: int
) -> PhasePlan:
    """Run a few batches through training and validation, and multiply.

    Nothing is written; the task's weights change. The first step of each kind warms up and does
    not count where there are others.

    Args:
        phase: What the training is called.
        task: What to train.
        data: What to train on.
        spec: Devices and precision.
        epochs: How long the training would be.

    Raises:
        OutOfMemoryError: The batches do not fit into memory.
    """
    watch = _Stopwatch()
    with library_messages_to(Path(os.devnull)), memory_errors():
        _trainer(spec, watch).fit(task, datamodule=data)
    devices = choose_devices(spec)
    steps = -(-len(data.train_dataloader()) // devices)
    checks = -(-len(data.val_dataloader()) // devices)
    step, check = _typical(watch.steps), _typical(watch.checks)
    return PhasePlan(
        name=phase,
        epochs=epochs,
        steps=steps * epochs,
        step_seconds=step,
        seconds=epochs * (steps * step + checks * check) + len(data.test_dataloader()) * check,
        parameters=parameter_count(task.model),
        trainable=parameter_count(task.model, trainable=True),
        memory_bytes=_peak_memory(),
    )


def _trainer(spec: TrainingSpec, watch: pl.Callback) -> pl.Trainer:
    return pl.Trainer(
        accelerator="auto",
        devices=1,
        precision=spec.precision,
        max_epochs=1,
        limit_train_batches=_TRAIN_STEPS,
        limit_val_batches=_VAL_STEPS,
        num_sanity_val_steps=0,
        callbacks=[watch],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def describe_plan(
    data: TileDataModule,
    spec: TrainingSpec,
    phases: Sequence[PhasePlan],
    specialists: Sequence[str] = (),
) -> WorkPlan:
    """What a command would do with this data."""
    recipe, size = data.recipe, data.recipe.tile.size
    return WorkPlan(
        recipe=recipe.name,
        data=Path(recipe.dataset.root),
        bands=recipe.bands,
        samples=dict(data.sample_counts),
        tiles=dict(data.tile_counts),
        batch=(spec.batch_size, len(recipe.bands), size, size),
        phases=tuple(phases),
        specialists=tuple(specialists),
    )


class _Stopwatch(pl.Callback):
    """Time batches, waiting for their data included."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.checks: list[float] = []
        self._since = 0.0

    def on_train_epoch_start(self, *args: Any) -> None:  # noqa: ANN401 - Lightning's
        """Start the watch."""
        self._since = time.perf_counter()

    def on_validation_epoch_start(self, *args: Any) -> None:  # noqa: ANN401 - Lightning's
        """Start the watch."""
        self._since = time.perf_counter()

    def on_train_batch_end(self, *args: Any) -> None:  # noqa: ANN401 - Lightning's
        """Note a step."""
        self.steps.append(self._lap())

    def on_validation_batch_end(self, *args: Any) -> None:  # noqa: ANN401 - Lightning's
        """Note a step."""
        self.checks.append(self._lap())

    def _lap(self) -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        since, self._since = self._since, time.perf_counter()
        return self._since - since


def _typical(times: Sequence[float]) -> float:
    return median(times[1:] or times or [0.0])


def _peak_memory() -> int:
    """The most memory that was in use at once: of the GPU where there is one, else of the process.

    Bytes; 0 where the system does not tell.
    """
    if torch.cuda.is_available():
        return torch.cuda.max_memory_reserved()
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
