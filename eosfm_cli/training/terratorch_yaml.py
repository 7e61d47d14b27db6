"""A recipe as a YAML for TerraTorch's command line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from eosfm_cli.lightning_yaml import DATA_MODULE
from eosfm_cli.recipe import Recipe, Task
from eosfm_cli.results import lower_is_better
from eosfm_cli.training.model import choose_decoder, outputs, pooling_arguments
from eosfm_cli.training.task import METRICS, label_options

_TASKS: dict[Task, str] = {
    "segmentation": "terratorch.tasks.SemanticSegmentationTask",
    "classification": "terratorch.tasks.ClassificationTask",
    "multilabel": "terratorch.tasks.MultiLabelClassificationTask",
    "regression": "terratorch.tasks.PixelwiseRegressionTask",
    "change": "terratorch.tasks.SemanticSegmentationTask",
}
_METRICS: dict[Task, str] = {**METRICS, "multilabel": "Multilabel_F1_Score"}
"""TerraTorch's own tasks have no mean average precision."""
_HEADING = """\
# {title}
# Runs with: eosfm train-specialist THIS.yaml
#       and: terratorch fit -c THIS.yaml
"""


def terratorch_yaml(recipe: Recipe, source: str, overrides: Mapping[str, Any]) -> str:
    """What `train-specialist` does with a recipe, in TerraTorch's words.

    Args:
        recipe: With overrides.
        source: Its name, or the absolute path of its file.
        overrides: Keys laid over it; those about the data travel with its name.

    Raises:
        UsageError: TerraTorch has no such decoder.
    """
    parts = {
        "seed_everything": recipe.training.seed,
        "trainer": _trainer(recipe),
        "data": _data(recipe, source, overrides),
        "model": _model(recipe),
        "optimizer": {
            "class_path": "torch.optim.AdamW",
            "init_args": {
                "lr": recipe.training.lr,
                "weight_decay": recipe.training.weight_decay,
                "fused": True,
            },
        },
        "lr_scheduler": {
            "class_path": "torch.optim.lr_scheduler.CosineAnnealingLR",
            "init_args": {"T_max": recipe.training.epochs},
        },
    }
    return _HEADING.format(title=recipe.title) + yaml.safe_dump(
        parts, sort_keys=False, allow_unicode=True
    )


def _trainer(recipe: Recipe) -> dict[str, Any]:
    spec = recipe.training
    metric = _METRICS[recipe.task]
    best = {
        "monitor": f"val/{metric}",
        "mode": "min" if lower_is_better(metric) else "max",
        "filename": "best",
        "save_last": True,
    }
    return {
        "accelerator": "auto",
        "devices": spec.devices,
        "precision": spec.precision,
        "max_epochs": spec.epochs,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 1,
        "callbacks": [
            {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": best}
        ],
    }


def _data(recipe: Recipe, source: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    about_data = {
        key: value
        for key, value in overrides.items()
        if key == "training.augment" or key.partition(".")[0] not in {"training", "fit"}
    }
    arguments: dict[str, Any] = {
        "recipe": source,
        "batch_size": recipe.training.batch_size,
        "workers": recipe.training.workers,
        "seed": recipe.training.seed,
    }
    if about_data:
        arguments["overrides"] = about_data
    return {"class_path": DATA_MODULE, "init_args": arguments}


def _model(recipe: Recipe) -> dict[str, Any]:
    spec = recipe.training
    decoder = choose_decoder(recipe, spec)
    arguments: dict[str, Any] = {
        "model_factory": "EncoderDecoderFactory",
        "model_args": {
            "backbone": f"timm_{spec.backbone}",
            "backbone_in_chans": len(recipe.bands),
            "backbone_pretrained": spec.pretrained,
            **outputs(len(recipe.classes)),
            **pooling_arguments(recipe.pooling),
            "decoder": decoder.name,
            **{f"decoder_{key}": value for key, value in decoder.arguments.items()},
        },
        "loss": spec.loss,
        "plot_on_val": False,
        **label_options(recipe),
    }
    return {"class_path": _TASKS[recipe.task], "init_args": arguments}
