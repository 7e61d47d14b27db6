"""Run a model over batches of windows, in as much memory as there is."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from eosfm_cli.errors import BundleError, OutOfMemoryError, is_out_of_memory
from eosfm_cli.recipe import Task


def best_device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def describe_device(device: torch.device) -> str:
    """The GPU's name, or `CPU`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def _of_one_class(logits: Tensor) -> Tensor:
    """Logits of classes of which one is so -> scores that sum to 1."""
    return logits.softmax(dim=1)


def _of_each_class(logits: Tensor) -> Tensor:
    """Logits of classes of which any may be so -> scores between 0 and 1."""
    return logits.sigmoid()


def _values(output: Tensor) -> Tensor:
    """Values `(b, h, w)` as one score `(b, 1, h, w)`."""
    return output.unsqueeze(1)


_SCORES: dict[Task, Callable[[Tensor], Tensor]] = {
    "segmentation": _of_one_class,
    "classification": _of_one_class,
    "multilabel": _of_each_class,
    "regression": _values,
    "change": _of_one_class,
}


class Scorer:
    """Turns standardised windows into class scores, or into values.

    Args:
        module: Maps `(b, bands, h, w)` to logits `(b, classes, h, w)`, or to what its task has
            instead.
        device: Where to compute.
        batch_size: Windows at once; halves when memory does not suffice, and stays there.
        on_smaller_batch: Told the new batch size.
        task: What the module is for.
    """

    def __init__(
        self,
        module: nn.Module,
        device: torch.device,
        batch_size: int,
        on_smaller_batch: Callable[[int], None],
        task: Task = "segmentation",
    ) -> None:
        self.module = module.to(device).eval()
        self.device = device
        self.batch_size = batch_size
        self.on_smaller_batch = on_smaller_batch
        self.scores_of = _SCORES[task]

    def score(self, windows: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """Scores `(classes, h, w)`, or `(classes,)` of whole images, for each window.

        Those of classes of which one is so sum to 1; values stand as `(1, h, w)`. Windows are
        `(bands, h, w)`, of two dates `(bands, 2, h, w)`.

        Raises:
            OutOfMemoryError: Not even a single window fits.
            BundleError: The model gives scores that are no numbers.
        """
        scores: list[NDArray[np.float32]] = []
        while len(scores) < len(windows):
            batch = windows[len(scores) : len(scores) + self.batch_size]
            try:
                scores.extend(self._forward(np.stack(batch)))
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                # Traceback frames hold the tensors that did not fit.
                error.__traceback__ = None
                self._halve()
        return scores

    @torch.inference_mode()
    def _forward(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        output = self.module(torch.from_numpy(batch).to(self.device))
        scores = self.scores_of(output.float())  # (b, classes, h, w)
        if not torch.isfinite(scores).all():
            raise BundleError(
                "The model gives scores that are no numbers.",
                hint="Its weights are damaged or its fit diverged: fit again, with a lower --lr.",
            )
        return scores.cpu().numpy()

    def _halve(self) -> None:
        if self.batch_size == 1:
            raise OutOfMemoryError(
                f"Not even one window fits into the memory of the {self.device.type}.",
                hint="Close other programs, or fit with a smaller tile: --set tile.size=128",
            )
        self.batch_size //= 2
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.on_smaller_batch(self.batch_size)
