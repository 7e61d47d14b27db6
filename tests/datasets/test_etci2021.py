"""The ETCI 2021 recipe and its variants over the real layout: a file per band, blank tiles."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eosfm_cli.data.datamodule import TileDataModule
from eosfm_cli.data.sources import open_source
from eosfm_cli.errors import DataError
from eosfm_cli.recipe import load_recipe
from tests.datasets import etci2021
from tests.datasets.etci2021 import NO_VH, NO_VV, SETTINGS, TEST, TILES, TRAIN
from tests.datasets.opening import ids, items, opened, plain_recipe
from tests.listening import Listener
from tests.rasters import write_image


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All three parts; not to be changed."""
    root = tmp_path_factory.mktemp("whole") / "etci2021"
    etci2021.write(root)
    return root


@pytest.fixture
def root(whole: Path, tmp_path: Path) -> Path:
    """A copy to be spoilt."""
    return Path(shutil.copytree(whole, tmp_path / "etci2021"))


def of(root: Path, name: str = "etci2021", **overrides: Any) -> TileDataModule:
    settings = {key.replace(".", "__"): value for key, value in SETTINGS.items()}
    return opened(plain_recipe(name, **{"tile__size": 64, **settings, **overrides}), root)


class _Said(Listener):
    """Remembers what is said, too."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def names(events: tuple[str, ...], tiles: tuple[str, ...] = TILES) -> list[str]:
    return sorted(f"{event}_{tile}" for event in events for tile in tiles)


def test_every_tile_has_its_own_bands_and_flood(whole: Path) -> None:
    data = of(whole)
    found = {name: item for split in ids(data) for name, item in items(data, split).items()}
    assert sorted(found) == names((*TRAIN, *TEST))
    for name, item in found.items():
        event, tile = name[: name.index("_x-")], name[name.index("x-") :]
        assert np.array_equal(item["image"].numpy(), etci2021.pixels(event, tile))
        assert np.array_equal(item["mask"].numpy(), etci2021.flood(event, tile))


def test_the_labelled_part_of_the_contest_tests(whole: Path) -> None:
    parts = ids(of(whole))
    assert sorted(parts["test"]) == names(TEST)
    assert sorted(parts["train"] + parts["val"]) == names(TRAIN)


def test_a_place_validates_at_all_its_dates(whole: Path) -> None:
    parts = {split: {name.split("_")[0] for name in part} for split, part in ids(of(whole)).items()}
    assert len(parts["val"]) == 1
    assert not parts["train"] & parts["val"]


@pytest.mark.parametrize(("name", "channel"), [("etci2021-vv", 0), ("etci2021-vh", 1)])
def test_a_variant_reads_its_own_band_alone(name: str, channel: int, root: Path) -> None:
    other = ("vh", "vv")[channel]
    for folder in root.glob(f"*/*/tiles/{other}"):
        shutil.rmtree(folder)
    for tile_id, item in items(of(root, name), "test").items():
        event, tile = tile_id[: tile_id.index("_x-")], tile_id[tile_id.index("x-") :]
        assert item["image"].shape == (1, 64, 64)
        assert np.array_equal(item["image"][0].numpy(), etci2021.pixels(event, tile)[channel])


# ------------------------------------------------------------------ what other loaders get wrong


def test_a_missing_label_shifts_nothing(root: Path) -> None:
    gone = root / f"train/{TRAIN[0]}/tiles/flood_label/{TRAIN[0]}_{TILES[0]}.png"
    gone.unlink()
    with pytest.raises(DataError, match=gone.name):
        open_source(load_recipe("etci2021", SETTINGS), root.parent)


def test_tiles_without_data_are_left_out(whole: Path) -> None:
    """Four in ten of the real ones are in part black or white, where the satellite saw nothing."""
    for name, blank in (
        ("etci2021", (NO_VV, NO_VH)),
        ("etci2021-vv", (NO_VV,)),
        ("etci2021-vh", (NO_VH,)),
    ):
        kept = tuple(tile for tile in (*TILES, NO_VV, NO_VH) if tile not in blank)
        assert sorted(ids(of(whole, name))["test"]) == names(TEST, kept)
    assert len(ids(of(whole, dataset__blank=None))["test"]) == 4 * len(TEST)


def test_how_many_are_left_out_is_told(whole: Path) -> None:
    told = _Said()
    open_source(load_recipe("etci2021", SETTINGS), whole.parent, told)
    (line,) = told.lines
    assert line.startswith("12 of 24 samples are blank and left out (train ")
    assert "test 4): more than 10 % of a band is 0 or 255" in line
    assert not told.warnings


def test_grey_is_one_band(whole: Path) -> None:
    """Red, green and blue of a picture are the same value three times."""
    assert load_recipe("etci2021").bands == ("vv", "vh")
    assert next(iter(items(of(whole), "val").values()))["image"].shape == (2, 64, 64)


def test_water_that_is_always_there_is_neither_label_nor_image(root: Path) -> None:
    for folder in root.glob("*/*/tiles/water_body_label"):
        shutil.rmtree(folder)
    for name, item in items(of(root), "test").items():
        event, tile = name[: name.index("_x-")], name[name.index("x-") :]
        assert np.array_equal(item["mask"].numpy(), etci2021.flood(event, tile))


def test_the_part_without_labels_may_be_absent(root: Path) -> None:
    shutil.rmtree(root / "test_internal")
    assert sorted(ids(of(root))["test"]) == names(TEST)


def test_what_a_mac_packs_too_is_no_tile(root: Path) -> None:
    for event in TRAIN:
        folder = root / "__MACOSX/train" / event / "tiles/vv"
        folder.mkdir(parents=True)
        (folder / f"._{event}_{TILES[0]}_vv.png").write_bytes(b"\x00\x05\x16\x07")
    found = [name for part in ids(of(root)).values() for name in part]
    assert sorted(found) == names((*TRAIN, *TEST))


def test_grey_of_one_band_is_read_as_well(root: Path) -> None:
    """Pictures that were written again, without three times the same."""
    for path in root.glob("test/*/tiles/v?/*.png"):
        event = path.parents[2].name
        tile = path.stem[len(event) + 1 : -3]
        channel = ("vv", "vh").index(path.parent.name)
        write_image(path, etci2021.pixels(event, tile)[channel])
    for name, item in items(of(root), "test").items():
        event, tile = name[: name.index("_x-")], name[name.index("x-") :]
        assert np.array_equal(item["image"].numpy(), etci2021.pixels(event, tile))


def test_the_sample_layout_opens(sample_data: Callable[[str], Path]) -> None:
    """Its pictures are all black: none is left where blank ones are left out."""
    root = sample_data("layouts") / "etci2021"
    with pytest.raises(DataError):
        of(root)
    data = of(root, dataset__blank=None)
    assert data.sample_counts == {"train": 2, "val": 1, "test": 3}
    for item in items(data, "test").values():
        assert not item["image"].any()
        assert not item["mask"].any()
