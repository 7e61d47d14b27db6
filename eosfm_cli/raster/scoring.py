"""Run a model over batches of windows, in as much memory as there is."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from eosfm_cli.errors import BundleError, OutOfMemoryError, UsageError, is_out_of_memory
from eosfm_cli.precision import Precision
from eosfm_cli.recipe import Task

Runs = Callable[[Tensor], Tensor | tuple[Tensor, Tensor]]
"""Maps `(b, bands, h, w)`, of two dates `(b, bands, 2, h, w)`, to logits `(b, classes, h, w)`, or
to what its task has instead; or to these and how far specialists differ, `(b, h, w)`."""

Windows = Sequence[NDArray[np.float32]]
Compare = Callable[[Windows, Windows], None]
"""Is told windows and their scores."""

_PIXELS = {"cpu": 8 * 256**2, "cuda": 32 * 256**2}
"""Pixels that are computed at once, at most: more is not faster, and they wait in memory."""
_THERE = 0.5
"""From this probability on a label is there."""
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


_OF_CPUS = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")
"""What torch calls a CPU's instructions for bfloat16, on Intel, AMD and ARM."""


def has_bf16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16 by itself, and so faster than in 32 bits."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    found = torch.cpu.get_capabilities()
    return any(found.get(name, False) for name in _OF_CPUS)


def refuse_precision(precision: Precision, device: torch.device) -> None:
    """Refuse a precision that a device can only imitate.

    Raises:
        UsageError: It can.
    """
    if precision == "bf16" and not has_bf16(device):
        raise UsageError(
            f"This {_kind(device)} has no instructions for bf16: it would be slower, not faster.",
            hint="Leave --precision out. What bf16 would change: eosfm evaluate --precision bf16",
        )


def _kind(device: torch.device) -> str:
    return "GPU" if device.type == "cuda" else "CPU"


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
        compare: Told, once, a batch of windows that hold something, and their scores.
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
        compare: Compare | None = None,
    ) -> None:
        self.module = module.to(device).eval() if isinstance(module, nn.Module) else module
        self.device = device
        self.batch_size = batch_size or 1
        self.on_smaller_batch = on_smaller_batch
        self.scores_of = _SCORES[task]
        self.disagreement = disagreement
        self.compare = compare
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
        self._compare(windows, scores)
        return scores

    def _compare(self, windows: Windows, scores: Windows) -> None:
        held = [i for i, window in enumerate(windows) if window.any()][: self.batch_size]
        if held and self.compare is not None:
            told, self.compare = self.compare, None
            told([windows[i] for i in held], [scores[i] for i in held])

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

    def classes_in(self, scores: Windows) -> NDArray[np.float32]:
        """Scores of classes alone, or values, of all windows together, `(classes, n)`."""
        planes = -1 if self.disagreement else None
        return np.concatenate([s[:planes].reshape(len(s[:planes]), -1) for s in scores], axis=1)

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


def difference(task: Task, one: NDArray[np.float32], other: NDArray[np.float32]) -> str:
    """How far answers of two precisions differ, in words.

    Args:
        task: What they are.
        one: As `Scorer.classes_in` gives them.
        other: Likewise.
    """
    if task == "regression":
        return f"values differ by {np.abs(one - other).mean():.3g} on average"
    if task == "multilabel":
        return f"{((one > _THERE) != (other > _THERE)).mean():.3%} of the labels differ"
    return f"{(one.argmax(axis=0) != other.argmax(axis=0)).mean():.3%} of the classes differ"
