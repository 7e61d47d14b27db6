"""The BigEarthNet v2 recipe and its variants over the real layout: two sensors, a table."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eosfm_cli.commands.app import main
from eosfm_cli.data.sources import open_source
from eosfm_cli.errors import DataError
from eosfm_cli.recipe import load_recipe
from tests.datasets import bigearthnetv2 as ben
from tests.datasets.opening import ids, items, opened, plain_recipe
from tests.listening import Listener
from tests.rasters import write_tif

BANDS = load_recipe("bigearthnetv2").bands
TRAIN, VAL, TEST = ben.PATCHES[:3], ben.PATCHES[3:4], ben.PATCHES[4:5]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("whole") / "bigearthnetv2"
    ben.write(root)
    return root


@pytest.fixture
def root(whole: Path, tmp_path: Path) -> Path:
    """A copy to be spoilt."""
    return Path(shutil.copytree(whole, tmp_path / "bigearthnetv2"))


def patches(name: str, root: Path) -> dict[str, dict[str, Any]]:
    """All samples of a recipe by id."""
    data = opened(plain_recipe(name), root)
    return {
        key: item for split in ("train", "val", "test") for key, item in items(data, split).items()
    }


@pytest.fixture(scope="module")
def every(whole: Path) -> dict[str, dict[str, Any]]:
    """All samples of both sensors by id; not to be changed."""
    return patches("bigearthnetv2", whole)


# --------------------------------------------------------------------------- what is right


@pytest.mark.parametrize("variant", ["", "-all", "-rgb", "-s1", "-s2"])
def test_the_split_is_the_tables(variant: str, whole: Path) -> None:
    listener = Listener()
    data = opened(plain_recipe(f"bigearthnetv2{variant}"), whole, listener)
    assert ids(data) == {"train": sorted(TRAIN), "val": list(VAL), "test": list(TEST)}
    assert not any("lack" in text for text in listener.warnings)


def test_both_sensors_show_the_same_patch(every: dict[str, dict[str, Any]]) -> None:
    for number, patch in enumerate(ben.PATCHES[:5]):
        image = every[patch]["image"][:, : ben.PX, : ben.PX].numpy()
        assert np.allclose(image[:2], ben.s1_pixels(number), atol=1e-4)
        assert np.allclose(image[2:], ben.s2_pixels(number), atol=0.01)


def test_labels_are_the_official_nineteen(every: dict[str, dict[str, Any]]) -> None:
    for patch, expected in zip(ben.PATCHES[:5], ben.INDICES, strict=True):
        assert every[patch]["label"].shape == (19,)
        assert every[patch]["label"].nonzero().flatten().tolist() == expected


@pytest.mark.parametrize(
    ("name", "order"),
    [("ben-rgb", [5, 4, 3]), ("ben_s1", [0, 1]), ("bigearthnet-v2-s2", list(range(2, 14)))],
)
def test_variants_choose_bands_by_name(
    name: str, order: list[int], whole: Path, every: dict[str, dict[str, Any]]
) -> None:
    for patch, item in items(opened(plain_recipe(name), whole), "train").items():
        assert torch.equal(item["image"], every[patch]["image"][order])
        assert torch.equal(item["label"], every[patch]["label"])


def test_patches_are_padded_to_the_tile(every: dict[str, dict[str, Any]]) -> None:
    image = every[TEST[0]]["image"]
    assert image.shape == (14, 128, 128)
    assert not image[:, ben.PX :].any()
    assert not image[:, :, ben.PX :].any()


def test_one_sensor_does_not_touch_the_other(root: Path) -> None:
    shutil.move(root / "BigEarthNet-S1", root.parent / "s1")
    assert len(items(opened(plain_recipe("ben-s2"), root), "test")) == 1
    for path in root.rglob("*.tif"):
        if path.stem[-3:] not in {"B02", "B03", "B04"}:
            path.unlink()
    assert len(items(opened(plain_recipe("ben-rgb"), root), "train")) == 3
    shutil.rmtree(root / "BigEarthNet-S2")
    shutil.move(root.parent / "s1", root / "BigEarthNet-S1")
    assert len(items(opened(plain_recipe("ben-s1"), root), "train")) == 3


def test_the_sample_layout_opens(sample_data: Callable[[str], Path]) -> None:
    root = sample_data("layouts") / "bigearthnet" / "v2"
    data = opened(plain_recipe("ben", dataset__root="v2"), root)
    assert data.sample_counts == {"train": 2, "val": 1, "test": 1}
    item = data.dataset("val")[0]
    assert item["image"][:, 0, :2].tolist()[:2] == [[-23, -15], [-21, -13]]
    assert item["label"].nonzero().flatten().tolist() == [2, 4, 17]


# --------------------------------------------------------------------------- others' defects


def test_decibels_keep_their_decimals(every: dict[str, dict[str, Any]]) -> None:
    image = every[ben.PATCHES[0]]["image"]
    assert image[0, 0, 0].item() == pytest.approx(-0.7)
    assert image[1, 0, 1].item() == pytest.approx(-20.251)


def test_vv_comes_before_vh(every: dict[str, dict[str, Any]]) -> None:
    assert load_recipe("ben-s1").bands == ("vv", "vh")
    assert load_recipe("ben").bands[:2] == ("vv", "vh")
    image = every[TEST[0]]["image"]
    assert (image[0] > image[1])[: ben.PX, : ben.PX].all()


def test_coarse_bands_are_ramps_between_their_pixels(every: dict[str, dict[str, Any]]) -> None:
    image = every[VAL[0]]["image"][2:, : ben.PX, : ben.PX]
    steps = image[:, 60, 61:90] - image[:, 60, 60:89]
    for step, size in zip(steps, ben.S2_SIZES.values(), strict=True):
        assert torch.allclose(step, torch.tensor(size / ben.PX), atol=0.01)


def test_the_reference_map_is_not_read(root: Path) -> None:
    patch = ben.PATCHES[0]
    folder = root / "Reference_Maps" / patch.rsplit("_", 2)[0] / patch
    folder.mkdir(parents=True)
    (folder / f"{patch}_reference_map.tif").write_text("this is no raster")
    assert len(items(opened(plain_recipe("ben"), root), "train")) == 3


@pytest.mark.parametrize("sensor", ["S1", "S2"])
def test_archives_that_are_not_unpacked_are_told(sensor: str, root: Path) -> None:
    shutil.rmtree(root / f"BigEarthNet-{sensor}")
    for part in ("aa", "ab"):
        (root / f"BigEarthNet-{sensor}.tar.gz{part}").touch()
    with pytest.raises(DataError) as caught:
        open_source(plain_recipe("ben"), root.parent)
    said = f"{caught.value.message}\n{caught.value.hint}"
    assert f"BigEarthNet-{sensor}.tar.gzaa" in said
    assert "unpack" in said


def test_snowy_and_cloudy_patches_are_left_out(every: dict[str, dict[str, Any]]) -> None:
    assert set(every) == set(ben.PATCHES[:5])


def test_they_are_counted_once(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a row, nobody knows which picture of one sensor is of which of the other."""
    assert main(["data", "check", "ben", "--data-root", str(whole.parent), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["recipes"]
    for path in found["paths"]:
        assert path["found"] == path["expected"] == (1 if path["kind"] == "labels" else 6)


# --------------------------------------------------------------------------- what is wrong


def test_a_patch_without_its_other_sensor(root: Path) -> None:
    name = ben.s1_name(1)
    shutil.rmtree(root / "BigEarthNet-S1" / name.rsplit("_", 3)[0] / name)
    with pytest.raises(DataError) as caught:
        open_source(plain_recipe("ben"), root.parent)
    assert ben.PATCHES[1] in caught.value.message or name in caught.value.message


@pytest.mark.parametrize("content", [None, b"PAR1 and no more"])
def test_without_the_table_nothing_else_is_said(
    content: bytes | None, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What pairs and divides the files stands in it: the rest would only follow from that."""
    table = root / "metadata.parquet"
    table.unlink()
    if content is not None:
        table.write_bytes(content)
    options = ["--data-root", str(root.parent), "--json"]
    assert main(["data", "check", "bigearthnetv2", *options]) == 3
    (found,) = json.loads(capsys.readouterr().out)["recipes"]
    (problem,) = found["problems"]
    assert str(table) in problem["text"]
    assert not found["notes"]


def test_a_file_of_another_size_is_told_when_it_is_read(root: Path) -> None:
    patch = TEST[0]
    path = root / "BigEarthNet-S2" / patch.rsplit("_", 2)[0] / patch / f"{patch}_B02.tif"
    write_tif(path, np.zeros((121, 120), np.uint16))
    data = opened(plain_recipe("ben-rgb"), root)
    with pytest.raises(DataError) as caught:
        data.dataset("test")[0]
    assert path.name in caught.value.message


def test_a_class_that_nobody_knows(root: Path) -> None:
    recipe = plain_recipe("ben-s1", classes=[{"name": "Urban fabric"}, {"name": "Arable land"}])
    with pytest.raises(DataError, match="Mixed forest"):
        open_source(recipe, root.parent)
