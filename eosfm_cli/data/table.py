"""The table of a dataset's labels: which classes a sample shows, which split it is in."""

from __future__ import annotations

import ast
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from eosfm_cli.bands import nearest_word
from eosfm_cli.data.archives import absent_advice
from eosfm_cli.data.kinds import Files
from eosfm_cli.data.labels import named_classes
from eosfm_cli.data.problems import Problem, Report
from eosfm_cli.data.splits import Key, SplitName, few
from eosfm_cli.data.table_files import Bounds, Columns, read_bounds, read_columns
from eosfm_cli.errors import DataError
from eosfm_cli.recipe import ColumnSplit, LabelsSpec, Recipe
from eosfm_cli.words import counted

_YES, _NO = {"1", "1.0", "true", "yes"}, {"0", "0.0", "false", "no", ""}


@dataclass(frozen=True)
class Table:
    """What a table says of each sample, by the id as the table writes it."""

    place: str
    """The file it is in, or those."""
    rows: tuple[str, ...] = ()
    splits: Mapping[str, SplitName] = field(default_factory=dict)
    """Of rows that belong to one; empty where no column says so."""
    labels: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Class indices; empty where the task takes its labels from elsewhere."""
    field_names: tuple[str, ...] = ()
    """The columns that may stand in paths and scenes."""
    fields: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """What stands there in each row."""
    bounds: Mapping[str, Bounds] = field(default_factory=dict)
    """Where each row lies, if rows are parts of images."""
    crs: str | None = None
    """The coordinates of that; those of the images if not given."""
    by_split: bool = False
    """Whether it says which split a sample is in; rows that are in none need no files."""

    @cached_property
    def row_by_text(self) -> Mapping[str, str]:
        """What may call a row -> the row, which may be an id, a file name or a path.

        A name that paths in two folders end in calls neither, unless one of them alone is in a
        split; of rows that are parts of one image, it calls the first.
        """
        known = {row: row for row in self.rows}
        doubtful: set[str] = set()
        is_used = {row: not self.by_split or row in self.splits for row in self.rows}
        for row in sorted(self.rows, key=lambda row: not is_used[row]):
            path = PurePosixPath(row)
            for text in (path.name, path.stem):
                other = known.setdefault(text, row)
                if other != row and is_used[other] == is_used[row]:
                    doubtful.add(text)
        if not self.bounds:
            known = {
                text: row for text, row in known.items() if text == row or text not in doubtful
            }
        return known

    def row_of(self, samples: Mapping[Key, Files]) -> dict[Key, str]:
        """Which row each sample has, by its id; rows may also give file names or paths.

        Where an id does not tell which, a row that is a path has the sample with a file there.
        """
        known = self.row_by_text
        found = {key: known[key.id] for key in samples if key.id in known}
        if self.bounds or not self._row_by_path:
            return found
        several = Counter(key.id for key in samples)
        doubtful = (key for key in samples if several[key.id] > 1 or key.id not in known)
        by_path = {key: row for key in doubtful if (row := self._named_by_path(samples[key]))}
        theirs = set(by_path.values())
        return {key: row for key, row in found.items() if row not in theirs} | by_path

    @cached_property
    def _row_by_path(self) -> Mapping[str, str | None]:
        """What rows that are paths end in, one folder at least -> the row; nothing of several."""
        found: dict[str, str | None] = {}
        for row in self.rows:
            for text in _ends(PurePosixPath(row)):
                found[text] = row if found.get(text, row) == row else None
        return found

    def _named_by_path(self, files: Files) -> str | None:
        """The row that is the path of one of a sample's files."""
        texts = (text for group in files.values() for file in group for text in _ends(file.path))
        return next((row for text in texts if (row := self._row_by_path.get(text))), None)


def _ends(path: PurePath) -> Iterator[str]:
    """What a path ends in, one folder at least, with and without its suffix; the longest first."""
    for start in range(len(path.parts) - 1):
        end = PurePosixPath(*path.parts[start:])
        yield from (str(end), str(end.with_suffix("")))


