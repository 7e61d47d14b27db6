"""TerraTorch's tasks, with plain checkpoints and the selection's sparsity term."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from terratorch.models.model import ModelOutput
from terratorch.tasks import (
    ClassificationTask,
    MultiLabelClassificationTask,
    PixelwiseRegressionTask,
    SemanticSegmentationTask,
)
from terratorch.tasks.regression_tasks import IgnoreIndexLossWrapper, IgnoreIndexMetricWrapper
from torch import Tensor, nn
from torchmetrics import ClasswiseWrapper, MetricCollection, R2Score
from torchmetrics.classification import (
    MulticlassF1Score,
    MultilabelAveragePrecision,
    MultilabelF1Score,
)

from eosfm_cli.data.label_reader import NO_VALUE
from eosfm_cli.ensemble.selection import GATE_LR, OpenGates
from eosfm_cli.recipe import CLASS_MAP_TASKS, MAP_TASKS, Recipe, SpecialistSpec, Task, TrainingSpec
from eosfm_cli.training.decoding import decode_stored
from eosfm_cli.training.model import TwoDates, inner_encoder, outputs, pooling_arguments
from eosfm_cli.training.stored_features import StoredFeatures

METRICS: dict[Task, str] = {
    "segmentation": "mIoU",
    "classification": "Accuracy",
    "multilabel": "mAP",
    "regression": "RMSE",
    "change": "mIoU",
}
"""The score that picks the best checkpoint; TerraTorch's names, and mAP, the mean average
precision. Those of classes are averaged over them."""


def metric_of(task: LightningModule) -> str:
    """The score by which a task is judged, ours or one of TerraTorch's own; else its loss."""
    if isinstance(task, _Lean):
        return task.score
    if isinstance(task, MultiLabelClassificationTask):
        return "Multilabel_F1_Score"
    return METRICS.get(getattr(task, "task", None), "loss")


class _Lean:
    """Checkpoints of plain types, and only those metrics during training that someone looks at.

    The test split keeps all of TerraTorch's; on every training batch they would take a tenth of
    the time, and the boundary score alone as much at every validation.
    """

    ignore: Sequence[str] = ("weights", "model")
    score: str
    """What the task is judged by."""

    def configure_metrics(self) -> None:
        super().configure_metrics()
        score = self.score
        self.train_metrics = MetricCollection({score: self.train_metrics[score]}, prefix="train/")
        wanted = set(self.val_metrics.keys(keep_base=True)) - {"Boundary_mIoU"}
        self.val_metrics = MetricCollection(
            {name: self.val_metrics[name] for name in sorted(wanted)}, prefix="val/"
        )


class _Sparse:
    """Add the selection's penalty to the loss: it closes gates that the task does not hold open."""

    sparsity: float = 0.0

    @property
    def gates(self) -> OpenGates | None:
        """The encoder's gates, where they learn whom to keep."""
        found = getattr(inner_encoder(self.model), "gates", None)
        return found if isinstance(found, OpenGates) else None

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401 - Lightning's
        loss = super().training_step(*args, **kwargs)
        return loss if self.gates is None else loss + self.sparsity * self.gates.penalty()


class _FromStore:
    """Go on from stored features where a batch has them in the place of images."""

    def forward(self, x: Tensor | StoredFeatures, **kwargs: Any) -> ModelOutput:  # noqa: ANN401
        if isinstance(x, StoredFeatures):
            return decode_stored(self.model, x)
        return super().forward(x, **kwargs)


class _MoreMetrics:
    """Metrics of the task's field that TerraTorch does not have."""

    def configure_metrics(self) -> None:
        super().configure_metrics()
        for collection in (self.train_metrics, self.val_metrics, *self.test_metrics):
            collection.add_metrics(self.more_metrics())


class _SomeLabelled:
    """Leave out batches in which no pixel has a label: the mean loss over none is NaN."""

    def configure_losses(self) -> None:
        super().configure_losses()
        self.criterion = _OverLabels(self.criterion, self.hparams["ignore_index"])


class _OverLabels(nn.Module):
    """A loss that is 0, and teaches nothing, where there is no label at all."""

    def __init__(self, loss: nn.Module, ignore_index: int) -> None:
        super().__init__()
        self.loss, self.ignore_index = loss, ignore_index

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        if (target == self.ignore_index).all():
            return 0 * output.sum()
        return self.loss(output, target)


class _Segmentation(_Lean, _Sparse, _FromStore, _SomeLabelled, SemanticSegmentationTask):
    score = METRICS["segmentation"]


class _Classification(_Lean, _Sparse, _FromStore, ClassificationTask):
    score = METRICS["classification"]


class _Multilabel(_Lean, _Sparse, _FromStore, _MoreMetrics, MultiLabelClassificationTask):
    score = METRICS["multilabel"]

    def more_metrics(self) -> dict[str, Any]:
        classes = self.hparams["model_args"]["num_classes"]
        return {
            "mAP": MultilabelAveragePrecision(num_labels=classes, average="macro"),
            "Multilabel_F1_Score_Micro": MultilabelF1Score(num_labels=classes, average="micro"),
        }


