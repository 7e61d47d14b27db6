"""The number format that a fitted model computes in."""

from __future__ import annotations

from typing import Literal

Precision = Literal["32-true", "bf16"]
"""32-bit numbers throughout, or bfloat16, which is faster where the hardware has it."""
