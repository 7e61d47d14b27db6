"""`eosfm data`: check, download."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eosfm_cli.commands import options
from eosfm_cli.commands.console import ConsoleProgress, next_command, write_json
from eosfm_cli.commands.options import DATA, OUTPUT, example, new_app
from eosfm_cli.errors import ExitCode

if TYPE_CHECKING:
    from eosfm_cli.workflows.check_data import DataCheck
    from eosfm_cli.workflows.download_data import DownloadPlan

app = new_app(
    help="Check a recipe's data on disk, or download it.",
    invoke_without_command=True,
)


@app.callback(epilog=example("eosfm data check mini"))
def data(context: typer.Context) -> None:
    """Check a recipe's data on disk, or download it."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


Recipes = Annotated[
    list[str],
    typer.Argument(
        metavar="RECIPE",
        help="Recipes' names (`eosfm recipes list`) or YAML files.",
        autocompletion=options.recipe_names,
    ),
]
Everything = Annotated[
    bool,
    typer.Option(
        "--all",
        help="Open every file and read every pixel, not a seeded choice.",
        rich_help_panel=DATA,
    ),
]
Statistics = Annotated[
    bool,
    typer.Option(
        "--stats",
        help="Compute each band's mean and deviation over the training split, as YAML.",
        rich_help_panel=DATA,
    ),
]


@app.command(epilog=example("eosfm data check potsdam --data-root /data --stats"))
def check(
    recipes: Recipes,
    everything: Everything = False,
    statistics: Statistics = False,
    data_root: options.DataRoot = None,
    set_: options.Set = None,
    json: options.Json = False,
) -> None:
    """Compare the data on disk with its recipe, and list all that is missing or wrong.

    Shows which files are there, the splits, sizes, types and values, how often each class occurs,
    where to get the data and its licence. Looks at all names, opens the files of up to 500 samples
    of each split and reads pixels of up to 20; --all takes everything. Ends in 3 if something is
    missing or wrong.
    """
    from eosfm_cli.recipe import load_recipe, parse_overrides

    overrides = parse_overrides(set_ or ())
    loaded = [load_recipe(name, overrides) for name in recipes]
    from eosfm_cli.workflows.check_data import check_data  # seconds

    checks = [
        check_data(
            recipe, data_root, ConsoleProgress(), everything=everything, statistics=statistics
        )
        for recipe in loaded
    ]
    if json:
        write_json({"recipes": checks, "ok": all(check.ok for check in checks)})
    elif len(checks) == 1:
        from eosfm_cli.commands.data_report import show

        show(checks[0], loaded[0], recipes[0])
    else:
        from eosfm_cli.commands.data_report import show_all

        show_all(checks, loaded)
    _conclude(checks, recipes, _same_data(data_root, set_ or ()))


def _conclude(checks: Sequence[DataCheck], names: Sequence[str], same_data: Sequence[str]) -> None:
    """Say the verdict and what to type next; end in 3 where something is wrong."""
    from eosfm_cli.commands.data_report import verdict

    for check in checks:
        ConsoleProgress().say(f"{check.recipe}: {verdict(check)}")
    bad = [(check, name) for check, name in zip(checks, names, strict=True) if not check.ok]
    if not bad:
        next_command(_about("train-specialist", names, same_data))
        return
    for check, name in bad:
        if check.fetchable and any(path.missing for path in check.paths):
            next_command(_about("data download", [name], same_data))
        elif len(checks) > 1:
            next_command(_about("data check", [name], same_data))
    raise typer.Exit(ExitCode.DATA)


def _about(command: str, names: Sequence[str], same_data: Sequence[str]) -> str:
    """A command to type, about the same data."""
    return shlex.join(["eosfm", *command.split(), *names, *same_data])


def _same_data(data_root: Path | None, set_: Sequence[str]) -> list[str]:
    """The options that make another command look at the same data."""
    root = [] if data_root is None else ["--data-root", str(data_root)]
    return [*root, *(word for pair in set_ for word in ("--set", pair))]


@app.command(epilog=example("eosfm data download eurosat --data-root /data"))
def download(
    name: options.RecipeName,
    keep_archives: Annotated[
        bool,
        typer.Option(
            "--keep-archives",
            help="Keep archives after they are unpacked.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Fetch without asking.")] = False,
    data_root: options.DataRoot = None,
    set_: options.Set = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="List the files, their sizes and where they go; ask no server.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    json: options.Json = False,
) -> None:
    """Fetch a recipe's dataset, where its terms allow that, check it and unpack it.

    What was begun is gone on with, what is there stays as it is. A file gets its name only when it
    is whole and its checksum is right. Data that wants a login is not fetched: the command says how
    to get it, and ends in 3.
    """
    from eosfm_cli.commands.download_report import agrees, show, show_result, tell, tell_amount
    from eosfm_cli.recipe import load_recipe, parse_overrides
    from eosfm_cli.workflows import download_data as work

    progress = ConsoleProgress()
    plan = work.plan_download(load_recipe(name, parse_overrides(set_ or ())), data_root)
    tell(plan)
    if plan.steps is not None:
        raise work.by_hand(plan)
    result = None
    if not (dry_run or plan.complete):
        plan = work.ask_sizes(plan, progress)
        tell_amount(plan)
        if yes or agrees(plan):
            result = work.download(plan, progress, keep_archives=keep_archives)
    if result is None:
        progress.say(_nothing(plan, dry_run=dry_run))
    if json:
        write_json({"plan": plan, "result": result})
    elif result is not None:
        show_result(plan, result)
    elif dry_run:
        show(plan)
    if result is not None or plan.complete:
        next_command(_about("data check", [name], _same_data(data_root, set_ or ())))


def _nothing(plan: DownloadPlan, *, dry_run: bool) -> str:
    if not plan.files:
        return f"Nothing to do: {plan.recipe} makes its data itself, when it is first used."
    if plan.complete:
        return "Nothing to do: all of it is there."
    return "Nothing was fetched, as asked." if dry_run else "Nothing was fetched."
