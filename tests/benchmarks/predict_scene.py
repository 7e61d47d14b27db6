"""What mapping a scene takes in memory and time, and how well windows agree; run by hand.

    python -m tests.benchmarks.predict_scene
    python -m tests.benchmarks.predict_scene --model experiments/fit/mini-landcover/…

Memory is the peak of what a process of its own had resident, for `eosfm predict` from its start to
its end. Times are of one process, in which the things compared take turns; ratios are medians over
the turns. Without --model the weights are random: enough for memory and time, while agreement only
means something for a model that was fitted.
"""

# ruff: noqa: T201 - what it measures goes to the terminal

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

# What is heavy is imported where it is used: memory that a parent had counts as its children's.

_SIDE = 768 + 2 * 704
"""A whole number of steps: else windows overlap more, which counts less the larger a scene is."""
_MEMORY_SIDES = (2000, 6000, 12_000)
_BLOCK = 512
_PATCH = 2048
_EVERY = 4
"""One row of blocks out of so many holds values in the scenes that memory is measured on."""


@dataclass(frozen=True)
class Options:
    """What to measure."""

    folder: Path
    model: Path
    small: Path
    """A model with little to compute, for scenes that are large."""
    rounds: int
    side: int
    sides: Sequence[int]


def main() -> None:
    """Measure, and print each figure as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", type=Path, help="a fitted model, or the run folder of a fit")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each thing that is timed")
    parser.add_argument("--side", type=int, default=_SIDE, help="pixels of the scene for times")
    parser.add_argument("--sides", type=int, nargs="*", default=_MEMORY_SIDES, help="for memory")
    given = parser.parse_args()
    print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}", flush=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as apart,
    ):
        small = apart.submit(random_model, Path(folder) / "small", "test_convnext", 8).result()
        model = apart.submit(ready_model, Path(folder), given.model).result()
        options = Options(Path(folder), model, small, given.rounds, given.side, given.sides)
        print_memory(options, apart)
        apart.submit(print_speed, options).result()
        apart.submit(print_agreement, options).result()
    print(f"load {os.getloadavg()[0]:.1f}")


# --------------------------------------------------------------------------- a model and scenes


def ready_model(folder: Path, given: Path | None) -> Path:
    """The model's file; without one, three small encoders with random weights."""
    if given is None:
        return random_model(folder / "fit", "convnextv2_atto", 64)
    return given / "model.safetensors" if given.is_dir() else given


def random_model(folder: Path, backbone: str, channels: int) -> Path:
    """Write a model of three specialists and give its file."""
    from eosfm_cli.ensemble.encoder import EnsembleEncoder
    from eosfm_cli.manifest import DecoderInfo, EncoderInfo, SpecialistInfo
    from eosfm_cli.training.model import build_model
    from tests.fits import SPECIALISTS, tiny_recipe, write_fit

    recipe = tiny_recipe(tile={"size": 256})
    infos = [
        SpecialistInfo(name=name, backbone=backbone, in_chans=len(bands), bands=bands)
        for name, bands in SPECIALISTS.items()
    ]
    arguments = {"channels": channels, "align_corners": False}
    decoder = DecoderInfo(name="UperNetDecoder", arguments=arguments)
    encoder = EnsembleEncoder(infos, recipe.bands, EncoderInfo())
    model = build_model(encoder, task=recipe.task, decoder=decoder, classes=len(recipe.classes))
    return write_fit(folder, recipe, decoder=decoder, model=model.eval()).model


