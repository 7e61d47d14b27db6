"""Fit one recipe with several settings, and see what each gives for what it costs."""

from __future__ import annotations

import json
import os
import platform
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean, stdev
from tempfile import TemporaryDirectory
from typing import Any

from torch import distributed

from eosfm_cli.budget import Budget
from eosfm_cli.data.datamodule import build_datamodule
from eosfm_cli.data.sources import located
from eosfm_cli.ensemble.encoder import plan_specialists
from eosfm_cli.errors import BudgetReached, EosfmError, Interrupted, UsageError
from eosfm_cli.progress import Logged, Progress
from eosfm_cli.raster.scoring import best_device, describe_device
from eosfm_cli.recipe import FitSpec, Recipe, load_recipe
from eosfm_cli.results import (
    Cost,
    SweepFailure,
    SweepPlan,
    SweepResult,
    SweepRow,
    SweepState,
    lower_is_better,
)
from eosfm_cli.run_dir import (
    RunDir,
    check_makeable,
    fresh_folder,
    leads,
    now,
    write_text,
)
from eosfm_cli.sweeps import (
    SWEEP,
    Combination,
    Value,
    at_most,
    plan_sweep,
    title,
    varying,
)
from eosfm_cli.training.forward_cost import forward_cost
from eosfm_cli.training.model import load_model
from eosfm_cli.training.task import METRICS
from eosfm_cli.workflows.encoders import find_encoders
from eosfm_cli.workflows.fit_ensemble import fit_ensemble, plan_fit
from eosfm_cli.workflows.shared_search import take_search
from eosfm_cli.workflows.sweep_table import mark_pareto, write_sweep
from eosfm_cli.workflows.terse import Terse

Explain = Callable[[Exception], tuple[str, str | None, int]]
"""An error -> message, hint and exit code, as the user meets them."""


@dataclass
class _Member:
    """A combination, and what has become of it."""

    combination: Combination
    title: str
    run: RunDir | None = None
    measured: dict[str, Any] = field(default_factory=dict)
    """Of the model: `flops`, `seconds`, `machine`."""
    failure: SweepFailure | None = None

    @property
    def fitted(self) -> bool:
        """Whether there is a model."""
        return self.run is not None and self.run.state == "completed" and self.run.model.is_file()

    @property
    def done(self) -> bool:
        """Whether all is known of it."""
        return self.fitted and bool(self.measured)

    @property
    def begun(self) -> RunDir | None:
        """The run to go on with, if there is one that can be."""
        unfinished = self.run is not None and self.run.config.is_file() and not self.fitted
        return self.run if unfinished else None

    @property
    def pixels(self) -> int:
        """Of the tile that was measured."""
        return self.combination.recipe.tile.size**2

    @property
    def cost(self) -> Cost:
        """What its run has taken."""
        summary = {} if self.run is None else self.run.read_summary()
        return Cost(*(float(summary.get(key) or 0) for key in vars(Cost())))


def start_sweep(
    name: str,
    axes: Mapping[str, Sequence[Value]],
    overrides: Mapping[str, Any],
    *,
    root: Path,
    data_root: Path | None,
    progress: Progress,
    strict: bool = False,
    dry_run: bool = False,
) -> Sweep:
    """Check what a sweep needs, once for all of its fits; nothing is fitted yet.

    Args:
        name: A recipe's name or path.
        axes: Key of `fit` -> the values to try.
        overrides: What else is laid over the recipe.
        root: The experiments folder.
        data_root: Where datasets are; `EOSFM_DATA` or `data` if not given.
        progress: Who is told.
        strict: Treat numbers of specialists above those that are usable as errors.
        dry_run: Write no export.

    Raises:
        RecipeError: A combination is no recipe.
        DataError: The dataset or the ensemble is missing or unusable.
        BandError: No specialist can be fed from the recipe's bands.
        OutputError: The experiments folder cannot be written.
    """
    check_makeable(root)
    combinations = plan_sweep(name, axes, overrides)
    recipe, usable = _resolved(combinations[0].recipe, root, data_root, progress, dry_run=dry_run)
    if "top_k" in axes:
        asked = axes["top_k"]
        taken = at_most(asked, usable, strict=strict)
        if too_many := [k for k, used in zip(asked, taken, strict=True) if k and used is None]:
            everybody = f"all {usable} usable specialists are"
            if usable == 1:
                everybody = "the only usable specialist is"
            progress.say(f"top-k {', '.join(map(str, too_many))}: {everybody} kept")
        combinations = plan_sweep(name, {**axes, "top_k": taken}, overrides)
    keys = varying([one.settings for one in combinations])
    shown = tuple(key for key in keys if key in axes)
    members = [
        _Member(
            replace(one, recipe=_with(recipe, one.settings)),
            title(one.settings, shown) or recipe.name,
        )
        for one in combinations
    ]
    return Sweep(root, recipe, shown, members, strict=strict)


