"""Which specialists matter: what the score becomes without them, or with only some of them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path

import numpy as np
from torch import nn

from eosfm_cli.carbon.tracker import track
from eosfm_cli.coalitions import Coalition, Comparison, Mode, coalitions_of, comparisons
from eosfm_cli.data.datamodule import TileDataModule, build_datamodule
from eosfm_cli.ensemble.encoder import EnsembleEncoder, choose_specialists
from eosfm_cli.ensemble.specialist import Specialist, parameter_count
from eosfm_cli.errors import DataError, UsageError
from eosfm_cli.manifest import EnsembleManifest, ModelManifest
from eosfm_cli.progress import Progress
from eosfm_cli.raster.scoring import best_device, describe_device
from eosfm_cli.recipe import Recipe, load_recipe
from eosfm_cli.results import (
    NONE_LEFT_OUT,
    AblationResult,
    AblationRow,
    Cost,
    Verdict,
    lower_is_better,
    to_json,
)
from eosfm_cli.run_dir import RunDir, check_writable, write_csv, write_text
from eosfm_cli.training.bootstrap import Floats, interval
from eosfm_cli.training.coalition_scores import CoalitionScores, score_coalitions
from eosfm_cli.training.feature_store import FeatureStore
from eosfm_cli.training.model import inner_encoder, open_model
from eosfm_cli.training.plots import draw_ablation
from eosfm_cli.training.pooled_features import takes_means_only
from eosfm_cli.training.pruning import can_prune
from eosfm_cli.training.task import METRICS
from eosfm_cli.training.trainer import library_messages_to
from eosfm_cli.workflows.fitted import choose_model, tell_plan

_FEW_SAMPLES = 10


@dataclass(frozen=True)
class AblationSpec:
    """What is asked."""

    mode: Mode = "leave-one-out"
    specialists: Sequence[str] | None = None
    """Only these, by name or position, and all of them together; everybody if not given."""
    permutations: int = 200
    """Orders of joining that a Shapley value is the mean over."""
    bootstrap: int = 1000
    """Replicates behind each interval."""
    seed: int = 0


def ablate(
    run: Path | None,
    spec: AblationSpec | None = None,
    *,
    root: Path,
    data_root: Path | None,
    progress: Progress,
) -> AblationResult:
    """Measure on the test split what each specialist of a fitted model is worth.

    Every batch is encoded once, or its features are read where the fit has stored them; only
    decoder and head, and fusions that are no sum, run again per set of specialists. A specialist
    left out counts as the fusion's neutral element, after its normaliser.

    Args:
        run: A fitted run's folder, or a model in it; the newest completed fit if not given.
        spec: How to measure; each specialist left out in turn, if not given.
        root: The experiments folder.
        data_root: Where datasets are; `EOSFM_DATA` or `data` if not given.
        progress: Who is told.

    Raises:
        DataError: There is no fitted model, or its data is gone.
        UsageError: The model has one specialist only, or none of that name.
        OutputError: The run's folder cannot be written.
    """
    spec = spec or AblationSpec()
    model, manifest = choose_model(run, root, progress)
    folder = run_of(model, manifest)
    wanted = _wanted(spec, manifest, model)
    check_writable(folder.path)
    recipe = load_recipe(str(folder.config))
    tell_plan(manifest, progress)
    with (
        library_messages_to(folder.log),
        track(
            root, command="ablate", name=recipe.name, recipe=recipe.name, progress=progress
        ) as meter,
    ):
        found, sizes = _score(model, wanted, recipe, data_root, spec, progress)
    measured = _Measured(spec, METRICS[recipe.task], found, sizes, meter.cost)
    measured.warn_of_few(progress)
    result = _result(measured, measured.rows(wanted), model, manifest, folder)
    write_ablation(result)
    return result


def _wanted(spec: AblationSpec, manifest: ModelManifest, model: Path) -> tuple[Comparison, ...]:
    """What to compare.

    Raises:
        UsageError: The model has one specialist only, or none of that name.
    """
    names = [specialist.name for specialist in manifest.specialists]
    _refuse_a_single_one(names, model)
    players = None if spec.specialists is None else chosen_names(manifest, spec.specialists, ())
    return comparisons(spec.mode, names, players, permutations=spec.permutations, seed=spec.seed)


def _score(
    path: Path,
    wanted: Sequence[Comparison],
    recipe: Recipe,
    data_root: Path | None,
    spec: AblationSpec,
    progress: Progress,
) -> tuple[CoalitionScores, dict[str, int]]:
    """The scores of all sets of specialists that are compared, and each one's parameters."""
    device = best_device()
    progress.say(f"device: {describe_device(device)}")
    model = open_model(path)[1]
    encoder: EnsembleEncoder = inner_encoder(model)
    sizes = dict(zip(encoder.names, map(parameter_count, encoder.backbones), strict=True))
    data = build_datamodule(recipe, data_root, spec=recipe.fit, progress=progress)
    coalitions = sorted(coalitions_of(wanted) | {frozenset(encoder.names)}, key=sorted)
    stored = _stored(model, data, recipe, progress)
    progress.say(_announcement(wanted, len(coalitions), stored=stored is not None))
    encoder.fold()
    found = score_coalitions(
        model,
        recipe,
        stored or data,
        coalitions,
        device=device,
        replicates=spec.bootstrap,
        seed=spec.seed,
        images=data if stored else None,
        progress=progress,
    )
    return found, sizes


