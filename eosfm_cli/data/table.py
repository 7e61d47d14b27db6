"""The table of a dataset's labels: which classes a sample shows, which split it is in."""

from __future__ import annotations

import ast
import csv
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from eosfm_cli.bands import nearest_word
from eosfm_cli.data.labels import named_classes
from eosfm_cli.data.splits import Key, SplitName, few
from eosfm_cli.errors import DataError
from eosfm_cli.recipe import ColumnSplit, LabelsSpec, Recipe

Columns = Mapping[str, Sequence[Any]]
"""Name of a column -> its cells."""

_DELIMITERS = ",;\t|"
"""What may stand between the columns: what the heading has most of."""
_YES, _NO = {"1", "1.0", "true", "yes"}, {"0", "0.0", "false", "no", ""}


@dataclass(frozen=True)
class Table:
    """What a table says of each sample, by the id as the table writes it."""

    path: Path
    splits: Mapping[str, SplitName] = field(default_factory=dict)
    """Of rows that belong to one; empty where no column says so."""
    labels: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Class indices; empty where the task takes its labels from elsewhere."""
    rows: tuple[str, ...] = ()
    by_split: bool = False
    """Whether it says which split a sample is in; rows that are in none need no files."""

    def row_of(self, keys: Iterable[Key]) -> dict[Key, str]:
        """Which row each sample has, by its id; rows may also give file names or paths."""
        known: dict[str, str] = {}
        for row in self.rows:
            path = PurePosixPath(row)
            for text in (row, path.name, path.stem):
                known.setdefault(text, row)
        return {key: known[key.id] for key in keys if key.id in known}


def read_table(recipe: Recipe, root: Path) -> Table | None:
    """Read the columns that the recipe names; `None` where it names no table.

    Raises:
        DataError: The table cannot be read, a column is missing, or a cell is not as the recipe
            says; labels that no class lists are all listed at once.
    """
    spec = recipe.dataset.labels
    if spec is None:
        return None
    path, split = root / spec.path, recipe.dataset.split
    frame = _read(path, _columns(recipe, spec))
    rows = [_text(cell) for cell in frame[spec.id]]
    _refuse_doubles(rows, path)
    splits: dict[str, SplitName] = {}
    if isinstance(split, ColumnSplit):
        names: dict[str, SplitName] = {split.train: "train", split.val: "val", split.test: "test"}
        cells = zip(rows, map(_text, frame[split.column]), strict=True)
        splits = {row: names[cell] for row, cell in cells if cell in names}
    labels = _labels(recipe, spec, frame, rows, path) if recipe.task == "multilabel" else {}
    return Table(path, splits, labels, tuple(rows), isinstance(split, ColumnSplit))


def _columns(recipe: Recipe, spec: LabelsSpec) -> list[str]:
    """The columns to read, each once."""
    columns = [spec.id]
    if isinstance(recipe.dataset.split, ColumnSplit):
        columns.append(recipe.dataset.split.column)
    if recipe.task == "multilabel":
        columns += [spec.column] if spec.column is not None else named_classes(recipe)
    return list(dict.fromkeys(columns))


# --------------------------------------------------------------------------- files


def _read(path: Path, columns: Sequence[str]) -> Columns:
    read = _read_parquet if path.suffix.lower() in {".parquet", ".pq"} else _read_csv
    try:
        return read(path, columns)
    except ImportError:
        raise DataError(
            f"Reading {path} takes pyarrow, which is not installed.",
            hint="Install it (pip install pyarrow), or turn the table into a CSV file.",
        ) from None
    except (OSError, ValueError, csv.Error) as error:  # pyarrow's errors are one of these
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0].rstrip(".")
        raise DataError(
            f"Cannot read the table {path}: {reason}.",
            hint="dataset.labels.path names a CSV or Parquet file relative to the dataset's root.",
        ) from None


def _read_parquet(path: Path, columns: Sequence[str]) -> Columns:
    from pyarrow import parquet  # seconds, and most recipes have no table

    _refuse_missing(path, columns, parquet.read_schema(path).names)
    return parquet.read_table(path, columns=list(columns)).to_pydict()


def _read_csv(path: Path, columns: Sequence[str]) -> Columns:
    with path.open(encoding="utf-8-sig", newline="") as file:
        heading = file.readline()
        file.seek(0)
        rows = csv.reader(file, delimiter=max(_DELIMITERS, key=heading.count), strict=True)
        there = [name.strip() for name in next(rows, [])]
        _refuse_missing(path, columns, there)
        places = [there.index(column) for column in columns]
        found: list[list[str]] = [[] for _ in columns]
        for row in filter(any, rows):
            if len(row) != len(there):
                cells = f"line {rows.line_num} has {len(row)} cells, the heading {len(there)}"
                raise ValueError(cells)
            for cells, place in zip(found, places, strict=True):
                cells.append(row[place])
    return dict(zip(columns, found, strict=True))


def _refuse_missing(path: Path, columns: Sequence[str], there: Sequence[str]) -> None:
    missing = [column for column in columns if column not in there]
    if not missing:
        return
    near = nearest_word(missing[0], there)
    raise DataError(
        f"{path} has no column {', '.join(map(repr, missing))}."
        + (f" Did you mean {near!r}?" if near else "")
        + f"\n  columns: {few(there, 12)}",
        hint="dataset.labels and dataset.split name the table's columns; where each class has a "
        "column of its own, it is called as the class or one of its 'values'.",
    )


# --------------------------------------------------------------------------- cells


def _text(cell: Any) -> str:  # noqa: ANN401 - a table's cell
    """A cell as text, without the blanks around it; nothing where there is none."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return ""
    return str(cell).strip()


