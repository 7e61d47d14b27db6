"""Which streams are the images, which one the labels, and what each file's bands are."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from eosfm_cli.bands import nearest_word
from eosfm_cli.data.kinds import MASKS
from eosfm_cli.data.splits import few
from eosfm_cli.data.survey.alignment import LEFT, RIGHT, Pair, align, align_to
from eosfm_cli.data.survey.guess_bands import BandGuess, guess_bands, look
from eosfm_cli.data.survey.guess_classes import looks_like_labels
from eosfm_cli.data.survey.layout import FOLDER, ID, Stream
from eosfm_cli.data.survey.rasters import Facts, Rasters, spread
from eosfm_cli.data.survey.words import split_pattern
from eosfm_cli.errors import DataError, UsageError

_PROBES = 8
_MOST_CLASS_FOLDERS = 200


@dataclass(frozen=True)
class ImageChoice:
    """One kind of images."""

    name: str
    stream: Stream
    facts: Facts
    """Of the most frequent sort of files."""
    guess: BandGuess


@dataclass(frozen=True)
class Choice:
    """What the recipe reads."""

    images: tuple[ImageChoice, ...]
    masks: Stream | None
    """`None` where class folders say it."""
    left_out: tuple[str, ...]
    """Streams that are not used, and why."""
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Wishes:
    """What the user said already."""

    task: str | None = None
    images: tuple[str, ...] = ()
    masks: str | None = None


def name_streams(streams: Sequence[Stream]) -> dict[str, Stream]:
    """Streams by names that tell them apart."""
    named: dict[str, Stream] = {}
    for stream in streams:
        name, number = stream.name, 2
        while name in named:
            name, number = f"{stream.name}_{number}", number + 1
        named[name] = stream
    return named


def choose(streams: dict[str, Stream], rasters: Rasters, wishes: Wishes) -> Choice:
    """Find images and labels among streams.

    Args:
        streams: By name, the one with most files first.
        rasters: Says what is in them.
        wishes: What was asked for.

    Raises:
        UsageError: What was asked for is not there.
        DataError: There are no images, or neither labels nor class folders.
    """
    _refuse_unknown(streams, wishes)
    labels = [] if wishes.task == "classification" else _labels(streams, rasters, wishes)
    others = [name for name in streams if name not in labels and streams[name].role != "label"]
    images = {name: streams[name] for name in wishes.images or others if name not in labels}
    if not images:
        raise DataError(
            f"There are only labels here: {few(list(labels))}.",
            hint="--images NAME says which of them are images.",
        )
    if labels:
        choice = _with_masks(images, {name: streams[name] for name in labels}, rasters)
    else:
        choice = _with_class_folders(images, rasters, wishes)
    _refuse_unfulfilled(choice, wishes)
    return replace(choice, left_out=(*choice.left_out, *_untold(choice, streams)))


def _untold(choice: Choice, streams: dict[str, Stream]) -> Iterator[str]:
    """Sentences on streams that were no candidates, because others were asked for."""
    used = {place.file.path for s in _streams(choice) for place in s.places}
    for name, stream in streams.items():
        told = any(text.startswith(f"{name} (") for text in choice.left_out)
        if not told and stream.places[0].file.path not in used:
            option = "--masks" if stream.role == "label" else "--images"
            yield f"{name} ({_files(stream)}): not asked for; {option} {name} takes it"


def _streams(choice: Choice) -> list[Stream]:
    return [*(image.stream for image in choice.images), *([choice.masks] if choice.masks else [])]


def _refuse_unfulfilled(choice: Choice, wishes: Wishes) -> None:
    used = {image.name for image in choice.images}
    for name in wishes.images:
        if _key(name) not in used:
            why = next((t for t in choice.left_out if t.startswith(f"{name} (")), name)
            raise DataError(
                f"--images {name} cannot be used: {why}.",
                hint=f"Found that belong together: {', '.join(sorted(used))}.",
            )


def _refuse_unknown(streams: dict[str, Stream], wishes: Wishes) -> None:
    for option, names in (("--images", wishes.images), ("--masks", (wishes.masks or "",))):
        for name in filter(None, names):
            if name not in streams:
                near = nearest_word(name, streams)
                raise UsageError(
                    f"{option}: there are no rasters called {name!r} here."
                    + (f" Did you mean {near!r}?" if near else ""),
                    hint=f"Found: {', '.join(streams)}.",
                )
    if wishes.masks in wishes.images:
        raise UsageError(f"{wishes.masks!r} cannot be both --images and --masks.")


# --------------------------------------------------------------------------- labels


def _labels(streams: dict[str, Stream], rasters: Rasters, wishes: Wishes) -> list[str]:
    """Names of the streams that may be labels, the likeliest first."""
    if wishes.masks:
        return [wishes.masks]
    paths = {n: [place.file.path for place in s.places] for n, s in streams.items()}
    names = [name for name in streams if name not in wishes.images]
    said = [
        name
        for name in names
        if streams[name].role == "label" and not _is_a_picture(paths[name], rasters)
    ]
    if said or (len(names) < 2 and not wishes.images):
        return said
    silent = [name for name in names if streams[name].role is None]
    return [name for name in silent if looks_like_labels(rasters, paths[name])][:1]


def _is_a_picture(paths: Sequence[str], rasters: Rasters) -> bool:
    """Whether what is called labels has more bands than labels can have."""
    facts = [found for path in spread(paths, _PROBES) if (found := rasters.facts(path))]
    return bool(facts) and all(f.count > 4 or "complex" in f.dtype for f in facts)


def _with_masks(images: dict[str, Stream], labels: dict[str, Stream], rasters: Rasters) -> Choice:
    pairs = {(i, m): align(images[i], labels[m]) for i in images for m in labels}
    ranked = {
        pair: _rank(found, *pair, list(images), list(labels)) for pair, found in pairs.items()
    }
    first, mask = max(pairs, key=lambda pair: ranked[pair])
    best = pairs[first, mask]
    if not best.matched:
        raise DataError(
            "No image is called like a label; the names are such as "
            f"{_some(images[first])} and {_some(labels[mask])}.",
            hint="Give both the same names, apart from endings such as _mask; or say which files "
            "belong together with --images NAME and --masks NAME "
            f"(found: {', '.join((*images, *labels))}).",
        )
    fitting, left_out = _fitting(images, first, best)
    left_out += [
        f"{name} ({_files(stream)}) could be labels too: --masks {name} takes them"
        for name, stream in labels.items()
        if name != mask
    ]
    chosen, repeated = _without_repeated_bands(fitting, rasters)
    return Choice(tuple(chosen), best.other, (*left_out, *repeated), ())


def _rank(
    found: Pair, image: str, label: str, images: Sequence[str], labels: Sequence[str]
) -> tuple[int, ...]:
    """Most samples in common; then what is called images, plain names, and what came first."""
    called_images = found.one.role == "image"
    place = labels.index(label), images.index(image)
    return found.matched, int(called_images), -len(label), -place[0], -place[1]


def _files(stream: Stream) -> str:
    count = len(stream.places)
    return f"{count} file{'' if count == 1 else 's'} as {_some(stream)}"


def _some(stream: Stream) -> str:
    return stream.places[0].file.path


def _fitting(
    images: dict[str, Stream], first: str, best: Pair
) -> tuple[dict[str, Stream], list[str]]:
    """The streams with images of the same samples; of others, why not."""
    fitting, left_out = {first: best.one}, []
    for name, stream in images.items():
        if name == first:
            continue
        pair = align_to(best.one, stream)
        if 2 * pair.matched >= best.matched:
            fitting[name] = pair.other
        else:
            matched = f"only {pair.matched} belong" if pair.matched else "none belongs"
            left_out.append(f"{name} ({_files(stream)}): {matched} to a sample")
    return {name: fitting[name] for name in images if name in fitting}, left_out


# --------------------------------------------------------------------------- class folders


def _with_class_folders(images: dict[str, Stream], rasters: Rasters, wishes: Wishes) -> Choice:
    divided = {name: stream for name, stream in images.items() if _has_class_folders(stream)}
    if wishes.task == "segmentation" or not divided:
        lacking = {
            "classification": "no class folders",
            "segmentation": "no label rasters",
            None: "neither label rasters nor class folders",
        }
        raise DataError(
            f"There are images, but {lacking[wishes.task]}: "
            f"{few([f'{n} ({len(s.places)})' for n, s in images.items()])}.",
            hint="Put label rasters beside the images (a.tif, a_mask.tif) or into a folder of "
            "their own (masks/a.tif), or sort the images into one folder per class; --masks NAME "
            "says which rasters are labels.",
        )
    first = next(iter(divided))
    main = _with_class_field(divided[first])
    others, left_out = {first: main}, []
    for name, stream in images.items():
        if name == first:
            continue
        pair = align_to(main, _with_class_field(stream))
        if "class" in pair.other.fields and 2 * pair.matched >= len(main.places):
            others[name] = pair.other
        else:
            left_out.append(f"{name} ({_files(stream)}): not in classes")
    names = Counter(place.fields["class"] for place in main.places)
    _refuse_scene_folders(names)
    chosen, repeated = _without_repeated_bands(others, rasters)
    note = f"the folders {few(sorted(names))} are classes"
    return Choice(tuple(chosen), None, (*left_out, *repeated), (note,))


def _has_class_folders(stream: Stream) -> bool:
    """Whether folders divide its files, and not into splits."""
    field = next((f for f in reversed(stream.fields) if f.startswith(FOLDER)), None)
    names = {place.fields[field] for place in stream.places} if field else set()
    return bool(names) and not any(split_pattern(name) for name in names)


def _refuse_scene_folders(names: Counter[str]) -> None:
    scattered = len(names) > 20 and sum(names.values()) < 2 * len(names)
    if len(names) > _MOST_CLASS_FOLDERS or scattered:
        raise DataError(
            f"There are images in {len(names)} folders, too many to be classes, and no labels: "
            f"{few(sorted(names))}.",
            hint="Add label rasters, or sort the images into one folder per class.",
        )


def _with_class_field(stream: Stream) -> Stream:
    """The innermost field of its folders taken as the class."""
    fields = [name for name in stream.fields if name.startswith(FOLDER)]
    if not fields:
        return stream
    old = fields[-1]
    folders = tuple(part.replace(f"{{{old}}}", "{class}") for part in stream.folders)
    places = tuple(place.having("class", place.fields[old]) for place in stream.places)
    return replace(stream, folders=folders, places=places)


# --------------------------------------------------------------------------- bands


def _without_repeated_bands(
    streams: dict[str, Stream], rasters: Rasters
) -> tuple[list[ImageChoice], list[str]]:
    """Streams with their bands; of those that have a band twice the one with fewer is left out."""
    described = [_image_choice(name, stream, rasters) for name, stream in streams.items()]
    kept: list[ImageChoice] = []
    left_out = []
    for choice in sorted(described, key=lambda c: -len(c.guess.bands)):
        taken = {band: other.name for other in kept for band in other.guess.bands}
        twice = [band for band in choice.guess.bands if band in taken]
        if twice:
            left_out.append(
                f"{choice.name} ({_files(choice.stream)}): repeats {', '.join(twice)} of "
                f"{taken[twice[0]]}; --images {choice.name} takes it instead"
            )
        else:
            kept.append(choice)
    return kept, left_out


def _key(name: str) -> str:
    """What images are called in a recipe; `masks` is what the loader calls the labels."""
    return "mask" if name == MASKS else name


def _image_choice(name: str, stream: Stream, rasters: Rasters) -> ImageChoice:
    paths = [place.file.path for place in stream.places]
    facts = [(path, found) for path in spread(paths, _PROBES) if (found := rasters.facts(path))]
    if not facts:
        reasons = [f"{path}: {why}" for path, why in rasters.unreadable.items()]
        raise DataError(
            f"None of {len(paths)} images in {name} can be read: {few(reasons, 2)}.",
            hint="Get them again; `gdalinfo FILE` says what is wrong.",
        )
    (count, _), _ = Counter((f.count, f.dtype) for _, f in facts).most_common(1)[0]
    path, typical = next((path, f) for path, f in facts if f.count == count)
    blocks = [pixels for pixels, _ in rasters.pixels(path)]
    return ImageChoice(
        _key(name), stream, typical, guess_bands(stream.words, typical, look(blocks))
    )


# --------------------------------------------------------------------------- fields


def plain_templates(choice: Choice) -> dict[str, tuple[str, ...]]:
    """The paths of images and, under `MASKS`, labels, with fields that read well.

    `{id}` is the sample; where folders divide samples, `{scene}` and `{tile}` are.
    """
    streams = {image.name: image.stream for image in choice.images}
    if choice.masks:
        streams[MASKS] = choice.masks
    names = {name: _plain_names(stream) for name, stream in streams.items()}
    by_scene = any({"scene", LEFT} & set(each.values()) for each in names.values())
    for each in names.values():
        each.setdefault(ID, RIGHT if by_scene else ID)
    return {
        name: tuple(_renamed(text, names[name]) for text in stream.templates)
        for name, stream in streams.items()
    }


def _plain_names(stream: Stream) -> dict[str, str]:
    folders = [name for name in stream.fields if name.startswith(FOLDER)]
    names = dict(zip(folders, ("scene", "part", *(f"part{i}" for i in range(2, 99))), strict=False))
    return names | ({LEFT: LEFT} if stream.middle and stream.middle[0] == LEFT else {})


def _renamed(template: str, names: dict[str, str]) -> str:
    return re.sub(r"\{(\w+)\}", lambda field: f"{{{names.get(field[1], field[1])}}}", template)
