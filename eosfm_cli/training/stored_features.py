"""Tiles whose images were encoded before: batches of features in the images' place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from eosfm_cli.data.scarcity import ChosenTiles
from eosfm_cli.data.tiles import TileDataset, TileKey
from eosfm_cli.ensemble.encoder import Features
from eosfm_cli.errors import DataError
from eosfm_cli.training.pooled_features import two_pixels

_LABEL_BYTES = 256 * 2**20
"""What is kept of labels, per split and process."""

Level = tuple[int, int, int]
"""Channels, height and width."""


class Layout:
    """How a view's features of a tile are written as a row of numbers.

    A row has date after date, of each the levels from fine to coarse, each `(h, w, c)`. Channels
    are standardised first, so that rounding is relative to how far a channel varies, whatever its
    mean.

    Args:
        levels: Of one date.
        dates: How many there are of each tile.
        mean: Of every channel of every level, one after the other.
        std: The same.
        pixels: Where two pixels stand for all of a level, how many there were.
    """

    def __init__(
        self,
        levels: Sequence[Level],
        dates: int,
        mean: np.ndarray,
        std: np.ndarray,
        pixels: Sequence[int] | None = None,
    ) -> None:
        self.levels, self.dates = tuple(levels), dates
        self.pixels = None if pixels is None else tuple(pixels)
        self.mean, self.std = np.asarray(mean, np.float32), np.asarray(std, np.float32)

    @classmethod
    def of(cls, levels: Sequence[Tensor], dates: int, *, pooled: bool = False) -> Layout:
        """The layout of such features, with the statistics that they have.

        Args:
            levels: `(b·dates, c, h, w)`.
            dates: Of each tile.
            pooled: Keep two pixels of each level that stand for all.
        """
        counts = [level.shape[2] * level.shape[3] for level in levels] if pooled else None
        levels = [two_pixels(level) for level in levels] if pooled else levels
        pixels = [level.detach().double().transpose(0, 1).flatten(1) for level in levels]
        mean = torch.cat([values.mean(dim=1) for values in pixels]).float()
        std = torch.cat([values.std(dim=1, correction=0) for values in pixels]).float()
        std = torch.where((std > 0) & std.isfinite(), std, 1.0)
        shapes = [(level.shape[1], level.shape[2], level.shape[3]) for level in levels]
        return cls(shapes, dates, mean.cpu().numpy(), std.cpu().numpy(), counts)

    @property
    def values(self) -> int:
        """Numbers of a row."""
        return self.dates * sum(c * h * w for c, h, w in self.levels)

    def pack(self, levels: Sequence[Tensor]) -> Tensor:
        """Write features `(b·dates, c, h, w)` as rows `(b, values)`, in half precision."""
        means, stds = (self._per_level(v, levels[0].device) for v in (self.mean, self.std))
        levels = levels if self.pixels is None else [two_pixels(level) for level in levels]
        rows = [
            ((level.float() - mean) / std).half().permute(0, 2, 3, 1).flatten(1)
            for level, mean, std in zip(levels, means, stds, strict=True)
        ]
        return torch.cat(rows, dim=1).view(-1, self.values)

    def unpack(self, rows: Tensor) -> list[Tensor]:
        """Read rows back as float32 features, in the memory format that convolutions like."""
        rows = rows.view(len(rows) * self.dates, -1)
        if self.pixels is not None:
            return self._split(self._few(rows))
        means, stds = (self._per_level(v, rows.device) for v in (self.mean, self.std))
        levels = zip(self._split(rows), means, stds, strict=True)
        return [torch.addcmul(mean, level.float(), std) for level, mean, std in levels]

    def _few(self, rows: Tensor) -> Tensor:
        """Undo standardising in one go: rows are so short that calls take most of the time."""
        mean, std = (torch.from_numpy(v).to(rows.device) for v in self._of_numbers)
        return torch.addcmul(mean, rows.float(), std)

    @cached_property
    def _of_numbers(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of every number of a row."""
        ends = np.cumsum([c for c, _, _ in self.levels])[:-1]
        return tuple(
            np.concatenate(
                [
                    np.tile(part, h * w)
                    for part, (_, h, w) in zip(np.split(v, ends), self.levels, strict=True)
                ]
            )
            for v in (self.mean, self.std)
        )

    def _split(self, rows: Tensor) -> list[Tensor]:
        parts = rows.split([c * h * w for c, h, w in self.levels], dim=1)
        return [
            part.unflatten(1, (h, w, c)).permute(0, 3, 1, 2)
            for part, (c, h, w) in zip(parts, self.levels, strict=True)
        ]

    def _per_level(self, values: np.ndarray, device: torch.device) -> list[Tensor]:
        parts = torch.from_numpy(values).to(device).split([c for c, _, _ in self.levels])
        return [part.view(1, -1, 1, 1) for part in parts]


