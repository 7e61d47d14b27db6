"""`eosfm` commands over files that may crash a process, hang it or eat its memory.

They run one after the other in a process of their own, which imports the heavy libraries once. It
may take a bounded share of memory, and a command that hangs ends it with a traceback of where.
"""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

RGB = ("red", "green", "blue")
MEAN, STD = 100, 100
"""Of all bands, as the models take them."""
_SECONDS = 30
_ROOM = 3 * 2**30
"""Address space that the process may take beyond what the imports do."""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str
    grown_mb: float
    """How far the command raised the process's peak of resident memory."""


class Process:
    """Runs commands; a new process takes over from one that died."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[str] | None = None

    def model(self, bands: int) -> Path:
        """The file of a model, with random weights, that takes the first band or three."""
        return self._folder / f"fit{bands}" / "model.safetensors"

    def run(self, words: Sequence[object]) -> Ended:
        """Run `eosfm` with `words`.

        Raises:
            AssertionError: The process died of it.
        """
        process = self._process or self._start()
        assert process.stdin is not None
        process.stdin.write(json.dumps([str(word) for word in words]) + "\n")
        process.stdin.flush()
        answer = self._answer()
        assert answer, f"the process ended with {self._died()}"
        out, err = (_text(self._folder / name) for name in ("out.txt", "err.txt"))
        return Ended(answer["code"], out, err, answer["grown_mb"])

    def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.stdin.close()
            self._process.wait()

    def _start(self) -> subprocess.Popen[str]:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.predicting", str(self._folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # TerraTorch is imported anyway, and builds a tiny model faster than a program loads.
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "COLUMNS": "1000",
                "EOSFM_PROGRAMS": "off",
            },
            cwd=Path(__file__).parent.parent,
        )
        assert self._answer() == {"ready": True}
        return self._process

    def _answer(self) -> dict:
        return json.loads(self._process.stdout.readline() or "{}")

    def _died(self) -> str:
        code = self._process.wait()
        self._process = None
        return f"{code}: {_text(self._folder / 'err.txt')[-4000:]}"


@contextmanager
def process(folder: Path) -> Iterator[Process]:
    """A process that starts with its first command."""
    found = Process(folder)
    try:
        yield found
    finally:
        found.stop()


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _serve(folder: Path) -> None:
    import eosfm_cli.workflows.predict  # noqa: F401
    from eosfm_cli.commands.app import main

    answers = os.fdopen(os.dup(1), "w")
    _write_models(folder)
    _tell(answers, ready=True)
    _bound_memory()
    for line in sys.stdin:
        before = _peak_mb()
        for number, name in ((1, "out.txt"), (2, "err.txt")):
            file = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, number)
            os.close(file)
        faulthandler.dump_traceback_later(_SECONDS, exit=True)
        code = main(json.loads(line))
        faulthandler.cancel_dump_traceback_later()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        _tell(answers, code=int(code), grown_mb=_peak_mb() - before)


def _write_models(folder: Path) -> None:
    from tests.fits import tiny_recipe, write_fit

    for bands in (RGB[:1], RGB):
        run = folder / f"fit{len(bands)}"
        if not run.exists():
            known = {band: {"mean": MEAN, "std": STD} for band in bands}
            recipe = tiny_recipe(bands=bands, statistics=known, tile={"size": 256})
            write_fit(run, recipe, {"a": bands})


def _tell(answers, **facts: object) -> None:
    answers.write(json.dumps(facts) + "\n")
    answers.flush()


def _bound_memory() -> None:
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + _ROOM, taken + _ROOM))


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    faulthandler.enable()
    _serve(Path(sys.argv[1]))
