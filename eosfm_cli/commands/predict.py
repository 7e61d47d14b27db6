"""`eosfm predict`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eosfm_cli.commands import figures, options
from eosfm_cli.commands.console import ConsoleProgress, next_command, write_json, write_table
from eosfm_cli.commands.options import DATA, OUTPUT, example, new_app

if TYPE_CHECKING:
    from eosfm_cli.results import PredictResult

app = new_app()


Input = Annotated[
    Path, typer.Argument(metavar="INPUT", help="A raster of any size, as GDAL reads it.")
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
        help="The map.",
        show_default="INPUT with _pred.tif",
        rich_help_panel=OUTPUT,
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option("--overwrite", help="Replace a map that is there.", rich_help_panel=OUTPUT),
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
    input: Input,
    model: Model = None,
    bands: BandsOption = None,
    experiments: options.Experiments = None,
    output: Output = None,
    overwrite: Overwrite = False,
    quicklook: Quicklook = True,
    json: options.Json = False,
) -> None:
    """Map a scene with a fitted model.

    Reads the scene by windows, so its size does not matter, and writes classes with their colours
    as a GeoTIFF with the same CRS, transform, width and height. Pixels without data stay without.
    """
    from eosfm_cli.workflows.predict import predict as map_scene  # seconds

    result = map_scene(
        input,
        model=model,
        output=output,
        bands=bands,
        root=options.root(experiments),
        overwrite=overwrite,
        quicklook=quicklook,
        progress=ConsoleProgress(),
    )
    if json:
        write_json(result)
    else:
        _show(result)
    next_command(options.within("eosfm emissions", experiments))


def _show(result: PredictResult) -> None:
    shares = sorted(result.shares.items(), key=lambda item: -item[1])
    write_table(
        ["class", "share"],
        [[name, figures.share(value)] for name, value in shares],
        total=["no data", figures.share(result.nodata_share)],
    )
    progress = ConsoleProgress()
    progress.say(
        f"{result.width} × {result.height} pixels, time {figures.duration(result.cost.seconds)}, "
        f"energy {figures.energy(result.cost.energy_kwh)}"
    )
    for path in filter(None, (result.output, result.quicklook)):
        progress.say(f"wrote {path}")
