"""`backbone: EosFM` in YAMLs of TerraTorch: the published examples, tasks, both command lines."""

from __future__ import annotations

import inspect
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from terratorch.models import EncoderDecoderFactory
from terratorch.models.utils import TemporalWrapper
from terratorch.registry import BACKBONE_REGISTRY
from terratorch.tasks import (
    ClassificationTask,
    MultiLabelClassificationTask,
    PixelwiseRegressionTask,
    SemanticSegmentationTask,
)

from eosfm_cli.commands.app import main
from eosfm_cli.ensemble.bundle import read_ensemble, read_model
from eosfm_cli.ensemble.published import EosFM
from eosfm_cli.errors import BundleError, EosfmError, RecipeError, UsageError
from eosfm_cli.lightning_yaml import ENSEMBLE_ARGUMENTS, LightningYaml, with_ensemble
from eosfm_cli.run_dir import RunDir
from eosfm_cli.training.registry import PARAMETERS, ensemble_of
from tests.checkpoints import BACKBONE, lightning, tiny_state
from tests.tiny import RECIPE, write_scenes

SPECIALISTS = 8

WHOLE = """\
seed_everything: 0
trainer:
  accelerator: cpu
  devices: 1
  max_epochs: 1
  limit_train_batches: 2
  limit_val_batches: 1
  num_sanity_val_steps: 0
data:
  class_path: eosfm_cli.data.recipe_datamodule.RecipeDataModule
  init_args:
    recipe: tiny-rgb.yaml
model:
  class_path: terratorch.tasks.SemanticSegmentationTask
  init_args:
    model_factory: EncoderDecoderFactory
    model_args:
      backbone: EosFM
      backbone_in_chans: 3
      model_weights: eosfm_ensemble.pth
      freeze: true
      normalize_features: true
      normalization_type: batch
      projection_layer: false
      feature_fusion: null
      fuse_to_mult: 1
      max_encoders: null
      encoder_selection_mode: topk
      scale_features: false
      ablate_encoders: []
      decoder: UperNetDecoder
      decoder_channels: 8
      num_classes: 3
    class_names: [water, field, town]
    ignore_index: 255
    plot_on_val: false
"""

EXAMPLES = {
    "concatenation": """\
model_args:
  backbone: EosFM
  feature_fusion: null
  normalize_features: true
""",
    "conv1x1": """\
model_args:
  backbone: EosFM
  feature_fusion: "conv1x1"
  fuse_to_mult: 2
  normalize_features: true
""",
    "mlp": """\
model_args:
  backbone: EosFM
  feature_fusion: "mlp"
  fuse_to_mult: 1
  normalize_features: true
  projection_layer: true
""",
    "addition": """\
model_args:
  backbone: EosFM
  feature_fusion: "addition"
  normalize_features: true
""",
    "multiplication": """\
model_args:
  backbone: EosFM
  feature_fusion: "multiplication"
  normalize_features: true
""",
    "top-k": """\
model_args:
  backbone: EosFM
  max_encoders: 5
  encoder_selection_mode: "topk"
  scale_features: false
  normalize_features: true
""",
    "smooth": """\
model_args:
  backbone: EosFM
  max_encoders: 5
  encoder_selection_mode: "smooth"
  scale_features: true
  normalize_features: true
""",
    "ablation": """\
model_args:
  backbone: EosFM
  ablate_encoders: [0, 3, 7]
""",
}
"""The published examples; what they leave out is as in `WHOLE`."""


def whole(example: str = "", **model_args: Any) -> dict[str, Any]:
    """A complete configuration with an example's arguments in it."""
    config = yaml.safe_load(WHOLE)
    own = yaml.safe_load(example)["model_args"] if example else {}
    config["model"]["init_args"]["model_args"] |= own | model_args
    return config


