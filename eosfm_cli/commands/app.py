"""The `eosfm` command: what commands there are, and the one place where errors end.

A command's module is imported when the command runs, its help is asked for, or it is completed.
The top-level help needs none of them: names and summaries stand in `COMMANDS`.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from importlib import import_module
from stat import S_ISDIR
from types import FrameType
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup

from eosfm_cli import __version__
from eosfm_cli.errors import ExitCode, Interrupted

MAIN_JOB, LOOK, START = "The main job", "Look and check", "Start here"


class Listed(NamedTuple):
    """What the top-level help says about a command, and where it is."""

    module: str
    panel: str
    summary: str


COMMANDS: dict[str, Listed] = {
    "demo": Listed("demo", START, "Run the whole job on made-up scenes, offline, in minutes."),
    "train-specialist": Listed("train_specialist", MAIN_JOB, "Train one small encoder per recipe."),
    "export": Listed("export", MAIN_JOB, "Gather trained specialists into one ensemble file."),
    "merge": Listed("merge", MAIN_JOB, "Make one ensemble of several."),
    "fit-ensemble": Listed("fit_ensemble", MAIN_JOB, "Fit the frozen ensemble to a recipe's task."),
    "ablate": Listed("ablate", MAIN_JOB, "Leave each specialist out and see what it is worth."),
    "prune": Listed("prune", MAIN_JOB, "Leave specialists out of a model or an ensemble for good."),
    "predict": Listed("predict", MAIN_JOB, "Map scenes with a fitted model."),
    "inspect": Listed("inspect", LOOK, "Look into an ensemble or a model without running it."),
    "rank": Listed("rank", LOOK, "Rank specialists for a dataset, before any training."),
    "compare": Listed("compare", LOOK, "Put fits side by side: ensembles, baselines, seeds."),
    "evaluate": Listed(
        "evaluate",
        LOOK,
        "Score a model on its data, or a map, class by class or in the unit of its values.",
    ),
    "runs": Listed("runs", LOOK, "List the runs that are there, newest first."),
    "emissions": Listed("emissions", LOOK, "Show what each stage cost in time, energy and CO₂."),
    "recipes": Listed("recipes", LOOK, "List, show, copy, check and draft recipes."),
    "data": Listed("data", LOOK, "Check a recipe's data on disk, or download it."),
    "doctor": Listed("doctor", LOOK, "Check this machine, and say what would mend it."),
}


COMPUTING = {
    *("demo", "train-specialist", "fit-ensemble", "ablate", "prune", "predict"),
    *("rank", "compare", "evaluate"),
}
"""Commands that run models."""


class LazyGroup(TyperGroup):
    """A group that knows its commands by name and imports the one that is asked for."""

    def __init__(self, **attributes: Any) -> None:  # noqa: ANN401 - Typer's own arguments
        super().__init__(**attributes)
        for name, listed in COMMANDS.items():
            self.add_command(
                TyperCommand(name, help=listed.summary, rich_help_panel=listed.panel), name
            )

    def resolve_command(
        self, ctx: typer.Context, args: list[str]
    ) -> tuple[str | None, TyperCommand | TyperGroup | None, list[str]]:
        """Find the command that `args` begin with, now as the real one."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command and load_command(str(name)), rest


def load_command(name: str) -> TyperCommand | TyperGroup:
    """Import a command; its flags are shown without the `<bool>` that Typer writes after them."""
    module = import_module(f"eosfm_cli.commands.{COMMANDS[name].module}")
    command = typer.main.get_command(module.app)
    for leaf in [command, *getattr(command, "commands", {}).values()]:
        for parameter in leaf.params:
            if getattr(parameter, "is_flag", False):
                parameter.metavar = ""
    return command


app = typer.Typer(
    name="eosfm",
    cls=LazyGroup,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"eosfm {__version__}")
        raise typer.Exit