def make_scene(path: Path, model: Path, side: int, every: int) -> None:
    """Write a square scene of smooth values with some noise, as the model expects them.

    Args:
        path: The file.
        model: Whose bands it has.
        side: Pixels.
        every: One row of blocks out of so many holds values, the others none.
    """
    import numpy as np
    import rasterio
    from rasterio.transform import from_origin
    from rasterio.windows import Window

    from eosfm_cli.manifest import read_manifest

    manifest = read_manifest(model)
    patch = _patch(manifest)
    profile = {"count": len(manifest.bands), "dtype": "float32", "nodata": np.nan}
    tiles = {"tiled": True, "blockxsize": _BLOCK, "blockysize": _BLOCK, "sparse_ok": True}
    place = {"crs": "EPSG:32631", "transform": from_origin(5e5, 5e6, 10, 10)}
    with rasterio.open(
        path, "w", driver="GTiff", width=side, height=side, **profile, **tiles, **place
    ) as scene:
        for i, band in enumerate(manifest.bands, start=1):
            scene.set_band_description(i, band)
        for row in range(0, side, _BLOCK * every):
            for col in range(0, side, _BLOCK):
                height, width = min(_BLOCK, side - row), min(_BLOCK, side - col)
                top, left = row % _PATCH, col % _PATCH
                values = patch[:, top : top + height, left : left + width]
                scene.write(values, window=Window(col, row, width, height))


