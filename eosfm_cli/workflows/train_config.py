"""Train what a Lightning YAML describes, in a run folder and with its cost tracked."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from eosfm_cli.budget import Budget
from eosfm_cli.carbon.power import power_of
from eosfm_cli.data.recipe_datamodule import RecipeDataModule, dotted, refuse_mismatch
from eosfm_cli.data.sources import located
from eosfm_cli.ensemble.specialist import parameter_count
from eosfm_cli.errors import (
    ExitCode,
    Interrupted,
    RecipeError,
    UsageError,
    WeightsUnavailableError,
)
from eosfm_cli.lightning_yaml import (
    LightningYaml,
    Monitor,
    for_run_folder,
    remembering,
    with_ensemble,
    with_factory,
    with_options,
)
from eosfm_cli.progress import Progress
from eosfm_cli.recipe import Recipe, SpecialistSpec
from eosfm_cli.results import TrainResult, WorkPlan
from eosfm_cli.run_dir import RunDir, check_makeable, write_text
from eosfm_cli.training.lightning_config import (
    Described,
    backbone_of,
    build_described,
    build_described_trainer,
    check_described_machine,
    check_no_checkpoint,
    monitored_values,
    scored_split,
)
from eosfm_cli.training.rehearsal import describe_plan, rehearse
from eosfm_cli.training.terratorch_yaml import terratorch_yaml
from eosfm_cli.training.trainer import (
    check_batches,
    choose_devices,
    fit,
    library_messages_to,
    measure_best,
    memory_errors,
)
from eosfm_cli.workflows.running import Running, open_run, with_power

_WEIGHTS = "model.init_args.model_args.backbone_pretrained"
_FREE = (_WEIGHTS, "trainer.devices", "data.init_args.workers", "data.init_args.num_workers")
"""What may differ between a run and its continuation, beside where the data is."""
_PLACES = ("root", "data_root")


def train_config(
    config: LightningYaml,
    *,
    root: Path,
    progress: Progress,
    resume: RunDir | None = None,
    budget: Budget | None = None,
) -> TrainResult:
    """Train what a Lightning YAML describes and measure it on its test split, else on validation.

    The classes that it names are imported and run, by TerraTorch's own command line.

    Args:
        config: With options, and with recipes in place of published data modules.
        root: The experiments folder; the run goes to `root/train/<file's name>/<run>/`.
        progress: Who is told.
        resume: Go on with this run, whose configuration it is, in its folder.
        budget: What the run may take, with what it took before.

    Raises:
        BudgetReached: It has taken that; it can be gone on with.
        RecipeError: The file does not fit the versions installed here, or cannot be built.
        UsageError: Model and data do not fit each other, or the run to go on with had another
            configuration.
        OutputError: The experiments folder cannot be written.
        DataError: The dataset is missing, incomplete or laid out otherwise.
        WeightsUnavailableError: Pretrained weights were asked for and cannot be had.
    """
    check_makeable(root)
    config, monitor = _as_run(config, progress)
    if resume is not None and resume.last.is_file() and dotted(config.data).get(_WEIGHTS):
        config = with_options(config, {}, {_WEIGHTS: False})  # it has its weights already
    # whatever the classes print belongs to the messages, not to the result
    with redirect_stdout(sys.stderr):
        described, said = _built(config, progress)
        described = replace(described, config=remembering(described.config, monitor))
        if resume is not None:
            _refuse_changes(resume, described)
        facts = described.data.tiles.facts if _is_ours(described) else {}
        with open_run(
            "train",
            config.name,
            described.config,
            root,
            progress,
            resume=resume,
            facts=facts,
            budget=budget,
        ) as running:
            _note_origin(running, described, said)
            metrics, split = _train(config, described, monitor, running)
            encoder = getattr(getattr(described.task, "model", None), "encoder", described.task)
            parameters = parameter_count(encoder)
            trainable = parameter_count(described.task, trainable=True)
            running.entries.update(
                metrics=metrics, split=split, parameters=parameters, trainable=trainable
            )
            names = described.ensemble.names if described.ensemble else ()
            if names:
                running.entries["specialists"] = names
    run = running.run.path
    return TrainResult(config.name, run, metrics, parameters, trainable, running.cost, split, names)


def plan_config(config: LightningYaml, *, progress: Progress) -> WorkPlan:
    """Say what `train_config` would do, from a few steps of it; nothing is kept.

    Raises:
        RecipeError: The file does not fit the versions installed here, or its data is no recipe's.
        DataError: The dataset is missing, incomplete or laid out otherwise.
    """
    config, _ = _as_run(config, progress)
    with redirect_stdout(sys.stderr):
        described, _ = _built(config, progress)
        if not isinstance(described.data, RecipeDataModule):
            raise config.error("data", "--dry-run can only count the data of a recipe.")
        spec = _planned(described, described.data.recipe.training)
        task, tiles = described.task, described.data.tiles
        with power_of() as power:
            phase = rehearse("train", task, tiles, spec, spec.epochs)
        return with_power(describe_plan(tiles, spec, [phase]), power, choose_devices(spec))


def _planned(described: Described, spec: SpecialistSpec) -> SpecialistSpec:
    """The recipe's settings with the trainer's in their place, as far as a recipe knows them."""
    keys = {"max_epochs": "epochs", "devices": "devices", "precision": "precision"}
    asked = {ours: described.trainer.get(theirs) for theirs, ours in keys.items()}
    try:
        known = {key: value for key, value in asked.items() if value is not None}
        return SpecialistSpec.model_validate({**spec.model_dump(), **known})
    except ValueError:  # formats and device lists that recipes do not have
        return spec.model_copy(update={"epochs": asked["epochs"] or spec.epochs})


def _as_run(config: LightningYaml, progress: Progress) -> tuple[LightningYaml, Monitor | None]:
    """The configuration as it runs here, and what picks the best epoch; tells what was changed."""
    check_no_checkpoint(config)
    config, monitor = for_run_folder(with_ensemble(with_factory(config)))
    for note in config.notes:
        progress.say(note)
    return config, monitor


def _is_ours(described: Described) -> bool:
    return isinstance(described.data, RecipeDataModule)


# --------------------------------------------------------------------------- before the run


def _built(config: LightningYaml, progress: Progress) -> tuple[Described, str]:
    """What the file describes, checked, and what libraries said while it was built."""
    with TemporaryDirectory() as folder:
        log = Path(folder) / "log.txt"
        with library_messages_to(log), memory_errors(), _hub_errors(config):
            described = build_described(config)
            check_described_machine(config, described)
        said = log.read_text(encoding="utf-8")
    if isinstance(described.data, RecipeDataModule):
        _check_ours(described.data, described, progress)
    for line in described.ensemble.plan.announcement() if described.ensemble else ():
        progress.say(line)
    return described, said


def _check_ours(data: RecipeDataModule, described: Described, progress: Progress) -> None:
    refuse_mismatch(data.recipe, described.task)
    data.progress = progress
    check_batches(data.tiles, data.recipe.training)
    progress.say(f"data: {data.tiles.source.root}; bands: {', '.join(data.recipe.bands)}")


@contextmanager
def _hub_errors(config: LightningYaml) -> Iterator[None]:
    """Say clearly that pretrained weights could not be had, whatever the hub's library raised."""
    try:
        yield
    except RecipeError as error:
        if error.__cause__ is None or not _asks_for_weights(config):
            raise
        raise WeightsUnavailableError(
            f"Pretrained weights cannot be had, or do not fit: {error.message}",
            hint="Go on from random weights with --no-pretrained, or try again where the hub is "
            "in reach.",
        ) from error.__cause__


