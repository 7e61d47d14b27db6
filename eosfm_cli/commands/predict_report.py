"""What `eosfm predict` shows of scenes and images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from eosfm_cli.commands import figures
from eosfm_cli.commands.console import ConsoleProgress, write_json, write_table
from eosfm_cli.results import MapPlan, PredictResult, to_json

if TYPE_CHECKING:
    from eosfm_cli.results import LabelledImage, LabelResult, SceneOutcome, ValueSummary


_LONG_S = 10
"""Shorter work is over before anybody could expect anything."""


def show_outcomes(outcomes: Sequence[SceneOutcome], *, as_json: bool) -> None:
    """Write what became of scenes: of one what its map holds, of several a table."""
    if as_json:
        entries = [_entry(outcome) for outcome in outcomes]
        write_json(entries[0] if len(entries) == 1 else {"results": entries})
    elif len(outcomes) == 1:
        _show(outcomes[0])
    else:
        _show_all(outcomes)


def show_labels(result: LabelResult, *, as_json: bool) -> None:
    """Write what images show."""
    if as_json:
        write_json(result)
        return
    write_table(["file", "shows", "probability"], [_label(image) for image in result.images])
    progress = ConsoleProgress()
    progress.say(
        f"{len(result.images)} {'image' if len(result.images) == 1 else 'images'}, "
        f"time {figures.duration(result.cost.seconds)}, "
        f"energy {figures.energy(result.cost.energy_kwh)}"
    )
    for path in filter(None, (*(image.map for image in result.images), result.table)):
        progress.say(f"wrote {path}")


def _label(image: LabelledImage) -> list[str | None]:
    if not image.probabilities:
        return [str(image.input), "no data", None]
    found = [figures.score(image.probabilities[name]) for name in image.classes]
    return [str(image.input), ", ".join(image.classes) or "none", ", ".join(found) or None]


# --------------------------------------------------------------------------- several scenes


def _entry(outcome: SceneOutcome) -> dict[str, Any]:
    """An outcome as `--json` shows it."""
    common = {"input": outcome.input, "state": outcome.state, "output": outcome.output}
    entry: dict[str, Any] = {**common, "seconds": outcome.seconds}
    if outcome.result is not None:
        entry |= to_json(outcome.result)
    if outcome.error is not None:
        from eosfm_cli.commands.failure import as_entry, explain

        entry["error"] = as_entry(explain(outcome.error))
    return entry


def _show_all(outcomes: Sequence[SceneOutcome]) -> None:
    planned = any(outcome.state == "planned" for outcome in outcomes)
    columns = ["scene", "state", *(["windows", "disk"] if planned else ["map"]), "time"]
    seconds = sum(map(_seconds, outcomes))
    write_table(
        columns,
        [_row(outcome, planned=planned) for outcome in outcomes],
        total=[_counts(outcomes), *[None] * (len(columns) - 2), figures.duration(seconds)],
    )
    progress = ConsoleProgress()
    for outcome in outcomes:
        if outcome.error is not None:
            from eosfm_cli.commands.failure import explain

            failure = explain(outcome.error)
            name = "" if outcome.input in failure.message else f"{outcome.input}: "
            hint = f"\n→ {failure.hint}" if failure.hint else ""
            progress.say(f"{name}{failure.message}{hint}")


def _row(outcome: SceneOutcome, *, planned: bool) -> list[str | None]:
    plan = outcome.result if isinstance(outcome.result, MapPlan) else None
    seconds = _seconds(outcome)
    time = figures.duration(seconds) if seconds else None
    if planned:
        figure = [f"{plan.windows:,}", figures.size(plan.disk_bytes)] if plan else [None, None]
        return [outcome.input, outcome.state, *figure, time]
    there = outcome.state in ("mapped", "there")
    return [outcome.input, outcome.state, str(outcome.output) if there else None, time]


def _seconds(outcome: SceneOutcome) -> float:
    return outcome.result.seconds if isinstance(outcome.result, MapPlan) else outcome.seconds


def _counts(outcomes: Sequence[SceneOutcome]) -> str:
    states = [outcome.state for outcome in outcomes]
    return ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))


# --------------------------------------------------------------------------- one scene


def _show(outcome: SceneOutcome) -> None:
    if isinstance(outcome.result, MapPlan):
        _show_plan(outcome.result)
    elif outcome.result is not None:
        _show_map(outcome.result)


def _show_map(result: PredictResult) -> None:
    if result.values is None:
        _show_shares(result)
    else:
        _show_values(result.values, result.nodata_share)
    progress = ConsoleProgress()
    some = "polygon" if result.polygons == 1 else "polygons"
    polygons = "" if result.polygons is None else f", {result.polygons:,} {some}"
    progress.say(
        f"{result.width} × {result.height} pixels{polygons}, "
        f"time {figures.duration(result.cost.seconds)}, "
        f"energy {figures.energy(result.cost.energy_kwh)}"
    )
    if result.estimate is not None and result.cost.seconds >= _LONG_S:
        progress.say(
            "after the first row of windows, "
            f"{figures.duration(result.estimate.seconds)} and "
            f"{figures.energy(result.estimate.energy_kwh)} were expected"
        )
    written = (result.output, *result.products.values(), result.vector, result.quicklook)
    for path in filter(None, written):
        progress.say(f"wrote {path}")


def _show_values(values: ValueSummary, nodata_share: float) -> None:
    unit = "" if values.unit is None else f" {values.unit}"
    write_table(
        [values.name, "value"],
        [
            ["least", f"{values.min:.4g}{unit}"],
            ["mean", f"{values.mean:.4g}{unit}"],
            ["largest", f"{values.max:.4g}{unit}"],
        ],
        total=["no data", figures.share(nodata_share)],
    )


def _show_shares(result: PredictResult) -> None:
    shares = sorted(result.shares.items(), key=lambda item: -item[1])
    write_table(
        ["class", "share"],
        [[name, figures.share(value)] for name, value in shares],
        total=["no data", figures.share(result.nodata_share)],
    )


def _show_plan(plan: MapPlan) -> None:
    height, width = plan.window
    write_table(
        ["would map", plan.input],
        [
            ["scene", f"{plan.width:,} × {plan.height:,} pixels"],
            ["windows", f"{plan.windows:,} of {width} × {height} pixels"],
            ["with data", f"about {plan.computed:,}"],
            ["at once", str(plan.batch_size)],
            ["time", f"about {figures.duration(plan.seconds)}"],
            ["energy", f"about {figures.energy(plan.energy_kwh)}"],
            ["CO₂eq", f"about {figures.mass(plan.emissions_kg)}"],
            ["memory", figures.size(plan.memory_bytes)],
            ["disk", f"at most {figures.size(plan.disk_bytes)}"],
            ["free", figures.size(plan.free_bytes)],
            *(
                ["writes" if not number else "", str(path)]
                for number, path in enumerate(plan.outputs)
            ),
        ],
    )
