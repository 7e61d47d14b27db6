"""`eosfm predict`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eosfm_cli.commands import figures, options
from eosfm_cli.commands.console import ConsoleProgress, next_command, write_json, write_table
from eosfm_cli.commands.options import DATA, OUTPUT, example, new_app

if TYPE_CHECKING:
    from eosfm_cli.results import LabelledImage, LabelResult, PredictResult, ValueSummary

app = new_app()


Inputs = Annotated[
    list[Path], typer.Argument(metavar="INPUT", help="Rasters of any size, as GDAL reads them.")
]
Before = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="The same place at an earlier date, on the same grid; for models of change.",
        rich_help_panel=DATA,
    ),
]
Model = Annotated[
    Path | None,
    typer.Option(
        "--model",
        "-m",
        metavar="FILE|RUN",
        help="A fitted model, or the run folder of a fit.",
        show_default="the newest completed fit",
        rich_help_panel=DATA,
    ),
]
BandsOption = Annotated[
    str | None,
    typer.Option(
        metavar="A,B",
        help="The file's bands in file order, as in red,green,blue, or by the sensor's own names, "
        "as in B04,B03,B02.",
        show_default="the file's band descriptions",
        rich_help_panel=DATA,
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="The map, or the table (.csv) of models that tell whole images; a folder for several.",
        show_default="INPUT with _pred.tif or _pred.csv",
        rich_help_panel=OUTPUT,
    ),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Go on with a map that was begun and not finished.",
        rich_help_panel=OUTPUT,
    ),
]
Quicklook = Annotated[
    bool,
    typer.Option(
        "--quicklook/--no-quicklook",
        help="Also write a PNG to look at.",
        rich_help_panel=OUTPUT,
    ),
]


@app.command(epilog=example("eosfm predict scene.tif --output map.tif"))
def predict(
    inputs: Inputs,
    before: Before = None,
    model: Model = None,
    bands: BandsOption = None,
    plugin: options.Plugins = None,
    experiments: options.Experiments = None,
    output: Output = None,
    overwrite: options.Overwrite = False,
    resume: Resume = False,
    quicklook: Quicklook = True,
    json: options.Json = False,
) -> None:
    """Map a scene with a fitted model.

    Reads the scene by windows, so its size does not matter, and writes classes with their colours,
    or values with their unit, as a GeoTIFF with the same CRS, transform, width and height. Pixels
    without data stay without.

    A model of change takes two dates: eosfm predict AFTER.tif --before BEFORE.tif

    Models that tell whole images write a table with a row per INPUT; of an INPUT larger than the
    model's tile also a map with a pixel per tile.

    With --json, several maps come as {"results": [one object per map]}.
    """
    shared: dict[str, Any] = {
        "model": model,
        "bands": bands,
        "root": options.root(experiments),
        "overwrite": overwrite,
        "progress": ConsoleProgress(),
    }
    options.load_plugins(plugin, shared["progress"])
    if _tells_whole_images(model, options.root(experiments)):
        _refuse_before(before)
        from eosfm_cli.workflows.label import label  # seconds

        labelled = label(inputs, output=output, **shared)
        if json:
            write_json(labelled)
        else:
            _show_labels(labelled)
    else:
        _refuse_several(inputs, before, output)
        from eosfm_cli.workflows.predict import predict as map_scene  # seconds

        results = []
        for scene in inputs:
            results.append(
                map_scene(
                    scene,
                    before=before,
                    output=output,
                    resume=resume,
                    quicklook=quicklook,
                    **shared,
                )
            )
            if not json:
                _show(results[-1])
        if json:
            write_json(results[0] if len(results) == 1 else {"results": results})
    next_command(options.within("eosfm emissions", experiments))


def _tells_whole_images(model: Path | None, root: Path) -> bool:
    from eosfm_cli.manifest import ModelManifest, read_manifest
    from eosfm_cli.recipe import MAP_TASKS
    from eosfm_cli.run_dir import find_fit

    manifest = read_manifest(find_fit(model, root))
    return isinstance(manifest, ModelManifest) and manifest.task not in MAP_TASKS


def _refuse_before(before: Path | None) -> None:
    from eosfm_cli.errors import UsageError

    if before is not None:
        raise UsageError(
            "The model tells whole images of one date; --before is for models of change.",
            hint="Leave --before out, or name a model of a change recipe with --model.",
        )


def _refuse_several(inputs: list[Path], before: Path | None, output: Path | None) -> None:
    from eosfm_cli.errors import UsageError

    if len(inputs) == 1:
        return
    if before is not None:
        raise UsageError("--before goes with one INPUT, that of the later date.")
    if output is not None and not output.is_dir():
        raise UsageError(
            f"Several maps cannot all be {output}.", hint="Name a folder that is there: --output"
        )
    names = [path.stem for path in inputs]
    twice = next((name for name in names if output and names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(
            f"Two scenes are called {twice}: their maps would have one name in {output}.",
            hint="Leave --output out: each map then goes beside its scene.",
        )


def _show_labels(result: LabelResult) -> None:
    write_table(["file", "shows", "probability"], [_row(image) for image in result.images])
    progress = ConsoleProgress()
    progress.say(
        f"{len(result.images)} {'image' if len(result.images) == 1 else 'images'}, "
        f"time {figures.duration(result.cost.seconds)}, "
        f"energy {figures.energy(result.cost.energy_kwh)}"
    )
    for path in filter(None, (*(image.map for image in result.images), result.csv)):
        progress.say(f"wrote {path}")


def _row(image: LabelledImage) -> list[str | None]:
    if not image.probabilities:
        return [str(image.input), "no data", None]
    found = [figures.score(image.probabilities[name]) for name in image.classes]
    return [str(image.input), ", ".join(image.classes) or "none", ", ".join(found) or None]


def _show(result: PredictResult) -> None:
    if result.values is None:
        _show_shares(result)
    else:
        _show_values(result.values, result.nodata_share)
    progress = ConsoleProgress()
    progress.say(
        f"{result.width} × {result.height} pixels, time {figures.duration(result.cost.seconds)}, "
        f"energy {figures.energy(result.cost.energy_kwh)}"
    )
    for path in filter(None, (result.output, result.quicklook)):
        progress.say(f"wrote {path}")


def _show_values(values: ValueSummary, nodata_share: float) -> None:
    unit = "" if values.unit is None else f" {values.unit}"
    write_table(
        [values.name, "value"],
        [
            ["least", f"{values.min:.4g}{unit}"],
            ["mean", f"{values.mean:.4g}{unit}"],
            ["largest", f"{values.max:.4g}{unit}"],
        ],
        total=["no data", figures.share(nodata_share)],
    )


def _show_shares(result: PredictResult) -> None:
    shares = sorted(result.shares.items(), key=lambda item: -item[1])
    write_table(
        ["class", "share"],
        [[name, figures.share(value)] for name, value in shares],
        total=["no data", figures.share(result.nodata_share)],
    )
