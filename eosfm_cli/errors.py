"""Every error a user can meet, and the exit code it ends in.

One tree: `EosfmError` says what failed in the user's words (file, recipe key, band) and, in `hint`,
what to do. The command line turns it into one message on stderr and exits with its code.
`Interrupted` stands apart on purpose: it is no `Exception`, so that no library swallows it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path


class ExitCode(IntEnum):
    """The documented exit codes of `eosfm`."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    DATA = 3
    MEMORY = 4
    BUDGET = 5
    INTERRUPTED = 130
    TERMINATED = 143


class EosfmError(Exception):
    """Something a user can understand and act on.

    Args:
        message: What failed and where, in the user's words.
        hint: What to do about it.
    """

    exit_code = ExitCode.FAILURE

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(EosfmError):
    """An option or argument that cannot be used as given."""

    exit_code = ExitCode.USAGE


class RecipeError(UsageError):
    """A recipe that cannot be read; the message gives file, line and the nearest valid word."""


class DataError(EosfmError):
    """Data that is missing or unusable."""

    exit_code = ExitCode.DATA


class BandError(DataError):
    """Bands that cannot be matched; the message shows what is wanted beside what is there."""


class RasterError(DataError):
    """A raster that cannot be read or does not fit."""


class BundleError(DataError):
    """An ensemble, model or checkpoint file that is damaged, hostile or of another kind."""


class OutputError(EosfmError):
    """A place that cannot be written."""


class WeightsUnavailableError(EosfmError):
    """Pretrained weights that were asked for and cannot be had."""


class OutOfMemoryError(EosfmError):
    """The work does not fit into memory."""

    exit_code = ExitCode.MEMORY


class BudgetReached(EosfmError):
    """Work that stopped as it had used the energy it was given; it can be gone on with."""

    exit_code = ExitCode.BUDGET


class Interrupted(BaseException):
    """Ctrl-C or SIGTERM. Not an `Exception`: nothing but the command line may stop it."""

    def __init__(self, exit_code: ExitCode) -> None:
        super().__init__(exit_code.name.lower())
        self.exit_code = exit_code


_NO_MEMORY = re.compile(
    r"out of memory|not enough memory|(can't|cannot) allocate memory|insufficient (ram|.*memory)",
    re.IGNORECASE,
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception, or one that it came from, means that memory ran out.

    Libraries tell it in many ways: torch by a type of its own on GPUs and a bare `RuntimeError` on
    CPUs, TerraTorch by a bare `Exception`.
    """
    return any(
        isinstance(link, MemoryError)
        or type(link).__name__ == "OutOfMemoryError"
        or _NO_MEMORY.search(str(link)) is not None
        for link in _chain(error)
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def unwritable(path: Path, error: OSError) -> OutputError:
    """Say that `path` cannot be written, and why."""
    return OutputError(
        f"Cannot write {path}: {error.strerror or error}.",
        hint="Choose another place, or check permissions and free space.",
    )
