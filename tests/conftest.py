"""Fixtures that several test files share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

# Tensors are tiny here: more threads cost more than they bring, the more so on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A program for each of the many fits would take minutes; tests/test_program.py makes its own.
os.environ.setdefault("EOSFM_PROGRAMS", "off")
# Features of tiny data are nobody's but the tests'.
_features = TemporaryDirectory(prefix="features-")
os.environ.setdefault("EOSFM_FEATURES", _features.name)

_SAMPLES = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def sample_data() -> Callable[[str], Path]:
    """Find real sample data by name; the test is skipped where it is not at hand."""

    def find(name: str) -> Path:
        path = _SAMPLES / name
        if not path.exists():
            pytest.skip(f"sample data {name!r} is not at hand")
        return path

    return find
