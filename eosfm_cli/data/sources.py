"""Where a recipe's data is, and how to open it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from eosfm_cli.data.archives import packed
from eosfm_cli.data.blank import without_blank
from eosfm_cli.data.folder import FolderSource, read_folder
from eosfm_cli.data.kinds import used_files
from eosfm_cli.data.mini import make_mini
from eosfm_cli.data.pairing import contents
from eosfm_cli.data.splits import few
from eosfm_cli.errors import DataError
from eosfm_cli.progress import Progress, Silent
from eosfm_cli.recipe import Recipe

_NOBODY = Silent()


def resolve_root(recipe: Recipe, data_root: Path | None) -> Path:
    """The dataset's folder: the recipe's root below `data_root`, `EOSFM_DATA` or `data`.

    A run's own recipe has an absolute root; of that, a `data_root` given anew replaces all but the
    last folder.
    """
    root = Path(recipe.dataset.root).expanduser()
    if data_root is not None:
        return data_root.expanduser() / (root.name if root.is_absolute() else root)
    return Path(os.environ.get("EOSFM_DATA") or "data").expanduser() / root


def located(recipe: Recipe, data_root: Path | None) -> Recipe:
    """The recipe with its data's absolute place, so that it reads the same data from anywhere."""
    root = str(resolve_root(recipe, data_root).absolute())
    dataset = recipe.dataset.model_copy(update={"root": root})
    return recipe.model_copy(update={"dataset": dataset})


def open_source(
    recipe: Recipe, data_root: Path | None, progress: Progress = _NOBODY
) -> FolderSource:
    """Find a recipe's samples and check them; the embedded dataset is made on first use.

    Raises:
        DataError: The dataset is missing, half there, or not as the recipe says.
    """
    root = resolve_root(recipe, data_root)
    make_embedded(recipe, root, progress)
    if not os.path.isdir(root):  # also where one may not look: `Path` would fail there
        raise _missing(recipe, root)
    source = read_folder(recipe, root, progress)
    return replace(source, samples=without_blank(source.samples, recipe, root, progress))


def make_embedded(recipe: Recipe, root: Path, progress: Progress) -> None:
    """Make the embedded dataset, where the recipe is of that and it is not there."""
    if recipe.dataset.loader == "mini" and not os.path.exists(root):
        progress.say(f"Making the embedded dataset in {root}.")
        make_mini(root)


def _missing(recipe: Recipe, root: Path) -> DataError:
    dataset = recipe.dataset
    facts = {
        "expected": ", ".join(_expected(recipe)),
        "found": _found_instead(root),
        "not unpacked": few(packed(root.parent, [f"{root.name}/"], others=False)),
        "get it": dataset.download,
        "homepage": dataset.homepage,
        "size": dataset.size,
        "licence": dataset.licence,
    }
    lines = [f"  {name}: {fact}" for name, fact in facts.items() if fact]
    return DataError(
        "\n".join([f"The data of {recipe.title!r} is not at {root}.", *lines]),
        hint=f"Put it there, or name the folder that holds {root.name!r} with --data-root. "
        "`eosfm data check` says what is expected, `eosfm data download` gets what may be fetched.",
    )


def _expected(recipe: Recipe) -> list[str]:
    """The recipe's paths that are used; those with {band} stand there once, for all bands."""
    dataset, sources = recipe.dataset, used_files(recipe).values()
    paths = [dataset.images[s.image].paths if s.image else s.paths for s in sources]
    return list(dict.fromkeys(" or ".join(each) for each in paths))


def _found_instead(root: Path) -> str:
    if os.path.exists(root):
        return f"{root} is a file, not a folder"
    folder = folder_above(root)
    return f"{folder} holds {contents(folder)}"


def folder_above(path: Path) -> Path:
    """The nearest folder above a path that is there."""
    return next(parent for parent in path.absolute().parents if os.path.isdir(parent))
