"""Frozen specialists as one encoder."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a module's attribute
    """`EosFM`, imported when somebody asks for it: it brings torch along."""
    if name == "EosFM":
        from eosfm_cli.ensemble.published import EosFM

        return EosFM
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
