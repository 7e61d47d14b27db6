"""TerraTorch's tasks, with plain checkpoints and the selection's sparsity term."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning.pytorch import LightningModule
from terratorch.tasks import ClassificationTask, SemanticSegmentationTask
from torch import Tensor, nn
from torchmetrics import MetricCollection

from eosfm_cli.ensemble.selection import GATE_LR, OpenGates
from eosfm_cli.recipe import Recipe, SpecialistSpec, Task, TrainingSpec

METRICS: dict[Task, str] = {"segmentation": "mIoU", "classification": "Accuracy"}
"""The score that picks the best checkpoint; TerraTorch's names. Both are averaged over classes."""


class _Lean:
    """Checkpoints of plain types, and only those metrics during training that someone looks at.

    The test split keeps all of TerraTorch's; on every training batch they would take a tenth of
    the time, and the boundary score alone as much at every validation.
    """

    ignore: Sequence[str] = ("weights", "model")

    def configure_metrics(self) -> None:
        super().configure_metrics()
        score = METRICS[self.task]
        self.train_metrics = MetricCollection({score: self.train_metrics[score]}, prefix="train/")
        wanted = set(self.val_metrics.keys(keep_base=True)) - {"Boundary_mIoU"}
        self.val_metrics = MetricCollection(
            {name: self.val_metrics[name] for name in sorted(wanted)}, prefix="val/"
        )


class _Sparse:
    """Add the L1 term of open gates to the loss."""

    sparsity: float = 0.0

    @property
    def gates(self) -> OpenGates | None:
        """The encoder's open gates, while a search is on."""
        found = getattr(self.model.encoder, "gates", None)
        return found if isinstance(found, OpenGates) else None

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401 - Lightning's
        loss = super().training_step(*args, **kwargs)
        return loss if self.gates is None else loss + self.sparsity * self.gates.penalty()


class _Segmentation(_Lean, _Sparse, SemanticSegmentationTask):
    pass


class _Classification(_Lean, _Sparse, ClassificationTask):
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


def build_fit_task(recipe: Recipe, model: nn.Module, *, epochs: int) -> LightningModule:
    """A task that fits a ready model; where its encoder has open gates, they learn too."""
    spec = recipe.fit
    gated = isinstance(model.encoder.gates, OpenGates)
    task = _TASKS[recipe.task](
        model=model,
        model_args={"num_classes": len(recipe.classes)},
        lr_overrides={"gates.scores": GATE_LR} if gated else None,
        **_options(recipe, spec, epochs=epochs),
    )
    task.sparsity = spec.sparsity
    return task


def _options(recipe: Recipe, spec: TrainingSpec, *, epochs: int) -> dict[str, Any]:
    """Loss, optimiser and schedule, the same for training and fitting."""
    options: dict[str, Any] = {
        "loss": spec.loss,
        "lr": spec.lr,
        "optimizer": "AdamW",
        "optimizer_hparams": {"weight_decay": spec.weight_decay, "fused": True},
        "scheduler": "CosineAnnealingLR",
        "scheduler_hparams": {"T_max": epochs},
        "class_names": list(recipe.class_names),
        "plot_on_val": False,
    }
    if recipe.task == "segmentation":
        options["ignore_index"] = recipe.ignore_index
    return options
