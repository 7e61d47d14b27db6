"""Tiles as samples, and batches of them."""

from __future__ import annotations

import gc
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rasters import folder_recipe, write_sample, write_tif

from eosfm_cli.data.datamodule import (
    EpochSampler,
    TileDataModule,
    build_datamodule,
    start_worker,
)
from eosfm_cli.errors import DataError
from eosfm_cli.progress import Silent


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three samples of 40 × 50 pixels."""
    for name in "abc":
        write_sample(tmp_path / "data", name)
    return tmp_path / "data"


def module(root: Path, **changes: Any) -> TileDataModule:
    recipe = folder_recipe(**changes)
    return build_datamodule(recipe, root.parent, spec=recipe.training, progress=Silent())


def training(**changes: Any) -> dict[str, Any]:
    return {"training": {"workers": 0, "batch_size": 2, "augment": False, **changes}}


def test_batches_are_what_the_tasks_take(root: Path) -> None:
    batch = next(iter(module(root).train_dataloader()))
    assert set(batch) == {"image", "mask", "filename"}
    assert batch["image"].shape == (2, 3, 32, 32)
    assert batch["image"].dtype == torch.float32
    assert batch["mask"].shape == (2, 32, 32)
    assert batch["mask"].dtype == torch.int64
    assert batch["filename"] == [str(root / "images/a.tif")] * 2


def test_counts(root: Path) -> None:
    data = module(root)
    assert data.sample_counts == {"train": 1, "val": 1, "test": 1}
    assert data.tile_counts == {"train": 4, "val": 4, "test": 4}


@pytest.mark.parametrize("shape", [(40, 50), (32, 32), (20, 70), (64, 96), (33, 97)])
@pytest.mark.parametrize("stride", [None, 20])
def test_validation_counts_every_label_exactly_once(
    tmp_path: Path, shape: tuple[int, int], stride: int | None
) -> None:
    for name in "abc":
        write_sample(tmp_path / "data", name, shape)
    data = module(tmp_path / "data", tile={"size": 32, "stride": stride})
    seen = np.zeros(shape[0] * shape[1], int)
    for item in data.dataset("test"):
        counted = item["mask"] != 255
        # The first band numbers the pixels, and its parity is the label.
        numbers = item["image"][0][counted].long()
        assert torch.equal(item["mask"][counted], numbers % 2)
        np.add.at(seen, numbers.numpy(), 1)
    assert (seen == 1).all()


def test_small_images_are_padded_with_mean_and_no_label(tmp_path: Path) -> None:
    for name in "abc":
        write_sample(tmp_path / "data", name, (10, 12))
    item = module(tmp_path / "data").dataset("train")[0]
    assert (item["image"][:, 10:] == 0).all()
    assert (item["image"][:, :, 12:] == 0).all()
    assert (item["mask"][10:] == 255).all()
    assert (item["mask"][:10, :12] != 255).all()


def test_bands_are_gathered_by_name_and_standardised(root: Path) -> None:
    for name in "abc":
        write_tif(root / "s1" / f"{name}.tif", np.full((2, 40, 50), -10, np.float32))
    images = {
        "rgb": {"path": "images/{id}.tif", "bands": ["red", "green", "blue"]},
        "s1": {"path": "s1/{id}.tif", "bands": ["vv", "vh"]},
    }
    statistics = {b: {"mean": 0, "std": 1} for b in ("blue", "red")} | {
        "vh": {"mean": -12, "std": 4}
    }
    data = module(
        root, dataset={"images": images}, bands=["blue", "vh", "red"], statistics=statistics
    )
    image = data.dataset("train")[0]["image"]
    assert image[:, 0, 0].tolist() == [2 * 40 * 50, 0.5, 0]


def test_nodata_and_nan_become_the_mean(root: Path) -> None:
    pixels = np.full((3, 40, 50), 7, np.float32)
    pixels[0, 0, 0], pixels[1, 0, 1], pixels[2, 0, 2] = np.nan, -3e38, np.inf
    write_tif(root / "images/a.tif", pixels, nodata=-3e38)
    image = module(root).dataset("train")[0]["image"]
    assert [image[i, 0, i].item() for i in range(3)] == [0, 0, 0]
    assert (image == 7).sum() == image.numel() - 3


def test_mask_nodata_is_no_label_unless_a_class_lists_it(root: Path) -> None:
    mask = np.ones((40, 50), np.uint8)
    mask[0, 0] = 0
    write_tif(root / "masks/a.tif", mask, nodata=0)
    assert module(root).dataset("train")[0]["mask"][0, 0] == 255
    listed = [{"name": "no", "values": [0]}, {"name": "yes"}]
    assert module(root, classes=listed).dataset("train")[0]["mask"][0, 0] == 0


def test_png_and_jpeg_without_georeference(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    root = tmp_path / "data"
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for name in "abc":
        Image.new("RGB", (40, 36), (10, 20, 30)).save(root / "images" / f"{name}.jpg")
        Image.new("L", (40, 36), 1).save(root / "masks" / f"{name}.png")
    images = {"rgb": {"path": "images/{id}.jpg", "bands": ["red", "green", "blue"]}}
    data = module(root, dataset={"images": images, "masks": {"path": "masks/{id}.png"}})
    item = data.dataset("train")[0]
    assert item["image"][:, 0, 0].tolist() == pytest.approx([10, 20, 30], abs=3)
    assert (item["mask"] == 1).all()
    assert not [w for w in recwarn if "georef" in str(w.message).lower()]


def test_class_folders_give_labels(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for folder in ("no", "yes"):
        for number in range(4):
            write_tif(root / folder / f"{number}.tif", np.zeros((1, 32, 32), np.uint8))
    data = module(
        root,
        task="classification",
        dataset={
            "images": {"pan": {"path": "{class}/{id}.tif", "bands": ["pan"]}},
            "masks": None,
            "split": {"by": "fraction", "val": 0.25, "test": 0.25},
        },
    )
    for batch in data.train_dataloader():
        assert set(batch) == {"image", "label", "filename"}
        assert batch["label"].dtype == torch.int64
        assert batch["label"].tolist() == [
            int(Path(name).parent.name == "yes") for name in batch["filename"]
        ]


# --------------------------------------------------------------------------- chance


def epochs(data: TileDataModule, count: int = 2) -> list[torch.Tensor]:
    loader = data.train_dataloader()
    found = []
    for epoch in range(count):
        loader.sampler.set_epoch(epoch)
        found.append(torch.cat([batch["image"] for batch in loader]))
    return found


@pytest.mark.parametrize("changes", [{"tile": {"size": 32, "train": "random"}}, {"augment": True}])
def test_chance_is_seeded_and_differs_by_epoch(root: Path, changes: dict[str, Any]) -> None:
    tile = {"tile": changes["tile"]} if "tile" in changes else {}
    augment = changes.get("augment", False)
    first = epochs(module(root, **tile, **training(augment=augment)))
    again = epochs(module(root, **tile, **training(augment=augment)))
    other = epochs(module(root, **tile, **training(augment=augment, seed=1)))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(_sorted(first[0]), _sorted(first[1]))
    assert not torch.equal(_sorted(first[0]), _sorted(other[0]))


def _sorted(images: torch.Tensor) -> torch.Tensor:
    """Images in an order that does not depend on the sampler's."""
    flat = images.flatten(1)
    weights = torch.arange(flat.shape[1], dtype=torch.float64)
    return flat[(flat.double() @ weights).argsort()]


