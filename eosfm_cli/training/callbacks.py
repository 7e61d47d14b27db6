"""What a run writes down and tells while it trains."""

from __future__ import annotations

import csv
import math
import random
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Checkpoint
from torch import distributed

from eosfm_cli.ensemble.selection import OpenGates
from eosfm_cli.progress import Progress, Step
from eosfm_cli.run_dir import RunDir, write_csv
from eosfm_cli.training.plots import draw_history

_REDRAW_SECONDS = 30.0


class WriteHistory(Checkpoint):
    """Write `metrics.csv` after every epoch and redraw `history.png`, the latter not too often.

    It counts as a checkpoint so that Lightning calls it after the task has logged its epoch.
    """

    def __init__(
        self, run: RunDir, *, metric: str, phase: str, after_epoch: Callable[[], None]
    ) -> None:
        self.run, self.metric, self.phase = run, metric, phase
        self.after_epoch = after_epoch
        self.rows = read_history(run)
        self._drawn = time.monotonic()
        self._lr = 0.0

    def on_train_start(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        """Drop what is done again: the run may have been stopped before its checkpoint."""
        self.rows = [
            row
            for row in self.rows
            if row["phase"] != self.phase or int(row["epoch"]) < trainer.current_epoch
        ]

    def on_train_epoch_start(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        """Note the learning rate that the epoch runs with; its end has the next one's."""
        self._lr = trainer.optimizers[0].param_groups[-1]["lr"]

    def on_train_epoch_end(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        """Write one row; validation of the epoch is over by now."""
        row = {"phase": self.phase, "epoch": trainer.current_epoch}
        row |= {name: float(value) for name, value in trainer.callback_metrics.items()}
        row["lr"] = self._lr
        if (gates := _learning_gates(task)) is not None:
            row |= {f"gate/{name}": gate for name, gate in gates.ranking().items()}
        self.rows.append({key: str(value) for key, value in row.items()})
        if trainer.is_global_zero:
            self._write()
            self.after_epoch()

    def _write(self) -> None:
        columns = list(dict.fromkeys(key for row in self.rows for key in row))
        write_csv(self.run.metrics, columns, ([row.get(c) for c in columns] for row in self.rows))
        if time.monotonic() - self._drawn > _REDRAW_SECONDS:
            self._draw()

    def _draw(self) -> None:
        draw_history(self.run.history, self.rows, self.metric)
        self._drawn = time.monotonic()

    def on_fit_end(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        """Draw the complete history."""
        if trainer.is_global_zero:
            self._draw()


def _learning_gates(task: pl.LightningModule) -> OpenGates | None:
    return next((part for part in task.modules() if isinstance(part, OpenGates)), None)


def read_history(run: RunDir) -> list[dict[str, str]]:
    """The rows of `metrics.csv`, empty cells left out; none where there is no such file."""
    if not run.metrics.is_file():
        return []
    with run.metrics.open(encoding="utf-8", newline="") as file:
        return [{k: v for k, v in row.items() if v} for row in csv.DictReader(file)]


class RandomState(pl.Callback):
    """Keep every process's random state in checkpoints, so that a resumed run draws the same.

    Data is drawn by seed, epoch and index alone; this is for what else draws, such as dropout.
    """

    def __init__(self) -> None:
        self._loaded: dict[str, Any] | None = None

    def on_save_checkpoint(
        self, trainer: pl.Trainer, task: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the states of all processes."""
        states: list[dict[str, Any] | None] = [None] * trainer.world_size
        if trainer.world_size > 1:
            distributed.all_gather_object(states, _random_state())
        else:
            states[0] = _random_state()
        checkpoint["random_states"] = states

    def on_load_checkpoint(
        self, trainer: pl.Trainer, task: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Note this process's state; building what is trained may still draw."""
        self._loaded = _own_state(checkpoint, trainer.global_rank)

    def on_train_start(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        """Go on drawing where the checkpoint was written."""
        if self._loaded is not None:
            _set_random_state(self._loaded)

    @staticmethod
    def restore(checkpoint: dict[str, Any], rank: int) -> None:
        """Go on drawing where a checkpoint was written, without a trainer."""
        if (state := _own_state(checkpoint, rank)) is not None:
            _set_random_state(state)


class NoteStop(pl.Callback):
    """Keep in checkpoints that training was stopped before its last epoch, by an `EarlyStopping`.

    A run that is resumed after that has no epoch left, though Lightning would train one more.
    """

    def on_save_checkpoint(
        self, trainer: pl.Trainer, task: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add whether this epoch was the last one."""
        enough = trainer.current_epoch + 1 >= (trainer.min_epochs or 0) and trainer.global_step >= (
            trainer.min_steps or 0
        )
        checkpoint["stopped"] = bool(trainer.should_stop and enough)


class KeepBudget(pl.Callback):
    """End training in the middle of an epoch once it has used what it was given.

    Args:
        spent: Whether that is so; asked after every batch.
        reached: What to raise then.
    """

    def __init__(self, spent: Callable[[], bool], reached: Callable[[], Exception]) -> None:
        self.spent, self.reached = spent, reached

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:  # noqa: ANN401
        """Ask after a step."""
        self._check(trainer)

    def on_validation_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:  # noqa: ANN401
        """Ask after a step of validation."""
        self._check(trainer)

    def _check(self, trainer: pl.Trainer) -> None:
        """Stop in all processes at the same step: the first one alone knows what it cost."""
        if trainer.strategy.reduce_boolean_decision(self.spent(), all=False):
            raise self.reached()


def _random_state() -> dict[str, Any]:
    """Python's, NumPy's and torch's states as plain data."""
    version, numbers, gauss = random.getstate()
    kind, keys, *place = np.random.get_state()  # what others' transforms draw from
    return {
        "python": [version, list(numbers), gauss],
        "numpy": [kind, keys.tolist(), *place],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def _set_random_state(state: dict[str, Any]) -> None:
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    if "numpy" in state:
        kind, keys, *place = state["numpy"]
        np.random.set_state((kind, np.array(keys, np.uint32), *place))
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


def _own_state(checkpoint: dict[str, Any], rank: int) -> dict[str, Any] | None:
    states = checkpoint.get("random_states", [])
    return states[rank] if rank < len(states) else None


class Report(pl.Callback):
    """Tell progress batch by batch, and the score after every epoch."""

    def __init__(self, progress: Progress, title: str, metric: str) -> None:
        self.progress, self.title, self.metric = progress, title, metric
        self._open = ExitStack()
        self._step: Step | None = None
        self._note = ""

    def on_train_start(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        """Open the bar."""
        batches = _batches(trainer)
        if trainer.is_global_zero:
            total = _all_batches(trainer)
            self._step = self._open.enter_context(self.progress.step(self.title, total))
            self._step.advance(batches * trainer.current_epoch)

    def on_train_batch_end(self, *args: Any) -> None:  # noqa: ANN401 - Lightning's
        """Move the bar."""
        if self._step is not None:
            self._step.advance(note=self._note)

    def on_train_epoch_end(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        """Say where training stands."""
        values = trainer.callback_metrics
        score, loss = values.get(f"val/{self.metric}"), values.get("train/loss")
        of = f"/{trainer.max_epochs}" if (trainer.max_epochs or -1) > 0 else ""
        parts = [f"epoch {trainer.current_epoch + 1}{of}"]
        parts += [f"loss {float(loss):.3f}"] if loss is not None else []
        parts += [f"val {self.metric} {float(score):.3f}"] if score is not None else []
        self._note = ", ".join(parts)
        if self._step is not None:
            self._step.advance(0, note=self._note)

    def on_fit_end(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        """Close the bar."""
        self._open.close()

    def on_exception(
        self, trainer: pl.Trainer, task: pl.LightningModule, exception: BaseException
    ) -> None:
        """Close the bar, so that the message that follows stands alone."""
        self._open.close()


def _batches(trainer: pl.Trainer) -> int:
    """Batches of an epoch; 0 where the data does not say how much it is."""
    count = trainer.num_training_batches
    return int(count) if math.isfinite(count) else 0


def _all_batches(trainer: pl.Trainer) -> int:
    """Batches until training ends, by epochs or by steps, whichever comes first."""
    epochs, steps = trainer.max_epochs or -1, trainer.max_steps
    by_epochs = _batches(trainer) * epochs if epochs > 0 else None
    by_steps = steps * trainer.accumulate_grad_batches if steps > 0 else None
    return min((count for count in (by_epochs, by_steps) if count is not None), default=0)
