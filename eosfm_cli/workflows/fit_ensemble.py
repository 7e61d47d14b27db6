"""Fit a frozen ensemble to a task: find the specialists that matter, train what stands on them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from lightning.pytorch import LightningModule, Trainer
from torch import nn, random

from eosfm_cli import __version__
from eosfm_cli.bands import Plan
from eosfm_cli.budget import Budget
from eosfm_cli.carbon.power import power_of
from eosfm_cli.data.datamodule import TileDataModule, build_datamodule
from eosfm_cli.data.scarcity import keep_labels
from eosfm_cli.data.sources import located
from eosfm_cli.ensemble.bundle import fingerprint, write_model
from eosfm_cli.ensemble.encoder import EnsembleEncoder, plan_specialists
from eosfm_cli.ensemble.specialist import parameter_count
from eosfm_cli.errors import UsageError
from eosfm_cli.lineage import left_out_work
from eosfm_cli.manifest import DecoderInfo, EncoderInfo, Gates, ModelManifest
from eosfm_cli.progress import Progress
from eosfm_cli.raster.program import keep_program
from eosfm_cli.raster.scoring import best_device
from eosfm_cli.recipe import Recipe, Selection
from eosfm_cli.results import Cost, FitResult, PhasePlan, WorkPlan
from eosfm_cli.run_dir import RunDir, check_makeable, now
from eosfm_cli.training.callbacks import read_history
from eosfm_cli.training.feature_store import FeatureStore
from eosfm_cli.training.fit_data import FitData
from eosfm_cli.training.model import build_model, choose_decoder, decoder_errors, start_from
from eosfm_cli.training.plots import draw_selection
from eosfm_cli.training.pooled_features import takes_means_only
from eosfm_cli.training.probe import SAMPLES, probe
from eosfm_cli.training.program import build_module
from eosfm_cli.training.rehearsal import describe_plan, rehearse
from eosfm_cli.training.task import build_fit_task
from eosfm_cli.training.trainer import (
    build_trainer,
    check_batches,
    check_machine,
    checkpoint_folder,
    choose_devices,
    fit,
    measure_best,
    seed_everything,
)
from eosfm_cli.words import counted
from eosfm_cli.workflows.encoders import Encoders, find_encoders
from eosfm_cli.workflows.running import Running, open_run, with_power


def fit_ensemble(
    recipe: Recipe,
    *,
    root: Path,
    data_root: Path | None,
    progress: Progress,
    strict: bool = False,
    resume: RunDir | None = None,
    budget: Budget | None = None,
    opened: Callable[[RunDir], None] = lambda run: None,
) -> FitResult:
    """Fit the ensemble that `recipe.fit` describes to the recipe's task.

    With `top_k` two fits run one after the other: a search over all specialists with gates that
    learn, then a fit of the best k alone; or a linear probe of each stands in for the search. The
    model file has only the specialists that survive. What an ensemble is compared with is fitted
    in the same way: one specialist alone, an encoder that learns from scratch, a model of timm.

    Args:
        recipe: Dataset and, in `fit`, every choice about the ensemble.
        root: The experiments folder; the run goes to `root/fit/<recipe>/<run>/`.
        data_root: Where datasets are; `EOSFM_DATA` or `data` if not given.
        progress: Who is told.
        strict: Treat `top_k` above the number of usable specialists as an error.
        resume: Go on with this run, whose recipe it is, in its folder.
        budget: What the run may take, with what it took before.
        opened: Told of the run before it works, or goes on; in every process of it.

    Raises:
        BudgetReached: It has taken that; it can be gone on with.
        UsageError: The data or the ensemble of the run to go on with has changed, or the
            specialists' widths do not go together.
        DataError: The dataset or the ensemble is missing or unusable.
        BandError: No specialist can be fed from the recipe's bands.
    """
    check_makeable(root)
    ready = _prepare(recipe, root, data_root, progress, strict)
    recipe, data, encoders = ready.recipe, ready.data, ready.encoders
    encoder = ready.encoder()
    ready.check(encoder)
    facts = {**data.facts, "ensemble": fingerprint(encoders.specialists)}
    with open_run(
        "fit",
        recipe.name,
        recipe.to_yaml(),
        root,
        progress,
        resume=resume,
        facts=facts,
        budget=budget,
        devices=choose_devices(recipe.fit),
    ) as running:
        opened(running.run)
        running.epochs = ready.epochs
        with closing(FeatureStore.of(recipe.fit, running.progress, passes=ready.epochs)) as store:
            phases = _Phases(ready, running, store)
            encoder, scores = phases.select(encoder)
            title = encoders.describe(encoder.names)
            model, metrics = phases.fit(encoder)
        found: dict[str, Any] = {
            "metrics": metrics,
            "parameters": parameter_count(model),
            "trainable": parameter_count(model, trainable=True),
            "encoder": title,
            "specialists": encoder.names,
            "scores": scores,
            "ensemble": encoders.source,
            "label_fraction": recipe.fit.label_fraction,
        }
        running.entries.update(found)
        if running.leads:
            manifest = _describe(ready, encoder, scores, metrics, running.settled_cost)
            write_model(running.run.model, model.state_dict(), manifest)
    if running.leads:
        keep_program(running.run.model, make=build_module, progress=progress)
    return FitResult(
        recipe=recipe.name,
        run=running.run.path,
        model=running.run.model,
        cost=running.cost,
        selected_by=recipe.fit.select_by if scores else None,
        estimate=running.estimate,
        **found,
    )


def plan_fit(
    recipe: Recipe,
    *,
    root: Path,
    data_root: Path | None,
    progress: Progress,
    strict: bool = False,
) -> WorkPlan:
    """Say what `fit_ensemble` would do, from a few steps of it; nothing is kept.

    Raises:
        DataError: The dataset or the ensemble is missing or unusable.
        BandError: No specialist can be fed from the recipe's bands.
    """
    with TemporaryDirectory() as folder:
        gathered = Path(folder) / "ensemble.safetensors"
        ready = _prepare(recipe, root, data_root, progress, strict, gather_into=gathered)
    encoder, spec = ready.encoder().to(best_device()), ready.recipe.fit
    store = FeatureStore.of(spec, progress, passes=ready.epochs)
    kept = encoder.names[: ready.top_k]
    pooled = takes_means_only(ready.task(encoder, spec.epochs).model)
    phases: list[PhasePlan] = []
    with power_of() as power:
        if ready.probes:
            encoder = encoder.keep(kept)
        data, encoding = store.rehearsed(encoder, ready.data, pooled=pooled)
        phases += [encoding] if encoding else []
        if ready.top_k is not None and not ready.probes:
            phases.append(ready.rehearse("search", encoder, data, spec.epochs_of_search))
            encoder = encoder.keep(kept)
            data, _ = store.rehearsed(encoder, ready.data, pooled=pooled)
        phases.append(ready.rehearse("fit", encoder, data, spec.epochs))
    plan = describe_plan(ready.data, spec, phases, ready.encoder().names)
    return with_power(plan, power, choose_devices(spec))


@dataclass(frozen=True)
class _Ready:
    """All that a fit needs, checked."""

    recipe: Recipe
    """With statistics, the data's place and the ensemble that is taken."""
    encoders: Encoders
    plan: Plan
    data: TileDataModule
    decoder: DecoderInfo
    top_k: int | None
    """`None` where every usable specialist stays."""

    @property
    def probes(self) -> bool:
        """Whether a probe chooses before anything is trained."""
        return self.top_k is not None and self.recipe.fit.select_by == "probe"

    @property
    def epochs(self) -> int:
        """Of search and fit."""
        fit = self.recipe.fit
        searched = self.top_k is not None and not self.probes
        return fit.epochs + (fit.epochs_of_search if searched else 0)

    def encoder(self) -> EnsembleEncoder:
        """The ensemble, with gates where it is to be searched."""
        fit = self.recipe.fit
        kinds: dict[Selection, Gates] = {"topk": "search", "smooth": "smooth"}
        options = EncoderInfo(
            fusion=fit.fusion,
            fuse_to_mult=fit.fuse_to_mult,
            normalize=fit.normalize,
            project=fit.project,
            adapt=fit.adapt,
            gates="none" if self.top_k is None or self.probes else kinds[fit.selection],
            top_k=fit.top_k,
            selection=fit.selection,
            scale_features=fit.scale_features,
        )
        return EnsembleEncoder.with_weights(
            self.encoders.specialists,
            self.recipe.bands,
            options,
            declared=self.recipe.views,
            freeze=fit.freeze,
        )

    def task(self, encoder: EnsembleEncoder, epochs: int) -> LightningModule:
        """A task that trains what stands on an encoder."""
        with decoder_errors(self.recipe.fit.decoder):
            model = build_model(
                encoder,
                task=self.recipe.task,
                decoder=self.decoder,
                classes=len(self.recipe.classes),
                pooling=self.recipe.pooling,
            )
        start_from(model, self.data.target_mean)
        return build_fit_task(self.recipe, model, epochs=epochs)

    def check(self, encoder: EnsembleEncoder) -> None:
        """Build a model and drop it, so that what does not go together fails before there is a run.

        Raises:
            UsageError: The decoder does not fit the encoder.
        """
        with random.fork_rng(devices=[]):
            self.task(encoder, epochs=1)

    def rehearse(
        self, phase: str, encoder: EnsembleEncoder, data: TileDataModule, epochs: int
    ) -> PhasePlan:
        """What a phase would take on such data."""
        task = self.task(encoder, epochs)
        return rehearse(phase, task, data, self.recipe.fit, epochs)


