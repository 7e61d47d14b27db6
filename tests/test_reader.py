"""Windows of rasters: what is read, what is refused, how much memory it takes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.windows import Window
from rasters import write_tif

from eosfm_cli.data.reader import CACHE_BYTES, RasterReader
from eosfm_cli.errors import DataError
from eosfm_cli.tiling import Tile


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
@pytest.mark.parametrize("tile", [Tile(0, 0, 40, 40), Tile(5, 6, 30, 20)])
def test_an_image_cut_short_is_an_error(tmp_path: Path, suffix: str, tile: Tile) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (40, 40, 3)).astype(np.uint8)
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(pixels).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=r"Cannot read .*a\."):
        RasterReader().read(path, [1, 2, 3], tile)


def test_few_files_stay_open(tmp_path: Path) -> None:
    paths = [write_tif(tmp_path / f"{n}.tif", np.full((4, 4), n, np.uint8)) for n in range(9)]
    reader = RasterReader(capacity=3)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(2):
        for number, path in enumerate(paths):
            values, _ = reader.read(path, [1], Tile(1, 1, 2, 2))
            assert (values == number).all()
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 3


READ_ALL = """
import re, sys
from pathlib import Path
from eosfm_cli import tiling
from eosfm_cli.data.reader import RasterReader

def most_memory():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

path, reader = Path(sys.argv[1]), RasterReader()
header = reader.header(path)
Path("/proc/self/clear_refs").write_text("5")  # forget what importing took
before, seen = most_memory(), 0
for tile in tiling.grid(header.height, header.width, 512):
    seen += int(reader.read(path, [1], tile)[0][0, 0, 0])
print(seen, (most_memory() - before) * 1024)
"""


def _large(path: Path, **options: object) -> Path:
    """A raster of 400 MB that takes little room on disk."""
    size = 20_000
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=1,
        height=size,
        width=size,
        dtype="uint8",
        compress="zstd",
        **options,
    ) as raster:
        for row in range(0, size, 512):
            height = min(512, size - row)
            strip = np.full((1, height, size), 7, np.uint8)
            raster.write(strip, window=Window(0, row, size, height))
    return path


@pytest.mark.parametrize("options", [{"tiled": True}, {"blockysize": 16}], ids=["tiles", "rows"])
def test_memory_does_not_grow_with_the_image(tmp_path: Path, options: dict[str, object]) -> None:
    """All windows of an image that is six times as large as the cache."""
    path = _large(tmp_path / "large.tif", **options)
    said = subprocess.run(
        [sys.executable, "-c", READ_ALL, str(path)], capture_output=True, text=True, check=True
    )
    seen, grown = map(int, said.stdout.split())
    assert seen == 7 * 40 * 40
    assert CACHE_BYTES / 2 < grown < CACHE_BYTES + 2**24


def test_a_name_that_is_no_text_is_told(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"bad\xff.tif")
    write_tif(tmp_path / "good.tif", np.zeros((4, 4), np.uint8)).rename(path)
    with pytest.raises(DataError, match="its name is not UTF-8"):
        RasterReader().header(path)