def read_table(recipe: Recipe, root: Path) -> Table | None:
    """Read the columns that the recipe names; `None` where it names no table.

    Raises:
        DataError: The table cannot be read, a column is missing, or a cell is not as the recipe
            says; labels that no class lists are all listed at once.
    """
    spec = recipe.dataset.labels
    if spec is None:
        return None
    there = [path for path in spec.paths if (root / path).is_file()] or list(spec.paths[:1])
    paths = [root / path for path in there]
    place = " and ".join(map(str, paths))
    frame = _read(paths, _columns(recipe, spec), root)
    rows = [_text(cell) for cell in frame[spec.id]]
    bounds, crs = read_bounds(paths) if spec.windows else ([], None)
    if spec.windows:
        rows = _numbered(rows)
    _refuse_doubles(rows, place)
    split = recipe.dataset.split
    by_split = isinstance(split, ColumnSplit)
    return Table(
        place,
        tuple(rows),
        _splits(split, frame, rows) if by_split else {},
        _labels(recipe, spec, frame, rows, place) if recipe.labels_are_in_a_table else {},
        spec.fields,
        _fields(spec, frame, rows),
        dict(zip(rows, bounds, strict=False)),
        crs,
        by_split,
    )


def _read(paths: Sequence[Path], columns: Sequence[str], root: Path) -> Columns:
    try:
        return read_columns(paths, columns)
    except DataError as error:
        if advice := absent_advice(paths[0], root):
            raise DataError(error.message, hint=advice) from None
        raise


def _columns(recipe: Recipe, spec: LabelsSpec) -> list[str]:
    """The columns to read, each once."""
    columns = [spec.id, *spec.fields]
    if isinstance(recipe.dataset.split, ColumnSplit):
        columns.append(recipe.dataset.split.column)
    if recipe.labels_are_in_a_table:
        columns += [spec.column] if spec.column is not None else named_classes(recipe)
    return list(dict.fromkeys(columns))


def _numbered(images: Sequence[str]) -> list[str]:
    """Rows that are parts of images, each called as its image with its number there."""
    seen: Counter[str] = Counter()
    rows = []
    for image in images:
        seen[image] += 1
        rows.append(f"{image}#{seen[image]}")
    return rows


def _splits(split: ColumnSplit, frame: Columns, rows: Sequence[str]) -> dict[str, SplitName]:
    """Row -> split, of those that are in one."""
    names = {value: name for name, values in split.values.items() for value in values}
    cells = zip(rows, map(_text, frame[split.column]), strict=True)
    return {row: names[cell] for row, cell in cells if cell in names}


def _fields(spec: LabelsSpec, frame: Columns, rows: Sequence[str]) -> dict[str, dict[str, str]]:
    """Row -> what stands in its columns that are fields."""
    cells = zip(*([_text(cell) for cell in frame[name]] for name in spec.fields), strict=True)
    if not spec.fields:
        return {}
    return {
        row: dict(zip(spec.fields, values, strict=True))
        for row, values in zip(rows, cells, strict=True)
    }


# --------------------------------------------------------------------------- cells


