"""Progress that is listened to."""

from __future__ import annotations

from eosfm_cli.progress import Silent


class Listener(Silent):
    """Remembers warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)
