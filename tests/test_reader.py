"""Windows of rasters: what is read, what is refused, how much memory it takes."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.windows import Window
from rasters import folder_recipe, write_tif

from eosfm_cli.data.labels import label_table
from eosfm_cli.data.open_files import MOST_BYTES, most_files
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


@pytest.mark.parametrize("lost", ["middle", "end", "bit", "chunks"])
def test_a_damaged_png_is_an_error(tmp_path: Path, lost: str) -> None:
    """Decoding all of it in one go would give something without a word."""
    pixels = np.random.default_rng(0).integers(0, 255, (200, 200, 3)).astype(np.uint8)
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    whole = bytearray(path.read_bytes())
    half = len(whole) // 2
    if lost == "bit":
        whole[half] ^= 1
    kept = {
        "middle": whole[:half] + whole[half + 900 :],
        "end": whole[:half],
        "bit": whole,
        "chunks": whole[:1000] + whole[-12:],
    }[lost]
    path.write_bytes(kept)
    with pytest.raises(DataError, match=r"Cannot read .*a\.png"):
        RasterReader().read(path, [1, 2, 3], Tile(0, 0, 200, 200))


def test_windows_of_a_png_are_its_pixels(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (30, 40, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    reader = RasterReader()
    for tile in (Tile(3, 5, 7, 9), Tile(0, 0, 30, 40)):
        values, valid = reader.read(tmp_path / "a.png", [3, 1], tile)
        assert (values == pixels[..., [2, 0]].transpose(2, 0, 1)[:, *tile.slices]).all()
        assert valid.all()
        values[:] = 0  # the reader's own copy stays as it is


def test_few_files_stay_open(tmp_path: Path) -> None:
    paths = [write_tif(tmp_path / f"{n}.tif", np.full((4, 4), n, np.uint8)) for n in range(9)]
    reader = RasterReader(capacity=3)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(2):
        for number, path in enumerate(paths):
            values, _ = reader.read(path, [1], Tile(1, 1, 2, 2))
            assert (values == number).all()
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 3


SEVERAL_READERS = """
import resource, sys
from pathlib import Path
from eosfm_cli.data.open_files import most_files
from eosfm_cli.data.reader import RasterReader
from eosfm_cli.tiling import Tile

resource.setrlimit(resource.RLIMIT_NOFILE, (80, 80))
readers = [RasterReader() for _ in range(3)]
before = len(list(Path("/proc/self/fd").iterdir()))
for path in sorted(Path(sys.argv[1]).iterdir()):
    for reader in readers:
        reader.read(path, [1], Tile(0, 0, 2, 2))
print(most_files(), len(list(Path("/proc/self/fd").iterdir())) - before)
"""


def test_all_readers_leave_most_of_what_may_be_open_to_others(tmp_path: Path) -> None:
    for number in range(40):
        write_tif(tmp_path / f"{number}.tif", np.zeros((4, 4), np.uint8))
    most, still_open = map(int, _run(SEVERAL_READERS, tmp_path).split())
    assert most == 10
    assert 3 < still_open <= most + 3
    assert most_files() <= 256


def _run(program: str, path: Path) -> str:
    given = [sys.executable, "-c", program, str(path)]
    return subprocess.run(given, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("suffix", ["tif", "npy"])
def test_a_file_that_changes_is_read_anew(tmp_path: Path, suffix: str) -> None:
    path, other = tmp_path / f"a.{suffix}", tmp_path / f"b.{suffix}"
    write = np.save if suffix == "npy" else write_tif
    reader = RasterReader()
    for value, size in ((1, 6), (2, 6), (3, 9)):
        write(other, np.full((size, size), value, np.uint8))
        other.replace(path)  # as our own writers do
        assert reader.header(path).height == size
        assert (reader.read(path, [1], Tile(0, 0, 6, 6))[0] == value).all()
    path.unlink()
    with pytest.raises(DataError, match="No such file"):
        reader.read(path, [1], Tile(0, 0, 6, 6))


_READER = RasterReader()
"""As a dataset's, which workers inherit."""


