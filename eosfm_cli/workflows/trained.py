"""A run that is about to be measured: which one, what it was trained on, and its model."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lightning.pytorch import LightningModule
from torch import nn

from eosfm_cli.bands import nearest_word
from eosfm_cli.ensemble.checkpoint import mapping, read_plain
from eosfm_cli.errors import BundleError, DataError, UsageError
from eosfm_cli.lightning_yaml import is_lightning_yaml, read_lightning_yaml, with_options
from eosfm_cli.manifest import ModelManifest, read_manifest
from eosfm_cli.progress import Progress
from eosfm_cli.recipe import Recipe, load_recipe
from eosfm_cli.run_dir import Kind, RunDir, completed_runs, newest_first
from eosfm_cli.training.lightning_config import build_described
from eosfm_cli.training.model import Logits, choose_decoder, load_model
from eosfm_cli.training.task import build_specialist_task
from eosfm_cli.workflows.fitted import tell_plan


@dataclass(frozen=True)
class Trained:
    """A run that has something to measure."""

    run: RunDir
    kind: Kind
    recipe: Recipe
    """What it was trained or fitted on."""


def find_trained(given: str | None, root: Path, progress: Progress) -> Trained:
    """Find the run that is meant, and say which it is.

    Args:
        given: Its folder, its model file, or the name of a specialist or recipe (its newest
            completed run); the newest completed run of all if not given.
        root: The experiments folder.
        progress: Told which run is taken.

    Raises:
        DataError: There is no such run, it has no weights yet, or no recipe describes its data.
    """
    run = _newest(root) if given is None else _named(given, root)
    kind = _kind(run)
    if not run.config.is_file():
        raise DataError(
            f"{run.path} has no {run.config.name}, which says what it was trained on.",
            hint="Name a run folder below experiments/train or experiments/fit.",
        )
    recipe = _trained_on(run, kind)
    what = "fitted model" if kind == "fit" else f"specialist, {_checkpoint(run).stem} epoch"
    how = ", newest run" if given is None else ""
    progress.say(f"evaluating: {run.path} ({what}{how}): {recipe.title}")
    if run.state != "completed":
        progress.warn(f"this run is not finished ({run.state or 'it does not say how it ended'})")
    return Trained(run, kind, recipe)


def _trained_on(run: RunDir, kind: Kind) -> Recipe:
    """The run's recipe; what a fit's model file says of itself comes first."""
    if kind == "train":
        _refuse_unknown_data(run)
        return load_recipe(str(run_recipe_file(run)))
    manifest = read_manifest(run.model)
    if not isinstance(manifest, ModelManifest):
        raise BundleError(f"{run.model} is an ensemble of specialists, no fitted model.")
    made_with = {"bands": manifest.bands, "statistics": manifest.statistics}
    recipe = load_recipe(str(run.config))
    return recipe.model_copy(update={**made_with, "classes": manifest.classes})


def run_recipe_file(run: RunDir) -> Path:
    """Where the recipe of the run's data stands; with a Lightning YAML, in a file of its own."""
    return run.recipe if run.recipe.is_file() else run.config


def _refuse_unknown_data(run: RunDir) -> None:
    if is_lightning_yaml(run.config) and not run.recipe.is_file():
        raise DataError(
            f"{run.path} was trained on a data module of its own, which no recipe describes.",
            hint=f"How it did on its test split is in {run.summary}.",
        )


def _newest(root: Path) -> RunDir:
    runs = newest_first([*completed_runs(root, "fit"), *completed_runs(root, "train")])
    found = next((run for run in runs if run.model.is_file() or _checkpoint(run).is_file()), None)
    if found is None:
        raise DataError(
            f"There is no completed run in {root}.",
            hint="Train or fit something first: eosfm train-specialist RECIPE",
        )
    return found


def _named(given: str, root: Path) -> RunDir:
    path = Path(given)
    if path.is_dir():
        return RunDir(path)
    if path.is_file():
        run = RunDir(path.parent)
        if path == run.model:
            return run
        raise DataError(
            f"{path} is neither the model of a fit nor a run folder.",
            hint="Name a run folder. For a map name what is known too: "
            "eosfm evaluate MAP.tif --reference REFERENCE.tif",
        )
    runs = newest_first([*completed_runs(root, "fit"), *completed_runs(root, "train")])
    names = {run.name: run for run in reversed(runs)}
    if given not in names:
        near = nearest_word(given, names)
        raise DataError(
            f"There is no run {given!r}." + (f" Did you mean {near!r}?" if near else ""),
            hint="`eosfm runs` lists the runs there are.",
        )
    return names[given]


def _kind(run: RunDir) -> Kind:
    if run.model.is_file():
        return "fit"
    if run.read_summary().get("kind") == "fit":
        raise DataError(
            f"{run.path} has no model: the fit is not finished.",
            hint=f"Go on with it: {run.resume_command}",
        )
    if not _checkpoint(run).is_file():
        raise DataError(
            f"{run.path} has neither a fitted model nor a checkpoint.",
            hint="`eosfm runs` lists the runs there are.",
        )
    return "train"


def _checkpoint(run: RunDir) -> Path:
    """The best epoch; where nothing told which is best, the last."""
    return run.best if run.best.is_file() else run.last


def load_trained(trained: Trained, progress: Progress) -> nn.Module:
    """The run's model, from standardised tiles to logits.

    Raises:
        BundleError: Its weights are damaged, or do not fit its recipe.
    """
    if trained.kind == "fit":
        fitted = load_model(trained.run.model)
        tell_plan(fitted.manifest, progress)
        return fitted.module
    task, checkpoint = _task(trained), _checkpoint(trained.run)
    try:
        task.load_state_dict(mapping(mapping(read_plain(checkpoint)).get("state_dict")))
    except RuntimeError as error:
        raise BundleError(
            f"The weights in {checkpoint} do not fit the run's {trained.run.config.name}: "
            f"{str(error).splitlines()[-1].strip()}",
            hint="One of the two was changed after the run; train it again.",
        ) from None
    return Logits(task.model)


def _task(trained: Trained) -> LightningModule:
    """What was trained, as yet without its weights: no hub is asked for others."""
    if is_lightning_yaml(trained.run.config):
        config = read_lightning_yaml(trained.run.config)
        with suppress(UsageError):  # a model that is not built from arguments asks for none
            config = with_options(config, {"pretrained": False}, {})
        return build_described(config).task
    training = trained.recipe.training.model_copy(update={"pretrained": False})
    recipe = trained.recipe.model_copy(update={"training": training})
    decoder = choose_decoder(recipe, training)
    arguments = {f"decoder_{key}": value for key, value in decoder.arguments.items()}
    return build_specialist_task(recipe, {"decoder": decoder.name, **arguments})
