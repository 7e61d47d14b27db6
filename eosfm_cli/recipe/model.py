"""A recipe: a dataset and how to train on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticKnownError

from eosfm_cli.bands import BANDS
from eosfm_cli.recipe.dataset import DatasetSpec, ImageFile
from eosfm_cli.recipe.rules import contradictions
from eosfm_cli.recipe.training import (
    LOSSES,
    MAP_TASKS,
    FitSpec,
    Pooling,
    SpecialistSpec,
    Task,
    TrainingSpec,
)
from eosfm_cli.recipe.values import (
    BandName,
    Bands,
    ColourOrNone,
    Name,
    Spec,
    common_keys,
    common_names,
    common_names_in_each,
)


class ClassSpec(Spec):
    """One class: its name, its colour on maps, and how the labels write it."""

    name: str
    colour: ColourOrNone = None
    values: tuple[int | str, ...] | None = None
    """Values in the mask, its colours as "#rrggbb", or names of class folders, labels or columns;
    the class's position, its `colour` or its name if not given."""


class TargetSpec(Spec):
    """The quantity that a regression gives for each pixel."""

    name: str = Field(min_length=1)
    """What it is, as in "canopy height"."""
    unit: str | None = None
    """As in "m" or "t/ha"."""
    min: float | None = None
    """The least value that it can have: maps hold none below."""
    max: float | None = None
    """The largest value that it can have: maps hold none above."""

    @property
    def title(self) -> str:
        """Name and unit, as on an axis."""
        return self.name if self.unit is None else f"{self.name} ({self.unit})"

    @model_validator(mode="after")
    def _has_a_range(self) -> TargetSpec:
        if self.min is not None and self.max is not None and self.min >= self.max:
            raise ValueError("min is to be less than max")
        return self


class BandStatistics(Spec):
    """Mean and standard deviation of one band, in the data's own units."""

    mean: float
    std: float = Field(gt=0)


class TileSpec(Spec):
    """How big images are cut."""

    size: int = Field(256, ge=32, multiple_of=32)
    """Edge in pixels; smaller images are padded to it."""
    stride: int | None = Field(None, ge=1)
    """Step between tiles in pixels; the size if not given."""
    train: Literal["random", "grid"] = "grid"
    """How training tiles are taken; validation and test are always a grid."""
    unlabelled: Literal["keep", "skip"] = "keep"
    """Whether tiles of the grid without any label are left out: where labels are few, most are."""

    @model_validator(mode="after")
    def _covers_everything(self) -> TileSpec:
        if self.stride is not None and self.stride > self.size:
            raise ValueError(
                f"a stride of {self.stride} leaves gaps between tiles of {self.size}; "
                "it is at most the size"
            )
        return self


