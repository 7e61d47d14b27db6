"""What samples of each task hold, what a recipe of it may say, and what its metrics mean."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import rasterio
import torch
from terratorch.models.utils import TemporalWrapper
from torch import nn

from eosfm_cli.data.datamodule import build_datamodule
from eosfm_cli.data.folder import read_folder
from eosfm_cli.data.label_reader import NO_VALUE
from eosfm_cli.data.tiles import TileDataset
from eosfm_cli.errors import DataError
from eosfm_cli.manifest import ModelManifest
from eosfm_cli.progress import Silent
from eosfm_cli.recipe import Recipe, SpecialistSpec
from eosfm_cli.training.model import TwoDates, start_from
from eosfm_cli.training.task import answers, build_specialist_task, truths
from eosfm_cli.workflows.predict import PredictSpec, predict
from tests.rasters import folder_recipe, write_tif

CLASSES = [{"name": "water"}, {"name": "wood", "values": ["trees", "wood"]}, {"name": "town"}]
BY_COLUMN = {"by": "column", "column": "split", "val": "validation"}
PLAIN = SpecialistSpec(augment=False, workers=0)


class Told(Silent):
    """Keeps its warnings."""

    def __init__(self) -> None:
        self.warned: list[str] = []

    def warn(self, text: str) -> None:
        self.warned.append(text)


def tiles(recipe: Recipe, root: Path, split: str = "train", **spec: Any) -> TileDataset:
    source = read_folder(recipe, root, Silent())
    spec = PLAIN.model_copy(update=spec)
    return TileDataset(source.samples[split], recipe, split=split, spec=spec)


# ------------------------------------------------------------------------------ several labels


def multilabel(labels: dict[str, Any], **changes: Any) -> Recipe:
    dataset = {"labels": {"path": "labels.csv", "id": "id", **labels}, "masks": None}
    dataset |= changes.pop("dataset", {})
    return folder_recipe(task="multilabel", classes=CLASSES, dataset=dataset, **changes)


def write_images(root: Path, *names: str) -> Path:
    for name in names:
        write_tif(root / "images" / f"{name}.tif", np.ones((3, 32, 32), np.float32))
    return root


def labels_of(recipe: Recipe, root: Path) -> dict[str, list[float]]:
    found = {}
    for split in ("train", "val", "test"):
        dataset = tiles(recipe, root, split)
        for i in range(len(dataset)):
            assert dataset[i]["label"].dtype == torch.float32
            found[Path(dataset[i]["filename"]).stem] = dataset[i]["label"].tolist()
    return found


WANTED = {"a": [1, 1, 0], "b": [0, 0, 0], "c": [0, 1, 1]}
TABLES = {
    "names": ("id,labels\na,water;trees\nb,\nc,town; wood\n", {"column": "labels"}),
    "json": (
        'id,labels\na,"[""water"", ""wood""]"\nb,[]\nc,"[""town"",""trees""]"\n',
        {"column": "labels"},
    ),
    "python": ("id;labels\na;['water', 'wood']\nb;[]\nc;['town', 'wood']\n", {"column": "labels"}),
    "tabs": (
        "id\tlabels\na.tif\twater|wood\nimages/b.tif\t\nc\ttown|wood\n",
        {"column": "labels", "separator": "|"},
    ),
    "columns": ("id,water,trees,wood,town\na,1,1,0,0\nb,0,0,0,0\nc,False,0,1.0,True\n", {}),
}  # fmt: skip


@pytest.mark.parametrize("kind", TABLES)
def test_labels_come_from_a_table(tmp_path: Path, kind: str) -> None:
    text, keys = TABLES[kind]
    write_images(tmp_path, "a", "b", "c")
    (tmp_path / "labels.csv").write_text(text)
    assert labels_of(multilabel(keys), tmp_path) == WANTED


def test_a_parquet_table_has_lists_and_splits(tmp_path: Path) -> None:
    write_images(tmp_path, "a", "b", "c", "d")
    frame = pd.DataFrame(
        {
            "id": ["c", "b", "a", "d", "gone"],
            "labels": [["town", "wood"], [], ["water", "wood"], ["town"], ["town"]],
            "split": ["test", "validation", "train", "buffer", "buffer"],
            "unread": [object.__name__] * 5,
        }
    )
    frame.to_parquet(tmp_path / "labels.parquet")
    recipe = multilabel(
        {"path": "labels.parquet", "column": "labels"}, dataset={"split": BY_COLUMN}
    )
    told = Told()
    source = read_folder(recipe, tmp_path, told)
    assert {k: [s.id for s in v] for k, v in source.samples.items()} == {
        "train": ["a"], "val": ["b"], "test": ["c"],
    }  # fmt: skip
    assert labels_of(recipe, tmp_path) == WANTED
    assert told.warned == ["1 sample on disk in no split: d."]


def test_ids_keep_their_zeros(tmp_path: Path) -> None:
    write_images(tmp_path, "001", "002", "003")
    (tmp_path / "labels.csv").write_text("id,labels\n001,water\n002,wood\n003,town\n")
    split = {"by": "list", "train": ["001"], "val": ["002"], "test": ["003"]}
    found = labels_of(multilabel({"column": "labels"}, dataset={"split": split}), tmp_path)
    assert found["001"] == [1, 0, 0]


BAD_TABLES = {
    "no row": ("id,labels\na,water\nb,water\n", "1 sample without a row: c"),
    "no image": ("id,labels\na,water\nb,\nc,\nd,\n", "1 row without files on disk: d"),
    "unknown": (
        "id,labels\na,watr\nb,sea\nc,sea\n",
        "'sea' in 2 rows.*'watr' in 1 row, is it meant to be 'water'",
    ),
    "twice": ("id,labels\na,water\na,\nb,\nc,\n", "1 sample with more than one row.*: a"),
    "no column": ("id,label\na,water\n", "no column 'labels'. Did you mean 'label'"),
    "empty": ("", "no column 'id', 'labels'"),
    "too many cells": ("id,labels\na,water,wood\nb,\nc,\n", "line 2 has 3 cells, the heading 2"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_TABLES)
def test_what_a_table_lacks_is_listed(tmp_path: Path, kind: str) -> None:
    text, message = BAD_TABLES[kind]
    write_images(tmp_path, "a", "b", "c")
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(DataError, match=f"(?s){message}") as caught:
        read_folder(multilabel({"column": "labels"}), tmp_path, Silent())
    assert caught.value.exit_code == 3
    assert caught.value.hint


def test_a_table_that_is_absent_or_holds_odd_flags(tmp_path: Path) -> None:
    write_images(tmp_path, "a", "b", "c")
    with pytest.raises(DataError, match=r"Cannot read the table .*No such file"):
        read_folder(multilabel({}), tmp_path, Silent())
    (tmp_path / "labels.csv").write_text(
        "id,water,trees,wood,town\na,1,0,0,2\nb,0,0,0,0\nc,0,0,0,0\n"
    )
    with pytest.raises(DataError, match=r"'2' in the column 'town', row a"):
        read_folder(multilabel({}), tmp_path, Silent())


def test_rows_without_images_can_be_skipped(tmp_path: Path) -> None:
    write_images(tmp_path, "a", "b", "c")
    rows = ["a,train", "b,validation", "c,test", "d,train"]
    (tmp_path / "labels.csv").write_text("\n".join(["id,split", *rows]))
    labels = {"path": "labels.csv", "id": "id"}
    for name in "abc":
        write_tif(tmp_path / "masks" / f"{name}.tif", np.zeros((32, 32), np.uint8))
    recipe = folder_recipe(dataset={"labels": labels, "split": BY_COLUMN})
    with pytest.raises(DataError, match="1 row without files on disk: d"):
        read_folder(recipe, tmp_path, Silent())
    told = Told()
    recipe = folder_recipe(dataset={"labels": labels, "split": {**BY_COLUMN, "absent": "skip"}})
    assert len(read_folder(recipe, tmp_path, told).samples["train"]) == 1
    assert told.warned == ["1 of 4 listed samples are not on disk and are left out: d."]


# ------------------------------------------------------------------------------ values


def heights(**masks: Any) -> Recipe:
    return folder_recipe(
        task="regression",
        classes=[],
        target={"name": "height", "unit": "m"},
        dataset={"masks": {"path": "masks/{id}.tif", **masks}},
    )


def test_values_are_scaled_and_gaps_are_no_values(tmp_path: Path) -> None:
    write_images(tmp_path, "a", "b", "c")
    raw = np.full((20, 32), 100, np.uint16)
    raw[0, :3] = (65535, 7, 30)
    for name in "abc":
        write_tif(tmp_path / "images" / f"{name}.tif", np.ones((3, 20, 32), np.float32))
        write_tif(tmp_path / "masks" / f"{name}.tif", raw, nodata=7)
    mask = tiles(heights(scale=0.1, offset=-2, ignore=[65535]), tmp_path)[0]["mask"]
    assert (mask.dtype, mask.shape) == (torch.float32, (32, 32))
    assert mask[0, :4].tolist() == pytest.approx([NO_VALUE, NO_VALUE, 1, 8])
    assert (mask[20:] == NO_VALUE).all()  # padded


def test_nan_is_no_value(tmp_path: Path) -> None:
    write_images(tmp_path, "a", "b", "c")
    raw = np.full((32, 32), 1.5, np.float32)
    raw[0, :3] = (np.nan, np.inf, -1e9)
    for name in "abc":
        write_tif(tmp_path / "masks" / f"{name}.tif", raw)
    mask = tiles(heights(ignore=[-1e9]), tmp_path)[0]["mask"]
    assert mask[0, :4].tolist() == [NO_VALUE, NO_VALUE, NO_VALUE, 1.5]
    assert mask.isfinite().all()


def test_training_starts_from_the_mean_of_the_target(tmp_path: Path) -> None:
    write_images(tmp_path / "data", "a", "b", "c")
    raw = np.full((32, 32), 600, np.uint16)
    raw[:16], raw[31] = 200, 65535
    for name in "abc":
        write_tif(tmp_path / "data" / "masks" / f"{name}.tif", raw)
    recipe = heights(scale=0.5, ignore=[65535])
    data = build_datamodule(recipe, tmp_path, spec=PLAIN, progress=Silent())
    assert data.target_mean == pytest.approx((16 * 100 + 15 * 300) / 31)
    model = regression().model
    start_from(model, data.target_mean)
    with torch.inference_mode():
        found = model.eval()(torch.zeros(1, 3, 32, 32)).output
    assert found.mean() == pytest.approx(data.target_mean, rel=0.05)


TRUTH = torch.tensor([[[1.0, 2.0, NO_VALUE, 4.0]]])
GUESS = torch.tensor([[[2.0, 2.0, 50.0, 1.0]]])  # errors 1, 0, 3


def regression(loss: str = "mse") -> Any:
    recipe = folder_recipe(
        task="regression", classes=[], target={"name": "height"},
        training={"backbone": "test_convnext", "decoder_channels": 8, "loss": loss},
    )  # fmt: skip
    arguments = {"decoder": "UperNetDecoder", "decoder_channels": 8}
    return build_specialist_task(recipe, arguments)


LOSSES = {"mse": 10 / 3, "mae": 4 / 3, "rmse": math.sqrt(10 / 3), "huber": (0.5 + 2.5) / 3}


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_leave_out_what_has_no_value(loss: str) -> None:
    criterion = regression(loss).criterion
    assert float(criterion(GUESS, TRUTH)) == pytest.approx(LOSSES[loss], rel=1e-4)
    nothing = GUESS.clone().requires_grad_()
    criterion(nothing, torch.full_like(TRUTH, NO_VALUE)).backward()
    assert (nothing.grad == 0).all()


def test_scores_of_values_leave_out_what_has_none() -> None:
    scores = regression().test_metrics[0]
    scores.update(GUESS, TRUTH)
    found = {name.removeprefix("test/"): float(v) for name, v in scores.compute().items()}
    spread = sum((value - 7 / 3) ** 2 for value in (1, 2, 4))
    assert found["RMSE"] == pytest.approx(math.sqrt(10 / 3))
    assert found["MAE"] == pytest.approx(4 / 3)
    assert found["R2_Score"] == pytest.approx(1 - 10 / spread, rel=1e-4)


def test_a_split_without_any_value_has_no_score() -> None:
    scores = regression().test_metrics[0]
    scores.update(GUESS, torch.full_like(TRUTH, NO_VALUE))
    assert all(math.isnan(float(value)) for value in scores.compute().values())


def test_scores_of_labels_by_hand() -> None:
    recipe = multilabel({}, training={"backbone": "test_convnext"})
    scores = build_specialist_task(recipe, {"decoder": "IdentityDecoder"}).test_metrics[0]
    logits = torch.tensor([[2.0, -1, 1], [1.0, 1, -2], [-1.0, -2, -1]])
    batch = {"label": torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 0, 1]])}
    scores.update(answers("multilabel", logits), truths("multilabel", batch))
    found = {name.removeprefix("test/"): float(v) for name, v in scores.compute().items()}
    # Ranked by score: water 1 0 1, wood 1 0 0, town 0 1 0.
    assert found["mAP"] == pytest.approx(((1 + 2 / 3) / 2 + 1 + 1 / 2) / 3)
    # Of 4 found and 4 there, 2 agree; by class: 1 of 2 and 2, 1 of 1 and 1, 0 of 1 and 1.
    assert found["Multilabel_F1_Score_Micro"] == pytest.approx(2 * 2 / 8)
    assert found["Multilabel_F1_Score"] == pytest.approx((2 / 4 + 1 + 0) / 3)


# ------------------------------------------------------------------------------ two dates


def change(**changes: Any) -> Recipe:
    images = {
        "after": {"path": "B/{id}.tif", "bands": ["nir", "red"], "date": 2},
        "before": {"path": "A/{id}.tif", "bands": ["red", "nir"], "date": 1},
    }
    return folder_recipe(task="change", dataset={"images": images}, **changes)


def write_dates(root: Path, shape: tuple[int, int] = (48, 48)) -> None:
    """Both dates hold a pixel's place, plus 10000 for nir and 100000 for the second date."""
    place = np.arange(shape[0] * shape[1], dtype=np.float32).reshape(shape)
    for name in "abc":
        write_tif(root / "A" / f"{name}.tif", np.stack([place, place + 10_000]))
        write_tif(root / "B" / f"{name}.tif", np.stack([place + 110_000, place + 100_000]))
        write_tif(root / "masks" / f"{name}.tif", (place % 2).astype(np.uint8))


