"""How recipes with one mistake answer."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from eosfm_cli.errors import RecipeError
from eosfm_cli.recipe import Recipe


def assert_told(load: Callable[[str], Recipe], text: str, line: int, message: str) -> None:
    """Check that `mine.yaml` with this text is refused in one line, with its place."""
    with pytest.raises(RecipeError, match=message) as caught:
        load(text)
    lines = caught.value.message.splitlines()
    assert len(lines) == 1, "one mistake, one line"
    assert f"mine.yaml, line {line}: " in lines[0]
    assert "Input should" not in lines[0]
