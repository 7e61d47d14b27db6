"""Errors of libraries are understood for what they are."""

from __future__ import annotations

import pytest

from eosfm_cli.errors import OutputError, is_out_of_memory
from eosfm_cli.progress import Logged, Silent


class OutOfMemoryError(RuntimeError):
    """As torch names its own."""


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


def met(error: Exception, context: Exception) -> Exception:
    error.__context__ = context
    return error


def circular() -> Exception:
    first, second = ValueError("a"), ValueError("b")
    first.__context__, second.__context__ = second, first
    return first


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (OutOfMemoryError("Tried to allocate 2.00 GiB"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (OSError(12, "Cannot allocate memory"), True),
        (Exception("Inference on testing failed due to insufficient RAM. Try to pass"), True),
        (Exception("Inference on testing failed due to insufficient GPU Memory. Try"), True),
        (caused(ValueError("a batch failed"), MemoryError()), True),
        (met(ValueError("a batch failed"), caused(KeyError("x"), MemoryError())), True),
        (ValueError("the tiled inference configuration is insufficient"), False),
        (ValueError("memory is fine"), False),
        (circular(), False),
    ],
)
def test_memory_that_ran_out_is_known_in_all_its_forms(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


# ------------------------------------------------------------------------------ a log


def test_a_log_that_cannot_be_written_is_said(tmp_path) -> None:
    progress = Logged(Silent(), tmp_path / "gone" / "log.txt")
    with pytest.raises(OutputError, match=r"Cannot write .*log\.txt"):
        progress.say("hello")


def test_what_ends_a_step_is_not_hidden_by_a_log_that_cannot_be_written(tmp_path) -> None:
    log = tmp_path / "run" / "log.txt"
    log.parent.mkdir()

    def interrupted() -> None:
        with Logged(Silent(), log).step("fit", 3):
            log.unlink()
            log.parent.rmdir()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()


def test_a_step_is_logged_with_its_last_note(tmp_path) -> None:
    log = tmp_path / "log.txt"
    with Logged(Silent(), log).step("fit", 3) as step:
        step.advance(note="loss 0.5")
        step.advance()
    assert [line.partition(" ")[2] for line in log.read_text().splitlines()] == [
        "fit: started",
        "fit: loss 0.5",
    ]
