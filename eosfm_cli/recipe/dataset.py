"""What a dataset is: its files, splits and labels."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from eosfm_cli.bands import SENSORS, nearest_word
from eosfm_cli.recipe.values import (
    Bands,
    Fraction,
    InsidePath,
    InsidePaths,
    ListOrShare,
    Paths,
    Share,
    Spec,
    Template,
    TextList,
    TextOrShare,
    common_names,
    fill_template,
    template_fields,
)

# --------------------------------------------------------------------------- files


class FileSpec(Spec):
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
        """The fields of the paths, in order; not `{band}`, which is filled in."""
        return tuple(field for field in template_fields(self.paths[0]) if field != "band")


class ImageSpec(FileSpec):
    """One raster per sample, or one for each of its bands: where it is and what its bands are."""

    bands: Bands
    """Every band of the file, in file order. Where `{band}` stands in the path, each band has a
    file of its own."""
    sensor: str | None = None
    """Whose own band names (`B4`) the recipe uses; Sentinel-2's if not given."""
    spellings: Annotated[tuple[TextList, ...], Field(min_length=1)] | None = None
    """What `{band}` is in the names of files, one for each band, a list where it varies; as
    `bands` writes them if not given."""
    more_bands: bool = False
    """Whether files may have further bands, behind those named; these are left out."""
    nodata: tuple[float, ...] = ()
    """Values that mean no data, besides what the files declare."""
    resampling: Literal["nearest", "bilinear"] | None = None
    """How files with larger pixels than others of a sample are brought to the finest grid; all
    files of a sample are of one size if not given."""
    date: Literal[1, 2] | None = None
    """Of change detection: whether it shows the place before (1) or after (2)."""

    @model_validator(mode="before")
    @classmethod
    def _common_names(cls, raw: Any) -> Any:  # noqa: ANN401 - raw YAML
        if not isinstance(raw, dict):
            return raw
        sensor, bands = raw.get("sensor"), raw.get("bands")
        if sensor is not None and str(sensor) not in SENSORS:
            near = nearest_word(str(sensor), SENSORS)
            raise ValueError(
                f"unknown sensor {sensor!r}"
                + (f", did you mean {near!r}?" if near else f"; known: {', '.join(SENSORS)}")
            )
        if not isinstance(bands, list | tuple):
            return raw
        written = {}
        if raw.get("spellings") is None and "{band}" in str(raw.get("path")):
            written["spellings"] = tuple(str(band) for band in bands)
        return {**raw, **written, "bands": common_names(bands, sensor)}

    @field_validator("spellings", mode="before")
    @classmethod
    def _as_text(cls, raw: Any) -> Any:  # noqa: ANN401 - raw YAML
        """Numbers, as wavelengths are, are text in the names of files."""
        if not isinstance(raw, list | tuple):
            return raw
        return tuple(
            tuple(map(str, each)) if isinstance(each, list | tuple) else str(each) for each in raw
        )

    @model_validator(mode="after")
    def _one_spelling_per_band(self) -> ImageSpec:
        by_band = ["{band}" in path for path in self.paths]
        if self.spellings is None:
            return self
        if not all(by_band):
            raise ValueError("spellings are what {band} stands for, which is not in every path")
        if len(self.spellings) != len(self.bands):
            raise ValueError(
                f"there are {len(self.bands)} bands and {len(self.spellings)} spellings; each "
                "band needs one"
            )
        return self

    def files(self, name: str) -> tuple[ImageFile, ...]:
        """The files that a sample has of these images: one, or one for each band.

        Args:
            name: What the recipe calls the images.
        """
        if self.spellings is None:
            return (ImageFile(name, self, self.paths, self.bands),)
        return tuple(
            ImageFile(f"{name}.{band}", self, tuple(_spelt(self.paths, spelling)), (band,))
            for band, spelling in zip(self.bands, self.spellings, strict=True)
        )