def _resolved(
    recipe: Recipe, root: Path, data_root: Path | None, progress: Progress, *, dry_run: bool
) -> tuple[Recipe, int]:
    """The recipe with what all fits share, and how many specialists are usable."""
    with TemporaryDirectory() as folder:
        gathered = Path(folder) / "ensemble.safetensors" if dry_run else None
        encoders = find_encoders(recipe, root, progress, gather_into=gathered)
    infos = [specialist.info for specialist in encoders.specialists]
    usable = len(plan_specialists(infos, recipe.bands, declared=recipe.views).usable)
    data = build_datamodule(located(recipe, data_root), None, spec=recipe.fit, progress=progress)
    fit = recipe.fit if dry_run else encoders.spec
    return data.recipe.model_copy(update={"fit": fit}), usable


def _with(recipe: Recipe, settings: Mapping[str, Any]) -> Recipe:
    fit = FitSpec.model_validate({**recipe.fit.model_dump(), **settings})
    return recipe.model_copy(update={"fit": fit})


def resume_sweep(folder: Path) -> Sweep:
    """A sweep that was begun, with what is done of it.

    Raises:
        UsageError: All of it is done, or the folder does not say what is to be done.
    """
    run = RunDir(folder)
    summary, recipe = run.read_summary(), load_recipe(str(run.config))
    root = run.experiments
    try:
        axes, strict = tuple(summary["axes"]), bool(summary["strict"])
        members = [
            _Member(
                Combination(one["settings"], _with(recipe, one["settings"])),
                title(one["settings"], axes) or recipe.name,
                RunDir(root / one["run"]) if one["run"] else None,
                dict(one["measured"]),
            )
            for one in summary["combinations"]
        ]
    except (LookupError, TypeError, ValueError):
        raise UsageError(
            f"Cannot resume {folder}: its {run.summary.name} is damaged.",
            hint="Its runs are in the folder of fits: eosfm compare",
        ) from None
    if all(member.done for member in members):
        raise UsageError(
            f"{folder} is finished: there is nothing to go on with.",
            hint=f"Its table is {folder / 'sweep.csv'}.",
        )
    return Sweep(root, recipe, axes, members, strict=strict, folder=run)


