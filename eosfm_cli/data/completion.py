"""What the row of a table adds to the fields that a file's path says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from eosfm_cli.data.problems import Problem, Report
from eosfm_cli.data.splits import few
from eosfm_cli.data.table import Table
from eosfm_cli.words import counted

_RASTERS = {".tif", ".tiff", ".png", ".jpg", ".jpeg", ".jp2", ".npy"}


class Completion:
    """Completes the fields of paths by those of the table's rows.

    A path names its row by its `{id}`, else by the table's columns that stand in it, else by all
    its fields joined with `_`. Files without a row, or with a row that says otherwise of a field,
    stay as they are.

    Args:
        table: Its columns that are fields.
    """

    def __init__(self, table: Table) -> None:
        self._table = table
        self._names = ("id", *table.field_names)
        self._by_columns: dict[tuple[str, ...], dict[tuple[str, ...], str | None]] = {}
        self._contradicting: dict[str, str] = {}
        self._done: dict[int, tuple[Mapping[str, str], Mapping[str, str]]] = {}

    def adds_to(self, fields: Sequence[str]) -> tuple[str, ...]:
        """The names of the fields that rows add to those of a path."""
        if not set(fields) & set(self._names):
            return ()
        return tuple(name for name in self._names if name not in fields)

    def __call__(self, fields: Mapping[str, str], own: Sequence[str]) -> Mapping[str, str]:
        """A path's fields with those of its row, if it has one.

        Args:
            fields: What stands in the path; files in one folder may share the mapping.
            own: Those of them that tell a sample from others.
        """
        known = self._done.get(id(fields))
        if known is None:  # the mapping is kept, or another could come to have its address
            known = self._done[id(fields)] = (fields, self._complete(fields, own))
        return known[1]

    def tell_contradictions(self, report: Report) -> None:
        """Report files whose rows say otherwise of a field than their paths."""
        if self._contradicting:
            said = list(self._contradicting.values())
            rows = counted(len(said), "row")
            text = f"{rows} of {self._table.place} against what paths say: {few(said, 3)}."
            hint = (
                "Files may be in a wrong folder; or take the column out of dataset.labels.fields."
            )
            report(Problem("table", text, tuple(self._contradicting), hint))

    def _complete(self, fields: Mapping[str, str], own: Sequence[str]) -> Mapping[str, str]:
        row = self._row(fields, own)
        if row is None:
            return fields
        columns = self._table.fields.get(row, {})
        for name, value in columns.items():
            if fields.get(name, value) != value:
                self._contradicting[row] = f"{row} ({name}: {fields[name]}, in its row {value})"
                return fields
        return {**columns, "id": _identifier(row), **fields}

    def _row(self, fields: Mapping[str, str], own: Sequence[str]) -> str | None:
        by_text = self._table.row_by_text
        if "id" in own:
            return by_text.get(fields["id"])
        columns = tuple(name for name in self._table.field_names if name in own)
        row = self._rows_by(columns).get(tuple(fields[name] for name in columns))
        return row or by_text.get("_".join(fields[name] for name in own))

    def _rows_by(self, columns: tuple[str, ...]) -> Mapping[tuple[str, ...], str | None]:
        """Values of columns -> the row that has them; nothing where several do."""
        if columns not in self._by_columns:
            index: dict[tuple[str, ...], str | None] = {}
            for row, values in self._table.fields.items() if columns else ():
                place = tuple(values[name] for name in columns)
                index[place] = None if place in index else row
            self._by_columns[columns] = index
        return self._by_columns[columns]


def _identifier(row: str) -> str:
    """The sample that a row is about, which may write it as a file name or path."""
    path = PurePosixPath(row)
    return path.stem if path.suffix.lower() in _RASTERS else path.name