def _prepare(
    recipe: Recipe,
    root: Path,
    data_root: Path | None,
    progress: Progress,
    strict: bool,
    *,
    gather_into: Path | None = None,
) -> _Ready:
    """Check and open everything; what cannot work fails before the data is read."""
    check_machine(recipe.fit, progress)
    decoder = choose_decoder(recipe, recipe.fit)
    encoders = find_encoders(recipe, root, progress, gather_into=gather_into)
    recipe = located(recipe, data_root).model_copy(update={"fit": encoders.spec})
    seed_everything(recipe.fit.seed)
    infos = [specialist.info for specialist in encoders.specialists]
    plan = plan_specialists(infos, recipe.bands, declared=recipe.views)
    top_k = _check_top_k(recipe.fit.top_k, len(plan.usable), progress, strict=strict)
    for line in plan.announcement():
        progress.say(line)
    data = build_datamodule(recipe, None, spec=recipe.fit, progress=progress)
    keep_labels(data, recipe.fit.label_fraction, seed=recipe.fit.seed, progress=progress)
    check_batches(data, recipe.fit)
    return _Ready(data.recipe, encoders, plan, data, decoder, top_k)


def _check_top_k(top_k: int | None, usable: int, progress: Progress, *, strict: bool) -> int | None:
    """`top_k` if it leaves something out; `None` if every usable specialist stays."""
    if top_k is None or top_k < usable:
        return top_k
    if top_k > usable:
        message = f"--top-k {top_k} is more than the {counted(usable, 'usable specialist')}"
        if strict:
            raise UsageError(
                f"{message}.", hint=f"Ask for at most {usable}, or leave --strict out."
            )
        progress.warn(f"{message}: all are kept")
    return None


