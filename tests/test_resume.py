"""Runs that are stopped at any moment, and go on."""

from __future__ import annotations

import csv
import json
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
import yaml

from eosfm_cli.ensemble.bundle import read_model
from eosfm_cli.errors import OutputError
from eosfm_cli.run_dir import RunDir, find_runs
from eosfm_cli.training.trainer import WholeFiles
from tests import killing
from tests.killing import Ended, Server
from tests.rasters import write_tif
from tests.tiny import RECIPE, write_scenes

TRAIN = ("train-specialist", "tiny-s1.yaml")
# Without stored features, which other tests may have left: so all runs have the same moments.
FIT = ("fit-ensemble", "tiny.yaml", "--top-k", "1", "--fusion", "conv1x1", "--cache", "off")
KIND = {TRAIN: "train", FIT: "fit"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with killing.server(tmp_path_factory.mktemp("server")) as server:
        yield server


@dataclass
class Project:
    """A folder with data, recipe and runs, in which commands may be killed."""

    folder: Path
    server: Server

    def run(self, *words: object, **moment: object) -> Ended:
        """Run a command on this project."""
        places = ["--data-root", self.folder / "data", "--output", self.folder / "experiments"]
        named = [self.folder / w if str(w).endswith(".yaml") else w for w in words]
        return self.server.run([*named, *places], **moment)

    def resume(self, command: tuple[str, ...], *words: object) -> Ended:
        """Go on with the newest run of a command."""
        return self.server.run([command[0], "--resume", self.newest(command).path, *words])

    def newest(self, command: tuple[str, ...]) -> RunDir:
        """The newest run of a command."""
        return find_runs(self.folder / "experiments", KIND[command])[0]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, server: Server) -> Project:
    """A project whose runs were not interrupted."""
    folder = tmp_path_factory.mktemp("project")
    write_scenes(folder / "data" / "tiny")
    # dropout and augmentation draw numbers: a run that goes on has to draw the same
    (folder / "tiny.yaml").write_text(yaml.safe_dump(RECIPE, sort_keys=False))
    project = Project(folder, server)
    for words in (("train-specialist", "tiny-rgb.yaml"), TRAIN, FIT):
        ended = project.run(*words)
        assert ended.code == 0, ended.output
    return project


@pytest.fixture
def project(whole: Project, tmp_path: Path) -> Callable[[tuple[str, ...]], Project]:
    """The same project before a command has run."""

    def before(command: tuple[str, ...]) -> Project:
        folder = tmp_path / "project"
        shutil.copytree(whole.folder, folder)
        shutil.rmtree(folder / "experiments" / "fit")
        if command is TRAIN:
            shutil.rmtree(folder / "experiments" / "train" / "tiny-s1")
        return Project(folder, whole.server)

    return before


def assert_same(one: RunDir, other: RunDir) -> None:
    """Check that two runs have the same weights, the same history and the same scores."""
    for found, expected in zip(
        sorted(one.checkpoints.rglob("*.ckpt")),
        sorted(other.checkpoints.rglob("*.ckpt")),
        strict=True,
    ):
        mine, theirs = (torch.load(p, weights_only=True) for p in (found, expected))
        assert mine["epoch"] == theirs["epoch"]
        for name, tensor in theirs["state_dict"].items():
            assert torch.equal(mine["state_dict"][name], tensor), name
    assert list(csv.reader(one.metrics.open())) == list(csv.reader(other.metrics.open()))
    summaries = one.read_summary(), other.read_summary()
    for key in ("state", "metrics", "parameters", "specialists", "scores"):
        assert summaries[0].get(key) == summaries[1].get(key), key
    leftovers = [path for path in one.path.rglob(".*") if path.name != ".lock"]
    assert not leftovers


def check_killed_and_resumed(
    project: Project, whole: Project, command: tuple[str, ...], moment: int
) -> None:
    ended = project.run(*command, at=moment, then="SIGKILL")
    assert ended.code == -9, ended.output
    run = project.newest(command)
    assert run.state == "killed"
    if run.model.exists():
        read_model(run.model)  # what has its final name is complete
    resumed = project.resume(command)
    if run.config.exists():
        assert resumed.code == 0, resumed.output
        assert_same(run, whole.newest(command))
    else:
        assert resumed.code == 2
        assert "ended before it had begun" in resumed.output


