"""Recipes: what a dataset is and how to train on it, as YAML.

A recipe file describes one dataset. Its `variants` are partial recipes laid over it; `sen12ms-rgb`
is variant `rgb` of `sen12ms.yaml`, and the bare name is the `default_variant`. Every message about
a recipe gives file, line, key and the nearest valid word.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticKnownError

from eosfm_cli.bands import BANDS, SENSORS, band_name, nearest_word
from eosfm_cli.errors import RecipeError, UsageError

# --------------------------------------------------------------------------- values


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _check_name(text: str) -> str:
    if not re.fullmatch(r"[^/\\,\s.][^/\\,]*", text):
        raise ValueError(f"{text!r} cannot name a folder; leave out slashes and commas")
    return text


def _check_band(name: str) -> str:
    if name in BANDS:
        return name
    near = nearest_word(name.lower(), BANDS)
    raise ValueError(f"unknown band {name!r}" + (f", did you mean {near!r}?" if near else ""))


def _check_unique(names: tuple[str, ...]) -> tuple[str, ...]:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"named twice: {', '.join(twice)}")
    return names


def _refuse_no_colour(raw: Any) -> Any:  # noqa: ANN401 - raw YAML
    if raw is None:
        raise ValueError("a colour is written '#rrggbb' in quotes; without them it is a comment")
    return raw


def _check_colour(text: str) -> str:
    if not re.fullmatch(r"#[0-9a-fA-F]{6}", text):
        raise ValueError(f"a colour is written '#rrggbb' (in quotes), not {text!r}")
    return text.lower()


_FIELD = re.compile(r"\{([a-z][a-z0-9_]*)\}")


def template_fields(template: str) -> tuple[str, ...]:
    """The fields of a path template, without braces, in order and each once."""
    return tuple(dict.fromkeys(_FIELD.findall(template)))


def fill_template(template: str, fields: Mapping[str, str]) -> str:
    """A template with the fields that are known filled in; others stay as they are."""
    return _FIELD.sub(lambda field: fields.get(field[1]) or field[0], template)


def _check_template(text: str) -> str:
    if re.search(r"[{}]", _FIELD.sub("", text)):
        raise ValueError(
            f"{text!r} has a brace that belongs to no field; a field is a word in small letters, "
            "as in {id}"
        )
    return text


def _check_path_template(text: str) -> str:
    _check_template(text)
    if not set(template_fields(text)) - {"class", "split"}:
        raise ValueError(
            "a path needs {id} where the file's own name stands, as in 'images/{id}.tif'"
        )
    return _check_inside(text)


def _check_inside(text: str) -> str:
    if Path(text).is_absolute() or ".." in Path(text).parts:
        raise ValueError("a path is relative to the dataset's root and stays inside it")
    return text


def _check_alternatives(paths: tuple[str, ...]) -> tuple[str, ...]:
    for path in paths[1:]:
        if set(template_fields(path)) != set(template_fields(paths[0])):
            raise ValueError(
                f"alternatives have the same fields; {path!r} differs from {paths[0]!r}"
            )
    return paths


def _shape(raw: Any) -> Literal["text", "list", "number"]:  # noqa: ANN401 - raw YAML
    """What a value that may be of several types was meant to be."""
    if isinstance(raw, list | tuple):
        return "list"
    is_number = isinstance(raw, int | float) and not isinstance(raw, bool)
    return "number" if is_number else "text"


def _text_or_list(raw: Any) -> str:  # noqa: ANN401 - raw YAML
    return "tuple[text]" if _shape(raw) == "list" else "str"


def _text_list_or_number(raw: Any) -> str:  # noqa: ANN401 - raw YAML
    return {"list": "tuple[text]", "number": "float", "text": "str"}[_shape(raw)]


Name = Annotated[str, AfterValidator(_check_name)]
BandName = Annotated[str, AfterValidator(_check_band)]
Bands = Annotated[tuple[BandName, ...], AfterValidator(_check_unique)]
Colour = Annotated[str, AfterValidator(_check_colour)]
Template = Annotated[str, AfterValidator(_check_template)]
PathTemplate = Annotated[str, AfterValidator(_check_path_template)]
Paths = Annotated[
    Annotated[PathTemplate, Tag("str")]
    | Annotated[
        tuple[PathTemplate, ...],
        Field(min_length=1),
        AfterValidator(_check_alternatives),
        Tag("tuple[text]"),
    ],
    Discriminator(_text_or_list),
]
Fraction = Annotated[float, Field(ge=0, lt=1)]
TextList = Annotated[
    Annotated[str, Tag("str")] | Annotated[tuple[str, ...], Tag("tuple[text]")],
    Discriminator(_text_or_list),
]
ListOrShare = Annotated[
    Annotated[str, Tag("str")]
    | Annotated[tuple[str, ...], Tag("tuple[text]")]
    | Annotated[float, Field(gt=0, lt=1), Tag("float")],
    Discriminator(_text_list_or_number),
]


class FileSpec(_Spec):
    """One file per sample: where it is.

    A path is relative to the root and has fields in braces: `{id}`, and where folders say so
    `{class}` and `{split}`; any other words will do as well (`{season}/{patch}.tif`). A sample is
    called by its `{id}`, or else by all its fields joined with `_`.
    """

    path: Paths
    """One path, or several: of each sample the first that exists is taken."""

    @property
    def paths(self) -> tuple[str, ...]:
        """The alternatives, in order; one where there is no choice."""
        return (self.path,) if isinstance(self.path, str) else self.path

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of the paths, in order."""
        return template_fields(self.paths[0])


class ImageSpec(FileSpec):
    """One raster per sample: where it is and what its bands are."""

    bands: Bands
    """Every band of the file, in file order."""
    sensor: str | None = None
    """Whose own band names (`B4`) the recipe uses; Sentinel-2's if not given."""
    date: Literal[1, 2] | None = None
    """Of change detection: whether it shows the place before (1) or after (2)."""

    @model_validator(mode="before")
    @classmethod
    def _common_names(cls, raw: Any) -> Any:  # noqa: ANN401 - raw YAML
        if not isinstance(raw, dict):
            return raw
        sensor = raw.get("sensor")
        if sensor is not None and str(sensor) not in SENSORS:
            near = nearest_word(str(sensor), SENSORS)
            raise ValueError(
                f"unknown sensor {sensor!r}"
                + (f", did you mean {near!r}?" if near else f"; known: {', '.join(SENSORS)}")
            )
        if isinstance(raw.get("bands"), list | tuple):
            return {**raw, "bands": _common_names(raw["bands"], sensor)}
        return raw


