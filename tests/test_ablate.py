"""Ablation: what is refused before anything is computed, what is measured, and what is written."""

from __future__ import annotations

import csv
import itertools
import json
import math
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional.classification import (
    binary_average_precision,
    multiclass_accuracy,
    multiclass_jaccard_index,
)

from eosfm_cli.coalitions import coalitions_of, comparisons
from eosfm_cli.commands.app import main
from eosfm_cli.data.datamodule import TileDataModule, build_datamodule
from eosfm_cli.errors import DataError, OutputError, UsageError
from eosfm_cli.progress import Silent
from eosfm_cli.recipe import Recipe
from eosfm_cli.results import AblationResult
from eosfm_cli.run_dir import RunDir
from eosfm_cli.training.bootstrap import average_precision, build_tally, draw_weights
from eosfm_cli.training.coalition_scores import score_coalitions
from eosfm_cli.training.model import inner_encoder, load_model
from eosfm_cli.workflows.ablate import ablate
from tests.fits import SPECIALISTS, UPERNET, random_model, tiny_recipe, write_fit
from tests.rasters import write_tif
from tests.tiny import write_scenes

# ------------------------------------------------------------------------------ what is compared


@given(
    values=st.lists(st.floats(-1, 1), min_size=16, max_size=16),
    players=st.sets(st.sampled_from("abcd"), min_size=1),
    permutations=st.sampled_from([1, 7, 200]),
)
def test_shapley_values_share_out_what_all_players_add(
    values: list[float], players: set[str], permutations: int
) -> None:
    score = {
        frozenset(names): values[sum(1 << "abcd".index(name) for name in names)]
        for size in range(5)
        for names in itertools.combinations("abcd", size)
    }
    found = comparisons("shapley", "abcd", sorted(players), permutations=permutations, seed=1)
    added = sum(
        (score[one] - score[other]) / len(item.pairs) for item in found for one, other in item.pairs
    )
    everybody = frozenset("abcd")
    assert added == pytest.approx(score[everybody] - score[everybody - players], abs=1e-9)
    assert len(coalitions_of(found)) <= 2 ** len(players)
    assert all(item.sampled == (math.factorial(len(players)) > permutations) for item in found)


def test_all_orders_give_the_exact_value() -> None:
    # Gloves: a has a left one, b and c have right ones, and a pair is worth 1.
    found = comparisons("shapley", "abc")
    worth = {
        item.specialists[0]: sum(
            (("a" in one and len(one) > 1) - ("a" in other and len(other) > 1))
            for one, other in item.pairs
        )
        / len(item.pairs)
        for item in found
    }
    assert worth == pytest.approx({"a": 2 / 3, "b": 1 / 6, "c": 1 / 6})


def test_drawn_orders_depend_on_the_seed_alone() -> None:
    first, again, other = (
        comparisons("shapley", "abcdefgh", permutations=10, seed=seed) for seed in (3, 3, 4)
    )
    assert first == again
    assert first != other


def test_some_are_compared_one_by_one_and_together() -> None:
    everybody = frozenset("abc")
    without = comparisons("leave-one-out", "abc", ["a", "b"])
    assert [item.pairs for item in without] == [
        ((frozenset("bc"), everybody),),
        ((frozenset("ac"), everybody),),
        ((frozenset("c"), everybody),),
    ]
    only = comparisons("only-one", "abc", ["a", "b"])
    assert [item.pairs[0][0] for item in only] == [frozenset(x) for x in ("a", "b", "ab")]
    assert len(comparisons("only-one", "abc", ["a", "b", "c"])) == 3


# ------------------------------------------------------------------------------ resampling


@given(
    rows=st.lists(
        st.tuples(st.sampled_from([0.1, 0.3, 0.3001, 0.9]), st.booleans(), st.integers(0, 3)),
        min_size=1,
        max_size=12,
    )
)
def test_average_precision_of_replicates_is_that_of_repeated_samples(
    rows: list[tuple[float, bool, int]],
) -> None:
    answers, truths, counts = (np.array(column) for column in zip(*rows, strict=True))
    weights = np.stack([np.ones(len(rows)), counts]).astype(float)
    found = average_precision(answers, truths, weights)
    for weight, value in zip(weights.astype(int), found, strict=True):
        repeated = torch.tensor(truths.repeat(weight)).int()
        if repeated.any():
            wanted = binary_average_precision(torch.tensor(answers.repeat(weight)), repeated)
            assert value == pytest.approx(float(wanted), abs=1e-5)
        else:
            assert value == 0 if not truths.any() else math.isnan(value)


