"""Words agree with their number."""

from __future__ import annotations

import pytest

from eosfm_cli.words import amount, counted


@pytest.mark.parametrize(
    ("number", "noun", "plural", "expected"),
    [
        (1, "sample", None, "1 sample"),
        (0, "sample", None, "0 samples"),
        (2000, "usable specialist", None, "2,000 usable specialists"),
        (1, "class", "classes", "1 class"),
        (3, "class", "classes", "3 classes"),
    ],
)
def test_a_noun_agrees_with_its_number(
    number: int, noun: str, plural: str | None, expected: str
) -> None:
    assert counted(number, noun, plural) == expected


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 MB"), (1_240_000, "1.24 MB"), (310_400_000, "310 MB"), (2_512_000_000_000, "2,512 GB")],
)
def test_amounts_are_short(size: int, text: str) -> None:
    assert amount(size) == text
