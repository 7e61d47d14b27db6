"""TerraTorch's tasks, with plain checkpoints and the selection's sparsity term."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning.pytorch import LightningModule
from terratorch.tasks import ClassificationTask, SemanticSegmentationTask
from torch import Tensor, nn

from eosfm_cli.ensemble.selection import GATE_LR, OpenGates
from eosfm_cli.recipe import Recipe, SpecialistSpec, Task, TrainingSpec

METRICS: dict[Task, str] = {"segmentation": "mIoU", "classification": "Accuracy"}
"""The score that picks the best checkpoint; TerraTorch's names. Both are averaged over classes."""


class _PlainCheckpoints:
    """Keep the module itself out of the hyperparameters, so that checkpoints hold plain types."""

    ignore: Sequence[str] = ("weights", "model")


class _Sparse:
    """Add the L1 term of open gates to the loss."""

    sparsity: float = 0.0
    gates: OpenGates | None = None

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401 - Lightning's
        loss = super().training_step(*args, **kwargs)
        return loss if self.gates is None else loss + self.sparsity * self.gates.penalty()


class _Segmentation(_PlainCheckpoints, _Sparse, SemanticSegmentationTask):
    pass


class _Classification(_PlainCheckpoints, _Sparse, ClassificationTask):
    pass


_TASKS: dict[Task, type[LightningModule]] = {
    "segmentation": _Segmentation,
    "classification": _Classification,
}


def build_specialist_task(recipe: Recipe, decoder_arguments: dict[str, Any]) -> LightningModule:
    """A task that trains one specialist: TerraTorch's factory builds all of the model.

    The checkpoint's hyperparameters are the same as those of a plain TerraTorch run, so that
    tools which read such checkpoints read ours.
    """
    spec: SpecialistSpec = recipe.training
    return _TASKS[recipe.task](
        model_factory="EncoderDecoderFactory",
        model_args={
            "backbone": f"timm_{spec.backbone}",
            "backbone_in_chans": len(recipe.bands),
            "backbone_pretrained": spec.pretrained,
            "num_classes": len(recipe.classes),
            **decoder_arguments,
        },
        **_options(recipe, spec, epochs=spec.epochs),
    )


def build_fit_task(
    recipe: Recipe, model: nn.Module, *, epochs: int, gates: OpenGates | None = None
) -> LightningModule:
    """A task that fits a ready model; with `gates`, it searches for the specialists that matter."""
    spec = recipe.fit
    task = _TASKS[recipe.task](
        model=model,
        model_args={"num_classes": len(recipe.classes)},
        lr_overrides={"gates.scores": GATE_LR} if gates is not None else None,
        **_options(recipe, spec, epochs=epochs),
    )
    task.gates, task.sparsity = gates, spec.sparsity
    return task


def _options(recipe: Recipe, spec: TrainingSpec, *, epochs: int) -> dict[str, Any]:
    """Loss, optimiser and schedule, the same for training and fitting."""
    options: dict[str, Any] = {
        "loss": spec.loss,
        "lr": spec.lr,
        "optimizer": "AdamW",
        "optimizer_hparams": {"weight_decay": spec.weight_decay},
        "scheduler": "CosineAnnealingLR",
        "scheduler_hparams": {"T_max": epochs},
        "class_names": list(recipe.class_names),
        "plot_on_val": False,
    }
    if recipe.task == "segmentation":
        options["ignore_index"] = recipe.ignore_index
    return options
