"""Load users' own code before a command runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eosfm_cli.ensemble.strategies import load_plugin
from eosfm_cli.progress import Progress


def load_plugins(files: Sequence[Path], progress: Progress) -> None:
    """Run Python files that register strategies for feeding specialists, and say which.

    Raises:
        UsageError: A file is missing, fails or registers nothing.
    """
    for path in files:
        progress.say(f"plugin {path}: {', '.join(load_plugin(path))}")
