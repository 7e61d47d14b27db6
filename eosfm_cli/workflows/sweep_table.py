"""What a sweep shows: its Pareto sets, table, JSON and chart."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

from eosfm_cli.results import SweepResult, SweepRow, TradeOff, lower_is_better, to_json
from eosfm_cli.run_dir import write_csv, write_text
from eosfm_cli.sweeps import undominated
from eosfm_cli.training.plots import draw_sweep


def mark_pareto(rows: Sequence[SweepRow], metric: str) -> tuple[SweepRow, ...]:
    """Note in each row against which costs no other row beats it."""
    sign = -1 if lower_is_better(metric) else 1
    sets = {
        kind: undominated([(sign * row.score, row.cost(kind)) for row in rows])
        for kind in get_args(TradeOff)
        if any(row.cost(kind) for row in rows)  # where nobody measured, nothing is told
    }
    return tuple(
        replace(row, pareto=tuple(kind for kind, chosen in sets.items() if chosen[index]))
        for index, row in enumerate(rows)
    )


def write_sweep(result: SweepResult) -> None:
    """Write table, JSON and chart.

    Raises:
        OutputError: A file cannot be written.
    """
    columns = [*result.axes, result.metric_name, "spread", "seeds", "parameters", "trainable"]
    columns += ["flops_per_pixel", "latency_seconds", "energy_kwh", "seconds"]
    columns += [f"pareto_{kind}" for kind in get_args(TradeOff)]
    columns += ["specialists", "runs"]
    write_csv(result.csv, columns, [_cells(row, result.axes) for row in result.rows])
    write_text(result.json, json.dumps(to_json(result), indent=2, ensure_ascii=False) + "\n")
    if result.rows:
        draw_sweep(result.png, result)


def _cells(row: SweepRow, axes: Sequence[str]) -> list[object]:
    return [
        *("all" if row.settings[key] is None else row.settings[key] for key in axes),
        row.score,
        row.spread,
        " ".join(map(str, row.seeds)),
        row.parameters,
        row.trainable,
        row.flops_per_pixel,
        row.latency,
        row.energy_kwh,
        row.seconds,
        *("yes" if kind in row.pareto else "no" for kind in get_args(TradeOff)),
        " ".join(row.specialists),
        " ".join(map(str, row.runs)),
    ]
