"""Model cards: what an ensemble or a model is, in the form that the Hugging Face hub reads.

YAML between `---` lines for the hub's own pages, Markdown below for people.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from eosfm_cli.licences import hub_identifier, strictest
from eosfm_cli.manifest import EnsembleManifest, ModelManifest, PastWork, SpecialistInfo
from eosfm_cli.results import MAIN_METRICS
from eosfm_cli.words import counted

_PIPELINES = {"segmentation": "image-segmentation", "classification": "image-classification"}
_SCENES = {
    "change": "after.tif --before before.tif",
    "classification": "image.tif",
    "multilabel": "image.tif",
}
"""What models of a task take, where that is not a scene."""
LIBRARY = "library_name: eosfm"
"""The line by which a card is known as one of ours."""


@dataclass(frozen=True)
class Circumstances:
    """Where and on what the work was done, as far as anybody knows."""

    locations: tuple[str, ...] = ()
    """Whose electricity was counted, where that is a certain country's."""
    electricity: tuple[str, ...] = ()
    """Every carbon intensity that was counted with, and its source."""
    hardware: tuple[str, ...] = ()


def card(
    manifest: EnsembleManifest | ModelManifest,
    file: str,
    circumstances: Circumstances | None = None,
) -> str:
    """The model card of a file, whole.

    Args:
        manifest: What the file says about itself.
        file: Its name.
        circumstances: What the ledger knows about the work behind it.
    """
    around = circumstances or Circumstances()
    front = _front_matter(manifest, file, around)
    text = yaml.safe_dump(front, sort_keys=False, allow_unicode=True, width=100)
    sections = [
        f"# {_title(manifest, file)}",
        _what_it_is(manifest),
        *_body(manifest, file, around),
    ]
    return f"---\n{text}---\n\n" + "\n\n".join(sections) + "\n"


def _title(manifest: EnsembleManifest | ModelManifest, file: str) -> str:
    return _plain(manifest.title if isinstance(manifest, ModelManifest) else file)


def _licences(manifest: EnsembleManifest | ModelManifest) -> list[str | None]:
    of_specialists = [one.licence for one in manifest.specialists]
    return [*of_specialists, *([manifest.licence] if isinstance(manifest, ModelManifest) else [])]


# ------------------------------------------------------------------------------ for the hub


def _front_matter(
    manifest: EnsembleManifest | ModelManifest, file: str, around: Circumstances
) -> dict[str, Any]:
    is_model = isinstance(manifest, ModelManifest)
    recipes = [one.recipe for one in manifest.specialists]
    front = {
        **_licence_entry(_licences(manifest)),
        "library_name": "eosfm",
        "pipeline_tag": _PIPELINES.get(manifest.task) if is_model else "image-feature-extraction",
        "tags": _tags(manifest),
        "datasets": _distinct([*recipes, *([manifest.recipe] if is_model else [])]),
        "co2_eq_emissions": _emissions_entry(manifest, around),
        "model-index": _model_index(manifest, file),
    }
    return {key: value for key, value in front.items() if value}


def _licence_entry(licences: Sequence[str | None]) -> dict[str, str]:
    """The strictest licence; where one is not stated, nobody knows which that is."""
    licence = strictest(licences)
    if licence is None or not all(licences):
        return {"license": "unknown"}
    known = hub_identifier(licence)
    if known:
        return {"license": known}
    return {
        "license": "other",
        "license_name": re.sub(r"[^a-z0-9.]+", "-", licence.lower()).strip("-"),
    }


def _tags(manifest: EnsembleManifest | ModelManifest) -> list[str]:
    own = [manifest.task] if isinstance(manifest, ModelManifest) else ["feature-extraction"]
    backbones = _distinct(one.backbone for one in manifest.specialists)
    return ["earth-observation", "remote-sensing", "ensemble", *own, *backbones]