def _spelt(paths: tuple[str, ...], spelling: str | tuple[str, ...]) -> Iterator[str]:
    ways = (spelling,) if isinstance(spelling, str) else spelling
    for path, way in product(paths, ways):
        yield fill_template(path, {"band": way})


@dataclass(frozen=True)
class ImageFile:
    """A raster that each sample has."""

    name: str
    """What it is called: as its images, and after a dot its band where that has its own file."""
    image: ImageSpec
    paths: tuple[str, ...]
    """Where it is: the first that exists."""
    bands: tuple[str, ...]
    """Its bands, in file order."""

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of the paths, in order."""
        return self.image.fields


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


class SeriesSpec(Spec):
    """Images of several dates: one file per date, or arrays `(t, c, h, w)`."""

    take: Literal["median", "mean", "min", "max"] = "median"
    """What is made of the valid values of each pixel over the dates."""
    dates: tuple[str, ...] = ()
    """What `{date}` is for those to take; all that are there if not given."""
    absent: Literal["error", "skip"] = "error"
    """What to do about samples that lack one of `dates`."""

    @field_validator("dates", mode="before")
    @classmethod
    def _as_text(cls, raw: Any) -> Any:  # noqa: ANN401 - raw YAML
        return tuple(map(str, raw)) if isinstance(raw, list | tuple) else raw


class BlankSpec(Spec):
    """Samples that show next to nothing."""

    values: Annotated[tuple[float, ...], Field(min_length=1)]
    """What is written where there is nothing to see."""
    share: float = Field(gt=0, lt=1)
    """Samples with more than this share of such pixels in one of the bands used are left out."""


# --------------------------------------------------------------------------- splits


class _WithShare(Spec):
    """A split whose validation samples may be drawn from the training samples."""

    scene: Template | None = None
    """What a scene is, with the paths' fields, where `val` is a share: scenes stay whole."""
    pattern: str | None = None
    """The same as a regular expression: its first group, found in the id. Each sample is a scene
    if neither is given."""
    seed: int = 0
    """Of the draw, where `val` is a share."""

    @model_validator(mode="after")
    def _scenes_are_for_a_share(self) -> _WithShare:
        for key in ("scene", "pattern"):
            if getattr(self, key) is not None and not isinstance(self.val, float):
                raise ValueError(f"{key} says what a share of scenes is drawn from; val is a list")
        if self.scene is not None and self.pattern is not None:
            raise ValueError("scene and pattern both say what a scene is; take one")
        if self.pattern is not None:
            check_pattern(self.pattern)
        return self


class ListSplit(_WithShare):
    """Official lists: one sample per line in a text file, or the samples themselves."""

    by: Literal["list"]
    train: TextList
    val: ListOrShare
    """A list, or a share of the training list's scenes."""
    test: TextList
    entry: Template | None = None
    """How the lists write a sample, with the paths' fields; its id, file name or path if not
    given."""
    absent: Literal["error", "skip"] = "error"
    """What to do about listed samples whose files are not all on disk."""


class FolderSplit(_WithShare):
    """Splits are folders: `{split}` stands in the paths."""

    by: Literal["folder"]
    train: str = "train"
    val: TextOrShare = "val"
    """A folder, or a share of the training folder's scenes."""
    test: str = "test"
    absent: Literal["error", "skip"] = "error"
    """What to do about samples whose files are not all on disk."""