def test_workers_draw_the_same_as_the_main_process(root: Path) -> None:
    random_crops = {"tile": {"size": 32, "train": "random"}}
    alone = epochs(module(root, **random_crops, **training(augment=True)))
    with_workers = epochs(module(root, **random_crops, **training(augment=True, workers=1)))
    assert all(torch.equal(a, b) for a, b in zip(alone, with_workers, strict=True))


def test_augmentation_turns_image_and_mask_alike(root: Path) -> None:
    dataset = module(root, **training(augment=True)).dataset("train")
    for epoch in range(16):
        item = dataset[epoch, 0]
        assert torch.equal(item["mask"], item["image"][0].long() % 2)
    assert len({dataset[epoch, 0]["image"][0, 0, 0].item() for epoch in range(40)}) == 4


def test_validation_is_never_augmented(root: Path) -> None:
    dataset = module(root, **training(augment=True)).dataset("val")
    assert torch.equal(dataset[0, 0]["image"], dataset[5, 0]["image"])


def test_each_pass_is_another_epoch_where_nobody_says_so() -> None:
    sampler = EpochSampler(50, seed=0)
    first, second = list(sampler), list(sampler)
    assert {epoch for epoch, _ in second} == {1}
    assert [i for _, i in first] != [i for _, i in second]
    sampler.set_epoch(0)
    assert list(sampler) == first


