"""Progress of several pieces of work that begin alike."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from eosfm_cli.progress import Progress, Step


class Terse:
    """A `Progress` that tells what all fits begin with for the first one alone.

    What a run says once its folder is there is told every time.
    """

    def __init__(self, inner: Progress) -> None:
        self._inner = inner
        self._known: set[str] = set()
        self._preparing = False

    def begin(self, text: str) -> None:
        """Tell which fit begins."""
        self._inner.say(text)
        self._preparing = True

    def prepared(self) -> None:
        """From here on everything is told."""
        self._preparing = False

    def say(self, text: str) -> None:
        """Tell a fact, unless it was told before another fit."""
        if self._is_new(text):
            self._inner.say(text)

    def warn(self, text: str) -> None:
        """Tell a warning, unless it was told before another fit."""
        if self._is_new(text):
            self._inner.warn(text)

    def _is_new(self, text: str) -> bool:
        if not self._preparing:
            return True
        new = text not in self._known
        self._known.add(text)
        return new

    @contextmanager
    def step(self, title: str, total: int) -> Iterator[Step]:
        """Open a piece of work."""
        with self._inner.step(title, total) as step:
            yield step
