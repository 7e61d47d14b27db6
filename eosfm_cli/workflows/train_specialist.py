"""Train one specialist: one small encoder on one dataset with one set of bands."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

from lightning.pytorch import LightningModule

from eosfm_cli.budget import Budget
from eosfm_cli.carbon.power import power_of
from eosfm_cli.data.datamodule import TileDataModule, build_datamodule
from eosfm_cli.data.sources import located
from eosfm_cli.ensemble.specialist import build_backbone, hub_errors, parameter_count
from eosfm_cli.manifest import DecoderInfo
from eosfm_cli.progress import Progress
from eosfm_cli.recipe import Recipe
from eosfm_cli.results import TrainResult, WorkPlan
from eosfm_cli.run_dir import RunDir, check_makeable
from eosfm_cli.training.model import choose_decoder, decoder_errors, start_from
from eosfm_cli.training.rehearsal import describe_plan, rehearse
from eosfm_cli.training.task import build_specialist_task
from eosfm_cli.training.trainer import (
    build_trainer,
    check_batches,
    check_machine,
    choose_devices,
    fit,
    measure_best,
    seed_everything,
)
from eosfm_cli.workflows.running import Running, open_run, with_power


def train_specialist(
    recipe: Recipe,
    *,
    root: Path,
    data_root: Path | None,
    progress: Progress,
    resume: RunDir | None = None,
    budget: Budget | None = None,
) -> TrainResult:
    """Train the specialist that a recipe describes, and measure it on the test split.

    Args:
        recipe: Dataset, bands and training settings.
        root: The experiments folder; the run goes to `root/train/<recipe>/<run>/`.
        data_root: Where datasets are; `EOSFM_DATA` or `data` if not given.
        progress: Who is told.
        resume: Go on with this run, whose recipe it is, in its folder.
        budget: What the run may take, with what it took before.

    Raises:
        BudgetReached: It has taken that; it can be gone on with.
        DataError: The dataset is missing, incomplete or laid out otherwise.
        UsageError: The data of the run to go on with has changed.
        OutputError: The experiments folder cannot be written.
        WeightsUnavailableError: Pretrained weights were asked for and cannot be had.
    """
    check_makeable(root)
    started = resume is not None and resume.last.is_file()
    data, task = _prepared(recipe, data_root, progress, started=started)
    recipe = data.recipe
    with open_run(
        "train",
        recipe.name,
        recipe.to_yaml(),
        root,
        progress,
        resume=resume,
        facts=data.facts,
        budget=budget,
        devices=choose_devices(recipe.training),
    ) as running:
        running.epochs = recipe.training.epochs
        metrics = _train(task, data, running)
        parameters = parameter_count(task.model.encoder)
        trainable = parameter_count(task.model, trainable=True)
        running.entries.update(metrics=metrics, parameters=parameters, trainable=trainable)
    run = running.run.path
    return TrainResult(
        recipe.name,
        run,
        metrics,
        parameters,
        trainable,
        running.cost,
        estimate=running.estimate,
    )


def plan_training(recipe: Recipe, *, data_root: Path | None, progress: Progress) -> WorkPlan:
    """Say what `train_specialist` would do, from a few steps of it; nothing is kept.

    Raises:
        DataError: The dataset is missing, incomplete or laid out otherwise.
    """
    data, task = _prepared(recipe, data_root, progress, started=True)
    spec = recipe.training
    with power_of() as power:
        phase = rehearse("train", task, data, spec, spec.epochs)
    return with_power(describe_plan(data, spec, [phase]), power, choose_devices(spec))


def _prepared(
    recipe: Recipe, data_root: Path | None, progress: Progress, *, started: bool
) -> tuple[TileDataModule, LightningModule]:
    """The data and the task; what cannot work fails before the data is read."""
    spec = recipe.training
    check_machine(spec, progress)
    build_backbone(spec.backbone, len(recipe.bands))
    decoder = choose_decoder(recipe, spec)
    data = build_datamodule(located(recipe, data_root), None, spec=spec, progress=progress)
    progress.say(f"data: {data.recipe.dataset.root}; bands: {', '.join(recipe.bands)}")
    check_batches(data, spec)
    seed_everything(spec.seed)
    task = _build_task(data.recipe, decoder, started=started)
    start_from(task.model, data.target_mean)
    return data, task


def _train(task: LightningModule, data: TileDataModule, running: Running) -> dict[str, float]:
    recipe, run = data.recipe, running.run
    trainer = build_trainer(
        recipe,
        recipe.training,
        run,
        epochs=recipe.training.epochs,
        progress=running.progress,
        title=recipe.name,
        after_epoch=running.note_cost,
        keep_budget=running.keep_budget,
    )
    fit(trainer, task, data, folder=run.checkpoints, progress=running.progress)
    return measure_best(trainer, task, data, run.best)


def _build_task(recipe: Recipe, decoder: DecoderInfo, *, started: bool) -> LightningModule:
    """The task; one that goes on has its weights already and asks no hub for others."""
    if started:
        training = recipe.training.model_copy(update={"pretrained": False})
        recipe = recipe.model_copy(update={"training": training})
    arguments = {f"decoder_{key}": value for key, value in decoder.arguments.items()}
    fetching = hub_errors(recipe.training.backbone) if recipe.training.pretrained else nullcontext()
    with decoder_errors(recipe.training.decoder), fetching:
        return build_specialist_task(recipe, {"decoder": decoder.name, **arguments})