def _stored(
    model: nn.Module, data: TileDataModule, recipe: Recipe, progress: Progress
) -> TileDataModule | None:
    """The data with the features that the fit has stored, if they are all there still.

    For a single pass over the tiles it does not pay to store them.
    """
    store = FeatureStore.of(recipe.fit, progress)
    encoder, pooled = inner_encoder(model), takes_means_only(model)
    if not store.holds(encoder, data, ["test"], pooled=pooled):
        return None
    return store.stored(encoder, data, ["test"], pooled=pooled)


def _result(
    measured: _Measured,
    rows: tuple[AblationRow, ...],
    model: Path,
    manifest: ModelManifest,
    folder: RunDir,
) -> AblationResult:
    everybody = tuple(measured.sizes)
    dispensable = measured.dispensable(rows, everybody)
    stem = _stem(model, folder, measured.spec)
    return AblationResult(
        run=folder.path,
        model=model,
        task=manifest.task,
        mode=measured.spec.mode,
        metric_name=measured.metric,
        full=measured.score(frozenset(everybody)),
        parameters=sum(measured.sizes.values()),
        rows=rows,
        samples=measured.found.samples,
        coalitions=len(measured.found.scores),
        dispensable=dispensable,
        suggestion=_suggestion(manifest, model, folder, dispensable),
        csv=folder.path / f"{stem}.csv",
        json=folder.path / f"{stem}.json",
        png=folder.path / f"{stem}.png",
        cost=measured.cost,
    )


def run_of(model: Path, manifest: ModelManifest) -> RunDir:
    """The folder of the fit that a model comes from, whose recipe says where its data is.

    Raises:
        DataError: The model is not in it.
    """
    folder = RunDir(model.parent)
    if (folder.model != model and not manifest.left_out) or not folder.config.is_file():
        raise DataError(
            f"{model} is not in the run folder of its fit, with its recipe in config.yaml.",
            hint="Name a run folder below experiments/fit, or leave it out to take the newest fit.",
        )
    return folder


def chosen_names(
    manifest: EnsembleManifest | ModelManifest, only: Sequence[str] | None, exclude: Sequence[str]
) -> list[str]:
    """The names of the specialists that are meant, by name or position, in the file's order.

    Raises:
        UsageError: A name is unknown, or nothing is left.
    """
    known = [Specialist(info, {}) for info in manifest.specialists]
    return [one.info.name for one in choose_specialists(known, only, exclude)]


def _refuse_a_single_one(names: Sequence[str], model: Path) -> None:
    if len(names) < 2:
        raise UsageError(
            f"The model {model} has one specialist only: nothing to leave out.",
            hint="Fit with more specialists, or without --top-k 1.",
        )


def _announcement(wanted: Sequence[Comparison], coalitions: int, *, stored: bool) -> str:
    orders = max(len(comparison.pairs) for comparison in wanted)
    how = "" if orders == 1 else f" for {orders} orders of joining"
    features = (
        "features are those that the fit has stored; specialists run on a few batches only, to "
        "take their time"
        if stored
        else "each tile is encoded once"
    )
    return f"scoring {coalitions} sets of specialists{how}; {features}"