class MaskSpec(FileSpec):
    """One label raster per sample."""

    encoding: Literal["values", "colours"] = "values"
    """Whether labels are numbers in one band, or colours in three (red, green, blue)."""
    band: int = Field(1, ge=1)
    """Which band of the file holds the labels, counted from 1; with `encoding: values`."""
    tolerance: int = Field(0, ge=0, le=127)
    """With `encoding: colours`, the largest difference per channel (0 to 255) that still counts
    as a class's colour; the nearest class is taken."""
    ignore: tuple[int | float | str, ...] = ()
    """Values, or colours as "#rrggbb", that mean "no label": left out of loss and metrics."""
    scale: float = 1.0
    """Of regression: what a mask's values are multiplied by to get the target in its unit."""
    offset: float = 0.0
    """Of regression: what is added after that."""
    unknown: Literal["error", "ignore"] = "error"
    """What a label that no class lists is: a mistake, or a place without label."""


class ListSplit(_Spec):
    """Official lists: one sample per line in a text file, or the samples themselves."""

    by: Literal["list"]
    train: TextList
    val: ListOrShare
    """A list, or a share of the training list's scenes."""
    test: TextList
    entry: Template | None = None
    """How the lists write a sample, with the paths' fields; its id, file name or path if not
    given."""
    scene: Template | None = None
    """What a scene is, with the paths' fields, where `val` is a share: scenes stay whole. Each
    sample is one if not given."""
    seed: int = 0
    """Of the draw, where `val` is a share."""
    absent: Literal["error", "skip"] = "error"
    """What to do about listed samples whose files are not all on disk."""

    @model_validator(mode="after")
    def _scenes_are_for_a_share(self) -> ListSplit:
        if self.scene is not None and not isinstance(self.val, float):
            raise ValueError("scene says what a share of scenes is drawn from; val is a list")
        return self


class SceneSplit(_Spec):
    """Whole scenes go to one split, so that neighbours never stand on both sides."""

    by: Literal["scene"]
    pattern: str = r"^(.*?)_"
    """A regular expression; its first group, found in the id, is the scene."""
    val: Fraction | tuple[str, ...] = 0.15
    """A share of the scenes, or their names."""
    test: Fraction | tuple[str, ...] = 0.15
    seed: int = 0

    @model_validator(mode="after")
    def _pattern_has_a_group(self) -> SceneSplit:
        try:
            groups = re.compile(self.pattern).groups
        except re.error as error:
            raise ValueError(f"pattern is no regular expression: {error}") from None
        if groups < 1:
            raise ValueError("pattern needs a group in parentheses that holds the scene's name")
        _leave_some_for_training(self)
        return self


def _leave_some_for_training(split: SceneSplit | FractionSplit) -> None:
    shares = [share for share in (split.val, split.test) if isinstance(share, float)]
    if sum(shares) >= 1:
        raise ValueError("val and test together leave nothing to train on")


class FractionSplit(_Spec):
    """A seeded draw of samples. Use only where samples are independent of each other."""

    by: Literal["fraction"]
    val: Fraction = 0.15
    test: Fraction = 0.15
    seed: int = 0

    @model_validator(mode="after")
    def _trains_on_something(self) -> FractionSplit:
        _leave_some_for_training(self)
        return self


class ColumnSplit(_Spec):
    """A column of the table `dataset.labels` says where a sample belongs."""

    by: Literal["column"]
    column: str
    train: str = "train"
    """What stands in the column for training."""
    val: str = "val"
    test: str = "test"
    absent: Literal["error", "skip"] = "error"
    """What to do about rows whose files are not all on disk."""

    @model_validator(mode="after")
    def _tells_them_apart(self) -> ColumnSplit:
        if len({self.train, self.val, self.test}) < 3:
            raise ValueError("train, val and test are three different values of the column")
        return self


class FolderSplit(_Spec):
    """Splits are folders: `{split}` stands in the paths."""

    by: Literal["folder"]
    train: str = "train"
    val: str = "val"
    test: str = "test"


Split = Annotated[
    ListSplit | SceneSplit | FractionSplit | FolderSplit | ColumnSplit, Field(discriminator="by")
]


class LabelsSpec(_Spec):
    """A table with a row per sample: what it shows, and perhaps which split it belongs to."""

    path: Annotated[str, AfterValidator(_check_inside)]
    """CSV or Parquet, relative to the root."""
    id: str
    """The column that says which sample a row is about: its id, file name or path."""
    column: str | None = None
    """The column that holds the names of a sample's classes; if not given, each class has a column
    of its own, of zeros and ones."""
    separator: str = Field(";", min_length=1)
    """What stands between names in `column`; lists of names need none."""


class DatasetSpec(_Spec):
    """What the dataset is, where its files are, and who may use it."""

    loader: Literal["folder", "mini"] = "folder"
    """`folder` reads any layout that paths can describe; `mini` makes its data on first use."""
    root: str
    """Folder of the dataset; relative to `--data-root`."""
    images: dict[str, ImageSpec] = Field(min_length=1)
    """Sensor (any name) -> its rasters; several are stacked, in this order."""
    masks: MaskSpec | None = None
    labels: LabelsSpec | None = None
    split: Split
    homepage: str | None = None
    licence: str | None = None
    size: str | None = None
    download: str | None = None
    """How to get the data, in a sentence."""


class ClassSpec(_Spec):
    """One class: its name, its colour on maps, and how the labels write it."""

    name: str
    colour: Annotated[Colour | None, BeforeValidator(_refuse_no_colour)] = None
    values: tuple[int | str, ...] | None = None
    """Values in the mask, its colours as "#rrggbb", or names of class folders, labels or columns;
    the class's position, its `colour` or its name if not given."""


