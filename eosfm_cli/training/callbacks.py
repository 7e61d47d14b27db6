"""What a run writes down and tells while it trains."""

from __future__ import annotations

import csv
import time
from contextlib import ExitStack
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Checkpoint

from eosfm_cli.progress import Progress, Step
from eosfm_cli.run_dir import RunDir, write_csv
from eosfm_cli.training.plots import draw_history

_REDRAW_SECONDS = 30.0


class WriteHistory(Checkpoint):
    """Write `metrics.csv` after every epoch and redraw `history.png`, the latter not too often.

    It counts as a checkpoint so that Lightning calls it after the task has logged its epoch.
    """

    def __init__(self, run: RunDir, *, metric: str, phase: str) -> None:
        self.run, self.metric, self.phase = run, metric, phase
        self.rows = read_history(run)
        self._drawn = time.monotonic()
        self._lr = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        """Note the learning rate that the epoch runs with; its end has the next one's."""
        self._lr = trainer.optimizers[0].param_groups[-1]["lr"]

    def on_train_epoch_end(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        """Write one row; validation of the epoch is over by now."""
        row = {"phase": self.phase, "epoch": trainer.current_epoch}
        row |= {name: float(value) for name, value in trainer.callback_metrics.items()}
        row["lr"] = self._lr
        if task.gates is not None:
            row |= {f"gate/{name}": gate for name, gate in task.gates.ranking().items()}
        self.rows.append({key: str(value) for key, value in row.items()})
        if trainer.is_global_zero:
            self._write()

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


def read_history(run: RunDir) -> list[dict[str, str]]:
    """The rows of `metrics.csv`, empty cells left out; none where there is no such file."""
    if not run.metrics.is_file():
        return []
    with run.metrics.open(encoding="utf-8", newline="") as file:
        return [{k: v for k, v in row.items() if v} for row in csv.DictReader(file)]


class Report(pl.Callback):
    """Tell progress batch by batch, and the score after every epoch."""

    def __init__(self, progress: Progress, title: str, metric: str) -> None:
        self.progress, self.title, self.metric = progress, title, metric
        self._open = ExitStack()
        self._step: Step | None = None
        self._note = ""

    def on_train_start(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        """Open the bar."""
        batches = int(trainer.num_training_batches) * int(trainer.max_epochs or 1)
        if trainer.is_global_zero:
            self._step = self._open.enter_context(self.progress.step(self.title, batches))

    def on_train_batch_end(self, *args: Any) -> None:  # noqa: ANN401 - Lightning's
        """Move the bar."""
        if self._step is not None:
            self._step.advance(note=self._note)

    def on_train_epoch_end(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        """Say where training stands."""
        values = trainer.callback_metrics
        score, loss = values.get(f"val/{self.metric}"), values.get("train/loss")
        parts = [f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"]
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
