"""Commands that are killed, stopped or starved of disk at a chosen moment.

A server process imports the heavy libraries once and forks a child for each command, so that a
kill costs no start-up. The moment is chosen by counting what Python tells its audit hooks: the
n-th file that is about to get its final name, or to be opened for writing.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    """Its exit code; minus the signal that killed it."""
    output: str
    """stdout and stderr together."""
    moments: int
    """How many moments of the kind asked for there were."""


class Server:
    """Runs commands in forked children, one after the other."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self._process, self._folder = process, folder

    def run(
        self, words: Sequence[object], *, event: str = "os.rename", at: int = 0, then: str = ""
    ) -> Ended:
        """Run `eosfm` with `words`.

        Args:
            words: The command line.
            event: What counts as a moment: `os.rename`, or `open` (for writing).
            at: The moment at which something happens, counted from 1; 0 for never.
            then: A signal's name, or `full` for a disk that is full from then on.
        """
        log, count = self._folder / "log.txt", self._folder / "count.txt"
        job = {
            "words": [str(word) for word in words],
            "event": event,
            "at": at,
            "then": then,
            "log": str(log),
            "count": str(count),
        }
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        code = int(self._process.stdout.readline())
        return Ended(code, log.read_text(), int(count.read_text() or 0))


@contextmanager
def server(folder: Path) -> Iterator[Server]:
    """A server that is ready."""
    process = subprocess.Popen(
        [sys.executable, __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
    )
    with process:
        assert process.stdout.readline() == "ready\n"
        yield Server(process, folder)
        process.stdin.close()


def _serve() -> None:
    import eosfm_cli.workflows.ablate
    import eosfm_cli.workflows.export
    import eosfm_cli.workflows.fit_ensemble
    import eosfm_cli.workflows.predict
    import eosfm_cli.workflows.train_specialist  # noqa: F401

    _tell("ready")
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _work(json.loads(line))
        _, status = os.waitpid(child, 0)
        _tell(os.waitstatus_to_exitcode(status))


def _tell(word: object) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def _work(job: dict) -> None:
    from eosfm_cli.commands.app import main

    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    count = os.open(job["count"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    sys.addaudithook(_hook(job, count))
    os._exit(main(job["words"]))


def _hook(job: dict, count: int):
    seen = 0

    def watch(event: str, args: tuple) -> None:
        nonlocal seen
        if event != job["event"] or threading.current_thread() is not threading.main_thread():
            return
        if event == "open" and not _writes(args):
            return
        seen += 1
        os.pwrite(count, str(seen).encode(), 0)
        if job["then"] == "full" and 0 < job["at"] <= seen:
            raise OSError(28, "No space left on device")
        if seen == job["at"]:
            os.kill(os.getpid(), signal.Signals[job["then"]])

    return watch


def _writes(args: tuple) -> bool:
    path, mode, flags = args
    if not isinstance(path, str) or path.startswith(("/dev", "/proc", "/sys")):
        return False
    return bool(flags & (os.O_WRONLY | os.O_RDWR)) if mode is None else mode not in {"r", "rb"}


if __name__ == "__main__":
    _serve()