class TargetSpec(_Spec):
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


class BandStatistics(_Spec):
    """Mean and standard deviation of one band, in the data's own units."""

    mean: float
    std: float = Field(gt=0)


class TileSpec(_Spec):
    """How big images are cut."""

    size: int = Field(256, ge=32, multiple_of=32)
    """Edge in pixels; smaller images are padded to it."""
    stride: int | None = Field(None, ge=1)
    """Step between tiles in pixels; the size if not given."""
    train: Literal["random", "grid"] = "grid"
    """How training tiles are taken; validation and test are always a grid."""

    @model_validator(mode="after")
    def _covers_everything(self) -> TileSpec:
        if self.stride is not None and self.stride > self.size:
            raise ValueError(
                f"a stride of {self.stride} leaves gaps between tiles of {self.size}; "
                "it is at most the size"
            )
        return self


Task = Literal["segmentation", "classification", "multilabel", "regression", "change"]
Loss = Literal[
    "ce", "dice", "focal", "lovasz", "bce", "balanced_bce", "mse", "mae", "rmse", "huber"
]
Pooling = Literal["diff", "concat"]

MAP_TASKS: frozenset[Task] = frozenset({"segmentation", "regression", "change"})
"""Tasks that say something of every pixel, and learn it from masks."""
CLASS_MAP_TASKS: frozenset[Task] = frozenset({"segmentation", "change"})
"""Those of them that say a class."""
LOSSES: dict[Task, tuple[Loss, ...]] = {
    "segmentation": ("ce", "dice", "focal", "lovasz"),
    "classification": ("ce", "focal"),
    "multilabel": ("bce", "balanced_bce"),
    "regression": ("mse", "mae", "rmse", "huber"),
    "change": ("ce", "dice", "focal", "lovasz"),
}
"""The losses of each task, its usual one first."""


class TrainingSpec(_Spec):
    """What training and fitting have in common."""

    epochs: int = Field(20, ge=1)
    batch_size: int = Field(8, ge=1)
    lr: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.05, ge=0)
    loss: Loss | None = None
    """Of TerraTorch; `ce`, or `bce` for several labels and `mse` for values, if not given."""
    decoder: str | None = None
    """Of TerraTorch; UperNetDecoder for maps, IdentityDecoder for classes if not given."""
    decoder_channels: int = Field(128, ge=8)
    augment: bool = True
    """Random flips and quarter turns."""
    precision: Literal["32-true", "16-mixed", "bf16-mixed"] = "32-true"
    devices: int | Literal["auto"] = 1
    """How many GPUs, `auto` for all there are; where there is none, processes on the CPU."""
    workers: int = Field(2, ge=0)
    """Processes that read data; 0 reads in the main one."""
    seed: int = Field(0, ge=0, le=2**32 - 1)


class SpecialistSpec(TrainingSpec):
    """Training of one specialist."""

    backbone: str = "convnextv2_atto"
    """A timm model with `features_only`."""
    pretrained: bool = False
    """Start from timm's published weights; asks the network for them."""


Fusion = Literal["concat", "conv1x1", "mlp", "addition", "multiplication"]
Normalize = Literal["batch", "layer", "none"]
Selection = Literal["topk", "smooth"]
Adapt = Literal["rule", "learned"]
SelectBy = Literal["gates", "probe"]

SCRATCH, OF_TIMM = "scratch", "timm:"
"""What may stand as `fit.ensemble` for a single encoder that is no specialist."""


