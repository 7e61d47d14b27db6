"""Many sets of specialists at a time: the same as running each set, from sums and from a store."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from eosfm_cli.coalitions import Coalition, coalitions_of, comparisons
from eosfm_cli.commands.app import main
from eosfm_cli.data.datamodule import TileDataModule, build_datamodule
from eosfm_cli.ensemble.encoder import EnsembleEncoder
from eosfm_cli.manifest import DecoderInfo
from eosfm_cli.progress import Silent
from eosfm_cli.recipe import Recipe
from eosfm_cli.training import variants
from eosfm_cli.training.coalition_scores import CoalitionScores, score_coalitions
from eosfm_cli.training.decoding import Decoder, dates_as_batch
from eosfm_cli.training.feature_store import FeatureStore
from eosfm_cli.training.model import inner_encoder, open_model
from eosfm_cli.training.pooled_features import takes_means_only
from eosfm_cli.training.variants import Variants
from tests.fits import SPECIALISTS, UPERNET, random_model, tiny_recipe, write_fit
from tests.tiny import write_scenes

SUBSETS = [
    frozenset(some)
    for size in range(len(SPECIALISTS) + 1)
    for some in itertools.combinations(SPECIALISTS, size)
]
NORMALISERS = ("none", "batch", "layer")
GATES = ("none", "weights", "smooth", "search")
IDENTITY = DecoderInfo(name="IdentityDecoder", arguments={})


def images(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


def by_running(model: torch.nn.Module, x: Tensor, some: Coalition) -> Tensor:
    """What the model gives without the others, computed for this set alone."""
    encoder: EnsembleEncoder = inner_encoder(model)
    features = encoder.encode(dates_as_batch(x))
    return Decoder(model)(x, encoder.combine(features, without=set(encoder.names) - some))


def all_at_once(model: torch.nn.Module, x: Tensor) -> tuple[Tensor, list[int]]:
    """What the model gives with every set, and how many images were decoded at a time."""
    found, sizes = {}, []
    features = inner_encoder(model).encode(dates_as_batch(x))
    for part in Variants(model, SUBSETS).outputs(x, features):
        sizes.append(len(part.coalitions) * len(part.tiles))
        for i, j in itertools.product(range(len(part.coalitions)), range(len(part.tiles))):
            found[part.coalitions[i], part.tiles[j]] = part.output[i, j]
    keys = itertools.product(range(len(SUBSETS)), range(len(x)))
    return torch.stack([found.pop(key) for key in keys]).unflatten(0, (-1, len(x))), sizes


def assert_same(found: Tensor, wanted: Tensor) -> None:
    """Equal up to the rounding of a sum in another order."""
    assert found.shape == wanted.shape
    assert (found - wanted).norm() <= 1e-6 * wanted.norm()


@pytest.mark.parametrize(
    ("fusion", "normalize", "gates"),
    [
        *itertools.product(["conv1x1"], NORMALISERS, GATES),
        *(
            (fusion, NORMALISERS[(i + j) % 3], GATES[(i + 2 * j) % 4])
            for i, fusion in enumerate(("concat", "mlp", "addition", "multiplication"))
            for j in range(2)
        ),
    ],
)
@torch.inference_mode()
def test_all_sets_at_once_give_what_each_gives(fusion: str, normalize: str, gates: str) -> None:
    # `rgb` has two views. Behind projections normalisers and gates cannot be folded into fusions.
    options = {"fusion": fusion, "normalize": normalize, "gates": gates, "top_k": 2}
    project = gates == "smooth" and normalize == "layer"
    model = random_model(tiny_recipe(), SPECIALISTS, UPERNET, project=project, **options)
    x = images(2, 6, 32, 32)
    wanted = torch.stack([by_running(model, x, some) for some in SUBSETS])
    found, _ = all_at_once(model, x)
    assert_same(found, wanted)
    assert_same(found[-1], model(x).output)
    assert len({round(float(one.norm()), 4) for one in found}) == len(SUBSETS)  # all differ
    inner_encoder(model).freeze()
    inner_encoder(model).fold()
    assert_same(all_at_once(model, x)[0], wanted)


@pytest.mark.parametrize("most", [1, 3, 1000])
@pytest.mark.parametrize("fusion", ["concat", "conv1x1"])
@torch.inference_mode()
def test_no_more_images_are_decoded_at_a_time_than_fit(
    fusion: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(variants._PIXELS, "cpu", most * 32 * 32)
    model = random_model(tiny_recipe(), SPECIALISTS, UPERNET, fusion=fusion)
    x = images(5, 6, 32, 32)
    found, sizes = all_at_once(model, x)
    assert max(sizes) <= most
    assert len(sizes) <= 2 * -(-sum(sizes) // most)  # and not many fewer
    assert_same(found, torch.stack([by_running(model, x, some) for some in SUBSETS]))


@pytest.mark.parametrize(("fusion", "pooling"), [("concat", "diff"), ("mlp", "concat")])
@torch.inference_mode()
def test_two_dates_stay_together(fusion: str, pooling: str) -> None:
    recipe = tiny_recipe().model_copy(update={"task": "change", "pooling": pooling})
    model = random_model(recipe, SPECIALISTS, UPERNET, fusion=fusion)
    x = images(3, 6, 2, 32, 32)
    found, _ = all_at_once(model, x)
    assert_same(found, torch.stack([by_running(model, x, some) for some in SUBSETS]))
    assert_same(found[-1], model(x).output)


@pytest.mark.parametrize(
    ("task", "decoder"), [("classification", IDENTITY), ("regression", UPERNET)]
)
@torch.inference_mode()
def test_whole_images_and_values(task: str, decoder: DecoderInfo) -> None:
    recipe = tiny_recipe().model_copy(update={"task": task})
    if task == "regression":
        recipe = recipe.model_copy(update={"classes": ()})
    model = random_model(recipe, SPECIALISTS, decoder, fusion="conv1x1")
    x = images(3, 6, 32, 32)
    found, _ = all_at_once(model, x)
    assert found.shape[2:] == ((3,) if task == "classification" else (32, 32))
    assert_same(found, torch.stack([by_running(model, x, some) for some in SUBSETS]))


@torch.inference_mode()
def test_a_specialist_that_does_not_run_adds_nothing() -> None:
    model = random_model(tiny_recipe(), SPECIALISTS, UPERNET, fusion="conv1x1")
    inner_encoder(model).left_out = frozenset({1})
    x = images(2, 6, 32, 32)
    found, _ = all_at_once(model, x)
    by = {some: one for some, one in zip(SUBSETS, found, strict=True)}
    assert_same(by[frozenset({"rgb", "nir"})], by[frozenset({"rgb"})])
    assert_same(found[-1], model(x).output)


# ------------------------------------------------------------------------------ from a store


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fit and its data, with a store of features that is empty."""
    monkeypatch.setenv("EOSFM_FEATURES", str(tmp_path / "features"))
    monkeypatch.chdir(tmp_path)
    write_scenes(tmp_path / "data" / "tiny")
    recipe = tiny_recipe(fit={"workers": 0, "batch_size": 2, "cache": "disk"})
    write_fit(tmp_path / "experiments/fit/tiny/1", recipe, fusion="conv1x1")
    return tmp_path / "experiments/fit/tiny/1"


