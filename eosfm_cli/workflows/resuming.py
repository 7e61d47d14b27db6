"""Which run to go on with, and whether what is asked for is still what it does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eosfm_cli.errors import UsageError
from eosfm_cli.recipe import Recipe, load_recipe
from eosfm_cli.run_dir import COMMANDS, Kind, RunDir, leads
from eosfm_cli.sweeps import refuse_sweep

_FREE = {"dataset.root", "training.workers", "fit.workers", "fit.cache", "fit.cache_size"}
"""Where data and features are and how many processes read them changes no result."""
_RESOLVED = {"statistics", "fit.ensemble"}
"""What a run fills in where the recipe leaves it open."""


def resumed(
    path: Path, kind: Kind, given: Sequence[str], overrides: Mapping[str, Any]
) -> tuple[RunDir, Recipe]:
    """The run to go on with and its recipe.

    Args:
        path: The run's folder.
        kind: What the command does.
        given: Recipes named beside the run: none, or the run's own.
        overrides: What the options and `--set` ask for.

    Raises:
        UsageError: The run cannot be gone on with, or not as asked for.
    """
    run = unfinished_run(path, kind)
    if len(given) > 1:
        raise UsageError("--resume goes on with one run, of one recipe.")
    return run, resumed_recipe(run, given[0] if given else None, overrides)


def unfinished_run(path: Path, kind: Kind) -> RunDir:
    """The run to go on with.

    Raises:
        UsageError: It is no run of this kind, is finished, or another process works in it.
    """
    run = RunDir(path)
    refuse_sweep(path, COMMANDS[kind])
    summary = run.read_summary()
    if not path.is_dir() or "state" not in summary or summary.get("kind") not in COMMANDS:
        problem = "it is no run folder" if path.exists() else "there is no such folder"
        if run.summary.is_file():
            problem = f"its {run.summary.name} is damaged"
        raise UsageError(
            f"Cannot resume {path}: {problem}.",
            hint="`eosfm runs` lists the runs there are, and how to go on with them.",
        )
    if summary["kind"] != kind:
        raise UsageError(
            f"{path} is a run of {COMMANDS[summary['kind']]}.", hint=run.resume_command
        )
    if run.state == "completed":
        raise UsageError(
            f"{path} is finished: there is nothing to go on with.",
            hint=f"To train for longer, start anew: eosfm {COMMANDS[kind]} {run.config}",
        )
    if leads() and run.state == "running":
        raise run.busy()
    if not run.config.is_file():
        raise UsageError(
            f"{path} ended before it had begun: it has no {run.config.name}.",
            hint="Start it anew; nothing is lost.",
        )
    return run


def resumed_recipe(run: RunDir, given: str | None, overrides: Mapping[str, Any]) -> Recipe:
    """The recipe of a run, with what may change taken from what is asked for now.

    Args:
        run: The run to go on with.
        given: A recipe named beside the run, if any; it has to be the run's.
        overrides: What the options and `--set` ask for.

    Raises:
        UsageError: What is asked for is another thing than what the run does.
    """
    own = dotted(load_recipe(str(run.config)).model_dump(mode="json"))
    asked = dotted(load_recipe(given or str(run.config), overrides).model_dump(mode="json"))
    changed = [
        f"  {key}: {own.get(key)} in the run, {asked.get(key)} now"
        for key in sorted(own.keys() | asked.keys())
        if own.get(key) != asked.get(key) and not _may_differ(key, asked)
    ]
    if changed:
        raise UsageError(
            "\n".join([f"{run.path} was started with other settings:", *changed]),
            hint=f"Go on as it began ({run.resume_command}), or start a run of its own without "
            "--resume.",
        )
    free = {key: value for key, value in overrides.items() if key in _FREE}
    return load_recipe(str(run.config), free)


def _may_differ(key: str, asked: Mapping[str, Any]) -> bool:
    left_open = {part for part in _RESOLVED if asked.get(part, "") is None}
    return key in _FREE or any(key == part or key.startswith(f"{part}.") for part in left_open)


def dotted(value: Any, key: str = "") -> dict[str, Any]:  # noqa: ANN401 - plain values
    """Nested mappings as one of dotted keys."""
    if not isinstance(value, dict) or not value:
        return {key: value}
    parts = ((f"{key}.{name}" if key else str(name), item) for name, item in value.items())
    return {k: v for name, item in parts for k, v in dotted(item, name).items()}
