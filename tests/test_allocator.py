"""Freed memory is kept where nobody has chosen otherwise."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

CHOICES = ("MALLOC_", "LD_PRELOAD", "GLIBC_TUNABLES")
KEEP = "from eosfm_cli.allocator import keep_memory; import sys; print(keep_memory(), end=' ');"
FAULTS = """
import resource
def use():
    for _ in range(5):
        bytearray(2**26)[::4096] = bytes(2**14)
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, 'torch' in sys.modules)
"""


def told(code: str, **chosen: str) -> list[str]:
    free = {key: value for key, value in os.environ.items() if not key.startswith(CHOICES)}
    words = [sys.executable, "-c", code]
    root = Path(__file__).parents[1]
    done = subprocess.run(
        words, env=free | chosen, cwd=root, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_memory_is_used_again() -> None:
    kept, faults, torch = told(KEEP + FAULTS)
    assert (kept, torch) == ("True", "False")
    plain = told("import sys; print(False);" + FAULTS)
    assert int(faults) < 0.2 * int(plain[1])


@pytest.mark.parametrize(
    "chosen", [{"MALLOC_ARENA_MAX": "2"}, {"LD_PRELOAD": ""}, {"GLIBC_TUNABLES": ""}]
)
def test_somebodys_own_choice_stands(chosen: dict[str, str]) -> None:
    assert told(KEEP, **chosen) == ["False"]