def _text(cell: Any) -> str:  # noqa: ANN401 - a table's cell
    """A cell as text, without the blanks around it; nothing where there is none."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return ""
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))  # whole numbers beside empty cells
    return str(cell).strip()


def _refuse_doubles(rows: Sequence[str], place: str) -> None:
    double = sorted(row for row, count in Counter(rows).items() if count > 1)
    if double:
        raise DataError(
            f"{counted(len(double), 'sample')} with more than one row in {place}: {few(double)}.",
            hint="Keep one row of each; dataset.labels.id names the column that tells them apart.",
        )


def _labels(
    recipe: Recipe, spec: LabelsSpec, frame: Columns, rows: Sequence[str], place: str
) -> dict[str, tuple[int, ...]]:
    """Row -> indices of its classes."""
    classes = named_classes(recipe)
    if spec.column is None:
        return _flagged(frame, classes, rows, place)
    named = [_names(cell, spec.separator) for cell in frame[spec.column]]
    unknown = Counter(name for names in named for name in names if name not in classes)
    if unknown:
        raise _unlisted(unknown, classes, place, spec.column)
    return {
        row: tuple(sorted({classes[name] for name in names}))
        for row, names in zip(rows, named, strict=True)
    }


def _names(cell: Any, separator: str) -> list[str]:  # noqa: ANN401 - a table's cell
    """The names in a cell: a list, a list written out, or names with something between."""
    if not isinstance(cell, str) and isinstance(cell, Iterable):
        return [str(name) for name in cell]
    text = _text(cell)
    if text.startswith("[") and (listed := _written_list(text)) is not None:
        return listed
    return [name for part in text.split(separator) if (name := part.strip())]


def _written_list(text: str) -> list[str] | None:
    """A list in JSON, or as Python writes it."""
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(found, list):
            return [str(name) for name in found]
    return None


def _unlisted(
    unknown: Mapping[str, int], classes: Mapping[str, int], place: str, column: str
) -> DataError:
    lines = []
    for name, count in sorted(unknown.items(), key=lambda item: -item[1])[:8]:
        near = nearest_word(name, classes)
        meant = f", is it meant to be {near!r}?" if near else ""
        lines.append(f"  {name!r} in {counted(count, 'row')}{meant}")
    more = [f"  and {len(unknown) - 8} more"] if len(unknown) > 8 else []
    return DataError(
        "\n".join(
            [f"{place} has labels in {column!r} that no class of the recipe lists:", *lines, *more]
        ),
        hint="Add them to the recipe's classes (as a name, or under a class's 'values'). If names "
        "stand together, set dataset.labels.separator to what is between them.",
    )


def _flagged(
    frame: Columns, classes: Mapping[str, int], rows: Sequence[str], place: str
) -> dict[str, tuple[int, ...]]:
    """Row -> classes, from one column of zeros and ones for each name."""
    found: dict[str, set[int]] = {row: set() for row in rows}
    for column, index in classes.items():
        for row, cell in zip(rows, frame[column], strict=True):
            text = _text(cell).lower()
            if text in _YES:
                found[row].add(index)
            elif text not in _NO:
                raise DataError(
                    f"{place} has {_text(cell)!r} in the column {column!r}, row {row}; columns of "
                    "classes hold 0 or 1.",
                    hint="Where one column holds the names, say so: dataset.labels.column",
                )
    return {row: tuple(sorted(indices)) for row, indices in found.items()}


# --------------------------------------------------------------------------- rows and samples


def check_rows(
    table: Table,
    samples: Mapping[Key, Files],
    used: Sequence[Key],
    report: Report,
    *,
    partial: bool,
) -> None:
    """Check that samples and rows have each other; what lacks the other is reported.

    Args:
        table: What was read.
        samples: All samples on disk.
        used: Those that need a row.
        report: Told of samples without a row, of rows without a sample and of those of several.
        partial: Whether rows may lack their files.
    """
    rows = table.row_of(samples)
    _tell_shared(rows, used, table.place, report)
    bare = sorted(key.id for key in used if key not in rows)
    needed = set(table.splits if table.by_split else table.rows)
    spare = [] if partial else sorted(needed - set(rows.values()))
    problems = []
    if bare:
        problems.append(f"  {counted(len(bare), 'sample')} without a row: {few(bare)}")
    if spare:
        problems.append(f"  {counted(len(spare), 'row')} without files on disk: {few(spare)}")
    if problems:
        text = "\n".join([f"The files and the rows of {table.place} do not match:", *problems])
        report(Problem("table", text, (*bare, *spare), _COMPLETE))


def _tell_shared(rows: Mapping[Key, str], used: Sequence[Key], place: str, report: Report) -> None:
    """Tell which rows stand for several samples: these may have nothing but a name in common."""
    counts = Counter(rows[key] for key in used if key in rows)
    if shared := sorted(row for row, count in counts.items() if count > 1):
        text = (
            f"{counted(len(shared), 'row')} of {place} for several samples of one id, in other "
            f"folders or with other fields: {few(shared)}."
        )
        hint = "If they differ, let dataset.labels.id name a column of paths with folders."
        report(Problem("table", text, tuple(shared), hint, is_note=True))


_COMPLETE = (
    "Complete the download or the table; dataset.labels.id names the column that has the samples' "
    "ids, file names or paths. To go on without samples that have no row, set "
    "dataset.labels.unlisted=skip; without the files of some rows, divide by column or list and "
    "set dataset.split.absent=skip"
)
