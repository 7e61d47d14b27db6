"""Fits of one task side by side, from what their folders say."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from eosfm_cli.bands import nearest_word
from eosfm_cli.errors import DataError, EosfmError, UsageError
from eosfm_cli.recipe import OF_TIMM, SCRATCH, Recipe, load_recipe
from eosfm_cli.results import (
    MAIN_METRICS,
    CompareGroup,
    CompareResult,
    CompareRow,
    lower_is_better,
)
from eosfm_cli.run_dir import COMMANDS, RunDir, completed_runs, newest_first, newest_fit, write_csv
from eosfm_cli.sweeps import refuse_sweep
from eosfm_cli.words import counted
from eosfm_cli.workflows.resuming import dotted

_SAME_RESULT = (
    "dataset.",
    "training.",
    "statistics.",
    "fit.seed",
    "fit.workers",
    "fit.devices",
    "fit.cache",
)
"""Beginnings of keys that tell no fits of one test split apart, but for their seeds."""
_COLUMNS_OF_THEIR_OWN = {
    "fit.ensemble",
    "fit.fusion",
    "fit.top_k",
    "fit.selection",
    "fit.select_by",
    "fit.pretrained",
    "fit.label_fraction",
    "fit.freeze",
}


def compare(runs: Sequence[str], *, root: Path, csv: Path | None) -> CompareResult:
    """Put fits side by side, those that differ by their seed alone together.

    Args:
        runs: Run folders, or names of recipes for all of their completed fits; all of the newest
            fit's recipe if none is given.
        root: The experiments folder.
        csv: Also write a row per run here.

    Raises:
        DataError: There is no such fit, or one named does not say what it scored.
        UsageError: The fits are of different tasks or classes.
        OutputError: The CSV cannot be written.
    """
    fits, left_out = _read_all(runs, root)
    _refuse_different_tasks(fits)
    tests = _name_tests(fits)
    rows = {fit.run.path: _row(fit, fits, tests[fit.test_key]) for fit in fits}
    metric = fits[0].metric
    members: dict[str, list[CompareRow]] = defaultdict(list)
    for fit in fits:
        members[fit.group_key].append(rows[fit.run.path])
    groups = [_group(found) for found in members.values()]
    result = CompareResult(
        task=fits[0].recipe.task,
        metric_name=metric,
        groups=tuple(
            sorted(groups, key=lambda group: group.score, reverse=not lower_is_better(metric))
        ),
        tests=tuple(tests.values()),
        left_out=left_out,
        csv=csv,
    )
    if csv is not None:
        write_comparison(csv, result)
    return result


# --------------------------------------------------------------------------- which runs


def _read_all(runs: Sequence[str], root: Path) -> tuple[list[_Fit], dict[str, str]]:
    """The fits that are meant, newest first; why others of a recipe are left out."""
    fits: dict[Path, _Fit] = {}
    left_out: dict[str, str] = {}
    for given in runs or [newest_fit(root).name]:
        named = None if not runs else _folder(given)
        if named is not None:
            fits[named.path] = _read(named)
            continue
        for run in _of_recipe(given, root):
            try:
                fits[run.path] = _read(run)
            except EosfmError as error:
                left_out[str(run.path)] = error.message
    if not fits:
        raise DataError(
            "None of these fits can be compared:\n"
            + "\n".join(f"  {reason}" for reason in left_out.values())
        )
    ordered = newest_first(fit.run for fit in fits.values())
    return [fits[run.path] for run in ordered], left_out


def _folder(given: str) -> RunDir | None:
    path = Path(given)
    if path.is_file():
        path = path.parent
    refuse_sweep(path, "compare")
    return RunDir(path) if path.is_dir() and (path / "summary.json").exists() else None


def _of_recipe(name: str, root: Path) -> list[RunDir]:
    runs = completed_runs(root, "fit")
    names = {run.name for run in runs}
    if name not in names:
        near = nearest_word(name, names)
        raise DataError(
            f"{name} is neither the folder of a fit nor a recipe with one in {root}."
            + (f" Did you mean {near!r}?" if near else ""),
            hint="`eosfm runs --kind fit` lists the fits there are.",
        )
    return [run for run in runs if run.name == name]


# --------------------------------------------------------------------------- one run


@dataclass(frozen=True)
class _Fit:
    """A completed fit: its recipe, and what it came to."""

    run: RunDir
    recipe: Recipe
    summary: Mapping[str, Any]

    @property
    def metric(self) -> str:
        """The metric by which its task is judged."""
        return next(name for name in MAIN_METRICS if name in self.summary["metrics"])

    @property
    def is_baseline(self) -> bool:
        """Whether it stands on an encoder that is no trained specialist."""
        given = self.recipe.fit.ensemble or ""
        return given == SCRATCH or given.startswith(OF_TIMM)

    @property
    def encoder(self) -> str:
        """What it stands on; runs of older versions do not say so themselves."""
        names = self.summary.get("specialists") or []
        known = names[0] if len(names) == 1 else f"ensemble of {len(names)}"
        return str(self.summary.get("encoder") or known)

    @property
    def ensemble(self) -> str:
        """What tells its ensemble from others."""
        facts = self.summary.get("facts") or {}
        return "" if self.is_baseline else str(facts.get("ensemble", ""))[:7]

    @property
    def test_tiles(self) -> int | None:
        """How many tiles it was measured on."""
        tiles = (self.summary.get("facts") or {}).get("tiles") or {}
        return tiles.get("test")

    @cached_property
    def settings(self) -> dict[str, str]:
        """Dotted key -> value of all that may make a difference, but for the seed."""
        flat = dotted(self.recipe.model_dump(mode="json"))
        kept = {k: v for k, v in flat.items() if not k.startswith(_SAME_RESULT)}
        del kept["name"], kept["title"], kept["fit.ensemble"]
        return {key: _written(value) for key, value in kept.items()}

    @cached_property
    def test_key(self) -> str:
        """The same for fits that were measured on the same labels."""
        dataset = self.recipe.dataset
        parts = dataset.model_dump(mode="json", include={"split", "masks", "labels", "loader"})
        place = Path(dataset.root).name
        return json.dumps([place, parts, self.recipe.class_values, self.test_tiles], sort_keys=True)

    @cached_property
    def group_key(self) -> str:
        """The same for fits that differ by their seed alone."""
        stands_on = self.encoder if self.is_baseline else self.ensemble
        return json.dumps([self.settings, stands_on, self.test_key], sort_keys=True)


def _read(run: RunDir) -> _Fit:
    """What a run says of itself.

    Raises:
        DataError: It is no completed fit.
        RecipeError: Its recipe cannot be read.
    """
    summary = run.read_summary()
    kind, state = summary.get("kind"), run.state
    if kind != "fit":
        command = COMMANDS.get(kind, "another program")
        raise DataError(
            f"{run.path} is no fit but a run of {command}.",
            hint="Fit what you want to compare in the same way: eosfm fit-ensemble RECIPE "
            "--ensemble NAME, or --ensemble scratch.",
        )
    if state != "completed":
        raise DataError(
            f"{run.path} is not completed ({state or 'it does not say how it ended'}): it has no "
            "test score.",
            hint=None if state == "running" else f"Go on with it: {run.resume_command}",
        )
    metrics = summary.get("metrics")
    metric = next((m for m in MAIN_METRICS if isinstance(metrics, dict) and m in metrics), None)
    if metric is None or not _is_number(metrics[metric]):
        raise DataError(f"{run.path} does not say what it scored on its test split.")
    return _Fit(run, load_recipe(str(run.config)), summary)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _written(value: object) -> str:
    if isinstance(value, list):
        return "+".join(map(_written, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else f"{value}"


# --------------------------------------------------------------------------- what they share


def _refuse_different_tasks(fits: Sequence[_Fit]) -> None:
    first = fits[0]
    for fit in fits[1:]:
        for what, one, other in (
            ("tasks", first.recipe.task, fit.recipe.task),
            ("classes", ", ".join(first.recipe.class_names), ", ".join(fit.recipe.class_names)),
            ("metrics", first.metric, fit.metric),
        ):
            if one != other:
                raise UsageError(
                    f"These fits have different {what}:\n  {first.run.path}: {one}\n"
                    f"  {fit.run.path}: {other}",
                    hint="Compare fits of one task.",
                )


def _name_tests(fits: Iterable[_Fit]) -> dict[str, str]:
    """Test split -> what to call it; the newest fit's first."""
    names: dict[str, str] = {}
    for fit in fits:
        tiles = "" if fit.test_tiles is None else f", {counted(fit.test_tiles, 'tile')}"
        name, number = f"{fit.recipe.name}{tiles}", 2
        while fit.test_key not in names and name in names.values():
            name, number = f"{fit.recipe.name}{tiles} ({number})", number + 1
        names.setdefault(fit.test_key, name)
    return names