class Recipe(Spec):
    """A dataset and how to train on it, with one variant chosen and every default filled in."""

    name: Name
    title: str
    task: Task
    dataset: DatasetSpec
    bands: Annotated[Bands, BeforeValidator(lambda raw: common_names(raw))] = ()
    """The bands used, a choice of the images' bands; all of them if not given."""
    views: Annotated[
        dict[Name, tuple[BandName, ...]],
        BeforeValidator(lambda raw: common_names_in_each(raw)),
    ] = Field(default_factory=dict)
    """View -> bands to feed: for the specialist of that name, else for all that take so many."""
    classes: tuple[ClassSpec, ...] = Field((), validate_default=True)
    """What is told apart; regression has a `target` instead."""
    target: TargetSpec | None = None
    """What regression gives."""
    pooling: Pooling | None = None
    """How change detection joins the features of its two dates: their difference (the default), or
    one beside the other."""
    ignore_index: int = Field(255, ge=0, le=255)
    """The label that samples carry where there is none."""
    statistics: (
        Annotated[dict[BandName, BandStatistics], BeforeValidator(lambda raw: common_keys(raw))]
        | None
    ) = None
    """Band -> mean and standard deviation; computed from the training split if not given."""
    tile: TileSpec = TileSpec()
    training: SpecialistSpec = SpecialistSpec()
    fit: FitSpec = FitSpec()

    @field_validator("classes")
    @classmethod
    def _enough_classes(
        cls, classes: tuple[ClassSpec, ...], info: ValidationInfo
    ) -> tuple[ClassSpec, ...]:
        if info.data.get("task", "regression") == "regression" or len(classes) >= 2:
            return classes
        if not classes:
            raise PydanticKnownError("missing")
        few = {"field_type": "Tuple", "min_length": 2, "actual_length": len(classes)}
        raise PydanticKnownError("too_short", few)

    @model_validator(mode="after")
    def _hangs_together(self) -> Recipe:
        for problem in contradictions(self):
            raise ValueError(problem)
        defaults: dict[str, Any] = {}
        if not self.bands:
            defaults["bands"] = self.bands_on_disk
        if self.task == "change" and self.pooling is None:
            defaults["pooling"] = "diff"
        for key in ("training", "fit"):
            spec: TrainingSpec = getattr(self, key)
            if spec.loss is None:
                defaults[key] = spec.model_copy(update={"loss": LOSSES[self.task][0]})
        for key, value in defaults.items():
            object.__setattr__(self, key, value)
        return self

    @property
    def has_masks(self) -> bool:
        """Whether the labels are rasters."""
        return self.task in MAP_TASKS

    @property
    def labels_are_in_a_table(self) -> bool:
        """Whether `dataset.labels` says what samples show, and not only where they belong."""
        return self.task == "multilabel" and self.dataset.boxes is None

    @property
    def by_colour(self) -> bool:
        """Whether the labels are colours."""
        masks = self.dataset.masks
        return self.has_masks and masks is not None and masks.encoding == "colours"

    @property
    def bands_on_disk(self) -> tuple[str, ...]:
        """Every band of the dataset; of change detection those of the first date, as the second
        has the same.
        """
        return tuple(
            band
            for image in self.dataset.images.values()
            if image.date == self.dates[0]
            for band in image.bands
        )

    @property
    def image_files(self) -> dict[str, ImageFile]:
        """Name -> the rasters of a sample that hold bands the recipe uses, in file order."""
        wanted = set(self.bands)
        return {
            file.name: file
            for name, image in self.dataset.images.items()
            for file in image.files(name)
            if wanted & set(file.bands)
        }

    @property
    def dates(self) -> tuple[Literal[1, 2] | None, ...]:
        """The dates of a sample: two of change detection, else one that nobody names."""
        return (1, 2) if self.task == "change" else (None,)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, by index."""
        return tuple(c.name for c in self.classes)

    @property
    def sensor(self) -> str | None:
        """The sensor of the optical images used: whose own band names their files use."""
        used = set(self.bands)
        optical = {name for name in used if BANDS[name].kind == "optical"}
        sensors = (i.sensor for i in self.dataset.images.values() if optical & set(i.bands))
        return next(sensors, None)

    @property
    def class_values(self) -> tuple[tuple[int | str, ...], ...]:
        """How the labels write each class: its mask values, its colours, or its names."""
        return tuple(
            _default_values(self, index) if c.values is None else _as_written(self, c.values)
            for index, c in enumerate(self.classes)
        )

    def with_statistics(self, statistics: Mapping[str, BandStatistics]) -> Recipe:
        """The same recipe with the statistics of its bands filled in."""
        return self.model_copy(update={"statistics": dict(statistics)})

    def to_yaml(self) -> str:
        """The complete recipe as YAML that `load_recipe` reads back to an equal one."""
        return yaml.safe_dump(
            self.model_dump(mode="json", exclude_none=True), sort_keys=False, allow_unicode=True
        )


def _default_values(recipe: Recipe, index: int) -> tuple[int | str, ...]:
    """How the labels write a class that does not say so."""
    if not recipe.has_masks:
        return (recipe.classes[index].name,)
    if not recipe.by_colour:
        return (index,)
    colour = recipe.classes[index].colour
    return () if colour is None else (colour,)


def _as_written(recipe: Recipe, values: tuple[int | str, ...]) -> tuple[int | str, ...]:
    if not recipe.has_masks:
        return tuple(map(str, values))
    return tuple(v.lower() if isinstance(v, str) else v for v in values)
