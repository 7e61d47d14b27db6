"""Files of several kinds joined to samples, by the fields that their paths share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from eosfm_cli.data.completion import Completion
from eosfm_cli.data.kinds import Files, Group, Source
from eosfm_cli.data.problems import Problem, Report
from eosfm_cli.data.splits import Key
from eosfm_cli.data.templates import Found

_Common = tuple[str, ...]


class Rows:
    """Joins the files of several sources to samples.

    Args:
        root: The dataset's folder.
        report: Told what cannot be told apart.
        completion: What a table adds to the fields of the paths.
    """

    def __init__(self, root: Path, report: Report, completion: Completion | None) -> None:
        self._root, self._report, self._completion = root, report, completion
        self._rows: dict[Key, Files] = {}
        self._partners: dict[tuple[str, ...], dict[_Common, Files]] = {}

    def of(
        self, sources: Sequence[Source], groups: Mapping[str, Sequence[Group]]
    ) -> dict[Key, Files]:
        """Files that belong together, by the fields that their paths have in common.

        A file that matches none of the first source gets a row of its own, incomplete.
        """
        if not sources:
            return {}
        one, *others = sources
        self._rows = {self._key(g[0], one): {one.name: g} for g in groups[one.name]}
        firsts = list(self._rows.values())
        for other in others:
            if other.is_shared:
                self._add_shared(other, groups[other.name])
            else:
                self._add(one, firsts, other, groups[other.name])
        return self._rows

    def _add(
        self, one: Source, firsts: Sequence[Files], other: Source, groups: Sequence[Group]
    ) -> None:
        shared = tuple(sorted({*self._fields(one)} & {*self._fields(other)}))
        if not shared:  # what would join them is in a table that cannot be read
            self._add_alone(other, groups)
            return
        if shared not in self._partners:
            ones, _ = self._unique([files[one.name] for files in firsts], shared)
            rows = {id(files[one.name]): files for files in firsts}
            self._partners[shared] = {common: rows[id(g)] for common, g in ones.items()}
        partners = self._partners[shared]
        found, lone = self._unique(groups, shared)
        for common, group in found.items():
            row = partners.get(common)
            if row is None:
                row = self._rows.setdefault(self._key(group[0], other), {})
            row[other.name] = group
        self._add_alone(other, lone)

    def _add_alone(self, source: Source, groups: Iterable[Group]) -> None:
        for group in groups:
            self._rows.setdefault(self._key(group[0], source), {})[source.name] = group

    def _add_shared(self, other: Source, groups: Iterable[Group]) -> None:
        by_fields = {group[0].values(other.fields): group for group in groups}
        for key, files in self._rows.items():
            fields = key.fields
            group = by_fields.get(tuple(fields.get(name, "") for name in other.fields))
            if group is not None:
                files[other.name] = group

    def _fields(self, source: Source) -> tuple[str, ...]:
        """What tells a sample by the files of a source, with what a table adds."""
        added = self._completion.adds_to(source.fields) if self._completion else ()
        return (*source.fields, *added)

    def _unique(
        self, groups: Iterable[Group], shared: tuple[str, ...]
    ) -> tuple[dict[_Common, Group], list[Group]]:
        """Files by the fields that they share with others, and those that lack such a field.

        These have no row in the table that would add it: they are nobody's partner.
        """
        found: dict[_Common, Group] = {}
        lone: list[Group] = []
        twins: list[tuple[str, str]] = []
        for group in groups:
            try:
                twin = found.setdefault(group[0].values(shared), group)
            except KeyError:
                lone.append(group)
                continue
            if twin is not group:
                twins.append((self._said(group), self._said(twin)))
        if twins:
            self._report(_ambiguous(twins, shared))
        return found, lone

    def _said(self, group: Group) -> str:
        return group[0].path.relative_to(self._root).as_posix()

    def _key(self, found: Found, source: Source) -> Key:
        """What tells a sample from all others, by the fields of one of its files."""
        fields = found.fields
        own = [(f, fields[f]) for f in source.fields if f not in {"split", "class", "id"}]
        identifier = fields.get("id") or "_".join(text for _, text in own)
        added = [
            (name, fields[name])
            for name in self._fields(source)[len(source.fields) :]
            if name in fields and name != "id"
        ]
        return Key(fields.get("split", ""), fields.get("class", ""), identifier, (*own, *added))


def _ambiguous(twins: Sequence[tuple[str, str]], shared: tuple[str, ...]) -> Problem:
    one, other = twins[0]
    more = f" So it is with {len(twins) - 1} more." if len(twins) > 1 else ""
    return Problem(
        "ambiguous",
        f"{one} and {other} cannot be told apart by {' and '.join(shared)}.{more}",
        tuple(path for pair in twins for path in pair),
        "Put the fields that tell them apart, such as {split} or {class}, into all paths of the "
        "recipe, or rename the files.",
    )
