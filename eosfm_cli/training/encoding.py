"""Frozen specialists at work: tiles in, rows of features out."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from eosfm_cli.data.datamodule import TileDataModule
from eosfm_cli.data.splits import SplitName
from eosfm_cli.ensemble.encoder import EnsembleEncoder
from eosfm_cli.progress import Progress, Step
from eosfm_cli.training.decoding import dates_as_batch
from eosfm_cli.training.feature_files import Entry, StoreError
from eosfm_cli.training.feature_memory import MemoryEntry
from eosfm_cli.training.stored_features import Layout

_SHARD_TILES, _SHARD_PX = 64, 2**20
"""Most tiles of a shard, and most pixels of them: 64 tiles of 128 × 128."""
_TRIED = 4
"""Tiles that are encoded to see how large their features are and how long they take."""
_AUTOCAST = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}


@dataclass(frozen=True)
class Part:
    """One view's features of a split."""

    slot: int
    """The view's place in the encoder."""
    split: SplitName
    entry: Entry | MemoryEntry
    """Where they are kept."""
    about: str
    """Whose features of what."""


class Unit(NamedTuple):
    """A shard to be made."""

    part: int
    """Position among the parts."""
    shard: int


class Trial(NamedTuple):
    """What a few tiles have shown of a view."""

    layout: Layout
    seconds: float
    """For a tile."""


def tiles_per_shard(data: TileDataModule) -> int:
    """How many tiles' features are written into one file."""
    pixels = data.recipe.tile.size**2 * len(data.recipe.dates)
    return max(1, min(_SHARD_TILES, _SHARD_PX // pixels))


def try_out(
    slots: Sequence[int],
    encoder: EnsembleEncoder,
    data: TileDataModule,
    precision: str,
    *,
    pooled: bool,
) -> dict[int, Trial]:
    """Encode a few tiles, spread over a split: how features look and how long they take."""
    split = next(name for name in ("train", "val", "test") if data.tile_counts[name])
    count = data.tile_counts[split]
    tiles = sorted({count * number // _TRIED for number in range(_TRIED)})
    x = _images(encoder, torch.stack([data.dataset(split)[tile]["image"] for tile in tiles]))
    found = {}
    for slot in slots:
        _levels(encoder, slot, x, precision)  # warms up
        began = time.perf_counter()
        levels = _levels(encoder, slot, x, precision)
        layout = Layout.of(levels, len(data.recipe.dates), pooled=pooled)  # waits for the device
        found[slot] = Trial(layout, (time.perf_counter() - began) / len(tiles))
    return found


def encode(
    units: Sequence[Unit],
    parts: Sequence[Part],
    encoder: EnsembleEncoder,
    data: TileDataModule,
    precision: str,
    check: Callable[[], None],
    progress: Progress,
) -> None:
    """Make shards, going through the tiles of each split once.

    Args:
        units: What to make.
        parts: What `units` refer to, already begun.
        encoder: Frozen, on the device that is to compute.
        data: The tiles.
        precision: In which the specialists run.
        check: Called after every batch.
        progress: Told of the batches.

    Raises:
        StoreError: Features cannot be written, or not as halves.
        DataError: A file is damaged.
    """
    work: dict[SplitName, dict[int, list[Part]]] = defaultdict(lambda: defaultdict(list))
    for unit in units:
        work[parts[unit.part].split][unit.shard].append(parts[unit.part])
    batches = {split: _batches(shards, data) for split, shards in work.items()}
    total = sum(map(len, batches.values()))
    if not total:
        return
    with progress.step(f"encode {data.recipe.name}", total) as step:
        for split, shards in work.items():
            loader = data.tiles_in(split, [tiles for _, tiles in batches[split]])
            shared = groupby(zip(batches[split], loader, strict=True), key=lambda pair: pair[0][0])
            for shard, group in shared:
                images = (batch["image"] for _, batch in group)
                _encode_shard(shard, shards[shard], images, encoder, precision, check, step)


def _batches(
    shards: Mapping[int, Sequence[Part]], data: TileDataModule
) -> list[tuple[int, list[int]]]:
    """Tiles to read together, by index, and the shard that they belong to."""
    found = []
    for shard, parts in sorted(shards.items()):
        facts = parts[0].entry.facts
        start = shard * facts.per_shard
        tiles = range(start, start + facts.rows_in(shard))
        size = data.batch_size
        found += [(shard, list(tiles[at : at + size])) for at in range(0, len(tiles), size)]
    return found


def _encode_shard(
    shard: int,
    parts: Sequence[Part],
    images: Iterable[Tensor],
    encoder: EnsembleEncoder,
    precision: str,
    check: Callable[[], None],
    step: Step,
) -> None:
    with ExitStack() as files:
        writers = [(part, files.enter_context(part.entry.shard(shard))) for part in parts]
        for batch in images:
            x = _images(encoder, batch)
            for part, write in writers:
                levels = _levels(encoder, part.slot, x, precision)
                rows = part.entry.layout.pack(levels)
                if not bool(rows.isfinite().all()):
                    raise StoreError(f"numbers are too large for half precision ({part.about})")
                write(rows.cpu().numpy())
            step.advance()
            check()


def _images(encoder: EnsembleEncoder, batch: Tensor) -> Tensor:
    return dates_as_batch(batch.to(next(encoder.parameters()).device))


@torch.inference_mode()
def _levels(encoder: EnsembleEncoder, slot: int, x: Tensor, precision: str) -> list[Tensor]:
    dtype = _AUTOCAST.get(precision)
    with torch.autocast(x.device.type, dtype=dtype, enabled=dtype is not None):
        return encoder.run(slot, x)
