"""Features of frozen specialists, computed once: for all epochs, further fits, and ablations."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import torch

from eosfm_cli.data.datamodule import TileDataModule, TileLoader
from eosfm_cli.data.splits import SPLIT_NAMES, SplitName
from eosfm_cli.ensemble.encoder import EnsembleEncoder
from eosfm_cli.errors import BudgetReached
from eosfm_cli.progress import Progress
from eosfm_cli.recipe import Cache, FitSpec
from eosfm_cli.results import PhasePlan
from eosfm_cli.training import together
from eosfm_cli.training.encoding import Part, Trial, Unit, encode, tiles_per_shard, try_out
from eosfm_cli.training.feature_files import (
    Entry,
    Facts,
    StoreError,
    make_room,
)
from eosfm_cli.training.feature_folder import user_folder
from eosfm_cli.training.feature_key import joined, tiles_key, view_keys
from eosfm_cli.training.feature_memory import MemoryEntry
from eosfm_cli.training.health import memory_in_bytes
from eosfm_cli.training.stored_features import Blank, Rows, StoredTiles
from eosfm_cli.training.trainer import memory_errors
from eosfm_cli.words import amount

_DISK, _MEMORY = 3e8, 2e9
"""Bytes a second that are read at least: from a disk, and of what the system keeps in memory."""


@dataclass(frozen=True)
class _Plan:
    """What the leader has found."""

    units: tuple[Unit, ...] = ()
    problem: str | None = None
    """Why nothing can be stored."""


@dataclass(frozen=True)
class _Estimate:
    """What it would take to have all features."""

    facts: Mapping[int, Facts]
    """Of every part that is not complete."""
    lacking: int
    """Bytes to be written."""
    total: int
    """Bytes of these parts once they are complete."""
    seconds: float
    """To compute what is lacking."""


def _estimate(
    missing: Mapping[int, Sequence[int]],
    parts: Sequence[Part],
    tried: Mapping[int, Trial],
    data: TileDataModule,
) -> _Estimate:
    per_shard, found, lacking, seconds = tiles_per_shard(data), {}, 0, 0.0
    for number, lacks in missing.items():
        part, trial = parts[number], tried[parts[number].slot]
        facts = Facts(trial.layout, data.tile_counts[part.split], per_shard, part.about)
        tiles = sum(map(facts.rows_in, lacks)) if part.entry.exists() else facts.tiles
        found[number] = facts
        lacking += 2 * tiles * facts.layout.values
        seconds += tiles * trial.seconds
    return _Estimate(found, lacking, sum(facts.bytes for facts in found.values()), seconds)


@dataclass
class FeatureStore:
    """Where the features of frozen specialists are kept.

    Attributes:
        cache: Where, or whether at all.
        most_bytes: That they may take.
        precision: In which the specialists run.
        passes: How often the training tiles are gone through.
        progress: Who is told.
        folder: Of all that is on disk.
    """

    cache: Cache
    most_bytes: int
    precision: str
    passes: int
    progress: Progress
    folder: Path = field(default_factory=user_folder)
    reason: str | None = None
    """Why features are not stored, once that is known."""
    _entries: dict[str, Entry | MemoryEntry] = field(default_factory=dict)
    _told: set[str] = field(default_factory=set)
    _in_use: bool = False
    """Whether something has been stored: then it pays to go on."""

    @classmethod
    def of(cls, spec: FitSpec, progress: Progress, *, passes: int | None = None) -> FeatureStore:
        """The store that a fit describes.

        Args:
            spec: Says where features are kept.
            progress: Who is told.
            passes: How often the training tiles are gone through; as often as the fit has epochs
                if not given.
        """
        return cls(spec.cache, spec.cache_bytes, spec.precision, passes or spec.epochs, progress)

    # -------------------------------------------------------------------- what others call

    def ensure(
        self,
        encoder: EnsembleEncoder,
        data: TileDataModule,
        splits: Sequence[SplitName],
        *,
        pooled: bool = False,
        check: Callable[[], None] = lambda: None,
    ) -> bool:
        """Compute the features that are not there yet.

        Where several processes train together, each computes its share, and all of them call this.

        Args:
            encoder: Frozen, its views not folded, on the device that is to compute.
            data: The tiles.
            splits: Whose features are wanted.
            pooled: Keep what `takes_means_only` says is enough, two pixels that stand for all.
            check: Called after every batch; what it raises ends the work, and what was finished
                stays.

        Returns:
            Whether they are all there; if not, the reason was told and is in `reason`.

        Raises:
            DataError: A file is damaged.
            OutOfMemoryError: A batch does not fit into memory.
        """
        if self.reason is None:
            self.reason = self._refusal(encoder, data, splits)
        if self.reason is None:
            try:
                with memory_errors():
                    self._make(encoder, data, splits, pooled, check)
            except StoreError as problem:
                self.reason = str(problem)
        if self.reason is not None:
            self._tell_why_not()
        return self.reason is None

    def holds(
        self,
        encoder: EnsembleEncoder,
        data: TileDataModule,
        splits: Sequence[SplitName],
        *,
        pooled: bool = False,
    ) -> bool:
        """Whether all features are there already; nothing is computed or told."""
        if self._refusal(encoder, data, splits) is not None:
            return False
        parts = self._parts(encoder, data, splits, pooled)
        try:
            return not self._missing(parts)
        except StoreError:
            return False

    def stored(
        self,
        encoder: EnsembleEncoder,
        data: TileDataModule,
        splits: Sequence[SplitName],
        *,
        pooled: bool = False,
    ) -> TileDataModule:
        """The same data with stored features for images; `ensure` has made them."""
        parts = self._parts(encoder, data, splits, pooled)
        views = {split: [part.entry for part in parts if part.split == split] for split in splits}
        return _reading(data, views)

    def loader(
        self,
        encoder: EnsembleEncoder,
        data: TileDataModule,
        split: SplitName,
        *,
        pooled: bool = False,
    ) -> TileLoader:
        """Batches of a split with stored features for images."""
        found = self.stored(encoder, data, [split], pooled=pooled)
        return {
            "train": found.train_dataloader,
            "val": found.val_dataloader,
            "test": found.test_dataloader,
        }[split]()

    def close(self) -> None:
        """Let go of what was used: memory, and what keeps other runs from making room."""
        for entry in self._entries.values():
            entry.close()
        self._entries.clear()

    def rehearsed(
        self, encoder: EnsembleEncoder, data: TileDataModule, *, pooled: bool = False
    ) -> tuple[TileDataModule, PhasePlan | None]:
        """What a fit would train on, and what computing it would take; nothing is stored.

        Returns:
            Data with features that say nothing, to time what stands on them; or the data itself
            where nothing would be stored.
        """
        self.reason = self._refusal(encoder, data, ["train"])
        if self.reason is not None:
            self._tell_why_not()
            return data, None
        splits = [split for split in SPLIT_NAMES if data.tile_counts[split]]
        parts = self._parts(encoder, data, splits, pooled)
        missing = {
            number: part.entry.missing(check=False)
            for number, part in enumerate(parts)
            if not part.entry.exists() or part.entry.missing(check=False)
        }
        tried = try_out(range(len(encoder.slots)), encoder, data, self.precision, pooled=pooled)
        estimate = _estimate(missing, parts, tried, data)
        self.reason = self._objection(estimate) if missing else None
        if self.reason is not None:
            self._tell_why_not()
            return data, None
        views = [Blank(tried[slot].layout) for slot in range(len(encoder.slots))]
        blank = _reading(data, dict.fromkeys(splits, views))
        return blank, _as_phase(estimate, data) if missing else None

    # -------------------------------------------------------------------- whether

    def _refusal(
        self, encoder: EnsembleEncoder, data: TileDataModule, splits: Sequence[SplitName]
    ) -> str | None:
        """Why the features of this encoder cannot be stored, or nobody wants them to be."""
        if self.cache == "off":
            return ""
        if not encoder.frozen:
            return "the encoder learns"
        if any(adapter.learns for adapter in encoder.adapters):
            return "how bands are mixed is learned (--adapt learned)"
        own = {slot.view.strategy for slot in encoder.slots if slot.view.strategy}
        if own:
            return f"a strategy of your own makes them ({', '.join(sorted(own))})"
        if data.draws_anew and "train" in splits:
            return "--augment draws new tiles in every epoch"
        return None

    def _tell_why_not(self) -> None:
        if self.reason and self.reason not in self._told:
            self._told.add(self.reason)
            text = f"features are not kept but computed in every epoch: {self.reason}"
            asked = self.cache in ("disk", "memory")
            (self.progress.warn if asked else self.progress.say)(text)

    # -------------------------------------------------------------------- what there is

    def _parts(
        self,
        encoder: EnsembleEncoder,
        data: TileDataModule,
        splits: Sequence[SplitName],
        pooled: bool,
    ) -> list[Part]:
        views = view_keys(encoder, self.precision, pooled=pooled)
        parts = []
        for split in splits:
            tiles = tiles_key(data, split)
            for slot, view in enumerate(views):
                name = encoder.names[encoder.slots[slot].specialist]
                about = f"{name}, {encoder.slots[slot].view.name}: {data.recipe.name} {split}"
                parts.append(Part(slot, split, self._entry(joined(view, tiles)), about))
        return parts

    def _entry(self, key: str) -> Entry | MemoryEntry:
        if key not in self._entries:
            on_disk = self.cache != "memory"
            place = self.folder / key[:2] / key
            self._entries[key] = Entry(place) if on_disk else MemoryEntry()
        return self._entries[key]

    # -------------------------------------------------------------------- making it

    def _make(
        self,
        encoder: EnsembleEncoder,
        data: TileDataModule,
        splits: Sequence[SplitName],
        pooled: bool,
        check: Callable[[], None],
    ) -> None:
        parts = self._parts(encoder, data, splits, pooled)
        alone = self.cache == "memory"  # what one process has there, others do not see
        with ExitStack() as held:
            plan = _Plan()
            if alone or together.rank() == 0:
                plan = self._plan(parts, encoder, data, pooled, held)
            if not alone:
                plan = together.from_leader(plan)
            _agree(plan.problem)
            mine = plan.units if alone else plan.units[together.rank() :: together.world()]
            self._finish(mine, parts, encoder, data, check)
        _agree(self._loss(parts))
        self._in_use = True

    def _loss(self, parts: Sequence[Part]) -> str | None:
        """What is wrong with features that were all computed, if anything is."""
        try:
            gone = self._missing(parts, check=False)
        except StoreError as problem:
            return str(problem)
        return "what was computed has gone again" if gone else None

    def _finish(
        self,
        units: Sequence[Unit],
        parts: Sequence[Part],
        encoder: EnsembleEncoder,
        data: TileDataModule,
        check: Callable[[], None],
    ) -> None:
        """Compute a share, and wait for the others' shares."""
        problem: str | None = None
        spent: BudgetReached | None = None
        try:
            for part in parts:
                part.entry.use()
            encode(units, parts, encoder, data, self.precision, check, self.progress)
        except StoreError as found:
            problem = str(found)
        except BudgetReached as found:
            spent = found
        outcomes = together.from_all((problem, spent is not None))
        if any(is_spent for _, is_spent in outcomes):
            raise spent or BudgetReached("The budget is used up.")
        _agree(problem)

    def _plan(
        self,
        parts: Sequence[Part],
        encoder: EnsembleEncoder,
        data: TileDataModule,
        pooled: bool,
        held: ExitStack,
    ) -> _Plan:
        """What is to be made, once there is room for it and nobody else is making it."""
        try:
            missing = self._missing(parts)
            if missing:
                estimate = self._weighed(missing, parts, encoder, data, pooled)
                self._wait_for_others(missing, parts, held)
                self._begin(self._missing(parts), parts, estimate)
            else:
                self._say_once(f"features of {_splits(parts)} are in {self._place} already")
            todo = self._missing(parts, check=False)
        except StoreError as problem:
            return _Plan(problem=str(problem))
        units = {  # two views may be the same, and so their features
            (parts[n].entry, shard): Unit(n, shard) for n, lacks in todo.items() for shard in lacks
        }
        return _Plan(tuple(units.values()))

    def _missing(self, parts: Sequence[Part], *, check: bool = True) -> dict[int, list[int]]:
        """Of every part that is not complete, the shards that it lacks; none if not begun."""
        found = {}
        for number, part in enumerate(parts):
            there = part.entry.exists()
            if there:
                part.entry.use()
                there = part.entry.exists()  # another process may have deleted it just before
            lacks = part.entry.missing(check=check)
            if lacks or not there:
                found[number] = lacks
        return found

    def _weighed(
        self,
        missing: Mapping[int, Sequence[int]],
        parts: Sequence[Part],
        encoder: EnsembleEncoder,
        data: TileDataModule,
        pooled: bool,
    ) -> _Estimate:
        """What it will take, if that is worth while."""
        slots = sorted({parts[number].slot for number in missing})
        tried = try_out(slots, encoder, data, self.precision, pooled=pooled)
        estimate = _estimate(missing, parts, tried, data)
        if problem := self._objection(estimate):
            raise StoreError(problem)
        return estimate

    def _wait_for_others(
        self, missing: Collection[int], parts: Sequence[Part], held: ExitStack
    ) -> None:
        """Be the only run that makes these parts; in one order, so that no two wait for ever."""
        wanted = {parts[number].entry.name: parts[number].entry for number in missing}
        for _, entry in sorted(wanted.items()):
            entry.use()
            held.enter_context(entry.writing(self._say_waiting))

    def _begin(self, missing: Collection[int], parts: Sequence[Part], estimate: _Estimate) -> None:
        """Make room, say what it will take, and begin what others have not begun meanwhile."""
        if not missing:
            return
        if self.cache != "memory":
            used = {part.entry.folder for part in parts}
            problem = make_room(self.folder, estimate.lacking, self.most_bytes, used)
            if problem is not None:
                raise StoreError(problem)
        for number in missing:
            if not parts[number].entry.exists():
                parts[number].entry.begin(estimate.facts[number])
        self._say_once(
            f"features of {_splits(parts)} take {amount(estimate.total)} in {self._place}; "
            f"computing them takes about {max(1, round(estimate.seconds))} s, once"
            + (f" instead of in each of {self.passes} epochs" if not self._in_use else "")
        )

    def _objection(self, estimate: _Estimate) -> str | None:
        """Why storing does not pay, or cannot have the room that it takes."""
        memory = memory_in_bytes()[0] // 2 // together.world()
        if self.cache == "auto" and not self._in_use:
            speed = _DISK if estimate.total > memory else _MEMORY
            if self.passes < 2:
                return "they would be used once only"
            if estimate.lacking / speed > estimate.seconds:
                return f"reading {amount(estimate.lacking)} would take longer"
        if estimate.total > self.most_bytes:
            most = f"{amount(self.most_bytes)} (--cache-size)"
        elif self.cache == "memory" and estimate.total > memory:
            most = f"{amount(memory)}, half of the memory that is free"
        else:
            return None
        return f"{amount(estimate.total)} do not fit into {most}"

    def _say_waiting(self) -> None:
        self._say_once("another run computes the same features: this one waits for them")

    def _say_once(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self.progress.say(text)

    @property
    def _place(self) -> str:
        return "memory" if self.cache == "memory" else str(self.folder)


def _reading(data: TileDataModule, views: Mapping[SplitName, Sequence[Rows]]) -> TileDataModule:
    """The data with features for images.

    Handing features over from another process takes longer than reading them: where the processor
    computes as well, it reads them itself.
    """
    size = data.recipe.tile.size
    stored = {split: StoredTiles(data.dataset(split), rows, size) for split, rows in views.items()}
    return data.reading(stored, workers=data.workers if torch.cuda.is_available() else 0)


def _agree(problem: str | None) -> None:
    """Give up in all processes where one of them has to."""
    for text in together.from_all(problem):
        if text is not None:
            raise StoreError(text)


def _splits(parts: Sequence[Part]) -> str:
    return " and ".join(dict.fromkeys(part.split for part in parts))


def _as_phase(estimate: _Estimate, data: TileDataModule) -> PhasePlan:
    tiles = max(facts.tiles for facts in estimate.facts.values())
    steps = -(-tiles // data.batch_size)
    return PhasePlan(
        name="encode",
        epochs=1,
        steps=steps,
        step_seconds=estimate.seconds / steps,
        seconds=estimate.seconds,
        parameters=0,
        trainable=0,
        memory_bytes=0,
        stored_bytes=estimate.lacking,
    )