class ColumnSplit(_WithShare):
    """A column of the table `dataset.labels` says where a sample belongs."""

    by: Literal["column"]
    column: str
    train: TextList = "train"
    """What stands in the column for training; a list where it may be one of several."""
    val: ListOrShare = "val"
    """The same for validation, or a share of the training samples' scenes."""
    test: TextList = "test"
    absent: Literal["error", "skip"] = "error"
    """What to do about rows whose files are not all on disk."""

    @field_validator("train", "test", mode="before")
    @classmethod
    def _as_text(cls, raw: Any) -> Any:  # noqa: ANN401 - raw YAML
        """Numbers, as folds are, are compared as the table writes them."""
        return _numbers_as_text(raw)

    @field_validator("val", mode="before")
    @classmethod
    def _as_text_or_share(cls, raw: Any) -> Any:  # noqa: ANN401 - raw YAML
        return raw if isinstance(raw, float) else _numbers_as_text(raw)

    @property
    def values(self) -> dict[str, tuple[str, ...]]:
        """What stands in the column for each split; nothing for one that is drawn."""
        given = {name: getattr(self, name) for name in ("train", "val", "test")}
        return {
            name: () if isinstance(one, float) else (one,) if isinstance(one, str) else one
            for name, one in given.items()
        }

    @model_validator(mode="after")
    def _tells_them_apart(self) -> ColumnSplit:
        values = [value for part in self.values.values() for value in part]
        if len(set(values)) < len(values):
            raise ValueError("train, val and test are different values of the column")
        return self


def _numbers_as_text(raw: Any) -> Any:  # noqa: ANN401 - raw YAML
    if isinstance(raw, list | tuple):
        return tuple(_numbers_as_text(each) for each in raw)
    is_number = isinstance(raw, int) and not isinstance(raw, bool)
    return str(raw) if is_number else raw


class SceneSplit(Spec):
    """Whole scenes go to one split, so that neighbours never stand on both sides."""

    by: Literal["scene"]
    pattern: str = r"^(.*?)_"
    """A regular expression; its first group, found in the id, is the scene."""
    val: Fraction | tuple[str, ...] = 0.15
    """A share of the scenes, or their names."""
    test: Fraction | tuple[str, ...] = 0.15
    seed: int = 0
    absent: Literal["error", "skip"] = "error"
    """What to do about samples whose files are not all on disk."""

    @model_validator(mode="after")
    def _pattern_has_a_group(self) -> SceneSplit:
        check_pattern(self.pattern)
        _leave_some_for_training(self)
        return self


def check_pattern(pattern: str) -> None:
    """Refuse what cannot find a scene in an id.

    Raises:
        ValueError: It is no regular expression, or has no group.
    """
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise ValueError(f"pattern is no regular expression: {error}") from None
    if groups < 1:
        raise ValueError("pattern needs a group in parentheses that holds the scene's name")


def _leave_some_for_training(split: SceneSplit | FractionSplit | AreaSplit) -> None:
    shares = [share for share in (split.val, split.test) if isinstance(share, float)]
    if sum(shares) >= 1:
        raise ValueError("val and test together leave nothing to train on")


class FractionSplit(Spec):
    """A seeded draw of samples. Use only where samples are independent of each other."""

    by: Literal["fraction"]
    val: Fraction = 0.15
    test: Fraction = 0.15
    seed: int = 0
    absent: Literal["error", "skip"] = "error"
    """What to do about samples whose files are not all on disk."""

    @model_validator(mode="after")
    def _trains_on_something(self) -> FractionSplit:
        _leave_some_for_training(self)
        return self


class AreaSplit(FileSpec):
    """Whole areas, such as fields, go to one split: every sample is in all, its labels in one."""

    by: Literal["area"]
    val: Share = 0.15
    """A share of the areas."""
    test: Share = 0.15
    seed: int = 0

    @model_validator(mode="after")
    def _trains_on_something(self) -> AreaSplit:
        _leave_some_for_training(self)
        return self


Split = Annotated[
    ListSplit | SceneSplit | FractionSplit | FolderSplit | ColumnSplit | AreaSplit,
    Field(discriminator="by"),
]
SPLITS: dict[str, type[Spec]] = {
    "list": ListSplit,
    "scene": SceneSplit,
    "fraction": FractionSplit,
    "folder": FolderSplit,
    "column": ColumnSplit,
    "area": AreaSplit,
}
"""What may stand in `dataset.split.by` -> the keys that go with it."""


# --------------------------------------------------------------------------- labels


