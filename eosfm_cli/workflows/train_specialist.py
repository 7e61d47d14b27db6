"""Train one specialist: one small encoder on one dataset with one set of bands."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning.pytorch import LightningModule

from eosfm_cli.data.datamodule import build_datamodule
from eosfm_cli.data.sources import located
from eosfm_cli.data.statistics import with_statistics
from eosfm_cli.ensemble.specialist import build_backbone, parameter_count
from eosfm_cli.errors import EosfmError, WeightsUnavailableError, is_out_of_memory
from eosfm_cli.manifest import DecoderInfo
from eosfm_cli.progress import Progress
from eosfm_cli.recipe import Recipe
from eosfm_cli.results import TrainResult
from eosfm_cli.training.model import choose_decoder
from eosfm_cli.training.task import build_specialist_task
from eosfm_cli.training.trainer import (
    build_trainer,
    check_batches,
    check_machine,
    fit,
    measure_best,
    seed_everything,
)
from eosfm_cli.workflows.running import open_run


def train_specialist(
    recipe: Recipe, *, root: Path, data_root: Path | None, progress: Progress
) -> TrainResult:
    """Train the specialist that a recipe describes, and measure it on the test split.

    Args:
        recipe: Dataset, bands and training settings.
        root: The experiments folder; the run goes to `root/train/<recipe>/<run>/`.
        data_root: Where datasets are; `EOSFM_DATA` or `data` if not given.
        progress: Who is told.

    Raises:
        DataError: The dataset is missing, incomplete or laid out otherwise.
        WeightsUnavailableError: Pretrained weights were asked for and cannot be had.
    """
    spec = recipe.training
    check_machine(spec, progress)  # what cannot work fails before the data is read
    build_backbone(spec.backbone, len(recipe.bands))
    decoder = choose_decoder(recipe, spec)
    recipe = with_statistics(located(recipe, data_root), None, progress)
    data = build_datamodule(recipe, None, spec=spec, progress=progress)
    progress.say(f"data: {recipe.dataset.root}; bands: {', '.join(recipe.bands)}")
    check_batches(data, spec)
    seed_everything(spec.seed)
    task = _build_task(recipe, decoder)
    with open_run("train", recipe, root, progress) as running:
        trainer = build_trainer(
            recipe,
            spec,
            running.run,
            epochs=spec.epochs,
            progress=running.progress,
            title=recipe.name,
        )
        fit(trainer, task, data)
        metrics = measure_best(trainer, task, data)
        parameters = parameter_count(task.model.encoder)
        trainable = parameter_count(task.model, trainable=True)
        running.entries.update(metrics=metrics, parameters=parameters, trainable=trainable)
    run = running.run.path
    return TrainResult(recipe.name, run, metrics, parameters, trainable, running.cost)


def _build_task(recipe: Recipe, decoder: DecoderInfo) -> LightningModule:
    arguments = {f"decoder_{key}": value for key, value in decoder.arguments.items()}
    with _hub_errors(recipe):
        return build_specialist_task(recipe, {"decoder": decoder.name, **arguments})


@contextmanager
def _hub_errors(recipe: Recipe) -> Iterator[None]:
    """Say clearly that pretrained weights could not be had, whatever the hub's library raised."""
    if not recipe.training.pretrained:
        yield
        return
    try:
        yield
    except Exception as error:  # whatever the hub's library and its transport have in store
        if isinstance(error, EosfmError) or is_out_of_memory(error):
            raise
        raise WeightsUnavailableError(
            f"Pretrained weights of {recipe.training.backbone} cannot be had: "
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no answer'}",
            hint="Go on from random weights with --no-pretrained, or try again where the hub is "
            "in reach.",
        ) from error
