"""What `eosfm data download` says and asks."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

from eosfm_cli.commands import figures
from eosfm_cli.commands.console import ConsoleProgress, write_table
from eosfm_cli.errors import UsageError

if TYPE_CHECKING:
    from eosfm_cli.workflows.download_data import DownloadPlan, DownloadResult

_MUCH = 10_000_000_000
"""Bytes that nobody wants to fetch by mistake."""
_STATES = {
    "missing": "to fetch",
    "begun": "begun",
    "fetched": "here, to check",
    "there": "there",
}


def tell(plan: DownloadPlan) -> None:
    """Say whose data this is, on what terms, how much of it, and where it goes."""
    progress = ConsoleProgress()
    progress.say(plan.title)
    facts = {
        "licence": plan.licence or "not stated",
        "homepage": plan.homepage,
        "size": plan.said_size,
        "goes to": plan.root,
    }
    for name, fact in facts.items():
        if fact:
            progress.say(f"  {name.ljust(8)}  {fact}")


def tell_amount(plan: DownloadPlan) -> None:
    """Say how much is to be fetched, as far as anybody knows."""
    wanted = [file for file in plan.files if file.state != "there"]
    unknown = sum(file.size is None for file in wanted)
    files = "1 file" if len(wanted) == 1 else f"{len(wanted)} files"
    untold = f" (of {unknown} the servers do not say how much)" if unknown else ""
    ConsoleProgress().say(f"  to fetch  {_amount(plan.left)} in {files}{untold}")


def show(plan: DownloadPlan) -> None:
    """Write what would be done to stdout."""
    write_table(
        ["file", "size", "state", "goes to"],
        [
            [
                file.name,
                _amount(file.size),
                _STATES[file.state],
                str(file.into or plan.root / file.name),
            ]
            for file in plan.files
        ],
    )


def agrees(plan: DownloadPlan) -> bool:
    """Ask, where there is somebody to ask and a reason to.

    Raises:
        UsageError: There is data that eosfm did not fetch, and nobody to ask.
    """
    questions = []
    if plan.found is not None:
        questions.append(
            f"{plan.found} is there already, and was not fetched by eosfm. Files that are there "
            "stay as they are. Fetch all the same?"
        )
    if plan.left > _MUCH:
        questions.append(f"Fetch {figures.size(plan.left)}?")
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        if plan.found is not None:
            raise UsageError(
                f"{plan.found} is there already, and was not fetched by eosfm.",
                hint=f"`eosfm data check {plan.recipe}` says whether all is there. --yes fetches "
                "all the same; files that are there stay as they are.",
            )
        return True
    return all(typer.confirm(question, err=True) for question in questions)


def show_result(plan: DownloadPlan, result: DownloadResult) -> None:
    """Write what was done to stdout, and warn of what was not."""
    if result.kept:
        shown = ", ".join(result.kept[:3]) + (", …" if len(result.kept) > 3 else "")
        count = len(result.kept)
        ConsoleProgress().warn(
            f"stayed as {'it was' if count == 1 else 'they were'}, with other contents than in "
            f"the archive: {'1 file' if count == 1 else f'{count} files'}, {shown}"
        )
    write_table(
        ["file", "size", "state"],
        [
            [
                file.name,
                _amount(file.size or result.sizes.get(file.name)),
                "fetched" if file.name in result.sizes else "there",
            ]
            for file in plan.files
        ],
    )


def _amount(size: int | None) -> str | None:
    if size is None:
        return None
    return f"{size} bytes" if size < 1000 else figures.size(size)