class StoredFeatures(NamedTuple):
    """What stands for a batch of images: the features of every view of the ensemble."""

    rows: tuple[Tensor, ...]
    """Of each view `(b, values)`, in half precision."""
    layouts: tuple[Layout, ...]
    """How to read them."""
    size: int
    """Edge of the tiles in pixels."""

    def features(self) -> Features:
        """What the encoder's `extract` gives of the images, within the rounding."""
        pairs = zip(self.layouts, self.rows, strict=True)
        return [layout.unpack(rows) for layout, rows in pairs]

    @property
    def pixels(self) -> tuple[int, ...] | None:
        """Of every level, how many pixels two stand for; `None` where all are there."""
        return self.layouts[0].pixels

    @property
    def like(self) -> Tensor:
        """A stand-in for the images, of their size and dates, that takes no memory."""
        dates = self.layouts[0].dates
        shape = (len(self.rows[0]), 1, *([dates] if dates > 1 else []), self.size, self.size)
        return self.rows[0].new_zeros(()).expand(shape)


class Rows(Protocol):
    """Features of the tiles of a split."""

    @property
    def layout(self) -> Layout:
        """How they are written."""

    def read(self, tiles: Sequence[int]) -> np.ndarray:
        """Rows `(tiles, values)` float16."""


class Blank:
    """Features that say nothing, to see how long it takes to work with such features."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    def read(self, tiles: Sequence[int]) -> np.ndarray:
        """Rows `(tiles, values)` float16."""
        return np.zeros((len(tiles), self.layout.values), np.float16)


class StoredTiles(Dataset[dict[str, Any]]):
    """The tiles of a split with features for images; read by the same keys.

    Args:
        tiles: What says all but the image.
        views: The features of every view.
        size: Edge of the tiles.
    """

    def __init__(self, tiles: TileDataset | ChosenTiles, views: Sequence[Rows], size: int) -> None:
        self._tiles, self._views, self._size = tiles, tuple(views), size
        self._known: dict[int, dict[str, Any]] = {}
        self._room = _LABEL_BYTES

    def __len__(self) -> int:
        """Count the tiles."""
        return len(self._tiles)

    def __getitems__(self, keys: Sequence[TileKey]) -> dict[str, Any] | DataError:
        """Read a batch; what is wrong with the data comes back as a value."""
        try:
            return {**self._described(keys), "image": self._features(keys)}
        except DataError as error:
            return error

    def _described(self, keys: Sequence[TileKey]) -> Mapping[str, Any]:
        """All but the images; what was read once is kept, as the tiles stay the same."""
        new = [key for key in keys if _index(key) not in self._known]
        read = dict(zip(map(_index, new), self._tiles.described(new), strict=True)) if new else {}
        samples = [read.get(index) or _wide(self._known[index]) for index in map(_index, keys)]
        for index, sample in read.items():
            if self._room > 0:
                self._known[index] = narrow = _narrow(sample)
                self._room -= sum(v.nbytes for v in narrow.values() if isinstance(v, Tensor))
        return default_collate(samples)

    def _features(self, keys: Sequence[TileKey]) -> StoredFeatures:
        indices = [_index(key) for key in keys]
        rows = tuple(torch.from_numpy(view.read(indices)) for view in self._views)
        return StoredFeatures(rows, tuple(view.layout for view in self._views), self._size)


def _index(key: TileKey) -> int:
    return key[1] if isinstance(key, tuple) else key


def _narrow(sample: Mapping[str, Any]) -> dict[str, Any]:
    """Classes in a byte each, to keep many."""
    mask = sample.get("mask")
    if mask is None or mask.dtype != torch.int64 or not 0 <= mask.min() <= mask.max() <= 255:
        return dict(sample)
    return {**sample, "mask": mask.to(torch.uint8)}


def _wide(sample: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: value.long() if isinstance(value, Tensor) and value.dtype == torch.uint8 else value
        for key, value in sample.items()
    }