@dataclass(frozen=True)
class _Phases:
    """The fits of one run, each with an optimiser and a trainer of its own."""

    ready: _Ready
    running: Running
    store: FeatureStore

    def select(self, encoder: EnsembleEncoder) -> tuple[EnsembleEncoder, dict[str, float]]:
        """Keep the specialists that matter; all of them where none is to be left out."""
        if self.ready.top_k is None:
            return encoder, {}
        if self.ready.probes:
            return self.probe(encoder)
        return self.search(encoder, self.ready.top_k)

    def probe(self, encoder: EnsembleEncoder) -> tuple[EnsembleEncoder, dict[str, float]]:
        """Keep the specialists whose features tell most; what the run knows already is taken."""
        ready, run, progress = self.ready, self.running.run, self.running.progress
        scores = run.read_summary().get("scores") or {}
        if set(scores) != set(encoder.names):
            found = probe(
                ready.encoders.specialists,
                ready.plan,
                ready.data,
                samples=SAMPLES,
                seed=ready.recipe.fit.seed,
                device=best_device(),
                progress=progress,
            )
            scores = {row.specialist: row.score for row in found}
        chosen = list(scores)[: ready.top_k]
        progress.say(f"kept: {', '.join(chosen)}")
        if self.running.leads:
            run.write_summary(specialists=chosen, scores=scores)
        return encoder.keep(chosen), scores

    def search(
        self, encoder: EnsembleEncoder, top_k: int
    ) -> tuple[EnsembleEncoder, dict[str, float]]:
        """Train with gates that learn, then keep the best k with what was learned about them."""
        epochs = self.ready.recipe.fit.epochs_of_search
        task = self.ready.task(encoder, epochs)
        self._train("search", task, epochs)
        scores = encoder.gates.ranking()
        chosen = list(scores)[:top_k]
        self.running.progress.say(f"kept: {', '.join(chosen)}")
        if self.running.leads:
            run = self.running.run
            run.write_summary(specialists=chosen, scores=scores)
            draw_selection(run.path / "selection.png", read_history(run), chosen)
        return encoder.keep(chosen), scores

    def fit(self, encoder: EnsembleEncoder) -> tuple[nn.Module, dict[str, float]]:
        """Train fusion, decoder and head on what is left, and measure the best epoch."""
        epochs = self.ready.recipe.fit.epochs
        task = self.ready.task(encoder, epochs)
        trainer = self._train("fit", task, epochs)
        return task.model, measure_best(trainer, task, self._data(task), self.running.run.best)

    def _train(
        self, phase: Literal["search", "fit"], task: LightningModule, epochs: int
    ) -> Trainer:
        run, progress, recipe = self.running.run, self.running.progress, self.ready.recipe
        trainer = build_trainer(
            recipe,
            recipe.fit,
            run,
            epochs=epochs,
            progress=progress,
            title=f"{phase} {recipe.name}",
            phase=phase,
            after_epoch=self.running.note_cost,
            keep_budget=self.running.keep_budget,
        )
        folder = checkpoint_folder(run, phase)
        fit(trainer, task, self._data(task), folder=folder, progress=progress)
        return trainer

    def _data(self, task: LightningModule) -> FitData:
        """The tiles, or the features that this task's encoder has of them."""
        running = self.running
        return FitData(
            self.ready.data, task.model, self.store, running.keep_within, running.begin_epochs
        )


def _describe(
    ready: _Ready,
    encoder: EnsembleEncoder,
    scores: dict[str, float],
    metrics: dict[str, float],
    cost: Cost,
) -> ModelManifest:
    recipe = ready.recipe
    looked_at = [one.info for one in ready.encoders.specialists]
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
        target=recipe.target,
        pooling=recipe.pooling,
        ignore_index=recipe.ignore_index,
        tile_size=recipe.tile.size,
        encoder=encoder.describe().model_copy(update={"scores": scores}),
        specialists=encoder.specialists,
        decoder=ready.decoder,
        metrics=metrics,
        past_work=tuple(left_out_work(looked_at, encoder.names)),
        licence=recipe.dataset.licence,
        seconds=cost.seconds,
        energy_kwh=cost.energy_kwh,
        emissions_kg=cost.emissions_kg,
    )
