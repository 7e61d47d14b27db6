"""Finding what belongs together: the same samples in several streams, whatever is around the id."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from eosfm_cli.data.survey.layout import ID, Place, Stream
from eosfm_cli.data.survey.words import role_of

LEFT, RIGHT = "place", "tile"
"""Fields of an id that has something in its middle, as in `{place}_s2_{tile}`."""

_SEPARATED = re.compile(r"([_\-. ]+)")


def matched(one: Stream, other: Stream) -> int:
    """How many samples two streams have in common, by the fields that both have."""
    shared = [name for name in one.fields if name in other.fields]
    if not {_own_field(one), _own_field(other)} <= set(shared):
        return 0
    return len(_keys(one, shared) & _keys(other, shared))


def _own_field(stream: Stream) -> str:
    """The field that tells the files of one folder apart."""
    return RIGHT if stream.middle else ID


def _keys(stream: Stream, names: Sequence[str]) -> set[tuple[str, ...]]:
    return {tuple(place.fields[name] for name in names) for place in stream.places}


@dataclass(frozen=True)
class Pair:
    """Two streams whose ids are written alike, and how many samples they have in common."""

    one: Stream
    other: Stream
    matched: int


def align(one: Stream, other: Stream) -> Pair:
    """Cut what is around the ids, as little as possible, so that most of them are the same."""
    most = min(len(one.places), len(other.places))
    best = Pair(one, other, matched(one, other))
    if 2 * best.matched >= most:
        return best
    for mine in _cuts(one):
        for theirs in _cuts(other):
            pair = Pair(mine, theirs, matched(mine, theirs))
            best = max(best, pair, key=lambda p: p.matched)
    if 2 * best.matched < most:
        best = max([best, *_cut_in_the_middle(one, other)], key=lambda p: p.matched)
    return best


def align_to(fixed: Stream, other: Stream) -> Pair:
    """Cut what is around the ids of the other stream only."""
    cuts = [other, *_cuts(other), *(_halved(other, i) for i in _constant_words(other))]
    pairs = [Pair(fixed, cut, matched(fixed, cut)) for cut in cuts]
    return max(pairs, key=lambda pair: pair.matched)


# --------------------------------------------------------------------------- at the ends


def _cuts(stream: Stream) -> Iterator[Stream]:
    """The stream with more and more cut: nothing, at the end, at the start, at both."""
    if stream.named_by_folder:
        yield stream
        return
    ids = [place.fields[ID] for place in stream.places]
    for prefix in _common_starts(ids):
        for suffix in _common_ends(ids):
            if all(len(text) > len(prefix) + len(suffix) for text in ids):
                yield _cut(stream, prefix, suffix)


def _cut(stream: Stream, prefix: str, suffix: str) -> Stream:
    places = tuple(
        place.having(ID, place.fields[ID][len(prefix) :].removesuffix(suffix))
        for place in stream.places
    )
    return replace(
        stream,
        prefix=stream.prefix + prefix,
        suffix=suffix + stream.suffix,
        places=places,
        affix=stream.affix or f"{prefix} {suffix}".strip(),
    )


def _common_starts(ids: Sequence[str]) -> list[str]:
    """What all ids begin with: whole words with letters and their separators, shortest first."""
    parts = _SEPARATED.split(ids[0])
    starts = [""]
    for word, separator in zip(parts[::2], parts[1::2], strict=False):
        longer = starts[-1] + word + separator
        if not _is_word(word, ids) or not all(text.startswith(longer) for text in ids):
            break
        starts.append(longer)
    return starts


def _common_ends(ids: Sequence[str]) -> list[str]:
    """What all ids end with, shortest first."""
    parts = _SEPARATED.split(ids[0])
    ends = [""]
    for index in range(len(parts) - 1, 0, -2):
        longer = parts[index - 1] + parts[index] + ends[-1]
        if not _is_word(parts[index], ids) or not all(text.endswith(longer) for text in ids):
            break
        ends.append(longer)
    return ends


def _is_word(text: str, ids: Sequence[str]) -> bool:
    """Of one id alone nothing is common by chance but words that tell images from labels."""
    if len(ids) == 1:
        return role_of(text) is not None
    return any(letter.isalpha() for letter in text)


# --------------------------------------------------------------------------- in the middle


def _cut_in_the_middle(one: Stream, other: Stream) -> Iterator[Pair]:
    """Ids with a constant word at the same place in each stream, as in `a_s2_1` and `a_lc_1`."""
    mine, theirs = _constant_words(one), _constant_words(other)
    for index in sorted(set(mine) & set(theirs)):
        if mine[index] != theirs[index]:
            cut = [_halved(one, index), _halved(other, index)]
            yield Pair(cut[0], cut[1], matched(*cut))


def _constant_words(stream: Stream) -> dict[int, str]:
    """Place among the words -> the word, where it is the same in all ids; not first or last."""
    if stream.named_by_folder:
        return {}
    split = [_SEPARATED.split(place.fields[ID])[::2] for place in stream.places]
    shortest = min(map(len, split))
    found = {}
    for index in range(1, shortest - 1):
        words = {parts[index] for parts in split}
        if len(words) == 1 and any(c.isalpha() for c in min(words)):
            found[index] = min(words)
    return found


def _halved(stream: Stream, index: int) -> Stream:
    middle = ""
    places: list[Place] = []
    for place in stream.places:
        parts = _SEPARATED.split(place.fields[ID])
        middle = "".join(parts[2 * index - 1 : 2 * index + 2])
        halves = "".join(parts[: 2 * index - 1]), "".join(parts[2 * index + 2 :])
        places.append(place.having(LEFT, halves[0]).having(RIGHT, halves[1]))
    left = _same_as_a_folder(stream, places) or LEFT
    return replace(stream, places=tuple(places), middle=(left, middle))


def _same_as_a_folder(stream: Stream, places: Sequence[Place]) -> str | None:
    """The folder field that says the same as the left half everywhere, if one does."""
    return next(
        (
            name
            for name in stream.fields
            if name not in {ID, "split"}
            and all(place.fields[name] == place.fields[LEFT] for place in places)
        ),
        None,
    )
