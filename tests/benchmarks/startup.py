"""How long it takes until a program says what it can do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.benchmarks.harness import Benchmark, Figures, Row, Scale, against


def startup(scale: Scale, folder: Path) -> Benchmark:
    """`eosfm --help` against `terratorch --help`."""

    def help_of(program: str) -> str:
        command = [Path(sys.executable).with_name(program), "--help"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def check() -> str:
        for program in ("terratorch", "eosfm"):
            assert "usage" in help_of(program).lower()
        return "both print their usage"

    def rows(found: Figures) -> list[Row]:
        return [against(found, "`--help`, TerraTorch's and eosfm's", "plain", "eosfm", "≥ 40 ×")]

    ways = {"plain": lambda: help_of("terratorch"), "eosfm": lambda: help_of("eosfm")}
    return Benchmark(ways, check, rows)
