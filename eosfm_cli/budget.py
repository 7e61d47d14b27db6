"""How much energy, or greenhouse gas, a run may take."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from eosfm_cli.errors import UsageError
from eosfm_cli.results import Cost

_KWH = {"wh": 1e-3, "kwh": 1.0, "mwh": 1e3, "j": 1 / 3.6e6, "kj": 1 / 3600, "mj": 1 / 3.6}
_KG = {"mg": 1e-6, "g": 1e-3, "kg": 1.0, "t": 1e3}
_SHOWN_ENERGY = {"kWh": 1.0, "Wh": 1e-3}
_SHOWN_MASS = {"kg": 1.0, "g": 1e-3, "mg": 1e-6}
_QUANTITY = re.compile(r"\s*([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z]*)\s*")


@dataclass(frozen=True)
class Budget:
    """What may be used up; `None` where there is no limit."""

    energy_kwh: float | None = None
    emissions_kg: float | None = None

    def __bool__(self) -> bool:
        return self.energy_kwh is not None or self.emissions_kg is not None

    def spent(self, cost: Cost) -> bool:
        """Whether a cost is all of it, or more."""
        return _reached(cost.energy_kwh, self.energy_kwh) or _reached(
            cost.emissions_kg, self.emissions_kg
        )

    def options(self, factor: float = 1.0) -> str:
        """The options that say so many times as much."""
        given = []
        if self.energy_kwh is not None:
            given.append(f"--max-energy {_sized(self.energy_kwh * factor, _SHOWN_ENERGY)}")
        if self.emissions_kg is not None:
            given.append(f"--max-co2 {_sized(self.emissions_kg * factor, _SHOWN_MASS)}")
        return " ".join(given)


def _sized(amount: float, units: dict[str, float]) -> str:
    """In the largest unit that it has one of, else in the smallest."""
    unit = next((unit for unit, size in units.items() if amount >= size), list(units)[-1])
    return f"{amount / units[unit]:g}{unit}"


def _reached(amount: float, limit: float | None) -> bool:
    return limit is not None and amount >= limit


def parse_budget(max_energy: str | None, max_co2: str | None) -> Budget:
    """The budget that `--max-energy` and `--max-co2` say.

    Raises:
        UsageError: One of them is no such quantity.
    """
    return Budget(
        None if max_energy is None else _parsed("--max-energy", max_energy, _KWH, "0.5kWh"),
        None if max_co2 is None else _parsed("--max-co2", max_co2, _KG, "100g"),
    )


def _parsed(option: str, text: str, units: dict[str, float], example: str) -> float:
    match = _QUANTITY.fullmatch(text)
    hint = f"A number with its unit ({', '.join(map(_written, units))}), as in {option} {example}"
    if match is None:
        raise UsageError(f"{option} {text!r} is no amount.", hint=hint)
    number, unit = match.groups()
    if unit.lower() not in units:
        problem = f"has the unit {unit!r}" if unit else "has no unit"
        raise UsageError(f"{option} {text!r} {problem}.", hint=hint)
    try:
        value = float(number) * units[unit.lower()]
    except ValueError:
        raise UsageError(f"{option} {text!r} is no amount.", hint=hint) from None
    if not 0 < value < math.inf:
        raise UsageError(f"{option} {text!r} leaves nothing to work with.", hint=hint)
    return value


def _written(unit: str) -> str:
    return {"wh": "Wh", "kwh": "kWh", "mwh": "MWh", "j": "J", "kj": "kJ", "mj": "MJ"}.get(
        unit, unit
    )
