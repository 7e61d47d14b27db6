"""How long work tells about itself without knowing who listens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Step(Protocol):
    """One running piece of work with a known length."""

    def advance(self, amount: int = 1, *, note: str = "") -> None:
        """Report that `amount` more units are done; `note` is shown beside the bar."""


class Progress(Protocol):
    """What a workflow may tell while it runs. The command layer implements it."""

    def say(self, text: str) -> None:
        """Tell a fact that the user should see: a default taken, a plan, a stage."""

    def warn(self, text: str) -> None:
        """Tell something that is probably not what the user wants."""

    def step(self, title: str, total: int) -> _StepContext:
        """Open a piece of work of `total` units, used as a context manager."""


class _StepContext(Protocol):
    def __enter__(self) -> Step: ...
    def __exit__(self, *args: object) -> None: ...


class _SilentStep:
    def advance(self, amount: int = 1, *, note: str = "") -> None:
        """Do nothing."""


class Silent:
    """A `Progress` that tells nobody; the default for library use."""

    def say(self, text: str) -> None:
        """Do nothing."""

    def warn(self, text: str) -> None:
        """Do nothing."""

    @contextmanager
    def step(self, title: str, total: int) -> Iterator[Step]:
        """Open a silent step."""
        yield _SilentStep()
