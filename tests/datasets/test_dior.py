"""The DIOR recipe over its mirror and over what its authors publish: kinds of objects."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eosfm_cli.data.datamodule import TileDataModule
from eosfm_cli.data.sources import open_source
from eosfm_cli.errors import DataError
from eosfm_cli.recipe import load_recipe
from tests.datasets import dior
from tests.datasets.dior import SETTINGS, TEST, TRAIN, VAL
from tests.datasets.opening import ids, items, opened, plain_recipe
from tests.listening import Listener


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    """What the mirror has, to be spoilt."""
    dior.write_mirror(tmp_path / "dior")
    return tmp_path / "dior"


@pytest.fixture
def original(tmp_path: Path) -> Path:
    """What the authors publish, to be spoilt."""
    dior.write_original(tmp_path / "original" / "dior")
    return tmp_path / "original" / "dior"


def of(root: Path, name: str = "dior", **overrides: Any) -> TileDataModule:
    settings = {key.replace(".", "__"): value for key, value in SETTINGS.items()}
    recipe = plain_recipe(name, **{"tile__size": 64, **settings, **overrides})
    listener = Listener()
    data = opened(recipe, root, listener)
    assert not listener.warnings
    return data


def numbers(data: TileDataModule, split: str) -> list[int]:
    return sorted(map(int, ids(data)[split]))


def check_items(data: TileDataModule) -> None:
    for split in ids(data):
        for name, item in items(data, split).items():
            colour = item["image"].mean(dim=(1, 2)).tolist()
            assert colour == pytest.approx(dior.colour(int(name)), abs=3)
            shown = item["label"].nonzero().flatten().tolist()
            assert shown == sorted(set(dior.objects(int(name))))
            assert item["label"].shape == (20,)


def test_an_image_shows_the_kinds_of_its_objects(mirror: Path, original: Path) -> None:
    check_items(of(mirror))
    check_items(of(original, "dior-original"))


def test_the_mirrors_validation_images_test(mirror: Path) -> None:
    data = of(mirror)
    assert numbers(data, "test") == list(VAL)
    assert sorted(numbers(data, "train") + numbers(data, "val")) == list(TRAIN)
    assert data.sample_counts["val"] == 2


def test_the_original_has_the_official_split(original: Path) -> None:
    data = of(original, "dior-original")
    assert [numbers(data, split) for split in ("train", "val", "test")] == [
        list(part) for part in (TRAIN, VAL, TEST)
    ]


def test_the_kinds_are_those_of_the_mirror() -> None:
    recipe = load_recipe("dior")
    assert [values[0] for values in recipe.class_values] == list(dior.KINDS)
    assert recipe.tile.size == recipe.dataset.shape[0], "an image is not cut: all of it is labelled"


# ------------------------------------------------------------------ what other loaders get wrong


def test_images_without_labels_are_no_samples(mirror: Path) -> None:
    """Of the test images, the mirror lists the names alone."""
    data = of(mirror)
    assert not set(TEST) & {number for split in ids(data) for number in numbers(data, split)}
    for path in (mirror / "Images/test").iterdir():
        path.unlink()
    assert ids(of(mirror)) == ids(data)


def test_images_are_not_opened_at_the_start(mirror: Path) -> None:
    """Neither for their size nor to see that they are there; a damaged one is told when read."""
    spoilt = mirror / f"Images/trainval/{VAL[0]:05}.jpg"
    spoilt.write_bytes(b"no picture")
    data = of(mirror)
    with pytest.raises(DataError, match=spoilt.name):
        items(data, "test")


def test_a_kind_that_nobody_lists_is_told(mirror: Path) -> None:
    boxes = mirror / f"Annotations/trainval/{TRAIN[2]:05}.xml"
    boxes.write_text(boxes.read_text().replace(dior.KINDS[dior.objects(TRAIN[2])[0]], "spaceship"))
    with pytest.raises(DataError, match="spaceship"):
        open_source(load_recipe("dior", SETTINGS), mirror.parent)


def test_boxes_that_are_missing_are_told(mirror: Path) -> None:
    (mirror / f"Annotations/trainval/{TRAIN[3]:05}.xml").unlink()
    with pytest.raises(DataError, match=f"{TRAIN[3]:05}"):
        open_source(load_recipe("dior", SETTINGS), mirror.parent)


def test_damaged_boxes_are_told(mirror: Path) -> None:
    boxes = mirror / f"Annotations/trainval/{TRAIN[3]:05}.xml"
    boxes.write_text(boxes.read_text()[:50])
    with pytest.raises(DataError, match=boxes.name):
        open_source(load_recipe("dior", SETTINGS), mirror.parent)


def test_the_sample_layout_opens(sample_data: Callable[[str], Path]) -> None:
    """Its test images have the names of others: they stay apart."""
    data = of(sample_data("layouts") / "dior", dataset__shape=[32, 32], tile__size=32)
    assert data.sample_counts == {"train": 3, "val": 1, "test": 2}
    assert sorted(ids(data)["test"]) == ["000004", "000005"]
    shown = {
        name: item["label"] for split in ids(data) for name, item in items(data, split).items()
    }
    stadium, airplane = dior.KINDS.index("stadium"), dior.KINDS.index("airplane")
    assert shown["000000"].nonzero().flatten().tolist() == [airplane, stadium]
