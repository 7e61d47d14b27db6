"""Where output goes: tables and JSON to stdout, everything else to stderr.

Training on several devices starts the program once more for each further one. Those processes tell
nothing but what goes wrong with them.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from eosfm_cli.commands.figures import UNKNOWN
from eosfm_cli.progress import Step
from eosfm_cli.results import to_json

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

_WIDE = 10_000
"""Columns of output that is no terminal: nothing is cut or wrapped there."""
_NARROW = 60
_LINE_EVERY_S = (5.0, 60.0)
"""At first, and of work that takes hours, whose log would be nothing else."""
_INSTANT_S = 1.0


def stdout() -> Console:
    """The console for results."""
    return _console(sys.stdout, quiet=_is_further_process())


def aside() -> Console:
    """The console for progress, plans and warnings."""
    return _console(sys.stderr, quiet=_is_further_process())


def stderr() -> Console:
    """The console for errors."""
    return _console(sys.stderr)


def _is_further_process() -> bool:
    return os.environ.get("LOCAL_RANK", "0") != "0"


def _console(stream: TextIO, *, quiet: bool = False) -> Console:
    """A console that takes text as it is: paths have brackets, which are no markup."""
    terminal = stream.isatty() and not quiet
    return Console(
        file=stream,
        width=None if terminal else _WIDE,
        force_terminal=None if terminal else False,
        markup=False,
        emoji=False,
        highlight=False,
        soft_wrap=not terminal,
        quiet=quiet,
    )


def write_json(value: object) -> None:
    """Write one JSON object to stdout."""
    write_text(json.dumps(to_json(value), indent=2, ensure_ascii=False) + "\n")


def write_text(text: str) -> None:
    """Write text to stdout as it is."""
    if not _is_further_process():
        sys.stdout.write(text)


def next_command(*commands: str) -> None:
    """Print what to type next."""
    for command in commands:
        aside().print(Text.assemble(("next: ", "dim"), (command, "cyan")))


def write_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str | None]],
    *,
    total: Sequence[str | None] | None = None,
) -> None:
    """Write a table to stdout; where the terminal is too narrow, one `column  value` per line.

    Args:
        columns: Headings; the first column is text, the others stand to the right if all of
            their cells begin like numbers.
        rows: One cell per column, `None` where there is nothing to say.
        total: A last row, set apart.
    """
    cells = [[UNKNOWN if cell is None else cell for cell in row] for row in rows]
    last = None if total is None else ["" if cell is None else cell for cell in total]
    console = stdout()
    table = _table(columns, cells, last)
    if _fits(console, table):
        with console.capture() as captured:
            console.print(table)
        write_text("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))
        return
    for row in [*cells, *([last] if last else [])]:
        console.print(_record(columns, row))


def fits(columns: Sequence[str], rows: Sequence[Sequence[str | None]]) -> bool:
    """Whether a table is narrow enough to be written as one."""
    cells = [[UNKNOWN if cell is None else cell for cell in row] for row in rows]
    return _fits(stdout(), _table(columns, cells, None))


def _fits(console: Console, table: Table) -> bool:
    unbounded = console.options.update(max_width=_WIDE)
    return console.measure(table, options=unbounded).maximum <= console.width


def _table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], total: Sequence[str] | None
) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for index, column in enumerate(columns):
        numeric = index > 0 and all(_numeric(row[index]) for row in rows)
        table.add_column(column, justify="right" if numeric else "left", no_wrap=True)
    for index, row in enumerate(rows):
        table.add_row(*row, end_section=total is not None and index == len(rows) - 1)
    if total is not None:
        table.add_row(*total, style="bold")
    return table


def _numeric(cell: str) -> bool:
    """Whether a cell begins with a number, and not with a word or path such as `4_Ortho/x.tif`."""
    return cell == UNKNOWN or re.match(r"[+\-−<]?\d[\d.,:/-]*(?=[\s%]|$)", cell) is not None


def _record(columns: Sequence[str], row: Sequence[str]) -> Text:
    width = max(map(len, columns))
    lines = [Text.assemble((row[0], "bold"))]
    lines += [
        Text.assemble(("  " + column.ljust(width) + "  ", "dim"), cell)
        for column, cell in zip(columns[1:], row[1:], strict=True)
        if cell
    ]
    return Text("\n").join(lines)


# ------------------------------------------------------------------------------ progress


class ConsoleProgress:
    """Tells a workflow's progress on stderr: bars on a terminal, else a line every few seconds."""

    def __init__(self) -> None:
        self._console = aside()
        self._bars: RichProgress | None = None

    def say(self, text: str) -> None:
        """Print a fact."""
        self._console.print(text)

    def warn(self, text: str) -> None:
        """Print a warning."""
        self._console.print(Text.assemble(("warning: ", "bold yellow"), text))

    @contextmanager
    def step(self, title: str, total: int) -> Iterator[Step]:
        """Open a piece of work; steps inside steps stand below each other."""
        if not self._console.is_terminal:
            step = _PlainStep(self._console, title, total)
            yield step
            step.finish()
        elif self._bars is not None:
            yield _BarStep(self._bars, title, total)
        else:
            with _bars(self._console) as self._bars:
                try:
                    yield _BarStep(self._bars, title, total)
                finally:
                    self._bars = None


def _bars(console: Console) -> RichProgress:
    """Bars that give way to the count and the note where the terminal is narrow."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    title = TextColumn("{task.description}", markup=False)
    done = MofNCompleteColumn(table_column=Column(no_wrap=True))
    note = TextColumn("{task.fields[note]}", markup=False, style="dim", table_column=Column())
    if console.width < _NARROW:
        return Progress(title, done, note, console=console)
    bar = BarColumn(bar_width=None if console.width < 100 else 40)
    return Progress(title, bar, done, TimeRemainingColumn(compact=True), note, console=console)


class _BarStep:
    def __init__(self, bars: RichProgress, title: str, total: int) -> None:
        self._bars = bars
        self._task: TaskID = bars.add_task(title, total=total, note="")

    def advance(self, amount: int = 1, *, note: str = "") -> None:
        """Move the bar."""
        changed = {"note": note} if note else {}
        self._bars.update(self._task, advance=amount, **changed)


def line_every(seconds: float) -> float:
    """How many seconds lie between two lines on work that has taken `seconds`."""
    least, most = _LINE_EVERY_S
    return min(most, max(least, seconds / 20))


class _PlainStep:
    def __init__(self, console: Console, title: str, total: int) -> None:
        self._console, self._title, self._total = console, title, total
        self._done, self._note = 0, ""
        self._began = self._told = time.monotonic()

    def advance(self, amount: int = 1, *, note: str = "") -> None:
        """Count, and print a line if the last one is some seconds old."""
        self._done += amount
        self._note = note or self._note
        now = time.monotonic()
        if now - self._told >= line_every(now - self._began) and self._done < self._total:
            self._told = now
            self._tell("")

    def finish(self) -> None:
        """Print the last line, with how long it took, unless it was over before anyone looked."""
        seconds = time.monotonic() - self._began
        if self._note or seconds > _INSTANT_S:
            self._tell(f" in {seconds:.1f} s")

    def _tell(self, ending: str) -> None:
        note = f"  {self._note}" if self._note else ""
        self._console.print(f"{self._title}: {self._done}/{self._total}{ending}{note}")
