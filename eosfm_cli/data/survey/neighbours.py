"""Tiles that touch each other on the ground."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping
from math import floor
from typing import TypeVar

Bounds = tuple[str, float, float, float, float]
"""Coordinate system; left, bottom, right, top in it."""

_SLACK = 1e-6
"""Share of an edge by which corners may miss each other through rounding."""
_Item = TypeVar("_Item", bound=Hashable)


def touching_groups(bounds: Mapping[_Item, Bounds]) -> list[list[_Item]]:
    """Items whose rectangles touch or overlap, directly or through others; alone ones too.

    Rectangles are compared within cells of the size of the largest one, so that many tiles cost
    little.
    """
    places: dict[Bounds, list[_Item]] = defaultdict(list)
    for item, rectangle in bounds.items():
        places[rectangle].append(item)
    parent = {rectangle: rectangle for rectangle in places}
    edge = (
        max((max(right - left, top - bottom) for _, left, bottom, right, top in places), default=1)
        or 1
    )
    cells: dict[tuple[str, int, int], list[Bounds]] = defaultdict(list)
    for rectangle in places:
        for cell in _cells(rectangle, edge):
            for other in cells[cell]:
                if _touch(rectangle, other):
                    parent[_top(parent, rectangle)] = _top(parent, other)
            cells[cell].append(rectangle)
    groups: dict[Bounds, list[_Item]] = defaultdict(list)
    for rectangle, items in places.items():
        groups[_top(parent, rectangle)] += items
    return list(groups.values())


def _cells(rectangle: Bounds, edge: float) -> Iterator[tuple[str, int, int]]:
    system, left, bottom, right, top = rectangle
    slack = _SLACK * edge
    for column in range(floor((left - slack) / edge), floor((right + slack) / edge) + 1):
        for row in range(floor((bottom - slack) / edge), floor((top + slack) / edge) + 1):
            yield system, column, row


def _top(parent: dict[Bounds, Bounds], rectangle: Bounds) -> Bounds:
    while parent[rectangle] != rectangle:
        parent[rectangle] = parent[parent[rectangle]]
        rectangle = parent[rectangle]
    return rectangle


def _touch(one: Bounds, other: Bounds) -> bool:
    slack = _SLACK * max(abs(one[3] - one[1]), abs(one[4] - one[2]))
    return (
        one[1] <= other[3] + slack
        and other[1] <= one[3] + slack
        and one[2] <= other[4] + slack
        and other[2] <= one[4] + slack
    )
