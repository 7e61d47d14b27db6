"""Samples of a dataset on disk: where they are, how big, and what is known of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from eosfm_cli.data.splits import SplitName
from eosfm_cli.data.templates import Found, filled
from eosfm_cli.tiling import Tile

Areas = Mapping[SplitName, frozenset[int]]
"""The numbers of the areas of each split."""
Label = int | tuple[int, ...] | None


class Packed(NamedTuple):
    """Files in few words: there may be half a million samples, of a dozen files each."""

    runs: tuple[tuple[str, Mapping[str, str], tuple[str, ...]], ...]
    """A folder, the fields that its path and the files' names share, and their names."""
    counts: tuple[int, ...]
    """How many files belong together."""

    @property
    def groups(self) -> tuple[tuple[Path, ...], ...]:
        """The files' paths, in the groups in which they were packed."""
        paths = (
            Path(folder, filled(name, fields))
            for folder, fields, names in self.runs
            for name in names
        )
        return tuple([tuple(islice(paths, count)) for count in self.counts])

    @property
    def first(self) -> Path:
        """The first path."""
        folder, fields, names = self.runs[0]
        return Path(folder, filled(names[0], fields))


class Packing:
    """Packs the files of many samples, which then share what they have in common."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], tuple[Any, ...]] = {}

    def pack(self, groups: Sequence[Sequence[Found]]) -> Packed:
        """Pack groups of files; of each one of them at least."""
        runs: list[tuple[str, Mapping[str, str], list[str]]] = []
        for file in chain.from_iterable(groups):
            if not runs or runs[-1][0] != file.folder or runs[-1][1] is not file.fields:
                runs.append((file.folder, file.fields, []))
            runs[-1][2].append(file.name)
        shared = tuple([(*where, self._same(tuple(names))) for *where, names in runs])
        return Packed(shared, self._same(tuple(map(len, groups))))

    def _same(self, values: tuple[Any, ...]) -> tuple[Any, ...]:
        return self._known.setdefault(values, values)


@dataclass(frozen=True)
class Sample:
    """One place on the ground: its rasters and its label."""

    id: str
    packed: Packed
    """Of each image file its dates."""
    mask_file: Found | None
    areas_file: Found | None
    label: Label
    """Class index, or the indices of several classes; `None` where a mask says it."""
    height: int
    width: int
    """Of the finest grid among its files, or of its window."""
    scene: str = ""
    """What the split calls its scene, if it does."""
    window: Tile | None = None
    """The part of its files that it is, in pixels of the finest grid; all if not given."""

    @property
    def images(self) -> tuple[tuple[Path, ...], ...]:
        """Of each of the recipe's image files, in its order, the paths of its dates."""
        return self.packed.groups

    @property
    def mask(self) -> Path | None:
        """The raster of its labels."""
        return self.mask_file.path if self.mask_file else None

    @property
    def areas(self) -> Path | None:
        """The raster of the numbers of its areas."""
        return self.areas_file.path if self.areas_file else None

    @property
    def place(self) -> Path:
        """The file that names the sample to users."""
        return self.packed.first


@dataclass(frozen=True)
class FolderSource:
    """A dataset on disk, checked and split."""

    root: Path
    samples: Mapping[SplitName, tuple[Sample, ...]]
    areas: Areas = field(default_factory=dict)
    """Of each split, the numbers of the areas whose labels belong to it; empty where whole samples
    are divided."""