@pytest.mark.parametrize("task", ["segmentation", "classification"])
@pytest.mark.parametrize("seed", range(3))
def test_scores_of_replicates_are_those_of_repeated_samples(task: str, seed: int) -> None:
    recipe = tiny_recipe() if task == "segmentation" else labels_recipe()
    rng = np.random.default_rng(seed)
    shape = (10, 4, 5) if task == "segmentation" else (10,)
    truths, answers = torch.tensor(rng.integers(0, 3, (2, *shape)))
    if task == "segmentation":
        truths[rng.random(shape) < 0.2] = recipe.ignore_index
    samples = [0, 0, 1, 2, 2, 2, 3, 4, 4, 5]
    weights = draw_weights(6, 20, seed)
    tally = build_tally(recipe, weights)
    for part in (slice(0, 4), slice(4, 10)):
        tally.update(["x"], answers[None, part], truths[part], samples[part])
    for weight, value in zip(weights, tally.scores()["x"], strict=True):
        times = torch.tensor(weight[samples].astype(int))
        found, true = answers.repeat_interleave(times, 0), truths.repeat_interleave(times, 0)
        if task == "segmentation":
            wanted = multiclass_jaccard_index(found, true, 3, ignore_index=recipe.ignore_index)
        else:
            wanted = multiclass_accuracy(found, true, 3)
        assert value == pytest.approx(float(wanted), abs=1e-6)


def labels_recipe() -> Recipe:
    images = {"s": {"path": "{class}/{id}.tif", "bands": ["red"]}}
    split = {"by": "list", "train": ["a"], "val": ["b"], "test": ["c"]}
    dataset = {"root": "x", "images": images, "split": split}
    return tiny_recipe(
        task="classification",
        dataset=dataset,
        bands=["red"],
        statistics={"red": {"mean": 0, "std": 1}},
    )


def test_a_replicate_draws_as_many_samples() -> None:
    weights = draw_weights(50, 30, seed=1)
    assert (weights[0] == 1).all()
    assert (weights.sum(axis=1) == 50).all()
    assert len({tuple(row) for row in weights}) == 31
    assert (weights == draw_weights(50, 30, seed=1)).all()


