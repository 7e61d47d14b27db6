"""`eosfm doctor`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from eosfm_cli.commands import options
from eosfm_cli.commands.console import ConsoleProgress, stdout, write_json, write_text
from eosfm_cli.commands.options import example, new_app
from eosfm_cli.errors import ExitCode

if TYPE_CHECKING:
    from eosfm_cli.results import DoctorResult, Finding

app = new_app()

_STYLES = {"ok": "green", "warning": "bold yellow", "error": "bold red"}


@app.command(epilog=example("eosfm doctor --json"))
def doctor(
    network: Annotated[
        bool, typer.Option("--network", help="Also ask the hub with pretrained weights.")
    ] = False,
    data_root: options.DataRoot = None,
    experiments: options.Experiments = None,
    json: options.Json = False,
) -> None:
    """Check this machine, and say what would mend it.

    Looks at Python and its packages, the GPU and its driver, GDAL and PROJ, folders and free disk,
    and whether energy can be measured. Nothing is changed, and the network is left alone. Ends in
    1 if something is an error; warnings are fine.
    """
    from eosfm_cli.workflows.doctor import doctor as look

    result = look(
        options.root(experiments),
        data_root=data_root,
        network=network,
        encoding=sys.stdout.encoding,
        progress=ConsoleProgress(),
    )
    if json:
        write_json(result)
    else:
        _show(result.findings)
    ConsoleProgress().say(_verdict(result))
    if result.count("error"):
        raise typer.Exit(ExitCode.FAILURE)


def _show(findings: Sequence[Finding]) -> None:
    """One finding per line, its fix below it; long ones go on in their own column."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        table.add_row(Text(finding.level, _STYLES[finding.level]), finding.topic, finding.text)
        if finding.fix:
            table.add_row("", "", f"→ {finding.fix}")
    console = stdout()
    with console.capture() as captured:
        console.print(table)
    write_text("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))


def _verdict(result: DoctorResult) -> str:
    errors, warnings = result.count("error"), result.count("warning")
    if not errors and not warnings:
        return "All is well."
    counts = [(errors, "error"), (warnings, "warning")]
    return ", ".join(f"{n} {word}{'s' if n > 1 else ''}" for n, word in counts if n)
