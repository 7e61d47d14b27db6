"""What `--dry-run` shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from eosfm_cli.commands import figures
from eosfm_cli.commands.console import ConsoleProgress, write_json, write_table
from eosfm_cli.words import counted

if TYPE_CHECKING:
    from eosfm_cli.results import Cost, PhasePlan, WorkPlan


def show_plans(plans: Sequence[WorkPlan], *, as_json: bool) -> None:
    """Write plans to stdout, one table each."""
    if as_json:
        write_json({"plans": [_entry(plan) for plan in plans]})
        return
    for plan in plans:
        write_table(["would run", plan.recipe], _rows(plan))


def tell_estimate(name: str, estimate: Cost | None, cost: Cost) -> None:
    """Say what a run was expected to take after its first epoch, beside what it took."""
    if estimate is not None:
        ConsoleProgress().say(
            f"{name}: after the first epoch, {_short(estimate)} was expected; "
            f"it took {_short(cost)}"
        )


def _short(cost: Cost) -> str:
    energy = [figures.energy(cost.energy_kwh)] if cost.energy_kwh else []
    return " and ".join([figures.duration(cost.seconds), *energy])


def _entry(plan: WorkPlan) -> dict[str, object]:
    follows = ("seconds", "energy_kwh", "emissions_kg", "disk_bytes")
    return {**asdict(plan), **{key: getattr(plan, key) for key in follows}}


def _rows(plan: WorkPlan) -> list[list[str | None]]:
    phases = [row for phase in plan.phases for row in _phase(phase)]
    memory = max(phase.memory_bytes for phase in plan.phases)
    specialists = [["specialists", ", ".join(plan.specialists)]] if plan.specialists else []
    return [
        ["data", str(plan.data)],
        ["bands", ", ".join(plan.bands)],
        ["images", _splits(plan.samples)],
        ["tiles", _splits(plan.tiles)],
        ["batch", " × ".join(map(str, plan.batch))],
        *specialists,
        *phases,
        ["time in all", f"about {figures.duration(plan.seconds)}"],
        ["energy in all", _about(figures.energy(plan.energy_kwh))],
        ["CO₂eq in all", _about(figures.mass(plan.emissions_kg))],
        ["memory", figures.size(memory)],
        ["disk", figures.size(plan.disk_bytes)],
    ]


def _about(figure: str) -> str:
    return figure if figure == figures.UNKNOWN else f"about {figure}"


def _phase(phase: PhasePlan) -> list[list[str | None]]:
    parameters, trainable = figures.count(phase.parameters), figures.count(phase.trainable)
    epochs = "once" if phase.stored_bytes else counted(phase.epochs, "epoch")
    what = (
        f"{figures.size(phase.stored_bytes)} of features"
        if phase.stored_bytes
        else f"{parameters} parameters, {trainable} of them trainable"
    )
    return [
        [phase.name, f"{epochs}, {counted(phase.steps, 'step')} of {phase.step_seconds:.2g} s"],
        ["", what],
        ["", f"about {figures.duration(phase.seconds)}"],
    ]


def _splits(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())
