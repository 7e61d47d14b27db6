"""What samples are called, and the names of splits."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeVar

SplitName = Literal["train", "val", "test"]
SPLIT_NAMES: tuple[SplitName, ...] = ("train", "val", "test")

_Item = TypeVar("_Item")


class Key(NamedTuple):
    """What tells one sample from all others; fields that the paths do not have are empty."""

    split: str
    class_name: str
    id: str
    others: tuple[tuple[str, str], ...] = ()
    """Further fields of the paths, by name."""

    @property
    def fields(self) -> dict[str, str]:
        """What the fields of a path stand for; those that are not known are left out."""
        own = {"split": self.split, "class": self.class_name, "id": self.id}
        return {name: text for name, text in own.items() if text} | dict(self.others)


def draw(
    items: Sequence[_Item],
    val: float | tuple[_Item, ...],
    test: float | tuple[_Item, ...],
    seed: int,
) -> tuple[list[_Item], list[_Item]]:
    """Draw validation and test items: named ones as they are, shares at random but seeded.

    A share above zero takes at least one item, as long as there are any.
    """
    named = {item for part in (val, test) if isinstance(part, tuple) for item in part}
    pool = [item for item in items if item not in named]
    random.Random(seed).shuffle(pool)
    drawn = []
    for part in (val, test):
        if isinstance(part, tuple):
            drawn.append(list(part))
        else:
            count = min(max(round(part * len(items)), 1), len(pool)) if part > 0 else 0
            drawn.append([pool.pop() for _ in range(count)])
    return drawn[0], drawn[1]


def few(names: Sequence[str], most: int = 5) -> str:
    """The first few names, and how many more there are."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
