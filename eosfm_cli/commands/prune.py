"""`eosfm prune`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eosfm_cli.commands import figures, options
from eosfm_cli.commands.console import ConsoleProgress, next_command, write_json, write_table
from eosfm_cli.commands.options import CHOICES, DATA, OUTPUT, example, new_app
from eosfm_cli.errors import UsageError

if TYPE_CHECKING:
    from eosfm_cli.results import PruneResult

app = new_app()


Given = Annotated[
    str,
    typer.Argument(
        metavar="MODEL|RUN|ENSEMBLE",
        help="A fitted model or the run folder of its fit; or an ensemble file, also as "
        "hf://OWNER/REPO/FILE.",
    ),
]
Specialists = Annotated[
    str | None,
    typer.Option(
        metavar="A,B",
        help="Keep only these, by name or position (counted from 0).",
        rich_help_panel=CHOICES,
    ),
]
Exclude = Annotated[
    str | None,
    typer.Option(metavar="C", help="Keep all but these.", rich_help_panel=CHOICES),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="The smaller model or ensemble.",
        show_default="NAME-pruned.safetensors beside the input",
        rich_help_panel=OUTPUT,
    ),
]
Measure = Annotated[
    bool,
    typer.Option(
        "--measure",
        help="Also measure the smaller model on its test split, and note the score in its file.",
        rich_help_panel=DATA,
    ),
]


@app.command(epilog=example("eosfm prune experiments/fit/mini/RUN --exclude mini-s1"))
def prune(
    given: Given,
    specialists: Specialists = None,
    exclude: Exclude = None,
    measure: Measure = False,
    data_root: options.DataRoot = None,
    plugin: options.Plugins = None,
    output: Output = None,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
) -> None:
    """Leave specialists out of a model or an ensemble for good.

    The smaller model gives what the whole one gives without them, which is checked; it maps faster
    and is not fitted again. `eosfm ablate` tells whom to leave out.
    """
    _refuse_idle(specialists, exclude, data_root, measure=measure)
    from eosfm_cli.workflows.prune import PruneSpec
    from eosfm_cli.workflows.prune import prune as leave_out

    progress = ConsoleProgress()
    options.load_plugins(plugin, progress)
    spec = PruneSpec(
        specialists=options.names(specialists),
        exclude=options.names(exclude) or (),
        output=output,
        overwrite=overwrite,
        measure=measure,
    )
    result = leave_out(given, spec, data_root=data_root, progress=progress)
    if json:
        write_json(result)
    else:
        _show(result)
    next_command(_what_next(result))


def _refuse_idle(
    specialists: str | None, exclude: str | None, data_root: Path | None, *, measure: bool
) -> None:
    if not options.names(specialists) and not options.names(exclude):
        raise UsageError(
            "It does not say who is to go.",
            hint="Keep only some with --specialists A,B, or all but some with --exclude C. "
            "`eosfm ablate` tells whom.",
        )
    if data_root is not None and not measure:
        raise UsageError("--data-root goes with --measure: nothing else reads data.")


def _what_next(result: PruneResult) -> str:
    path = shlex.quote(str(result.path))
    if result.kind == "ensemble":
        return f"eosfm fit-ensemble RECIPE --ensemble {path}"
    return f"{options.predict_command(result.task)} --model {path}"


def _show(result: PruneResult) -> None:
    saved = 1 - result.parameters / result.parameters_before
    columns = [result.kind, "specialists", "parameters", "saved"]
    row: list[str | None] = [
        str(result.path),
        str(len(result.specialists)),
        figures.count(result.parameters),
        figures.share(saved),
    ]
    for name, value in result.metrics.items():
        columns.append(name)
        row.append(figures.score(value))
    write_table(columns, [row])