class FitSpec(TrainingSpec):
    """Fitting the frozen ensemble to a task."""

    augment: bool = False
    ensemble: str | None = None
    """An ensemble file; the newest export if not given. Or what to compare an ensemble with: the
    name of one of its specialists, `scratch` for one encoder trained from random weights on all
    the bands (`training.backbone`), `timm:MODEL` for any model of timm on them."""
    pretrained: bool = False
    """Take timm's published weights with `timm:MODEL`; asks the network for them."""
    label_fraction: float = Field(1.0, gt=0, le=1)
    """Share of the training labels that is used."""
    specialists: tuple[str, ...] | None = None
    """Only these specialists."""
    exclude: tuple[str, ...] = ()
    """All but these specialists."""
    fusion: Fusion = "concat"
    fuse_to_mult: int = Field(1, ge=1)
    """Width of what `conv1x1` and `mlp` give, in multiples of the first specialist's."""
    normalize: Normalize = "batch"
    project: bool = False
    """Put a learned 1×1 convolution behind each specialist's normaliser."""
    adapt: Adapt = "rule"
    """`learned` trains how bands are mixed for each specialist, starting from the rule."""
    top_k: int | None = Field(None, ge=1)
    """Keep this many specialists; all if not given."""
    selection: Selection = "topk"
    """How the `top_k` are found: by a search before the fit, or by gates that stay and close."""
    select_by: SelectBy = "gates"
    """What finds the `top_k`: gates that learn, or a linear probe of each specialist before."""
    scale_features: bool = False
    """Weight the features of the specialists kept by their learned scores."""
    search_epochs: int | None = Field(None, ge=1)
    """Epochs of search before the best `top_k` are kept; half of `epochs` if not given."""
    sparsity: float = Field(0.05, ge=0)
    """Weight of the penalty that closes gates: L1, or for `smooth` the distance from `top_k`."""
    freeze: bool = True
    """Keep the specialists' weights as they are; not of `scratch`, whose weights are random."""

    @model_validator(mode="before")
    @classmethod
    def _scratch_learns(cls, raw: Any) -> Any:  # noqa: ANN401 - raw YAML
        if isinstance(raw, dict) and raw.get("ensemble") == SCRATCH:
            return {"freeze": False, **raw}
        return raw

    @property
    def epochs_of_search(self) -> int:
        """How long the gates are open before the best `top_k` are kept."""
        return self.search_epochs or max(1, self.epochs // 2)


class Recipe(_Spec):
    """A dataset and how to train on it, with one variant chosen and every default filled in."""

    name: Name
    title: str
    task: Task
    dataset: DatasetSpec
    bands: Annotated[Bands, BeforeValidator(lambda raw: _common_names(raw))] = ()
    """The bands used, a choice of the images' bands; all of them if not given."""
    views: Annotated[
        dict[Name, tuple[BandName, ...]],
        BeforeValidator(lambda raw: _common_names_in_each(raw)),
    ] = {}
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
        Annotated[dict[BandName, BandStatistics], BeforeValidator(lambda raw: _common_keys(raw))]
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
        for problem in _contradictions(self):
            raise ValueError(problem)
        defaults: dict[str, Any] = {}
        if not self.bands:
            defaults["bands"] = tuple(_bands_on_disk(self))
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


def _common_names(raw: Any, sensor: str | None = None) -> Any:  # noqa: ANN401 - raw YAML
    if isinstance(raw, list | tuple):
        return tuple(band_name(str(b), sensor) or str(b) for b in raw)
    return raw


def _common_names_in_each(raw: Any) -> Any:  # noqa: ANN401 - raw YAML
    if isinstance(raw, dict):
        return {key: _common_names(bands) for key, bands in raw.items()}
    return raw


def _common_keys(raw: Any) -> Any:  # noqa: ANN401 - raw YAML
    if isinstance(raw, dict):
        return {band_name(str(b)) or str(b): values for b, values in raw.items()}
    return raw


def _by_colour(recipe: Recipe) -> bool:
    masks = recipe.dataset.masks
    return recipe.has_masks and masks is not None and masks.encoding == "colours"


def _default_values(recipe: Recipe, index: int) -> tuple[int | str, ...]:
    """How the labels write a class that does not say so."""
    if not recipe.has_masks:
        return (recipe.classes[index].name,)
    if not _by_colour(recipe):
        return (index,)
    colour = recipe.classes[index].colour
    return () if colour is None else (colour,)


def _as_written(recipe: Recipe, values: tuple[int | str, ...]) -> tuple[int | str, ...]:
    if not recipe.has_masks:
        return tuple(map(str, values))
    return tuple(v.lower() if isinstance(v, str) else v for v in values)


def _bands_on_disk(recipe: Recipe) -> list[str]:
    """Of change detection those of the first date; the second has the same."""
    return [
        band
        for image in recipe.dataset.images.values()
        if image.date == recipe.dates[0]
        for band in image.bands
    ]


def _without_effect(fit: FitSpec) -> Iterator[str]:
    if fit.fuse_to_mult != 1 and fit.fusion not in ("conv1x1", "mlp"):
        yield f"fit.fuse_to_mult: only fusion conv1x1 and mlp take it, not {fit.fusion}"
    if fit.top_k is None and fit.selection == "smooth":
        yield "fit.selection: smooth needs fit.top_k (--top-k), how many gates to keep open"
    if fit.top_k is None and fit.scale_features:
        yield "fit.scale_features: there are scores only where fit.top_k (--top-k) selects"
    if fit.ensemble == SCRATCH and fit.freeze:
        yield "fit.freeze: scratch starts from random weights, which have to learn (--no-freeze)"
    if fit.pretrained and not (fit.ensemble or "").startswith(OF_TIMM):
        yield "fit.pretrained: only an ensemble of 'timm:MODEL' has published weights to take"
    single = fit.ensemble == SCRATCH or (fit.ensemble or "").startswith(OF_TIMM)
    for key in ("specialists", "exclude"):
        if single and getattr(fit, key):
            yield f"fit.{key}: {fit.ensemble} is one encoder, of which nothing can be chosen"
    if fit.select_by == "probe":
        yield from _without_effect_of_a_probe(fit)


def _without_effect_of_a_probe(fit: FitSpec) -> Iterator[str]:
    if fit.top_k is None:
        yield "fit.select_by: probe needs fit.top_k (--top-k), how many specialists to keep"
    if fit.selection == "smooth":
        yield "fit.selection: a probe chooses before the fit, smooth gates during it; take one"
    if fit.scale_features:
        yield "fit.scale_features: a probe leaves no learned scores; it needs select_by: gates"


def _contradictions(recipe: Recipe) -> Iterator[str]:
    if "masks" in recipe.dataset.images:
        yield "dataset.images: 'masks' cannot name images; take another word, as in 'aerial'"
    yield from _misdated(recipe)
    on_disk = _bands_on_disk(recipe)
    twice = sorted({band for band in on_disk if on_disk.count(band) > 1})
    if twice:
        yield f"dataset.images: two of them have {', '.join(twice)}"
    for band in recipe.bands:
        if band not in on_disk:
            yield f"bands: {band!r} is in no image of the dataset; there are {', '.join(on_disk)}"
    for view, bands in recipe.views.items():
        for band in bands:
            if band not in (recipe.bands or on_disk):
                yield f"views.{view}: {band!r} is not among the recipe's bands"
        if not bands:
            yield f"views.{view}: needs at least one band"
    names = list(recipe.class_names)
    if len(set(names)) != len(names):
        yield f"classes: a name stands there twice: {', '.join(names)}"
    if recipe.has_masks and recipe.dataset.masks is None:
        yield f"dataset: {recipe.task} needs masks, as in 'masks: {{path: \"masks/{{id}}.tif\"}}'"
    if recipe.task == "classification" and not all(
        "class" in image.fields for image in recipe.dataset.images.values()
    ):
        yield "dataset: classification needs {class} in the images' paths, as in '{class}/{id}.tif'"
    if recipe.dataset.split.by == "folder" and not all(
        "split" in image.fields for image in recipe.dataset.images.values()
    ):
        yield "dataset.split: 'by: folder' needs {split} in the paths, as in '{split}/{id}.tif'"
    yield from _unpaired_paths(recipe)
    yield from _unknown_fields(recipe)
    yield from _tables(recipe)
    yield from _targets(recipe)
    yield from _useless_mask_keys(recipe)
    yield from _unclear_values(recipe)
    yield from _without_effect(recipe.fit)
    for key, spec in (("training", recipe.training), ("fit", recipe.fit)):
        losses = LOSSES[recipe.task]
        if spec.loss is not None and spec.loss not in losses:
            known = f"{', '.join(losses[:-1])} or {losses[-1]}"
            kind = "maps" if recipe.task == "classification" else "other tasks"
            yield f"{key}.loss: {spec.loss!r} is for {kind}; {recipe.task} takes {known}"
    if recipe.ignore_index < len(recipe.classes):
        yield f"ignore_index: {recipe.ignore_index} is the index of a class"
    if recipe.statistics is not None:
        for band in recipe.bands or on_disk:
            if band not in recipe.statistics:
                yield f"statistics: {band!r} is missing"


def _misdated(recipe: Recipe) -> Iterator[str]:
    """Images without a date where there are two, or with one where there are none."""
    images = recipe.dataset.images
    if recipe.task != "change":
        for name, image in images.items():
            if image.date is not None:
                yield f"dataset.images.{name}.date: dates are for 'task: change'; leave it out"
        return
    for name, image in images.items():
        if image.date is None:
            yield (
                f"dataset.images.{name}: change detection needs to know which image is of which "
                "date: 'date: 1' before, 'date: 2' after"
            )
    before, after = (
        {band for image in images.values() if image.date == date for band in image.bands}
        for date in recipe.dates
    )
    if odd := sorted(before ^ after):
        yield f"dataset.images: only one of the two dates has {', '.join(odd)}"


def _tables(recipe: Recipe) -> Iterator[str]:
    """A table of labels that is missing, or that nobody reads."""
    labels, split = recipe.dataset.labels, recipe.dataset.split
    if recipe.task == "multilabel" and labels is None:
        yield (
            "dataset: multilabel needs a table, as in "
            "'labels: {path: labels.csv, id: image, column: labels}'"
        )
    if isinstance(split, ColumnSplit) and labels is None:
        yield "dataset.split: 'by: column' needs the table, as in 'labels: {path: …, id: …}'"
    if labels is None or recipe.task == "multilabel":
        return
    if labels.column is not None:
        yield f"dataset.labels.column: {recipe.task} takes no labels from a table; leave it out"
    if not isinstance(split, ColumnSplit):
        yield "dataset.labels: nothing reads it, but 'task: multilabel' or 'split: {by: column}'"


def _targets(recipe: Recipe) -> Iterator[str]:
    """What belongs to regression alone, or to change detection alone."""
    if recipe.task == "regression":
        if recipe.target is None:
            yield "target: regression needs to know it, as in 'target: {name: height, unit: m}'"
        if recipe.classes:
            yield "classes: regression has a target instead; leave them out"
    elif recipe.target is not None:
        yield f"target: this is for 'task: regression'; {recipe.task} has classes"
    if recipe.pooling is not None and recipe.task != "change":
        yield "pooling: this joins the two dates of 'task: change'; leave it out"


def _file_specs(recipe: Recipe) -> dict[str, FileSpec]:
    """Recipe key -> files that the task takes."""
    images = {f"dataset.images.{name}": image for name, image in recipe.dataset.images.items()}
    masks = recipe.dataset.masks if recipe.has_masks else None
    return {**images, "dataset.masks": masks} if masks is not None else dict(images)


def _unpaired_paths(recipe: Recipe) -> Iterator[str]:
    """Paths that share no field, by which files could find each other."""
    (first, one), *others = _file_specs(recipe).items()
    for key, other in others:
        if set(one.fields) & set(other.fields) - {"split", "class"}:
            continue
        odd, even = (one, other) if "id" in other.fields else (other, one)
        own = next(field for field in odd.fields if field not in {"split", "class"})
        near = nearest_word(own, even.fields)
        yield (
            f"{first if odd is one else key}.path: files find each other by the fields that their "
            f"paths share; this has {_braced(odd.fields)}, {key if odd is one else first}.path has "
            f"{_braced(even.fields)}" + (f", did you mean {{{near}}}?" if near else "")
        )


def _unknown_fields(recipe: Recipe) -> Iterator[str]:
    split = recipe.dataset.split
    if not isinstance(split, ListSplit):
        return
    known = {f for spec in _file_specs(recipe).values() for f in spec.fields}
    for key, template in (("entry", split.entry), ("scene", split.scene)):
        for field in template_fields(template or ""):
            if field not in known:
                near = nearest_word(field, known)
                yield f"dataset.split.{key}: {{{field}}} is a field of no path" + (
                    f", did you mean {{{near}}}?" if near else f"; there are {_braced(known)}"
                )


def _braced(fields: Iterable[str]) -> str:
    return ", ".join(f"{{{field}}}" for field in fields)


def _useless_mask_keys(recipe: Recipe) -> Iterator[str]:
    masks = recipe.dataset.masks
    if masks is None:
        return
    if masks.encoding == "colours" and masks.band != 1:
        yield "dataset.masks.band: colours are read from the first three bands; leave it out"
    if masks.encoding == "values" and masks.tolerance:
        yield "dataset.masks.tolerance: this is for 'encoding: colours'; leave it out"
    if recipe.task == "regression":
        if masks.encoding == "colours":
            yield "dataset.masks.encoding: regression takes values; leave it out"
        if masks.unknown == "ignore":
            yield "dataset.masks.unknown: regression takes any value; list others under 'ignore'"
        if masks.scale == 0:
            yield "dataset.masks.scale: 0 makes all values the same"
    else:
        for key in ("scale", "offset"):
            if key in masks.model_fields_set and getattr(masks, key) != float(key == "scale"):
                yield f"dataset.masks.{key}: this is for 'task: regression'; leave it out"


def _unclear_values(recipe: Recipe) -> Iterator[str]:
    """What stands for two classes at once, or for none that a mask can hold."""
    folders = not recipe.has_masks
    names = {"classification": "folder", "multilabel": "label"}
    kind = names.get(recipe.task, "colour" if _by_colour(recipe) else "mask value")
    taken: dict[float | str, str] = {}
    for index, values in enumerate(recipe.class_values):
        name, key = recipe.classes[index].name, f"classes.{index}.values"
        if not values:
            yield f"classes.{index}: {name} needs a colour, or values with its colours"
        for value in values:
            if not folders:
                yield from _not_in_a_mask(recipe, key, value)
            if taken.setdefault(value, name) != name:
                yield f"{key}: the {kind} {value} stands for both {taken[value]} and {name}"
    for value in recipe.dataset.masks.ignore if recipe.dataset.masks else ():
        if not folders:
            yield from _not_in_a_mask(recipe, "dataset.masks.ignore", value)
        written = value.lower() if isinstance(value, str) else value
        if written in taken:
            yield f"dataset.masks.ignore: the {kind} {written} already stands for {taken[written]}"


def _not_in_a_mask(recipe: Recipe, key: str, value: float | str) -> Iterator[str]:
    if recipe.task == "regression":
        if isinstance(value, str):
            yield f"{key}: {value!r} is no number"
    elif isinstance(value, float):
        yield f"{key}: masks hold whole numbers, not {value:g}"
    elif _by_colour(recipe):
        try:
            _check_colour(str(value))
        except ValueError as error:
            yield f"{key}: {error}"
    elif isinstance(value, str):
        yield (
            f"{key}: masks hold whole numbers; {value!r} "
            + (
                "needs 'encoding: colours' in dataset.masks"
                if value.startswith("#")
                else "could only name a class folder"
            )
        )


# --------------------------------------------------------------------------- files and lines


_YAML_PROBLEMS = {
    "found character '\\t'": "a tab cannot indent YAML; use spaces",
    "mapping values are not allowed": "a colon where none can be; put text in quotes",
    "could not determine a constructor": "tags (!) are not allowed in a recipe",
    "another document": "a recipe is one document; take out the line '---'",
}


@dataclass(frozen=True)
class _Source:
    """A YAML document with the line of every key."""

    path: Path
    text: str

    @cached_property
    def _root(self) -> yaml.Node | None:
        try:
            return yaml.compose(self.text, Loader=yaml.SafeLoader)
        except (yaml.YAMLError, RecursionError) as error:
            raise self._no_yaml(error) from None

    def _no_yaml(self, error: Exception) -> RecipeError:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "this is no YAML"
        said = next((ours for yamls, ours in _YAML_PROBLEMS.items() if yamls in problem), problem)
        return RecipeError(f"{self.path}{line}: {said}.")

    @cached_property
    def data(self) -> dict[str, Any]:
        """The document as plain values."""
        root = self._root
        if not isinstance(root, yaml.MappingNode):
            raise RecipeError(
                f"{self.path}: {'it is empty' if root is None else 'this is no recipe'}; "
                "a recipe is a mapping of keys to values.",
                hint="`eosfm recipes copy mini` makes one to start from.",
            )
        self._refuse_odd_nodes(root)
        try:
            return yaml.safe_load(self.text)
        except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
            raise self._no_yaml(error) from None

    def _refuse_odd_nodes(self, node: yaml.Node, inside: tuple[int, ...] = ()) -> None:
        """Refuse keys that stand there twice, keys that are no words, and what contains itself."""
        where = f"{self.path}, line {node.start_mark.line + 1}"
        if id(node) in inside:
            raise RecipeError(f"{where}: this contains itself.")
        if isinstance(node, yaml.MappingNode):
            self._refuse_double_keys(node)
            children = [value for _, value in node.value]
        else:
            children = node.value if isinstance(node, yaml.SequenceNode) else []
        for child in children:
            self._refuse_odd_nodes(child, (*inside, id(node)))

    def _refuse_double_keys(self, node: yaml.MappingNode) -> None:
        seen: set[str] = set()
        for key, _ in node.value:
            where = f"{self.path}, line {key.start_mark.line + 1}"
            if not isinstance(key, yaml.ScalarNode):
                raise RecipeError(f"{where}: a key is a single word.")
            if key.value in seen:
                raise RecipeError(f"{where}: {key.value!r} stands here twice.")
            seen.add(key.value)

    @property
    def variants(self) -> dict[str, dict[str, Any]]:
        """The partial recipes that can be laid over the document."""
        variants = self.data.get("variants") or {}
        parts = list(variants.values()) if isinstance(variants, dict) else [variants]
        if not all(part is None or isinstance(part, dict) for part in parts):
            raise RecipeError(
                f"{self.path}, line {self.line(['variants'])}: variants are a mapping of names to "
                "partial recipes, as in 'variants: {rgb: {bands: [red, green, blue]}}'."
            )
        return {str(name): part or {} for name, part in variants.items()}

    def line(self, where: Sequence[str | int]) -> int | None:
        """The line of the deepest part of `where` that the document has."""
        node, line = self._root, None
        for part in where:
            if isinstance(node, yaml.MappingNode):
                hit = next(((k, v) for k, v in node.value if k.value == str(part)), None)
                if hit is None:
                    continue
                line, node = hit[0].start_mark.line + 1, hit[1]
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
                if part >= len(node.value):
                    break
                node = node.value[part]
                line = node.start_mark.line + 1
        return line


def recipes_dir() -> Path:
    """Where the shipped recipes are: inside the wheel, or in the checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "recipes"
    return inside if inside.is_dir() else package.parent / "recipes"


def recipe_names() -> list[str]:
    """Every name that a recipe answers to, variants included, in alphabetical order."""
    return sorted(
        name for path in sorted(recipes_dir().glob("*.yaml")) for name in _names_in(_read(path))
    )


def _names_in(source: _Source) -> list[str]:
    stem = source.path.stem
    return [stem, *(f"{stem}-{variant}" for variant in source.variants)]


def variant_names(name: str) -> list[str]:
    """The recipe's name or path as given, and after it one for each variant of its file.

    Raises:
        RecipeError: There is no such recipe, or its file is no YAML mapping.
    """
    path, variant = find_recipe(name)
    variants = _read(path).data.get("variants")
    if variant is not None or not isinstance(variants, dict):
        return [name]
    stems = [f"{path.stem}-{each}" for each in variants]
    given_as_path = Path(name).suffix in {".yaml", ".yml"}
    return [name, *(str(path.with_stem(s)) if given_as_path else s for s in stems)]


def find_recipe(name: str) -> tuple[Path, str | None]:
    """The file and variant that a recipe's name or path stands for.

    Raises:
        RecipeError: There is no such recipe; the nearest name is offered.
    """
    path = Path(name)
    if path.suffix in {".yaml", ".yml"}:
        if path.is_file():
            return path, None
        stem, _, variant = path.stem.rpartition("-")
        if stem and path.with_stem(stem).is_file():
            return path.with_stem(stem), variant
        raise RecipeError(
            f"There is no file {name}.", hint="`eosfm recipes list` shows what is there."
        )
    for path in sorted(recipes_dir().glob("*.yaml"), key=lambda p: -len(p.stem)):
        if name == path.stem:
            return path, None
        if name.startswith(f"{path.stem}-"):
            return path, name.removeprefix(f"{path.stem}-")
    near = nearest_word(name, recipe_names())
    raise RecipeError(
        f"There is no recipe {name!r}." + (f" Did you mean {near!r}?" if near else ""),
        hint="`eosfm recipes list` shows all; a path to a YAML file works too.",
    )


def load_recipe(name: str, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe by name (`sen12ms-rgb`) or path, with dotted keys laid over it.

    Args:
        name: A shipped recipe's name, with a variant or without, or a path to a YAML file; of a
            file of one's own, `mine-rgb.yaml` is variant `rgb` of `mine.yaml`.
        overrides: `{"training.epochs": 5}`, as `--set` and the options give them.

    Raises:
        RecipeError: The recipe has errors; all of them are listed with their lines.
        UsageError: An override names an unknown key.
    """
    path, variant = find_recipe(name)
    source = _read(path)
    return _build(source, variant, overrides or {})


def _read(path: Path) -> _Source:
    try:
        return _Source(path, path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise RecipeError(f"{path} is no text file in UTF-8.") from None
    except OSError as error:
        raise RecipeError(f"Cannot read {path}: {error.strerror or error}.") from None


def _build(source: _Source, variant: str | None, overrides: Mapping[str, Any]) -> Recipe:
    data, variants = dict(source.data), source.variants
    data.pop("variants", None)
    default = data.pop("default_variant", None)
    chosen = variant or (None if default is None else str(default))
    if chosen is not None and chosen not in variants:
        near = nearest_word(chosen, variants)
        line = source.line(["default_variant"] if variant is None else ["variants"])
        raise RecipeError(
            f"{source.path}{f', line {line}' if line else ''}: there is no variant {chosen!r}."
            + (f" Did you mean {near!r}?" if near else ""),
            hint=f"Variants: {', '.join(variants) or 'none'}.",
        )
    prefix: tuple[str | int, ...] = ()
    if chosen is not None:
        prefix = ("variants", chosen)
        data = _merged(data, variants[chosen])
    data.setdefault("name", f"{source.path.stem}-{variant}" if variant else source.path.stem)
    for key, value in overrides.items():
        _set(data, key, value)
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise _explained(error, source, prefix, overrides) from None


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `over` laid over it: mappings merge, anything else replaces."""
    both = dict(base)
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(both.get(key), dict):
            both[key] = _merged(both[key], value)
        else:
            both[key] = value
    return both


def _set(data: dict[str, Any], key: str, value: Any) -> None:  # noqa: ANN401 - raw YAML
    *parents, last = key.split(".")
    for part in parents:
        child = data.get(part) or {}
        if not isinstance(child, dict):
            raise UsageError(
                f"--set {key}: {part!r} has no keys of its own.",
                hint=f"Set {part!r} as a whole; the value is YAML, as in --set 'bands=[red, nir]'",
            )
        data[part] = dict(child)
        data = data[part]
    data[last] = value


def parse_overrides(pairs: Sequence[str]) -> dict[str, Any]:
    """Read `--set key=value` pairs; values are YAML.

    Raises:
        UsageError: A pair has no `=`, or its value is no YAML.
    """
    overrides = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise UsageError(
                f"--set takes key=value, not {pair!r}.", hint="As in --set tile.size=128"
            )
        try:
            overrides[key.strip()] = _numeric(yaml.safe_load(value))
        except (yaml.YAMLError, ValueError, TypeError, RecursionError):
            raise UsageError(f"--set {key}: {value!r} is no YAML value.") from None
    return overrides


def _numeric(value: Any) -> Any:  # noqa: ANN401 - raw YAML
    """YAML 1.1 reads `1e-4` as text; people mean a number."""
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value):
        return float(value)
    return value


# --------------------------------------------------------------------------- messages


def _explained(
    error: ValidationError,
    source: _Source,
    prefix: tuple[str | int, ...],
    overrides: Mapping[str, Any],
) -> UsageError:
    said: dict[str, list[str]] = {}
    for problem in _worth_telling(error.errors()):
        where, text = _located(problem)
        key, place = ".".join(map(str, where)), _place(source, prefix, where, overrides)
        # `--set tile.size: tile.size: …` would say it twice.
        said.setdefault(place if place == f"--set {key}: " else f"{place}{key}", []).append(text)
    # A value that may be of several types has a problem for each.
    lines = [f"{place.removesuffix(': ')}: {_or(texts)}" for place, texts in said.items()]
    return RecipeError(
        "\n".join(lines),
        hint="`eosfm recipes show mini` prints a complete recipe to compare with.",
    )


def _or(texts: Sequence[str]) -> str:
    parts = list(dict.fromkeys(texts))
    text = " or ".join([parts[0], *(part.removeprefix("should be ") for part in parts[1:])])
    return text if text.endswith("?") else f"{text}."


def _worth_telling(problems: Sequence[Any]) -> list[Any]:
    """Leave out what only follows from another problem: keys missed for a typo, items not read."""
    meant = {
        (*problem["loc"][:-1], nearest_word(str(problem["loc"][-1]), _keys_at(problem["loc"][:-1])))
        for problem in problems
        if problem["type"] == "extra_forbidden"
    }
    broken = [problem["loc"] for problem in problems]
    return [
        problem
        for problem in problems
        if not (problem["type"] == "missing" and problem["loc"] in meant)
        and not (
            problem["type"] == "too_short"
            and any(len(loc) > 1 and loc[:1] == problem["loc"] for loc in broken)
        )
    ]


def _located(problem: Mapping[str, Any]) -> tuple[tuple[str | int, ...], str]:
    """Where a problem is, as the user writes it, and what it is."""
    where, text = _user_path(problem["loc"]), _said(problem)
    if not where and (key := re.match(r"([a-z_.0-9]+): ", text)):
        parts = (int(part) if part.isdecimal() else part for part in key[1].split("."))
        return tuple(parts), text.removeprefix(key[0])
    return where, text


_SPLITS = ("list", "scene", "fraction", "folder", "column")
_UNION_TAG = re.compile(r"\[key\]|constrained-\w+|(literal|tuple|function-\w+)\[.*|str|int|float")


def _user_path(loc: Sequence[str | int]) -> tuple[str | int, ...]:
    """A problem's place without the parts that pydantic adds for unions."""
    kept = [
        part
        for before, part in zip((None, *loc), loc, strict=False)
        if before in {"images", "statistics", "views"}
        or (
            not (before == "split" and part in _SPLITS)
            and not (isinstance(part, str) and _UNION_TAG.fullmatch(part))
        )
    ]
    return tuple(kept)


def _place(
    source: _Source,
    prefix: tuple[str | int, ...],
    where: tuple[str | int, ...],
    overrides: Mapping[str, Any],
) -> str:
    key = ".".join(map(str, where))
    for given in overrides:
        if key == given or key.startswith(f"{given}.") or (key and given.startswith(f"{key}.")):
            return f"--set {given}: "
    in_variant = source.line([*prefix, *where]) if prefix else None
    top_of_variant = source.line(prefix) if prefix else None
    line = in_variant if in_variant not in (None, top_of_variant) else source.line(where)
    return f"{source.path}, line {line}: " if line else f"{source.path}: "


def _said(problem: Mapping[str, Any]) -> str:
    kind, context = problem["type"], problem.get("ctx") or {}
    if kind == "extra_forbidden":
        *parents, last = problem["loc"]
        return f"unknown key{_instead(str(last), _keys_at(parents))}"
    if kind in {"literal_error", "union_tag_invalid"}:
        expected = re.findall(r"'([^']*)'", context.get("expected") or context.get("expected_tags"))
        if len(expected) == 1:
            return f"should be {expected[0]!r}"
        given = str(context.get("tag", problem["input"]))
        return f"{given!r} is not known{_instead(given, expected)}"
    if kind in _WORDS_FOR:
        return _WORDS_FOR[kind].format(**context)
    return problem["msg"].removeprefix("Value error, ")


def _instead(given: str, valid: Sequence[str]) -> str:
    near = nearest_word(given, valid)
    return f", did you mean {near!r}?" if near else f"; known: {', '.join(valid)}"


_WORDS_FOR = {
    "missing": "this key is missing",
    "union_tag_not_found": "'by' is missing; one of list, scene, fraction, folder, column",
    "int_type": "should be a whole number",
    "int_parsing": "should be a whole number",
    "int_parsing_size": "should be a smaller number",
    "int_from_float": "should be a whole number",
    "float_type": "should be a number",
    "float_parsing": "should be a number",
    "finite_number": "should be a finite number",
    "bool_type": "should be true or false",
    "bool_parsing": "should be true or false",
    "string_type": "should be text (in quotes if it looks like a number or a date)",
    "tuple_type": "should be a list, as in [a, b]",
    "dict_type": "should be a mapping of keys to values",
    "model_type": "should be a mapping of keys to values",
    "model_attributes_type": "should be a mapping of keys to values",
    "invalid_key": "a key should be a word",
    "greater_than": "should be more than {gt:g}",
    "greater_than_equal": "should be at least {ge:.10g}",
    "less_than": "should be less than {lt:g}",
    "less_than_equal": "should be at most {le:.10g}",
    "multiple_of": "should be a multiple of {multiple_of}",
    "too_short": "should have at least {min_length}, has {actual_length}",
}
"""Pydantic's kinds of problems in a user's words."""


def _keys_at(parents: Sequence[str | int]) -> list[str]:
    """The keys that are valid at a place of the recipe."""
    if not parents:
        return [*Recipe.model_fields, "variants", "default_variant"]
    spots: dict[str, type[_Spec]] = {
        "dataset": DatasetSpec,
        "images": ImageSpec,
        "masks": MaskSpec,
        "labels": LabelsSpec,
        "classes": ClassSpec,
        "target": TargetSpec,
        "statistics": BandStatistics,
        "tile": TileSpec,
        "training": SpecialistSpec,
        "fit": FitSpec,
        "list": ListSplit,
        "scene": SceneSplit,
        "fraction": FractionSplit,
        "folder": FolderSplit,
        "column": ColumnSplit,
    }
    found = next((spots[part] for part in reversed(parents) if part in spots), Recipe)
    return list(found.model_fields)


# --------------------------------------------------------------------------- listing


@dataclass(frozen=True)
class RecipeSummary:
    """A line of `eosfm recipes list`."""

    name: str
    title: str
    task: str
    sensors: tuple[str, ...]
    bands: int
    classes: int
    licence: str | None


def list_recipes(*, task: str | None = None, sensor: str | None = None) -> list[RecipeSummary]:
    """Summaries of the shipped recipes, filtered by task and by a sensor's name or kind."""
    summaries = [_summary(load_recipe(name)) for name in recipe_names()]
    return [
        summary
        for summary in summaries
        if (task is None or summary.task == task)
        and (sensor is None or any(sensor.lower() in s for s in summary.sensors))
    ]


def _summary(recipe: Recipe) -> RecipeSummary:
    images = recipe.dataset.images
    used = [key for key, image in images.items() if set(image.bands) & set(recipe.bands)]
    kinds = {BANDS[band].kind for band in recipe.bands}
    sensors = dict.fromkeys([images[key].sensor or key for key in used] + sorted(kinds))
    return RecipeSummary(
        name=recipe.name,
        title=recipe.title,
        task=recipe.task,
        sensors=tuple(sensors),
        bands=len(recipe.bands),
        classes=len(recipe.classes),
        licence=recipe.dataset.licence,
    )
