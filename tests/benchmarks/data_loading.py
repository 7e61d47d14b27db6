"""How fast tiles are read, against a dataset that opens its files for each tile and reads all.

    python -m tests.benchmarks.data_loading
    python -m tests.benchmarks.data_loading --no-training

The plain side does what datasets of TorchGeo and TerraTorch do with a folder of files: open, read
the whole image, cut the tile out, standardise it. Of images that are larger than a tile there is
also one that opens the file for each tile and reads its window alone. Tiles are read in random
order, as in training; ratios are of the time per tile, medians over the rounds. Then a small model
is trained from files with two workers, and from batches in memory.
"""

# ruff: noqa: T201 - what it measures goes to the terminal

from __future__ import annotations

import argparse
import gc
import random
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from rasterio.enums import Resampling
from rasterio.transform import from_origin
from rasterio.windows import Window

from eosfm_cli.data.datamodule import TileDataModule, build_datamodule
from eosfm_cli.data.reader import plain_images_allowed
from eosfm_cli.progress import Silent
from eosfm_cli.recipe import Recipe
from eosfm_cli.tiling import Tile
from tests.benchmarks.harness import (
    Benchmark,
    Figures,
    Row,
    Scale,
    against,
    machine,
    measure,
    table_head,
    within,
)

MEAN, STD = 1000.0, 500.0
UNLABELLED = 255
ROUNDED = 0.51 / STD
"""How far values may be apart: GDAL rounds to whole numbers what it resamples of them."""
LARGE = 10_000
BATCH = 8
WORKERS = 2
S2_SIZES = {
    "coastal": 20, "blue": 120, "green": 120, "red": 120, "rededge1": 60, "rededge2": 60,
    "rededge3": 60, "nir": 120, "nir08": 60, "nir09": 20, "swir16": 60, "swir22": 60,
}  # fmt: skip
"""Bands of a file each, and how many pixels a patch of 1.2 km has in them."""


@dataclass(frozen=True)
class Case:
    """A dataset on disk."""

    what: str
    make: Callable[[Path], None]
    """Writes `images/…` and `masks/…` into its folder."""
    images: Mapping[str, Mapping[str, Any]]
    """As in a recipe."""
    suffix: str
    count: int
    """Images to train on; beside them are one to validate and one to test."""
    side: int
    """Edge of the images, in pixels of the finest band."""
    tile: int
    plain_tiles: int = 60
    """How many tiles the plain side reads per round; ours reads 60."""
    windowed: bool = False
    """Whether there is a plain side that reads windows."""


# --------------------------------------------------------------------------- files


