"""Which specialists a dataset needs, told before any training."""

from __future__ import annotations

from pathlib import Path

from eosfm_cli.bands import Plan
from eosfm_cli.carbon.tracker import track
from eosfm_cli.data.datamodule import build_datamodule
from eosfm_cli.data.scarcity import keep_labels
from eosfm_cli.data.sources import located
from eosfm_cli.ensemble.encoder import plan_specialists
from eosfm_cli.progress import Progress
from eosfm_cli.raster.scoring import best_device, describe_device
from eosfm_cli.recipe import Recipe
from eosfm_cli.results import ProbeScore, RankResult, RankRow
from eosfm_cli.training.probe import cell_size, probe
from eosfm_cli.training.task import METRICS
from eosfm_cli.workflows.encoders import find_encoders


def rank(
    recipe: Recipe,
    *,
    samples: int,
    root: Path,
    data_root: Path | None,
    progress: Progress,
) -> RankResult:
    """Rank the specialists of an ensemble for a recipe's data, by a linear probe of each.

    Nothing is trained but a linear map per specialist, in closed form; it is fitted on training
    tiles and scored on validation tiles.

    Args:
        recipe: Dataset and, in `fit`, which ensemble and seed.
        samples: Look at no more tiles than this of either split.
        root: The experiments folder, whose ledger gets a line.
        data_root: Where datasets are; `EOSFM_DATA` or `data` if not given.
        progress: Who is told.

    Raises:
        DataError: The dataset or the ensemble is missing or unusable.
        BandError: No specialist can be fed from the recipe's bands.
    """
    encoders = find_encoders(recipe, root, progress)
    infos = [specialist.info for specialist in encoders.specialists]
    plan = plan_specialists(infos, recipe.bands, declared=recipe.views)
    for line in plan.announcement():
        progress.say(line)
    spec = recipe.fit.model_copy(update={"augment": False})
    data = build_datamodule(located(recipe, data_root), None, spec=spec, progress=progress)
    keep_labels(data, spec.label_fraction, seed=spec.seed, progress=progress)
    device = best_device()
    progress.say(f"device: {describe_device(device)}")
    with track(
        root, command="rank", name=recipe.name, recipe=recipe.name, progress=progress
    ) as meter:
        scores = probe(
            encoders.specialists,
            plan,
            data,
            samples=samples,
            seed=spec.seed,
            device=device,
            progress=progress,
        )
    tiles = {split: min(samples, data.tile_counts[split]) for split in ("train", "val")}
    return RankResult(
        recipe=recipe.name,
        task=recipe.task,
        metric_name=METRICS[recipe.task],
        ensemble=encoders.source,
        tiles=tiles,
        cell=cell_size(recipe) if recipe.has_masks else None,
        rows=tuple(_row(score, plan) for score in scores),
        left_out={row.specialist: row.reason for row in plan.rows if not row.views},
        cost=meter.cost,
    )


def _row(score: ProbeScore, plan: Plan) -> RankRow:
    views = next(row.views for row in plan.usable if row.specialist == score.specialist)
    return RankRow(
        specialist=score.specialist,
        score=score.score,
        low=score.low,
        high=score.high,
        seconds=score.seconds,
        parameters=score.parameters,
        views=tuple(view.name for view in views),
        exact=all(view.exact for view in views),
    )