class Sweep:
    """Fits that differ in some settings.

    Args:
        root: The experiments folder.
        recipe: What they have in common, complete.
        axes: In what they differ.
        members: One for each combination, in the order in which they are fitted.
        strict: Treat numbers of specialists above those that are usable as errors.
        folder: Where it is noted what is done; made when the first fit begins, if not given.
    """

    def __init__(
        self,
        root: Path,
        recipe: Recipe,
        axes: tuple[str, ...],
        members: Sequence[_Member],
        *,
        strict: bool,
        folder: RunDir | None = None,
    ) -> None:
        self.root, self.recipe, self.axes, self.strict = root, recipe, axes, strict
        self.members = members
        self._folder = folder
        self._state: SweepState = "completed"

    @property
    def titles(self) -> tuple[str, ...]:
        """What the combinations are called."""
        return tuple(member.title for member in self.members)

    @property
    def _missing(self) -> list[_Member]:
        return [member for member in self.members if not member.done]

    @property
    def cost(self) -> Cost:
        """What all runs have taken."""
        return sum((member.cost for member in self.members), Cost())

    # ----------------------------------------------------------------------- plan

    def plan(self, *, data_root: Path | None, progress: Progress, explain: Explain) -> SweepPlan:
        """What the fits would take, from a few steps of each; nothing is kept.

        Args:
            data_root: Where datasets are, if not where the sweep's recipe has them.
            progress: Who is told.
            explain: Puts what cannot be fitted into words.
        """
        told, plans, failed = Terse(progress), {}, []
        counted: set[object] = set()
        for member in self._missing:
            recipe, search = member.combination.recipe, member.combination.search
            told.begin(f"trying {member.title}")
            try:
                plan = plan_fit(
                    recipe,
                    root=self.root,
                    data_root=data_root,
                    strict=self.strict,
                    progress=told,
                )
            except Exception as error:  # it loses no other combination
                failed.append(SweepFailure(member.title, *explain(error)))
                continue
            tiles = "encode", member.combination.tiles
            once = {"encode": tiles, "search": search}  # what the fits after it find there
            left = [phase for phase in plan.phases if once.get(phase.name) not in counted]
            counted |= {once.get(phase.name) for phase in plan.phases} - {None}
            plans[member.title] = replace(plan, phases=tuple(left))
        return SweepPlan(self.recipe.name, plans, tuple(failed))

    # ----------------------------------------------------------------------- fit

    def fit(
        self,
        *,
        data_root: Path | None,
        progress: Progress,
        explain: Explain,
        budget: Budget | None = None,
    ) -> None:
        """Fit what is not fitted yet, one after the other; a failure ends its own fit only.

        Args:
            data_root: Where datasets are, if not where the sweep's recipe has them.
            progress: Who is told.
            explain: Puts what cannot be fitted into words.
            budget: What all fits together may take.

        Raises:
            Interrupted: By the user; what is done is kept.
            UsageError: Another process works on the sweep.
            OutputError: The sweep's folder cannot be written.
        """
        if leads() and self._folder is None:
            self._folder = RunDir(fresh_folder(self.root / SWEEP / self.recipe.name))
            write_text(self._folder.config, self.recipe.to_yaml())
            self._note(kind=SWEEP, name=self.recipe.name, started=now())
        with self._folder.hold() if self._folder and leads() else nullcontext():
            self._note(state="running")
            try:
                self._fit_each(data_root, Terse(progress), explain, budget or Budget())
            except Interrupted:
                self._state = "interrupted"
                raise
            finally:
                with suppress(EosfmError):  # what ended the work matters more
                    self._note(state=self._state, finished=now())

    def _fit_each(
        self, data_root: Path | None, told: Terse, explain: Explain, budget: Budget
    ) -> None:
        missing = self._missing
        if leads() and self._folder:
            told.say(f"sweep folder: {self._folder.path}")
        for number, member in enumerate(missing, 1):
            if budget and budget.spent(self.cost):
                self._state = "budget"
                return
            told.begin(f"fit {number} of {len(missing)}: {member.title}")
            try:
                if not member.fitted:
                    self._fit(member, data_root, told, budget)
                self._measure(member)
            except BudgetReached:
                self._state = "budget"
                return
            except Exception as error:  # it loses no other combination
                member.failure = SweepFailure(member.title, *explain(error))
                told.warn(f"{member.title} cannot be fitted: {member.failure.message}")
                self._state = "failed"
                if distributed.is_initialized():
                    return  # nobody can tell whether the other processes are still there

    def _fit(self, member: _Member, data_root: Path | None, told: Terse, budget: Budget) -> None:
        def opened(run: RunDir) -> None:
            told.prepared()
            if leads():
                member.run = run
                self._note()
                self._share_search(member, told)
            if distributed.is_initialized():
                distributed.barrier()  # all processes see the same checkpoints from here on

        begun = member.begun
        fit_ensemble(
            load_recipe(str(begun.config)) if begun else member.combination.recipe,
            root=self.root,
            data_root=data_root,
            progress=told,
            strict=self.strict,
            resume=begun,
            budget=self._left(budget, member),
            opened=opened,
        )

    def _left(self, budget: Budget, member: _Member) -> Budget:
        """What a run may take, with what it took before, after what the others took."""
        others = sum((one.cost for one in self.members if one is not member), Cost())
        return Budget(
            None if budget.energy_kwh is None else budget.energy_kwh - others.energy_kwh,
            None if budget.emissions_kg is None else budget.emissions_kg - others.emissions_kg,
        )

    def _share_search(self, member: _Member, told: Progress) -> None:
        """Lay what another run has found out about the specialists into a new one.

        A search tries all specialists in the same way, however many are kept in the end. The run
        then goes on behind it, as a resumed one does.
        """
        run, search = member.run, member.combination.search
        if run is None or search is None or run.read_summary().get("scores"):
            return
        for other in self.members:
            if other is member or other.combination.search != search or other.run is None:
                continue
            if take_search(other.run, run):
                text = f"the specialists were compared in {other.run.path}: once is enough"
                Logged(told, run.log).say(text)
                return

    def _measure(self, member: _Member) -> None:
        if not leads() or member.run is None:
            return
        device = best_device()
        size, dates = self.recipe.tile.size, (2,) if self.recipe.task == "change" else ()
        shape = (1, len(self.recipe.bands), *dates, size, size)
        found = forward_cost(load_model(member.run.model).module, shape, device)
        member.measured = {
            "flops": found.flops,
            "seconds": found.seconds,
            "machine": f"{describe_device(device)} of {platform.node()}",
        }
        self._note()

    def _note(self, **entries: Any) -> None:  # noqa: ANN401 - JSON
        if not leads() or self._folder is None:
            return
        combinations = [
            {
                "settings": member.combination.settings,
                "run": member.run and os.path.relpath(member.run.path, self.root),
                "measured": member.measured,
            }
            for member in self.members
        ]
        self._folder.write_summary(
            axes=self.axes, strict=self.strict, combinations=combinations, **entries
        )

    # ----------------------------------------------------------------------- result

    def result(self, progress: Progress) -> SweepResult:
        """Write the table, as CSV, JSON and chart, of what is fitted by now.

        Args:
            progress: Told what makes fits hard to compare.

        Raises:
            OutputError: A file cannot be written.
        """
        done = [member for member in self.members if member.done]
        missing = [member.title for member in self._missing] if leads() else []
        folder = self._folder or RunDir(self.root / SWEEP / self.recipe.name)
        resume = f"eosfm fit-ensemble --resume {shlex.quote(str(folder.path))}"
        result = SweepResult(
            recipe=self.recipe.name,
            task=self.recipe.task,
            metric_name=METRICS[self.recipe.task],
            folder=folder.path,
            state=self._state,
            axes=tuple(key for key in self.axes if key != "seed"),
            rows=self._rows(done),
            failed=tuple(member.failure for member in self.members if member.failure),
            missing=tuple(missing),
            tile=self.recipe.tile.size,
            machine=" and ".join(dict.fromkeys(one.measured["machine"] for one in done)),
            cost=self.cost,
            resume=resume if missing else None,
            csv=folder.path / "sweep.csv",
            json=folder.path / "sweep.json",
            png=folder.path / "sweep.png",
        )
        if len({json.dumps(_facts(member), sort_keys=True) for member in done}) > 1:
            progress.warn("not all of these saw the same data and ensemble: compare with care")
        if leads() and self._folder is not None:
            write_sweep(result)
        return result

    def _rows(self, done: Sequence[_Member]) -> tuple[SweepRow, ...]:
        keys = [key for key in self.axes if key != "seed"]
        groups: dict[str, list[_Member]] = {}
        for member in done:
            name = title(member.combination.settings, keys) or self.recipe.name
            groups.setdefault(name, []).append(member)
        metric = METRICS[self.recipe.task]
        rows = [_row(name, members, metric) for name, members in groups.items()]
        ordered = sorted(rows, key=lambda row: row.score, reverse=not lower_is_better(metric))
        return mark_pareto(ordered, metric)


def _facts(member: _Member) -> object:
    return member.run and member.run.read_summary().get("facts")


def _row(name: str, members: Sequence[_Member], metric: str) -> SweepRow:
    """Members that differ by their seed alone."""
    runs = [member.run for member in members if member.run is not None]
    found = [run.read_summary() for run in runs]
    scores = [float(summary["metrics"][metric]) for summary in found]
    return SweepRow(
        title=name,
        settings=members[0].combination.settings,
        runs=tuple(run.path for run in runs),
        seeds=tuple(member.combination.recipe.fit.seed for member in members),
        score=mean(scores),
        spread=stdev(scores) if len(scores) > 1 else None,
        specialists=tuple(dict.fromkeys(s for summary in found for s in summary["specialists"])),
        parameters=round(mean(summary["parameters"] for summary in found)),
        trainable=round(mean(summary["trainable"] for summary in found)),
        flops_per_pixel=mean(one.measured["flops"] / one.pixels for one in members),
        latency=mean(one.measured["seconds"] for one in members),
        seconds=mean(one.cost.seconds for one in members),
        energy_kwh=mean(one.cost.energy_kwh for one in members),
    )