def values(count: int, height: int, width: int, top: int) -> np.ndarray:
    """Smooth values with some noise, which compress as images do."""
    rng = np.random.default_rng(0)
    rows, cols = -(-height // 16), -(-width // 16)
    smooth = np.kron(rng.random((count, rows, cols)), np.ones((16, 16)))[:, :height, :width]
    return smooth * (0.95 * top) + rng.random((count, height, width)) * (0.05 * top)


def write(path: Path, pixels: np.ndarray, **options: Any) -> None:
    """Write `(c, h, w)`, as GeoTIFF in UTM unless told otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = pixels.shape
    size = {"count": count, "height": height, "width": width, "dtype": pixels.dtype}
    place = {"crs": "EPSG:32631", "transform": from_origin(5e5, 5e6, 10, 10)}
    given = {"driver": "GTiff", **(place if options.get("driver") != "PNG" else {}), **options}
    with plain_images_allowed(), rasterio.open(path, "w", **size, **given) as raster:
        raster.write(pixels)


def write_large(folder: Path, **options: Any) -> None:
    """One large image to train on, and a tile each to validate and to test."""
    patch, labels = values(3, 2000, 2000, 250), values(1, 2000, 2000, 1.9)
    for number, side in enumerate((LARGE, 512, 512)):
        times = (1, -(-side // 2000), -(-side // 2000))
        for kind, pixels in (("images", patch), ("masks", labels)):
            tiled = np.tile(pixels.astype(np.uint8), times)[:, :side, :side]
            write(folder / kind / f"{number:04}.tif", tiled, compress="lzw", **options)


def write_small(folder: Path) -> None:
    """Many small images of four bands."""
    pixels, labels = values(4, 256, 256, 3000), values(1, 256, 256, 1.9)
    for number in range(202):
        name = f"{number:04}.tif"
        write(folder / "images" / name, np.roll(pixels, number, 1).astype(np.uint16))
        write(folder / "masks" / name, np.roll(labels, number, 1).astype(np.uint8))


def write_bands(folder: Path) -> None:
    """Patches with a file per band, of three resolutions."""
    layers = {side: values(1, side, side, 3000) for side in (20, 60, 120)}
    labels = values(1, 120, 120, 1.9)
    for number in range(102):
        name = f"{number:04}.tif"
        for band, side in S2_SIZES.items():
            pixels = np.roll(layers[side], number, 1).astype(np.uint16)
            write(folder / band / name, pixels, compress="deflate")
        write(folder / "masks" / name, labels.astype(np.uint8), compress="deflate")


def write_pngs(folder: Path) -> None:
    """Aerial images in colour and their masks."""
    pixels, labels = values(3, 1024, 1024, 250), values(1, 1024, 1024, 1.9)
    for number in range(32):
        name = f"{number:04}.png"
        write(folder / "images" / name, np.roll(pixels, number, 1).astype(np.uint8), driver="PNG")
        write(folder / "masks" / name, np.roll(labels, number, 1).astype(np.uint8), driver="PNG")


def one_file(suffix: str, *bands: str) -> dict[str, dict[str, Any]]:
    """Images whose bands are all in one file."""
    return {"image": {"path": f"images/{{id}}.{suffix}", "bands": list(bands)}}


RGB = ("red", "green", "blue")
PER_BAND = {
    band: {"path": f"{band}/{{id}}.tif", "bands": [band]}
    | ({"resampling": "bilinear"} if side < 120 else {})
    for band, side in S2_SIZES.items()
}
CASES = {
    "tiled": Case(
        "one GeoTIFF of 10,000², 3 bands, in blocks of 256²",
        lambda folder: write_large(folder, tiled=True, blockxsize=256, blockysize=256),
        one_file("tif", *RGB), "tif", 1, LARGE, 256, plain_tiles=1, windowed=True,
    ),
    "striped": Case(
        "one GeoTIFF of 10,000², 3 bands, in rows",
        write_large, one_file("tif", *RGB), "tif", 1, LARGE, 256, plain_tiles=1, windowed=True,
    ),
    "small": Case(
        "200 GeoTIFFs of 256², 4 bands",
        write_small, one_file("tif", *RGB, "nir"), "tif", 200, 256, 256,
    ),
    "bands": Case(
        "100 patches of 120², a file for each of 12 bands",
        write_bands, PER_BAND, "tif", 100, 120, 128,
    ),
    "png": Case(
        "30 PNGs of 1024², 3 bands",
        write_pngs, one_file("png", *RGB), "png", 30, 1024, 256, plain_tiles=20, windowed=True,
    ),
}  # fmt: skip


def recipe_of(name: str, workers: int = 0) -> Recipe:
    """The recipe of a dataset that lies in a folder of its name."""
    case = CASES[name]
    ids = [f"{number:04}" for number in range(case.count + 2)]
    bands = [band for file in case.images.values() for band in file["bands"]]
    return Recipe.model_validate(
        {
            "name": name,
            "title": case.what,
            "task": "segmentation",
            "dataset": {
                "root": name,
                "images": case.images,
                "masks": {"path": f"masks/{{id}}.{case.suffix}"},
                "split": {"by": "list", "train": ids[:-2], "val": ids[-2:-1], "test": ids[-1:]},
            },
            "classes": [{"name": "no"}, {"name": "yes"}],
            "statistics": {band: {"mean": MEAN, "std": STD} for band in bands},
            "tile": {"size": case.tile, "train": "grid"},
            "training": {
                "backbone": "convnextv2_atto", "pretrained": False, "decoder_channels": 64,
                "workers": workers, "batch_size": BATCH, "augment": False,
            },
        }
    )  # fmt: skip


def opened(name: str, folder: Path, workers: int = 0) -> TileDataModule:
    """The tiles of a dataset, which is written where it is not there yet."""
    if not (folder / name).exists():
        CASES[name].make(folder / name)
    recipe = recipe_of(name, workers)
    return build_datamodule(recipe, folder, spec=recipe.training, progress=Silent())


# --------------------------------------------------------------------------- the plain side


class PlainTiles:
    """Tiles as a dataset gives them that knows nothing but how to open a file.

    Args:
        folder: The dataset's.
        case: What it is.
        windows: Whether windows are read, not whole images.
    """

    def __init__(self, folder: Path, case: Case, *, windows: bool) -> None:
        self._folder, self._case, self._windows = folder, case, windows

    def item(self, name: str, tile: Tile) -> dict[str, torch.Tensor]:
        """One tile of an image, standardised, and its labels."""
        files = [file["path"].format(id=name) for file in self._case.images.values()]
        image = np.concatenate([self._read(file, tile) for file in files])
        mask = self._read(f"masks/{name}.{self._case.suffix}", tile)
        pixels = (torch.from_numpy(image.astype(np.float32)) - MEAN) / STD
        return {
            "image": self._padded(pixels, 0),
            "mask": self._padded(torch.from_numpy(mask[0].astype(np.int64)), UNLABELLED),
        }

    def _read(self, file: str, tile: Tile) -> np.ndarray:
        with rasterio.open(self._folder / file) as raster:
            if self._windows:
                window = Window(tile.col, tile.row, tile.width, tile.height)
                return raster.read(window=window)
            if raster.width == self._case.side:
                return raster.read()[:, *tile.slices]
            finest = (raster.count, self._case.side, self._case.side)
            return raster.read(
                out_shape=finest, out_dtype="float32", resampling=Resampling.bilinear
            )[:, *tile.slices]

    def _padded(self, pixels: torch.Tensor, value: float) -> torch.Tensor:
        lacking = self._case.tile - pixels.shape[-1]
        return torch.nn.functional.pad(pixels, (0, lacking, 0, lacking), value=value)


def loading(scale: Scale, folder: Path, names: Sequence[str] = tuple(CASES)) -> Benchmark:
    """Time per tile of the datasets: plain, ours, and where it differs with plain windows."""
    del scale  # a tile is a tile
    modules = {name: opened(name, folder) for name in names}
    ways: dict[str, Callable[[], int]] = {}
    for name, data in modules.items():
        ways |= _ways(name, data, folder)

    def check() -> str:
        apart = max(_apart(name, modules[name], folder) for name in names)
        return within(apart, ROUNDED, "difference in standard deviations")

    return Benchmark(ways, check, lambda found: _rows(found, names), figure=seconds_per_tile)


def _ways(name: str, data: TileDataModule, folder: Path) -> dict[str, Callable[[], int]]:
    case, tiles = CASES[name], data.dataset("train")
    rng = random.Random(0)
    places = [
        (sample.id, tile)
        for sample in data.source.samples["train"]
        for tile, _ in tiles.grid(sample)
    ]

    def ours() -> int:
        """A worker's share of an epoch, in batches; files stay open from round to round."""
        drawn = [rng.randrange(len(tiles)) for _ in range(60)]
        for start in range(0, len(drawn), BATCH):
            tiles.__getitems__(drawn[start : start + BATCH])
        return len(drawn)

    def plainly(windows: bool) -> int:
        plain = PlainTiles(folder / name, case, windows=windows)
        count = 60 if windows else case.plain_tiles
        with plain_images_allowed():
            for _ in range(count):
                plain.item(*rng.choice(places))
        return count

    ways = {f"{name} eosfm": ours, f"{name} plain": lambda: plainly(windows=False)}
    if case.windowed:
        ways[f"{name} windows"] = lambda: plainly(windows=True)
    return ways


def _apart(name: str, data: TileDataModule, folder: Path) -> float:
    """How far tiles of both sides are apart, in standard deviations."""
    tiles, plain = data.dataset("train"), PlainTiles(folder / name, CASES[name], windows=False)
    sample = data.source.samples["train"][0]
    with plain_images_allowed():
        theirs = plain.item(sample.id, tiles.grid(sample)[0][0])
    ours = tiles[0]
    assert torch.equal(theirs["mask"], ours["mask"])
    return float((theirs["image"] - ours["image"]).abs().max())


def _rows(found: Figures, names: Sequence[str]) -> list[Row]:
    rows = []
    for name in names:
        what = f"a tile: {CASES[name].what}"
        rows.append(against(found, what, f"{name} plain", f"{name} eosfm", "–"))
        if CASES[name].windowed:
            windows = "… against opening it for each window"
            rows.append(against(found, windows, f"{name} windows", f"{name} eosfm", "–"))
    return rows


def seconds_per_tile(way: Callable[[], int]) -> float:
    """How long a way takes for a tile, which says how many it read."""
    gc.collect()
    began = time.perf_counter()
    count = way()
    return (time.perf_counter() - began) / count


# --------------------------------------------------------------------------- does it keep up


def print_training(folder: Path, steps: int, rounds: int) -> None:
    """Print how long batches take to load and to train on, and both at once."""
    print(f"\na batch of {BATCH} tiles, {WORKERS} workers, convnextv2_atto with UperNet decoder")
    for name in ("small", "bands", "png"):
        data = opened(name, folder, WORKERS)
        batches = endless(data)
        step = trained(data.recipe)
        kept = next(batches)
        ways = {
            "loading": lambda batches=batches: next(batches),
            "a step": lambda step=step, kept=kept: step(kept),
            "both": lambda step=step, batches=batches: step(next(batches)),
        }
        times: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(rounds):
            for way, work in ways.items():
                work()  # what the workers have read ahead meanwhile does not count
                work()
                began = time.perf_counter()
                for _ in range(steps):
                    work()
                times[way].append((time.perf_counter() - began) / steps)
        batches.close()  # so that its workers end here
        load, alone, both = (1000 * statistics.median(times[way]) for way in ways)
        print(
            f"  {CASES[name].what}: loading {load:.0f} ms, a step on a batch in memory "
            f"{alone:.0f} ms, a step from files {both:.0f} ms ({both / alone:.2f} ×)",
            flush=True,
        )


def endless(data: TileDataModule) -> Generator[dict[str, Any], None, None]:
    """Batches of one epoch after the other, by the same workers."""
    loader = data.train_dataloader()
    for _ in cycle([None]):
        yield from loader


def trained(recipe: Recipe) -> Callable[[dict[str, Any]], None]:
    """What makes one step of training on a batch."""
    from eosfm_cli.training.model import choose_decoder
    from eosfm_cli.training.task import build_specialist_task

    decoder = choose_decoder(recipe, recipe.training)
    arguments = {f"decoder_{key}": value for key, value in decoder.arguments.items()}
    warnings.filterwarnings("ignore", ".*self.trainer.* reference is not registered")
    task = build_specialist_task(recipe, {"decoder": decoder.name, **arguments})
    optimizer = torch.optim.AdamW(task.parameters())

    def step(batch: dict[str, Any]) -> None:
        optimizer.zero_grad()
        task.training_step({k: v for k, v in batch.items() if k != "filename"}, 0).backward()
        optimizer.step()

    return step


def main() -> None:
    """Measure, and print each figure as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="turns of each thing that is timed")
    parser.add_argument("--steps", type=int, default=6, help="steps of training in each round")
    parser.add_argument("--only", choices=CASES, action="append", help="of these datasets")
    parser.add_argument("--no-training", action="store_true", help="only measure reading")
    given = parser.parse_args()
    print(f"{machine()}\n\n{table_head()}", flush=True)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name in given.only or CASES:
            lines = measure(loading(Scale(), folder, [name]), given.rounds)
            print("\n".join(lines), flush=True)
        if not given.no_training:
            print_training(folder, given.steps, given.rounds)


if __name__ == "__main__":
    main()