def _row(fit: _Fit, fits: Sequence[_Fit], test: str) -> CompareRow:
    spec, summary = fit.recipe.fit, fit.summary
    single = len(summary.get("specialists") or []) < 2
    return CompareRow(
        run=fit.run.path,
        encoder=fit.encoder,
        fusion=None if single and spec.top_k is None else spec.fusion,
        top_k=spec.top_k,
        select_by=None if spec.top_k is None else _selection(fit),
        label_fraction=spec.label_fraction,
        seed=spec.seed,
        score=float(summary["metrics"][fit.metric]),
        parameters=int(summary.get("parameters") or 0),
        trainable=int(summary.get("trainable") or 0),
        seconds=float(summary.get("seconds") or 0),
        energy_kwh=float(summary.get("energy_kwh") or 0),
        differs=", ".join(_differences(fit, fits)),
        test=test,
    )


def _selection(fit: _Fit) -> str:
    spec = fit.recipe.fit
    return spec.select_by if spec.select_by == "probe" else spec.selection


def _differences(fit: _Fit, fits: Sequence[_Fit]) -> list[str]:
    """Settings without a column in which not all of the fits are alike."""
    keys = [key for key in fit.settings if key not in _COLUMNS_OF_THEIR_OWN]
    found = [
        f"{key.removeprefix('fit.')} {fit.settings[key]}"
        for key in keys
        if any(other.settings.get(key) != fit.settings[key] for other in fits)
        and fit.settings[key] not in (fit.encoder, "")
    ]
    ensembles = {other.ensemble for other in fits if other.encoder == fit.encoder}
    return [*found, *([f"ensemble {fit.ensemble}"] if fit.ensemble and len(ensembles) > 1 else [])]


