"""The life of one run folder: opened, tracked, and closed in a state that says how it ended.

Where training runs on several devices, Lightning starts this program once more for each further
one. Those followers share the leader's folder; the leader alone writes to it and tells anything.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import distributed

from eosfm_cli.carbon.tracker import Meter, track
from eosfm_cli.errors import EosfmError, Interrupted
from eosfm_cli.progress import Logged, Progress, Silent
from eosfm_cli.recipe import Recipe
from eosfm_cli.results import Cost
from eosfm_cli.run_dir import Kind, RunDir, State, create_run, now, write_text
from eosfm_cli.training.trainer import library_messages_to

_COMMANDS: dict[Kind, str] = {"train": "train-specialist", "fit": "fit-ensemble"}
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
    entries: dict[str, Any] = field(default_factory=dict)
    """What the summary will say."""

    @property
    def cost(self) -> Cost:
        """What the run has taken so far; complete once it is closed."""
        return self.meter.cost


@contextmanager
def open_run(kind: Kind, recipe: Recipe, root: Path, progress: Progress) -> Iterator[Running]:
    """Run something in a fresh run folder, and write its summary however it ends."""
    if not _leads():
        with library_messages_to(Path(os.devnull)):
            yield _follow()
        return
    run = _shared(create_run(root, kind, recipe.name))
    state: State = "failed"
    running: Running | None = None
    try:
        write_text(run.config, recipe.to_yaml())
        progress.say(f"run folder: {run.path}")
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
            running = Running(run, Logged(progress, run.log), leads=True, meter=meter)
            yield running
        state = "completed"
    except Interrupted:
        state = "interrupted"
        raise
    finally:
        # what ended the run matters more than that its end cannot be noted, say on a full disk
        with nullcontext() if state == "completed" else suppress(EosfmError):
            _close(run, running, state)


def _close(run: RunDir, running: Running | None, state: State) -> None:
    entries = running.entries if running else {}
    cost = asdict(running.cost) if running else {}
    run.write_summary(**entries, **cost, finished=now(), state=state)


def _leads() -> bool:
    return (
        int(os.environ.get("LOCAL_RANK", "0")) == 0 and int(os.environ.get("NODE_RANK", "0")) == 0
    )


def _shared(run: RunDir) -> RunDir:
    """Tell the followers, running already or yet to be started, where the run is."""
    os.environ[_SHARED] = str(run.path.absolute())
    if distributed.is_initialized():
        distributed.broadcast_object_list([os.environ[_SHARED]])
    return run


def _follow() -> Running:
    path = [os.environ[_SHARED]]
    if distributed.is_initialized():
        distributed.broadcast_object_list(path)
    return Running(RunDir(Path(path[0])), Silent(), leads=False, meter=Meter())
