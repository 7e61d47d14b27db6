"""Whose electricity is counted."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from eosfm_cli.carbon.ledger import Intensity

COUNTRY_VARIABLE = "EOSFM_COUNTRY"

_TABLE = "data/private_infra/global_energy_mix.json"


def intensity() -> tuple[str | None, Intensity]:
    """The country to count for, `None` for the world, and its electricity's intensity.

    Of what is there, the first counts: `EOSFM_COUNTRY`, which `--country` sets, then codecarbon's
    configuration, then the world's average.
    """
    from codecarbon.core.config import get_hierarchical_config
    from codecarbon.core.emissions import Emissions
    from codecarbon.core.units import Energy
    from codecarbon.external.geography import GeoMetadata
    from codecarbon.input import DataSource

    config = get_hierarchical_config()
    wanted, where = _wanted(config)
    data = DataSource()
    table = data.get_global_energy_mix_data()
    country = wanted if wanted in table else None
    forced = _positive(config.get("force_carbon_intensity_g_co2e_kwh"))
    if forced is not None:
        return country, Intensity(g_per_kwh=forced, source="set in codecarbon's configuration")
    place = GeoMetadata(country_iso_code=country)
    kg_per_kwh = Emissions(data).get_country_emissions(Energy.from_energy(kWh=1), place)
    if country:
        source = f"{table[country]['country_name']} ({where}), codecarbon's table"
    elif wanted:
        source = f"world average, as {where}={wanted} is no country of the table"
    else:
        source = f"world average, as {COUNTRY_VARIABLE} is not set"
    return country, Intensity(g_per_kwh=round(kg_per_kwh * 1000, 6), source=source)


def _wanted(config: dict[str, Any]) -> tuple[str | None, str]:
    """The country's code, and where it is said."""
    own = os.environ.get(COUNTRY_VARIABLE, "").strip().upper()
    if own:
        return own, COUNTRY_VARIABLE
    configured = str(config.get("country_iso_code") or "").strip().upper()
    return configured or None, "codecarbon's country_iso_code"


def _positive(text: object) -> float | None:
    try:
        value = float(str(text))
    except ValueError:
        return None
    return value if 0 < value < float("inf") else None


def countries() -> dict[str, str]:
    """Every country that can be counted for: its three letters -> its name; none if none is known.

    codecarbon is not imported for it, which would take half a second.
    """
    found = find_spec("codecarbon")
    if found is None or not found.submodule_search_locations:
        return {}
    path = Path(found.submodule_search_locations[0]) / _TABLE
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # a broken installation; whoever measures with it says so
        return {}
    return {code: str(entry.get("country_name", code)) for code, entry in table.items()}
