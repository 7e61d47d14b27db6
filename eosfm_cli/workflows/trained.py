"""A run that is about to be measured: which one, what it was trained on, and its model."""

from __future__ import annotations

import shlex
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lightning.pytorch import LightningModule
from torch import nn

from eosfm_cli.bands import nearest_word
from eosfm_cli.ensemble.checkpoint import mapping, read_plain
from eosfm_cli.errors import BundleError, DataError, RecipeError, UsageError
from eosfm_cli.lightning_yaml import is_lightning_yaml, read_lightning_yaml, with_options
from eosfm_cli.manifest import ModelManifest, read_manifest
from eosfm_cli.progress import Progress
from eosfm_cli.recipe import Recipe, load_recipe
from eosfm_cli.run_dir import Kind, RunDir, completed_runs, newest_first
from eosfm_cli.sweeps import refuse_sweep
from eosfm_cli.training.lightning_config import build_described
from eosfm_cli.training.model import Logits, choose_decoder, load_model
from eosfm_cli.training.task import build_specialist_task
from eosfm_cli.workflows.fitted import tell_plan


@dataclass(frozen=True)
class Trained:
    """A run, or a model of one, that can be measured."""

    run: RunDir
    """For a model outside of any run, the folder that it lies in."""
    kind: Kind
    recipe: Recipe
    """What it was trained or fitted on."""
    data: str
    """The recipe of its data: a name, or the path of a file."""
    model: Path | None = None
    """The file of a fitted model."""

    @property
    def is_the_runs(self) -> bool:
        """Whether this is what the run itself left, and no other file beside it or elsewhere."""
        return self.model in (None, self.run.model) and self.run.config.is_file()

    @property
    def subject(self) -> Path:
        """The run's folder, or the model's file."""
        return self.model if self.model is not None and not self.is_the_runs else self.run.path


def find_trained(given: str | None, root: Path, data: str | None, progress: Progress) -> Trained:
    """Find the run or model that is meant, and say which it is.

    Args:
        given: A run's folder, a model file, or the name of a specialist or recipe (its newest
            completed run); the newest completed run of all if not given.
        root: The experiments folder.
        data: The recipe of other data, which tells a model outside of its run what to be measured
            on.
        progress: Told which run is taken.

    Raises:
        DataError: There is no such run, it has no weights yet, or no recipe describes its data.
        BundleError: The file is damaged, or an ensemble that nobody has fitted.
        UsageError: It is the folder of a sweep.
    """
    run, model = (_newest(root), None) if given is None else _named(given, root)
    kind: Kind = "fit" if model else _kind(run)
    trained = _fitted(run, model or run.model, data) if kind == "fit" else _specialist(run)
    what = _what(trained) + (", newest run" if given is None else "")
    progress.say(f"evaluating: {trained.subject} ({what}): {trained.recipe.title}")
    if trained.is_the_runs and run.state != "completed":
        progress.warn(f"this run is not finished ({run.state or 'it does not say how it ended'})")
    return trained


def _what(trained: Trained) -> str:
    if trained.model is None:
        return f"specialist, {_checkpoint(trained.run).stem} epoch"
    gone = read_manifest(trained.model).left_out
    return "fitted model" + (f", pruned: without {', '.join(gone)}" if gone else "")


def _specialist(run: RunDir) -> Trained:
    if not run.config.is_file():
        raise DataError(
            f"{run.path} has no {run.config.name}, which says what it was trained on.",
            hint="Name a run folder below experiments/train or experiments/fit.",
        )
    _refuse_unknown_data(run)
    data = str(run_recipe_file(run))
    return Trained(run, "train", load_recipe(data), data)


def _fitted(run: RunDir, model: Path, data: str | None) -> Trained:
    """A fitted model; what its file says of itself comes before what a recipe says."""
    manifest = read_manifest(model)
    if not isinstance(manifest, ModelManifest):
        raise BundleError(
            f"{model} is an ensemble of specialists, no fitted model.",
            hint=f"Fit it to a task first: eosfm fit-ensemble RECIPE --ensemble "
            f"{shlex.quote(str(model))}",
        )
    recipe, data = _data_of(run, model, manifest, data)
    own = ("title", "task", "bands", "statistics", "classes", "target", "pooling")
    made_with = {"name": manifest.recipe, **{key: getattr(manifest, key) for key in own}}
    return Trained(run, "fit", recipe.model_copy(update=made_with), data, model)


def _data_of(
    run: RunDir, model: Path, manifest: ModelManifest, data: str | None
) -> tuple[Recipe, str]:
    """The recipe of the run that a model lies in; elsewhere the one named, or its own by name."""
    if run.config.is_file():
        recipe = load_recipe(str(run.config))
        if model == run.model or recipe.name == manifest.recipe:
            return recipe, str(run.config)
    found = data or manifest.recipe
    try:
        return load_recipe(found), found
    except RecipeError:
        if data is not None:
            raise
        raise DataError(
            f"{model} was fitted to {manifest.recipe!r}, and there is neither its run's "
            f"{run.config.name} beside it nor a recipe of that name.",
            hint="Name the recipe of the data to measure on: --recipe FILE.yaml",
        ) from None


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


def _named(given: str, root: Path) -> tuple[RunDir, Path | None]:
    """The run that is meant, and the file where one is named."""
    path = Path(given)
    if path.is_dir():
        refuse_sweep(path, "evaluate")
        return RunDir(path), None
    if path.is_file():
        if path.suffix.lower() == ".safetensors":
            return RunDir(path.parent), path
        raise DataError(
            f"{path} is neither the model of a fit nor a run folder.",
            hint="Name a run folder. For a map name what is known too: "
            "eosfm evaluate MAP.tif --reference REFERENCE.tif",
        )
    if path.suffix.lower() == ".safetensors":
        raise DataError(f"There is no file {path}.", hint="`eosfm runs` lists the runs there are.")
    runs = newest_first([*completed_runs(root, "fit"), *completed_runs(root, "train")])
    names = {run.name: run for run in reversed(runs)}
    if given not in names:
        near = nearest_word(given, names)
        raise DataError(
            f"There is no run {given!r}." + (f" Did you mean {near!r}?" if near else ""),
            hint="`eosfm runs` lists the runs there are.",
        )
    return names[given], None


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
    if trained.model is not None:
        fitted = load_model(trained.model)
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
