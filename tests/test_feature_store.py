"""Features of frozen specialists, computed once."""

from __future__ import annotations

import copy
import csv
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

from eosfm_cli.commands.app import main
from eosfm_cli.data.datamodule import TileDataModule, build_datamodule
from eosfm_cli.data.stamps import Stamps
from eosfm_cli.ensemble.bundle import read_model, write_ensemble
from eosfm_cli.ensemble.encoder import EnsembleEncoder
from eosfm_cli.ensemble.specialist import Specialist, build_backbone
from eosfm_cli.errors import BudgetReached, DataError, ExitCode, Interrupted
from eosfm_cli.manifest import DecoderInfo, EncoderInfo, SpecialistInfo
from eosfm_cli.progress import Silent, Step
from eosfm_cli.recipe import FitSpec, Recipe, load_recipe
from eosfm_cli.run_dir import RunDir
from eosfm_cli.training import feature_files
from eosfm_cli.training.decoding import decode_stored
from eosfm_cli.training.feature_files import Entry, make_room
from eosfm_cli.training.feature_key import tiles_key, view_keys
from eosfm_cli.training.feature_store import FeatureStore
from eosfm_cli.training.model import build_model
from eosfm_cli.training.pooled_features import takes_means_only
from eosfm_cli.training.stored_features import Layout, StoredFeatures
from eosfm_cli.workflows.fit_ensemble import fit_ensemble
from tests.rasters import folder_recipe, write_sample, write_tif
from tests.test_tasks import WRITERS
from tests.tiny import RECIPE, write_scenes

SPECIALISTS = {"rgb": ("red", "green", "blue"), "nir": ("nir", "red")}


class Told(Silent):
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.steps: list[tuple[str, int]] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    warn = say

    @contextmanager
    def step(self, title: str, total: int) -> Iterator[Step]:
        self.steps.append((title, total))
        with super().step(title, total) as step:
            yield step


def random_specialist(name: str, bands: tuple[str, ...], seed: int = 0) -> Specialist:
    torch.manual_seed(seed)
    info = SpecialistInfo(name=name, backbone="test_convnext", in_chans=len(bands), bands=bands)
    return Specialist(info, build_backbone("test_convnext", len(bands)).state_dict())


