"""Recipe files: YAML with the line of every key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from eosfm_cli.errors import RecipeError

_YAML_PROBLEMS = {
    "found character '\\t'": "a tab cannot indent YAML; use spaces",
    "mapping values are not allowed": "a colon where none can be; put text in quotes",
    "could not determine a constructor": "tags (!) are not allowed in a recipe",
    "another document": "a recipe is one document; take out the line '---'",
}


_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's where there is one: ten times faster."""


@dataclass(frozen=True)
class Source:
    """A YAML document with the line of every key."""

    path: Path
    text: str

    @cached_property
    def _root(self) -> yaml.Node | None:
        try:
            return _composed(self.text)
        except (yaml.YAMLError, RecursionError) as error:
            raise self._no_yaml(error) from None

    def _no_yaml(self, error: Exception) -> RecipeError:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "this is no YAML"
        said = next((ours for yamls, ours in _YAML_PROBLEMS.items() if yamls in problem), problem)
        return RecipeError(f"{self.path}{line}: {said}.")

    @cached_property
    def data(self) -> dict[str, Any]:
        """The document as plain values."""
        root = self._root
        if not isinstance(root, yaml.MappingNode):
            raise RecipeError(
                f"{self.path}: {'it is empty' if root is None else 'this is no recipe'}; "
                "a recipe is a mapping of keys to values.",
                hint="`eosfm recipes copy mini` makes one to start from.",
            )
        self._refuse_odd_nodes(root)
        try:
            return yaml.load(self.text, Loader=_LOADER)
        except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
            raise self._no_yaml(error) from None

    def _refuse_odd_nodes(self, node: yaml.Node, inside: tuple[int, ...] = ()) -> None:
        """Refuse keys that stand there twice, keys that are no words, and what contains itself."""
        where = f"{self.path}, line {node.start_mark.line + 1}"
        if id(node) in inside:
            raise RecipeError(f"{where}: this contains itself.")
        if isinstance(node, yaml.MappingNode):
            self._refuse_double_keys(node)
            children = [value for _, value in node.value]
        else:
            children = node.value if isinstance(node, yaml.SequenceNode) else []
        for child in children:
            self._refuse_odd_nodes(child, (*inside, id(node)))

    def _refuse_double_keys(self, node: yaml.MappingNode) -> None:
        seen: set[str] = set()
        for key, _ in node.value:
            where = f"{self.path}, line {key.start_mark.line + 1}"
            if not isinstance(key, yaml.ScalarNode):
                raise RecipeError(f"{where}: a key is a single word.")
            if key.value in seen:
                raise RecipeError(f"{where}: {key.value!r} stands here twice.")
            seen.add(key.value)

    @property
    def variants(self) -> dict[str, dict[str, Any]]:
        """The partial recipes that can be laid over the document."""
        variants = self.data.get("variants") or {}
        parts = list(variants.values()) if isinstance(variants, dict) else [variants]
        if not all(part is None or isinstance(part, dict) for part in parts):
            raise RecipeError(
                f"{self.path}, line {self.line(['variants'])}: variants are a mapping of names to "
                "partial recipes, as in 'variants: {rgb: {bands: [red, green, blue]}}'."
            )
        return {str(name): part or {} for name, part in variants.items()}

    @property
    def aliases(self) -> tuple[str, ...]:
        """Other names of the recipe."""
        given = self.data.get("aliases") or []
        if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
            raise RecipeError(
                f"{self.path}, line {self.line(['aliases'])}: aliases are a list of names, as in "
                "'aliases: [ben]'."
            )
        return tuple(given)

    def line(self, where: Sequence[str | int]) -> int | None:
        """The line of the deepest part of `where` that the document has."""
        node, line = self._root, None
        for part in where:
            if isinstance(node, yaml.MappingNode):
                hit = next(((k, v) for k, v in node.value if k.value == str(part)), None)
                if hit is None:
                    continue
                line, node = hit[0].start_mark.line + 1, hit[1]
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
                if part >= len(node.value):
                    break
                node = node.value[part]
                line = node.start_mark.line + 1
        return line


def _composed(text: str) -> yaml.Node | None:
    """The nodes of a document; mistakes in it are told in Python's loader's words."""
    try:
        return yaml.compose(text, Loader=_LOADER)
    except yaml.YAMLError:
        return yaml.compose(text, Loader=yaml.SafeLoader)


def read_source(path: Path) -> Source:
    """Read a recipe's file.

    Raises:
        RecipeError: It cannot be read.
    """
    try:
        return Source(path, path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise RecipeError(f"{path} is no text file in UTF-8.") from None
    except OSError as error:
        raise RecipeError(f"Cannot read {path}: {error.strerror or error}.") from None
