"""Make a fitted model, or an ensemble, smaller: leave specialists out without fitting again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import nn

from eosfm_cli import __version__
from eosfm_cli.carbon.ledger import LEDGER_NAME
from eosfm_cli.carbon.tracker import track
from eosfm_cli.data.datamodule import build_datamodule
from eosfm_cli.ensemble.bundle import (
    holds_ensemble,
    read_ensemble,
    write_ensemble,
    write_model,
    writer_for,
)
from eosfm_cli.ensemble.encoder import EnsembleEncoder, choose_specialists
from eosfm_cli.ensemble.gathering import from_file
from eosfm_cli.ensemble.hub import Located, is_address, locate
from eosfm_cli.ensemble.specialist import parameter_count
from eosfm_cli.errors import DataError, UsageError
from eosfm_cli.lineage import left_out_work
from eosfm_cli.manifest import EnsembleManifest, ModelManifest, PastWork, read_manifest
from eosfm_cli.progress import Progress
from eosfm_cli.raster.scoring import best_device, describe_device
from eosfm_cli.recipe import load_recipe
from eosfm_cli.results import Cost, PruneResult
from eosfm_cli.run_dir import RunDir, check_writable, experiments_dir, find_fit, now
from eosfm_cli.training.coalition_scores import score_coalitions
from eosfm_cli.training.model import inner_encoder, open_model
from eosfm_cli.training.pruning import prune_model
from eosfm_cli.training.task import METRICS
from eosfm_cli.workflows.ablate import chosen_names, pruned_path, run_of
from eosfm_cli.workflows.merge import refuse_to_replace


@dataclass(frozen=True)
class PruneSpec:
    """Who stays, and where the result goes."""

    specialists: Sequence[str] | None = None
    """Only these, by name or position; all if not given."""
    exclude: Sequence[str] = ()
    """All but these."""
    output: Path | None = None
    """`<stem>-pruned` beside the input, if not given."""
    overwrite: bool = False
    measure: bool = False
    """Whether to measure the smaller model on its test split."""


def prune(
    given: str, spec: PruneSpec, *, data_root: Path | None = None, progress: Progress
) -> PruneResult:
    """Write a model or an ensemble with fewer specialists.

    A model gives what the whole one gives without those left out; that is checked before anything
    is written.

    Args:
        given: A model's file, the run folder of a fit, or an ensemble in a file or on the hub.
        spec: Who stays.
        data_root: Where datasets are, for measuring; `EOSFM_DATA` or `data` if not given.
        progress: Who is told.

    Raises:
        UsageError: Nobody would be left or left out, or the decoder cannot be cut.
        DataError: There is no such file, or the data to measure on is gone.
        BundleError: The file is damaged.
        OutputError: The place cannot be written.
    """
    located = _located(given, progress)
    output = spec.output or _beside(located, given)
    if holds_ensemble(located.path) and not _is_model(located.path):
        return _prune_ensemble(located, spec, output, progress)
    return _prune_model(located.path, spec, output, data_root, progress)


def _located(given: str, progress: Progress) -> Located:
    found = locate(given, progress)
    if found.path.is_dir():
        return Located(find_fit(found.path, found.path), found.origin)
    if not found.path.is_file():
        raise DataError(
            f"There is no file {given}.",
            hint="Name a model, the run folder of a fit, or an ensemble.",
        )
    return found


def _beside(located: Located, given: str) -> Path:
    beside = pruned_path(located.path)
    return Path(beside.name) if is_address(given) else beside  # nothing goes to the hub's cache


def _is_model(path: Path) -> bool:
    return path.suffix.lower() == ".safetensors" and isinstance(read_manifest(path), ModelManifest)


def _left_out(manifest: EnsembleManifest | ModelManifest, kept: Sequence[str]) -> tuple[str, ...]:
    """Who goes.

    Raises:
        UsageError: Nobody.
    """
    names = [info.name for info in manifest.specialists]
    gone = tuple(name for name in names if name not in kept)
    if not gone:
        raise UsageError(
            "Nobody is left out.",
            hint=f"Say who stays with --specialists, or who goes with --exclude. There are: "
            f"{', '.join(names)}.",
        )
    return gone


# ------------------------------------------------------------------------------ ensembles


def _prune_ensemble(
    located: Located, spec: PruneSpec, output: Path, progress: Progress
) -> PruneResult:
    if spec.measure:
        raise UsageError(
            f"{located.path} is an ensemble, which nobody has fitted: there is nothing to measure.",
            hint="Leave out --measure.",
        )
    writer_for(output)
    everybody = from_file(read_ensemble(located.path, progress), located.origin)
    kept = choose_specialists(everybody, spec.specialists, spec.exclude)
    names = tuple(one.info.name for one in kept)
    everyone = EnsembleManifest(specialists=tuple(one.info for one in everybody))
    gone = _left_out(everyone, names)
    refuse_to_replace(output, [located.path], overwrite=spec.overwrite)
    write_ensemble(output, kept, named=True)
    return PruneResult(
        path=output,
        kind="ensemble",
        source=located.path,
        specialists=names,
        left_out=gone,
        parameters=sum(one.info.parameters for one in kept),
        parameters_before=sum(one.info.parameters for one in everybody),
        difference=None,
        task=None,
        metrics={},
    )


# ------------------------------------------------------------------------------ models


def _prune_model(
    path: Path, spec: PruneSpec, output: Path, data_root: Path | None, progress: Progress
) -> PruneResult:
    manifest = read_manifest(path)
    kept = chosen_names(manifest, spec.specialists, spec.exclude)
    gone = _left_out(manifest, kept)
    _refuse_other_suffix(output)
    refuse_to_replace(output, [path], overwrite=spec.overwrite)
    if spec.measure:
        run_of(path, manifest)
    if output.parent.is_dir():
        check_writable(output.parent)
    with track(
        _ledger_root(path),
        command="prune",
        name=manifest.recipe,
        recipe=manifest.recipe,
        progress=progress,
    ) as meter:
        manifest, model = open_model(path)
        progress.say(f"leaving out {', '.join(gone)}; {', '.join(kept)} stay")
        pruned = prune_model(model, manifest, kept)
        progress.say(
            "outputs equal those of the whole model without them, largest difference "
            f"{pruned.difference:.1g}"
        )
        smaller = _described(manifest, inner_encoder(pruned.model), path, gone)
        before = parameter_count(model), parameter_count(pruned.model)
        if spec.measure:
            metrics = _measure(pruned.model, smaller, path, data_root, progress)
            smaller = smaller.model_copy(update={"metrics": metrics})
        smaller = _with_work(smaller, meter.settled_cost)
    write_model(output, pruned.model.state_dict(), smaller)
    return PruneResult(
        path=output,
        kind="model",
        source=path,
        specialists=tuple(kept),
        left_out=gone,
        parameters=before[1],
        parameters_before=before[0],
        difference=pruned.difference,
        task=manifest.task,
        metrics=smaller.metrics,
    )


def _ledger_root(path: Path) -> Path:
    """The project that a model was fitted in, or else the one that this is done in."""
    project = RunDir(path.parent).experiments
    return project if (project / LEDGER_NAME).is_file() else experiments_dir()


def _with_work(manifest: ModelManifest, cost: Cost) -> ModelManifest:
    """Note what checking, and measuring, the smaller model took."""
    work = PastWork(command="prune", name=manifest.recipe, **asdict(cost))
    return manifest.model_copy(update={"past_work": (*manifest.past_work, work)})


def _refuse_other_suffix(output: Path) -> None:
    if output.suffix.lower() != ".safetensors":
        raise UsageError(
            f"A model cannot be written as {output.name!r}.", hint="End its name in .safetensors."
        )


def _described(
    manifest: ModelManifest, encoder: EnsembleEncoder, path: Path, gone: tuple[str, ...]
) -> ModelManifest:
    """What the smaller model says of itself; the scores of the whole one are not its own."""
    return manifest.model_copy(
        update={
            "created": now(),
            "eosfm": __version__,
            "specialists": encoder.specialists,
            "encoder": encoder.describe().model_copy(update={"scores": manifest.encoder.scores}),
            "metrics": {},
            "pruned_from": path.name,
            "left_out": (*manifest.left_out, *gone),
            "past_work": (
                *manifest.past_work,
                *left_out_work(manifest.specialists, encoder.names),
            ),
        }
    )


def _measure(
    model: nn.Module,
    manifest: ModelManifest,
    path: Path,
    data_root: Path | None,
    progress: Progress,
) -> dict[str, float]:
    """The task's own metric on the test split of the fit's recipe."""
    folder = run_of(path, manifest)
    recipe = load_recipe(str(folder.config))
    device = best_device()
    progress.say(f"device: {describe_device(device)}")
    everybody = frozenset(info.name for info in manifest.specialists)
    data = build_datamodule(recipe, data_root, spec=recipe.fit, progress=progress)
    found = score_coalitions(model, recipe, data, [everybody], device=device, progress=progress)
    return {METRICS[recipe.task]: float(found.scores[everybody][0])}
