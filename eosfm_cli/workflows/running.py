"""The life of one run folder: opened, tracked, and closed in a state that says how it ended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from eosfm_cli.carbon.tracker import Meter, track
from eosfm_cli.errors import Interrupted
from eosfm_cli.progress import Logged, Progress
from eosfm_cli.recipe import Recipe
from eosfm_cli.results import Cost
from eosfm_cli.run_dir import Kind, RunDir, State, create_run, now, write_text
from eosfm_cli.training.trainer import library_messages_to

_COMMANDS: dict[Kind, str] = {"train": "train-specialist", "fit": "fit-ensemble"}


@dataclass
class Running:
    """A run that is under way."""

    run: RunDir
    progress: Progress
    """Tells the user and the run's log."""
    meter: Meter
    entries: dict[str, Any] = field(default_factory=dict)
    """What the summary will say."""

    @property
    def cost(self) -> Cost:
        """What the run has taken so far; complete once it is closed."""
        return self.meter.cost


@contextmanager
def open_run(kind: Kind, recipe: Recipe, root: Path, progress: Progress) -> Iterator[Running]:
    """Run something in a fresh run folder, and write its summary however it ends."""
    run = create_run(root, kind, recipe.name)
    write_text(run.config, recipe.to_yaml())
    progress.say(f"run folder: {run.path}")
    state: State = "failed"
    running: Running | None = None
    try:
        with (
            library_messages_to(run.log),
            track(
                root,
                command=_COMMANDS[kind],
                name=recipe.name,
                run=run.path,
                progress=progress,
            ) as meter,
        ):
            running = Running(run, Logged(progress, run.log), meter)
            yield running
        state = "completed"
    except Interrupted:
        state = "interrupted"
        raise
    finally:
        entries = running.entries if running else {}
        cost = asdict(running.cost) if running else {}
        run.write_summary(**entries, **cost, finished=now(), state=state)
