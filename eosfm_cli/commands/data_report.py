"""What `eosfm data check` prints: one recipe in full, several in a table."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from eosfm_cli.commands.console import stdout, write_table, write_text
from eosfm_cli.commands.figures import share

if TYPE_CHECKING:
    from rich.console import RenderableType

    from eosfm_cli.recipe import Recipe
    from eosfm_cli.workflows.check_data import DataCheck, FileKind, Problem, Values

_SHOWN = 5
"""So many problems of one kind are printed; `--json` has all."""


def show(check: DataCheck, recipe: Recipe, name: str) -> None:
    """Print everything about one recipe's data.

    Args:
        check: What was found.
        recipe: What it was found against.
        name: How the user calls the recipe.
    """
    _print(Text(f"{check.recipe}: {check.title}", "bold"))
    _print(_facts(check, name))
    _show_paths(check)
    if check.division is not None:
        _show_division(check)
    if check.files:
        _show_files(check.files)
    if check.values is not None and check.values.windows:
        _show_values(check.values, recipe)
        _show_labels(check.values, recipe)
    _show_problems("wrong", check.problems)
    _show_problems("odd", check.notes)
    if check.statistics is not None:
        _say("")
        _show_statistics(check.statistics, recipe)


def show_all(checks: Sequence[DataCheck], recipes: Sequence[Recipe]) -> None:
    """Print a line for each recipe, and the statistics that were computed."""
    write_table(
        ["recipe", "data", "train", "val", "test", "first problem"],
        [[check.recipe, verdict(check), *_counts(check), _first(check)] for check in checks],
    )
    for check, recipe in zip(checks, recipes, strict=True):
        if check.statistics is not None:
            _heading(check.recipe)
            _show_statistics(check.statistics, recipe)


def verdict(check: DataCheck) -> str:
    """In a word or two, whether the data is fine."""
    if check.ok:
        return "fine"
    if check.absent:
        return "not there"
    count = len(check.problems)
    return f"{count} problem{'s' if count > 1 else ''}"


def _counts(check: DataCheck) -> list[str | None]:
    splits = check.division.splits if check.division is not None else ()
    return [str(split.samples) for split in splits] or [None, None, None]


def _first(check: DataCheck) -> str | None:
    return check.problems[0].text.splitlines()[0] if check.problems else None


# ------------------------------------------------------------------------------ sections


def _facts(check: DataCheck, name: str) -> Table:
    facts = {
        "licence": check.licence,
        "size": check.size,
        "homepage": check.homepage,
        "get it": f"eosfm data download {shlex.quote(name)}" if check.fetchable else check.download,
        "folder": str(check.root),
        "holds": check.holds,
        "archives": ", ".join(check.archives),
    }
    table = _grid("no_wrap", "fold")
    for what, fact in facts.items():
        if fact:
            table.add_row(Text(f"  {what}", "dim"), fact)
    return table


def _show_paths(check: DataCheck) -> None:
    _heading("files")
    rows = [
        [
            path.kind,
            "missing" if path.missing else _of(path.found, path.expected),
            path.path,
            path.example,
        ]
        for path in check.paths
        if path.needed
    ]
    write_table(["kind", "found", "path", "example"], rows)


def _of(found: int, expected: int | None) -> str:
    return f"{found}" if expected is None else f"{found} of {expected}"


def _show_division(check: DataCheck) -> None:
    division = check.division
    _heading("splits")
    _say(division.words)
    if division.shared_scenes is not None:
        _say(f"{division.shared_scenes or 'no'} scenes have samples in more than one split")
    columns = {
        "split": [split.name for split in division.splits],
        "samples": [str(split.samples) for split in division.splits],
    }
    for name in ("scenes", "areas"):
        counts = [getattr(split, name) for split in division.splits]
        if any(counts):
            columns[name] = [None if count is None else str(count) for count in counts]
    write_table(list(columns), list(zip(*columns.values(), strict=True)))


def _show_files(kinds: Sequence[FileKind]) -> None:
    _heading("rasters")
    dated = any(kind.dates for kind in kinds)
    write_table(
        ["kind", "opened", "width × height", "bands", "type", *(["dates"] if dated else [])],
        [
            [
                kind.kind,
                str(kind.opened),
                _listed([f"{width} × {height}" for height, width in kind.sizes]),
                _listed(list(map(str, kind.bands))),
                _listed(list(kind.dtypes)),
                *([_range(kind.dates)] if dated else []),
            ]
            for kind in kinds
        ],
    )


def _listed(found: Sequence[str], most: int = 2) -> str:
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return ", ".join(found[:most]) + more


def _range(pair: tuple[int, int] | None) -> str | None:
    if pair is None:
        return None
    return str(pair[0]) if pair[0] == pair[1] else f"{pair[0]} to {pair[1]}"


def _show_values(values: Values, recipe: Recipe) -> None:
    _heading("values")
    read = ", ".join(f"{count} {name}" for name, count in values.samples.items())
    part = f", {values.windows:,} of their {values.of_windows:,} windows"
    _say(f"of {read} samples" + (part if values.windows < values.of_windows else ""))
    told = recipe.statistics is not None
    write_table(
        [
            "band",
            "min",
            "max",
            "mean",
            "std",
            "no data",
            *(["recipe's mean ± std"] if told else []),
        ],
        [
            [
                band.band if band.date is None else f"{band.band} ({band.date})",
                *(_number(value) for value in (band.min, band.max, band.mean, band.std)),
                share(band.nodata),
                *([_told(recipe, band.band)] if told else []),
            ]
            for band in values.bands
        ],
    )


def _told(recipe: Recipe, band: str) -> str:
    statistics = recipe.statistics[band]
    return f"{_number(statistics.mean)} ± {_number(statistics.std)}"


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:.5g}"


def _show_labels(values: Values, recipe: Recipe) -> None:
    if values.target is not None:
        _heading(recipe.target.title)
        found = values.target
        _say(
            f"from {_number(found.min)} to {_number(found.max)}, mean {_number(found.mean)}, "
            f"{share(found.nodata)} without a value"
        )
        return
    _heading("labels")
    if values.unlabelled is not None:
        _say(f"{share(values.unlabelled)} of the pixels are without label; of the others:")
    what = "pixels" if recipe.has_masks else "samples"
    write_table(
        ["class", "share", what],
        [[each.name, share(each.share), f"{each.count:,}"] for each in values.classes],
    )


def _show_problems(heading: str, problems: Sequence[Problem]) -> None:
    if not problems:
        return
    _heading(heading)
    table = _grid("no_wrap", "fold")
    for number, alike in enumerate(_alike(problems), 1):
        for problem in alike[:_SHOWN]:
            table.add_row(f"  {number}." if problem is alike[0] else "", problem.text)
        if len(alike) > _SHOWN:
            table.add_row("", f"and {len(alike) - _SHOWN} more like these")
        if alike[0].hint:
            table.add_row("", f"→ {alike[0].hint}")
    _print(table)


def _alike(problems: Sequence[Problem]) -> list[list[Problem]]:
    """Problems of one kind that the same would mend, as of many files."""
    found: dict[tuple[str, str | None], list[Problem]] = defaultdict(list)
    for problem in problems:
        found[problem.kind, problem.hint].append(problem)
    return list(found.values())


def _show_statistics(statistics: Mapping[str, Mapping[str, float]], recipe: Recipe) -> None:
    """Print YAML that fits into the recipe; what that says stands behind."""
    write_text("statistics:\n")
    told = recipe.statistics or {}
    for band, found in statistics.items():
        beside = f"  # the recipe has {_told(recipe, band)}" if band in told else ""
        write_text(f"  {band}: {{mean: {found['mean']}, std: {found['std']}}}{beside}\n")


# ------------------------------------------------------------------------------ on paper


def _heading(text: str) -> None:
    _print(Text(text, "bold"), apart=True)


def _say(text: str) -> None:
    _print(Text(text))


def _grid(*columns: str) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(no_wrap=column == "no_wrap", overflow="fold")
    return table


def _print(what: RenderableType, *, apart: bool = False) -> None:
    """Print to stdout without the blanks that fill lines up."""
    console = stdout()
    with console.capture() as captured:
        console.print(what)
    write_text(("\n" if apart else "") + "\n".join(_lines(captured.get())))


def _lines(text: str) -> Iterator[str]:
    for line in text.splitlines():
        yield line.rstrip()
    yield ""