def write_yaml(folder: Path, config: dict[str, Any], name: str = "potsdam.yaml") -> str:
    (folder / name).write_text(yaml.safe_dump(config, sort_keys=False))
    return name


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ensemble in the published format."""
    path = tmp_path_factory.mktemp("weights") / "eosfm_ensemble.pth"
    config = {"backbone": f"timm_{BACKBONE}"}
    entries = [
        (3, tiny_state(seed=seed), {**config, "encoder_name": f"s{seed}"})
        for seed in range(SPECIALISTS)
    ]
    torch.save(entries, path)
    return path


@pytest.fixture(scope="module")
def project(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, its recipe and the ensemble."""
    folder = tmp_path_factory.mktemp("terratorch")
    write_scenes(folder / "data" / "tiny")
    recipe = {**RECIPE, "bands": ["red", "green", "blue"]}
    del recipe["variants"], recipe["default_variant"]
    (folder / "tiny-rgb.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    (folder / weights.name).write_bytes(weights.read_bytes())
    return folder


@pytest.fixture
def here(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(project)
    return project


Run = Callable[..., tuple[str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command that must end in `code`; what it said on stdout and stderr."""

    def command(*words: object, code: int = 0) -> tuple[str, str]:
        found = main([str(word) for word in words])
        out, err = capsys.readouterr()
        assert found == code, err
        assert "Traceback" not in err
        return out, err

    return command


def lightning_yaml(config: dict[str, Any]) -> LightningYaml:
    return LightningYaml(Path("some.yaml"), yaml.safe_dump(config), config)


def model_args(config: LightningYaml) -> dict[str, Any]:
    return config.data["model"]["init_args"]["model_args"]


# ------------------------------------------------------------------------------ arguments


def test_all_arguments_are_known_where_yamls_are_read() -> None:
    assert set(ENSEMBLE_ARGUMENTS) == set(PARAMETERS)
    assert set(inspect.signature(EosFM).parameters) == set(PARAMETERS)


def test_arguments_get_the_prefix_that_terratorch_wants() -> None:
    config = whole(backbone_feature_fusion="mlp", model_weights=["a.pth", "hf://o/r/b.pth"])
    del config["model"]["init_args"]["model_args"]["feature_fusion"]
    found = with_ensemble(lightning_yaml(config))
    arguments = model_args(found)
    assert arguments["backbone_feature_fusion"] == "mlp"
    assert arguments["backbone_freeze"] is True
    assert arguments["backbone_model_weights"] == [str(Path("a.pth").absolute()), "hf://o/r/b.pth"]
    assert arguments["decoder"] == "UperNetDecoder"
    assert not set(arguments) & set(ENSEMBLE_ARGUMENTS)
    assert found.notes[0].startswith("backbone_ put before model_weights, freeze,")
    assert "model_args.bands feeds by name" in found.notes[1]
    arguments["backbone_bands"] = ["red", "green", "blue"]
    again = with_ensemble(LightningYaml(found.path, found.text, found.data))
    assert model_args(again) == arguments
    assert again.notes == ()


def test_other_backbones_keep_their_arguments() -> None:
    config = lightning_yaml(whole(backbone="timm_resnet18"))
    assert with_ensemble(config) is config


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            {"feature_fussion": "mlp"},
            r"feature_fussion: unknown key, did you mean 'feature_fusion'",
        ),
        ({"backbone_freeze": False}, r"model_args.freeze: backbone_freeze is there too"),
    ],
)
def test_arguments_that_cannot_be(arguments: dict[str, Any], expected: str) -> None:
    with pytest.raises(RecipeError, match=expected):
        with_ensemble(lightning_yaml(whole(**arguments)))


# ------------------------------------------------------------------------------ in the registry


def registered(weights: Path, **arguments: Any) -> EosFM:
    return BACKBONE_REGISTRY.build("EosFM", model_weights=str(weights), in_chans=3, **arguments)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"pretrained": True}, "takes no 'pretrained'"),
        ({"feature_fussion": "mlp"}, "Did you mean 'feature_fusion'"),
        ({"feature_fusion": "addd"}, "feature_fusion: there is no 'addd'. Did you mean 'addition'"),
        ({"ablate_encoders": ["s9"]}, "There is no specialist 's9'"),
        ({"ablate_encoders": list(range(SPECIALISTS))}, "No specialist is left"),
        ({"max_encoders": 0}, "max_encoders should be a whole number"),
    ],
)
def test_what_cannot_be_built_says_why(
    weights: Path, arguments: dict[str, Any], expected: str
) -> None:
    with pytest.raises(EosfmError, match=expected):
        registered(weights, **arguments)


def test_it_needs_weights(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs model_weights") as caught:
        BACKBONE_REGISTRY.build("EosFM", in_chans=3)
    assert "backbone_model_weights" in str(caught.value.hint)
    with pytest.raises(BundleError, match=r"none\.pth"):
        registered(tmp_path / "none.pth")


@pytest.mark.parametrize(
    ("options", "width"),
    [
        ({}, SPECIALISTS),
        ({"ablate_encoders": [0, 3, 7]}, SPECIALISTS),
        ({"feature_fusion": "conv1x1", "fuse_to_mult": 2}, 2),
        ({"feature_fusion": "mlp"}, 1),
        ({"feature_fusion": "addition"}, 1),
        ({"feature_fusion": "multiplication", "max_encoders": 2}, 1),
    ],
)
def test_the_decoder_sees_the_channels_of_the_fusion(
    weights: Path, options: dict[str, Any], width: int
) -> None:
    model = EncoderDecoderFactory().build_model(
        task="segmentation",
        backbone="EosFM",
        backbone_model_weights=str(weights),
        backbone_in_chans=3,
        **{f"backbone_{key}": value for key, value in options.items()},
        decoder="UperNetDecoder",
        decoder_channels=8,
        num_classes=3,
    )
    levels = model.encoder(torch.randn(2, 3, 64, 64))
    assert [level.shape[1] for level in levels] == model.encoder.out_channels
    assert model.encoder.out_channels == [
        width * c for c in registered(weights, feature_fusion="addition").out_channels
    ]
    assert model(torch.randn(2, 3, 64, 64)).output.shape == (2, 3, 64, 64)


# ------------------------------------------------------------------------------ what learns


SEGMENTATION = {"ignore_index": 255}
TASKS = {
    "segmentation": (SemanticSegmentationTask, "UperNetDecoder", 3, "mask", SEGMENTATION),
    "classification": (ClassificationTask, "IdentityDecoder", 3, "label", {}),
    "multilabel": (MultiLabelClassificationTask, "IdentityDecoder", 3, "labels", {}),
    "regression": (PixelwiseRegressionTask, "UperNetDecoder", None, "values", {}),
}
"""Name -> task, decoder, number of classes, kind of labels, further arguments."""
LABELS = {
    "mask": lambda: {"mask": torch.randint(0, 3, (2, 64, 64))},
    "label": lambda: {"label": torch.randint(0, 3, (2,))},
    "labels": lambda: {"label": torch.tensor([[1, 0, 1], [0, 1, 0]])},
    "values": lambda: {"mask": torch.rand(2, 64, 64)},
}
DATES = {
    "backbone_use_temporal": True,
    "backbone_temporal_pooling": "concat",
    "backbone_temporal_n_timestamps": 2,
}


def build_task(name: str, weights: Path, **arguments: Any) -> Any:
    task, decoder, classes, _, options = TASKS[name]
    outputs = {} if classes is None else {"num_classes": classes}
    channels = {"decoder_channels": 8} if decoder == "UperNetDecoder" else {}
    given = {
        "backbone_feature_fusion": "mlp",
        "backbone_projection_layer": True,
        "backbone_max_encoders": 3,
        "backbone_search_steps": 2,
        "backbone_adapt": "learned",
        **arguments,
    }
    return task(
        model_factory="EncoderDecoderFactory",
        model_args={
            "backbone": "EosFM",
            "backbone_model_weights": str(weights),
            "backbone_in_chans": 3,
            **given,
            "decoder": decoder,
            **channels,
            **outputs,
        },
        freeze_backbone=True,
        **options,
    )


def learning(module: torch.nn.Module) -> set[str]:
    return {name.split(".")[0] for name, p in module.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(("freeze", "dates"), [(True, {}), (False, DATES)], ids=["", "two dates"])
@pytest.mark.parametrize("name", TASKS)
def test_what_stands_on_frozen_specialists_learns_in_every_task(
    weights: Path, name: str, freeze: bool, dates: dict[str, Any]
) -> None:
    task = build_task(name, weights, backbone_freeze=freeze, **dates)
    encoder = ensemble_of(task)
    torch.manual_seed(0)
    assert isinstance(task.model.encoder, TemporalWrapper if dates else EosFM)
    assert learning(encoder) == {"adapters", "projections", "gates", "fusion"}
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    task.train()
    assert not any(part.training for part in encoder.backbones.modules())
    assert encoder.fusion.training
    image = torch.randn(2, 3, 2, 64, 64) if dates else torch.randn(2, 3, 64, 64)
    batch = {"image": image, **LABELS[TASKS[name][3]]()}
    optimizer = torch.optim.SGD(task.parameters(), lr=1.0)
    task.training_step(batch, 0).backward()
    assert encoder.gates.scores.grad.abs().sum() > 0
    optimizer.step()
    now = encoder.state_dict()
    moved = {key.split(".")[0] for key in now if not torch.equal(now[key], before[key])}
    assert moved - {"normalisers"} == {"adapters", "projections", "gates", "fusion"}


@pytest.mark.parametrize("kept", [2, SPECIALISTS])
def test_after_the_choice_every_parameter_still_gets_a_gradient(weights: Path, kept: int) -> None:
    """Training on several devices waits for all of them."""
    encoder = registered(weights, max_encoders=kept, search_steps=1, feature_fusion="conv1x1")
    for _ in range(2):
        encoder.zero_grad()
        sum(level.sum() for level in encoder.train()(torch.randn(2, 3, 64, 64))).backward()
    assert [n for n, p in encoder.named_parameters() if p.requires_grad and p.grad is None] == []


def test_without_freezing_everything_learns(weights: Path) -> None:
    encoder = registered(weights, freeze=False, feature_fusion="mlp").train()
    assert learning(encoder) == {"backbones", "fusion"}
    assert all(part.training for part in encoder.backbones.modules())


def test_parameters_that_go_on_learning_are_otherwise_as_any(weights: Path) -> None:
    encoder = registered(weights, feature_fusion="conv1x1")
    weight = encoder.fusion.bias[0]
    copied = deepcopy(encoder)
    copied.fusion.requires_grad_(False)
    assert all(p.requires_grad for p in copied.fusion.parameters())
    weight.requires_grad = False
    assert not weight.requires_grad
    assert torch.equal(copied(torch.ones(1, 3, 64, 64))[0], encoder(torch.ones(1, 3, 64, 64))[0])


@pytest.mark.parametrize("mode", ["topk", "smooth"])
def test_the_selections_penalty_takes_part_in_terratorchs_losses(weights: Path, mode: str) -> None:
    arguments = {"backbone_encoder_selection_mode": mode, "backbone_feature_fusion": "concat"}
    task = build_task("segmentation", weights, backbone_max_encoders=1, **arguments).train()
    batch = {"image": torch.randn(2, 3, 64, 64), **LABELS["mask"]()}
    gradients = []
    for sparsity in (0.0, 100.0):
        torch.manual_seed(0)
        gates = ensemble_of(task).gates
        gates.sparsity, gates.scores.grad = sparsity, None
        task.training_step(batch, 0).backward()
        gradients.append(gates.scores.grad.clone())
    penalty = torch.autograd.grad(gates.penalty(), gates.scores)[0]
    assert penalty.abs().min() > 0
    torch.testing.assert_close(gradients[1] - gradients[0], 100 * penalty, rtol=0.05, atol=0.05)


# ------------------------------------------------------------------------------ through eosfm


def only_run(folder: Path, name: str) -> RunDir:
    (path,) = (folder / "train" / name).iterdir()
    return RunDir(path)


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_published_examples_train(here: Path, tmp_path: Path, run: Run, example: str) -> None:
    file = write_yaml(here, whole(EXAMPLES[example]), f"{example}.yaml")
    out, err = run("train-specialist", file, "-o", tmp_path, "--json")
    (result,) = json.loads(out)["results"]
    assert result["split"] == "test"
    assert 0 <= result["metrics"]["mIoU"] <= 1
    assert result["specialists"] == [f"s{n}" for n in range(SPECIALISTS)]
    assert err.count("backbone_ put before") == 1
    assert "s7" in err  # the plan
    assert "eosfm export" not in err
    found = only_run(tmp_path, example)
    trained = torch.load(found.last, weights_only=True)["state_dict"]
    frozen = torch.load("eosfm_ensemble.pth", weights_only=True)[2][1]
    for name, tensor in frozen.items():
        assert torch.equal(trained[f"model.encoder.backbones.2.{name}"], tensor), name
    has_scores = "gate/s0" in found.metrics.read_text()
    assert has_scores is (example in {"top-k", "smooth"})


def test_a_fitted_ensemble_is_no_specialist_to_export(here: Path, tmp_path: Path, run: Run) -> None:
    file = write_yaml(here, whole(), "mine.yaml")
    run("train-specialist", file, "-o", tmp_path)
    found = only_run(tmp_path, "mine")
    _, err = run("export", "-o", tmp_path / "e.pth", "--encoders-folder", tmp_path, code=3)
    assert f"{found.path}: it is a fitted model, no specialist" in err
    _, err = run("export", found.best, "-o", tmp_path / "e.pth", code=3)
    assert "holds a fitted ensemble, no specialist" in err
    assert not (tmp_path / "e.pth").exists()
    # it does not hide an older specialist of the same name
    state = lightning(tiny_state())
    foreign = tmp_path / "train" / "theirs" / "checkpoints"
    foreign.mkdir(parents=True)
    torch.save(state, foreign / "best.ckpt")
    run("export", "-o", tmp_path / "e.pth", "--encoders-folder", tmp_path / "train")
    assert [one.info.name for one in read_ensemble(tmp_path / "e.pth")] == ["theirs"]
    # and its configuration runs again from elsewhere
    run("train-specialist", found.config, "-o", tmp_path / "again", "--dry-run")


# ------------------------------------------------------------------------------ other processes


def prefixed(**arguments: Any) -> dict[str, Any]:
    """A configuration as TerraTorch's own command line wants it."""
    return with_ensemble(lightning_yaml(whole(**arguments))).data


def command_line(words: list[str], folder: Path, seconds: float = 400, **extra: str) -> str:
    """Run a program and all that it starts; what it said. At the end of its time all are killed.

    Further devices are processes that the first one starts and that outlive it if they hang.
    """
    process = subprocess.Popen(
        words,
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "EOSFM_DATA": str(folder / "data"), **extra},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=seconds)
    finally:
        with suppress(ProcessLookupError):  # nobody is left
            os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()
        process.wait()
    assert process.returncode == 0, said
    return said


SCRIPTS = Path(sys.executable).parent


@pytest.mark.slow
def test_terratorchs_own_command_line_trains_it(project: Path, tmp_path: Path) -> None:
    config = prefixed(model_weights=str(project / "eosfm_ensemble.pth"), max_encoders=2)
    config["data"]["init_args"]["recipe"] = str(project / "tiny-rgb.yaml")
    config["trainer"]["default_root_dir"] = str(tmp_path / "out")
    write_yaml(tmp_path, config)
    words = [str(SCRIPTS / "terratorch"), "fit", "-c", "potsdam.yaml"]
    command_line(words, tmp_path, EOSFM_DATA=str(project / "data"))
    (last, *_) = (tmp_path / "out").rglob("*.ckpt")
    trained = torch.load(last, weights_only=False)["state_dict"]
    assert trained["model.encoder.gates.scores"].shape == (SPECIALISTS,)


@pytest.mark.slow
def test_terratorchs_folder_for_custom_modules_registers_it(project: Path, tmp_path: Path) -> None:
    """For YAMLs that name no class of ours; the unprefixed spelling gets its message."""
    (tmp_path / "custom_modules").mkdir()
    (tmp_path / "custom_modules" / "__init__.py").write_text("import eosfm_cli\n")
    check = """
import terratorch
from terratorch.models import EncoderDecoderFactory
rest = {"task": "segmentation", "backbone": "EosFM", "backbone_in_chans": 3,
        "decoder": "UperNetDecoder", "num_classes": 3}
model = EncoderDecoderFactory().build_model(backbone_model_weights=FILE, **rest)
print(type(model.encoder).__name__)
try:
    EncoderDecoderFactory().build_model(model_weights=FILE, **rest)
except Exception as error:
    print(type(error).__name__, error.hint)
"""
    said = command_line(
        [sys.executable, "-c", f"FILE = {str(project / 'eosfm_ensemble.pth')!r}\n{check}"], tmp_path
    )
    assert "EosFM\n" in said
    assert "UsageError eosfm export makes one. For TerraTorch's own command line" in said


WATCH = """
import os
import lightning.pytorch as pl
import torch


class Watch(pl.Callback):
    "Keep what every process ends its trainings with."

    def on_train_end(self, trainer, task):
        folder = os.environ["WATCHED"]
        done = len([f for f in os.listdir(folder) if f.startswith(f"{trainer.global_rank}-")])
        state = {name: tensor.clone() for name, tensor in task.state_dict().items()}
        torch.save(state, os.path.join(folder, f"{trainer.global_rank}-{done}.pt"))


def callbacks():
    return [Watch()]
"""


@pytest.fixture
def watched(tmp_path: Path) -> Callable[[], list[list[dict[str, torch.Tensor]]]]:
    """A callback that Lightning finds by itself; what it has seen: `[training][process]`."""
    info = tmp_path / "installed" / "watch-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: watch\nVersion: 1.0\n")
    entry = "[lightning.pytorch.callbacks_factory]\nwatch = watch:callbacks\n"
    (info / "entry_points.txt").write_text(entry)
    (info.parent / "watch.py").write_text(WATCH)
    seen = tmp_path / "seen"
    seen.mkdir()

    def read() -> list[list[dict[str, torch.Tensor]]]:
        trainings = sorted({path.stem.partition("-")[2] for path in seen.iterdir()})
        return [
            [torch.load(seen / f"{rank}-{number}.pt", weights_only=True) for rank in range(2)]
            for number in trainings
        ]

    return read


def on_two_processes(words: list[str], folder: Path, tmp_path: Path) -> None:
    program = [str(SCRIPTS / "eosfm"), *words, "--devices", "2", "-o", str(tmp_path / "runs")]
    env = {"PYTHONPATH": str(tmp_path / "installed"), "WATCHED": str(tmp_path / "seen")}
    said = command_line(program, folder, **env)
    assert "unused" not in said


def assert_same(states: list[dict[str, torch.Tensor]]) -> None:
    """Weights are the same in both processes; running statistics are each one's own."""
    one, other = states
    assert one.keys() == other.keys()
    for name in one:
        if "running_" not in name:
            assert torch.equal(one[name], other[name]), name


@pytest.mark.slow
@pytest.mark.parametrize("example", ["top-k", "smooth"])
def test_two_processes_train_a_yaml_to_the_same_weights(
    project: Path, tmp_path: Path, watched: Callable[[], Any], example: str
) -> None:
    config = whole(EXAMPLES[example], search_steps=2, max_encoders=2)
    config["trainer"] |= {"max_epochs": 3, "limit_train_batches": 1.0}
    file = write_yaml(project, config, f"two-{example}.yaml")
    on_two_processes(["train-specialist", file], project, tmp_path)
    ((leader, follower),) = watched()
    assert_same([leader, follower])
    run = only_run(tmp_path / "runs", f"two-{example}")
    last = torch.load(run.last, weights_only=True)["state_dict"]
    assert all(torch.equal(last[name], leader[name]) for name in leader)
    if example == "top-k":
        assert int(leader["model.encoder.gates.steps"]) == 2  # training went on after the choice
        assert int(leader["model.encoder.gates.final"].sum()) == 2


@pytest.mark.slow
def test_two_processes_search_and_fit_to_the_same_weights(
    project: Path, tmp_path: Path, watched: Callable[[], Any]
) -> None:
    words = ["fit-ensemble", "tiny-rgb.yaml", "--ensemble", "eosfm_ensemble.pth", "--top-k", "2"]
    on_two_processes(words, project, tmp_path)
    search, fit = watched()
    assert_same(search)
    assert_same(fit)
    (run,) = (tmp_path / "runs" / "fit" / "tiny-rgb").iterdir()
    manifest, state = read_model(RunDir(run).model)
    assert len(manifest.specialists) == 2
    best = torch.load(RunDir(run).best, weights_only=True)["state_dict"]
    assert all(torch.equal(best[f"model.{name}"], state[name]) for name in state)
    last = torch.load(RunDir(run).last, weights_only=True)["state_dict"]
    assert all(torch.equal(last[name], fit[0][name]) for name in last)
