"""Looking at a folder: what is in it, which samples can be used, and what a recipe should say."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from eosfm_cli.data.kinds import MASKS
from eosfm_cli.data.splits import SPLIT_NAMES, Key, few
from eosfm_cli.data.survey.choice import (
    Choice,
    ImageChoice,
    Wishes,
    choose,
    name_streams,
    plain_templates,
)
from eosfm_cli.data.survey.divide import Ground, SplitGuess, guess_split
from eosfm_cli.data.survey.guess_classes import LabelGuess, guess_classes
from eosfm_cli.data.survey.layout import KindOf, Stream, find_streams
from eosfm_cli.data.survey.legend import read_legend
from eosfm_cli.data.survey.neighbours import Bounds
from eosfm_cli.data.survey.rasters import Rasters
from eosfm_cli.data.survey.samples import (
    MOST_HEADERS,
    Samples,
    Trouble,
    read_samples,
    unreadable,
)
from eosfm_cli.data.survey.tree import Tree, read_tree
from eosfm_cli.errors import DataError
from eosfm_cli.progress import Progress
from eosfm_cli.recipe import template_fields


@dataclass(frozen=True)
class Survey:
    """All that was found in a folder."""

    root: Path
    tree: Tree
    choice: Choice
    templates: Mapping[str, tuple[str, ...]]
    """Name of images, or `MASKS` -> their paths."""
    samples: int
    """How many can be used."""
    headers: int
    """Of how many samples headers were read."""
    sizes: Mapping[tuple[int, int], int]
    """Height and width -> how many samples."""
    dtypes: Mapping[str, Mapping[str, int]]
    """Name of images -> number format -> how many files."""
    labels: LabelGuess | None
    """`None` where class folders say it."""
    legend: str
    """Where class names come from; empty if from nowhere."""
    classes: Mapping[str, int]
    """Class folder -> how many samples; empty where labels are rasters."""
    split: SplitGuess
    wrong: Mapping[str, Trouble]
    """Sample -> why it is left out."""
    strays: tuple[str, ...]
    """Rasters that belong to no sample, and other files."""


def survey(root: Path, wishes: Wishes, progress: Progress) -> Survey:
    """Look at a folder of rasters.

    The names of all files are read, the headers of up to `MOST_HEADERS` samples, pixels of a few
    images and of up to `guess_classes.MOST_MASKS` labels.

    Args:
        root: The folder, which exists.
        wishes: What the user said about it.
        progress: Who is told.

    Raises:
        DataError: No recipe can be made of it.
        UsageError: A wish names what is not there.
    """
    tree = read_tree(root)
    _refuse_nothing(tree)
    rasters = Rasters(root)
    streams = name_streams(find_streams(tree.rasters, _kinds(rasters)))
    found = read_samples(choose(streams, rasters, wishes), rasters, root, progress)
    _refuse_too_few(found, root)
    labels, legend = _labels(found, rasters, tree, progress)
    found = _still_usable(found, rasters)
    _refuse_too_few(found, root)
    choice, files = found.choice, found.usable
    classes = {} if labels else dict(sorted(Counter(key.class_name for key in files).items()))
    if not labels and len(classes) < 2:
        raise DataError(
            f"Only one class folder of {root} has images that can be used: {few(list(classes))}.",
            hint="Two classes are the least.",
        )
    first = {key: each[choice.images[0].name] for key, each in files.items()}
    facts = {key: known for key, path in first.items() if (known := rasters.known(path))}
    return Survey(
        root=root,
        tree=tree,
        choice=choice,
        templates=plain_templates(choice),
        samples=len(files),
        headers=min(len(found.rows), MOST_HEADERS),
        sizes=Counter(known.size for known in facts.values()),
        dtypes={image.name: _dtypes(image, found, rasters) for image in choice.images},
        labels=labels,
        legend=legend,
        classes=classes,
        split=guess_split(_ground(root, found, tree, rasters)),
        wrong={_shown(key): why for key, why in found.wrong.items()},
        strays=_strays(tree, found, streams),
    )


def _refuse_nothing(tree: Tree) -> None:
    if tree.rasters:
        return
    held = [*tree.archives, *tree.others, *tree.texts]
    raise DataError(
        f"There are no rasters in {tree.root}; found: {few(held) or 'nothing'}.",
        hint=f"Unpack {few(tree.archives)} first."
        if tree.archives
        else "eosfm reads GeoTIFF, PNG, JPEG, JPEG 2000, BMP and Erdas Imagine files.",
    )


def _kinds(rasters: Rasters) -> KindOf:
    def kind_of(path: str) -> tuple[int, bool] | None:
        facts = rasters.facts(path)
        return (facts.count, facts.is_float) if facts else None

    return kind_of


def _refuse_too_few(found: Samples, root: Path) -> None:
    if len(found.usable) >= len(SPLIT_NAMES):
        return
    some = list(found.wrong.items())[:5]
    reasons = [f"  {_shown(key)}: {trouble.why} ({trouble.detail})" for key, trouble in some]
    more = [f"  and {len(found.wrong) - 5} more"] if len(found.wrong) > 5 else []
    raise DataError(
        "\n".join(
            [
                f"{root} has {len(found.usable)} samples that can be used; training, validation "
                "and test need one each.",
                *(["What cannot be used:"] if some else []),
                *reasons,
                *more,
            ]
        ),
        hint="Images and labels need the same names and sizes (see --images and --masks)."
        if some
        else "Add data, or cut big images into parts, for instance with gdal_retile.py.",
    )


def _shown(key: Key) -> str:
    """A sample as people find it: with the folders that tell it from others."""
    return "/".join(filter(None, (key.split, key.class_name, key.id)))


def _still_usable(found: Samples, rasters: Rasters) -> Samples:
    """Without samples whose pixels turned out to be damaged when labels were read."""
    damaged = {
        key: unreadable(path, rasters)
        for key, files in found.usable.items()
        for path in files.values()
        if path in rasters.unreadable
    }
    usable = {key: files for key, files in found.usable.items() if key not in damaged}
    return Samples(found.choice, usable, {**found.wrong, **damaged}, found.rows)


# --------------------------------------------------------------------------- what is in them


def _labels(
    found: Samples, rasters: Rasters, tree: Tree, progress: Progress
) -> tuple[LabelGuess | None, str]:
    """The classes of label rasters, and where their names come from."""
    if found.choice.masks is None:
        return None, ""
    image = found.choice.images[0].name
    pairs = [(files[image], files[MASKS]) for _, files in sorted(found.usable.items())]
    legend = read_legend(tree.root, tree.texts, [mask for _, mask in pairs[:1]])
    labels = guess_classes(rasters, pairs, legend, progress)
    known = {*legend.by_value.values(), *legend.by_colour.values()}
    return labels, legend.source if any(c.name in known for c in labels.classes) else ""


def _dtypes(image: ImageChoice, found: Samples, rasters: Rasters) -> dict[str, int]:
    paths = [files[image.name] for files in found.usable.values()]
    counts = Counter(known.dtype for path in paths if (known := rasters.known(path)))
    return dict(counts.most_common())


# --------------------------------------------------------------------------- around them


def _ground(root: Path, found: Samples, tree: Tree, rasters: Rasters) -> Ground:
    templates = [path for paths in plain_templates(found.choice).values() for path in paths]
    first = template_fields(templates[0])
    image = found.choice.images[0].name
    return Ground(
        root=root,
        keys=tuple(sorted(found.usable)),
        rows=found.rows,
        folder_field="split" in first,
        scene_fields=tuple(name for name in first if name.startswith(("scene", "part"))),
        texts=tree.texts,
        names=_names(found) if tree.texts else {},
        file_names=tuple(dict.fromkeys(PurePosixPath(path).name for path in templates)),
        bounds=_bounds({key: files[image] for key, files in found.usable.items()}, rasters),
    )


def _names(found: Samples) -> dict[str, Key]:
    """Ids, file names and paths -> the sample that they name, where they name one only."""
    owners: dict[str, set[Key]] = defaultdict(set)
    for key, files in found.usable.items():
        for path in map(PurePosixPath, files.values()):
            owners[path.stem].add(key)
            for start in range(len(path.parts)):
                below = PurePosixPath(*path.parts[start:])
                owners[str(below)].add(key)
                owners[str(below.with_suffix(""))].add(key)
        owners[key.id].add(key)
    return {text: next(iter(keys)) for text, keys in owners.items() if len(keys) == 1}


def _bounds(images: Mapping[Key, str], rasters: Rasters) -> dict[Key, Bounds]:
    known = {key: rasters.known(path) for key, path in images.items()}
    return {
        key: (facts.crs or "", *facts.bounds)
        for key, facts in known.items()
        if facts and facts.bounds
    }


def _strays(tree: Tree, found: Samples, streams: Mapping[str, Stream]) -> tuple[str, ...]:
    """Rasters in no stream that is used or told about, and files of other kinds."""
    used = {path for files in found.usable.values() for path in files.values()}
    told = {place.file.path for stream in streams.values() for place in stream.places}
    known = used | told
    lost = [file.path for file in tree.rasters if file.path not in known]
    return tuple([*lost, *tree.others])
