"""What went wrong, in one message and one exit code."""

from __future__ import annotations

import errno
import traceback
from dataclasses import asdict, dataclass

import typer
from typer.exceptions import TyperException

from eosfm_cli.commands.console import stderr, write_json
from eosfm_cli.errors import EosfmError, ExitCode, Interrupted, is_out_of_memory

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True)
class Failure:
    """An error as the user meets it."""

    message: str
    hint: str | None
    exit_code: int
    trace: str = ""
    """Empty unless asked for."""


def explain(error: BaseException, *, debug: bool = False) -> Failure:
    """Turn any exception into words and an exit code."""
    message, hint, code = _words(error)
    trace = "".join(traceback.format_exception(error)) if debug else ""
    return Failure(message, hint, int(code), trace)


def report(failure: Failure, *, as_json: bool) -> None:
    """Write the failure to stderr, and under `--json` as one object to stdout as well."""
    if failure.trace:
        stderr().print(failure.trace)
    stderr().print(_coloured("error: ", failure.message))
    if failure.hint:
        stderr().print(f"→ {failure.hint}")
    if as_json:
        write_json({"error": as_entry(failure)})


def as_entry(failure: Failure) -> dict[str, object]:
    """The failure as `--json` shows it."""
    entry = asdict(failure)
    del entry["trace"]
    return entry


def _coloured(prefix: str, message: str) -> object:
    from rich.text import Text

    return Text.assemble((prefix, "bold red"), message)


def _words(error: BaseException) -> tuple[str, str | None, int]:
    if isinstance(error, EosfmError):
        return error.message, error.hint, error.exit_code
    if isinstance(error, TyperException):
        return _usage(error)
    if isinstance(error, Interrupted):
        by = "SIGTERM" if error.exit_code == ExitCode.TERMINATED else "Ctrl-C"
        return f"stopped by {by}.", None, error.exit_code
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return "stopped by Ctrl-C.", None, ExitCode.INTERRUPTED
    if is_out_of_memory(error):
        return (
            f"The work does not fit into memory ({_first_line(error)}).",
            "Lower --batch-size, or the tiles: --set tile.size=128",
            ExitCode.MEMORY,
        )
    if isinstance(error, OSError) and error.errno in _FULL:
        where = error.filename or "The output"
        return (
            f"{where} cannot be written: {error.strerror}.",
            "Free some space, or write somewhere else.",
            ExitCode.FAILURE,
        )
    return (
        f"{type(error).__name__}: {_first_line(error)}",
        "This is a bug in eosfm. Run it again with --debug (or EOSFM_DEBUG=1) for the traceback, "
        "and please report that.",
        ExitCode.FAILURE,
    )


def _usage(error: TyperException) -> tuple[str, str | None, int]:
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "eosfm"
    message = error.format_message()
    hint = f"`{path} --help` shows what it takes."
    return message[:1].upper() + message[1:], hint, error.exit_code


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else "no message"
