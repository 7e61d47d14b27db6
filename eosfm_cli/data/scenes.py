"""Scenes: samples that show the same place and stay in one split."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from eosfm_cli.data.splits import Key, draw
from eosfm_cli.errors import DataError
from eosfm_cli.recipe import (
    ColumnSplit,
    FolderSplit,
    ListSplit,
    SceneSplit,
    Split,
    fill_template,
    template_fields,
)

Shared = ListSplit | FolderSplit | ColumnSplit
"""Splits whose validation samples may be a share of the training samples."""


def scene_name(identifier: str, pattern: str) -> str:
    """The scene that a sample belongs to.

    Raises:
        DataError: The pattern finds none in its id.
    """
    match = re.search(pattern, identifier)
    if match is None or match.group(1) is None:
        raise DataError(
            f"dataset.split.pattern {pattern!r} finds no scene in the id {identifier!r}.",
            hint="The pattern's first group must match in every id, as in '^(.*?)_'.",
        )
    return match.group(1)


def scenes_of(keys: Sequence[Key], split: Split) -> Mapping[Key, str]:
    """The scene of each sample; nothing where the split does not say what a scene is.

    Raises:
        DataError: A sample's scene cannot be told.
    """
    if isinstance(split, SceneSplit):
        return {key: scene_name(key.id, split.pattern) for key in keys}
    if not isinstance(split, Shared):
        return {}
    if split.pattern is not None:
        return {key: scene_name(key.id, split.pattern) for key in keys}
    if split.scene is not None:
        return {key: _filled(key, split.scene) for key in keys}
    return {}


def _filled(key: Key, template: str) -> str:
    fields = key.fields
    if missing := [name for name in template_fields(template) if not fields.get(name)]:
        raise DataError(
            f"{key.id} belongs to no scene: it has no {' and no '.join(missing)}.",
            hint=f"dataset.split.scene is {template!r}; every sample of the training split needs "
            "these fields, in its paths or its row of the table.",
        )
    return fill_template(template, fields)


def drawn_scenes(keys: Sequence[Key], split: Shared, share: float) -> list[Key]:
    """The samples of a seeded share of the scenes; each sample is one if nothing says otherwise.

    Raises:
        DataError: A sample's scene cannot be told.
    """
    scene_of = scenes_of(keys, split) or {key: _itself(key) for key in keys}
    drawn, _ = draw(sorted(set(scene_of.values())), share, (), split.seed)
    chosen = set(drawn)
    return [key for key in keys if scene_of[key] in chosen]


def _itself(key: Key) -> str:
    others = (text for _, text in key.others)
    return "/".join(filter(None, (key.split, key.class_name, key.id, *others)))
