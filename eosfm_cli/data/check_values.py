"""What pixels and labels of a dataset look like: of some samples, or of all."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eosfm_cli.data.band_reader import BandReader
from eosfm_cli.data.folder import Sample
from eosfm_cli.data.label_reader import NO_VALUE, LabelReader
from eosfm_cli.data.labels import UNKNOWN, written
from eosfm_cli.data.problems import Problem
from eosfm_cli.data.splits import SPLIT_NAMES, SplitName
from eosfm_cli.data.statistics import Moments
from eosfm_cli.data.windows import windows
from eosfm_cli.errors import DataError
from eosfm_cli.progress import Progress
from eosfm_cli.recipe import BandStatistics, Recipe
from eosfm_cli.tiling import Tile

MOST_SAMPLES = 20
"""Of each split so many samples are read, unless all are."""
MOST_WINDOWS = 8
"""Of each of them so many windows."""
MOST_UNKNOWN = 256
"""So many labels that no class lists are told apart: where there are more, it is no mask."""

_FAR = 3
"""Standard deviations of the recipe between its mean and what is found: no longer chance."""
_WIDE = 10
"""How many times the spread may be what the recipe says, or a part of it."""


@dataclass(frozen=True)
class BandValues:
    """The values of one band, nodata left out; `None` where there is nothing else."""

    band: str
    date: int | None
    """Of change detection: 1 before, 2 after."""
    min: float | None
    max: float | None
    mean: float | None
    std: float | None
    nodata: float
    """Share of the pixels that hold no value."""


@dataclass(frozen=True)
class ClassShare:
    """How often one class occurs."""

    name: str
    count: int
    """Pixels, or samples where the task says one thing of a sample."""
    share: float
    """Of the pixels with a label, or of the samples."""


@dataclass(frozen=True)
class UnknownLabel:
    """A value or colour of the masks that no class of the recipe lists."""

    label: str
    pixels: int
    files: tuple[str, ...]


@dataclass(frozen=True)
class TargetValues:
    """The values of a regression's target, in its unit."""

    min: float | None
    max: float | None
    mean: float | None
    nodata: float


@dataclass(frozen=True)
class Values:
    """What was seen of a dataset's values."""

    samples: Mapping[SplitName, int]
    """How many of each split were read."""
    windows: int
    """How many windows were read of them."""
    of_windows: int
    """How many they have."""
    bands: tuple[BandValues, ...]
    classes: tuple[ClassShare, ...]
    unlabelled: float | None
    """Share of the mask's pixels without label; `None` where there is no mask."""
    unknown: tuple[UnknownLabel, ...]
    """The first `MOST_UNKNOWN` that were met, the most frequent first."""
    target: TargetValues | None
    problems: tuple[Problem, ...]
    """Files that cannot be read."""


def look_at_values(
    samples: Mapping[SplitName, Sequence[Sample]],
    recipe: Recipe,
    root: Path,
    progress: Progress,
    *,
    everything: bool,
) -> Values:
    """Read pixels as the loader does, and count what is there.

    Args:
        samples: Complete samples of each split.
        recipe: With or without statistics.
        root: The dataset's folder; files are named relative to it.
        progress: Told how far it is.
        everything: Read every pixel instead of a seeded choice of samples and windows.
    """
    chosen = {name: _chosen(samples[name], everything=everything) for name in SPLIT_NAMES}
    look = _Look(recipe, root)
    # With a split by area the same sample is in all splits.
    once = {(one.place, one.id): one for name in SPLIT_NAMES for one in chosen[name]}
    with progress.step("Looking at values", len(once)) as step:
        for sample in once.values():
            look.at(sample, _tiles(sample, everything=everything))
            step.advance()
    return Values(
        samples={name: len(chosen[name]) for name in SPLIT_NAMES},
        windows=look.windows,
        of_windows=sum(len(windows(one.height, one.width)) for one in once.values()),
        bands=tuple(look.band_values()),
        classes=tuple(look.class_shares(samples)),
        unlabelled=look.unlabelled,
        unknown=tuple(look.unknown_labels()),
        target=look.target_values(),
        problems=look.problems,
    )


def _chosen(samples: Sequence[Sample], *, everything: bool) -> Sequence[Sample]:
    if everything or len(samples) <= MOST_SAMPLES:
        return samples
    return random.Random(0).sample(list(samples), MOST_SAMPLES)


def _tiles(sample: Sample, *, everything: bool) -> list[Tile]:
    tiles = windows(sample.height, sample.width)
    if everything or len(tiles) <= MOST_WINDOWS:
        return tiles
    return random.Random(sample.id).sample(tiles, MOST_WINDOWS)


class _Tally:
    """Least, largest, mean and spread of one thing, and how much of it there is."""

    def __init__(self, count: int) -> None:
        zeros = np.zeros(count)
        self._moments = Moments(zeros, zeros, zeros)
        self._low, self._high = np.full(count, np.inf), np.full(count, -np.inf)
        self._pixels = 0

    def add(self, values: np.ndarray, valid: np.ndarray) -> None:
        """Count values `(c, h, w)` where they are valid."""
        self._moments += Moments.of(values, valid)
        self._pixels += valid[0].size
        low = np.where(valid, values, np.inf).min(axis=(1, 2))
        high = np.where(valid, values, -np.inf).max(axis=(1, 2))
        self._low, self._high = np.minimum(self._low, low), np.maximum(self._high, high)

    def __getitem__(self, place: int) -> tuple[float | None, float | None, float | None, float]:
        """Least, largest and mean value and standard deviation, `None` where there is none."""
        count = self._moments.count[place]
        if not count:
            return None, None, None, 0.0
        std = float(np.sqrt(self._moments.squares[place] / count))
        return (*map(float, (self._low[place], self._high[place], self._moments.mean[place])), std)

    def nodata(self, place: int) -> float:
        """Share of the pixels without a value."""
        return 1 - float(self._moments.count[place]) / self._pixels if self._pixels else 0.0


