"""The LEVIR-CD+ recipe over both real layouts: pairs of images."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from eosfm_cli.data.sources import open_source
from eosfm_cli.errors import DataError
from tests.datasets import levircdplus as levir
from tests.datasets.opening import ids, items, opened, plain_recipe
from tests.listening import Listener


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("whole") / "levircdplus"
    levir.write(root)
    return root


@pytest.fixture
def root(whole: Path, tmp_path: Path) -> Path:
    """A copy to be spoilt."""
    return Path(shutil.copytree(whole, tmp_path / "levircdplus"))


def numbers(names: list[str]) -> set[int]:
    return {int(name.removeprefix("train_")) for name in names}


def test_blocks_of_ten_numbers_validate(whole: Path) -> None:
    listener = Listener()
    found = ids(opened(plain_recipe("levircdplus"), whole, listener))
    assert not listener.warnings
    train, val, test = (numbers(found[split]) for split in ("train", "val", "test"))
    assert train | val == set(levir.TRAIN)
    assert test == set(levir.TEST)
    assert val
    assert not {n // 10 for n in train} & {n // 10 for n in val}


def test_both_dates_and_the_label_stay_together(whole: Path) -> None:
    data = opened(plain_recipe("levir-cd-plus", tile__size=64, tile__train="grid"), whole)
    for split in ("train", "val", "test"):
        for name, item in items(data, split).items():
            (number,) = numbers([name])
            assert np.array_equal(item["image"].numpy(), levir.pixels(number))
            assert np.array_equal(item["mask"].numpy(), levir.labels(number))


def test_the_layout_without_a_folder_of_its_own(tmp_path: Path, whole: Path) -> None:
    root = tmp_path / "levircdplus"
    levir.write(root, folder="")
    assert ids(opened(plain_recipe("levircdplus"), root)) == ids(
        opened(plain_recipe("levircdplus"), whole)
    )


def test_the_sample_layout_opens(sample_data: Callable[[str], Path]) -> None:
    """Its labels have all kinds of values, and its two pairs are of one block of numbers."""
    root = sample_data("layouts") / "levircd" / "levircdplus"
    settings = {"dataset__split__pattern": None, "dataset__masks__unknown": "ignore"}
    data = opened(plain_recipe("levircdplus", tile__size=32, **settings), root)
    assert data.sample_counts == {"train": 1, "val": 1, "test": 2}
    image = items(data, "test")["00"]["image"]
    assert image[0, :, 0, :3].tolist() == [[111, 180, 137], [253, 155, 108]]


# --------------------------------------------------------------------------- others' defects


def test_both_dates_are_cropped_and_turned_alike(whole: Path) -> None:
    data = opened(plain_recipe("levircdplus", tile__size=32, training__augment=True), whole)
    cut = data.dataset("train")
    starts = set()
    for index in range(len(cut)):
        item = cut[index]
        before, after = item["image"][:, 0], item["image"][:, 1]
        assert torch.equal(before[0], after[0])
        assert torch.equal(before[1:] + 100, after[1:])
        row, col = before[1].long(), before[2].long()
        label = (row // 7 + col // 5 + before[0].long()) % 2
        number = torch.tensor(levir.labels(int(before[0, 0, 0])))
        assert torch.equal(item["mask"], number[row, col])
        assert torch.equal(item["mask"], label)
        starts.add((row.min().item(), col.min().item()))
    assert len(starts) > 10


def test_all_of_an_image_is_tested_not_its_middle(whole: Path) -> None:
    data = opened(plain_recipe("levircdplus", tile__size=32), whole)
    seen = sum(int((item["mask"] != 255).sum()) for item in map(data.dataset("test").__getitem__,
               range(len(data.dataset("test")))))  # fmt: skip
    assert seen == len(levir.TEST) * levir.PX**2


def test_validation_is_drawn_from_the_training_pairs(whole: Path) -> None:
    drawn = {
        seed: frozenset(
            ids(opened(plain_recipe("levircdplus", dataset__split__seed=seed), whole))["val"]
        )
        for seed in range(4)
    }
    assert len(set(drawn.values())) > 1
    assert not any(numbers(list(val)) & set(levir.TEST) for val in drawn.values())


@pytest.mark.parametrize("kind", ["A", "B", "label"])
def test_a_missing_file_shifts_no_pair(kind: str, root: Path) -> None:
    (root / "LEVIR-CD+/train" / kind / "train_13.png").unlink()
    with pytest.raises(DataError, match=rf"train_13.*LEVIR-CD\+/train/{kind}/train_13\.png"):
        open_source(plain_recipe("levircdplus"), root.parent)
