"""Which specialists matter: what the score becomes without each of them."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from dataclasses import astuple
from pathlib import Path

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from eosfm_cli.carbon.tracker import track
from eosfm_cli.data.datamodule import TileDataModule, build_datamodule
from eosfm_cli.ensemble.encoder import EnsembleEncoder
from eosfm_cli.ensemble.specialist import parameter_count
from eosfm_cli.errors import DataError, UsageError
from eosfm_cli.manifest import ModelManifest
from eosfm_cli.progress import Progress
from eosfm_cli.raster.scoring import best_device, describe_device
from eosfm_cli.recipe import Recipe, load_recipe
from eosfm_cli.results import (
    NONE_LEFT_OUT,
    AblationResult,
    AblationRow,
    lower_is_better,
    to_json,
)
from eosfm_cli.run_dir import RunDir, check_writable, write_csv, write_text
from eosfm_cli.training.model import inner_encoder, load_model
from eosfm_cli.training.plots import draw_ablation
from eosfm_cli.training.task import METRICS, answers, build_fit_task, truths
from eosfm_cli.training.trainer import library_messages_to, memory_errors
from eosfm_cli.workflows.fitted import choose_model, tell_plan


def ablate(
    run: Path | None, *, root: Path, data_root: Path | None, progress: Progress
) -> AblationResult:
    """Leave out each specialist of a fitted model in turn and measure it on the test split.

    Every batch is encoded once; only fusion, decoder and head run again per specialist. A
    specialist left out counts as zero after its normaliser.

    Args:
        run: A fitted run's folder; the newest completed fit if not given.
        root: The experiments folder.
        data_root: Where datasets are; `EOSFM_DATA` or `data` if not given.
        progress: Who is told.

    Raises:
        DataError: There is no fitted model, or its data is gone.
        UsageError: The model has one specialist only.
        OutputError: The run's folder cannot be written.
    """
    model, manifest = choose_model(run, root, progress)
    folder = _run_of(model)
    _refuse_a_single_one(manifest, folder)
    check_writable(folder.path)
    recipe = load_recipe(str(folder.config))
    tell_plan(manifest, progress)
    with (
        library_messages_to(folder.log),
        track(root, command="ablate", name=recipe.name, progress=progress) as meter,
    ):
        fitted = load_model(model)
        encoder: EnsembleEncoder = inner_encoder(fitted.module.model)
        data = build_datamodule(recipe, data_root, spec=recipe.fit, progress=progress)
        scores = _measure(fitted.module.model, recipe, data, progress)
    full = scores.pop("")
    rows = [
        AblationRow(name, score, score - full, parameter_count(backbone))
        for (name, score), backbone in zip(scores.items(), encoder.backbones, strict=True)
    ]
    result = AblationResult(
        run=folder.path,
        task=recipe.task,
        metric_name=METRICS[recipe.task],
        full=full,
        rows=_by_need(rows, METRICS[recipe.task]),
        csv=folder.path / "ablation.csv",
        json=folder.path / "ablation.json",
        png=folder.path / "ablation.png",
        cost=meter.cost,
    )
    write_ablation(result)
    return result


def _by_need(rows: Iterable[AblationRow], metric: str) -> tuple[AblationRow, ...]:
    """The specialist that is needed most first."""
    return tuple(sorted(rows, key=lambda row: row.change, reverse=lower_is_better(metric)))


def _run_of(model: Path) -> RunDir:
    folder = RunDir(model.parent)
    if folder.model != model or not folder.config.is_file():
        raise DataError(
            f"{model} is not in the run folder of its fit, with its recipe in config.yaml.",
            hint="Name a run folder below experiments/fit, or leave it out to take the newest fit.",
        )
    return folder


def _refuse_a_single_one(manifest: ModelManifest, folder: RunDir) -> None:
    if len(manifest.specialists) < 2:
        raise UsageError(
            f"The model in {folder.path} has one specialist only: nothing to leave out.",
            hint="Fit with more specialists, or without --top-k 1.",
        )


@torch.inference_mode()
def _measure(
    model: nn.Module, recipe: Recipe, data: TileDataModule, progress: Progress
) -> dict[str, float]:
    """The score of the full model (under "") and without each specialist."""
    device = best_device()
    progress.say(f"device: {describe_device(device)}")
    model = model.to(device).eval()
    encoder: EnsembleEncoder = inner_encoder(model)
    metrics = _metrics(recipe, model, ["", *encoder.names], device)
    decode = _Decoder(model)
    data.setup("test")
    batches = data.test_dataloader()
    with progress.step(f"ablate {recipe.name}", len(batches)) as step, memory_errors():
        for batch in batches:
            x, target = batch["image"].to(device), truths(recipe.task, batch).to(device)
            features = encoder.encode(_dates_as_batch(x))
            for name, metric in metrics.items():
                output = decode(x, encoder.combine(features, without={name}))
                metric.update(answers(recipe.task, output), target)
            step.advance()
    return {name: float(metric.compute()) for name, metric in metrics.items()}


def _metrics(
    recipe: Recipe, model: nn.Module, names: Iterable[str], device: torch.device
) -> dict[str, Metric]:
    """The task's own metric, once per variant of the model."""
    task = build_fit_task(recipe, model, epochs=1)
    metric = task.test_metrics[0][METRICS[recipe.task]]
    return {name: metric.clone().to(device) for name in names}


def _dates_as_batch(x: Tensor) -> Tensor:
    """Two dates `(b, c, t, h, w)` one after the other, `(b·t, c, h, w)`; one date as it is."""
    return x if x.ndim == 4 else x.transpose(1, 2).flatten(0, 1)


class _Replay(nn.Module):
    """Hands a ready pyramid to the decoder, in the encoder's place."""

    pyramid: list[Tensor]

    def forward(self, x: Tensor, **_: object) -> list[Tensor]:
        return self.pyramid


class _Decoder:
    """The model's decoder and head, fed with pyramids instead of images."""

    def __init__(self, model: nn.Module) -> None:
        self.replay = _Replay()
        self.model = _with_inner(model, self.replay)

    def __call__(self, x: Tensor, pyramid: list[Tensor]) -> Tensor:
        """Logits; `x` gives the size that they have."""
        self.replay.pyramid = pyramid
        return self.model(x).output


def _with_inner(model: nn.Module, encoder: nn.Module) -> nn.Module:
    """The model with another encoder of a single date; all else is shared."""
    if inner_encoder(model) is not model.encoder:
        encoder = _with(model.encoder, encoder)
    return _with(model, encoder)


def _with(module: nn.Module, encoder: nn.Module) -> nn.Module:
    changed = copy.copy(module)
    changed._modules = {**module._modules, "encoder": encoder}
    return changed


def write_ablation(result: AblationResult) -> None:
    """Write table, JSON and chart.

    Raises:
        OutputError: A file cannot be written.
    """
    full = (NONE_LEFT_OUT, result.full, 0.0, sum(row.parameters for row in result.rows))
    columns = ["without", result.metric_name, "change", "parameters"]
    write_csv(result.csv, columns, [full, *map(astuple, result.rows)])
    write_text(result.json, json.dumps(to_json(result), indent=2) + "\n")
    draw_ablation(result.png, result.rows, result.metric_name, result.full)
