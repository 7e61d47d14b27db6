"""What it took to make an ensemble or a model, by what its own file says."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from eosfm_cli.manifest import EnsembleManifest, ModelManifest, PastWork, SpecialistInfo
from eosfm_cli.results import Cost


@dataclass(frozen=True)
class Made:
    """One piece of the work behind a file."""

    command: str
    name: str
    cost: Cost
    measured: bool
    reused: bool
    """Whether it was there before, and others may stand on it as well."""
    where: str | None = None
    """The run, or the file that it first came in."""


def lineage(manifest: EnsembleManifest | ModelManifest) -> tuple[Made, ...]:
    """The work behind a file, oldest first.

    New work is what was done for this file: the fit of a model, and making it smaller; of an
    ensemble, the training of specialists that did not come out of another ensemble.
    """
    is_model = isinstance(manifest, ModelManifest)
    trained = [
        _made(
            "train-specialist",
            one.name,
            one,
            reused=is_model or one.source is not None,
            where=one.source or one.run,
        )
        for one in manifest.specialists
    ]
    if not is_model:
        return tuple(trained)
    left_out = [work for work in manifest.past_work if work.command == "train-specialist"]
    after = [work for work in manifest.past_work if work.command != "train-specialist"]
    return (
        *trained,
        *(_made(work.command, work.name, work, reused=True) for work in left_out),
        _made("fit-ensemble", manifest.recipe, manifest, reused=False),
        *(_made(work.command, work.name, work, reused=False) for work in after),
    )


def _made(
    command: str,
    name: str,
    stage: SpecialistInfo | ModelManifest | PastWork,
    *,
    reused: bool,
    where: str | None = None,
) -> Made:
    cost = Cost(stage.seconds or 0.0, stage.energy_kwh or 0.0, stage.emissions_kg or 0.0)
    return Made(command, name, cost, bool(stage.energy_kwh), reused, where)


def cost_in_all(work: Iterable[Made]) -> Cost:
    """The sum."""
    return sum((made.cost for made in work), Cost())


def new_work(work: Iterable[Made]) -> Cost:
    """What was done for the file alone."""
    return cost_in_all(made for made in work if not made.reused)


def left_out_work(specialists: Iterable[SpecialistInfo], kept: Iterable[str]) -> list[PastWork]:
    """The training of specialists that a model was chosen from, and that are not in it."""
    names = set(kept)
    return [
        PastWork(
            command="train-specialist",
            name=one.name,
            seconds=one.seconds,
            energy_kwh=one.energy_kwh,
            emissions_kg=one.emissions_kg,
        )
        for one in specialists
        if one.name not in names
    ]


def map_costs(manifest: ModelManifest, cost: Cost) -> dict[str, str]:
    """What a map's tags say of energy: that of the map, and that of the model behind it."""
    model = cost_in_all(lineage(manifest))
    figures = {
        "EOSFM_ENERGY_KWH": cost.energy_kwh,
        "EOSFM_EMISSIONS_KG": cost.emissions_kg,
        "EOSFM_MODEL_ENERGY_KWH": model.energy_kwh,
        "EOSFM_MODEL_EMISSIONS_KG": model.emissions_kg,
    }
    return {key: f"{value:.6g}" for key, value in figures.items() if value}