class _Change(_Lean, _Sparse, _FromStore, _MoreMetrics, _SomeLabelled, SemanticSegmentationTask):
    score = METRICS["change"]

    def configure_models(self) -> None:
        super().configure_models()
        if "model" in self._modules:  # built by TerraTorch just now
            encoder = self.model.encoder
            self.model.encoder = TwoDates(encoder.encoder, encoder.pooling)

    def more_metrics(self) -> dict[str, Any]:
        classes, ignored = self.hparams["model_args"]["num_classes"], self.hparams["ignore_index"]
        f1 = MulticlassF1Score(num_classes=classes, ignore_index=ignored, average=None)
        return {"F1": ClasswiseWrapper(f1, labels=self.hparams["class_names"], prefix="F1_")}


class _Regression(_Lean, _Sparse, _FromStore, _MoreMetrics, PixelwiseRegressionTask):
    score = METRICS["regression"]

    def configure_losses(self) -> None:
        super().configure_losses()
        if self.hparams["loss"] == "rmse":  # TerraTorch's takes the root twice
            self.criterion = _RootMeanSquare(self.hparams["ignore_index"])

    def more_metrics(self) -> dict[str, Any]:
        ignored = self.hparams["ignore_index"]
        return {"R2_Score": IgnoreIndexMetricWrapper(_R2(), ignore_index=ignored)}


class _RootMeanSquare(nn.Module):
    """Root of the mean square over the pixels that have a value."""

    def __init__(self, ignore_index: int) -> None:
        super().__init__()
        self.mean = IgnoreIndexLossWrapper(nn.MSELoss(reduction="none"), ignore_index)

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        # At 0, as where no pixel has a value, the root has no gradient.
        return torch.sqrt(self.mean(output, target) + 1e-12)


class _R2(R2Score):
    """Share of the variance that is explained; nothing, instead of an error, of too few pixels."""

    def compute(self) -> Tensor:
        return super().compute() if self.total >= 2 else torch.full_like(self.residual, torch.nan)


_TASKS: dict[Task, type[LightningModule]] = {
    "segmentation": _Segmentation,
    "classification": _Classification,
    "multilabel": _Multilabel,
    "regression": _Regression,
    "change": _Change,
}


def answers(task: Task, output: Tensor) -> Tensor:
    """What a model says, as its task's metrics take it, from what it gives."""
    if task == "regression":
        return output
    return output.sigmoid() if task == "multilabel" else output.argmax(dim=1)


def truths(task: Task, batch: dict[str, Tensor]) -> Tensor:
    """What is so, as a task's metrics take it."""
    if task in MAP_TASKS:
        return batch["mask"]
    return batch["label"].int() if task == "multilabel" else batch["label"]


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
            **outputs(len(recipe.classes)),
            **pooling_arguments(recipe.pooling),
            **decoder_arguments,
        },
        **_options(recipe, spec, epochs=spec.epochs),
    )


def build_fit_task(recipe: Recipe, model: nn.Module, *, epochs: int) -> LightningModule:
    """A task that fits a ready model; where its encoder has open gates, they learn too."""
    spec = recipe.fit
    gated = isinstance(inner_encoder(model).gates, OpenGates)
    task = _TASKS[recipe.task](
        model=model,
        model_args=outputs(len(recipe.classes)),
        lr_overrides={"gates.scores": GATE_LR} if gated else None,
        **_options(recipe, spec, epochs=epochs),
    )
    task.sparsity = spec.sparsity
    return task


def _options(recipe: Recipe, spec: TrainingSpec, *, epochs: int) -> dict[str, Any]:
    """Loss, optimiser and schedule, the same for training and fitting."""
    return {
        "loss": spec.loss,
        "lr": spec.lr,
        "optimizer": "AdamW",
        "optimizer_hparams": {"weight_decay": spec.weight_decay, "fused": True},
        "scheduler": "CosineAnnealingLR",
        "scheduler_hparams": {"T_max": epochs},
        "plot_on_val": False,
        **label_options(recipe),
    }


def metrics_on_test(recipe: Recipe) -> MetricCollection:
    """What a recipe's task is measured by on its test split, as TerraTorch has it."""
    task = _TASKS[recipe.task](
        model=nn.Identity(),
        model_args=outputs(len(recipe.classes)),
        **_options(recipe, recipe.fit, epochs=1),
    )
    return task.test_metrics[0]


def label_options(recipe: Recipe) -> dict[str, Any]:
    """What TerraTorch's tasks want to know of the labels."""
    if recipe.task == "regression":
        return {"ignore_index": int(NO_VALUE)}
    options: dict[str, Any] = {"class_names": list(recipe.class_names)}
    if recipe.task in CLASS_MAP_TASKS:
        options["ignore_index"] = recipe.ignore_index
    return options