def _group(rows: Sequence[CompareRow]) -> CompareGroup:
    """Runs that differ by their seed alone, the newest first."""
    newest: dict[int, CompareRow] = {}
    for row in rows:
        newest.setdefault(row.seed, row)
    counted = [newest[seed] for seed in sorted(newest)]
    scores = [row.score for row in counted]
    return CompareGroup(
        runs=tuple(rows),
        seeds=tuple(row.seed for row in counted),
        score=mean(scores),
        spread=stdev(scores) if len(scores) > 1 else None,
        seconds=mean(row.seconds for row in counted),
        energy_kwh=mean(row.energy_kwh for row in counted),
    )


def write_comparison(path: Path, result: CompareResult) -> None:
    """Write a row per run, with the mean and spread over the seeds of its settings.

    Raises:
        OutputError: The file cannot be written.
    """
    columns = (
        "run",
        "encoder",
        "fusion",
        "top_k",
        "select_by",
        "label_fraction",
        "seed",
        result.metric_name,
        "parameters",
        "trainable",
        "seconds",
        "energy_kwh",
        "differs",
        "test",
        "mean",
        "spread",
    )
    write_csv(
        path,
        columns,
        (
            [*vars(row).values(), group.score, group.spread]
            for group in result.groups
            for row in group.runs
        ),
    )