@pytest.mark.parametrize("train", ["random", "grid"])
def test_both_dates_are_cut_and_turned_alike(tmp_path: Path, train: str) -> None:
    write_dates(tmp_path)
    dataset = tiles(change(tile={"size": 32, "train": train}), tmp_path, augment=True)
    for epoch in range(5):
        sample = dataset[epoch, 0]
        image = sample["image"]
        assert image.shape == (2, 2, 32, 32)  # bands, dates
        place = image[1, 0]
        assert place.max() - 10_000 < 48 * 48
        assert torch.equal(image[0, 0], place - 10_000)
        assert torch.equal(image[0, 1], place + 90_000)
        assert torch.equal(image[1, 1], place + 100_000)
        assert torch.equal(sample["mask"], (place % 2).long())


def test_statistics_are_those_of_both_dates(tmp_path: Path) -> None:
    write_dates(tmp_path / "data")
    recipe = change().model_copy(update={"statistics": None})
    data = build_datamodule(recipe, tmp_path, spec=PLAIN, progress=Silent())
    red = np.concatenate([np.arange(48 * 48), np.arange(48 * 48) + 100_000])
    assert data.recipe.statistics["red"].mean == pytest.approx(red.mean())
    assert data.recipe.statistics["red"].std == pytest.approx(red.std())


