"""The life of one run folder: opened, tracked, and closed in a state that says how it ended.

Where training runs on several devices, Lightning starts this program once more for each further
one. Those followers share the leader's folder; the leader alone writes to it and tells anything.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import distributed

from eosfm_cli.budget import Budget
from eosfm_cli.carbon.ledger import cost_of_run
from eosfm_cli.carbon.power import Power
from eosfm_cli.carbon.tracker import Meter, track
from eosfm_cli.errors import BudgetReached, EosfmError, Interrupted, UsageError
from eosfm_cli.progress import Logged, Progress, Silent
from eosfm_cli.results import Cost, WorkPlan
from eosfm_cli.run_dir import (
    COMMANDS,
    Kind,
    RunDir,
    State,
    clear_leftovers,
    create_run,
    leads,
    now,
    write_text,
)
from eosfm_cli.training.callbacks import KeepBudget
from eosfm_cli.training.trainer import library_messages_to

_SHARED = "EOSFM_RUN"
"""How the leader tells its first followers, which inherit its environment, where the run is."""


@dataclass
class Running:
    """A run that is under way."""

    run: RunDir
    progress: Progress
    """Tells the user and the run's log."""
    leads: bool
    """Whether this process writes the run's products."""
    meter: Meter
    before: Cost = field(default_factory=Cost)
    """What the run took before it was resumed."""
    entries: dict[str, Any] = field(default_factory=dict)
    """What the summary will say."""
    budget: Budget = field(default_factory=Budget)
    """What the run may take, with what it took before."""
    epochs: int = 0
    """How many there are in all, for an estimate once the first one is over."""
    estimate: Cost | None = None
    """What the run was expected to take, once its first epoch was over."""
    prepared: Cost | None = None
    """What it had taken when its first epoch began."""
    warned: bool = False

    @property
    def cost(self) -> Cost:
        """What the run has taken so far; complete once it is closed."""
        return self.before + self.meter.cost

    @property
    def settled_cost(self) -> Cost:
        """The same for files that keep it: also of a run too short to be measured."""
        return self.before + self.meter.settled_cost

    def note_cost(self) -> None:
        """Write down what the run has taken so far, should it be killed before its end."""
        if self.leads:
            self.meter.flush()
            self._note_estimate()
            self.run.write_summary(**asdict(self.cost))

    def begin_epochs(self) -> None:
        """Note that what went before was done once for all epochs."""
        self.prepared = self.prepared or self.meter.cost

    def _note_estimate(self) -> None:
        """Multiply the first epoch of a run from its beginning, and add what went before it."""
        cost, once = self.meter.cost, self.prepared or Cost()
        if self.epochs > 1 and self.estimate is None and self.before == Cost():
            self.estimate = once + (cost + once.times(-1)).times(self.epochs)
            self.run.write_summary(estimate=asdict(self.estimate))

    def spent(self) -> bool:
        """Whether the budget is used up; where nothing is measured, nobody can say so."""
        if not self.budget or not self.leads:
            return False
        if self.meter.problem and not self.warned:
            self.warned = True
            self.progress.warn(f"the budget cannot be watched: {self.meter.problem}")
        return self.budget.spent(self.cost)

    @property
    def keep_budget(self) -> KeepBudget | None:
        """What ends training at the budget, where there is one; the followers ask their leader."""
        return KeepBudget(self.spent, self.budget_reached) if self.budget else None

    def keep_within(self) -> None:
        """End what is being done, if the budget is used up.

        Raises:
            BudgetReached: It is.
        """
        if self.spent():
            raise self.budget_reached()

    def budget_reached(self) -> BudgetReached:
        """Say that the run stops as its budget is used up, and what there is of it."""
        best = self.run.best.is_file()
        cost = self.cost
        took = f"{1000 * cost.energy_kwh:.3g} Wh, {1000 * cost.emissions_kg:.3g} g CO₂eq"
        kept = f"the best epoch so far is in {self.run.best}" if best else "no epoch was finished"
        more = f"{self.run.resume_command} {self.budget.options(2)}"
        as_it_is = f", or take it as it is: eosfm export {self.run.best}"
        return BudgetReached(
            f"The budget ({self.budget.options()}) is used up: {took}; {kept}.",
            hint=f"Go on with more: {more}{as_it_is if best and self.is_training else ''}",
        )

    @property
    def is_training(self) -> bool:
        """Whether a specialist comes of it, which an export takes."""
        return self.run.read_summary().get("kind") == "train"