def _emissions_entry(
    manifest: EnsembleManifest | ModelManifest, around: Circumstances
) -> dict[str, Any] | None:
    """What the hub shows: grams, and from what. Nothing at all if nobody measured."""
    grams = 1000 * sum(one.emissions_kg or 0.0 for one in _stages(manifest))
    if not grams:
        return None
    entry = {
        "emissions": float(f"{grams:.4g}"),
        "source": "codecarbon",
        "training_type": "fine-tuning" if isinstance(manifest, ModelManifest) else "pre-training",
        "geographical_location": "; ".join(around.locations),
        "hardware_used": "; ".join(around.hardware),
    }
    return {key: value for key, value in entry.items() if value}


def _stages(
    manifest: EnsembleManifest | ModelManifest,
) -> list[SpecialistInfo | PastWork | ModelManifest]:
    """What has cost: each specialist, also those that were left out, and the fit."""
    own = [*manifest.past_work, manifest] if isinstance(manifest, ModelManifest) else []
    return [*manifest.specialists, *own]


def _model_index(manifest: EnsembleManifest | ModelManifest, file: str) -> list[dict[str, Any]]:
    if isinstance(manifest, ModelManifest):
        results = [_result(manifest.task, manifest.recipe, manifest.title, manifest.metrics)]
    else:
        results = [
            _result(
                one.task or "other", one.recipe or one.name, one.recipe or one.name, one.metrics
            )
            for one in manifest.specialists
        ]
    results = [result for result in results if result["metrics"]]
    return [{"name": _title(manifest, file), "results": results}] if results else []


def _result(task: str, recipe: str, title: str, metrics: Mapping[str, float]) -> dict[str, Any]:
    return {
        "task": {"type": _PIPELINES.get(task, task), "name": task},
        "dataset": {"type": recipe, "name": title},
        "metrics": [
            {"type": name, "name": name, "value": round(value, 4)}
            for name, value in metrics.items()
            if math.isfinite(value)
        ],
    }


# ------------------------------------------------------------------------------ for people


def _what_it_is(manifest: EnsembleManifest | ModelManifest) -> str:
    parameters = sum(one.parameters for one in manifest.specialists)
    members = f"{counted(len(manifest.specialists), 'specialist')} of {parameters:,} parameters"
    method = (
        "The method is that of [EoS-FM](https://arxiv.org/abs/2511.21523): an ensemble of small "
        "Earth-observation encoders, each trained on its own dataset and bands."
    )
    if isinstance(manifest, ModelManifest):
        return (
            f"A {manifest.task} model of [eosfm](#how-to-use): {members}, with a "
            f"{_plain(manifest.decoder.name)} on top, fitted to the recipe "
            f"{_plain(manifest.recipe)}.{_pruned(manifest)} {method}"
        )
    return (
        f"An ensemble for [eosfm](#how-to-use): {members}, ready to be fitted to a task. {method}"
    )


def _pruned(manifest: ModelManifest) -> str:
    """What it lacks of the model that was fitted."""
    if not manifest.left_out:
        return ""
    gone = _plain(", ".join(manifest.left_out))
    return (
        f" It was pruned from {_plain(manifest.pruned_from or 'the fitted model')} and not fitted "
        f"again: {counted(len(manifest.left_out), 'specialist')} left out ({gone})."
    )


def _body(
    manifest: EnsembleManifest | ModelManifest, file: str, around: Circumstances
) -> list[str]:
    own = _of_the_model(manifest) if isinstance(manifest, ModelManifest) else []
    return [
        *own,
        "## Specialists",
        _specialist_table(manifest.specialists),
        "## How to use",
        _usage(manifest, file),
        "## Licences",
        _licence_text(manifest),
        "## Energy",
        _energy_text(manifest, around),
        f"Written by eosfm {manifest.eosfm}; the file was made {manifest.created}."
        if manifest.created
        else "Written by eosfm.",
    ]