def _asks_for_weights(config: LightningYaml) -> bool:
    arguments = dotted(config.data["model"]) if isinstance(config.data["model"], dict) else {}
    return any(
        value is True and key.rpartition(".")[2] in {"backbone_pretrained", "pretrained"}
        for key, value in arguments.items()
    )


def _refuse_changes(run: RunDir, described: Described) -> None:
    """Refuse to go on with another configuration than the run's.

    Raises:
        UsageError: They differ; the message has the difference.
    """
    own = dotted(yaml.safe_load(run.config.read_text(encoding="utf-8")))
    asked = dotted(yaml.safe_load(described.config))
    changed = [
        f"  {key}: {own.get(key)} in the run, {asked.get(key)} now"
        for key in sorted(own.keys() | asked.keys())
        if own.get(key) != asked.get(key) and not _may_differ(key)
    ]
    if changed:
        raise UsageError(
            "\n".join([f"{run.path} was started with other settings:", *changed]),
            hint=f"Go on as it began ({run.resume_command}), or start a run of its own without "
            "--resume.",
        )


def _may_differ(key: str) -> bool:
    return key in _FREE or (key.startswith("data.") and key.rpartition(".")[2] in _PLACES)


# --------------------------------------------------------------------------- the run


def _note_origin(running: Running, described: Described, said: str) -> None:
    """Write down the data's recipe with its statistics, which an export needs, and the messages."""
    if not running.leads:
        return
    if isinstance(described.data, RecipeDataModule):
        recipe = located(described.data.recipe, described.data.data_root)
        write_text(running.run.recipe, _as_trained(recipe, described).to_yaml())
    with running.run.log.open("a", encoding="utf-8") as log:
        log.write(said)


def _as_trained(recipe: Recipe, described: Described) -> Recipe:
    if (backbone := backbone_of(described)) is None:
        return recipe
    training = recipe.training.model_copy(update={"backbone": backbone})
    return recipe.model_copy(update={"training": training})


def _train(
    config: LightningYaml, described: Described, monitor: Monitor | None, running: Running
) -> tuple[dict[str, float], str | None]:
    """Fit, and measure the best epoch; the metrics and the split they are of."""
    run = running.run
    trainer = build_described_trainer(
        described,
        run,
        monitor=monitor,
        progress=running.progress,
        title=config.name,
        after_epoch=running.note_cost,
        keep_budget=running.keep_budget,
    )
    with _interrupts(), monitored_values(config):
        fit(
            trainer,
            described.task,
            described.data,
            folder=run.checkpoints,
            progress=running.progress,
        )
    split = scored_split(described, running.progress)
    if split is None:
        running.progress.warn("nothing to measure on: no test and no validation split")
        return {}, None
    best = run.best if run.best.is_file() else run.last
    return measure_best(trainer, described.task, described.data, best, split=split), split


@contextmanager
def _interrupts() -> Iterator[None]:
    """Lightning turns Ctrl-C into the end of the program; let it end as any interrupted run."""
    try:
        yield
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise Interrupted(ExitCode.INTERRUPTED) from None
        raise


# --------------------------------------------------------------------------- from a recipe


def describe_recipe(recipe: Recipe, source: str, overrides: Mapping[str, Any]) -> str:
    """A recipe as a YAML that `train-specialist` and TerraTorch's own command line run.

    Args:
        recipe: With `overrides`.
        source: Its name, or the path of its file.
        overrides: The keys that were laid over it.
    """
    is_file = Path(source).suffix in {".yaml", ".yml"}
    place = str(Path(source).absolute()) if is_file else source
    with library_messages_to(Path(os.devnull)):
        return terratorch_yaml(recipe, place, overrides)