class _Look:
    """What was seen so far."""

    def __init__(self, recipe: Recipe, root: Path) -> None:
        self._recipe, self._root = recipe, root
        self._readers = [BandReader(recipe, date) for date in recipe.dates]
        self._bands = [_Tally(len(recipe.bands)) for _ in recipe.dates]
        self._labels = LabelReader(recipe) if recipe.has_masks else None
        self._target = _Tally(1)
        self._classes: Counter[int] = Counter()
        self._unknown: dict[int, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        self._unread: dict[str, Problem] = {}
        self.windows = 0

    def at(self, sample: Sample, tiles: Sequence[Tile]) -> None:
        """Read a sample; of one that cannot be read, it is noted why."""
        self.windows += len(tiles)
        for read, path in (
            (self._read_images, sample.place),
            (self._read_labels, sample.mask or sample.place),
        ):
            try:
                for tile in tiles:
                    read(sample, tile)
            except DataError as error:
                problem = Problem("damaged", error.message, (self._named(path),), error.hint)
                self._unread.setdefault(problem.text, problem)

    def _read_images(self, sample: Sample, tile: Tile) -> None:
        for reader, tally in zip(self._readers, self._bands, strict=True):
            tally.add(*reader.read(sample, tile))

    def _read_labels(self, sample: Sample, tile: Tile) -> None:
        if self._labels is None:
            return
        if self._recipe.task == "regression":
            values = self._labels.read(sample, tile)[None]
            self._target.add(values, values != NO_VALUE)
            return
        labels, raw = self._labels.look(sample, tile)
        self._classes.update(_counts(labels))
        for label, pixels in _counts(raw[labels == UNKNOWN]).items():
            if label in self._unknown or len(self._unknown) < MOST_UNKNOWN:
                self._unknown[label][self._named(sample.mask)] += pixels

    def _named(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix()

    # ----------------------------------------------------------------------- what came of it

    def band_values(self) -> Iterator[BandValues]:
        """The values of each band, of each date."""
        for date, tally in zip(self._recipe.dates, self._bands, strict=True):
            for place, band in enumerate(self._recipe.bands):
                yield BandValues(band, date, *tally[place], nodata=tally.nodata(place))

    def target_values(self) -> TargetValues | None:
        """The values of the target, where there is one."""
        if self._recipe.task != "regression":
            return None
        return TargetValues(*self._target[0][:3], nodata=self._target.nodata(0))

    def class_shares(self, samples: Mapping[SplitName, Sequence[Sample]]) -> Iterator[ClassShare]:
        """Each class's share of the pixels that were read, or of all samples."""
        if self._recipe.has_masks:
            counts = self._classes
            total = sum(counts[index] for index in range(len(self._recipe.classes)))
        else:
            labels = [sample.label for each in samples.values() for sample in each]
            counts = Counter(index for label in labels for index in _indices(label))
            total = len(labels)
        for index, name in enumerate(self._recipe.class_names):
            yield ClassShare(name, counts[index], counts[index] / total if total else 0.0)

    @property
    def unlabelled(self) -> float | None:
        """Share of the masks' pixels without label."""
        total = self._classes.total()
        return self._classes[self._recipe.ignore_index] / total if total else None

    def unknown_labels(self) -> Iterator[UnknownLabel]:
        """Labels of no class, the most frequent first."""
        for raw, files in sorted(self._unknown.items(), key=lambda item: -sum(item[1].values())):
            label = written(raw, as_colour=self._recipe.by_colour)
            yield UnknownLabel(label, sum(files.values()), tuple(sorted(files)))

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Files that could not be read, and why."""
        return tuple(self._unread.values())


def _counts(values: np.ndarray) -> dict[int, int]:
    found, counts = np.unique(values, return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))


def _indices(label: int | tuple[int, ...] | None) -> tuple[int, ...]:
    """The classes that a sample shows."""
    if label is None:
        return ()
    return label if isinstance(label, tuple) else (label,)


# --------------------------------------------------------------------------- against the recipe


def far_off(values: Sequence[BandValues], statistics: Mapping[str, BandStatistics]) -> list[str]:
    """Say of which bands the values are no longer those of the recipe's statistics."""
    lines = []
    for found in values:
        told = statistics.get(found.band)
        if told is None or found.mean is None or found.std is None:
            continue
        apart = abs(found.mean - told.mean) > _FAR * told.std
        wider = found.std > 0 and not 1 / _WIDE < found.std / told.std < _WIDE
        if apart or wider:
            lines.append(
                f"{found.band}: mean {found.mean:.4g} ± {found.std:.4g}, "
                f"the recipe says {told.mean:.4g} ± {told.std:.4g}"
            )
    return lines