@pytest.mark.parametrize(
    ("command", "moment"),
    [
        (TRAIN, 2),
        pytest.param(TRAIN, 7, marks=pytest.mark.slow),
        pytest.param(FIT, 8, marks=pytest.mark.slow),
        (FIT, 20),
    ],
)
def test_killed_and_resumed(
    project: Callable[..., Project], whole: Project, command: tuple[str, ...], moment: int
) -> None:
    check_killed_and_resumed(project(command), whole, command, moment)


@pytest.mark.slow
@pytest.mark.parametrize("command", [TRAIN, FIT], ids=["train", "fit"])
def test_killed_at_every_moment_and_resumed(
    project: Callable[..., Project], whole: Project, tmp_path: Path, command: tuple[str, ...]
) -> None:
    before = project(command)
    kept = tmp_path / "kept"
    shutil.copytree(before.folder, kept)
    last = before.run(*command).moments
    assert last > 10
    for moment in range(2, last + 1):
        shutil.rmtree(before.folder)
        shutil.copytree(kept, before.folder)
        check_killed_and_resumed(before, whole, command, moment)


@pytest.mark.parametrize(
    ("signal", "code"), [("SIGINT", 130), pytest.param("SIGTERM", 143, marks=pytest.mark.slow)]
)
def test_stopped_in_an_orderly_way(
    project: Callable[..., Project], whole: Project, signal: str, code: int
) -> None:
    stopped = project(FIT)
    ended = stopped.run(*FIT, at=15, then=signal)
    assert ended.code == code
    assert "Traceback" not in ended.output
    run = stopped.newest(FIT)
    assert run.state == "interrupted"
    assert run.resume_command in ended.output
    assert stopped.resume(FIT).code == 0
    assert_same(run, whole.newest(FIT))


