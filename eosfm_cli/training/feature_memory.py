"""Features in memory, for one fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numpy as np

from eosfm_cli.training.feature_files import Facts
from eosfm_cli.training.stored_features import Layout


class MemoryEntry:
    """The features of a split's tiles, in memory; as `Entry` on disk."""

    name = ""

    def __init__(self) -> None:
        self.facts: Facts | None = None
        self._rows = np.empty((0, 0), np.float16)
        self._done: set[int] = set()

    @property
    def layout(self) -> Layout:
        """How its rows are written."""
        return self.facts.layout

    def exists(self) -> bool:
        """Whether it was begun."""
        return self.facts is not None

    def use(self) -> None:
        """Nobody else can delete it."""

    def close(self) -> None:
        """Give the memory back."""
        self.facts, self._rows = None, np.empty((0, 0), np.float16)
        self._done.clear()

    def writing(self, waiting: Callable[[], None]) -> AbstractContextManager[None]:
        """Nobody else can write it."""
        del waiting
        return nullcontext()

    def missing(self, *, check: bool = True) -> list[int]:
        """The shards that are not there."""
        del check  # nothing is damaged here
        count = self.facts.shard_count if self.facts else 0
        return [number for number in range(count) if number not in self._done]

    def begin(self, facts: Facts) -> None:
        """Start it."""
        self.facts = facts
        self._rows = np.empty((facts.tiles, facts.layout.values), np.float16)

    @contextmanager
    def shard(self, number: int) -> Iterator[Callable[[np.ndarray], None]]:
        """Write a shard: call what it gives with rows, all of them in order."""
        place = number * self.facts.per_shard

        def add(rows: np.ndarray) -> None:
            nonlocal place
            self._rows[place : place + len(rows)] = rows
            place += len(rows)

        yield add
        self._done.add(number)

    def read(self, tiles: Sequence[int]) -> np.ndarray:
        """Rows `(tiles, values)` float16."""
        return self._rows[list(tiles)]
