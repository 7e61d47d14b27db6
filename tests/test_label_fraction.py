"""A share of the training labels: how many, of which images and classes, and nothing else."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from eosfm_cli.data.datamodule import TileDataModule, build_datamodule
from eosfm_cli.data.scarcity import draw_share, keep_labels, with_every_class
from eosfm_cli.progress import Silent
from eosfm_cli.recipe import load_recipe
from tests.rasters import write_tif
from tests.test_tasks import pixels, write_classification, write_multilabel
from tests.tiny import RECIPE, write_scenes

strata = st.lists(st.sampled_from("abcd"), min_size=2, max_size=60)
shares = st.floats(0.01, 1.0)


@given(strata, shares, st.integers(0, 9))
def test_every_stratum_gives_its_share(found: list[str], share: float, seed: int) -> None:
    drawn = draw_share(found, share, seed)
    assert drawn == sorted(set(drawn)) == draw_share(found, share, seed)
    assert len(drawn) == min(len(found), max(2, round(share * len(found))))
    taken, there = Counter(found[i] for i in drawn), Counter(found)
    for one, size in there.items():
        assert abs(taken[one] - len(drawn) * size / len(found)) < 1


@given(st.lists(st.sets(st.integers(0, 5)), min_size=1, max_size=30), st.integers(0, 9))
def test_no_class_is_lost(held: list[set[int]], seed: int) -> None:
    chosen = with_every_class([0], held, seed)
    assert chosen == sorted(set(chosen))
    assert set().union(*(held[i] for i in chosen)) == set().union(*held)


def test_another_seed_draws_others() -> None:
    assert len({tuple(draw_share([0] * 50, 0.2, seed)) for seed in range(5)}) == 5


class Said(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def opened(folder: Path, raw: dict[str, Any], share: float) -> tuple[TileDataModule, str]:
    """The data of a recipe with a share of its labels, and what was said of that."""
    path = folder / "few.yaml"
    path.write_text(yaml.safe_dump(raw, sort_keys=False))
    recipe, said = load_recipe(str(path)), Said()
    data = build_datamodule(recipe, folder, spec=recipe.fit, progress=said)
    before, statistics = data.tile_counts, data.recipe.statistics
    keep_labels(data, share, seed=recipe.fit.seed, progress=said)
    for split in ("val", "test"):
        assert data.tile_counts[split] == before[split]
    assert data.recipe.statistics == statistics
    return data, said.lines[-1] if said.lines else ""


def test_of_cut_images_each_gives_its_tiles(tmp_path: Path) -> None:
    write_scenes(tmp_path / "tiny")
    data, said = opened(tmp_path, RECIPE, 0.5)
    assert said == "label fraction 0.5: 4 of 8 training tiles, from 4 of 4 images"
    assert data.tile_counts["train"] == 4
    names = [name for batch in data.train_dataloader() for name in batch["filename"]]
    assert len(set(names)) == 4


def test_where_crops_are_drawn_whole_images_stay(tmp_path: Path) -> None:
    write_scenes(tmp_path / "tiny")
    data, said = opened(tmp_path, {**RECIPE, "tile": {"size": 32, "train": "random"}}, 0.5)
    assert said == "label fraction 0.5: 2 of 4 training images"
    assert data.sample_counts["train"] == 2
    seen = {
        name for _ in range(4) for batch in data.train_dataloader() for name in batch["filename"]
    }
    assert {Path(name).stem[0] for name in seen} == {"a", "b"}  # one of either scene
    assert len(seen) == 2


def test_all_labels_are_nothing_to_speak_of(tmp_path: Path) -> None:
    write_scenes(tmp_path / "tiny")
    data, said = opened(tmp_path, RECIPE, 1)
    assert (data.tile_counts["train"], said) == (8, "")


def test_every_class_keeps_a_sample(tmp_path: Path) -> None:
    raw = write_classification(tmp_path / "classification")
    data, said = opened(tmp_path, raw, 0.1)
    assert said == "label fraction 0.1: 3 of 6 training images"
    assert {sample.label for sample in data.source.samples["train"]} == {0, 1, 2}
    labels = [label for batch in data.train_dataloader() for label in batch["label"].tolist()]
    assert sorted(labels) == [0, 1, 2]


def test_classes_keep_their_proportions(tmp_path: Path) -> None:
    raw = write_classification(tmp_path / "classification")
    images = tmp_path / "classification" / "images"
    more = [f"more-{i}" for i in range(18)]
    for i, name in enumerate(more):
        write_tif(images / "water" / f"{name}.tif", pixels(i))
    split = raw["dataset"]["split"]
    split = {**split, "train": [*split["train"], *more]}
    raw["dataset"]["split"] = split
    data, _ = opened(tmp_path, raw, 0.5)
    labels = Counter(sample.label for sample in data.source.samples["train"])
    assert labels == {0: 10, 1: 1, 2: 1}


def test_of_several_labels_none_is_lost(tmp_path: Path) -> None:
    raw = write_multilabel(tmp_path / "multilabel")
    data, _ = opened(tmp_path, raw, 0.1)
    labels = [label for sample in data.source.samples["train"] for label in sample.label]
    assert set(labels) == {0, 1, 2}
    assert len(data.source.samples["train"]) < 6


@pytest.mark.parametrize("share", [0, -0.1, 1.1])
def test_no_share_is_refused(share: float, tmp_path: Path) -> None:
    from eosfm_cli.commands.app import main

    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(RECIPE))
    words = ["fit-ensemble", str(tmp_path / "tiny.yaml"), f"--label-fraction={share}"]
    assert main(words) == 2
