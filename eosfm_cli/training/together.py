"""Processes that train one model together tell each other what they have found."""

from __future__ import annotations

from typing import TypeVar

from torch import distributed

T = TypeVar("T")


def rank() -> int:
    """The number of this process; 0 leads, and is alone where there is one."""
    return distributed.get_rank() if _several() else 0


def world() -> int:
    """How many processes there are."""
    return distributed.get_world_size() if _several() else 1


def from_leader(value: T) -> T:
    """What the leader has; others may give anything."""
    values = [value]
    if _several():
        distributed.broadcast_object_list(values)
    return values[0]


def from_all(value: T) -> list[T]:
    """What each process has, by number; all of them wait for the last one."""
    values = [value] * world()
    if _several():
        distributed.all_gather_object(values, value)
    return values


def _several() -> bool:
    return distributed.is_available() and distributed.is_initialized()
