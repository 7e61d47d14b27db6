"""Files on disk that make one sample, found by the fields that their paths share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from eosfm_cli.data.archives import unpack_advice
from eosfm_cli.data.splits import Key, few
from eosfm_cli.data.templates import Found, Listing, find_first, read_fields
from eosfm_cli.errors import DataError
from eosfm_cli.progress import Progress
from eosfm_cli.recipe import FileSpec, Recipe, fill_template

MASKS = "masks"

Files = dict[str, Path]
"""Image source, or `MASKS` -> its file of one sample."""


@dataclass(frozen=True)
class _Source:
    """The files of one image source, or of the masks."""

    spec: FileSpec
    listing: Listing


def used_images(recipe: Recipe) -> tuple[str, ...]:
    """The image sources that hold bands the recipe uses."""
    wanted = set(recipe.bands)
    return tuple(key for key, image in recipe.dataset.images.items() if wanted & set(image.bands))


def used_files(recipe: Recipe) -> dict[str, FileSpec]:
    """What each sample has: the image sources used, and `MASKS` where the task takes them."""
    specs: dict[str, FileSpec] = {k: recipe.dataset.images[k] for k in used_images(recipe)}
    if recipe.has_masks and recipe.dataset.masks is not None:
        specs[MASKS] = recipe.dataset.masks
    return specs


def pair_files(recipe: Recipe, root: Path, progress: Progress) -> dict[Key, Files]:
    """Find the files of every sample; some may lack one.

    Image sources that the recipe does not use are not looked at.

    Raises:
        DataError: A kind of file is not there at all, or files cannot be told apart.
    """
    sources = {name: _Source(s, _listing(root, s)) for name, s in used_files(recipe).items()}
    _tell_strays(sources.values(), recipe, root, progress)
    return _paired(sources, root)


def contents(folder: Path) -> str:
    """What is in a folder, shortened to a line."""
    names = sorted(f"{p.name}/" if p.is_dir() else p.name for p in folder.iterdir())
    return few(names, 8) or "nothing"


def lacking(files: Files, key: Key, specs: Mapping[str, FileSpec]) -> list[tuple[str, ...]]:
    """Of each file that a sample should have and does not, the paths where it could be."""
    return [
        tuple(fill_template(path, key.fields) for path in spec.paths)
        for name, spec in specs.items()
        if name not in files
    ]


def _listing(root: Path, spec: FileSpec) -> Listing:
    try:
        listing = find_first(root, spec.paths)
    except OSError as error:
        raise DataError(
            f"Cannot read {error.filename}: {error.strerror}.", hint="Check its permissions."
        ) from None
    if not listing.files:
        raise DataError(
            f"No file in {root} is named as the recipe says: {' or '.join(spec.paths)}\n"
            f"found there: {contents(root)}",
            hint=unpack_advice(root, spec.paths)
            or "Compare the folder with dataset.images and dataset.masks in the recipe; "
            "--data-root says where the datasets are.",
        )
    return listing


def _tell_strays(
    sources: Iterable[_Source], recipe: Recipe, root: Path, progress: Progress
) -> None:
    """Tell about files among the samples that no path of the recipe describes."""
    strays = {path.relative_to(root).as_posix() for s in sources for path in s.listing.strays}
    masks = recipe.dataset.masks
    specs = [*recipe.dataset.images.values(), *([masks] if masks is not None else [])]
    templates = [path for spec in specs for path in spec.paths]
    odd = [path for path in sorted(strays) if not any(read_fields(t, path) for t in templates)]
    if odd:
        progress.warn(
            f"{len(odd)} files stand among the samples but are not named as the recipe says, and "
            f"are left out: {few(odd)}."
        )


def _paired(sources: Mapping[str, _Source], root: Path) -> dict[Key, Files]:
    """Files that belong together, by the fields that their paths have in common.

    A file that matches none of the first source gets a row of its own, incomplete.
    """
    (first, one), *others = sources.items()
    files = one.listing.files
    rows: dict[Key, Files] = {_key(f, one.spec): {first: f.path} for f in files}
    for name, other in others:
        shared = tuple(sorted(set(one.spec.fields) & set(other.spec.fields)))
        partners = _unique(files, shared, root)
        for common, found in _unique(other.listing.files, shared, root).items():
            partner = partners.get(common)
            key = _key(partner, one.spec) if partner else _key(found, other.spec)
            rows.setdefault(key, {})[name] = found.path
    return rows


def _unique(
    files: Iterable[Found], shared: tuple[str, ...], root: Path
) -> dict[tuple[str, ...], Found]:
    """Files by the fields that they share with others."""
    found: dict[tuple[str, ...], Found] = {}
    for file in files:
        twin = found.setdefault(file.values(shared), file)
        if twin is not file:
            raise DataError(
                f"{file.path.relative_to(root)} and {twin.path.relative_to(root)} cannot be told "
                f"apart by {' and '.join(shared)}.",
                hint="Put the fields that tell them apart, such as {split} or {class}, into all "
                "paths of the recipe, or rename the files.",
            )
    return found


def _key(found: Found, spec: FileSpec) -> Key:
    """What tells a sample from all others, by the fields of one of its files."""
    fields = found.fields
    others = tuple((f, fields[f]) for f in spec.fields if f not in {"split", "class", "id"})
    identifier = fields.get("id") or "_".join(text for _, text in others)
    return Key(fields.get("split", ""), fields.get("class", ""), identifier, others)
