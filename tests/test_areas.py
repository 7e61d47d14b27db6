"""Splits of areas: every sample is in all, the labels of an area in one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eosfm_cli.data.folder import FolderSource
from eosfm_cli.data.sources import open_source
from eosfm_cli.data.splits import SPLIT_NAMES
from eosfm_cli.errors import DataError
from eosfm_cli.recipe import Recipe
from tests.rasters import folder_recipe, write_tif


def recipe(**split: Any) -> Recipe:
    """A tile has one raster of fields for all its quarters."""
    return folder_recipe(
        dataset={
            "images": {"pan": {"path": "{tile}/{id}.tif", "bands": ["pan"]}},
            "masks": {"path": "masks/{tile}_{id}.tif", "ignore": [9]},
            "split": {"by": "area", "path": "fields/{tile}.tif", **split},
            "fields": {"tile": r"\d"},
        }
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two tiles of ten fields each, one in each row; those of the last two rows have no label."""
    root = tmp_path / "data"
    for tile in (0, 1):
        fields = np.repeat(np.arange(10, dtype=np.uint32)[:, None], 2500, axis=1) + 10 * tile
        write_tif(root / f"fields/{tile}.tif", fields)
        labels = np.ones((10, 2500), np.uint8)
        labels[8] = 9
        labels[9, :-1] = 9
        for name in "ab":
            write_tif(root / f"{tile}/{name}.tif", np.zeros((1, 10, 2500), np.uint8))
            write_tif(root / f"masks/{tile}_{name}.tif", labels)
    return root


def opened(recipe: Recipe, root: Path) -> FolderSource:
    return open_source(recipe, root.parent)


def test_areas_with_labels_are_divided(root: Path) -> None:
    source = opened(recipe(val=0.2, test=0.3), root)
    assert [len(source.samples[name]) for name in SPLIT_NAMES] == [4, 4, 4]
    assert {name: len(source.areas[name]) for name in SPLIT_NAMES} == {
        "train": 9,
        "val": 3,
        "test": 5,
    }
    # No field 0, and none where nothing is labelled; the very last pixel is.
    assert set().union(*source.areas.values()) == {*range(1, 8), 9, *range(10, 18), 19}
    sample = source.samples["train"][0]
    assert sample.areas == root / "fields/0.tif"
    assert sample.mask == root / "masks/0_a.tif"


def test_the_draw_is_seeded(root: Path) -> None:
    assert opened(recipe(), root).areas == opened(recipe(), root).areas
    assert opened(recipe(), root).areas != opened(recipe(seed=1), root).areas


def test_too_few_areas(root: Path) -> None:
    for tile in (0, 1):
        write_tif(root / f"fields/{tile}.tif", np.full((10, 2500), 7, np.uint8))
    with pytest.raises(DataError, match="The train split has no areas: of 1 with labels"):
        opened(recipe(), root)


def test_a_raster_of_areas_is_missing_or_of_another_size(root: Path) -> None:
    write_tif(root / "fields/1.tif", np.full((10, 2499), 7, np.uint8))
    with pytest.raises(DataError, match="2499 × 10"):
        opened(recipe(), root)
    (root / "fields/1.tif").unlink()
    with pytest.raises(DataError, match=r"a lacks fields/1\.tif"):
        opened(recipe(), root)
