"""What one run leaves on disk, where, and how to find it again."""

from __future__ import annotations

import csv
import io
import json
import os
import secrets
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from eosfm_cli.errors import DataError, unwritable

Kind = Literal["train", "fit"]
State = Literal["running", "completed", "failed", "interrupted"]


def experiments_dir(given: Path | None = None) -> Path:
    """The folder of the project's runs: as given, `EOSFM_EXPERIMENTS`, or `experiments`."""
    return given or Path(os.environ.get("EOSFM_EXPERIMENTS", "experiments"))


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class RunDir:
    """The folder of one run, `experiments/<kind>/<name>/<run>/`."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved recipe; runs again as it is."""
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        """One row per epoch."""
        return self.path / "metrics.csv"

    @property
    def summary(self) -> Path:
        """State, scores, cost; the last file written."""
        return self.path / "summary.json"

    @property
    def history(self) -> Path:
        """Loss and score over epochs, redrawn each epoch."""
        return self.path / "history.png"

    @property
    def checkpoints(self) -> Path:
        """Folder of `best.ckpt` and `last.ckpt`."""
        return self.path / "checkpoints"

    @property
    def best(self) -> Path:
        """The checkpoint with the best validation score."""
        return self.checkpoints / "best.ckpt"

    @property
    def last(self) -> Path:
        """The newest checkpoint."""
        return self.checkpoints / "last.ckpt"

    @property
    def emissions(self) -> Path:
        """What the run cost, in codecarbon's columns."""
        return self.path / "emissions.csv"

    @property
    def log(self) -> Path:
        """Everything the run said."""
        return self.path / "log.txt"

    @property
    def model(self) -> Path:
        """The fitted model; only fits have one."""
        return self.path / "model.safetensors"

    @property
    def name(self) -> str:
        """The specialist or recipe that ran."""
        return self.path.parent.name

    def read_summary(self) -> dict[str, Any]:
        """The summary, or an empty one where there is none that can be read."""
        try:
            found = json.loads(self.summary.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    def write_summary(self, **entries: Any) -> None:  # noqa: ANN401 - JSON
        """Lay `entries` over the summary and write it whole."""
        summary = {**self.read_summary(), **entries}
        write_text(self.summary, json.dumps(summary, indent=2, default=str) + "\n")

    @property
    def state(self) -> State | None:
        """How the run ended, `running` while it does, `None` if it never said."""
        return self.read_summary().get("state")


def create_run(root: Path, kind: Kind, name: str) -> RunDir:
    """Make a fresh run folder; two runs started in the same second get two folders.

    Raises:
        OutputError: The folder cannot be made.
    """
    parent = root / kind / name
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for attempt in range(1, 1000):
            path = parent / (stamp if attempt == 1 else f"{stamp}-{attempt}")
            try:
                path.mkdir()
            except FileExistsError:
                continue
            run = RunDir(path)
            run.checkpoints.mkdir()
            run.write_summary(kind=kind, name=name, state="running", started=now())
            return run
        raise OSError("too many runs were started in one second")
    except OSError as error:
        raise unwritable(parent, error) from None


def find_runs(root: Path, kind: Kind) -> list[RunDir]:
    """All runs of a kind, newest first."""
    summaries = (root / kind).glob("*/*/summary.json")
    return newest_first(RunDir(path.parent) for path in summaries)


def newest_first(runs: Iterable[RunDir]) -> list[RunDir]:
    """Runs in the order of the times in their names; `…-10` came after `…-9`."""
    return sorted(
        runs,
        key=lambda run: (run.path.name[:15], len(run.path.name), run.path.name, run.path),
        reverse=True,
    )


def completed_runs(root: Path, kind: Kind) -> list[RunDir]:
    """The runs of a kind that reached their end, newest first."""
    return [run for run in find_runs(root, kind) if run.state == "completed"]


def newest_fit(root: Path) -> RunDir:
    """The newest completed fit.

    Raises:
        DataError: There is none yet.
    """
    runs = [run for run in completed_runs(root, "fit") if run.model.is_file()]
    if not runs:
        raise DataError(
            f"There is no fitted model in {root}.", hint="Fit one first: eosfm fit-ensemble RECIPE"
        )
    return runs[0]


def find_fit(given: Path | None, root: Path) -> Path:
    """The fitted model that is meant: a model file, that of a run folder, or the newest in `root`.

    Raises:
        DataError: There is no such model.
    """
    if given is None:
        return newest_fit(root).model
    model = RunDir(given).model if given.is_dir() else given
    if not model.is_file():
        problem = f"it has no {model.name}" if given.is_dir() else "there is no such file"
        raise DataError(
            f"{given} is no fitted model: {problem}.",
            hint="Name a run folder below experiments/fit, or leave it out to take the newest fit.",
        )
    return model


def check_writable(folder: Path) -> None:
    """Check that files can be made in a folder, before work is done whose result goes there.

    Raises:
        OutputError: They cannot.
    """
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise unwritable(folder, error) from None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file under a temporary name beside it; it gets its own name only when complete.

    Yields the temporary path. On any exception the temporary file goes and `path` stays as it was.

    Raises:
        OutputError: The place cannot be written.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        name = f".{path.stem}-{secrets.token_hex(8)}.part{path.suffix}"
        (path.parent / name).touch(exist_ok=False)
        temporary = path.parent / name
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table with a heading whole or not at all; `None` is an empty cell.

    Raises:
        OutputError: The file cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    write_text(path, text.getvalue())