def _of_the_model(manifest: ModelManifest) -> list[str]:
    encoder = manifest.encoder
    facts = [
        ("task", manifest.task),
        ("bands, in this order", ", ".join(manifest.bands)),
        ("classes", ", ".join(one.name for one in manifest.classes)),
        ("values", manifest.target.title if manifest.target else ""),
        ("tile", f"{manifest.tile_size} pixels"),
        ("fusion", encoder.fusion),
        ("normalisation", encoder.normalize),
        ("decoder", manifest.decoder.name),
    ]
    metrics = [
        [name, f"{value:.4f}"] for name, value in manifest.metrics.items() if math.isfinite(value)
    ]
    scores = ["## Scores", _table(["metric", "value"], metrics)] if metrics else []
    return [
        "## Input and output",
        _table(["", ""], [list(fact) for fact in facts if fact[1]]),
        *scores,
    ]


def _specialist_table(specialists: Sequence[SpecialistInfo]) -> str:
    columns = ["specialist", "backbone", "bands", "parameters", "recipe", "score", "from"]
    rows = [
        [
            one.name,
            one.backbone,
            ", ".join(one.bands) if one.bands else f"{counted(one.in_chans, 'channel')}, not named",
            f"{one.parameters:,}",
            one.recipe or "",
            _score(one.metrics),
            one.source or one.run or "",
        ]
        for one in specialists
    ]
    return _table(columns, rows)


def _score(metrics: Mapping[str, float]) -> str:
    """The metric by which its task is judged; all of them are in the hub's index."""
    name = next((name for name in MAIN_METRICS if math.isfinite(metrics.get(name, math.nan))), None)
    return f"{name} {metrics[name]:.3f}" if name else ""


def _usage(manifest: EnsembleManifest | ModelManifest, file: str) -> str:
    file = shlex.quote(file)
    if not isinstance(manifest, ModelManifest):
        use = [f"eosfm fit-ensemble RECIPE --ensemble {file}"]
    else:
        use = [f"eosfm predict {_SCENES.get(manifest.task, 'scene.tif')} --model {file}"]
    commands = "\n".join([f"eosfm inspect {file}", *use])
    return f"```bash\n{commands}\n```\n\nBands are found by their names, and the plan is printed."


def _licence_text(manifest: EnsembleManifest | ModelManifest) -> str:
    named = [(one.name, one.licence) for one in manifest.specialists]
    if isinstance(manifest, ModelManifest):
        named.append((f"the data of {manifest.recipe}", manifest.licence))
    found = strictest(licence for _, licence in named)
    lines = [
        f"The strictest stated: **{_plain(found)}**." if found else "No licence is stated.",
        "",
        *(f"- {_plain(name)}: {_plain(licence or 'not stated')}" for name, licence in named),
    ]
    return "\n".join(lines)


def _energy_text(manifest: EnsembleManifest | ModelManifest, around: Circumstances) -> str:
    stages = _stages(manifest)
    measured = [one for one in stages if one.energy_kwh]
    if not measured:
        return "Not measured."
    kwh = sum(one.energy_kwh or 0.0 for one in measured)
    grams = 1000 * sum(one.emissions_kg or 0.0 for one in measured)
    what = "training and fitting" if isinstance(manifest, ModelManifest) else "training"
    energy = f"{kwh:.3g} kWh" if kwh >= 1 else f"{1000 * kwh:.3g} Wh"
    text = f"In all, {what} took {energy}, {grams:.3g} g CO₂eq, by codecarbon's measurement."
    if len(measured) < len(stages):
        text += f" Not in it: {len(stages) - len(measured)} of {len(stages)} that nobody measured."
    where = [
        *(f"Hardware: {_plain(one)}." for one in around.hardware),
        *(f"Electricity: {_plain(one)}." for one in around.electricity),
    ]
    return " ".join([text, *where])


# ------------------------------------------------------------------------------ text


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(map(_plain, line))} |" for line in lines)


def _plain(text: str) -> str:
    """Text from a file as it can stand in a line of Markdown: it may come from anybody."""
    one_line = " ".join(text.split())
    return one_line.replace("|", r"\|").replace("<", "&lt;").replace("[", r"\[").replace("`", "'")


def _distinct(texts: Iterable[str | None]) -> list[str]:
    return list(dict.fromkeys(text for text in texts if text))
