"""Whose electricity a command counts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches

from eosfm_cli.carbon.country import COUNTRY_VARIABLE, countries
from eosfm_cli.errors import UsageError


@contextmanager
def counting_for(text: str) -> Iterator[None]:
    """Count a country's electricity in the work inside, that of processes it starts included.

    Args:
        text: Three letters, as in FRA.

    Raises:
        UsageError: There is no such country.
    """
    code = text.strip().upper()
    known = countries()
    if known and code not in known:
        raise UsageError(f"--country {text!r} is no country.", hint=_hint(text, known))
    before = os.environ.get(COUNTRY_VARIABLE)
    os.environ[COUNTRY_VARIABLE] = code
    try:
        yield
    finally:
        if before is None:
            del os.environ[COUNTRY_VARIABLE]
        else:
            os.environ[COUNTRY_VARIABLE] = before


def _hint(text: str, known: dict[str, str]) -> str:
    """The code of the country whose name was written, or those that look like it."""
    names = {name.lower(): code for code, name in known.items()}
    near = get_close_matches(text.strip().lower(), names, n=1, cutoff=0.8)
    codes = [names[near[0]]] if near else get_close_matches(text.strip().upper(), known, n=3)
    if codes:
        return "Did you mean " + ", ".join(f"{code} ({known[code]})" for code in codes) + "?"
    return "Three letters are needed, as in --country FRA."