def _patch(manifest):
    import numpy as np

    chance = np.random.default_rng(0)
    layers = []
    for band in manifest.bands:
        known = manifest.statistics[band]
        coarse = chance.normal(0, 1, (_PATCH // 32, _PATCH // 32))
        smooth = np.kron(coarse, np.ones((32, 32)))
        noise = chance.normal(0, 0.3, smooth.shape)
        layers.append(known.mean + known.std * (smooth + noise))
    return np.stack(layers).astype(np.float32)


# --------------------------------------------------------------------------- memory


def print_memory(options: Options, apart: ProcessPoolExecutor) -> None:
    """Print the peak of resident memory for scenes of growing size."""
    print("\npeak resident memory of `eosfm predict`")
    for side in (512, *options.sides):  # the first one prepares the model for quick starts
        scene = options.folder / "scene.tif"
        apart.submit(make_scene, scene, options.small, side, _EVERY).result()
        began = time.perf_counter()
        megabytes = peak_mb(_command(scene, options))
        seconds = time.perf_counter() - began
        print(f"  {side:>6,}²  {megabytes:6,.0f} MB  in {seconds:5,.0f} s", flush=True)


def _command(scene: Path, options: Options) -> list[str]:
    words = ["predict", scene, "--model", options.small, "--output", options.folder / "map.tif"]
    words += ["--overwrite", "--no-quicklook", "--experiments", options.folder / "runs"]
    return [sys.executable, "-m", "eosfm_cli", *map(str, words)]


def peak_mb(command: Sequence[str]) -> float:
    """Run a command and give the peak of its resident memory."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        said = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(said.decode())
    return usage.ru_maxrss / 1024


# --------------------------------------------------------------------------- time


def print_speed(options: Options) -> None:
    """Print megapixels per second, against the bare model and TerraTorch's tiled inference."""
    import torch

    from eosfm_cli.training.model import load_model

    scene = options.folder / "scene.tif"
    make_scene(scene, options.model, options.side, 1)
    fitted = load_model(options.model)
    ways = {
        "eosfm predict": lambda: mapped(scene, fitted, options),
        "the bare model, same windows": bare(scene, fitted),
        "TerraTorch's tiled inference": lambda: tiled(scene, fitted, options.folder / "tt.tif"),
    }
    times = in_turns(ways, options.rounds)
    ours = times["eosfm predict"]
    print(f"\nmegapixels per second, {options.side:,}², {torch.get_num_threads()} thread(s)")
    for name, found in times.items():
        rate = options.side**2 / 1e6 / statistics.median(found)
        ratios = [theirs / mine for theirs, mine in zip(found, ours, strict=True)]
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        print(
            f"  {name:<30} {rate:6.3f}   eosfm predict is {statistics.median(ratios):.2f} × "
            f"as fast ({spread})",
            flush=True,
        )


def in_turns(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds that each way takes, one after the other, again and again; the first turn is lost."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            times[name].append(time.perf_counter() - began)
    return {name: found[1:] for name, found in times.items()}


def mapped(scene: Path, fitted, options: Options, window: int | None = None):
    """Map a scene with a model in memory, and give the map's labels."""
    import rasterio

    from eosfm_cli.workflows.predict import PredictSpec, predict

    output = options.folder / "map.tif"
    spec = PredictSpec(
        inputs=(scene,),
        output=output,
        root=options.folder / "runs",
        quicklook=False,
        overwrite=True,
        window=window,
    )
    predict(spec, fitted=fitted)
    with rasterio.open(output) as dataset:
        return dataset.read(1)


def bare(scene: Path, fitted) -> Callable[[], object]:
    """The model's forward on the windows that a map takes, which are in memory already."""
    import numpy as np
    import torch

    from eosfm_cli.progress import Silent
    from eosfm_cli.raster.scene import open_scene
    from eosfm_cli.raster.windows import pad
    from eosfm_cli.workflows.ready_model import ReadyModel

    ready = ReadyModel(None, fitted, fitted.manifest, Silent())
    with open_scene(scene, fitted.manifest) as opened:
        plan = ready.plan(opened.grid.height, opened.grid.width, None)
        windows = [pad(opened.read(tile).values, *plan.padded) for tile in plan]
    ready.scorer.fit_to(*windows[0].shape)
    size = ready.scorer.batch_size
    batches = [
        torch.from_numpy(np.stack(windows[i : i + size])) for i in range(0, len(windows), size)
    ]

    @torch.inference_mode()
    def forward() -> None:
        for batch in batches:
            fitted.module(batch)

    return forward


def tiled(scene: Path, fitted, output: Path) -> None:
    """Map a scene as TerraTorch does: read whole, inferred by its tiles, written whole."""
    import rasterio
    import torch
    from terratorch.tasks.tiled_inference import tiled_inference

    with torch.inference_mode():
        scores = tiled_inference(fitted.module, standardised(scene, fitted.manifest))
        labels = scores.argmax(1)[0].numpy().astype("int16")
    with rasterio.open(scene) as source:
        profile = {"driver": "GTiff", "dtype": "int16", "count": 1, "compress": "lzw"}
        place = {"crs": source.crs, "transform": source.transform}
        size = {"height": source.height, "width": source.width}
    with rasterio.open(output, "w", **profile, **place, **size) as dataset:
        dataset.write(labels, 1)


def standardised(scene: Path, manifest):
    """A whole scene `(1, bands, h, w)` as the model takes it."""
    import rasterio
    import torch

    statistics_of = [manifest.statistics[band] for band in manifest.bands]
    mean = torch.tensor([s.mean for s in statistics_of])[:, None, None]
    std = torch.tensor([s.std for s in statistics_of])[:, None, None]
    with rasterio.open(scene) as source:
        values = torch.from_numpy(source.read())
    return ((values - mean) / std)[None]


# --------------------------------------------------------------------------- agreement


def print_agreement(options: Options) -> None:
    """Print how many pixels have the same class in the map and in a whole-image forward."""
    import torch

    from eosfm_cli.training.model import load_model

    side = 1024
    scene = options.folder / "scene.tif"
    make_scene(scene, options.model, side, 1)
    fitted = load_model(options.model)
    with torch.inference_mode():
        whole = fitted.module(standardised(scene, fitted.manifest)).argmax(1)[0].numpy()
    maps = {size: mapped(scene, fitted, options, size) for size in (256, 512, 768)}
    print(f"\npixels of the same class, {side:,}²")
    for size, found in maps.items():
        print(f"  windows of {size} and the whole image: {share(found, whole)}", flush=True)
    print(f"  windows of 256 and of 512: {share(maps[256], maps[512])}")
    print(f"  windows of 512 and of 768: {share(maps[512], maps[768])}")


def share(one, other) -> str:
    """How many of all pixels are equal."""
    return f"{(one == other).mean():.2%}"


if __name__ == "__main__":
    main()
