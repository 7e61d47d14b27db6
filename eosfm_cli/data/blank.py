"""Samples that show next to nothing, left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from eosfm_cli.data.band_reader import BandReader
from eosfm_cli.data.findings import WORTH_KEEPING, find_in_samples
from eosfm_cli.data.folder import Sample
from eosfm_cli.data.splits import SPLIT_NAMES, SplitName
from eosfm_cli.data.windows import windows
from eosfm_cli.errors import DataError
from eosfm_cli.progress import Progress
from eosfm_cli.recipe import BlankSpec, Recipe

Samples = Mapping[SplitName, tuple[Sample, ...]]


def without_blank(
    samples: Samples,
    recipe: Recipe,
    root: Path,
    progress: Progress,
    *,
    keep_from: int = WORTH_KEEPING,
) -> Samples:
    """Leave out the samples of which more than a share is blank, as `dataset.blank` says.

    Args:
        samples: Those of each split.
        recipe: What is blank, and which bands count.
        root: The dataset's folder.
        progress: Told how many are left out.
        keep_from: From so many samples on, what was found is kept for the next time.

    Raises:
        DataError: A file is damaged, or a split has nothing left.
    """
    dataset = recipe.dataset
    if dataset.blank is None:
        return samples
    known = {_name(s): s for name in SPLIT_NAMES for s in samples[name]}
    shares = find_in_samples(
        {name: [path for dates in s.images for path in dates] for name, s in known.items()},
        lambda: partial(_share, known, _readers(recipe), dataset.blank),
        setting=(
            "blank",
            str(root.absolute()),
            recipe.bands,
            dataset.blank.values,
            dataset.images,
            dataset.series,
        ),
        title="Looking for blank samples",
        progress=progress,
        keep_from=keep_from,
    )
    left = {
        name: tuple(s for s in samples[name] if shares[_name(s)] <= dataset.blank.share)
        for name in SPLIT_NAMES
    }
    _tell(samples, left, dataset.blank, progress)
    return left


def _name(sample: Sample) -> str:
    return f"{sample.place} {sample.window or ''}"


def _readers(recipe: Recipe) -> list[BandReader]:
    return [BandReader(recipe, date) for date in recipe.dates]


def _share(
    samples: Mapping[str, Sample], readers: Sequence[BandReader], blank: BlankSpec, name: str
) -> float:
    """The share of blank pixels in that band of a sample which has most; no data is blank too."""
    sample, most = samples[name], 0
    for reader in readers:
        counts = np.zeros(len(reader.bands), int)
        for tile in windows(sample.height, sample.width):
            values, valid = reader.read(sample, tile)
            counts += (np.isin(values, blank.values) | ~valid).sum(axis=(1, 2))
        most = max(most, int(counts.max()))
    return most / (sample.height * sample.width)


def _tell(samples: Samples, left: Samples, blank: BlankSpec, progress: Progress) -> None:
    written = " or ".join(f"{value:g}" for value in blank.values)
    words = f"more than {100 * blank.share:g} % of a band is {written}"
    for name in SPLIT_NAMES:
        if samples[name] and not left[name]:
            raise DataError(
                f"All {len(samples[name]):,} samples of {name} are blank: {words}.",
                hint="Raise dataset.blank.share, or leave dataset.blank out.",
            )
    gone = {name: len(samples[name]) - len(left[name]) for name in SPLIT_NAMES}
    if any(gone.values()):
        parts = ", ".join(f"{name} {count:,}" for name, count in gone.items())
        total = sum(len(samples[name]) for name in SPLIT_NAMES)
        progress.say(
            f"{sum(gone.values()):,} of {total:,} samples are blank and left out ({parts}): {words}"
        )
