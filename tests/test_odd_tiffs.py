"""Odd, damaged and hostile rasters end in a right map or in one clear message."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.io import DatasetReader

from tests.odd_tiffs import BAD, GOOD, mutated, truncated, write
from tests.predicting import MEAN, RGB, STD, Ended, Process, process

CLASSES = 3
MANY_PIXELS = 10**6
MOST_GROWN_MB = 600
"""Above what the libraries take: a block of the file, GDAL's cache, a batch of windows."""


@dataclass(frozen=True)
class Predict:
    """`eosfm predict` with models that take the first band, or the first three."""

    process: Process
    folder: Path
    """Where maps go."""

    def run(self, bands: int, *scenes: Path) -> Ended:
        """Map scenes that have so many bands, taking their values as they are."""
        for path in self.folder.glob("*_pred*"):
            path.unlink()
        words = ["--bands", ",".join((*RGB, "nir")[:bands])] if bands in (2, 4) else []
        words += ["--model", self.process.model(used(bands)), "--output", self.folder]
        words += ["--scale", 1, "--no-quicklook", "--experiments", self.folder / "runs"]
        return self.process.run(["predict", *scenes, *words])

    def map_of(self, scene: Path) -> Path:
        return self.folder / f"{scene.stem}_pred.tif"

    def tried(self, scene: Path, bands: int) -> Ended:
        """Map a scene, and check what may never happen whatever it is."""
        ended = self.run(bands, scene)
        assert ended.code in (0, 3), ended
        if ended.code == 0:
            check_map(scene, self.map_of(scene), bands)
        else:
            check_message(ended, scene, self.folder)
        assert ended.grown_mb < MOST_GROWN_MB
        return ended


def used(bands: int) -> int:
    """How many of a scene's bands the model takes that it is mapped with."""
    return 3 if bands >= 3 else 1


@pytest.fixture(scope="module")
def predict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Predict]:
    folder = tmp_path_factory.mktemp("odd")
    maps = folder / "maps"
    maps.mkdir()
    with process(folder) as found:
        yield Predict(found, maps)


def check_message(ended: Ended, scene: Path, folder: Path) -> None:
    """One message that names the file and says what to do; nothing else is left."""
    lines = ended.err.splitlines()
    errors = [i for i, line in enumerate(lines) if line.startswith("error: ")]
    assert len(errors) == 1, ended.err
    said = lines[errors[0] :]
    assert scene.name in said[0], said
    assert said[-1].startswith("→ ") or said == [f"error: There is no file {scene}."], said
    assert len(said) <= 6
    assert len(ended.err) < 4000
    assert "\x1b" not in ended.err
    for word in ("Traceback", "bug in eosfm", "See previous exception", "CPLE", "allocate"):
        assert word not in ended.err, ended.err
    assert ended.out == ""
    assert not [path.name for path in folder.glob("*_pred*")]


def check_map(scene: Path, output: Path, bands: int) -> None:
    """The map lies where the scene lies, and has a class wherever the scene has values."""
    with rasterio.open(scene) as source, rasterio.open(output) as found:
        assert found.shape == source.shape
        assert found.crs == source.crs
        assert found.transform == source.transform
        assert points(found) == points(source)
        assert found.nodata == 255
        assert found.dtypes == ("uint8",)
        for _, window in found.block_windows(1):
            labels = found.read(1, window=window)
            np.testing.assert_array_equal(labels != 255, valid(source, window, used(bands)))
            assert set(np.unique(labels)) <= {*range(CLASSES), 255}


def points(dataset: DatasetReader) -> tuple[Any, ...]:
    """Ground control points and their CRS."""
    found, crs = dataset.gcps
    return crs, [(point.row, point.col, point.x, point.y) for point in found]


def valid(source: DatasetReader, window, bands: int) -> NDArray[np.bool_]:
    """Where all bands have values that may have been measured."""
    indexes = [*range(1, bands + 1)]
    values = source.read(indexes, window=window).astype(np.float64)
    with np.errstate(all="ignore"):
        measured = (np.abs(values - MEAN) < 1e6 * STD).all(axis=0)
    return measured & (source.read_masks(indexes, window=window) > 0).all(axis=0)


# --------------------------------------------------------------------------- our own


@pytest.mark.parametrize("name", GOOD)
def test_odd_rasters_are_mapped_like_plain_ones(predict, tmp_path, name):
    scene, plain = tmp_path / "scene.tif", tmp_path / "plain.tif"
    GOOD[name](scene)
    with rasterio.open(scene) as source:
        bands = source.count
        values = source.read([*range(1, used(bands) + 1)]).astype(np.float32)
        values[:, ~valid(source, None, used(bands))] = np.nan
    write(plain, values)
    ended = predict.run(bands, scene)
    assert ended.code == 0, ended
    check_map(scene, predict.map_of(scene), bands)
    mapped = labels(predict.map_of(scene))
    assert predict.run(used(bands), plain).code == 0
    np.testing.assert_array_equal(mapped, labels(predict.map_of(plain)))


def labels(path: Path) -> NDArray[np.uint8]:
    with rasterio.open(path) as dataset:
        return dataset.read(1)


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_mapped_is_refused_in_one_message(predict, tmp_path, name):
    scene = tmp_path / "scene.tif"
    BAD[name](scene)
    assert predict.tried(scene, 1).code == 3


# --------------------------------------------------------------------------- damage


def try_all(predict: Predict, folder: Path, files: dict[str, bytes]) -> dict[str, int]:
    """Map all files and give their exit codes."""
    codes, wrong = {}, []
    for name, content in files.items():
        scene = folder / "scene.tif"
        scene.write_bytes(content)
        try:
            codes[name] = predict.tried(scene, 3).code
        except AssertionError as error:
            wrong.append(f"{name}: {error}")
    assert not wrong, "\n\n".join(wrong)
    return codes


def test_truncated_rasters_are_refused(predict, tmp_path):
    assert set(try_all(predict, tmp_path, truncated(tmp_path)).values()) == {3}


def test_rasters_with_a_spoilt_header_are_mapped_or_refused(predict, tmp_path):
    codes = try_all(predict, tmp_path, mutated(tmp_path, range(12)))
    assert set(codes.values()) == {0, 3}


@pytest.mark.slow
def test_many_rasters_with_a_spoilt_header_are_mapped_or_refused(predict, tmp_path):
    try_all(predict, tmp_path, mutated(tmp_path, range(12, 200)))


# --------------------------------------------------------------------------- other people's


@pytest.mark.parametrize(
    "large",
    [pytest.param(False, id="small"), pytest.param(True, id="large", marks=pytest.mark.slow)],
)
def test_real_odd_rasters_are_mapped_or_refused(predict, sample_data, large):
    folder = sample_data("odd_tiffs")
    wrong = []
    for row in rows(folder):
        if (int(row["w"] or 0) * int(row["h"] or 0) > MANY_PIXELS) != large:
            continue
        try:
            ended = predict.tried(folder / row["file"], int(row["bands"] or 1))
            assert ended.code == expected_code(row), ended
        except AssertionError as error:
            wrong.append(f"{row['file']}: {error}")
    assert not wrong, "\n\n".join(wrong)


def rows(folder: Path) -> Sequence[dict[str, str]]:
    with (folder / "INDEX.csv").open() as file:
        return list(csv.DictReader(file))


def expected_code(row: dict[str, str]) -> int:
    """Of a file of which it is known whether GDAL reads it."""
    readable = row["gdal_open"] == row["gdal_read"] == "ok"
    return 0 if readable and "complex" not in row["categories"] else 3
