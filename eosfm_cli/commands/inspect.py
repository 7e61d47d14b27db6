"""`eosfm inspect`."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eosfm_cli.commands import figures, options
from eosfm_cli.commands.console import (
    ConsoleProgress,
    fits,
    next_command,
    stdout,
    write_json,
    write_table,
    write_text,
)
from eosfm_cli.commands.options import DATA, example, new_app
from eosfm_cli.words import counted

if TYPE_CHECKING:
    from eosfm_cli.manifest import EncoderInfo, ModelManifest, SpecialistInfo
    from eosfm_cli.results import Inspection

app = new_app()

_MOST_BANDS = 4


@app.command(
    epilog=example("eosfm inspect experiments/ensemble.safetensors --bands mini-landcover")
)
def inspect(
    file: Annotated[
        str | None,
        typer.Argument(
            metavar="FILE",
            help="An ensemble, a model, a checkpoint, the folder of a run, or hf://OWNER/REPO/FILE "
            "for an ensemble on the hub.",
            show_default="the newest model, or else the newest export",
        ),
    ] = None,
    bands: Annotated[
        str | None,
        typer.Option(
            metavar="BANDS",
            help="Show how it would see the bands of a recipe or a raster, or named ones as in "
            "red,green,blue.",
            rich_help_panel=DATA,
        ),
    ] = None,
    experiments: options.Experiments = None,
    card: options.Card = None,
    json: options.Json = False,
) -> None:
    """Look into an ensemble or a model without running it.

    Shows the specialists with their bands, sizes, scores, licences and energy, and the strictest of
    the licences. Of a model also how it is put together, its classes and the bands it wants. Files
    that end in .safetensors are read by their header alone.
    """
    from eosfm_cli.workflows.inspect import inspect as look

    progress = ConsoleProgress()
    found = look(file, root=options.root(experiments), bands=bands, card=card, progress=progress)
    if json:
        write_json(_entry(found))
    else:
        _show(found)
    if card:
        progress.say(f"wrote {card}")
    _tell_next(found)


def _tell_next(found: Inspection) -> None:
    path = shlex.quote(found.name)
    if found.kind == "specialist":
        next_command(f"eosfm export {path}")
    elif found.kind == "ensemble":
        next_command(f"eosfm fit-ensemble RECIPE --ensemble {path}")
    else:
        next_command(f"{options.predict_command(found.manifest.task)} --model {path}")


# ------------------------------------------------------------------------------ as JSON


def _entry(found: Inspection) -> dict[str, Any]:
    manifest = _numbers(found.manifest.model_dump(mode="json"))
    plan = None if found.plan is None else {"bands": found.matching, "lines": found.plan.lines()}
    return {
        "path": found.path,
        "address": found.address,
        "kind": found.kind,
        "licence": found.licence,
        "unlicensed": found.unlicensed,
        "bytes": found.bytes,
        "parameters": found.parameters,
        "cost": found.cost,
        "new": found.new,
        "unmeasured": found.unmeasured,
        **manifest,
        "plan": plan,
        "card": found.card,
    }


def _numbers(value: Any) -> Any:  # noqa: ANN401 - JSON
    """JSON has no NaN: a score that is no number is null."""
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# ------------------------------------------------------------------------------ as tables

_COLUMNS: dict[str, Callable[[SpecialistInfo], str | None]] = {
    "specialist": lambda one: one.name,
    "bands": lambda one: _bands(one),
    "parameters": lambda one: figures.count(one.parameters),
    "score": lambda one: _score(one),
    "licence": lambda one: one.licence,
    "energy": lambda one: figures.energy(one.energy_kwh or 0),
    "recipe": lambda one: one.recipe,
    "backbone": lambda one: one.backbone,
    "from": lambda one: one.source or one.run,
}
_FEWER = (9, 8, 6, 4)
"""How many columns are shown where the terminal is narrower and narrower."""


def _show(found: Inspection) -> None:
    _write_facts([(found.kind, found.name), *_facts(found)])
    tables = [_table(found, number) for number in _FEWER]
    columns, rows = next((table for table in tables if fits(*table)), tables[0])
    write_table(columns, rows)
    if found.plan is not None:
        write_text("".join(f"{line}\n" for line in ["", found.matching, *found.plan.lines()]))


def _write_facts(facts: Iterable[tuple[str, str | None]]) -> None:
    """One per line, and an empty line; long ones go on in their own column."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in facts:
        if text:
            table.add_row(Text(name, "dim"), Text(text))
    console = stdout()
    with console.capture() as captured:
        console.print(table)
    write_text("".join(f"{line.rstrip()}\n" for line in [*captured.get().splitlines(), ""]))


