"""Tiles without any label, left out: where labels are few, most tiles are."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path

from eosfm_cli.data.findings import WORTH_KEEPING, find_in_samples
from eosfm_cli.data.folder import Sample
from eosfm_cli.data.label_reader import LabelReader
from eosfm_cli.data.splits import SplitName
from eosfm_cli.data.tiles import TileDataset
from eosfm_cli.errors import DataError
from eosfm_cli.progress import Progress
from eosfm_cli.recipe import Recipe


def keep_labelled(
    tiles: TileDataset,
    recipe: Recipe,
    split: SplitName,
    areas: Collection[int] | None,
    root: Path,
    progress: Progress,
    *,
    keep_from: int = WORTH_KEEPING,
) -> None:
    """Keep the tiles of a split that have labels.

    Args:
        tiles: All of the split.
        recipe: What the masks mean.
        split: Its name, for the user.
        areas: Its areas, where splits are areas.
        root: The dataset's folder.
        progress: Told how many tiles are left out.
        keep_from: From so many samples on, what was found is kept for the next time.

    Raises:
        DataError: A file is damaged or has unknown labels, or no tile has a label.
    """
    known = {_name(sample): sample for sample in tiles.samples}
    found = find_in_samples(
        {name: [path for path in (s.mask, s.areas) if path] for name, s in known.items()},
        lambda: partial(_labelled, known, tiles, LabelReader(recipe, areas)),
        setting=(
            "labelled",
            str(root.absolute()),
            recipe.dataset.masks,
            recipe.class_values,
            recipe.tile,
            split,
            None if areas is None else sorted(areas),
        ),
        title=f"Looking for labels in the tiles of {split}",
        progress=progress,
        keep_from=keep_from,
    )
    kept, start = [], 0
    for sample in tiles.samples:  # of which two may be the same window
        kept += [start + number for number in found[_name(sample)]]
        start += len(tiles.grid(sample))
    if not kept:
        raise DataError(
            f"No tile of {split} has a label.",
            hint="Check dataset.masks and the values of the classes in the recipe, and the masks.",
        )
    if len(kept) < start:
        progress.say(
            f"{len(kept):,} of {start:,} tiles of {split} have labels; the rest is left out"
        )
    tiles.keep(kept)


def _name(sample: Sample) -> str:
    return f"{sample.mask} {sample.window or ''}"


def _labelled(
    samples: Mapping[str, Sample], tiles: TileDataset, reader: LabelReader, name: str
) -> list[int]:
    """Which tiles of a sample have labels."""
    sample = samples[name]
    grid = enumerate(tiles.grid(sample))
    return [number for number, (tile, done) in grid if reader.finds(sample, tile, done)]