def _inherited(path: Path) -> int:
    """How many windows hold something else than they should, read by a forked process."""
    wrong = 0
    for row in range(0, 600, 50):
        values, _ = _READER.read(path, [1], Tile(row, 0, 50, 100))
        wrong += int((values[0] != np.arange(row, row + 50, dtype=np.uint16)[:, None]).any())
    return wrong


def test_processes_do_not_share_open_files(tmp_path: Path) -> None:
    rows = np.broadcast_to(np.arange(600, dtype=np.uint16)[:, None], (600, 100))
    path = write_tif(tmp_path / "a.tif", rows)
    assert _inherited(path) == 0
    with ProcessPoolExecutor(2, mp_context=get_context("fork")) as workers:
        found = list(workers.map(_inherited, [path] * 20))
        assert _inherited(path) == 0
    assert sum(found) == 0


def test_what_lies_beside_a_file_counts(tmp_path: Path) -> None:
    """Nodata of each band, which GDAL keeps in a file of its own, and a mask of the whole."""
    pixels = np.arange(32, dtype=np.uint8).reshape(2, 4, 4)
    plain, masked = (write_tif(tmp_path / name, pixels) for name in ("plain.tif", "masked.tif"))
    bands = "".join(
        f'<PAMRasterBand band="{band}"><NoDataValue>{value}</NoDataValue></PAMRasterBand>'
        for band, value in ((1, 3), (2, 20))
    )
    plain.with_name("plain.tif.aux.xml").write_text(f"<PAMDataset>{bands}</PAMDataset>")
    with rasterio.open(masked, "r+") as raster:
        raster.write_mask(pixels[0] > 9)
    reader, whole = RasterReader(), Tile(0, 0, 4, 4)
    assert reader.header(plain).nodata == (3, 20)
    assert (reader.read(plain, [1, 2], whole)[1] == ~np.isin(pixels, [3, 20])).all()
    assert (reader.read(masked, [2], whole)[1] == (pixels[0] > 9)).all()


def test_a_name_may_say_tiff_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(np.full((4, 4), 7, np.uint8)).save(path, format="PNG")
    assert (RasterReader().read(path, [1], Tile(1, 1, 2, 2))[0] == 7).all()


def test_masks_of_bytes_mean_the_same_as_others() -> None:
    table = label_table(folder_recipe(classes=[{"name": "a", "values": [3, 200]}, {"name": "b"}]))
    values = np.arange(256).reshape(16, 16)
    assert (table(values.astype(np.uint8)) == table(values)).all()
    assert set(table(values).ravel()) == {-1, 0, 1, 255} & set(table(values).ravel())


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
    seen, grown = map(int, _run(READ_ALL, path).split())
    assert seen == 7 * 40 * 40
    assert CACHE_BYTES / 2 < grown < CACHE_BYTES + 2**24


READ_MANY = READ_ALL.replace(
    "for tile in tiling.grid(header.height, header.width, 512):",
    "for path in sorted(path.parent.iterdir()):\n    tile = tiling.Tile(0, 0, 64, 64)",
)


def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    """One window each of images of which GDAL keeps the whole: together, seven times the bound."""
    side = 2000
    pixels = np.zeros((3, side, side), np.uint8)
    first = tmp_path / "0.tif"
    whole = {"interleave": "pixel", "blockysize": side, "compress": "zstd"}
    with rasterio.open(
        first, "w", driver="GTiff", count=3, height=side, width=side, dtype="uint8", **whole
    ) as raster:
        raster.write(pixels)
    for number in range(1, 7 * MOST_BYTES // pixels.nbytes):
        (tmp_path / f"{number}.tif").write_bytes(first.read_bytes())
    _, grown = map(int, _run(READ_MANY, first).split())
    assert grown < 2 * (CACHE_BYTES + MOST_BYTES)


def test_a_name_that_is_no_text_is_told(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"bad\xff.tif")
    write_tif(tmp_path / "good.tif", np.zeros((4, 4), np.uint8)).rename(path)
    with pytest.raises(DataError, match="its name is not UTF-8"):
        RasterReader().header(path)
