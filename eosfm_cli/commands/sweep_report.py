"""`eosfm fit-ensemble` with several values: what is done, and what it shows."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from eosfm_cli.commands import figures, options
from eosfm_cli.commands.console import (
    ConsoleProgress,
    fits,
    next_command,
    write_json,
    write_table,
)
from eosfm_cli.errors import ExitCode, Interrupted, UsageError
from eosfm_cli.results import to_json
from eosfm_cli.words import counted

if TYPE_CHECKING:
    from eosfm_cli.budget import Budget
    from eosfm_cli.results import SweepFailure, SweepPlan, SweepResult, SweepRow
    from eosfm_cli.sweeps import Value
    from eosfm_cli.workflows.sweep import Sweep

_ALWAYS = ("score", "compute/px", "Pareto")
_FEWER: tuple[tuple[str, ...], ...] = (
    (),
    ("run",),
    ("run", "trained"),
    ("run", "trained", "time"),
    ("run", "trained", "time", "parameters"),
    ("run", "trained", "time", "parameters", "energy"),
    ("run", "trained", "time", "parameters", "energy", "latency"),
)
"""What is left out where the terminal is narrower and narrower."""


def sweep(
    recipe: str | None,
    axes: Mapping[str, Sequence[Value]],
    overrides: Mapping[str, Any],
    resume: Path | None,
    output: Path | None,
    budget: Budget,
    *,
    data_root: Path | None,
    strict: bool,
    progress: ConsoleProgress,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Fit every combination, or what is missing of a sweep that was begun, and show them all."""
    if resume is not None:
        _refuse_for_runs(resume, axes)
        begun = _begun(resume, recipe, {**axes, **overrides}, output, strict=strict)
        where = data_root
    else:
        _check(recipe, axes, overrides)
        from eosfm_cli.workflows.sweep import start_sweep  # seconds

        root = options.root(output)
        begun = start_sweep(
            str(recipe),
            axes,
            overrides,
            root=root,
            data_root=data_root,
            progress=progress,
            strict=strict,
            dry_run=dry_run,
        )
        where = None  # its recipe says by now where the data is
    if dry_run:
        plan = begun.plan(data_root=where, progress=progress, explain=_explain)
        _show_plan(plan, as_json=as_json)
        _end_badly(plan.failed, any_done=bool(plan.plans))
        return
    _fit(begun, where, progress, budget, as_json=as_json)


def _check(
    recipe: str | None, axes: Mapping[str, Sequence[Value]], overrides: Mapping[str, Any]
) -> None:
    """Say at once what is wrong with the recipe or the options."""
    from eosfm_cli.sweeps import plan_sweep

    if recipe is None:
        options.chosen(None, "fit", None, overrides)  # says what is missing
    else:
        plan_sweep(recipe, axes, overrides)


def _refuse_for_runs(folder: Path, axes: Iterable[str]) -> None:
    """Say that only a sweep has several values."""
    from eosfm_cli.sweeps import is_sweep

    if not is_sweep(folder):
        option = next(f"--{key.replace('_', '-')}" for key in axes)
        raise UsageError(
            f"{folder} is no sweep: it goes on with one value of {option}.",
            hint="Leave --resume out to fit them all.",
        )


def _begun(
    folder: Path,
    recipe: str | None,
    given: Mapping[str, Any],
    output: Path | None,
    *,
    strict: bool,
) -> Sweep:
    """The sweep to go on with.

    Raises:
        UsageError: It is finished or damaged, or something is asked that it has settled.
    """
    if recipe or given or output or strict:
        raise UsageError(
            f"{folder} is a sweep: it goes on with the recipe and the settings it began with.",
            hint="Leave them out. --max-energy, --max-co2, --data-root, --plugin, --dry-run and "
            "--json may be given.",
        )
    from eosfm_cli.workflows.sweep import resume_sweep  # seconds

    return resume_sweep(folder)


def _fit(
    begun: Sweep,
    data_root: Path | None,
    progress: ConsoleProgress,
    budget: Budget,
    *,
    as_json: bool,
) -> None:
    count = len(begun.titles)
    progress.say(f"sweep: {counted(count, 'combination')}: {'; '.join(begun.titles)}")
    stopped: Interrupted | None = None
    try:
        begun.fit(data_root=data_root, progress=progress, explain=_explain, budget=budget)
    except Interrupted as error:
        stopped = error  # what is done is shown before it ends the program
    result = begun.result(progress)
    if as_json:
        write_json(result)
    elif result.rows:
        _show(result)
    _tell(result, progress, budget)
    if stopped is not None:
        progress.say("stopped; what is done is kept")
        raise typer.Exit(stopped.exit_code) from None
    if result.state == "budget":
        raise typer.Exit(ExitCode.BUDGET)
    _end_badly(result.failed, any_done=bool(result.rows))


def _explain(error: Exception) -> tuple[str, str | None, int]:
    from eosfm_cli.commands.failure import explain

    failure = explain(error)
    return failure.message, failure.hint, failure.exit_code


