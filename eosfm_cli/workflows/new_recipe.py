"""Draft a recipe for a folder that has none."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from eosfm_cli.data.sources import open_source
from eosfm_cli.data.splits import SPLIT_NAMES
from eosfm_cli.data.statistics import compute_statistics
from eosfm_cli.data.survey.choice import Wishes
from eosfm_cli.data.survey.draft import draft_recipe
from eosfm_cli.data.survey.report import Report, describe
from eosfm_cli.data.survey.samples import Trouble
from eosfm_cli.data.survey.survey import survey
from eosfm_cli.errors import OutputError, UsageError
from eosfm_cli.progress import Progress, Silent
from eosfm_cli.recipe import Recipe, load_recipe
from eosfm_cli.recipe.values import Name
from eosfm_cli.run_dir import check_makeable, write_text


@dataclass(frozen=True)
class NewRecipe:
    """A recipe that was drafted and written."""

    path: Path
    recipe: Recipe
    report: Report
    splits: dict[str, int]
    """How many samples each has."""
    left_out: dict[str, str]
    """Sample -> why it is not used."""
    strays: tuple[str, ...]
    archives: tuple[str, ...]


def new_recipe(
    folder: Path,
    output: Path | None,
    *,
    name: str | None,
    overwrite: bool,
    progress: Progress,
    task: str | None = None,
    images: Sequence[str] = (),
    masks: str | None = None,
) -> NewRecipe:
    """Look at a folder of images and labels, and write a recipe that trains on it.

    The recipe has gone through the loader when it is written: files are paired and checked, and
    its statistics are those of its training split.

    Args:
        folder: The data.
        output: The recipe's file; `<folder's name>.yaml` in the current folder if not given.
        name: What the recipe and its specialist are called; as its file if not given.
        overwrite: Replace a file that is there.
        progress: Who is told.
        task: `segmentation` or `classification`, where the folder could be for both.
        images: Which of the kinds of rasters found are images; all that may be, if none is given.
        masks: Which one is the labels; the likeliest if not given.

    Raises:
        UsageError: The folder is none, or the file is there already.
        OutputError: The file cannot be written.
        DataError: No recipe can be made of the folder.
    """
    root = _folder(folder)
    target = _target(root, output, name, overwrite=overwrite)
    found = survey(root, Wishes(task, tuple(images), masks), progress)
    own_name = name if name and name != target.stem else None
    recipe = _loaded(draft_recipe(found, own_name, None), target)
    source = open_source(recipe, None, _Steps(progress))
    statistics = compute_statistics(source.samples["train"], recipe, progress)
    write_text(target, draft_recipe(found, own_name, statistics))
    return NewRecipe(
        target,
        load_recipe(str(target)),
        describe(found),
        {split: len(source.samples[split]) for split in SPLIT_NAMES},
        {sample: _in_words(trouble) for sample, trouble in found.wrong.items()},
        found.strays,
        found.tree.archives,
    )


class _Steps(Silent):
    """Passes on how far work is; what else the loader tells is in the report already."""

    def __init__(self, inner: Progress) -> None:
        self.step = inner.step


def _in_words(trouble: Trouble) -> str:
    return f"{trouble.why}: {trouble.detail}" if trouble.detail else trouble.why


def _folder(folder: Path) -> Path:
    root = Path(os.path.abspath(folder.expanduser()))
    if not root.exists():
        raise UsageError(f"There is no folder {folder}.", hint="Check the path.")
    if not root.is_dir():
        raise UsageError(
            f"{folder} is a file, not a folder.",
            hint="Name the folder that holds images and labels.",
        )
    if not str(root).isprintable():
        raise UsageError(
            f"The path {str(root)!r} cannot stand in a recipe.",
            hint="Rename the folder: it has characters that cannot be written as text.",
        )
    return root


def _target(root: Path, output: Path | None, name: str | None, *, overwrite: bool) -> Path:
    """The file to write, before any work is done for it."""
    stem = name or re.sub(r"[\\,]", "_", root.name).lstrip(". ") or "data"
    target = output or Path(f"{stem}.yaml")
    if target.is_dir():
        target = target / f"{stem}.yaml"
    if target.suffix not in {".yaml", ".yml"}:
        raise UsageError(
            f"A recipe is a .yaml file, not {target.name}.", hint=f"As in {target.name}.yaml"
        )
    _check_name(name or target.stem)
    if target.exists() and not overwrite:
        raise UsageError(f"{target} is there already.", hint="--overwrite replaces it.")
    try:
        check_makeable(target.parent)
    except OutputError as error:
        raise OutputError(
            error.message, hint="Name another place: eosfm recipes new FOLDER PLACE/RECIPE.yaml"
        ) from None
    return target


def _check_name(name: str) -> None:
    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError:
        raise UsageError(
            f"{name!r} cannot name a recipe.",
            hint="Leave out slashes and commas, and a dot at the beginning; --name NAME says what "
            "it is called.",
        ) from None


def _loaded(text: str, target: Path) -> Recipe:
    raw: dict[str, Any] = yaml.safe_load(text)
    raw.pop("variants", None)
    return Recipe.model_validate({"name": target.stem, **raw})