@pytest.mark.parametrize(("batch_size", "sizes"), [(3, [3]), (4, [4]), (8, [4]), (2, [2, 2])])
def test_no_lonely_last_tile_in_training(root: Path, batch_size: int, sizes: list[int]) -> None:
    data = module(root, **training(batch_size=batch_size))
    assert [len(batch["image"]) for batch in data.train_dataloader()] == sizes
    assert sum(len(batch["image"]) for batch in data.val_dataloader()) == 4


# --------------------------------------------------------------------------- bad data


def _cut(root: Path) -> None:
    path = root / "images/a.tif"
    path.write_bytes(path.read_bytes()[:2000])


def _strange_label(root: Path) -> None:
    mask = np.zeros((40, 50), np.uint8)
    mask[3, 4] = 17
    write_tif(root / "masks/a.tif", mask)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("damage", "words"),
    [(_cut, ["images/a.tif"]), (_strange_label, ["masks/a.tif", "17", "dataset.masks.ignore"])],
)
def test_bad_files_are_named_without_a_traceback(
    root: Path, workers: int, damage: Callable[[Path], None], words: list[str]
) -> None:
    damage(root)
    data = module(root, **training(workers=workers))
    with pytest.raises(DataError) as caught:
        list(data.train_dataloader())
    said = f"{caught.value.message} {caught.value.hint}"
    assert all(word in said for word in words)
    assert "Traceback" not in said


class Rubbish:
    """Refers to itself, so that only the garbage collector finds it."""

    def __init__(self, told: Path) -> None:
        self.itself, self.told = self, told

    def __del__(self) -> None:
        self.told.write_text(str(os.getpid()))


def test_workers_do_not_collect_what_the_main_process_left(tmp_path: Path) -> None:
    gc.disable()
    try:
        Rubbish(tmp_path / "told")
        worker = os.fork()
        if worker == 0:
            start_worker(0)
            gc.collect()
            os._exit(0)
        os.waitpid(worker, 0)
        assert not (tmp_path / "told").exists()
    finally:
        gc.enable()
    gc.collect()
    assert (tmp_path / "told").read_text() == str(os.getpid())


def test_datasets_travel_to_other_processes(root: Path) -> None:
    dataset = module(root).dataset("val")
    before = dataset[0]
    after = pickle.loads(pickle.dumps(dataset))[0]
    assert torch.equal(before["image"], after["image"])


def test_statistics_are_those_of_the_recipe_or_else_computed(root: Path) -> None:
    assert module(root).recipe.statistics == folder_recipe().statistics
    assert set(module(root, statistics=None).recipe.statistics) == {"red", "green", "blue"}


# --------------------------------------------------------------------------- real data


def test_real_tiles_of_three_sensors(sample_data: Callable[[str], Path]) -> None:
    root = sample_data("terramind_tiles56")
    optical = ["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12"]
    lists = {name: f"splits/{name}.txt" for name in ("train", "val", "test")}
    recipe = folder_recipe(
        statistics=None,
        dataset={
            "root": str(root),
            "images": {
                "s2": {"path": "S2L2A/{id}.tif", "bands": optical},
                "s1": {"path": "S1RTC/{id}.tif", "bands": ["vv", "vh"]},
            },
            "masks": {"path": "LULC/{id}.tif"},
            "split": {"by": "list", **lists},
        },
        bands=["vh", "B04", "B8A"],
        classes=[{"name": str(v), "values": [v]} for v in (1, 2, 3, 4, 5, 6, 7, 9)],
        tile={"size": 64},
    )
    data = build_datamodule(recipe, None, spec=recipe.training, progress=Silent())
    assert sum(data.sample_counts.values()) == 80
    images = torch.cat([batch["image"] for batch in data.train_dataloader()])[..., :56, :56]
    assert images.shape[1:] == (3, 56, 56)
    assert images.mean(dim=(0, 2, 3)).abs().max() < 0.05
    assert images.std(dim=(0, 2, 3)).sub(1).abs().max() < 0.05