@dataclass(frozen=True)
class _Measured:
    """What the pass over the test split has shown."""

    spec: AblationSpec
    metric: str
    found: CoalitionScores
    sizes: Mapping[str, int]
    """Specialist -> parameters."""
    cost: Cost

    def warn_of_few(self, progress: Progress) -> None:
        """Say where the samples tell too little."""
        if self.found.samples < 2:
            progress.warn("the test split is a single image: there are no intervals")
        elif self.found.samples < _FEW_SAMPLES:
            progress.warn(
                f"the test split has {self.found.samples} images only: the intervals are rough"
            )

    def rows(self, wanted: Sequence[Comparison]) -> tuple[AblationRow, ...]:
        """What was compared, the specialist that is needed most first, several together last."""
        rows = [self._row(comparison) for comparison in wanted]
        return tuple(sorted(rows, key=lambda row: (" + " in row.specialist, -self.gain(row))))

    def gain(self, row: AblationRow) -> float:
        """How much better the model is for it; more is better, whatever the metric."""
        return self._sign * row.change

    @property
    def _sign(self) -> int:
        """What turns changes into gains: being without loses what being there gains."""
        better = -1 if lower_is_better(self.metric) else 1
        return -better if self.spec.mode == "leave-one-out" else better

    def _row(self, comparison: Comparison) -> AblationRow:
        change, between = self._change(comparison)
        names = comparison.specialists
        seconds = sum(self.found.seconds[name] for name in names)
        scored = comparison.pairs[0][0]
        return AblationRow(
            specialist=" + ".join(names),
            metric=None if self.spec.mode == "shapley" else self.score(scored),
            change=change,
            low=between and between[0],
            high=between and between[1],
            parameters=sum(self.sizes[name] for name in names),
            seconds=seconds,
            time_share=seconds / self.found.full_seconds,
            energy_kwh=self.cost.energy_kwh * seconds / max(self.cost.seconds, 1e-9),
            verdict=self._verdict(between),
        )

    def score(self, coalition: Coalition) -> float:
        """The metric of a set of specialists, on the samples as they are."""
        return float(self.found.scores[coalition][0])

    def _change(self, comparison: Comparison) -> tuple[float, tuple[float, float] | None]:
        """The mean difference of the pairs, and where 95 % of its replicates lie."""
        scores = self.found.scores
        differences = np.stack([scores[one] - scores[other] for one, other in comparison.pairs])
        weights = _order_weights(comparison, differences.shape, self.spec.seed)
        means = (weights * differences).sum(axis=0)
        if self.found.samples < 2:
            return float(means[0]), None
        return float(means[0]), interval(means[1:])

    def _verdict(self, between: tuple[float, float] | None) -> Verdict | None:
        if between is None or self.spec.mode == "only-one":
            return None
        low, high = sorted(self._sign * end for end in between)
        return "helps" if low > 0 else "harms" if high < 0 else "unclear"

    def dispensable(self, rows: Sequence[AblationRow], names: Sequence[str]) -> tuple[str, ...]:
        """Whom nothing shows to help; somebody stays in any case."""
        single = [row for row in rows if row.specialist in names]
        if self.spec.mode == "only-one":
            return self._all_but(single[0], names)
        found = [row.specialist for row in single if row.verdict in ("unclear", "harms")]
        together = next((row for row in rows if row not in single), None)
        if together is not None and together.verdict == "helps":
            found = found[-1:]  # one of them stands in for the other
        if len(found) == len(names):
            found = found[1:]
        return tuple(name for name in names if name in found)

    def _all_but(self, best: AblationRow, names: Sequence[str]) -> tuple[str, ...]:
        """Everybody else, where the best one alone is not shown to be worse than all."""
        if best.low is None or max(self._sign * best.low, self._sign * best.high) < 0:
            return ()
        return tuple(name for name in names if name != best.specialist)


def _order_weights(comparison: Comparison, shape: tuple[int, ...], seed: int) -> Floats:
    """How much each pair counts, `(pairs, 1 + replicates)`; those that were drawn are redrawn."""
    pairs, columns = shape
    weights = np.full(shape, 1 / pairs)
    if comparison.sampled:
        rng = np.random.default_rng([seed, 1])
        weights[:, 1:] = rng.multinomial(pairs, weights[:, 0], size=columns - 1).T / pairs
    return weights


def _stem(model: Path, folder: RunDir, spec: AblationSpec) -> str:
    """What the files are called: the plain name is that of every specialist left out in turn."""
    parts = ["ablation"]
    parts += [] if model == folder.model else [model.stem]
    parts += [] if spec.mode == "leave-one-out" else [spec.mode]
    parts += [] if spec.specialists is None else ["chosen"]
    return "-".join(parts)


def _suggestion(
    manifest: ModelManifest, model: Path, folder: RunDir, dispensable: Sequence[str]
) -> str | None:
    """What to type to do without some specialists; where nothing can be cut out, to fit again."""
    if not dispensable:
        return None
    without = shlex.quote(",".join(dispensable))
    if can_prune(manifest):
        output = _free(model)
        there = "" if output == pruned_path(model) else f" --output {shlex.quote(str(output))}"
        return f"eosfm prune {shlex.quote(str(model))} --exclude {without}{there}"
    left = ",".join(s.name for s in manifest.specialists if s.name not in dispensable)
    recipe = shlex.quote(str(folder.config))
    return f"eosfm fit-ensemble {recipe} --specialists {shlex.quote(left)}"


def pruned_path(path: Path) -> Path:
    """Where a smaller model or ensemble goes if nobody says where."""
    return path.with_name(f"{path.stem}-pruned{path.suffix}")


def _free(path: Path) -> Path:
    """The first such place where there is nothing yet."""
    first = pruned_path(path)
    others = (first.with_stem(f"{first.stem}-{number}") for number in count(2))
    return next(place for place in chain([first], others) if not place.exists())


def write_ablation(result: AblationResult) -> None:
    """Write table, JSON and chart.

    Raises:
        OutputError: A file cannot be written.
    """
    first = {"leave-one-out": "without", "only-one": "only", "shapley": "specialist"}[result.mode]
    columns = [first, result.metric_name, "change", "change low", "change high", "parameters"]
    columns += ["seconds", "time share", "energy kWh", "verdict"]
    full = (NONE_LEFT_OUT, result.full, 0.0, None, None, result.parameters, None, None, None, None)
    rows = [
        (
            row.specialist,
            row.metric,
            row.change,
            row.low,
            row.high,
            row.parameters,
            row.seconds,
            row.time_share,
            row.energy_kwh,
            row.verdict,
        )
        for row in result.rows
    ]
    write_csv(result.csv, columns, [full, *rows])
    write_text(result.json, json.dumps(to_json(result), indent=2) + "\n")
    draw_ablation(result.png, result)
