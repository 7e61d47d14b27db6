"""What is wrong with a dataset on disk: refused at once, or collected to be listed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from eosfm_cli.errors import DataError
from eosfm_cli.progress import Progress

Kind = Literal[
    "missing",
    "unpaired",
    "stray",
    "unused",
    "absent",
    "split",
    "table",
    "class",
    "ambiguous",
    "damaged",
    "size",
    "bands",
    "dtype",
    "nodata",
    "values",
]

ALL_PROBLEMS = "`eosfm data check` lists everything that is wrong."


class Refused(DataError):
    """A problem that was reported already."""


@dataclass(frozen=True)
class Problem:
    """Something about a dataset that is not as the recipe says."""

    kind: Kind
    text: str
    """The whole message; long lists of names are shortened in it."""
    items: tuple[str, ...] = ()
    """All files, relative to the root, or samples, or labels, that it is about."""
    hint: str | None = None
    is_note: bool = False
    """Whether it is only told: nothing is refused for it."""

    def error(self) -> Refused:
        """The same as an error, with a word on how to see all that is wrong."""
        return Refused(self.text, hint=" ".join(filter(None, [_ended(self.hint), ALL_PROBLEMS])))


Report = Callable[[Problem], None]
"""Told what is wrong. Where it returns, the work goes on without what the problem is about."""


def refusing(progress: Progress) -> Report:
    """Raise the first problem; notes are told."""

    def report(problem: Problem) -> None:
        if not problem.is_note:
            raise problem.error()
        progress.warn(problem.text)

    return report


class Collected:
    """Remembers problems, each once."""

    def __init__(self) -> None:
        self._problems: dict[Problem, None] = {}

    def __call__(self, problem: Problem) -> None:
        """Remember one more."""
        self._problems.setdefault(problem)

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What was told, in that order."""
        return tuple(self._problems)


def problem_of(error: DataError, kind: Kind, items: tuple[str, ...] = ()) -> Problem:
    """What an error says, as a problem."""
    return Problem(kind, error.message, items, error.hint)


def _ended(hint: str | None) -> str | None:
    """A hint that another sentence can follow."""
    if hint is None or hint.endswith((".", "?", "!")):
        return hint
    return f"{hint}."