@app.callback(
    invoke_without_command=True,
    epilog="**Example:** `eosfm demo`",
)
def eosfm(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, metavar="", help="Show version."
        ),
    ] = False,
    debug: Annotated[
        bool,
        typer.Option(
            "--debug", metavar="", help="Show the traceback of an error; stands anywhere."
        ),
    ] = False,
    country: Annotated[
        str | None,
        typer.Option(
            metavar="CODE",
            help="Whose electricity is counted, as in FRA; stands anywhere.",
            show_default="$EOSFM_COUNTRY, or the world's average",
        ),
    ] = None,
) -> None:
    """Train small Earth-observation specialists, gather them into one ensemble, and map with it.

    In order: train-specialist, export, fit-ensemble, ablate, predict, emissions. Every command
    says what it took by default and what to type next.
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `eosfm` and return its exit code; every error ends here."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = given[: given.index("--")] if "--" in given else given
    # `--debug` may stand anywhere, so it is taken out before any command sees the line
    words = [word for word in options if word != "--debug"]
    if arguments is None and COMPUTING.intersection(words):  # the process is ours
        from eosfm_cli.allocator import keep_memory

        keep_memory()
    _open_closed_streams()
    _know_a_home()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without "₂" is no reason to fail
    return guard(
        lambda: _run(words, given[len(options) :]),
        as_json="--json" in options,
        debug="--debug" in options or os.environ.get("EOSFM_DEBUG", "0") not in {"", "0"},
    )


def _open_closed_streams() -> None:
    """Where we were started without stdout or stderr, as by `>&-`, give them somewhere to go."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - for as long as we live


def _know_a_home() -> None:
    """Where the user has no home, as under a number without a name in a container, give them one.

    Caches go there, ours and those of libraries.
    """
    if os.path.expanduser("~") == "~":
        with suppress(OSError):  # who wants to write there will say so
            os.environ["HOME"] = _own_folder()


def _own_folder() -> str:
    """A folder for temporary files that nobody else can write."""
    from tempfile import gettempdir, mkdtemp

    usual = os.path.join(gettempdir(), f"eosfm-{os.getuid()}")
    with suppress(FileExistsError):
        os.mkdir(usual, 0o700)
    found = os.lstat(usual)
    is_ours = S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022
    return usual if is_ours else mkdtemp(prefix="eosfm-")


def _run(words: list[str], rest: list[str]) -> object:
    """Run the command line, for the country that it names wherever it does."""
    words, country = _without_country(words)
    with nullcontext() if country is None else _counting_for(country):
        return app([*words, *rest], prog_name="eosfm", standalone_mode=False)


def _without_country(words: list[str]) -> tuple[list[str], str | None]:
    """The words without `--country CODE` or `--country=CODE`, and the code."""
    kept, country = [], None
    left = iter(words)
    for word in left:
        if word == "--country":
            country = next(left, "")
        elif word.startswith("--country="):
            country = word.partition("=")[2]
        else:
            kept.append(word)
    return kept, country


def _counting_for(country: str) -> AbstractContextManager[None]:
    from eosfm_cli.workflows.country import counting_for

    return counting_for(country)


def guard(work: Callable[[], object], *, as_json: bool, debug: bool) -> int:
    """Run `work`, say in one message what went wrong if anything did, and return the exit code."""
    try:
        with signals_as_exceptions():
            code = work()
        sys.stdout.flush()
    except BrokenPipeError:
        _close_quietly()
        return ExitCode.FAILURE
    except (Interrupted, KeyboardInterrupt, Exception) as error:
        from eosfm_cli.commands.failure import explain, report

        failure = explain(error, debug=debug)
        try:
            report(failure, as_json=as_json)
            sys.stdout.flush()
        except OSError:  # nobody reads it, or there is no room for it
            _close_quietly()
        return failure.exit_code
    return code if isinstance(code, int) else ExitCode.OK


def _close_quietly() -> None:
    """Our output cannot be written any more: keep the interpreter from saying so at its end."""
    silent = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(silent, stream.fileno())


@contextmanager
def signals_as_exceptions() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the work inside in an orderly way, once.

    The first signal raises `Interrupted`; a second one ends the process on the spot, so that a
    clean-up that hangs can be left. Processes forked from here, such as a loader's workers, expect
    Python's own behaviour instead.
    """
    own_process = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        terminated = number == signal.SIGTERM
        if os.getpid() == own_process:
            raise Interrupted(ExitCode.TERMINATED if terminated else ExitCode.INTERRUPTED)
        if terminated:
            signal.raise_signal(number)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is stop:  # after a signal, the default stays
                signal.signal(number, handler)
