"""What fitting on frozen specialists takes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from eosfm_cli.data.datamodule import build_datamodule
from eosfm_cli.progress import Silent
from eosfm_cli.training.decoding import decode_stored
from eosfm_cli.training.feature_store import FeatureStore
from eosfm_cli.training.pooled_features import takes_means_only
from tests.benchmarks.harness import Benchmark, Figures, Row, Scale, against, difference, within
from tests.benchmarks.subjects import CLASSES, VALIDATED, decoder, models, tile_recipe, write_tiles

Forward = Callable[[Any], Tensor]
"""Logits of a batch's images, or of what is stored of them."""
_EQUAL = 5e-3
"""Of the first losses: features are stored in half precision."""
_FIRST = 4
"""Batches on which both sides have to agree."""


class Learner:
    """A model that learns from batches, wherever its features come from."""

    def __init__(self, model: nn.Module, forward: Forward, *, mixed: bool) -> None:
        self.model, self.forward, self.mixed = model, forward, mixed
        learning = [p for p in model.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(learning, lr=1e-3, weight_decay=0.05, fused=True)

    def epoch(self, batches: Iterable[dict[str, Any]]) -> Tensor:
        """Train on every batch once, and give the losses."""
        self.model.train()
        return torch.tensor([self._step(batch) for batch in batches])

    def _step(self, batch: dict[str, Any]) -> float:
        truth = batch["mask"] if "mask" in batch else batch["label"]
        with torch.autocast("cpu", torch.bfloat16, enabled=self.mixed):
            logits = self.forward(batch["image"])
        loss = cross_entropy(logits.float(), truth)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        return loss.item()


def segmentation(scale: Scale, folder: Path) -> Benchmark:
    """Fusion, decoder and head on tiles with masks."""
    work = f"fit, {_epochs(scale)}, UperNet"
    return _Fit(scale, folder, "UperNetDecoder").benchmark(work, "≥ 2.2 ×")


def segmentation_bf16(scale: Scale, folder: Path) -> Benchmark:
    """The same in mixed precision on both sides."""
    work = f"fit in bf16-mixed, {_epochs(scale)}, UperNet"
    return _Fit(scale, folder, "UperNetDecoder", mixed=True).benchmark(work, "as measured")


def classification(scale: Scale, folder: Path) -> Benchmark:
    """A linear head on tiles that are of one class each."""
    work = f"fit a linear classifier, {_epochs(scale)}"
    return _Fit(scale, folder, "IdentityDecoder").benchmark(work, "as measured", "≥ 100 ×")


def _epochs(scale: Scale) -> str:
    return f"{scale.epochs} epochs of {scale.tiles} × 3×{scale.tile}², N = {scale.some}"


class _Fit:
    """The same model to be fitted as published, and from the store.

    Epochs are measured one by one, and a fit is so many of them: plain ones, or ones from the
    store, before which every tile is encoded once. Reading the tiles, or what is stored of them, is
    part of it.
    """

    def __init__(self, scale: Scale, folder: Path, name: str, *, mixed: bool = False) -> None:
        maps = name != "IdentityDecoder"
        write_tiles(folder, scale.tiles + VALIDATED + len(CLASSES), scale.tile)
        recipe = tile_recipe(scale, folder, train=scale.tiles, test=len(CLASSES), maps=maps)
        plain, ours = models(scale, scale.some, recipe, decoder(scale, name))
        precision = "bf16-mixed" if mixed else "32-true"
        self.spec = recipe.fit.model_copy(update={"precision": precision})
        self.folder, self.epochs = folder, scale.epochs
        self.data = build_datamodule(recipe, None, spec=self.spec, progress=Silent())
        self.encoder, self.pooled = ours.encoder, takes_means_only(ours)
        self.plain = Learner(plain, lambda x: plain(x).output, mixed=mixed)
        self.ours = Learner(ours, lambda x: decode_stored(ours, x).output, mixed=mixed)
        self.tiles = self.data.train_dataloader()
        self.stored = self.encode().loader(self.encoder, self.data, "train", pooled=self.pooled)

    def encode(self) -> FeatureStore:
        """Encode every tile once, into a store of its own."""
        store = FeatureStore.of(self.spec, Silent())
        store.folder = Path(tempfile.mkdtemp(dir=self.folder))
        ready = store.ensure(self.encoder, self.data, ["train"], pooled=self.pooled)
        assert ready, store.reason
        return store

    def check(self) -> str:
        """Both sides learn the same from the first batches."""
        both = ((self.plain, self.tiles), (self.ours, self.stored))
        losses = [learner.epoch(islice(batches, _FIRST)) for learner, batches in both]
        return within(difference(losses[:1], losses[1:]), _EQUAL, "losses differ by")

    def benchmark(self, title: str, aim: str, aim_next: str = "better still") -> Benchmark:
        """Two rows: the first fit, and the next one, which finds everything in the store."""

        def rows(found: Figures) -> list[Row]:
            pairs = zip(found["encode"], found["eosfm"], strict=True)
            whole = {
                "plain": [self.epochs * epoch for epoch in found["plain"]],
                "first": [once + self.epochs * epoch for once, epoch in pairs],
                "next": [self.epochs * epoch for epoch in found["eosfm"]],
            }
            return [
                against(whole, title, "plain", "first", aim),
                against(
                    whole, "… its epochs alone, as the next fit takes", "plain", "next", aim_next
                ),
            ]

        ways = {
            "plain": lambda: self.plain.epoch(self.tiles),
            "encode": self.encode,
            "eosfm": lambda: self.ours.epoch(self.stored),
        }
        return Benchmark(ways, self.check, rows)
