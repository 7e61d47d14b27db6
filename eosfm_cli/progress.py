"""How long work tells about itself without knowing who listens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Protocol

from eosfm_cli.errors import OutputError, unwritable


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


class Logged:
    """A `Progress` that also writes what it is told to a file.

    Raises:
        OutputError: The file cannot be written; every method may raise it.
    """

    def __init__(self, inner: Progress, log: Path) -> None:
        self._inner, self._log = inner, log

    def say(self, text: str) -> None:
        """Tell and write a fact."""
        self._inner.say(text)
        self._write(text)

    def warn(self, text: str) -> None:
        """Tell and write a warning."""
        self._inner.warn(text)
        self._write(f"warning: {text}")

    @contextmanager
    def step(self, title: str, total: int) -> Iterator[Step]:
        """Open a step; its start and its last note are written."""
        self._write(f"{title}: started")
        with self._inner.step(title, total) as inner:
            step = _LoggedStep(inner)
            try:
                yield step
            except BaseException:
                with suppress(OutputError):  # what ended the step matters more
                    self._write_end(title, step)
                raise
            self._write_end(title, step)

    def _write_end(self, title: str, step: _LoggedStep) -> None:
        self._write(f"{title}: {step.note or 'ended'}")

    def _write(self, text: str) -> None:
        stamp = datetime.now().astimezone().isoformat(timespec="seconds")
        try:
            with self._log.open("a", encoding="utf-8") as file:
                file.writelines(f"{stamp} {line}\n" for line in text.splitlines())
        except OSError as error:
            raise unwritable(self._log, error) from None


class _LoggedStep:
    def __init__(self, inner: Step) -> None:
        self._inner, self.note = inner, ""

    def advance(self, amount: int = 1, *, note: str = "") -> None:
        """Pass the advance on and remember the note."""
        self.note = note or self.note
        self._inner.advance(amount, note=note)
