"""Images in NumPy's files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from eosfm_cli.data.reader import Header, RasterReader, read_header
from eosfm_cli.errors import DataError
from eosfm_cli.tiling import Tile

SERIES = np.arange(3 * 2 * 5 * 4).reshape(3, 2, 5, 4)


def written(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


def test_dates_bands_rows_and_columns(tmp_path: Path) -> None:
    path = written(tmp_path / "a.npy", SERIES.astype(np.int16))
    assert read_header(path) == Header(2, 5, 4, ("int16", "int16"), (None, None), 3)
    values, valid = RasterReader().read(path, [2, 1], Tile(1, 2, 3, 2), date=1)
    assert np.array_equal(values, SERIES[1, ::-1, 1:4, 2:])
    assert values.dtype == np.int16
    assert valid.all()


@pytest.mark.parametrize("array", [SERIES[0], SERIES[0, 0], np.asfortranarray(SERIES[0])])
def test_fewer_axes_are_one_date_or_one_band(tmp_path: Path, array: np.ndarray) -> None:
    path = written(tmp_path / "a.npy", array)
    whole = array.reshape(-1, 5, 4)
    assert (read_header(path).count, read_header(path).dates) == (len(whole), 1)
    values, _ = RasterReader().read(path, [1], Tile(0, 0, 5, 4))
    assert np.array_equal(values[0], whole[0])


def test_foreign_byte_order_and_nan(tmp_path: Path) -> None:
    array = np.array([[1.5, np.nan], [np.inf, -2]], ">f4")
    path = written(tmp_path / "a.npy", array)
    assert read_header(path).dtypes == ("float32",)
    values, valid = RasterReader().read(path, [1], Tile(0, 0, 2, 2))
    assert values.dtype == np.float32
    assert values[0][valid[0]].tolist() == [1.5, -2]


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.array([["a", "b"]]), "no image"),
        (np.arange(4), "4, which is no image"),
        (np.zeros((1, 1, 1, 2, 2)), "1 × 1 × 1 × 2 × 2"),
        (np.array([[{"a": 1}]]), "Python objects"),
        (np.zeros((0, 4)), "0 × 4, which is no image"),
    ],
)
def test_what_is_no_image(tmp_path: Path, array: np.ndarray, words: str) -> None:
    path = written(tmp_path / "a.npy", array)
    with pytest.raises(DataError, match=words) as caught:
        read_header(path)
    assert str(path) in caught.value.message


@pytest.mark.parametrize(("kept", "words"), [(0, "no NumPy"), (60, "no NumPy"), (200, "cut short")])
def test_files_cut_short(tmp_path: Path, kept: int, words: str) -> None:
    path = written(tmp_path / "a.npy", SERIES)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataError, match=words):
        RasterReader().read(path, [1], Tile(0, 0, 2, 2))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Cannot read .*a\.npy"):
        read_header(tmp_path / "a.npy")
