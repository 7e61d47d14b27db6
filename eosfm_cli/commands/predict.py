"""`eosfm predict`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from eosfm_cli.commands import options
from eosfm_cli.commands.console import ConsoleProgress, next_command
from eosfm_cli.commands.options import DATA, OUTPUT, example, new_app
from eosfm_cli.commands.predict_report import show_labels, show_outcomes
from eosfm_cli.errors import ExitCode, UsageError
from eosfm_cli.precision import Precision

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from eosfm_cli.progress import Progress

app = new_app()

BESIDE, COMPUTING = "Beside the map", "Computing"
NODATA = 255

Inputs = Annotated[
    list[str],
    typer.Argument(
        metavar="INPUT",
        help="Rasters of any size: files, folders, patterns in quotes, addresses (https://…, "
        "s3://…), or lists of these in text files.",
    ),
]
Before = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="The same place at an earlier date; for models of change.",
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
        help="The file's bands in file order, as in red,nir,vv, or by the sensor's own names, as "
        "in B04,B08.",
        show_default="the file's band descriptions",
        rich_help_panel=DATA,
    ),
]
ScaleOption = Annotated[
    str | None,
    typer.Option(
        metavar="FACTOR",
        help="Multiply values first, as in 10000, or by band or kind: optical=0.1,sar=db.",
        rich_help_panel=DATA,
    ),
]
Stack = Annotated[
    bool,
    typer.Option(
        "--stack",
        help="All INPUTs are one scene, such as a file per band, or a folder and a file; of "
        "several folders each is one.",
        rich_help_panel=DATA,
    ),
]
Aoi = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Map inside these polygons alone: GeoJSON, GeoPackage or Shapefile.",
        rich_help_panel=DATA,
    ),
]
Bbox = Annotated[
    str | None,
    typer.Option(
        metavar="W,S,E,N",
        help="Map inside this box alone: in degrees, or as the scene's coordinates are.",
        rich_help_panel=DATA,
    ),
]
BboxCrs = Annotated[
    str | None,
    typer.Option(metavar="EPSG:N", help="The coordinate system of --bbox.", rich_help_panel=DATA),
]
Output = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE|FOLDER/",
        help="The map, or the table (.csv, .json) of models that tell whole images; a folder for "
        "several.",
        show_default="INPUT with _pred.tif or _pred.csv",
        rich_help_panel=OUTPUT,
    ),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Go on with maps that were begun; finished ones stay as they are.",
        rich_help_panel=OUTPUT,
    ),
]
Quicklook = Annotated[
    bool,
    typer.Option(
        "--quicklook/--no-quicklook",
        help="Also write a PNG to look at.",
        rich_help_panel=BESIDE,
    ),
]
Probabilities = Annotated[
    bool,
    typer.Option(
        "--probabilities",
        help="Also map the share of every class, as _prob.tif.",
        rich_help_panel=BESIDE,
    ),
]
Confidence = Annotated[
    bool,
    typer.Option(
        "--confidence",
        help="Also map the share of the class that won, as _conf.tif.",
        rich_help_panel=BESIDE,
    ),
]
Disagreement = Annotated[
    bool,
    typer.Option(
        "--disagreement",
        help="Also map how far the specialists differ, as _disagree.tif.",
        rich_help_panel=BESIDE,
    ),
]
Vector = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE|gpkg",
        help="Also write polygons of classes: .gpkg, .geojson or .fgb; the ending alone puts them "
        "beside the map.",
        rich_help_panel=BESIDE,
    ),
]
MinArea = Annotated[
    float,
    typer.Option(
        min=0.0,
        metavar="M2",
        help="Leave smaller polygons out, in m².",
        show_default=False,
        rich_help_panel=BESIDE,
    ),
]
Nodata = Annotated[
    int,
    typer.Option(
        metavar="N",
        help="What stands in a map of classes where there is none.",
        rich_help_panel=OUTPUT,
    ),
]
Window = Annotated[
    int | None,
    typer.Option(
        min=32,
        metavar="N",
        help="Edge of the windows in pixels, a multiple of 32.",
        show_default="768, or the model's tile where that is larger",
        rich_help_panel=COMPUTING,
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Windows at once; halves where memory runs out.",
        show_default="as many as go well",
        rich_help_panel=COMPUTING,
    ),
]
Device = Annotated[
    Literal["auto", "cpu", "cuda"],
    typer.Option(help="Where to compute; auto takes a GPU if any.", rich_help_panel=COMPUTING),
]
PrecisionOption = Annotated[
    Precision,
    typer.Option(
        "--precision",
        help="Number format: 32-true, or bf16, which is faster where the hardware has it; what it "
        "changes is told.",
        rich_help_panel=COMPUTING,
    ),
]


@app.command(epilog=example("eosfm predict scene.tif --output map.tif"))
def predict(
    inputs: Inputs,
    before: Before = None,
    model: Model = None,
    bands: BandsOption = None,
    scale: ScaleOption = None,
    stack: Stack = False,
    aoi: Aoi = None,
    bbox: Bbox = None,
    bbox_crs: BboxCrs = None,
    plugin: options.Plugins = None,
    experiments: options.Experiments = None,
    probabilities: Probabilities = False,
    confidence: Confidence = False,
    disagreement: Disagreement = False,
    vector: Vector = None,
    min_area: MinArea = 0.0,
    quicklook: Quicklook = True,
    window: Window = None,
    batch_size: BatchSize = None,
    device: Device = "auto",
    precision: PrecisionOption = "32-true",
    output: Output = None,
    nodata: Nodata = NODATA,
    overwrite: options.Overwrite = False,
    resume: Resume = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Map scenes with a fitted model.

    Reads each scene by windows, so its size does not matter, and writes classes with their colours,
    or values with their unit, as a Cloud Optimized GeoTIFF on the scene's own grid. Pixels without
    data stay without.

    A model of change takes two dates: eosfm predict AFTER.tif --before BEFORE.tif

    Of several scenes, one that fails does not stop the others; a table at the end says what became
    of each. What was stopped goes on with --resume.

    Models that tell whole images write a table with a row per INPUT; of an INPUT larger than the
    model's tile also a map with a pixel per tile.

    With --json, several scenes come as {"results": [one object per scene]}, each with its state.
    """
    root, progress = options.root(experiments), ConsoleProgress()
    options.load_plugins(plugin, progress)
    shared: dict[str, Any] = {
        "model": model,
        "root": root,
        "bands": bands,
        "scale": scale,
        "stack": stack,
        "output": output,
        "overwrite": overwrite,
        "batch_size": batch_size,
        "device": device,
        "precision": precision,
    }
    maps = {
        "before": before,
        "probabilities": probabilities,
        "confidence": confidence,
        "disagreement": disagreement,
        "vector": vector,
        "min_area": min_area,
        "nodata": nodata,
        "window": window,
        "resume": resume,
    }
    area = {"aoi": aoi, "bbox": bbox, "bbox_crs": bbox_crs}
    if _tells_whole_images(model, root):
        _refuse_map_options({**maps, "dry_run": dry_run})
        failed, done = _label(inputs, shared, area, progress, as_json=json)
    else:
        given = {**shared, **maps, **area, "quicklook": quicklook}
        failed, done = _map(inputs, given, progress, dry_run=dry_run, as_json=json)
    if done:
        next_command(options.within("eosfm emissions", experiments))
    if failed:
        raise typer.Exit(ExitCode.FAILURE)