# ------------------------------------------------------------------------------ measuring


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data on which a fit of three specialists is right, and one of them, `s1`, counts for nothing.

    What the model says is taken for the truth, but for an eighth of the pixels.
    """
    folder = tmp_path_factory.mktemp("ablate")
    write_scenes(folder / "data" / "tiny")
    recipe = tiny_recipe()
    model = random_model(recipe, SPECIALISTS, UPERNET, fusion="conv1x1")
    data = build_datamodule(recipe, folder / "data", spec=recipe.fit, progress=Silent())
    tiles = [data.dataset("test")[index] for index in range(8)]
    x = torch.stack([tile["image"] for tile in tiles])
    with torch.no_grad():
        for convolution in inner_encoder(model).fusion.views[-1]:
            convolution.weight.zero_()
        model.head.head[-1].bias.sub_(model(x).output.mean(dim=(0, 2, 3)))  # no class prevails
        said = model(x).output.argmax(1).numpy()
    said[:, :4] = (said[:, :4] + 1) % 3
    for number, tile in enumerate(tiles[::2]):
        mask = np.concatenate(said[2 * number : 2 * number + 2], axis=1).astype(np.uint8)
        write_tif(folder / "data/tiny/masks" / Path(tile["filename"]).name, mask)
    write_fit(folder / "experiments" / "fit" / "tiny" / "1", recipe, model=model)
    return folder


@pytest.fixture
def run(project: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    """The fit, in whose project we are."""
    monkeypatch.chdir(project)
    run = RunDir(Path("experiments/fit/tiny/1"))
    for path in [*run.path.glob("ablation*"), *run.path.glob("*-pruned*")]:
        path.unlink()
    return run


def measured(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[dict[str, Any], str]:
    """The JSON of an ablation by name of specialist, and what was said beside."""
    capsys.readouterr()
    assert main(["ablate", *words, "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    return {**found, "by": {row["specialist"]: row for row in found["rows"]}}, err


def test_who_counts_for_nothing_is_found_and_the_command_told_works(
    run: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
    found, said = measured(capsys)
    assert 0.5 < found["full"] < 0.9
    by = found["by"]
    assert (by["s1"]["change"], by["s1"]["low"], by["s1"]["high"]) == (0, 0, 0)
    assert {name: row["verdict"] for name, row in by.items()} == {
        "rgb": "helps",
        "nir": "helps",
        "s1": "unclear",
    }
    for row in (by["rgb"], by["nir"]):
        assert row["low"] <= row["change"] <= row["high"] < 0
        assert row["metric"] == pytest.approx(found["full"] + row["change"])
    assert found["dispensable"] == ["s1"]
    assert by["rgb"]["time_share"] > by["s1"]["time_share"] > 0  # it has two views
    assert sum(row["time_share"] for row in found["rows"]) < 1
    (command,) = (line.removeprefix("next: ") for line in said.splitlines() if "next:" in line)
    assert command == found["suggestion"] == f"eosfm prune {run.model} --exclude s1"
    assert main([*shlex.split(command)[1:], "--measure", "--json"]) == 0
    pruned = json.loads(capsys.readouterr().out)
    assert pruned["metrics"]["mIoU"] == pytest.approx(by["s1"]["metric"])
    _, said = measured(capsys)  # the place is taken now: the command told goes on to work
    command = said.split("next: ")[1].strip()
    assert command.endswith(f"--output {run.path}/model-pruned-2.safetensors")
    assert main(shlex.split(command)[1:]) == 0


def test_a_smaller_model_scores_what_leaving_out_said(
    run: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
    found, _ = measured(capsys, "--specialists", "nir,s1")
    assert list(found["by"]) == ["nir", "s1", "nir + s1"]
    assert found["dispensable"] == ["s1"]  # together they help
    assert main(["prune", str(run.path), "--specialists", "rgb", "--measure", "--json"]) == 0
    out = capsys.readouterr().out
    assert json.loads(out)["metrics"]["mIoU"] == pytest.approx(found["by"]["nir + s1"]["metric"])
    alone, _ = measured(capsys, "--mode", "only-one")
    assert alone["by"]["rgb"]["metric"] == pytest.approx(found["by"]["nir + s1"]["metric"])
    assert {row["verdict"] for row in alone["rows"]} == {None}
    scores = [row["metric"] for row in alone["rows"]]
    assert scores == sorted(scores, reverse=True)


def test_shapley_values_through_the_command_line(
    run: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
    found, _ = measured(capsys, "--mode", "shapley")
    assert found["coalitions"] == 8
    assert found["by"]["s1"]["change"] == pytest.approx(0)
    assert found["by"]["rgb"]["verdict"] == "helps"
    few, _ = measured(capsys, "--mode", "shapley", "--permutations", "2", "--seed", "5")
    again, _ = measured(capsys, "--mode", "shapley", "--permutations", "2", "--seed", "5")
    unsettled = {"seconds", "time_share", "energy_kwh"}
    first, second = (
        [{k: v for k, v in row.items() if k not in unsettled} for row in one["rows"]]
        for one in (few, again)
    )
    assert first == second
    added = [sum(row["change"] for row in one["rows"]) for one in (found, few)]
    assert added[0] == pytest.approx(added[1])  # all together add the same


def test_each_way_has_its_own_files(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    measured(capsys)
    plain = (run.path / "ablation.csv").read_text()
    measured(capsys, "--mode", "shapley")
    measured(capsys, "--specialists", "rgb,nir")
    assert (run.path / "ablation.csv").read_text() == plain
    for stem in ("ablation", "ablation-shapley", "ablation-chosen"):
        assert (run.path / f"{stem}.png").read_bytes().startswith(b"\x89PNG")
        assert json.loads((run.path / f"{stem}.json").read_text())["full"] > 0.5
    with (run.path / "ablation.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert (rows[0]["without"], rows[-1]["without"]) == ("none left out", "s1")
    assert {row["without"] for row in rows[1:]} == set(SPECIALISTS)
    assert int(rows[0]["parameters"]) == sum(int(row["parameters"]) for row in rows[1:])
    assert float(rows[1]["change low"]) <= float(rows[1]["change"]) <= float(rows[1]["change high"])


def test_each_tile_is_encoded_once(run: RunDir) -> None:
    recipe = tiny_recipe()
    model = load_model(run.model).module.model
    runs = []
    inner_encoder(model).backbones[1].register_forward_hook(lambda *_: runs.append(1))
    data = build_datamodule(recipe, Path("data"), spec=recipe.fit, progress=Silent())
    coalitions = coalitions_of(comparisons("shapley", list(SPECIALISTS)))
    found = score_coalitions(
        model, recipe, data, coalitions, device=torch.device("cpu"), progress=Silent()
    )
    assert len(runs) == len(data.test_dataloader())
    assert found.samples == 4
    assert len(found.scores) == 8
    for coalition in (frozenset({"nir"}), frozenset({"rgb", "s1"})):
        wanted = score_by_running(model, data, recipe, coalition)
        assert float(found.scores[coalition][0]) == pytest.approx(wanted, abs=1e-6)


def score_by_running(
    model: torch.nn.Module, data: TileDataModule, recipe: Recipe, coalition: frozenset[str]
) -> float:
    """The score of a model that does not run the others."""
    encoder = inner_encoder(model)
    encoder.left_out = frozenset(i for i, n in enumerate(encoder.names) if n not in coalition)
    with torch.no_grad():
        batches = [(model(b["image"]).output.argmax(1), b["mask"]) for b in data.test_dataloader()]
    encoder.left_out = frozenset()
    found, true = (torch.cat(column) for column in zip(*batches, strict=True))
    return float(multiclass_jaccard_index(found, true, 3, ignore_index=recipe.ignore_index))


def test_one_image_gives_no_interval_and_no_advice(
    project: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(project)
    split = {"by": "list", "train": ["a-1"], "val": ["c-1"], "test": ["d-1"]}
    recipe = tiny_recipe(dataset={**tiny_recipe().dataset.model_dump(mode="json"), "split": split})
    run = write_fit(tmp_path / "run", recipe)
    found, said = measured(capsys, str(run.path))
    assert "a single image: there are no intervals" in said
    assert {row["low"] for row in found["rows"]} == {None}
    assert (found["dispensable"], found["suggestion"]) == ([], None)
    assert "next: eosfm predict scene.tif --model" in said


def test_the_table_has_intervals_and_verdicts(
    run: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["ablate"]) == 0
    out, err = capsys.readouterr()
    for heading in ("without", "mIoU", "95 % interval", "time saved", "energy saved"):
        assert heading in out.splitlines()[0]
    assert "+0.000 … +0.000" in next(line for line in out.splitlines() if line.startswith("s1"))
    assert "none left out" in out.splitlines()[-1]
    assert "the test split has 4 images only: the intervals are rough" in err


# ------------------------------------------------------------------------------ bad input


def leave_out(run: Path) -> AblationResult:
    return ablate(run, root=run / "root", data_root=None, progress=Silent())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--permutations", "3"], "--permutations goes with --mode shapley"),
        (["--specialists", "rbg"], "Did you mean 'rgb'?"),
        (["--mode", "all"], "'all' is not one of"),
        (["--bootstrap", "1"], "100"),
    ],
)
def test_wrong_options_are_explained(
    run: RunDir, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["ablate", *words]) == 2
    error = capsys.readouterr().err
    assert said in " ".join(error.split())
    assert not list(run.path.glob("ablation*"))


def test_one_specialist_alone_cannot_be_left_out(tmp_path: Path) -> None:
    run = write_fit(tmp_path / "run", tiny_recipe(), {"rgb": ("red", "green", "blue")})
    with pytest.raises(UsageError, match="one specialist only"):
        leave_out(run.path)


def test_a_model_outside_its_run_is_refused(tmp_path: Path) -> None:
    run = write_fit(tmp_path / "run", tiny_recipe())
    elsewhere = run.model.rename(tmp_path / "mine.safetensors")
    with pytest.raises(DataError, match=r"mine\.safetensors is not in the run folder"):
        leave_out(elsewhere)


@contextmanager
def without_privileges() -> Iterator[None]:
    """Root may write anywhere: be nobody for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_folder_that_cannot_be_written_is_refused_before_the_work() -> None:
    with TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        run = write_fit(Path(name) / "run", tiny_recipe())
        run.path.chmod(0o555)
        try:
            with without_privileges(), pytest.raises(OutputError, match="Cannot write") as caught:
                leave_out(run.path)
        finally:
            run.path.chmod(0o755)
    assert caught.value.exit_code == 1
