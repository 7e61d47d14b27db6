"""Score a fitted model with some of its specialists left out: every batch is encoded once."""

from __future__ import annotations

import statistics
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from eosfm_cli.coalitions import Coalition
from eosfm_cli.data.datamodule import TileDataModule
from eosfm_cli.ensemble.encoder import EnsembleEncoder
from eosfm_cli.errors import DataError
from eosfm_cli.progress import Progress
from eosfm_cli.recipe import Recipe
from eosfm_cli.training.bootstrap import Floats, build_tally, draw_weights
from eosfm_cli.training.decoding import Decoder, dates_as_batch
from eosfm_cli.training.model import inner_encoder
from eosfm_cli.training.task import answers, truths
from eosfm_cli.training.trainer import memory_errors


@dataclass(frozen=True)
class CoalitionScores:
    """What a pass over a split has shown."""

    scores: dict[Coalition, Floats]
    """Per coalition the task's metric, `(1 + replicates,)`; the first is of the samples as they
    are."""
    seconds: dict[str, float]
    """What each specialist's encoder took."""
    full_seconds: float
    """What encoder, fusion and decoder took with everybody."""
    samples: int


@torch.inference_mode()
def score_coalitions(
    model: nn.Module,
    recipe: Recipe,
    data: TileDataModule,
    coalitions: Collection[Coalition],
    *,
    device: torch.device,
    replicates: int = 0,
    seed: int = 0,
    progress: Progress,
) -> CoalitionScores:
    """Measure coalitions of a model's specialists on the test split.

    Only fusion, decoder and head run once per coalition. Memory grows with their number times the
    replicates, not with the split.

    Args:
        model: As TerraTorch builds it, around an ensemble encoder.
        recipe: Of the data.
        data: Has the test split.
        coalitions: Whom to score; those not in one count as the fusion's neutral element.
        device: Where to compute.
        replicates: Of the bootstrap over samples.
        seed: Of the bootstrap.
        progress: Told of the batches.

    Raises:
        DataError: The test split is empty.
        OutOfMemoryError: A batch does not fit into memory.
    """
    model = model.to(device).eval()
    encoder: EnsembleEncoder = inner_encoder(model)
    everybody = frozenset(encoder.names)
    numbers = _numbered_samples(data)
    tally = build_tally(recipe, draw_weights(len(numbers), replicates, seed))
    decode, watch = Decoder(model), _Stopwatch(device)
    batches = data.test_dataloader()
    title = f"score {recipe.name}"
    with progress.step(title, len(batches)) as step, memory_errors(), watch.at(encoder):
        for batch in batches:
            x, true = batch["image"].to(device), truths(recipe.task, batch).to(device)
            samples = [numbers[name] for name in batch["filename"]]
            with watch.lap(_ENCODING):
                features = encoder.encode(dates_as_batch(x))
            for coalition in coalitions:
                with watch.lap(_DECODING if coalition == everybody else _OTHERS):
                    output = decode(x, encoder.combine(features, without=everybody - coalition))
                tally.update(coalition, answers(recipe.task, output), true, samples)
            watch.finish_batch()
            step.advance()
    took = watch.seconds()
    return CoalitionScores(
        scores=tally.scores(),
        seconds={name: took.get(name, 0.0) for name in encoder.names},
        full_seconds=took[_ENCODING] + took.get(_DECODING, 0.0),
        samples=len(numbers),
    )


def _numbered_samples(data: TileDataModule) -> dict[str, int]:
    """A number for each image of the test split."""
    data.setup("test")
    names = dict.fromkeys(str(sample.place) for sample in data.source.samples["test"])
    if not names:
        raise DataError(
            f"The test split of {data.recipe.name} is empty: there is nothing to measure on.",
            hint="Give the recipe a test split.",
        )
    return {name: number for number, name in enumerate(names)}


# ------------------------------------------------------------------------------ timing

_ENCODING, _DECODING, _OTHERS = "\0encoding", "\0decoding", "\0others"
"""Names that no specialist has."""


class _Stopwatch:
    """Takes the time of parts of the work, batch by batch."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._batches: list[dict[str, float]] = []
        self._batch: dict[str, float] = {}

    @contextmanager
    def at(self, encoder: EnsembleEncoder) -> Iterator[None]:
        """Take the time of every specialist that runs meanwhile."""
        handles = []
        for name, backbone in zip(encoder.names, encoder.backbones, strict=True):
            handles += self._listen(name, backbone)
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _listen(
        self, name: str, backbone: nn.Module
    ) -> Sequence[torch.utils.hooks.RemovableHandle]:
        began = 0.0

        def before(*_: object) -> None:
            nonlocal began
            began = self._now()

        def after(*_: object) -> None:
            self._add(name, self._now() - began)

        return backbone.register_forward_pre_hook(before), backbone.register_forward_hook(after)

    @contextmanager
    def lap(self, name: str) -> Iterator[None]:
        """Take the time of what is inside."""
        began = self._now()
        yield
        self._add(name, self._now() - began)

    def finish_batch(self) -> None:
        """Go on with the next batch."""
        self._batches.append(self._batch)
        self._batch = {}

    def seconds(self) -> dict[str, float]:
        """What each part took in all, from its median: the first batch warms up the machine."""
        names = {name for batch in self._batches for name in batch}
        return {
            name: len(self._batches)
            * statistics.median(batch.get(name, 0.0) for batch in self._batches)
            for name in names
        }

    def _add(self, name: str, seconds: float) -> None:
        self._batch[name] = self._batch.get(name, 0.0) + seconds

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # a kernel that was started is not yet done
        return time.perf_counter()