def _tells_whole_images(model: Path | None, root: Path) -> bool:
    from eosfm_cli.manifest import ModelManifest, read_manifest
    from eosfm_cli.recipe import MAP_TASKS
    from eosfm_cli.run_dir import find_fit

    manifest = read_manifest(find_fit(model, root))
    return isinstance(manifest, ModelManifest) and manifest.task not in MAP_TASKS


def _refuse_map_options(given: Mapping[str, Any]) -> None:
    """Refuse what would do nothing for models that tell whole images."""
    usual = {"nodata": NODATA}
    for name, value in given.items():
        if value and value != usual.get(name):
            option = f"--{name.replace('_', '-')}"
            others = "models of change" if name == "before" else "models that make maps"
            raise UsageError(
                f"The model tells whole images; {option} is for {others}.",
                hint=f"Leave {option} out, or name a model of another task with --model.",
            )


def _map(
    inputs: Sequence[str],
    given: Mapping[str, Any],
    progress: Progress,
    *,
    dry_run: bool,
    as_json: bool,
) -> tuple[bool, bool]:
    """Map scenes, or tell what that takes; whether any failed, and whether any was mapped."""
    from eosfm_cli.workflows.predict import PredictSpec, predict, rehearse  # seconds

    spec = PredictSpec(inputs=tuple(inputs), **given)
    outcomes = (rehearse if dry_run else predict)(spec, progress=progress)
    show_outcomes(outcomes, as_json=as_json)
    states = {outcome.state for outcome in outcomes}
    return "failed" in states, "mapped" in states


def _label(
    inputs: Sequence[str],
    given: Mapping[str, Any],
    area: Mapping[str, Any],
    progress: Progress,
    *,
    as_json: bool,
) -> tuple[bool, bool]:
    """Tell what whole images show; whether any could not be read, and whether any could."""
    from eosfm_cli.workflows.label import label  # seconds
    from eosfm_cli.workflows.wanted_area import wanted_area

    output = given["output"] and Path(given["output"])
    settings = {**given, "output": output, "area": wanted_area(**area)}
    result = label(inputs, **settings, progress=progress)
    show_labels(result, as_json=as_json)
    return bool(result.failed), bool(result.images)
