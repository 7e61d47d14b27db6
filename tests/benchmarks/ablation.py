"""What it takes to leave every specialist out in turn."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torchmetrics.classification import MulticlassJaccardIndex

from eosfm_cli.data.datamodule import TileDataModule, build_datamodule
from eosfm_cli.progress import Silent
from eosfm_cli.training.coalition_scores import score_coalitions
from tests.benchmarks.harness import Benchmark, Figures, Row, Scale, against, within
from tests.benchmarks.subjects import CLASSES, VALIDATED, decoder, models, tile_recipe, write_tiles

_EQUAL = 1e-3
"""Of mean IoUs: a pixel whose two best classes are as good as equal may go either way."""
_FIRST = 2
"""Specialists that are left out one by one before anything is timed."""


def of_many(scale: Scale, folder: Path) -> Benchmark:
    """Of the larger ensemble, and against a single plain evaluation of it."""
    return _leave_one_out(scale, folder, scale.many, aim=10)


def of_some(scale: Scale, folder: Path) -> Benchmark:
    """Of the smaller ensemble."""
    return _leave_one_out(scale, folder, scale.some, aim=5)


def _leave_one_out(scale: Scale, folder: Path, count: int, *, aim: int) -> Benchmark:
    write_tiles(folder, 1 + VALIDATED + scale.scored, scale.tile)
    recipe = tile_recipe(scale, folder, train=1, test=scale.scored)
    plain, ours = models(scale, count, recipe, decoder(scale))
    ours.encoder.fold()
    data = build_datamodule(recipe, None, spec=recipe.fit, progress=Silent())
    names = ours.encoder.names
    sets = [frozenset(names), *(frozenset(names) - {name} for name in names)]
    outcomes: dict[str, list[float]] = {}

    def published(most: int = count) -> None:
        without = [(), *((number,) for number in range(most))]
        outcomes["plain"] = [evaluation(plain, data, numbers) for numbers in without]

    def eosfm() -> None:
        found = score_coalitions(
            ours,
            recipe,
            data,
            sets,
            device=torch.device("cpu"),
            replicates=1000,  # as `eosfm ablate` does; the plain side has no intervals
            progress=Silent(),
        )
        outcomes["eosfm"] = [float(found.scores[one][0]) for one in sets]

    def equal() -> str:
        pairs = zip(outcomes["plain"], outcomes["eosfm"], strict=False)
        return within(max(abs(a - b) for a, b in pairs), _EQUAL, "mean IoU off by")

    def check() -> str:
        published(_FIRST)
        eosfm()
        assert len({round(score, 6) for score in outcomes["eosfm"]}) > 1, "nobody is missed"
        return equal()

    def rows(found: Figures) -> list[Row]:
        equal()  # of all the sets, as they were timed
        what = f"leave-one-out ablation, N = {count}"
        single = f"… against one plain evaluation, N = {count}"
        return [
            against(found, what, "plain", "eosfm", f"≥ {aim} ×"),
            against(found, single, "plain, once", "eosfm", "≤ 2.1 ×").inverted(),
        ]

    ways = {"plain": published, "plain, once": lambda: evaluation(plain, data), "eosfm": eosfm}
    return Benchmark(ways, check, rows)


@torch.inference_mode()
def evaluation(model: nn.Module, data: TileDataModule, left_out: tuple[int, ...] = ()) -> float:
    """The mean IoU on the test split of a plain model, some of whose features are zero."""
    model.encoder.leave_out(left_out)
    metric = MulticlassJaccardIndex(len(CLASSES))
    for batch in data.test_dataloader():
        logits: Tensor = model(batch["image"]).output
        metric.update(logits.argmax(1), batch["mask"])
    return float(metric.compute())
