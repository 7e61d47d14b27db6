"""Polygons around pixels of one class, traced strip by strip and joined across strips."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.features import shapes

_AT_ONCE = 10_000
_NONE = -1


@dataclass(frozen=True)
class Outlines:
    """Polygons whose corners are whole pixels, and the class of each."""

    shapes: NDArray[np.object_]
    values: NDArray[np.int64]


@dataclass(frozen=True)
class _Strip:
    """What some rows of a map hold, and where it may go on."""

    found: Outlines
    first: NDArray[np.int64]
    """Which polygon each pixel of the first row is in; -1 if in none."""
    last: NDArray[np.int64]
    """The same of the last row."""


def whole_outlines(
    strips: Iterable[tuple[int, NDArray[np.uint8]]], width: int, classes: int
) -> Iterator[Outlines]:
    """Trace a map of which some rows are in memory at a time; no polygon ends where rows do.

    Args:
        strips: The first row of each, and class indices `(rows, width)`; other values are in no
            polygon.
        width: Pixels of a row.
        classes: How many there are.

    Yields:
        Polygons that are complete: pixels of a class that share edges are in one.
    """
    joiner = _Joiner(width)
    for top, labels in strips:
        yield joiner.add(_trace(labels, top, classes))
    yield joiner.rest()


# --------------------------------------------------------------------------- one strip


def _trace(labels: NDArray[np.uint8], top: int, classes: int) -> _Strip:
    rows, width = labels.shape
    first, last = np.full(width, _NONE), np.full(width, _NONE)
    traced = shapes(labels, labels < classes, connectivity=4, transform=Affine.translation(0, top))
    parts, values = [], []
    while some := list(itertools.islice(traced, _AT_ONCE)):
        begin = len(values)
        values.extend(int(value) for _, value in some)
        rings = [geometry["coordinates"] for geometry, _ in some]
        corners, ring, polygon = _flat(rings)
        parts.append(shapely.polygons(shapely.linearrings(corners, indices=ring), indices=polygon))
        owner = polygon[ring] + begin
        _note_border(first, corners, ring, owner, top)
        _note_border(last, corners, ring, owner, top + rows)
    found = np.concatenate(parts) if parts else np.empty(0, object)
    return _Strip(Outlines(found, np.array(values, np.int64)), first, last)


def _flat(
    polygons: Sequence[Sequence[Sequence[tuple[float, float]]]],
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """All corners `(n, 2)`, the ring of each, and the polygon of each ring."""
    rings = list(itertools.chain.from_iterable(polygons))
    corners = np.array(list(itertools.chain.from_iterable(rings)), np.float64)
    ring = np.repeat(np.arange(len(rings)), [len(points) for points in rings])
    polygon = np.repeat(np.arange(len(polygons)), [len(own) for own in polygons])
    return corners, ring, polygon


def _note_border(
    border: NDArray[np.int64],
    corners: NDArray[np.float64],
    ring: NDArray[np.int64],
    owner: NDArray[np.int64],
    y: int,
) -> None:
    """Note which polygons have edges along a line, and over which columns."""
    on_line = corners[:, 1] == y
    edges = np.flatnonzero(on_line[1:] & on_line[:-1] & (ring[1:] == ring[:-1]))
    ends = np.sort(np.stack([corners[edges, 0], corners[edges + 1, 0]]), axis=0).astype(np.int64)
    for start, stop, polygon in zip(*ends, owner[edges], strict=True):
        border[start:stop] = polygon


# --------------------------------------------------------------------------- across strips


class _Joiner:
    """Keeps polygons that may go on below until they are whole."""

    def __init__(self, width: int) -> None:
        self._pieces: list[list[shapely.Polygon]] = []
        """Of each polygon that may go on."""
        self._values = np.empty(0, np.int64)
        self._last = np.full(width, _NONE)
        """Which of them each pixel of the last row is in."""

    def add(self, strip: _Strip) -> Outlines:
        """Take the next strip.

        Returns:
            What is whole now.
        """
        found, held = strip.found, len(self._pieces)
        groups = _Groups(held + len(found.shapes))
        for above, below in self._touching(strip):
            groups.join(above, held + below)
        goes_on = {groups.of(held + piece) for piece in _ids(strip.last)}
        at_border = _ids(strip.first, strip.last)
        members: dict[int, list[shapely.Polygon]] = defaultdict(list)
        for number, pieces in enumerate(self._pieces):
            members[groups.of(number)].extend(pieces)
        for piece in at_border:
            members[groups.of(held + piece)].append(found.shapes[piece])
        values = np.concatenate([self._values, found.values])
        whole = [group for group in members if group not in goes_on]
        kept = [group for group in members if group in goes_on]
        self._keep(strip, kept, members, values, groups, held)
        inside = np.ones(len(found.shapes), bool)
        inside[at_border] = False
        joined = np.array([_joined(members[group]) for group in whole], object)
        return Outlines(
            np.concatenate([found.shapes[inside], joined]),
            np.concatenate([found.values[inside], values[whole]]),
        )

    def rest(self) -> Outlines:
        """What went on down to the last row."""
        joined = np.array([_joined(pieces) for pieces in self._pieces], object)
        return Outlines(joined, self._values)

    def _touching(self, strip: _Strip) -> NDArray[np.int64]:
        """Pairs of polygons of one class above and below the line between two strips."""
        pairs = np.stack([self._last, strip.first], axis=1)
        pairs = np.unique(pairs[(pairs != _NONE).all(axis=1)], axis=0)
        return pairs[self._values[pairs[:, 0]] == strip.found.values[pairs[:, 1]]]

    def _keep(
        self,
        strip: _Strip,
        kept: list[int],
        members: dict[int, list[shapely.Polygon]],
        values: NDArray[np.int64],
        groups: _Groups,
        held: int,
    ) -> None:
        numbers = {group: number for number, group in enumerate(kept)}
        renamed = np.full(len(strip.found.shapes) + 1, _NONE)  # the last one for no polygon
        for piece in _ids(strip.last):
            renamed[piece] = numbers[groups.of(held + piece)]
        self._pieces = [members[group] for group in kept]
        self._values = values[kept]
        self._last = renamed[strip.last]


class _Groups:
    """Numbers that belong together; a group is called by the least of them."""

    def __init__(self, count: int) -> None:
        self._parent = np.arange(count)

    def of(self, number: int) -> int:
        """The group of a number."""
        parent = self._parent
        while parent[number] != number:
            parent[number] = number = parent[parent[number]]
        return int(number)

    def join(self, one: int, other: int) -> None:
        """Make one group of two."""
        low, high = sorted((self.of(one), self.of(other)))
        self._parent[high] = low


def _ids(*borders: NDArray[np.int64]) -> NDArray[np.int64]:
    """The polygons along borders."""
    found = np.unique(np.concatenate(borders))
    return found[found != _NONE]


def _joined(pieces: Sequence[shapely.Polygon]) -> shapely.Polygon:
    """One polygon of several that share edges, without the corners that their ends had."""
    if len(pieces) == 1:
        return pieces[0]
    whole = shapely.union_all(np.array(pieces, object))
    return shapely.Polygon(_corners(whole.exterior), [_corners(hole) for hole in whole.interiors])


def _corners(ring: shapely.LinearRing) -> NDArray[np.float64]:
    """The points of a ring in which it turns."""
    points = shapely.get_coordinates(ring)[:-1]
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    return points[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]
