"""Which coalitions of specialists to score, so that their scores tell what each one is worth."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Mode = Literal["leave-one-out", "only-one", "shapley"]
"""The score without each specialist; with each one alone; or what each one adds on average, over
all orders in which they could have joined (its Shapley value)."""

Coalition = frozenset[str]
"""The specialists that count; all others are the fusion's neutral element."""


@dataclass(frozen=True)
class Comparison:
    """What some specialists are worth: the mean difference between pairs of coalitions."""

    specialists: tuple[str, ...]
    pairs: tuple[tuple[Coalition, Coalition], ...]
    """Coalitions that are scored, each with the one that it is compared with."""
    sampled: bool = False
    """Whether the pairs are a sample of all there are."""


def comparisons(
    mode: Mode,
    names: Sequence[str],
    players: Sequence[str] | None = None,
    *,
    permutations: int = 200,
    seed: int = 0,
) -> tuple[Comparison, ...]:
    """What to compare.

    Args:
        mode: How a specialist's worth is told.
        names: All specialists of the model.
        players: Compare only these, and (but for `shapley`) all of them together; everybody, if
            not given.
        permutations: Of `shapley`: how many orders of the players are drawn; where there are not
            more than that, each is taken once.
        seed: Of the orders.
    """
    chosen = tuple(names if players is None else players)
    if mode == "shapley":
        return _shapley(names, chosen, permutations, seed)
    groups: list[tuple[str, ...]] = [(name,) for name in chosen]
    if 1 < len(chosen) < len(names):
        groups.append(chosen)
    everybody = frozenset(names)
    scored = {
        group: everybody - set(group) if mode == "leave-one-out" else frozenset(group)
        for group in groups
    }
    return tuple(Comparison(group, ((scored[group], everybody),)) for group in groups)


def coalitions_of(found: Iterable[Comparison]) -> frozenset[Coalition]:
    """Every coalition whose score the comparisons ask for, each once."""
    return frozenset(one for item in found for pair in item.pairs for one in pair)


def _shapley(
    names: Sequence[str], players: Sequence[str], permutations: int, seed: int
) -> tuple[Comparison, ...]:
    rest = frozenset(names) - set(players)
    orders, sampled = _orders(players, permutations, seed)
    pairs: dict[str, list[tuple[Coalition, Coalition]]] = {name: [] for name in players}
    for order in orders:
        before = rest
        for name in order:
            pairs[name].append((before | {name}, before))
            before |= {name}
    return tuple(Comparison((name,), tuple(pairs[name]), sampled) for name in players)


def _orders(
    players: Sequence[str], permutations: int, seed: int
) -> tuple[list[tuple[str, ...]], bool]:
    """Orders of the players, and whether they are a sample."""
    if math.factorial(len(players)) <= permutations:
        return list(itertools.permutations(players)), False
    rng = random.Random(seed)
    return [tuple(rng.sample(players, len(players))) for _ in range(permutations)], True
