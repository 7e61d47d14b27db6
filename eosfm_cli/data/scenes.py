"""Scenes: samples that show the same place and stay in one split."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from eosfm_cli.data.splits import Key, draw, few
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


def _found_by(pattern: str, keys: Sequence[Key]) -> dict[Key, str]:
    """The scene of each sample, as a pattern finds it in the id."""
    matches = {key: re.search(pattern, key.id) for key in keys}
    found = {key: match.group(1) for key, match in matches.items() if match}
    if without := sorted(key.id for key in keys if found.get(key) is None):
        named = few([repr(name) for name in without])
        ids = f"the id {named}" if len(without) == 1 else f"{len(without)} ids: {named}"
        raise DataError(
            f"dataset.split.pattern {pattern!r} finds no scene in {ids}.",
            hint="The pattern's first group must match in every id, as in '^(.*?)_'; move files "
            "that are no samples out of the folder.",
        )
    return found


def scenes_of(keys: Sequence[Key], split: Split) -> Mapping[Key, str]:
    """The scene of each sample; nothing where the split does not say what a scene is.

    Raises:
        DataError: A sample's scene cannot be told.
    """
    if isinstance(split, SceneSplit):
        return _found_by(split.pattern, keys)
    if not isinstance(split, Shared):
        return {}
    if split.pattern is not None:
        return _found_by(split.pattern, keys)
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
