"""Fit a frozen ensemble to a task: find the specialists that matter, train what stands on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lightning.pytorch import LightningDataModule, Trainer
from torch import nn

from eosfm_cli import __version__
from eosfm_cli.data.datamodule import build_datamodule
from eosfm_cli.data.sources import located
from eosfm_cli.data.statistics import with_statistics
from eosfm_cli.ensemble.bundle import is_choice, read_ensemble, write_model
from eosfm_cli.ensemble.encoder import EosFM, choose_specialists, plan_specialists
from eosfm_cli.ensemble.specialist import Specialist, parameter_count
from eosfm_cli.errors import DataError, UsageError
from eosfm_cli.manifest import DecoderInfo, EncoderInfo, ModelManifest
from eosfm_cli.progress import Progress
from eosfm_cli.recipe import Recipe
from eosfm_cli.results import Cost, FitResult
from eosfm_cli.run_dir import completed_runs, now
from eosfm_cli.training.callbacks import read_history
from eosfm_cli.training.model import build_model, choose_decoder
from eosfm_cli.training.plots import draw_selection
from eosfm_cli.training.task import build_fit_task
from eosfm_cli.training.trainer import (
    build_trainer,
    check_batches,
    check_machine,
    fit,
    measure_best,
    seed_everything,
)
from eosfm_cli.workflows.export import export
from eosfm_cli.workflows.running import Running, open_run


def fit_ensemble(
    recipe: Recipe,
    *,
    root: Path,
    data_root: Path | None,
    progress: Progress,
    strict: bool = False,
) -> FitResult:
    """Fit the ensemble that `recipe.fit` describes to the recipe's task.

    With `top_k` two fits run one after the other: a search over all specialists with open gates,
    then a fit of the best k alone. The model file has only the specialists that survive.

    Args:
        recipe: Dataset and, in `fit`, every choice about the ensemble.
        root: The experiments folder; the run goes to `root/fit/<recipe>/<run>/`.
        data_root: Where datasets are; `EOSFM_DATA` or `data` if not given.
        progress: Who is told.
        strict: Treat `top_k` above the number of usable specialists as an error.

    Raises:
        DataError: The dataset or the ensemble is missing or unusable.
        BandError: No specialist can be fed from the recipe's bands.
    """
    check_machine(recipe.fit, progress)  # what cannot work fails before the data is read
    decoder = choose_decoder(recipe, recipe.fit)
    source = find_ensemble(recipe, root, progress)
    specialists = choose_specialists(
        read_ensemble(source), recipe.fit.specialists, recipe.fit.exclude
    )
    recipe = _with_ensemble(located(recipe, data_root), source)
    recipe = with_statistics(recipe, None, progress)
    seed_everything(recipe.fit.seed)
    plan = plan_specialists([specialist.info for specialist in specialists], recipe.bands)
    top_k = _check_top_k(recipe.fit.top_k, len(plan.usable), progress, strict=strict)
    for line in plan.announcement():
        progress.say(line)
    data = build_datamodule(recipe, None, spec=recipe.fit, progress=progress)
    check_batches(data, recipe.fit)
    with open_run("fit", recipe, root, progress) as running:
        encoder = _build_encoder(specialists, recipe, gated=top_k is not None)
        phases = _Phases(recipe, decoder, data, running)
        scores: dict[str, float] = {}
        if top_k is not None:
            encoder, scores = phases.search(encoder, top_k)
        model, metrics = phases.fit(encoder)
        counts = parameter_count(model), parameter_count(model, trainable=True)
        running.entries.update(
            metrics=metrics,
            parameters=counts[0],
            trainable=counts[1],
            specialists=encoder.names,
            scores=scores,
            ensemble=source,
        )
        if running.leads:
            manifest = _describe(recipe, encoder, decoder, scores, metrics, running.cost)
            write_model(running.run.model, model.state_dict(), manifest)
    return FitResult(
        recipe=recipe.name,
        run=running.run.path,
        model=running.run.model,
        ensemble=source,
        specialists=encoder.names,
        scores=scores,
        metrics=metrics,
        parameters=counts[0],
        trainable=counts[1],
        cost=running.cost,
    )


def find_ensemble(recipe: Recipe, root: Path, progress: Progress) -> Path:
    """The ensemble to fit: as named, else the newest export, gathered anew if it is out of date.

    Raises:
        DataError: There is neither an ensemble nor a trained specialist.
    """
    if recipe.fit.ensemble is not None:
        return Path(recipe.fit.ensemble)
    exports = [root / "ensemble.safetensors", root / "ensemble.pth"]
    newest = max((e for e in exports if e.is_file()), key=_written, default=None)
    trained = completed_runs(root, "train")
    if newest is None and not trained:
        raise DataError(
            f"There is neither an ensemble nor a trained specialist in {root}.",
            hint="Train specialists first (eosfm train-specialist RECIPE), or name an ensemble "
            "with --ensemble.",
        )
    if newest is None:
        progress.say("no export yet: gathering the trained specialists")
        return export(None, root=root, output=None, progress=progress).path
    if any(_written(run.summary) > _written(newest) for run in trained):
        if is_choice(newest):
            progress.warn(
                f"{newest} was exported from named runs and stays as it is, though newer "
                "specialists are there: `eosfm export` takes them in."
            )
        else:
            progress.say(f"{newest} is older than the newest specialist: gathering them again")
            return export(None, root=root, output=newest, progress=progress).path
    progress.say(f"ensemble: {newest} (newest export)")
    return newest


def _written(path: Path) -> float:
    return path.stat().st_mtime


def _with_ensemble(recipe: Recipe, source: Path) -> Recipe:
    """Write the ensemble that was taken into the recipe, so that the run can be run again."""
    taken = {"ensemble": str(source.absolute())}
    return recipe.model_copy(update={"fit": recipe.fit.model_copy(update=taken)})


def _build_encoder(specialists: Sequence[Specialist], recipe: Recipe, *, gated: bool) -> EosFM:
    return EosFM.with_weights(
        specialists,
        recipe.bands,
        fusion=recipe.fit.fusion,
        normalize=recipe.fit.normalize,
        gated=gated,
        freeze=recipe.fit.freeze,
    )


def _check_top_k(top_k: int | None, usable: int, progress: Progress, *, strict: bool) -> int | None:
    """`top_k` if it leaves something out; `None` if every usable specialist stays."""
    if top_k is None or top_k < usable:
        return top_k
    if top_k > usable:
        message = f"--top-k {top_k} is more than the {usable} usable specialists"
        if strict:
            raise UsageError(
                f"{message}.", hint=f"Ask for at most {usable}, or leave --strict out."
            )
        progress.warn(f"{message}: all are kept")
    return None


@dataclass(frozen=True)
class _Phases:
    """The fits of one run, each with an optimiser and a trainer of its own."""

    recipe: Recipe
    decoder: DecoderInfo
    data: LightningDataModule
    running: Running

    def search(self, encoder: EosFM, top_k: int) -> tuple[EosFM, dict[str, float]]:
        """Train with open gates, then keep the best k; their fusion weights are carried over."""
        epochs = self.recipe.fit.search_epochs or max(1, self.recipe.fit.epochs // 2)
        task = build_fit_task(self.recipe, self._model(encoder), epochs=epochs)
        fit(self._trainer("search", epochs), task, self.data)
        scores = encoder.gates.ranking()
        chosen = list(scores)[:top_k]
        self.running.progress.say(f"kept: {', '.join(chosen)}")
        if self.running.leads:
            run = self.running.run
            run.write_summary(specialists=chosen, scores=scores)
            draw_selection(run.path / "selection.png", read_history(run), chosen)
        return encoder.keep(chosen), scores

    def fit(self, encoder: EosFM) -> tuple[nn.Module, dict[str, float]]:
        """Train fusion, decoder and head on what is left, and measure the best epoch."""
        epochs = self.recipe.fit.epochs
        task = build_fit_task(self.recipe, self._model(encoder), epochs=epochs)
        trainer = self._trainer("fit", epochs)
        fit(trainer, task, self.data)
        return task.model, measure_best(trainer, task, self.data)

    def _model(self, encoder: EosFM) -> nn.Module:
        return build_model(
            encoder,
            task=self.recipe.task,
            decoder=self.decoder,
            classes=len(self.recipe.classes),
        )

    def _trainer(self, phase: Literal["search", "fit"], epochs: int) -> Trainer:
        return build_trainer(
            self.recipe,
            self.recipe.fit,
            self.running.run,
            epochs=epochs,
            progress=self.running.progress,
            title=f"{phase} {self.recipe.name}",
            phase=phase,
        )


def _describe(
    recipe: Recipe,
    encoder: EosFM,
    decoder: DecoderInfo,
    scores: dict[str, float],
    metrics: dict[str, float],
    cost: Cost,
) -> ModelManifest:
    return ModelManifest(
        created=now(),
        eosfm=__version__,
        recipe=recipe.name,
        title=recipe.title,
        task=recipe.task,
        bands=recipe.bands,
        sensor=recipe.sensor,
        statistics=recipe.statistics or {},
        classes=recipe.classes,
        ignore_index=recipe.ignore_index,
        tile_size=recipe.tile.size,
        encoder=EncoderInfo(
            fusion=recipe.fit.fusion,
            normalize=recipe.fit.normalize,
            top_k=recipe.fit.top_k,
            out_channels=tuple(encoder.out_channels),
            scores=scores,
        ),
        specialists=encoder.specialists,
        decoder=decoder,
        metrics=metrics,
        licence=recipe.dataset.licence,
        seconds=cost.seconds,
        energy_kwh=cost.energy_kwh,
        emissions_kg=cost.emissions_kg,
    )
