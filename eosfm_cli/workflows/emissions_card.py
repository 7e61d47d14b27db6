"""What something took, for a model card on the hub and for a paper."""

from __future__ import annotations

import yaml

from eosfm_cli.words import counted
from eosfm_cli.workflows.emissions import EmissionsResult

_PARTS = {"cpu": "processor", "gpu": "GPU", "ram": "memory"}
_KINDS = {"train-specialist": "pre-training", "fit-ensemble": "fine-tuning"}


def emissions_card(result: EmissionsResult) -> str:
    """The hub's `co2_eq_emissions` block, then sentences with method and uncertainty."""
    entry = {
        "emissions": float(f"{1000 * result.total.emissions_kg:.4g}"),  # g
        "source": ", ".join(result.tools) or "eosfm's own records",
        "training_type": " and ".join(
            kind for name, kind in _KINDS.items() if name in result.commands
        ),
        "geographical_location": "; ".join(result.places),
        "hardware_used": "; ".join(result.hardware),
    }
    block = {"co2_eq_emissions": {key: value for key, value in entry.items() if value != ""}}
    text = yaml.safe_dump(block, sort_keys=False, allow_unicode=True, width=1000)
    return f"---\n{text}---\n\n{_sentences(result)}\n"


def _sentences(result: EmissionsResult) -> str:
    total = result.total
    runs = sum(row.runs for row in result.rows)
    said = [
        f"{counted(runs, 'stage')} of computing took {total.seconds / 3600:.3g} h "
        f"and {total.energy_kwh:.3g} kWh of electricity, which caused "
        f"{1000 * total.emissions_kg:.3g} g CO₂eq.",
        *_where(result),
        *_how(result),
        *_missing(result),
    ]
    return " ".join(said)


def _where(result: EmissionsResult) -> list[str]:
    hardware = [f"It ran on {'; '.join(result.hardware)}."] if result.hardware else []
    intensities = "; ".join(result.intensities)
    electricity = [f"Electricity was counted at {intensities}."] if intensities else []
    return [*hardware, *electricity]


def _how(result: EmissionsResult) -> list[str]:
    """The method, and how far it is known to be right."""
    if not result.methods:
        return (
            ["How its parts were measured is not recorded here."] if result.total.energy_kwh else []
        )
    shares = ", ".join(f"{100 * share:.0f} % {how}" for how, share in result.methods.items())
    tools = " and ".join(result.tools)
    measured = result.methods.get("measured", 0.0) * result.total.energy_kwh
    sure = f"at least {measured:.3g} kWh were measured" if measured else "none was measured"
    return [
        f"Of the energy, by {tools}, the method was: {shares}.",
        f"No error is known for what is modelled or constant: {sure}.",
        "It is that of processor, GPU and memory while the work ran; the start of the program, "
        "other parts of the machine, "
        f"{_building(result)}network and the making of the hardware are not in it.",
    ]


def _building(result: EmissionsResult) -> str:
    """What is said of cooling, which codecarbon counts where it was told a PUE."""
    if not result.pue:
        return "cooling, "
    factors = " or ".join(f"{pue:g}" for pue in result.pue)
    return f"the building's use beyond a PUE of {factors}, "


def _missing(result: EmissionsResult) -> list[str]:
    unmeasured = sum(result.unmeasured.values())
    have = "has" if unmeasured == 1 else "have"
    return [
        *([f"{unmeasured} of the stages {have} no figures of energy."] if unmeasured else []),
        *(
            [
                f"{result.side_by_side} stages ran side by side, and each counts all of the "
                f"machine's {', '.join(map(_PARTS.get, result.counted_twice))}."
            ]
            if result.side_by_side
            else []
        ),
    ]
