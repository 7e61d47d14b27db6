"""Score a fitted model with some of its specialists left out: every batch is encoded once."""

from __future__ import annotations

import statistics
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from eosfm_cli.coalitions import Coalition
from eosfm_cli.data.datamodule import TileDataModule
from eosfm_cli.ensemble.encoder import EnsembleEncoder, Features
from eosfm_cli.errors import DataError
from eosfm_cli.progress import Progress
from eosfm_cli.recipe import Recipe
from eosfm_cli.training.bootstrap import Floats, Tally, build_tally, draw_weights
from eosfm_cli.training.decoding import dates_as_batch
from eosfm_cli.training.model import inner_encoder
from eosfm_cli.training.stored_features import StoredFeatures
from eosfm_cli.training.task import answers, truths
from eosfm_cli.training.trainer import memory_errors
from eosfm_cli.training.variants import Variants

_FEW_BATCHES, _FEWEST_BATCHES = 4, 2
"""That are encoded to tell what specialists take where their features are stored; of a short split
fewer. The first one may find a machine that is not warm."""


@dataclass(frozen=True)
class CoalitionScores:
    """What a pass over a split has shown."""

    scores: dict[Coalition, Floats]
    """Per coalition the task's metric, `(1 + replicates,)`; the first is of the samples as they
    are."""
    seconds: dict[str, float]
    """What each specialist's encoder takes for the split."""
    full_seconds: float
    """What encoder, fusion and decoder take for it with everybody."""
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
    images: TileDataModule | None = None,
    progress: Progress,
) -> CoalitionScores:
    """Measure coalitions of a model's specialists on the test split.

    Only what follows on the features runs once per coalition. Memory grows with their number times
    the replicates, not with the split.

    Args:
        model: As TerraTorch builds it, around an ensemble encoder; moved to `device`.
        recipe: Of the data.
        data: Has the test split: images, or stored features of this encoder.
        coalitions: Whom to score; those not in one count as the fusion's neutral element.
        device: Where to compute.
        replicates: Of the bootstrap over samples.
        seed: Of the bootstrap.
        images: The same data with images, where `data` has stored features: a few batches of it
            are encoded to tell what each specialist takes.
        progress: Told of the batches.

    Raises:
        DataError: The test split is empty.
        OutOfMemoryError: A batch does not fit into memory.
    """
    numbers = _numbered_samples(data)
    tally = build_tally(recipe, draw_weights(len(numbers), replicates, seed))
    scoring = _Scoring(model.to(device).eval(), recipe, tuple(coalitions), numbers, tally)
    batches = data.test_dataloader()
    title = f"score {recipe.name}"
    with progress.step(title, len(batches)) as step, memory_errors(), scoring.timed():
        for batch in _some_batches(images) if images else ():
            scoring.take_time(batch["image"])
        for batch in batches:
            scoring.add(batch)
            step.advance()
    return scoring.result(len(batches))


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


def _some_batches(data: TileDataModule) -> Iterator[Mapping[str, Any]]:
    batches = data.test_dataloader()
    return islice(batches, max(_FEWEST_BATCHES, min(_FEW_BATCHES, len(batches) // _FEW_BATCHES)))


class _Scoring:
    """Scores coalitions, batch by batch."""

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        coalitions: Sequence[Coalition],
        numbers: Mapping[str, int],
        tally: Tally,
    ) -> None:
        self._encoder: EnsembleEncoder = inner_encoder(model)
        self._task, self._coalitions = recipe.task, coalitions
        self._numbers, self._tally = numbers, tally
        self._variants = Variants(model, coalitions)
        self._device = next(model.parameters()).device
        self._watch = _Stopwatch(self._device)

    def timed(self) -> AbstractContextManager[None]:
        """Take the time of every specialist that runs meanwhile."""
        return self._watch.at(self._encoder)

    def take_time(self, images: Tensor) -> None:
        """Encode a batch to see how long that takes."""
        self._encode(images)
        self._watch.finish_batch()

    def add(self, batch: Mapping[str, Any]) -> None:
        """Score every coalition on a batch."""
        image, true = batch["image"], truths(self._task, batch).to(self._device)
        samples = [self._numbers[name] for name in batch["filename"]]
        if isinstance(image, StoredFeatures):
            image = image._replace(rows=tuple(rows.to(self._device) for rows in image.rows))
            like, features = image.like, self._encoder.refine(image.features())
        else:
            like, features = image, self._encode(image)
        for part in self._watch.laps(_DECODING, self._variants.outputs(like, features)):
            tiles = slice(part.tiles.start, part.tiles.stop)
            said = answers(self._task, part.output.flatten(0, 1))
            self._tally.update(
                [self._coalitions[i] for i in part.coalitions],
                said.unflatten(0, part.output.shape[:2]),
                true[tiles],
                samples[tiles],
            )
        self._watch.finish_batch()

    def result(self, batches: int) -> CoalitionScores:
        """What so many batches have shown."""
        took = {name: batches * seconds for name, seconds in self._watch.per_batch().items()}
        return CoalitionScores(
            scores=self._tally.scores(),
            seconds={name: took.get(name, 0.0) for name in self._encoder.names},
            full_seconds=took[_ENCODING] + took[_DECODING] / len(self._coalitions),
            samples=len(self._numbers),
        )

    def _encode(self, images: Tensor) -> Features:
        images = dates_as_batch(images.to(self._device))
        with self._watch.lap(_ENCODING):
            return self._encoder.encode(images)


# ------------------------------------------------------------------------------ timing

_ENCODING, _DECODING = "\0encoding", "\0decoding"
"""Names that no specialist has."""
_Item = TypeVar("_Item")


class _Stopwatch:
    """Takes the time of parts of the work, batch by batch."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._batches: dict[str, list[float]] = {}
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

    def laps(self, name: str, items: Iterator[_Item]) -> Iterator[_Item]:
        """Take the time in which items come."""
        while True:
            with self.lap(name):
                item = next(items, None)
            if item is None:
                return
            yield item

    def finish_batch(self) -> None:
        """Go on with the next batch."""
        for name, seconds in self._batch.items():
            self._batches.setdefault(name, []).append(seconds)
        self._batch = {}

    def per_batch(self) -> dict[str, float]:
        """What each part takes, as a median: the first batch warms up the machine."""
        return {name: statistics.median(seconds) for name, seconds in self._batches.items()}

    def _add(self, name: str, seconds: float) -> None:
        self._batch[name] = self._batch.get(name, 0.0) + seconds

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # a kernel that was started is not yet done
        return time.perf_counter()
