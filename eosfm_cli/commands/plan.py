"""What `--dry-run` shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from eosfm_cli.commands import figures
from eosfm_cli.commands.console import write_json, write_table

if TYPE_CHECKING:
    from eosfm_cli.results import PhasePlan, WorkPlan


def show_plans(plans: Sequence[WorkPlan], *, as_json: bool) -> None:
    """Write plans to stdout, one table each."""
    if as_json:
        write_json({"plans": [_entry(plan) for plan in plans]})
        return
    for plan in plans:
        write_table(["would run", plan.recipe], _rows(plan))


def _entry(plan: WorkPlan) -> dict[str, object]:
    return {**asdict(plan), "seconds": plan.seconds, "disk_bytes": plan.disk_bytes}


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
        ["memory", figures.size(memory)],
        ["disk", figures.size(plan.disk_bytes)],
    ]


def _phase(phase: PhasePlan) -> list[list[str | None]]:
    parameters, trainable = figures.count(phase.parameters), figures.count(phase.trainable)
    return [
        [phase.name, f"{phase.epochs} epochs, {phase.steps} steps of {phase.step_seconds:.2g} s"],
        ["", f"{parameters} parameters, {trainable} of them trainable"],
        ["", f"about {figures.duration(phase.seconds)}"],
    ]


def _splits(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())
