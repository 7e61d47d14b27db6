"""Run a model over batches of windows, in as much memory as there is."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from eosfm_cli.errors import BundleError, OutOfMemoryError, UsageError, is_out_of_memory
from eosfm_cli.recipe import Task

Runs = Callable[[Tensor], Tensor | tuple[Tensor, Tensor]]
"""Maps `(b, bands, h, w)`, of two dates `(b, bands, 2, h, w)`, to logits `(b, classes, h, w)`, or
to what its task has instead; or to these and how far specialists differ, `(b, h, w)`."""

_PIXELS = {"cpu": 8 * 256**2, "cuda": 32 * 256**2}
"""Pixels that are computed at once, at most: more is not faster, and they wait in memory."""
_SHARE_OF_GPU = 0.7
"""Of a GPU's free memory, what windows may take; the rest is for what varies."""


def best_device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def choose_device(name: str) -> torch.device:
    """The device of a name: `auto` for the best, `cpu` or `cuda`.

    Raises:
        UsageError: There is no such device.
    """
    if name == "auto":
        return best_device()
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            "There is no GPU that torch can use.",
            hint="Leave --device out, or see what is there: eosfm doctor",
        )
    return torch.device(name)


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
        module: The model; a module is moved to the device.
        device: Where to compute.
        batch_size: Windows at once; chosen by `fit_to` if not given. Halves when memory does not
            suffice, and stays there.
        on_smaller_batch: Told the new batch size.
        task: What the module is for.
        disagreement: Whether the module also tells how far its specialists differ.
    """

    def __init__(
        self,
        module: Runs,
        device: torch.device,
        batch_size: int | None,
        on_smaller_batch: Callable[[int], None],
        task: Task = "segmentation",
        *,
        disagreement: bool = False,
    ) -> None:
        self.module = module.to(device).eval() if isinstance(module, nn.Module) else module
        self.device = device
        self.batch_size = batch_size or 1
        self.on_smaller_batch = on_smaller_batch
        self.scores_of = _SCORES[task]
        self.disagreement = disagreement
        self._chooses = batch_size is None
        self._shape: tuple[int, ...] | None = None

    def fit_to(self, *shape: int) -> None:
        """Choose how many windows of a shape to compute at once, unless that was given.

        Args:
            shape: Of a window, `(bands, h, w)` or `(bands, 2, h, w)`.

        Raises:
            OutOfMemoryError: Not even a single window fits.
        """
        if not self._chooses or shape == self._shape:
            return
        self._shape = shape
        most = max(_PIXELS[self.device.type] // (shape[-2] * shape[-1]), 1)
        room = self._room(shape) if self.device.type == "cuda" else most
        self.batch_size = max(min(most, room), 1)

    def _room(self, shape: tuple[int, ...]) -> int:
        """How many windows fit into the GPU's memory, from what one takes."""
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        self._chooses, self.batch_size = False, 1
        self.score([np.zeros(shape, np.float32)])
        self._chooses = True
        taken = torch.cuda.max_memory_allocated(self.device) - before
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info(self.device)
        return int(_SHARE_OF_GPU * free) // max(taken, 1)

    def score(self, windows: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """Scores `(classes, h, w)`, or `(classes,)` of whole images, for each window.

        Those of classes of which one is so sum to 1; values stand as `(1, h, w)`. Windows are
        `(bands, h, w)`, of two dates `(bands, 2, h, w)`. How far specialists differ stands behind
        the scores, as one plane more.

        Raises:
            OutOfMemoryError: Not even a single window fits.
            BundleError: The model gives scores that are no numbers.
        """
        if windows:
            self.fit_to(*windows[0].shape)
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
        logits, *others = output if isinstance(output, tuple) else (output,)
        planes = [self.scores_of(logits.float()), *(plane.float()[:, None] for plane in others)]
        scores = torch.cat(planes, dim=1)  # (b, classes, h, w)
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