class LabelsSpec(Spec):
    """A table with a row per sample: what it shows, which split it belongs to, what else to know.

    CSV, Parquet, or GeoJSON, whose features' properties are the rows.
    """

    path: InsidePaths
    """Relative to the root; several tables of the same columns are read one after the other,
    those that are there."""
    id: str
    """The column that says which sample a row is about: its id, file name or path."""
    column: str | None = None
    """The column that holds the names of a sample's classes; if not given, each class has a column
    of its own, of zeros and ones."""
    separator: str = Field(";", min_length=1)
    """What stands between names in `column`; lists of names need none."""
    fields: tuple[str, ...] = ()
    """Columns that may stand in paths and in `dataset.split.scene` as `{column}`."""
    windows: bool = False
    """Whether each row is a part of its image, where the row's feature (GeoJSON) lies; an image may
    have several rows. `id` is then the column that names the image."""
    unlisted: Literal["error", "skip"] = "error"
    """What to do about samples that have no row."""

    @property
    def paths(self) -> tuple[str, ...]:
        """The tables, in order."""
        return (self.path,) if isinstance(self.path, str) else self.path


class DownloadSpec(Spec):
    """A file to fetch: `eosfm data download`."""

    url: TextList
    """Where it is; the parts in order where it is cut into several."""
    md5: TextList | None = None
    """Its checksum, or those of its parts."""
    sha256: TextList | None = None
    size: int | None = Field(None, ge=1)
    """Bytes, of all parts together."""
    to: InsidePath | None = None
    """Where it goes below the dataset's root; its name in the address if not given."""
    into: InsidePath = "."
    """Of an archive: the folder below the root that it is unpacked into."""

    @property
    def urls(self) -> tuple[str, ...]:
        """The parts, in order; one where it is whole."""
        return (self.url,) if isinstance(self.url, str) else self.url

    @model_validator(mode="after")
    def _sums_for_all_parts(self) -> DownloadSpec:
        for key in ("md5", "sha256"):
            given = getattr(self, key)
            count = 1 if isinstance(given, str) else len(given or self.urls)
            if count != len(self.urls):
                raise ValueError(f"{key} has {count} values for {len(self.urls)} parts")
        return self


# --------------------------------------------------------------------------- the whole


class DatasetSpec(Spec):
    """What the dataset is, where its files are, and who may use it."""

    loader: Literal["folder", "mini"] = "folder"
    """`folder` reads any layout that paths can describe; `mini` makes its data on first use."""
    root: str
    """Folder of the dataset; relative to `--data-root`."""
    fields: dict[str, str] = Field(default_factory=dict)
    """Field of the paths -> a regular expression of what it may stand for; any text within one
    name, as short as can be, if not given."""
    shape: (
        Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=2, max_length=2)] | None
    ) = None
    """Rows and columns of every sample, where all are alike: files are then opened when they are
    read, and not all of them at the start."""
    images: dict[str, ImageSpec] = Field(min_length=1)
    """Sensor (any name) -> its rasters; several are stacked, in this order."""
    series: SeriesSpec | None = None
    """What is made of images of several dates."""
    masks: MaskSpec | None = None
    labels: LabelsSpec | None = None
    boxes: FileSpec | None = None
    """Objects of each sample as Pascal VOC writes them (XML); it is of the classes of those."""
    others: tuple[Template, ...] = ()
    """Paths of files that lie among the samples' and belong to the dataset, but are not read: no
    one is warned of them."""
    blank: BlankSpec | None = None
    """Which samples are left out because they show nothing; none if not given."""
    split: Split
    homepage: str | None = None
    licence: str | None = None
    size: str | None = None
    download: str | None = None
    """How to get the data, in a sentence."""
    files: tuple[DownloadSpec, ...] = ()
    """What `eosfm data download` fetches; where there is none, it says what `download` says."""

    @field_validator("fields")
    @classmethod
    def _are_expressions(cls, fields: dict[str, str]) -> dict[str, str]:
        for name, pattern in fields.items():
            try:
                groups = re.compile(pattern).groups
            except re.error as error:
                raise ValueError(f"{name} is no regular expression: {error}") from None
            if groups:
                raise ValueError(f"{name}: write groups as (?:…), not (…)")
        return fields
