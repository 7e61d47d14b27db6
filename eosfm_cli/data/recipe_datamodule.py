"""A recipe's data for any Lightning YAML: `class_path` of TerraTorch's command line too."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule

from eosfm_cli.data.datamodule import TileDataModule, TileLoader, build_datamodule
from eosfm_cli.data.label_reader import NO_VALUE
from eosfm_cli.data.tiles import TileDataset
from eosfm_cli.errors import UsageError
from eosfm_cli.progress import Progress, Silent
from eosfm_cli.recipe import Recipe, load_recipe

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_log = logging.getLogger("eosfm")


class _ToLog(Silent):
    """Tells the log: who runs this through another command line listens there."""

    def say(self, text: str) -> None:
        """Log a fact."""
        _log.info(text)

    def warn(self, text: str) -> None:
        """Log a warning."""
        _log.warning(text)


class RecipeDataModule(LightningDataModule):
    """Train, validation and test tiles of a recipe, standardised, as TorchGeo-style dicts.

    Batches have `image` `(b, c, h, w)` float32, of change detection `(b, c, 2, h, w)`, and
    `filename`, with `mask` `(b, h, w)`, int64 classes or float32 values, or `label`, `(b,)` int64
    or of several labels `(b, classes)` float32 of 0 and 1. Statistics that the recipe does not have
    are computed from its training split when it is set up.

    Args:
        recipe: A recipe's name (`mini-rgb`) or a path to its YAML file.
        data_root: Folder that holds the datasets; `EOSFM_DATA` or `data` if not given.
        batch_size: Tiles per step; the recipe's if not given.
        workers: Processes that read data; the recipe's if not given.
        seed: Of order and augmentation; the recipe's if not given.
        overrides: Any other keys of the recipe, dotted or nested: `{tile.size: 128}`.

    Raises:
        RecipeError: There is no such recipe, or it has errors.
        UsageError: An override names an unknown key.
    """

    def __init__(
        self,
        recipe: str,
        data_root: str | None = None,
        batch_size: int | None = None,
        workers: int | None = None,
        seed: int | None = None,
        overrides: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        given = {"batch_size": batch_size, "workers": workers, "seed": seed}
        training = {f"training.{k}": v for k, v in given.items() if v is not None}
        self.recipe: Recipe = _loaded(recipe, {**training, **dotted(overrides or {})})
        """With statistics once it is set up."""
        self.progress: Progress = _ToLog()
        self.data_root = None if data_root is None else Path(data_root)
        self._tiles: TileDataModule | None = None

    @property
    def tiles(self) -> TileDataModule:
        """The tiles of all splits; reads the data the first time."""
        if self._tiles is None:
            self._tiles = build_datamodule(
                self.recipe, self.data_root, spec=self.recipe.training, progress=self.progress
            )
            self.recipe = self._tiles.recipe
        return self._tiles

    def setup(self, stage: str) -> None:
        """Open the data, and check that the task which will be trained fits it.

        Raises:
            DataError: The dataset is missing, half there, or not as the recipe says.
            UsageError: The task has other classes, channels or another ignore index.
        """
        if self.trainer is not None:
            refuse_mismatch(self.recipe, self.trainer.lightning_module)
        self.tiles  # noqa: B018 - reads the data

    def train_dataloader(self) -> TileLoader:
        """Batches of training tiles in a new order each epoch."""
        return self.tiles.train_dataloader()

    def val_dataloader(self) -> TileLoader:
        """Batches of validation tiles, in order."""
        return self.tiles.val_dataloader()

    def test_dataloader(self) -> TileLoader:
        """Batches of test tiles, in order."""
        return self.tiles.test_dataloader()

    @property
    def val_dataset(self) -> TileDataset:
        """The validation tiles; TerraTorch looks there for what draws them."""
        return self.tiles.dataset("val")

    def plot(self, sample: Mapping[str, Any], split: str | None = None) -> Figure:
        """Draw a tile, its label and its prediction side by side; TerraTorch's pictures.

        Args:
            sample: `image` `(c, h, w)`, `mask` or `label`, and `prediction` if there is one.
            split: Where it comes from; Lightning's tasks name it.
        """
        from matplotlib.figure import Figure

        maps = {key: sample[key] for key in ("mask", "prediction") if key in sample}
        maps = {key: value for key, value in maps.items() if value.ndim >= 2}
        image = sample["image"]
        dates = image.unbind(1) if image.ndim == 4 else (image,)
        count = len(dates) + len(maps)
        figure = Figure(figsize=(3 * count, 3.2), layout="constrained")
        axes = figure.subplots(1, count, squeeze=False)[0]
        for one, date in zip(axes, dates, strict=False):
            one.imshow(_visible(date, self.recipe.bands))
        axes[0].set_title(self._words(sample))
        for one, (key, value) in zip(axes[len(dates) :], maps.items(), strict=True):
            one.imshow(value.squeeze(), **self._colours(sample))
            one.set_title(key)
        for one in axes:
            one.set_axis_off()
        return figure

    def _words(self, sample: Mapping[str, Any]) -> str:
        """Class and predicted class of a whole tile; of a map, just that it is the image."""
        if "label" not in sample:
            return "image"
        names = self.recipe.class_names
        found = [sample[key] for key in ("label", "prediction") if key in sample]
        if self.recipe.task != "multilabel":
            return " → ".join(names[int(value)] for value in found)
        return " → ".join(
            ", ".join(name for name, there in zip(names, value, strict=True) if there > 0.5)
            or "none"
            for value in found
        )

    def _colours(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        """How to paint the maps of a sample: classes alike everywhere, values over one range."""
        if self.recipe.task != "regression":
            return {"vmin": 0, "vmax": len(self.recipe.classes) - 1, "cmap": "tab20"}
        known = sample["mask"][sample["mask"] != NO_VALUE]
        low, high = (float(known.min()), float(known.max())) if known.numel() else (0.0, 1.0)
        return {"vmin": low, "vmax": high, "cmap": "viridis"}


def _loaded(recipe: str, overrides: Mapping[str, Any]) -> Recipe:
    try:
        return load_recipe(recipe, overrides)
    except UsageError as error:
        said = error.message.replace("--set ", "overrides: ")  # that is how they are written here
        raise UsageError(said, hint=error.hint) from None


def _visible(image: torch.Tensor, bands: tuple[str, ...]) -> torch.Tensor:
    """Standardised `(c, h, w)` as red, green and blue `(h, w, 3)` or grey `(h, w)`, 0 to 1."""
    colours = ("red", "green", "blue")
    chosen = [bands.index(c) for c in colours] if set(colours) <= set(bands) else [0]
    pixels = image[chosen].float().permute(1, 2, 0).squeeze(-1)
    return ((pixels + 2) / 4).clamp(0, 1)


def dotted(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Keys inside keys as dotted ones; what is dotted already stays."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        name = f"{prefix}{key}"
        flat |= dotted(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat


def refuse_mismatch(recipe: Recipe, task: LightningModule) -> None:
    """Refuse a task whose hyperparameters say that it is for other data.

    Raises:
        UsageError: It has other channels, classes or another ignore index than the recipe.
    """
    hyper = dict(task.hparams)
    model = hyper.get("model_args")
    model = model if isinstance(model, Mapping) else {}
    bands, classes = recipe.bands, recipe.class_names
    for key, has, wants, what in (
        ("model_args.backbone_in_chans", model.get("backbone_in_chans"), len(bands), bands),
        ("model_args.num_classes", model.get("num_classes"), len(classes), classes),
    ):
        if has is not None and has != wants:
            raise UsageError(
                f"model.init_args.{key} is {has}, the data of recipe {recipe.name} has {wants}: "
                f"{', '.join(what)}.",
                hint=f"Write {key.rpartition('.')[2]}: {wants}, or choose others with "
                "data.init_args.overrides.bands"
                if what is bands
                else f"Write num_classes: {wants}",
            )
    unlabelled = int(NO_VALUE) if recipe.task == "regression" else recipe.ignore_index
    ignored = hyper.get("ignore_index", unlabelled)
    if recipe.has_masks and ignored != unlabelled:
        raise UsageError(
            f"model.init_args.ignore_index is {ignored}, places without label are "
            f"{unlabelled} in recipe {recipe.name}.",
            hint=f"Write ignore_index: {unlabelled}",
        )
