"""Which classes label rasters hold: by the values or colours that occur in them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from eosfm_cli.data.splits import few
from eosfm_cli.data.survey.legend import Legend
from eosfm_cli.data.survey.rasters import WHOLE_PX, Counts, Rasters, packed_colours, spread
from eosfm_cli.errors import DataError
from eosfm_cli.progress import Progress

MOST_MASKS = 2000
"""Of larger datasets so many label rasters are looked into, evenly spread."""
MOST_CLASSES = 64
_RARE = 1e-4
"""Share of pixels below which a colour is listed and taken for a slip."""
_SHARP = 8
"""Of more numbers in a lossy format most are blurs."""
_PROBES = 8
_BLANK_PROBES = 20
_OFTEN = 16
"""Pixels per number that labels have at least; fewer may be a tiny picture."""
_REACH = 48
"""Steps per channel around a heap of colours that belong to it."""
_TOLERANCES = (4, 8, 16, 32, _REACH)


@dataclass(frozen=True)
class ClassGuess:
    """One class."""

    name: str
    values: tuple[int | str, ...]
    colour: str | None = None
    comment: str = ""


@dataclass(frozen=True)
class LabelGuess:
    """How labels are written."""

    encoding: str
    """`values` or `colours`."""
    classes: tuple[ClassGuess, ...]
    ignore: tuple[int | str, ...] = ()
    tolerance: int = 0
    unknown: str = "error"
    looked_into: int = 0
    """How many label rasters were read."""
    checks: tuple[str, ...] = ()
    """What is doubtful, in sentences."""
    why_ignored: str = ""


@dataclass(frozen=True)
class _Written:
    """Everything that was counted in labels, with where names may come from."""

    counts: Counts
    masks: Sequence[str]
    legend: Legend
    palette: Mapping[int, str] = field(default_factory=dict)
    nodata: frozenset[int] = frozenset()
    blank: bool = False
    """Whether images are empty where labels are 0."""


# --------------------------------------------------------------------------- is it one at all?


def looks_like_labels(rasters: Rasters, paths: Sequence[str]) -> bool:
    """Whether rasters hold a few whole numbers, or a few colours, and each of them often."""
    seen: set[int | float] = set()
    looked_at = 0
    for path in spread(paths, _PROBES):
        facts = rasters.facts(path)
        if facts is None or "complex" in facts.dtype:
            continue
        for pixels, valid in rasters.pixels(path, 4):
            looked_at += pixels[0].size
            seen |= _distinct(pixels, valid)
            if len(seen) > MOST_CLASSES:
                return False
    return looked_at > _OFTEN * len(seen) and all(float(value).is_integer() for value in seen)


def _distinct(pixels: np.ndarray, valid: np.ndarray) -> set[int | float]:
    """Values of one band or two, or colours of three."""
    if len(pixels) < 3:
        return set(np.unique(pixels[0][valid[0]]).tolist())
    if pixels.dtype != np.uint8:
        return {0.5}  # more than one band of anything else is an image
    return set(np.unique(packed_colours(pixels)).tolist())


# --------------------------------------------------------------------------- classes


def guess_classes(
    rasters: Rasters, pairs: Sequence[tuple[str, str]], legend: Legend, progress: Progress
) -> LabelGuess:
    """Guess the classes of label rasters.

    Args:
        rasters: Where they are.
        pairs: An image and the label raster of the same sample, for all samples.
        legend: What the dataset calls its classes.
        progress: Who is told.

    Raises:
        DataError: The labels are no classes, or there is only one.
    """
    chosen = spread([mask for _, mask in pairs], MOST_MASKS)
    coloured = _are_coloured(rasters, chosen)
    counts, bands = Counts(), 4 if coloured else 1
    with progress.step("Reading labels", len(chosen)) as step:
        for path in chosen:
            windows = rasters.pixels(path, bands)
            counts.add(packed_colours(p) if coloured else p[0][v[0]] for p, v in windows)
            step.advance()
    if not counts.pixels:
        raise DataError("The labels hold no valid pixel.", hint="Check their nodata value.")
    written = _Written(counts, chosen, legend)
    guess = (
        _by_colours(written) if coloured else _by_values(_with_evidence(written, rasters, pairs))
    )
    checks = _about_the_files(chosen, rasters, coloured=coloured)
    return replace(guess, checks=(*guess.checks, *checks))


def _about_the_files(masks: Sequence[str], rasters: Rasters, *, coloured: bool) -> Iterator[str]:
    facts = [known for path in masks if (known := rasters.known(path))]
    bands = max((known.count for known in facts), default=1)
    if bands > 1 and not coloured:
        yield f"the label rasters have {bands} bands; the first one is taken"
    if any(known.height * known.width > WHOLE_PX for known in facts):
        yield "of big label rasters five windows were read; a rare class may be missing"


def _are_coloured(rasters: Rasters, masks: Sequence[str]) -> bool:
    """Whether labels are colours; three bands that all say the same are numbers."""
    for path in spread(masks, _PROBES):
        facts = rasters.facts(path)
        if facts is None or facts.count < 3 or facts.dtype != "uint8":
            continue
        for pixels, _ in rasters.pixels(path, 3):
            if (pixels != pixels[0]).any():
                return True
    return False


def _with_evidence(
    written: _Written, rasters: Rasters, pairs: Sequence[tuple[str, str]]
) -> _Written:
    facts = [found for path in written.masks if (found := rasters.facts(path))]
    nodata = {int(f.nodata) for f in facts if f.nodata is not None and f.nodata == int(f.nodata)}
    return _Written(
        written.counts,
        written.masks,
        written.legend,
        next((found.palette for found in facts if found.palette), {}),
        frozenset(nodata),
        0 in written.counts.pixels and _blank_where_zero(rasters, pairs),
    )


def _blank_where_zero(rasters: Rasters, pairs: Sequence[tuple[str, str]]) -> bool:
    """Whether images hold nothing (nodata, or zero in every band) where labels are 0."""
    empty, all_ = np.zeros(2), np.zeros(2)  # where labels are 0, and where they are not
    for image, mask in spread(pairs, _BLANK_PROBES):
        windows = zip(rasters.pixels(mask, 1), rasters.pixels(image, 4), strict=False)
        for (labels, _), (pixels, valid) in windows:
            if labels.shape[1:] == pixels.shape[1:]:
                nothing = ((pixels == 0) | ~valid).all(axis=0)
                for side, where in enumerate((labels[0] == 0, labels[0] != 0)):
                    empty[side] += (where & nothing).sum()
                    all_[side] += where.sum()
    share = empty / np.maximum(all_, 1)
    return bool(all_[0]) and share[0] >= 0.95 and share[1] < 0.5


# --------------------------------------------------------------------------- numbers


def _by_values(written: _Written) -> LabelGuess:
    if any(not float(value).is_integer() for value in written.counts.pixels):
        raise DataError(
            "The labels hold real numbers, no classes.",
            hint="eosfm learns classes; cut measurements into classes first.",
        )
    found = sorted(int(value) for value in written.counts.pixels)
    lossy = written.masks[0].lower().endswith((".jpg", ".jpeg")) and len(found) > _SHARP
    if len(found) > MOST_CLASSES or lossy:
        return _blurred(written, found)
    ignore, why = _ignored(found, written)
    kept = [value for value in found if value not in ignore]
    if len(kept) < 2:
        raise _one_class(kept or found)
    classes = tuple(_value_class(value, kept, written) for value in kept)
    return LabelGuess(
        "values",
        classes,
        ignore,
        looked_into=len(written.masks),
        checks=tuple(_rare_values(kept, written.counts)),
        why_ignored=why,
    )


def _one_class(found: Sequence[int | str]) -> DataError:
    return DataError(
        f"The labels hold one class only: {few([str(value) for value in found])}.",
        hint="Two classes are the least; check that these are the label rasters (--masks names "
        "others).",
    )


def _ignored(found: Sequence[int], written: _Written) -> tuple[tuple[int, ...], str]:
    """Values that mean "no label", and why."""
    reasons = {value: "nodata in the files" for value in written.nodata}
    reasons |= {value: "below zero" for value in found if value < 0}
    if 255 in found and len([v for v in found if v not in {0, 255}]) > 0:
        reasons.setdefault(255, "as usual for no label")
    if written.blank and len([v for v in found if v not in reasons and v != 0]) >= 2:
        reasons.setdefault(0, "the images are empty there")
    if len([v for v in found if v not in reasons]) < 2:
        reasons = {value: why for value, why in reasons.items() if value not in found}
    why = "; ".join(f"{value}: {reasons[value]}" for value in sorted(reasons))
    return tuple(sorted(reasons)), why


def _value_class(value: int, kept: Sequence[int], written: _Written) -> ClassGuess:
    name = written.legend.name_of(value, kept) or _plain_name(value, kept)
    return ClassGuess(name, (value,), written.palette.get(value), _seen(value, written.counts))


def _plain_name(value: int, kept: Sequence[int]) -> str:
    if len(kept) == 2 and kept[0] == 0:
        return "object" if value else "background"
    return f"class {value}"


def _seen(value: int | str, counts: Counts, packed: Iterable[int] = ()) -> str:
    values = list(packed) or [value]
    share = sum(counts.pixels[v] for v in values) / counts.total
    return f"{share:.2%} of the pixels"


def _rare_values(kept: Sequence[int], counts: Counts) -> Iterable[str]:
    rare = [value for value in kept if counts.pixels[value] < _RARE * counts.total]
    if rare:
        listed = few([_occurrence(str(value), value, counts) for value in rare])
        yield f"labels that hardly occur are classes all the same: {listed}"


def _occurrence(name: str, value: int | float, counts: Counts) -> str:
    files = counts.files[value]
    return f"{name} ({counts.pixels[value]} pixels in {files} file{'' if files == 1 else 's'})"


def _blurred(written: _Written, found: Sequence[int]) -> LabelGuess:
    """Labels that went through a lossy format: every number counts as the nearest frequent one."""
    counts = written.counts.pixels
    peaks: list[int] = []
    for value, _ in counts.most_common():
        if all(abs(value - peak) > 40 for peak in peaks):
            peaks.append(int(value))
    peaks = sorted(p for p in peaks if counts[p] > 0.001 * written.counts.total)
    near = sum(n for v, n in counts.items() if any(abs(v - peak) <= 20 for peak in peaks))
    if not 2 <= len(peaks) <= 8 or near < 0.98 * written.counts.total or found[-1] > 255:
        raise DataError(
            f"The labels hold {len(found)} different numbers, from {found[0]} to {found[-1]}: "
            "these look like measurements or numbered objects, not like classes.",
            hint="eosfm learns classes, at most 64; give every class a number of its own.",
        )
    members: dict[int, list[int]] = {peak: [] for peak in peaks}
    for value in range(256):
        members[min(peaks, key=lambda peak: abs(peak - value))].append(value)
    classes = tuple(
        ClassGuess(
            written.legend.name_of(peak, peaks) or _plain_name(peak, peaks),
            tuple(values),
            None,
            f"around {peak}; {_seen(peak, written.counts, values)}",
        )
        for peak, values in members.items()
    )
    check = (
        f"the labels hold {len(found)} numbers around {few([str(p) for p in peaks])}, as after "
        "saving them as JPEG: each counts as the nearest of these"
    )
    return LabelGuess("values", classes, looked_into=len(written.masks), checks=(check,))


# --------------------------------------------------------------------------- colours


def _by_colours(written: _Written) -> LabelGuess:
    counts, total = written.counts.pixels, written.counts.total
    documented = {int(text[1:], 16) for text in written.legend.by_colour}
    if len(counts) <= MOST_CLASSES:
        rare = {v for v, n in counts.items() if n < _RARE * total and v not in documented}
        tolerance, kept = 0, [v for v in counts if v not in rare]
    else:
        tolerance, kept = _soft_colours(written, documented)
        rare = set()
    if len(kept) < 2:
        raise _one_class([_hex(value) for value in counts][:8])
    beyond = _beyond(counts, kept, tolerance) if tolerance else {v: counts[v] for v in rare}
    return LabelGuess(
        "colours",
        _colour_classes(sorted(kept, key=lambda v: -counts[v]), written, blurred=tolerance > 0),
        tuple(_hex(value) for value in sorted(rare)),
        tolerance,
        "ignore" if tolerance and beyond else "error",
        len(written.masks),
        tuple(_colour_checks(beyond, written.counts, tolerance)),
        "colours that hardly occur" if rare else "",
    )


def _hex(packed: int | float) -> str:
    return f"#{int(packed):06x}"


def _soft_colours(written: _Written, documented: set[int]) -> tuple[int, list[int]]:
    """A few colours that explain nearly all pixels, and the smallest tolerance at which they do.

    Raises:
        DataError: There are none: this is a picture.
    """
    values = np.array(list(written.counts.pixels), np.int64)
    weights = np.array(list(written.counts.pixels.values()), np.float64)
    weights /= weights.sum()
    channels = np.stack([values >> shift & 255 for shift in (16, 8, 0)], axis=1)
    kept = _centres(values, channels, weights, documented)
    if 2 <= len(kept) <= MOST_CLASSES:
        centres = np.array([[value >> s & 255 for s in (16, 8, 0)] for value in kept])
        gaps = np.min([abs(channels - centre).max(axis=1) for centre in centres], axis=0)
        for tolerance in _TOLERANCES:
            if weights[gaps > tolerance].sum() <= 0.01 and weights[gaps > 16].sum() <= 0.25:
                return tolerance, kept
    raise DataError(
        f"The labels hold {len(values)} different colours: they look like pictures, not labels.",
        hint="Name the label rasters with --masks, or save them with one number per class.",
    )


def _centres(
    values: np.ndarray, channels: np.ndarray, weights: np.ndarray, documented: set[int]
) -> list[int]:
    """Documented colours that occur, and the centres of further heaps of colours."""
    kept = sorted(documented & set(values.tolist()))
    left = np.ones(len(values), bool)
    for value in kept:
        left &= _gap(channels, [value >> s & 255 for s in (16, 8, 0)]) > _REACH
    while weights[left].sum() > 0.001 and len(kept) <= MOST_CLASSES:
        heap = left & (_gap(channels, _densest(channels[left], weights[left])) <= _REACH)
        if weights[heap].sum() >= 0.001:
            kept.append(_centre(values[heap], channels[heap], weights[heap]))
        left &= ~heap
    return kept


def _gap(channels: np.ndarray, colour: Sequence[float] | np.ndarray) -> np.ndarray:
    """The largest difference per channel of many colours from one."""
    return abs(channels - np.asarray(colour)).max(axis=1)


def _densest(channels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The mean colour of the fullest cell of sixteen steps per channel."""
    cells, members = np.unique(channels >> 4, axis=0, return_inverse=True)
    fullest = np.bincount(members.ravel(), weights, len(cells)).argmax()
    inside = members.ravel() == fullest
    return np.average(channels[inside], axis=0, weights=weights[inside])