def _refuse_doubles(rows: Sequence[str], path: Path) -> None:
    double = sorted(row for row, count in Counter(rows).items() if count > 1)
    if double:
        raise DataError(
            f"{len(double)} samples have more than one row in {path}: {few(double)}.",
            hint="Keep one row of each; dataset.labels.id names the column that tells them apart.",
        )


def _labels(
    recipe: Recipe, spec: LabelsSpec, frame: Columns, rows: Sequence[str], path: Path
) -> dict[str, tuple[int, ...]]:
    """Row -> indices of its classes."""
    classes = named_classes(recipe)
    if spec.column is None:
        return _flagged(frame, classes, rows, path)
    named = [_names(cell, spec.separator) for cell in frame[spec.column]]
    unknown = Counter(name for names in named for name in names if name not in classes)
    if unknown:
        raise _unlisted(unknown, classes, path, spec.column)
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
    unknown: Mapping[str, int], classes: Mapping[str, int], path: Path, column: str
) -> DataError:
    lines = []
    for name, count in sorted(unknown.items(), key=lambda item: -item[1])[:8]:
        near = nearest_word(name, classes)
        meant = f", is it meant to be {near!r}?" if near else ""
        lines.append(f"  {name!r} in {count} rows{meant}")
    more = [f"  and {len(unknown) - 8} more"] if len(unknown) > 8 else []
    return DataError(
        "\n".join(
            [f"{path} has labels in {column!r} that no class of the recipe lists:", *lines, *more]
        ),
        hint="Add them to the recipe's classes (as a name, or under a class's 'values'). If names "
        "stand together, set dataset.labels.separator to what is between them.",
    )


def _flagged(
    frame: Columns, classes: Mapping[str, int], rows: Sequence[str], path: Path
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
                    f"{path} has {_text(cell)!r} in the column {column!r}, row {row}; columns of "
                    "classes hold 0 or 1.",
                    hint="Where one column holds the names, say so: dataset.labels.column",
                )
    return {row: tuple(sorted(indices)) for row, indices in found.items()}


# --------------------------------------------------------------------------- rows and samples


def check_rows(table: Table, keys: Sequence[Key], used: Sequence[Key], *, partial: bool) -> None:
    """Check that samples and rows have each other; what lacks the other is listed.

    Args:
        table: What was read.
        keys: All samples on disk.
        used: Those that need a row.
        partial: Whether rows may lack their files.

    Raises:
        DataError: A sample has no row, or a row no sample.
    """
    rows = table.row_of(keys)
    bare = sorted(key.id for key in used if key not in rows)
    needed = set(table.splits if table.by_split else table.rows)
    spare = [] if partial else sorted(needed - set(rows.values()))
    problems = []
    if bare:
        problems.append(f"  {len(bare)} samples have no row: {few(bare)}")
    if spare:
        problems.append(f"  {len(spare)} rows have no files on disk: {few(spare)}")
    if problems:
        raise DataError(
            "\n".join([f"The files and the rows of {table.path} do not match:", *problems]),
            hint="Complete the download or the table; dataset.labels.id names the column that has "
            "the samples' ids, file names or paths. To go on without the files of some rows, "
            "divide by column or list and set dataset.split.absent=skip",
        )
