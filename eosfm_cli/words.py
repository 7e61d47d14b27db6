"""Numbers in the user's words."""

from __future__ import annotations


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """A number and what it is of: `1 tile`, `2,000 tiles`.

    Args:
        number: How many.
        noun: Of one.
        plural: Of several, where that is not the noun with an s.
    """
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def amount(size: int) -> str:
    """A number of bytes: `12.5 GB`, `310 MB`."""
    value, unit = (size / 1e9, "GB") if size >= 1e9 else (size / 1e6, "MB")
    return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"