def _centre(values: np.ndarray, channels: np.ndarray, weights: np.ndarray) -> int:
    """The colour that stands out in a heap, or else its mean."""
    if weights.max() >= 0.1 * weights.sum():
        return int(values[weights.argmax()])
    red, green, blue = np.rint(np.average(channels, axis=0, weights=weights)).astype(int)
    return int(red << 16 | green << 8 | blue)


def _beyond(
    counts: Mapping[int | float, int], kept: Sequence[int], tolerance: int
) -> dict[int | float, int]:
    """Colours that are near none of those kept, and their pixels."""
    values = np.array(list(counts), np.int64)
    near = np.zeros(len(values), bool)
    for colour in kept:
        gaps = [abs((values >> s & 255) - (colour >> s & 255)) for s in (0, 8, 16)]
        near |= np.max(gaps, axis=0) <= tolerance
    return {int(value): counts[int(value)] for value in values[~near]}


def _colour_checks(beyond: Mapping[int | float, int], counts: Counts, tolerance: int) -> list[str]:
    checks = []
    if tolerance:
        checks.append(
            f"the label colours are blurred ({len(counts.pixels)} of them): each counts as the "
            f"nearest class within {tolerance} steps per channel"
        )
    if beyond:
        most = sorted(beyond, key=lambda value: -beyond[value])
        listed = few([_occurrence(_hex(value), value, counts) for value in most])
        checks.append(f"colours that hardly occur count as without label: {listed}")
    return checks


_COLOUR_NAMES = {
    0x000000: "black",
    0xFFFFFF: "white",
    0xFF0000: "red",
    0x00FF00: "green",
    0x0000FF: "blue",
    0xFFFF00: "yellow",
    0x00FFFF: "cyan",
    0xFF00FF: "magenta",
    0x808080: "grey",
    0xFFA500: "orange",
}


def _colour_classes(
    kept: Sequence[int], written: _Written, *, blurred: bool
) -> tuple[ClassGuess, ...]:
    classes = []
    for number, value in enumerate(kept, 1):
        text = _hex(value)
        name = (
            written.legend.by_colour.get(text) or _COLOUR_NAMES.get(int(value)) or f"class {number}"
        )
        seen = "" if blurred else _seen(value, written.counts)
        classes.append(ClassGuess(name, (text,), text, seen))
    return tuple(classes)
