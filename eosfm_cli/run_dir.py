"""What one run leaves on disk, where, and how to find it again."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import re
import secrets
import shlex
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from eosfm_cli.errors import DataError, OutputError, UsageError, unwritable

try:
    import fcntl
except ImportError:  # Windows has no such locks: there, a run that says it is running is believed
    fcntl = None

Kind = Literal["train", "fit"]
State = Literal["running", "completed", "failed", "interrupted", "killed"]

COMMANDS: dict[Kind, str] = {"train": "train-specialist", "fit": "fit-ensemble"}
"""What makes runs of a kind, and goes on with them."""

_TEMPORARY = re.compile(r"\..*-[0-9a-f]{16}\.part(\..*)?")
"""Names that `replacing` writes under."""

_held: set[Path] = set()
"""The runs that this process holds: closing a second handle would give up the lock."""


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
    def recipe(self) -> Path:
        """The recipe of the data, where `config` is a Lightning YAML."""
        return self.path / "recipe.yaml"

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

    @property
    def experiments(self) -> Path:
        """The folder of the project's runs that this one is in."""
        parents = self.path.parents if len(self.path.parts) > 3 else self.path.absolute().parents
        return parents[2]

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
    def lock(self) -> Path:
        """The file that the process which works in the run holds locked."""
        return self.path / ".lock"

    @property
    def state(self) -> State | None:
        """How the run ended, `running` while it does, `None` if it never said.

        `killed` is a run that ended without a word: a killed process, a machine that went down.
        """
        said = self.read_summary().get("state")
        return "killed" if said == "running" and not self.is_held() else said

    def is_held(self) -> bool:
        """Whether a process, this one or another, works in the run now."""
        if self.path.absolute() in _held:
            return True
        try:
            with self.lock.open("r+b") as file:
                return _lock(file.fileno()) is not True
        except OSError:
            return False

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Work in the run alone.

        The lock is the operating system's, so it goes with the process however that ends. It is
        not inherited by workers, which may live on for a moment after their parent was killed.

        Raises:
            UsageError: Another process works in it.
            OutputError: The folder cannot be written.
        """
        path = self.path.absolute()
        if path in _held:
            raise self.busy()
        try:
            file = self.lock.open("a+b")
        except OSError as error:
            raise unwritable(self.lock, error) from None
        with file:
            if _lock(file.fileno()) is False:
                raise self.busy()
            _held.add(path)
            try:
                yield
            finally:
                _held.discard(path)

    def busy(self) -> UsageError:
        """Say that another process works in the run."""
        return UsageError(
            f"{self.path} is being worked on by another process.",
            hint="Wait for it. Should there be none, on a network drive for instance, remove "
            f"{self.lock}.",
        )

    @property
    def resume_command(self) -> str:
        """What to type to go on with the run."""
        command = COMMANDS.get(self.read_summary().get("kind"), COMMANDS["train"])
        return f"eosfm {command} --resume {shlex.quote(str(self.path))}"


def _lock(descriptor: int) -> bool | None:
    """Lock an open file for this process; `False` if another has it, `None` if nobody can tell."""
    if fcntl is None:
        return None
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in {errno.EACCES, errno.EAGAIN} else None
    return True


def create_run(root: Path, kind: Kind, name: str) -> RunDir:
    """Make a fresh run folder; two runs started in the same second get two folders.

    Raises:
        OutputError: The folder cannot be made.
    """
    run = RunDir(fresh_folder(root / kind / name))
    try:
        run.checkpoints.mkdir()
    except OSError as error:
        raise unwritable(run.checkpoints, error) from None
    run.write_summary(kind=kind, name=name, state="running", started=now())
    return run


def fresh_folder(parent: Path) -> Path:
    """Make a folder in `parent` that is called after the time.

    Raises:
        OutputError: It cannot be made.
    """
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for attempt in range(1, 1000):
            path = parent / (stamp if attempt == 1 else f"{stamp}-{attempt}")
            try:
                path.mkdir()
            except FileExistsError:
                continue
            return path
        raise OSError("too many runs were started in one second")
    except OSError as error:
        raise unwritable(parent, error) from None


def leads() -> bool:
    """Whether this is the first, or only, process of those that train together."""
    return all(int(os.environ.get(rank) or 0) == 0 for rank in ("LOCAL_RANK", "NODE_RANK"))


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
        hint = "Name a run folder below experiments/fit, or leave it out to take the newest fit."
        problem = f"it has no {model.name}" if given.is_dir() else "there is no such file"
        if RunDir(given).read_summary().get("kind") == "sweep":
            problem = "it is a sweep, whose fits are runs of their own"
            hint = f"Name one of those: they are in {given / 'sweep.csv'}."
        raise DataError(f"{given} is no fitted model: {problem}.", hint=hint)
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


def check_makeable(folder: Path) -> None:
    """Check that files can be made in a folder, which need not be there yet.

    Raises:
        OutputError: They cannot.
    """
    check_writable(next(p for p in (folder, *folder.absolute().parents) if os.path.exists(p)))


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file under a temporary name beside it; it gets its own name only when complete.

    Yields the temporary path. On any exception the temporary file goes and `path` stays as it was.

    Raises:
        OutputError: The place cannot be written, or is a device or a pipe, which a file must not
            take the place of.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OutputError(f"{path} is not an ordinary file.", hint="Name a file to write.")
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


def clear_leftovers(folder: Path) -> None:
    """Remove what `replacing` had begun in a folder, or below it, when its process was killed.

    Raises:
        OutputError: The folder cannot be written.
    """
    for path in folder.rglob(".*.part*"):
        if _TEMPORARY.fullmatch(path.name):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise unwritable(path, error) from None


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