def _table(found: Inspection, number: int) -> tuple[list[str], list[list[str | None]]]:
    columns = list(_COLUMNS)[:number]
    rows = [[_COLUMNS[column](one) for column in columns] for one in found.manifest.specialists]
    scores = found.manifest.encoder.scores if found.kind == "model" else {}
    if scores:
        columns.insert(1, "gate")
        for row in rows:
            row.insert(1, figures.score(scores[row[0]]) if row[0] in scores else None)
    return columns, rows


def _bands(one: SpecialistInfo) -> str:
    if one.bands is None:
        return counted(one.in_chans, "channel")
    more = len(one.bands) - _MOST_BANDS
    # one more is as short as saying that there is one more
    return ", ".join(one.bands) if more <= 1 else f"{', '.join(one.bands[:_MOST_BANDS])} + {more}"


def _score(one: SpecialistInfo) -> str | None:
    name, value = figures.main_metric(one.metrics)
    return f"{name} {value}" if name else None


def _facts(found: Inspection) -> list[tuple[str, str | None]]:
    manifest, cost = found.manifest, found.cost
    return [
        ("licence", _licence(found)),
        *(_facts_of_a_model(manifest) if found.kind == "model" else ()),
        ("specialists", str(len(manifest.specialists))),
        ("parameters", figures.count(found.parameters)),
        ("size", figures.size(found.bytes)),
        ("time in all", figures.duration(cost.seconds) if cost.seconds else None),
        ("energy in all", _energy(found) if cost.energy_kwh else None),
        ("CO₂eq in all", figures.mass(cost.emissions_kg) if cost.emissions_kg else None),
        ("made", manifest.created),
    ]


def _energy(found: Inspection) -> str:
    share = found.new.energy_kwh / found.cost.energy_kwh
    text = f"{figures.energy(found.cost.energy_kwh)}: {figures.share(share)} new work"
    reused = f", {figures.share(1 - share)} reused" if share < 1 else ""
    missing = f"; not known of {', '.join(found.unmeasured)}" if found.unmeasured else ""
    return text + reused + missing


def _licence(found: Inspection) -> str:
    if found.licence is None:
        return "not stated"
    several = len(found.manifest.specialists) > 1 or found.kind == "model"
    text = f"{found.licence} (the strictest)" if several else found.licence
    return text + (f"; not stated: {', '.join(found.unlicensed)}" if found.unlicensed else "")


def _facts_of_a_model(manifest: ModelManifest) -> list[tuple[str, str | None]]:
    known = {*(one.name for one in manifest.specialists), *manifest.left_out}
    others = [
        f"{n} {figures.score(s)}" for n, s in manifest.encoder.scores.items() if n not in known
    ]
    of_classes = tuple(f"_{one.name}" for one in manifest.classes)
    overall = [
        f"{name} {figures.score(value)}"
        for name, value in manifest.metrics.items()
        if not name.endswith(of_classes)
    ]
    fitted = [figures.duration(manifest.seconds) if manifest.seconds else None]
    fitted.append(figures.energy(manifest.energy_kwh) if manifest.energy_kwh else None)
    return [
        ("title", manifest.title),
        ("task", manifest.task),
        ("recipe", manifest.recipe),
        ("bands wanted", ", ".join(manifest.bands)),
        ("classes", ", ".join(one.name for one in manifest.classes)),
        ("values", manifest.target.title if manifest.target else None),
        ("tile", f"{manifest.tile_size} pixels"),
        ("encoder", _encoder(manifest.encoder)),
        ("decoder", manifest.decoder.name),
        ("scores", ", ".join(overall)),
        ("not kept", ", ".join(others)),
        ("pruned", _pruned(manifest)),
        ("fit", ", ".join(filter(None, fitted))),
    ]


def _pruned(manifest: ModelManifest) -> str | None:
    """What it lacks of the model that was fitted."""
    if not manifest.left_out:
        return None
    return f"without {', '.join(manifest.left_out)}, from {manifest.pruned_from}"


def _encoder(encoder: EncoderInfo) -> str:
    """How it is put together, in the words of the recipe."""
    widened = encoder.fusion in {"conv1x1", "mlp"} and encoder.fuse_to_mult != 1
    parts = [
        f"fusion {encoder.fusion}" + (f" × {encoder.fuse_to_mult}" if widened else ""),
        f"normalize {encoder.normalize}",
        "project" if encoder.project else None,
        f"adapt {encoder.adapt}" if encoder.adapt != "rule" else None,
        f"top_k {encoder.top_k} ({encoder.selection})" if encoder.top_k else None,
        "scale_features" if encoder.scale_features else None,
    ]
    return ", ".join(filter(None, parts))