class Pyramid(nn.Module):
    """Two levels that tell the dates apart."""

    out_channels = (3, 3)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [x, x[..., ::2, ::2] * 2]


@pytest.mark.parametrize("pooling", ["diff", "concat"])
def test_two_dates_are_joined_as_terratorch_joins_them(pooling: Any) -> None:
    x = torch.randn(2, 3, 2, 8, 8)
    ours, theirs = (
        TwoDates(Pyramid(), pooling),
        TemporalWrapper(Pyramid(), pooling=pooling, n_timestamps=2),
    )
    assert ours.out_channels == theirs.out_channels
    for one, other in zip(ours(x), theirs(x), strict=True):
        torch.testing.assert_close(one, other)
    narrow = ours(torch.randn(2, 3, 2, 2, 2))[1]
    assert narrow.shape == (2, 3 if pooling == "diff" else 6, 1, 1)


# ------------------------------------------------------------------------------ maps of values


class Levels(nn.Module):
    """Gives the first band back as the value."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, 0]


def value_model(**target: Any) -> Any:
    manifest = ModelManifest.model_validate(
        {
            "recipe": "heights", "title": "Heights", "task": "regression", "bands": ["red"],
            "statistics": {"red": {"mean": 0.0, "std": 1.0}},
            "target": {"name": "height", "unit": "m", **target},
            "ignore_index": 255, "tile_size": 64, "encoder": {}, "decoder": {"name": "d"},
            "specialists": [{"name": "s", "backbone": "x", "in_chans": 1, "bands": ["red"]}],
        }
    )  # fmt: skip
    return SimpleNamespace(manifest=manifest, module=Levels())


def test_values_blend_without_seams_and_stay_in_their_range(tmp_path: Path) -> None:
    raw = np.add.outer(np.linspace(-3, 3, 150), np.linspace(0, 3, 200)).astype(np.float32)
    raw[:5, :7] = -9999
    write_tif(tmp_path / "a.tif", raw, nodata=-9999)
    spec = PredictSpec((tmp_path / "a.tif",), root=tmp_path, bands="red", window=64)
    result = predict(spec, fitted=value_model(min=0, max=4))[0].result
    with rasterio.open(result.output) as found:
        values, valid = found.read(1), found.read_masks(1) > 0
    assert result.windows > 1
    np.testing.assert_array_equal(valid, raw != -9999)
    np.testing.assert_allclose(values[valid], raw[valid].clip(0, 4), atol=1e-5)
    assert (result.values.min, result.values.max) == pytest.approx((0, 4))
    assert result.nodata_share == pytest.approx(35 / raw.size)


def test_a_scene_without_values_has_no_summary(tmp_path: Path) -> None:
    write_tif(tmp_path / "a.tif", np.zeros((40, 40), np.float32), nodata=0)
    spec = PredictSpec((tmp_path / "a.tif",), root=tmp_path, bands="red")
    result = predict(spec, fitted=value_model())[0].result
    assert (result.values, result.nodata_share) == (None, 1)
    assert result.quicklook.read_bytes().startswith(b"\x89PNG")


# ------------------------------------------------------------------------------ recipes


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "no table": ({"task": "multilabel", "classes": CLASSES}, "multilabel needs a table"),
    "no target": ({"task": "regression", "classes": []}, "regression needs to know it"),
    "classes and target": (
        {"task": "regression", "target": {"name": "x"}},
        "regression has a target instead",
    ),
    "target of classes": ({"target": {"name": "x"}}, "for 'task: regression'"),
    "range": (
        {"task": "regression", "classes": [], "target": {"name": "x", "min": 2, "max": 1}},
        "min is to be less",
    ),
    "no date": ({"task": "change"}, "which image is of which date"),
    "date": (
        {"dataset": {"images": {"rgb": {"path": "{id}.tif", "bands": ["red"], "date": 1}}}},
        "dates are for 'task: change'",
    ),
    "pooling": ({"pooling": "concat"}, "pooling: this joins the two dates"),
    "loss": ({"training": {"loss": "mse"}}, "'mse' is for other tasks; segmentation takes"),
    "scale": (
        {"dataset": {"masks": {"path": "masks/{id}.tif", "scale": 0.1}}},
        "masks.scale: this is for 'task: regression'",
    ),
    "column of no table": ({"dataset": {"split": BY_COLUMN}}, "'by: column' needs the table"),
    "table of no use": ({"dataset": {"labels": {"path": "a.csv", "id": "id"}}}, "nothing reads it"),
    "table outside": (
        {"dataset": {"labels": {"path": "../a.csv", "id": "id"}}},
        "stays inside it",
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_keys_that_do_not_go_together(mistake: str) -> None:
    changes, message = MISTAKES[mistake]
    with pytest.raises(ValueError, match=message):
        folder_recipe(**changes)


def test_only_one_date_has_a_band() -> None:
    images = {
        "before": {"path": "A/{id}.tif", "bands": ["red", "nir"], "date": 1},
        "after": {"path": "B/{id}.tif", "bands": ["red"], "date": 2},
    }
    with pytest.raises(ValueError, match="only one of the two dates has nir"):
        folder_recipe(task="change", dataset={"images": images})


def test_each_task_has_its_usual_loss() -> None:
    assert change().training.loss == "ce"
    assert multilabel({}).fit.loss == "bce"
    assert heights().training.loss == "mse"
    assert change().pooling == "diff"