def _end_badly(failed: Sequence[SweepFailure], *, any_done: bool) -> None:
    """End with a failure if there was one; where nothing succeeded, with its own exit code."""
    if failed:
        raise typer.Exit(ExitCode.FAILURE if any_done else failed[0].exit_code)


# ------------------------------------------------------------------------------ what is fitted


def _show(result: SweepResult) -> None:
    folders = {run.parent for row in result.rows for run in row.runs}
    cells = [_cells(row, result) for row in result.rows]
    for fewer in _FEWER:
        columns = [column for column in cells[0] if column not in fewer]
        headings = [result.metric_name if c == "score" else c for c in columns]
        rows = [[row[column] for column in columns] for row in cells]
        if fits(headings, rows):
            break
    write_table(headings, rows)
    progress = ConsoleProgress()
    progress.say(f"runs in {', '.join(map(str, sorted(folders)))}")
    best = [row.title for row in result.rows if "compute" in row.pareto]
    progress.say(f"Pareto set of {result.metric_name} and compute: {'; '.join(best)}")
    progress.say(
        f"compute and latency: of one tile of {result.tile} × {result.tile} pixels; "
        f"latency on {result.machine}"
    )
    progress.say(
        f"all runs: {figures.duration(result.cost.seconds)}, "
        f"{figures.energy(result.cost.energy_kwh)}; features and searches that several share "
        "count in the first of them"
    )


def _cells(row: SweepRow, result: SweepResult) -> dict[str, str | None]:
    spread = "" if row.spread is None else f" ± {figures.score(row.spread)}"
    names = {key: key.replace("_", "-") for key in result.axes}
    settings = {name: _setting(row.settings[key]) for key, name in names.items()}
    more = "" if len(row.runs) == 1 else f" and {len(row.runs) - 1} more"
    return {
        **(settings or {"fitted": row.title}),
        "score": f"{figures.score(row.score)}{spread}",
        "parameters": figures.count(row.parameters),
        "trained": figures.count(row.trainable),
        "compute/px": figures.operations(row.flops_per_pixel),
        "latency": figures.latency(row.latency),
        "time": figures.duration(row.seconds),
        "energy": figures.energy(row.energy_kwh),
        "Pareto": "yes" if "compute" in row.pareto else None,
        "run": f"{row.runs[0].name}{more}",
    }


def _setting(value: Value) -> str:
    return "all" if value is None else str(value)


def _tell(result: SweepResult, progress: ConsoleProgress, budget: Budget) -> None:
    """Say what could not be fitted, what is written, and what to type next."""
    for failure in result.failed:
        _tell_failure(failure, progress)
    if result.state == "budget":
        took = f"{figures.energy(result.cost.energy_kwh)}, {figures.mass(result.cost.emissions_kg)}"
        progress.warn(f"the budget of all fits ({budget.options()}) is used up: {took} CO₂eq")
    if result.missing:
        progress.say(f"not fitted: {'; '.join(result.missing)}")
    for path in (result.csv, result.json, result.png):
        if path.is_file():
            progress.say(f"wrote {path}")
    if result.resume is not None:
        more = f" {budget.options(2)}" if result.state == "budget" else ""
        next_command(f"{result.resume}{more}")
    if result.rows:
        best = shlex.quote(str(result.rows[0].runs[0]))
        next_command(f"{options.predict_command(result.task)} --model {best}")


def _tell_failure(failure: SweepFailure, progress: ConsoleProgress) -> None:
    hint = f"\n→ {failure.hint}" if failure.hint else ""
    progress.warn(f"{failure.title} was not fitted: {failure.message}{hint}")


# ------------------------------------------------------------------------------ what would be


def _show_plan(plan: SweepPlan, *, as_json: bool) -> None:
    if as_json:
        follows = ("seconds", "energy_kwh", "emissions_kg", "disk_bytes")
        plans = {
            name: {**to_json(one), **{key: getattr(one, key) for key in follows}}
            for name, one in plan.plans.items()
        }
        total = {**to_json(plan.cost), "disk_bytes": plan.disk_bytes}
        write_json({"plans": plans, "failed": plan.failed, "total": total})
    elif plan.plans:
        _show_plans(plan)
    for failure in plan.failed:
        _tell_failure(failure, ConsoleProgress())


def _show_plans(plan: SweepPlan) -> None:
    rows = [
        [
            name,
            ", ".join(phase.name for phase in one.phases),
            str(sum(phase.epochs for phase in one.phases if phase.name != "encode")),
            figures.count(one.phases[-1].parameters),
            figures.duration(one.seconds),
            figures.energy(one.energy_kwh),
            figures.size(one.disk_bytes),
        ]
        for name, one in plan.plans.items()
    ]
    cost = plan.cost
    write_table(
        ["would fit", "phases", "epochs", "parameters", "time", "energy", "disk"],
        rows,
        total=[
            f"all {len(rows)}, about",
            None,
            None,
            None,
            figures.duration(cost.seconds),
            figures.energy(cost.energy_kwh),
            figures.size(plan.disk_bytes),
        ],
    )