@contextmanager
def open_run(
    kind: Kind,
    name: str,
    config: str,
    root: Path,
    progress: Progress,
    *,
    resume: RunDir | None = None,
    facts: Mapping[str, Any] | None = None,
    budget: Budget | None = None,
    devices: int = 1,
) -> Iterator[Running]:
    """Run something in a run folder of its own, and write its summary however it ends.

    Args:
        kind: What is done.
        name: The specialist or recipe.
        config: The resolved configuration, as YAML.
        root: The experiments folder.
        progress: Who is told.
        resume: Go on in this folder, which keeps its configuration.
        facts: What must not change between a run and its continuation: what is known of the data
            and of other inputs, as plain values.
        budget: What the run may take.
        devices: How many GPUs it uses, where there are any.

    Raises:
        UsageError: Another process works in the run, or the facts are no longer the same.
        OutputError: The folder cannot be written.
    """
    if not leads():
        with library_messages_to(Path(os.devnull)):
            yield _follow(budget or Budget())
        return
    run = _shared(resume or create_run(root, kind, name))
    with run.hold():
        if resume is None:
            write_text(run.config, config)
            run.write_summary(facts=facts or {})
        else:
            _check_facts(run, facts or {})
            clear_leftovers(run.path)
        with _tracked(
            kind, name, run, root, progress, resumed=resume is not None, devices=devices
        ) as running:
            running.budget = budget or Budget()
            yield running


@contextmanager
def _tracked(
    kind: Kind,
    name: str,
    run: RunDir,
    root: Path,
    progress: Progress,
    *,
    resumed: bool,
    devices: int,
) -> Iterator[Running]:
    state: State = "failed"
    running: Running | None = None
    before = cost_of_run(root, run.path) or _cost_so_far(run)
    about = {"recipe": name} | ({"specialist": name} if kind == "train" else {})
    try:
        progress.say(f"run folder: {run.path}")
        if resumed:
            run.write_summary(state="running", resumed=now())
            if not _has_checkpoint(run):
                progress.say("no epoch was finished: it begins anew")
        with (
            library_messages_to(run.log),
            track(
                root,
                command=COMMANDS[kind],
                name=name,
                **about,
                run=run.path,
                gpus=devices,
                progress=progress,
            ) as meter,
        ):
            running = Running(run, Logged(progress, run.log), True, meter, before)
            yield running
        state = "completed"
    except (Interrupted, BudgetReached):
        state = "interrupted"
        raise
    finally:
        # what ended the run matters more than that its end cannot be noted, say on a full disk
        with nullcontext() if state == "completed" else suppress(EosfmError):
            _close(run, running, state)
        if state != "completed" and _has_checkpoint(run):
            progress.say(f"to go on: {run.resume_command}")


def _has_checkpoint(run: RunDir) -> bool:
    return any(run.checkpoints.rglob(run.last.name))


def _close(run: RunDir, running: Running | None, state: State) -> None:
    entries = running.entries if running else {}
    cost = asdict(running.cost) if running else {}
    run.write_summary(**entries, **cost, finished=now(), state=state)


def _cost_so_far(run: RunDir) -> Cost:
    summary = run.read_summary()
    return Cost(**{key: float(summary.get(key) or 0) for key in asdict(Cost())})


def _check_facts(run: RunDir, facts: Mapping[str, Any]) -> None:
    before = run.read_summary().get("facts") or {}
    changed = [
        f"  {key}: {before[key]} then, {value} now"
        for key, value in facts.items()
        if key in before and before[key] != value
    ]
    if changed:
        raise UsageError(
            "\n".join([f"What {run.path} works on has changed since it began:", *changed]),
            hint="Bring back what was there, or start a run of its own without --resume.",
        )


def _shared(run: RunDir) -> RunDir:
    """Tell the followers, running already or yet to be started, where the run is."""
    os.environ[_SHARED] = str(run.path.absolute())
    if distributed.is_initialized():
        distributed.broadcast_object_list([os.environ[_SHARED]])
    return run


def _follow(budget: Budget) -> Running:
    path = [os.environ[_SHARED]]
    if distributed.is_initialized():
        distributed.broadcast_object_list(path)
    run = RunDir(Path(path[0]))
    return Running(run, Silent(), leads=False, meter=Meter(idle=True), budget=budget)


def with_power(plan: WorkPlan, power: Power, devices: int) -> WorkPlan:
    """A plan with the power of the steps that were tried, which ran on one device."""
    return replace(plan, watts=power.watts * devices, g_per_kwh=power.g_per_kwh)
