"""What licences allow, as far as an ensemble of many needs to know: which one is the strictest.

Identifiers are SPDX's, or as people write them (`CC BY-NC 4.0`). Terms that are nobody's standard
count as the strictest: somebody has to read them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_BY_STRICTNESS = (
    r"cc0|pddl|unlicense|wtfpl|public-domain",
    r"cc-by|odc-by|cdla-permissive|apache|mit|bsd|isc|etalab",
    r"cc-by-sa|odbl|cdla-sharing|[al]?gpl|mpl|epl",
    r"cc-by-nd",
    r"cc-by-nc",
    r"cc-by-nc-sa",
    r"cc-by-nc-nd",
)
_VERSION = r"(-clause|-[\d.]+)*"

_ON_THE_HUB = (
    r"apache-2\.0|mit|isc|unlicense|wtfpl|bsd(-[23]-clause)?|agpl-3\.0|l?gpl(-[23]\.[01])?|"
    r"mpl-2\.0|epl-[12]\.0|cc0-1\.0|cc-by-(2\.[05]|[34]\.0)|cc-by-(sa|nd|nc|nc-sa|nc-nd)-[34]\.0|"
    r"cdla-(sharing-1\.0|permissive-[12]\.0)|odc-by|odbl|pddl|etalab-2\.0"
)
_WITH_A_VERSION = re.compile(r"(odc-by|odbl|pddl)-1\.0")


def strictest(licences: Iterable[str | None]) -> str | None:
    """The licence that allows least, the first of equals; `None` where none is known."""
    known = [licence for licence in licences if licence and licence.strip()]
    return max(known, key=_strictness) if known else None


def hub_identifier(licence: str) -> str | None:
    """The name that the Hugging Face hub has for a licence; `None` for those it does not list."""
    word = _WITH_A_VERSION.sub(r"\1", _word(licence))
    return word if re.fullmatch(_ON_THE_HUB, word) else None


def _strictness(licence: str) -> int:
    """The position in `_BY_STRICTNESS` of the strictest of those that `licence` joins."""
    return max(_of_one(part) for part in re.split(r"\s+AND\s+|[+;]", licence))


def _of_one(licence: str) -> int:
    word = _word(licence)
    found = (
        position
        for position, names in enumerate(_BY_STRICTNESS)
        if re.fullmatch(rf"({names}){_VERSION}", word)
    )
    return next(found, len(_BY_STRICTNESS))


def _word(licence: str) -> str:
    """`CC BY-NC 4.0` and `GPL-3.0-or-later` as `cc-by-nc-4.0` and `gpl-3.0`."""
    word = re.sub(r"[\s_-]+", "-", licence.strip().lower())
    return re.sub(r"-(only|or-later)$", "", word)