def ensemble(recipe: Recipe, seed: int = 0, **options: Any) -> EnsembleEncoder:
    specialists = [random_specialist(name, ("red", "green", "blue"), seed) for name in "ab"[:1]]
    specialists += [random_specialist("b", ("green", "red"), seed + 1)]
    return EnsembleEncoder.with_weights(specialists, recipe.bands, EncoderInfo(**options))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Images of which one split gives several shards."""
    for name, shape in (("a", (288, 256)), ("b", (32, 64)), ("c", (40, 50))):
        write_sample(tmp_path / "data", name, shape)
    return tmp_path


def recipe_of(**changes: Any) -> Recipe:
    fit = {"workers": 0, "batch_size": 16, **changes.pop("fit", {})}
    statistics = {band: {"mean": 200_000, "std": 100_000} for band in ("red", "green", "blue")}
    return folder_recipe(fit=fit, statistics=statistics, **changes)


def data_of(root: Path, recipe: Recipe) -> TileDataModule:
    return build_datamodule(recipe, root, spec=recipe.fit, progress=Silent())


@pytest.fixture
def data(root: Path) -> TileDataModule:
    return data_of(root, recipe_of())


def store_in(root: Path, progress: Told | None = None, **changes: Any) -> FeatureStore:
    found = FeatureStore.of(FitSpec(cache="disk", **changes), progress or Told())
    return replace(found, folder=root / "features")


def shards(root: Path) -> list[Path]:
    return sorted((root / "features").rglob("shard-*.npy"))


def assert_holds_what_is_extracted(
    store: FeatureStore, encoder: EnsembleEncoder, data: TileDataModule
) -> None:
    """Compare both loaders of the training split, batch by batch."""
    stored, plain = store.loader(encoder, data, "train"), data.train_dataloader()
    for ours, theirs in zip(stored, plain, strict=True):
        assert ours["filename"] == theirs["filename"]
        assert torch.equal(ours["mask"], theirs["mask"])
        assert ours["image"].like.shape[-2:] == theirs["image"].shape[-2:]
        wanted = encoder.eval().extract(theirs["image"])
        assert all(map(close, flat(ours["image"].features()), flat(wanted)))


def flat(features: Any) -> list[Tensor]:
    return [level for levels in features for level in levels]


def close(one: Tensor, other: Tensor) -> bool:
    spread = other.std(dim=(0, 2, 3), keepdim=True) + 1e-6
    return bool((((one - other) / spread).abs() < 0.01).all())


# --------------------------------------------------------------------------- what is stored


def test_features_are_those_of_the_encoder_and_are_computed_once(
    root: Path, data: TileDataModule
) -> None:
    encoder, told = ensemble(data.recipe), Told()
    store = store_in(root, told)
    assert not store.holds(encoder, data, ["train"])
    assert not told.lines
    assert store.ensure(encoder, data, ["train", "val"])
    assert told.steps == [("encode tiny", 5 + 1)]
    assert_holds_what_is_extracted(store, encoder, data)
    again = store_in(root, told)
    assert again.holds(encoder, data, ["train", "val"])
    assert again.ensure(encoder, data, ["train", "val"])
    assert len(told.steps) == 1
    assert f"features of train and val are in {root / 'features'} already" in told.lines
    assert_holds_what_is_extracted(again, encoder, data)


def test_only_what_another_ensemble_adds_is_computed(root: Path, data: TileDataModule) -> None:
    encoder = ensemble(data.recipe)
    store_in(root).ensure(encoder.keep(["a"]), data, ["train"])
    before = {path: path.stat().st_mtime_ns for path in shards(root)}
    assert len(before) == 2
    store = store_in(root)
    store.ensure(encoder, data, ["train"])
    after = {path: path.stat().st_mtime_ns for path in shards(root)}
    assert len(after) == 4
    assert {path: after[path] for path in before} == before
    assert_holds_what_is_extracted(store, encoder, data)


def test_views_of_the_same_weights_share_what_is_stored(root: Path, data: TileDataModule) -> None:
    one = random_specialist("a", ("red", "green", "blue"))
    other = Specialist(one.info.model_copy(update={"name": "twin"}), one.state)
    encoder = EnsembleEncoder.with_weights([one, other], data.recipe.bands)
    store = store_in(root)
    assert store.ensure(encoder, data, ["train"])
    assert len(shards(root)) == 2
    assert_holds_what_is_extracted(store, encoder, data)


def test_channels_that_hardly_vary_are_rounded_as_finely_as_others(
    root: Path, data: TileDataModule
) -> None:
    encoder = ensemble(data.recipe)
    with torch.no_grad():  # what stands in the last layer of the finest level
        for name, parameter in encoder.backbones[0].named_parameters():
            if name.startswith("stages_0") and name.endswith("fc2.bias"):
                parameter += 1000
    store = store_in(root)
    assert store.ensure(encoder, data, ["train"])
    assert_holds_what_is_extracted(store, encoder, data)


def test_keys_tell_apart_whatever_changes_features(root: Path, data: TileDataModule) -> None:
    encoder, recipe = ensemble(data.recipe), data.recipe
    keys = set(view_keys(encoder, "32-true"))
    assert len(keys) == 2
    assert not keys & set(view_keys(ensemble(recipe, seed=5), "32-true"))
    assert not keys & set(view_keys(encoder, "bf16-mixed"))
    bands = recipe_of(bands=["blue", "green", "red"])
    assert not keys & set(view_keys(ensemble(bands), "32-true"))
    assert keys == set(view_keys(ensemble(recipe, fusion="conv1x1", normalize="none"), "32-true"))
    key, statistics = tiles_key(data, "train"), dict(recipe.statistics)
    statistics["red"] = statistics["red"].model_copy(update={"mean": 1.0})
    others = [
        recipe.with_statistics(statistics),
        recipe_of(tile={"size": 64}),
        recipe_of(tile={"size": 32, "stride": 16}),
        recipe_of(tile={"size": 32, "train": "random"}),
        recipe_of(tile={"size": 32, "train": "random"}, fit={"seed": 1}),
        bands,
    ]
    found = [tiles_key(data_of(root, other), "train") for other in others]
    assert len({key, *found}) == 1 + len(others)
    assert tiles_key(data_of(root, recipe_of(fit={"seed": 1, "lr": 0.5})), "train") == key
    os.utime(root / "data/images/a.tif", (1, 1))
    assert tiles_key(data, "train") != key


def test_keys_depend_on_all_files_that_pixels_come_from(root: Path, data: TileDataModule) -> None:
    seen = {tiles_key(data, "train")}
    image = root / "data/images/a.tif"
    for ending in (".aux.xml", ".msk"):
        image.with_name(f"a.tif{ending}").touch()
        seen.add(tiles_key(data, "train"))
    assert len(seen) == 3

    source = image.rename(root / "whole.tif")
    inner, outer = root / "inner.vrt", image.with_suffix(".vrt")
    for vrt, of in ((inner, source), (outer, inner)):
        vrt.write_text(
            '<VRTDataset rasterXSize="8" rasterYSize="8"><VRTRasterBand dataType="Byte" band="1">'
            f"<SimpleSource><SourceFilename>{of}</SourceFilename></SimpleSource>"
            "</VRTRasterBand></VRTDataset>"
        )
    stamps = Stamps().of(outer)
    assert [path for path, *_ in stamps] == [str(outer), str(inner), str(source)]
    os.utime(source, (1, 1))
    assert Stamps().of(outer) != stamps


def test_crops_drawn_by_label_depend_on_whose_labels_count(tmp_path: Path) -> None:
    write_tif(tmp_path / "data/images/a.tif", np.zeros((1, 64, 64), np.uint8))
    write_tif(tmp_path / "data/masks/a.tif", np.ones((64, 64), np.uint8))
    fields = np.arange(16, dtype=np.uint8).repeat(4)[:, None].repeat(64, axis=1)
    write_tif(tmp_path / "data/fields/a.tif", fields + 1)

    def drawn(seed: int) -> TileDataModule:
        dataset = {
            "images": {"pan": {"path": "images/{id}.tif", "bands": ["pan"]}},
            "split": {"by": "area", "path": "fields/{id}.tif", "seed": seed},
        }
        tile = {"size": 32, "train": "random", "unlabelled": "skip"}
        statistics = {"pan": {"mean": 0, "std": 1}}
        recipe = folder_recipe(dataset=dataset, tile=tile, statistics=statistics)
        return build_datamodule(recipe, tmp_path, spec=FitSpec(workers=0), progress=Silent())

    one, other = drawn(0), drawn(1)
    assert one.source.areas["train"] != other.source.areas["train"]
    assert one.tile_counts["train"] == other.tile_counts["train"] == 4
    assert tiles_key(one, "train") != tiles_key(other, "train")
    assert tiles_key(one, "train") == tiles_key(drawn(0), "train")


def test_random_crops_are_the_same_in_every_epoch_unless_augmented(root: Path) -> None:
    def crops(**fit: Any) -> list[Tensor]:
        tile = {"size": 32, "train": "random"}
        tiles = data_of(root, recipe_of(tile=tile, fit=fit)).dataset("train")
        return [tiles[epoch, 7]["image"] for epoch in range(2)]

    first, second = crops()
    assert torch.equal(first, second)
    first, second = crops(augment=True)
    assert not torch.equal(first, second)


# --------------------------------------------------------------------------- means alone


def classifier(**options: Any) -> nn.Module:
    """A model around an ensemble whose weights are random."""
    torch.manual_seed(0)
    specialists = [random_specialist(n, b, seed) for seed, (n, b) in enumerate(SPECIALISTS.items())]
    bands = ("red", "green", "blue", "nir")
    encoder = EnsembleEncoder.with_weights(specialists, bands, EncoderInfo(**options))
    decoder = DecoderInfo(name="IdentityDecoder", arguments={})
    return build_model(encoder, task="classification", decoder=decoder, classes=3)


@pytest.mark.parametrize(
    "options",
    [
        {"fusion": "conv1x1"},
        {"fusion": "concat", "normalize": "layer"},
        {"fusion": "addition", "normalize": "none", "gates": "search"},
        {"fusion": "conv1x1", "gates": "smooth", "top_k": 1},
    ],
)
def test_two_pixels_stand_for_all_where_a_model_takes_means(options: dict[str, Any]) -> None:
    plain = classifier(**options).train()
    assert takes_means_only(plain)
    pooled = copy.deepcopy(plain)
    encoder: EnsembleEncoder = pooled.encoder
    for step in range(3):
        x = torch.randn(4, 4, 64, 96, generator=torch.Generator().manual_seed(step))
        levels = encoder.extract(x)
        layouts = tuple(Layout.of(level, 1, pooled=True) for level in levels)
        rows = tuple(layout.pack(level) for layout, level in zip(layouts, levels, strict=True))
        stored = StoredFeatures(rows, layouts, 64)
        output = decode_stored(pooled, stored).output
        assert torch.allclose(output, plain(x).output, atol=3e-3)
    numbers = sum(level[0].numel() for level in flat(levels))
    assert sum(row[0].numel() for row in rows) < 0.03 * numbers
    ours, theirs = pooled.state_dict(), plain.state_dict()
    for name in theirs:
        if not re.fullmatch(r"encoder\.normalisers\.\d+\.[012]\..+", name):  # nobody looks at them
            assert torch.allclose(ours[name], theirs[name], rtol=2e-3, atol=1e-4), name


@pytest.mark.parametrize(
    "options",
    [{"fusion": "mlp"}, {"fusion": "multiplication"}, {"fusion": "conv1x1", "project": True}],
)
def test_other_models_take_all_pixels(options: dict[str, Any]) -> None:
    assert not takes_means_only(classifier(**options))


# --------------------------------------------------------------------------- what goes wrong


def damage(path: Path, how: str) -> None:
    if how == "cut":
        os.truncate(path, path.stat().st_size - 2)
    elif how == "byte":
        with path.open("r+b") as file:
            file.seek(-7, os.SEEK_END)
            file.write(b"\x11\x22")
    elif how == "gone":
        path.unlink()
    else:
        (path.parent / "entry.json").write_text("{")


@pytest.mark.parametrize("how", ["cut", "byte", "gone", "entry"])
def test_what_is_damaged_is_computed_again(how: str, root: Path, data: TileDataModule) -> None:
    encoder = ensemble(data.recipe)
    store_in(root).ensure(encoder, data, ["train"])
    damage(shards(root)[1], how)
    told = Told()
    store = store_in(root, told)
    assert not store.holds(encoder, data, ["train"])
    assert store.ensure(encoder, data, ["train"])
    assert told.steps == [("encode tiny", 5 if how == "entry" else 1)]
    assert_holds_what_is_extracted(store, encoder, data)


@pytest.mark.parametrize("end", [BudgetReached("spent"), Interrupted(ExitCode.INTERRUPTED)])
def test_what_was_finished_before_the_end_stays(
    end: BaseException, root: Path, data: TileDataModule
) -> None:
    encoder, batches = ensemble(data.recipe), iter(range(4))

    def stop() -> None:
        if next(batches, None) is None:
            raise end

    with pytest.raises(type(end)):
        store_in(root).ensure(encoder, data, ["train"], check=stop)
    assert len(shards(root)) == 2
    assert not list((root / "features").rglob(".shard*"))
    told = Told()
    assert store_in(root, told).ensure(encoder, data, ["train"])
    assert told.steps == [("encode tiny", 1)]


def test_a_run_that_is_killed_leaves_what_it_finished(root: Path, data: TileDataModule) -> None:
    encoder, batches = ensemble(data.recipe), iter(range(3))

    def kill() -> None:
        if next(batches, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        store_in(root).ensure(encoder, data, ["train"], check=kill)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert not shards(root)
    assert len(list((root / "features").rglob(".shard*"))) == 2
    store = store_in(root)
    assert store.ensure(encoder, data, ["train"])
    assert not list((root / "features").rglob(".shard*"))
    assert_holds_what_is_extracted(store, encoder, data)


def test_a_folder_that_is_deleted_meanwhile(
    root: Path, data: TileDataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_files, "_SMALL", 0)  # small ones are in memory by then
    encoder, store = ensemble(data.recipe), store_in(root)
    assert store.ensure(encoder, data, ["train"])
    batches = iter(store.loader(encoder, data, "train"))
    next(batches)
    shutil.rmtree(root / "features")
    with pytest.raises(DataError, match="cannot be read any more"):
        next(batches)
    assert store.ensure(encoder, data, ["train"])
    assert_holds_what_is_extracted(store, encoder, data)


def test_a_place_that_cannot_be_written(root: Path, data: TileDataModule) -> None:
    (root / "features").write_text("a file")
    told = Told()
    assert not store_in(root, told).ensure(ensemble(data.recipe), data, ["train"])
    (line,) = told.lines
    assert "features are not kept but computed in every epoch" in line
    assert "cannot be written: Not a directory" in line


def test_a_disk_that_fills_up(root: Path, data: TileDataModule) -> None:
    told, limits = Told(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        assert not store_in(root, told).ensure(ensemble(data.recipe), data, ["train"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "cannot be written: File too large" in told.lines[-1]
    assert not list((root / "features").rglob(".shard*"))


def test_numbers_too_large_for_halves(root: Path, data: TileDataModule) -> None:
    encoder, told = ensemble(data.recipe), Told()
    with torch.no_grad():
        encoder.backbones[1].stem_0.weight[:] = float("inf")
    assert not store_in(root, told).ensure(encoder, data, ["train"])
    assert "too large for half precision (b, by name: tiny train)" in told.lines[-1]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda encoder: encoder.unfreeze(), "the encoder learns"),
        (None, "--augment draws new tiles in every epoch"),
    ],
)
def test_what_changes_all_the_time_is_not_stored(root: Path, change: Any, reason: str) -> None:
    data = data_of(root, recipe_of(fit={"augment": change is None}))
    encoder, told = ensemble(data.recipe), Told()
    if change:
        change(encoder)
    store = store_in(root, told)
    assert not store.ensure(encoder, data, ["train"])
    assert told.lines == [f"features are not kept but computed in every epoch: {reason}"]
    assert not (root / "features").exists()


# --------------------------------------------------------------------------- room


def test_those_used_longest_ago_make_room(root: Path, data: TileDataModule) -> None:
    first, second, third = (ensemble(data.recipe, seed) for seed in (0, 10, 20))
    stores = [store_in(root), store_in(root)]
    assert stores[0].ensure(first, data, ["train"])
    assert stores[1].ensure(second, data, ["train"])
    whole = sum(path.stat().st_size for path in (root / "features").rglob("*"))
    places = {path.parent for path in shards(root)}
    in_use = {entry.folder for entry in stores[1]._entries.values()}
    for place in places:
        os.utime(place / "entry.json", (1, 1))
    small = store_in(root, cache_size=f"{int(whole * 1.1)}B")
    told = small.progress
    del stores[0]  # its process lets go of what it used
    assert small.ensure(third, data, ["train"]), told.lines
    left = {path.parent for path in shards(root)}
    assert in_use <= left
    assert len(left & places) == 2
    assert len(left) == 4


def test_more_than_there_may_be_is_not_stored(root: Path, data: TileDataModule) -> None:
    told = Told()
    store = store_in(root, told, cache_size="10kB")
    assert not store.ensure(ensemble(data.recipe), data, ["train"])
    assert "do not fit into 0.01 MB (--cache-size)" in told.lines[-1]
    assert not shards(root)


def test_no_room_while_everything_is_in_use(root: Path, data: TileDataModule) -> None:
    store = store_in(root)
    store.ensure(ensemble(data.recipe), data, ["train"])
    problem = make_room(root / "features", 10**6, 10**6, ())
    assert problem is not None
    assert "of --cache-size 1 MB" in problem
    assert len(shards(root)) == 4


def test_nothing_is_deleted_where_that_makes_no_room(root: Path, data: TileDataModule) -> None:
    store = store_in(root)
    store.ensure(ensemble(data.recipe), data, ["train"])
    store.close()
    problem = make_room(root / "features", 10**17, 10**18, ())
    assert problem is not None
    assert "do not fit on the disk" in problem
    assert len(shards(root)) == 4
    assert make_room(root / "features", 10**6, 10**6, ()) is None
    assert not shards(root)


def test_two_runs_do_not_compute_the_same(root: Path, data: TileDataModule) -> None:
    encoder, told = ensemble(data.recipe), Told()
    store_in(root).ensure(encoder, data, ["train"])
    place = shards(root)[0]
    other, whole = Entry(place.parent), place.read_bytes()
    place.unlink()
    result: list[bool] = []
    with other.writing(lambda: None):
        store = store_in(root, told)
        run = threading.Thread(target=lambda: result.append(store.ensure(encoder, data, ["train"])))
        run.start()
        run.join(1)
        assert run.is_alive()
        place.write_bytes(whole)
    run.join(30)
    assert result == [True]
    assert told.lines[0] == "another run computes the same features: this one waits for them"
    assert not told.steps


# --------------------------------------------------------------------------- fits


def write_project(folder: Path, task: str) -> None:
    """Data, a recipe and an ensemble of untrained specialists."""
    if task == "segmentation":
        write_scenes(folder / "data" / "tiny")
        recipe = RECIPE
    else:
        recipe = WRITERS[task](folder / "data" / task)
    fit = {**recipe["fit"], "epochs": 2, "ensemble": "all.safetensors", "fusion": "conv1x1"}
    (folder / "tiny.yaml").write_text(yaml.safe_dump({**recipe, "fit": fit}, sort_keys=False))
    specialists = [random_specialist(name, bands) for name, bands in SPECIALISTS.items()]
    write_ensemble(folder / "all.safetensors", specialists)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EOSFM_FEATURES", str(tmp_path / "features"))
    write_project(tmp_path, "segmentation")
    return tmp_path


def fitted(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[RunDir, str]:
    """Fit with these options: its run, and what was told."""
    capsys.readouterr()
    code = main(["fit-ensemble", "tiny.yaml", "--json", *words])
    out, err = capsys.readouterr()
    assert code == 0, err
    return RunDir(Path(json.loads(out)["run"])), " ".join(err.split())


def history(run: RunDir) -> list[dict[str, str]]:
    with run.metrics.open(newline="") as file:
        return list(csv.DictReader(file))


def assert_same_fit(one: RunDir, other: RunDir, tolerance: float = 2e-2) -> None:
    """Compare the losses of every epoch, and the weights that came of it."""
    for mine, theirs in zip(history(one), history(other), strict=True):
        for key in ("train/loss", "val/loss", "lr"):
            assert float(mine[key]) == pytest.approx(float(theirs[key]), rel=tolerance)
    (manifest, ours), (_, others) = read_model(one.model), read_model(other.model)
    assert list(ours) == list(others)
    # A decoder that looks at the coarsest level alone leaves the normalisers of others as they are.
    unseen = r".*\.normalisers\.\d+\.[0-2]\." if manifest.decoder.name == "IdentityDecoder" else "$"
    for name, tensor in ours.items():
        if tensor.is_floating_point() and not re.match(unseen, name):
            assert torch.allclose(tensor, others[name], rtol=0.05, atol=0.01), name


@pytest.mark.parametrize(
    "task",
    [
        pytest.param("segmentation", marks=pytest.mark.slow),
        "classification",
        pytest.param("multilabel", marks=pytest.mark.slow),
        pytest.param("regression", marks=pytest.mark.slow),
        "change",
    ],
)
def test_a_fit_is_the_same_with_and_without(
    task: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_project(project, task)
    plain, told = fitted(capsys, "--cache", "off")
    assert "features" not in told
    stored, told = fitted(capsys, "--cache", "disk")
    assert f"in {project / 'features'}; computing them takes about" in told
    assert shards(project)
    assert_same_fit(plain, stored)


def test_search_and_fit_share_features_in_memory(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--top-k", "1", "--cache", "memory"]
    _, told = fitted(capsys, *words)
    assert told.count("features of train and val take") == 1
    assert "features of train and val are in memory already" in told
    assert not (project / "features").exists()


class StopsAfter(Told):
    """Ctrl-C in the epoch after this one."""

    def __init__(self, epoch: int) -> None:
        super().__init__()
        self.epoch, self.over = epoch, False

    @contextmanager
    def step(self, title: str, total: int) -> Iterator[Step]:
        yield self

    def advance(self, amount: int = 1, *, note: str = "") -> None:
        if amount and self.over:
            raise Interrupted(ExitCode.INTERRUPTED)
        self.over = self.over or note.startswith(f"epoch {self.epoch}/")


@pytest.mark.parametrize(("before", "after"), [("off", "disk"), ("disk", "off")])
@pytest.mark.slow
def test_a_run_goes_on_with_and_without(
    before: str, after: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, _ = fitted(capsys, "--epochs", "3", "--cache", before)
    given = {"fit.epochs": 3, "fit.cache": before}
    with pytest.raises(Interrupted):
        fit_ensemble(
            load_recipe("tiny.yaml", given),
            root=Path("stopped"),
            data_root=None,
            progress=StopsAfter(1),
        )
    (stopped,) = Path("stopped/fit/tiny").iterdir()
    assert len(history(RunDir(stopped))) == 1
    assert main(["fit-ensemble", "--resume", str(stopped), "--cache", after]) == 0
    assert_same_fit(whole, RunDir(stopped))


def test_automatic_where_it_pays(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, told = fitted(capsys, "--epochs", "1")
    assert "not kept but computed in every epoch: they would be used once only" in told
    _, told = fitted(capsys)
    assert "once instead of in each of 2 epochs" in told
    assert "features of test take" in told


@pytest.mark.slow
def test_a_fit_that_cannot_use_it_says_why(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, told = fitted(capsys, "--epochs", "1", "--adapt", "learned")
    reason = "how bands are mixed is learned (--adapt learned)"
    assert f"features are not kept but computed in every epoch: {reason}" in told
    assert not (project / "features").exists()


@pytest.mark.slow
def test_a_plan_knows_what_computing_once_takes(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = ["fit-ensemble", "tiny.yaml", "--dry-run", "--json"]
    assert main(plan) == 0
    (found,) = json.loads(capsys.readouterr().out)["plans"]
    first, fit = found["phases"]
    assert (first["name"], fit["name"]) == ("encode", "fit")
    assert first["stored_bytes"] > 0
    assert first["seconds"] > 0
    assert not (project / "features").exists()
    assert main(plan[:-1]) == 0
    assert "encode once, 2 steps of" in " ".join(capsys.readouterr().out.split())
    fitted(capsys)
    assert main(plan) == 0
    (found,) = json.loads(capsys.readouterr().out)["plans"]
    assert [phase["name"] for phase in found["phases"]] == ["fit"]


@pytest.mark.parametrize("size", ["20", "many GB", "-1GB"])
def test_a_size_that_is_none(size: str, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit-ensemble", "tiny.yaml", "--set", f"fit.cache_size='{size}'"]) == 2
    assert "such as 20GB or 500MB" in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
def test_two_processes_share_the_work_and_the_result(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = []
    for cache in ("off", "memory", "disk"):
        words = ["fit-ensemble", "tiny.yaml", "--devices", "2", "--cache", cache]
        done = subprocess.run(
            [sys.executable, "-m", "eosfm_cli", *words, "--json"],
            capture_output=True,
            text=True,
            timeout=300,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stderr
        runs.append(RunDir(Path(json.loads(done.stdout)["run"])))
        assert_same_fit(runs[0], runs[-1])
    assert shards(project)
    _, told = fitted(capsys)
    assert "features of train and val are in" in told