def opened(run: Path) -> tuple[torch.nn.Module, Recipe, TileDataModule]:
    recipe = tiny_recipe(fit={"workers": 0, "batch_size": 2, "cache": "disk"})
    data = build_datamodule(recipe, Path("data"), spec=recipe.fit, progress=Silent())
    data.setup("test")
    return open_model(run / "model.safetensors")[1], recipe, data


def store_test_split(run: Path) -> FeatureStore:
    model, recipe, data = opened(run)
    store = FeatureStore.of(recipe.fit, Silent())
    assert store.ensure(inner_encoder(model), data, ["test"])
    return store


def scores(run: Path, store: FeatureStore | None = None) -> tuple[CoalitionScores, list[int]]:
    """Scores of each specialist alone, and how many batches `nir` has encoded."""
    model, recipe, data = opened(run)
    encoder: EnsembleEncoder = inner_encoder(model)
    stored = data if store is None else store.stored(encoder, data, ["test"])
    encoder.fold()
    batches: list[int] = []
    encoder.backbones[1].register_forward_hook(lambda *_: batches.append(1))
    found = score_coalitions(
        model,
        recipe,
        stored,
        coalitions_of(comparisons("leave-one-out", list(SPECIALISTS))),
        device=torch.device("cpu"),
        images=None if store is None else data,
        progress=Silent(),
    )
    return found, batches


def test_stored_features_score_what_images_score(project: Path) -> None:
    plain, encoded = scores(project)
    assert len(encoded) == 4  # of two tiles each
    stored, encoded = scores(project, store_test_split(project))
    assert len(encoded) == 2  # to take the time
    assert plain.scores.keys() == stored.scores.keys()
    for one, score in plain.scores.items():
        assert float(stored.scores[one][0]) == pytest.approx(float(score[0]), abs=2e-3)
    assert set(stored.seconds) == set(SPECIALISTS)
    assert min(stored.seconds.values()) > 0
    assert sum(stored.seconds.values()) < stored.full_seconds


@torch.no_grad()
def test_of_whole_images_two_pixels_are_enough(project: Path) -> None:
    # Only the shape of the data counts here: the classifier is asked what it makes of the tiles.
    _, recipe, data = opened(project)
    classifier = recipe.model_copy(update={"task": "classification"})
    model = random_model(classifier, SPECIALISTS, IDENTITY, fusion="conv1x1")
    encoder: EnsembleEncoder = inner_encoder(model)
    encoder.freeze()
    store = FeatureStore.of(recipe.fit, Silent())
    assert takes_means_only(model)
    assert store.ensure(encoder, data, ["test"], pooled=True)
    wanted = [all_at_once(model, batch["image"])[0] for batch in data.test_dataloader()]
    encoder.fold()
    sets = Variants(model, SUBSETS)
    for batch, want in zip(
        store.stored(encoder, data, ["test"], pooled=True).test_dataloader(), wanted, strict=True
    ):
        image = batch["image"]
        found = [part.output for part in sets.outputs(image.like, image.features())]
        torch.testing.assert_close(torch.cat(found), want, rtol=5e-3, atol=5e-3)


def ablation(capsys: pytest.CaptureFixture[str]) -> tuple[Mapping[str, Any], str]:
    capsys.readouterr()
    assert main(["ablate", "--json"]) == 0
    out, err = capsys.readouterr()
    return json.loads(out), err


def test_ablate_reads_what_the_fit_has_stored(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, said = ablation(capsys)
    assert "each tile is encoded once" in said
    assert not list(Path("features").rglob("*.npy"))  # for one pass nothing is stored
    store_test_split(project)
    assert list(Path("features").rglob("*.npy"))
    stored, said = ablation(capsys)
    assert "features are those that the fit has stored" in " ".join(said.split())
    for kind in (plain, stored):
        rows: Sequence[Mapping[str, Any]] = kind["rows"]
        assert 0 < sum(row["time_share"] for row in rows) < 1
        assert min(row["energy_kwh"] for row in rows) >= 0
    by = {row["specialist"]: row for row in plain["rows"]}
    for row in stored["rows"]:
        assert row["metric"] == pytest.approx(by[row["specialist"]]["metric"], abs=2e-3)