def test_a_disk_that_fills_while_a_checkpoint_is_written(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OutputError, match=r"Cannot write .*last.ckpt: File too large"):
            WholeFiles().save_checkpoint({"weights": torch.ones(100_000)}, tmp_path / "last.ckpt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("moment", [12, pytest.param(40, marks=pytest.mark.slow)])
def test_a_full_disk(project: Callable[..., Project], whole: Project, moment: int) -> None:
    full = project(FIT)
    ended = full.run(*FIT, event="open", at=moment, then="full")
    assert ended.code == 1
    assert "No space left on device" in ended.output
    assert "Traceback" not in ended.output
    assert "bug" not in ended.output
    run = full.newest(FIT)
    resumed = full.resume(FIT)
    assert resumed.code == 0, resumed.output
    assert_same(run, whole.newest(FIT))


def test_what_is_measured_counts_all_parts(project: Callable[..., Project]) -> None:
    killed = project(TRAIN)
    killed.run(*TRAIN, at=9, then="SIGKILL")
    before = killed.newest(TRAIN).read_summary()["seconds"]
    assert killed.resume(TRAIN).code == 0
    assert killed.newest(TRAIN).read_summary()["seconds"] > before > 0


# --------------------------------------------------------------------------- refused


@pytest.fixture
def killed(project: Callable[..., Project]) -> Project:
    """A project with a training that was killed after its first epoch."""
    made = project(TRAIN)
    assert made.run(*TRAIN, at=9, then="SIGKILL").code == -9
    return made


def test_a_changed_setting_is_refused_with_the_difference(killed: Project) -> None:
    ended = killed.resume(TRAIN, "--epochs", 5)
    assert ended.code == 2
    assert "training.epochs: 2 in the run, 5 now" in ended.output


def test_a_changed_recipe_is_refused_with_the_difference(killed: Project) -> None:
    recipe = killed.folder / "tiny.yaml"
    changed = RECIPE | {"tile": {"size": 64}}
    recipe.write_text(yaml.safe_dump(changed, sort_keys=False))
    ended = killed.resume(TRAIN, recipe.with_name("tiny-s1.yaml"))
    assert ended.code == 2
    assert "tile.size: 32 in the run, 64 now" in ended.output
    recipe.write_text(yaml.safe_dump(RECIPE, sort_keys=False))
    assert killed.resume(TRAIN, recipe.with_name("tiny-s1.yaml")).code == 0


def test_changed_data_is_refused(killed: Project) -> None:
    for folder in ("s1", "s2", "masks"):
        shutil.copy(
            killed.folder / f"data/tiny/{folder}/a-1.tif",
            killed.folder / f"data/tiny/{folder}/a-9.tif",
        )
    ended = killed.resume(TRAIN, "--data-root", killed.folder / "data")
    assert ended.code == 2
    assert "'train': 8" in ended.output
    assert "'train': 10" in ended.output


def test_other_samples_of_the_same_number_are_refused(killed: Project) -> None:
    for folder in ("s1", "s2", "masks"):
        place = killed.folder / "data/tiny" / folder
        (place / "a-1.tif").rename(place / "a-9.tif")
    ended = killed.resume(TRAIN, "--data-root", killed.folder / "data")
    assert ended.code == 2
    assert "samples: " in ended.output


def test_a_changed_ensemble_is_refused(project: Callable[..., Project]) -> None:
    made = project(FIT)
    assert made.run(*FIT, at=12, then="SIGKILL").code == -9
    ended = made.run("export", "tiny-rgb", "--experiments", made.folder / "experiments")
    ensemble = made.folder / "experiments" / "ensemble.safetensors"
    runs = [run.path for run in find_runs(made.folder / "experiments", "train")][:1]
    ended = made.server.run(["export", *runs, "-o", ensemble])
    assert ended.code == 0, ended.output
    refused = made.resume(FIT)
    assert refused.code == 2
    assert "ensemble" in refused.output


def test_data_and_folder_may_move(killed: Project, whole: Project, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    killed.folder.rename(moved)
    project = Project(moved, killed.server)
    ended = project.resume(TRAIN, "--data-root", moved / "data")
    assert ended.code == 0, ended.output
    assert_same(project.newest(TRAIN), whole.newest(TRAIN))


def test_the_best_epoch_stays_known_where_the_run_is_named_by_a_relative_path(
    killed: Project,
) -> None:
    run = killed.newest(TRAIN)
    checkpoint = torch.load(run.last, weights_only=True)
    for state in checkpoint["callbacks"].values():
        if state.get("best_k_models"):
            unbeaten = dict.fromkeys(state["best_k_models"], torch.tensor(2.0))
            state |= {"best_model_score": torch.tensor(2.0), "best_k_models": unbeaten}
    torch.save(checkpoint, run.last)
    best = run.best.read_bytes()
    ended = killed.server.run(["train-specialist", "--resume", os.path.relpath(run.path)])
    assert ended.code == 0, ended.output
    assert run.best.read_bytes() == best


def test_a_finished_run_is_refused(whole: Project) -> None:
    ended = whole.resume(TRAIN)
    assert ended.code == 2
    assert "is finished" in ended.output


@pytest.mark.parametrize("name", ["data", "nothing", "tiny.yaml", "experiments/train"])
def test_a_foreign_folder_is_refused(whole: Project, name: str) -> None:
    ended = whole.server.run(["train-specialist", "--resume", whole.folder / name])
    assert ended.code == 2
    assert "Cannot resume" in ended.output


def test_a_damaged_summary_is_called_that(killed: Project) -> None:
    run = killed.newest(TRAIN)
    run.summary.write_text('{"state": "run')
    ended = killed.resume(TRAIN)
    assert ended.code == 2
    assert "its summary.json is damaged" in ended.output


def test_a_place_that_cannot_be_written_is_told_before_data_is_read(whole: Project) -> None:
    recipe = whole.folder / "tiny.yaml"
    nowhere = ["--data-root", whole.folder / "nowhere", "--output", recipe / "experiments"]
    ended = whole.server.run(["train-specialist", recipe, *nowhere])
    assert ended.code == 1
    assert f"Cannot write {recipe}" in ended.output


def test_a_run_of_another_command_is_refused(killed: Project) -> None:
    run = killed.newest(TRAIN).path
    ended = killed.server.run(["fit-ensemble", "--resume", run])
    assert ended.code == 2
    assert f"eosfm train-specialist --resume {run}" in ended.output


def test_a_run_that_is_worked_on_is_refused(killed: Project) -> None:
    run = killed.newest(TRAIN)
    with run.hold():
        assert run.state == "running"
        ended = killed.resume(TRAIN)
    assert ended.code == 2
    assert "another process" in ended.output


@pytest.mark.parametrize("damage", [b"", b"no checkpoint", None])
def test_a_damaged_checkpoint(killed: Project, damage: bytes | None) -> None:
    last = killed.newest(TRAIN).last
    last.write_bytes(last.read_bytes()[:5000] if damage is None else damage)
    ended = killed.resume(TRAIN)
    assert ended.code == 3
    assert f"{last} is damaged" in ended.output
    assert "Traceback" not in ended.output


def test_nothing_to_run(server: Server) -> None:
    for command in ("train-specialist", "fit-ensemble"):
        ended = server.run([command])
        assert ended.code == 2
        assert f"{command} --resume RUN" in ended.output


# --------------------------------------------------------------------------- plans


def test_a_plan_runs_nothing_and_leaves_nothing(whole: Project) -> None:
    before = sorted(whole.folder.rglob("*"))
    ended = whole.run(*FIT, "--dry-run", "--json")
    assert ended.code == 0, ended.output
    assert sorted(whole.folder.rglob("*")) == before
    (plan,) = json.loads(ended.output[ended.output.index("{\n") :])["plans"]
    assert plan["tiles"] == {"train": 8, "val": 2, "test": 4}
    assert plan["batch"] == [4, 6, 32, 32]
    assert [(phase["name"], phase["epochs"]) for phase in plan["phases"][-2:]] == [
        ("search", 1),
        ("fit", 2),
    ]
    assert plan["phases"][-2]["parameters"] > plan["phases"][-1]["parameters"]
    assert plan["seconds"] > 0


def test_a_plan_of_a_training_as_a_table(whole: Project) -> None:
    ended = whole.run(*TRAIN, "--dry-run")
    assert ended.code == 0, ended.output
    for words in ("tiny-s1", "vv, vh", "train 8, val 2, test 4", "2 epochs, 4 steps", "about"):
        assert words in ended.output


# --------------------------------------------------------------------------- other commands


def test_a_killed_export_leaves_the_former_one(whole: Project, tmp_path: Path) -> None:
    experiments = tmp_path / "experiments"
    shutil.copytree(whole.folder / "experiments", experiments)
    ensemble = experiments / "ensemble.safetensors"
    before = ensemble.read_bytes()
    words = ["export", "--experiments", experiments]
    for moment in range(1, whole.server.run([*words, "-o", tmp_path / "x.pth"]).moments + 1):
        assert whole.server.run(words, at=moment, then="SIGKILL").code == -9
        assert ensemble.read_bytes() == before
    assert whole.server.run(words).code == 0


def test_a_killed_ablation_runs_again(whole: Project, tmp_path: Path) -> None:
    experiments = tmp_path / "experiments"
    shutil.copytree(whole.folder / "experiments", experiments)
    fit = ["fit-ensemble", whole.folder / "tiny.yaml", "--epochs", 1, "-o", experiments]
    assert whole.server.run([*fit, "--data-root", whole.folder / "data"]).code == 0
    words = ["ablate", "--experiments", experiments]
    assert whole.server.run(words, at=2, then="SIGKILL").code == -9
    ended = whole.server.run(words)
    assert ended.code == 0, ended.output


def test_a_killed_map_has_no_final_name(whole: Project, tmp_path: Path) -> None:
    scene, output = tmp_path / "scene.tif", tmp_path / "map.tif"
    write_tif(scene, np.random.default_rng(0).normal(1000, 100, (6, 70, 90)).astype(np.float32))
    words = ["predict", scene, "--bands", "blue,green,red,nir,vv,vh", "--output", output]
    words += ["--experiments", whole.folder / "experiments"]
    for at, event in ((1, "os.rename"), (1, "open"), (2, "open")):
        assert whole.server.run(words, event=event, at=at, then="SIGKILL").code == -9
        if output.exists():
            with rasterio.open(output) as raster:
                assert (raster.read(1) != 255).all()
            output.unlink()
        shutil.rmtree(tmp_path / "map.tif.part", ignore_errors=True)
    ended = whole.server.run(words)
    assert ended.code == 0, ended.output
