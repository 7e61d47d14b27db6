"""Specialists from several places in one ensemble: each once, under a name of its own."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from eosfm_cli.ensemble.bundle import weights_fingerprint, with_unique_names
from eosfm_cli.ensemble.specialist import Specialist
from eosfm_cli.manifest import SpecialistInfo
from eosfm_cli.progress import Progress


@dataclass(frozen=True)
class Gathered:
    """The specialists of one ensemble, and what became of those that clashed."""

    specialists: tuple[Specialist, ...]
    repeated: tuple[str, ...]
    """Specialists left out, with where they are from: the same weights are there already."""
    renamed: dict[str, str]
    """Name in the ensemble -> name before, where another has that."""


def from_file(specialists: Iterable[Specialist], origin: str) -> tuple[Specialist, ...]:
    """The specialists of an ensemble file, which remember the first one that they came in."""
    return tuple(
        replace(one, info=one.info.model_copy(update={"source": one.info.source or origin}))
        for one in specialists
    )


def gather(
    specialists: Iterable[Specialist], progress: Progress, *, onto: Sequence[Specialist] = ()
) -> Gathered:
    """Put specialists together in their order.

    Of those with the same weights for the same bands the first one stays; where only a later one
    says its bands, it takes the first one's place. Of those with one name, the later ones become
    `name-2`, `name-3`.

    Args:
        specialists: In the order in which they are to stand.
        progress: Told of each that is left out or renamed.
        onto: What is there already and stays as it is, before the others.
    """
    kept = list(onto)
    repeated: list[str] = []
    places: dict[str, list[int]] = {}
    for place, one in enumerate(onto):
        places.setdefault(weights_fingerprint(one), []).append(place)
    for one in specialists:
        twins = places.setdefault(weights_fingerprint(one), [])
        place = next((i for i in twins if _agree(kept[i].info, one.info)), None)
        if place is None:
            twins.append(len(kept))
            kept.append(one)
            continue
        other = one
        if place >= len(onto):
            kept[place], other = _better_described(kept[place], one)
        repeated.append(described(other.info))
        same = f"has the same weights as {described(kept[place].info)}"
        progress.say(f"Taken once: {repeated[-1]} {same}")
    unique = with_unique_names(kept)
    return Gathered(unique, tuple(repeated), _renamed(kept, unique, progress))


def _agree(one: SpecialistInfo, other: SpecialistInfo) -> bool:
    return one.bands == other.bands or None in (one.bands, other.bands)


def _better_described(first: Specialist, later: Specialist) -> tuple[Specialist, Specialist]:
    """The one that says its bands, or else the first, before the other."""
    later_is_better = first.info.bands is None and later.info.bands is not None
    return (later, first) if later_is_better else (first, later)


def described(info: SpecialistInfo) -> str:
    """A specialist's name, and where it is from."""
    origin = info.source or info.run
    return f"{info.name} ({origin})" if origin else info.name


def _renamed(
    before: Collection[Specialist], after: Collection[Specialist], progress: Progress
) -> dict[str, str]:
    renamed = {}
    for old, new in zip(before, after, strict=True):
        if old.info.name != new.info.name:
            renamed[new.info.name] = old.info.name
            progress.say(f"Renamed: {described(old.info)} is called {new.info.name} here")
    return renamed
