"""What a Lightning YAML describes, built by TerraTorch's own command line and put to work."""

from __future__ import annotations

import inspect
import re
from argparse import ArgumentError
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
from lightning.fabric.plugins.io import CheckpointIO
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.model_helpers import is_overridden
from terratorch.cli_tools import MyLightningCLI, import_custom_modules

from eosfm_cli.bands import nearest_word
from eosfm_cli.ensemble.published import EosFM
from eosfm_cli.errors import EosfmError, RecipeError, is_out_of_memory
from eosfm_cli.lightning_yaml import ENSEMBLE_NAMES, LightningYaml, Monitor, class_path
from eosfm_cli.progress import Progress
from eosfm_cli.results import lower_is_better
from eosfm_cli.run_dir import RunDir
from eosfm_cli.training.callbacks import KeepBudget, NoteStop, RandomState, Report, WriteHistory
from eosfm_cli.training.registry import ensemble_of
from eosfm_cli.training.task import metric_of
from eosfm_cli.training.trainer import WholeFiles, checkpoints


@dataclass(frozen=True)
class Described:
    """What a configuration stands for."""

    task: pl.LightningModule
    data: pl.LightningDataModule
    trainer: dict[str, Any]
    """The trainer's arguments."""
    config: str
    """The configuration with every default filled in, as YAML."""

    @property
    def ensemble(self) -> EosFM | None:
        """The encoder, where it is an ensemble."""
        return ensemble_of(self.task)

    @property
    def metric(self) -> str:
        """The score by which the task is judged."""
        return metric_of(self.task)


class _Cli(MyLightningCLI):
    """Builds everything but the trainer, which belongs to a run folder."""

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Take the file's values alone; what the program was started with is not Lightning's."""
        self.config = parser.parse_object(args)

    def instantiate_classes(self) -> None:
        """Leave out what TerraTorch adds here: its own checkpoints and where predictions go."""
        LightningCLI.instantiate_classes(self)

    def instantiate_trainer(self, **kwargs: Any) -> None:  # noqa: ANN401 - Lightning's
        """Keep the arguments for later."""
        self.trainer_arguments = {**self.config_init.get("trainer", {}), **kwargs}


def build_described(config: LightningYaml) -> Described:
    """Import, seed and build what a configuration names. This runs what it names.

    Raises:
        RecipeError: It does not fit the versions installed here, or something cannot be built.
    """
    _check_trainer_keys(config)
    parts = {key: value for key, value in config.data.items() if key not in {"ckpt_path"}}
    parts.pop("weights_only", None)
    try:
        import_custom_modules(parts.get("custom_modules_path"))
        cli = _Cli(
            model_class=pl.LightningModule,
            datamodule_class=pl.LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            seed_everything_default=0,
            parser_kwargs={"exit_on_error": False},
            save_config_callback=None,
            args=parts,
            run=False,
        )
    except ArgumentError as error:
        raise _explained(config, str(error)) from None
    except Exception as error:  # whatever the classes that the file names have in store
        raise _unbuildable(config, error) from error
    return Described(
        cli.model,
        cli.datamodule,
        cli.trainer_arguments,
        cli.parser.dump(cli.config, format="yaml", skip_unset=False),
    )


def _unbuildable(config: LightningYaml, error: Exception) -> Exception:
    """What a class that the file names said, without what the parser put around it."""
    part = ""
    while error.__cause__ is not None and str(error).startswith("Does not validate"):
        part = "data" if "LightningDataModule" in str(error) else "model"
        error = error.__cause__
    if isinstance(error, EosfmError) or is_out_of_memory(error):
        return error
    what = part or "what it describes"
    return config.error(
        part,
        f"{what} cannot be built: {_first_words(error)}",
        hint="Compare with `eosfm recipes show mini --as terratorch`; --debug shows where.",
    )


def _first_words(error: Exception) -> str:
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


# --------------------------------------------------------------------------- messages


_GONE = {
    "gpus": "write accelerator: gpu, devices: {value}",
    "num_processes": "write accelerator: cpu, devices: {value}",
    "tpu_cores": "write accelerator: tpu, devices: {value}",
    "distributed_backend": "write strategy: {value}",
    "auto_select_gpus": "write devices: auto",
    "replace_sampler_ddp": "write use_distributed_sampler: {value}",
    "amp_backend": "write precision: 16-mixed",
    "amp_level": "write precision: 16-mixed",
    "checkpoint_callback": "the run folder keeps the best and the last checkpoint; take it out",
    "weights_save_path": "checkpoints are in the run folder; take it out",
    "progress_bar_refresh_rate": "eosfm has its own progress bar; take it out",
    "process_position": "eosfm has its own progress bar; take it out",
    "weights_summary": "take it out",
    "flush_logs_every_n_steps": "take it out",
    "log_gpu_memory": "write callbacks: [{{class_path: DeviceStatsMonitor}}]",
    "stochastic_weight_avg": "write callbacks: [{{class_path: StochasticWeightAveraging, "
    "init_args: {{swa_lrs: 0.01}}}}]",
    "terminate_on_nan": "write detect_anomaly: {value}",
    "track_grad_norm": "take it out",
    "move_metrics_to_cpu": "take it out",
    "multiple_trainloader_mode": "take it out",
    "prepare_data_per_node": "take it out",
    "truncated_bptt_steps": "take it out",
    "reload_dataloaders_every_epoch": "write reload_dataloaders_every_n_epochs: 1",
    "resume_from_checkpoint": "go on with a run of eosfm by --resume RUN",
    "auto_lr_find": "choose a rate with --lr",
    "auto_scale_batch_size": "choose a size with --batch-size",
}
"""Arguments of the trainer before Lightning 2, and what to do instead."""


def _check_trainer_keys(config: LightningYaml) -> None:
    known = set(inspect.signature(pl.Trainer.__init__).parameters) - {"self"}
    for key, value in (config.data.get("trainer") or {}).items():
        if key in known:
            continue
        if key in _GONE:
            remedy = _GONE[key].format(value=value)
            raise config.error(f"trainer.{key}", f"this was removed in Lightning 2: {remedy}.")
        near = nearest_word(str(key), known)
        raise config.error(
            f"trainer.{key}",
            f"Lightning {pl.__version__}'s trainer has no such key"
            + (f", did you mean {near!r}?" if near else "."),
        )


_PLACES = {
    "data": ("terratorch.datamodules", "torchgeo.datamodules"),
    "model": ("terratorch.tasks",),
    "optimizer": ("torch.optim",),
    "lr_scheduler": ("torch.optim.lr_scheduler",),
    "trainer.callbacks": ("lightning.pytorch.callbacks",),
}
"""Where classes that can do without a dotted path are."""


def _explained(config: LightningYaml, text: str) -> RecipeError:
    """One message for what the parser found; it lists every type that it tried."""
    key = (re.search(r'Parser key "([^"]+)"', text) or ["", ""])[1]
    where = _place(config, key, text)
    given = (re.search(r"Problem with given class_path '([^']+)'", text) or ["", ""])[1]
    if option := re.search(r"Option '([^']+)' is not accepted", text):
        return _unknown_argument(config, where, given, option[1])
    if missing := re.search(r"[Kk]ey \"([^\"]+)\" is required", text):
        return config.error(where, f"{given.rpartition('.')[2]} needs {missing[1]}.")
    if name := re.search(r"Expected a dot import path string: (\S+)", text):
        near = nearest_word(
            name[1], [n for p in _PLACES.get(key, ()) for n in dir(import_module(p))]
        )
        return config.error(
            f"{where}.class_path",
            f"there is no class {name[1]!r}" + (f", did you mean {near!r}?" if near else "."),
            hint=None if near else "Write its full path, as in torch.optim.AdamW",
        )
    reasons = _reasons(text)
    if given:
        return config.error(
            f"{where}.class_path",
            f"{given} cannot be used: {'; '.join(reasons)}.",
            hint="Is the package installed in this environment, and of the version that the file "
            "was written for?",
        )
    value = (re.search(r"Given value: (.*)", text) or ["", ""])[1]
    of = f"{value!r} will not do: " if value and "{" not in value else ""
    wanted = " or ".join(dict.fromkeys(reason.removeprefix("expected ") for reason in reasons))
    return config.error(where, f"{of}expected {wanted}." if of else "; ".join(reasons) + ".")


def _place(config: LightningYaml, key: str, text: str) -> str:
    """The key, or in a list of classes that of the one which the message is about."""
    value: Any = config.data
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    if isinstance(value, list):
        for index, item in enumerate(value):
            name = (class_path(item) or "").rpartition(".")[2]
            if name and re.search(rf"\b{re.escape(name)}\b", text.partition("Given value")[0]):
                return f"{key}.{index}"
    return key


def _unknown_argument(config: LightningYaml, where: str, given: str, option: str) -> RecipeError:
    name = given.rpartition(".")[2]
    if not given:
        return config.error(f"{where}.{option}" if where else option, "unknown key.")
    taken = _arguments_of(given)
    near = nearest_word(option, taken)
    remedy = f", did you mean {near!r}?" if near else "."
    hint = None if near or not taken else f"It takes {', '.join(taken)}."
    if name == "LightningModule" or name == "LightningDataModule":
        return config.error(where, "class_path is missing: it says which class this is.")
    return config.error(
        f"{where}.init_args.{option}", f"{name} takes no {option!r}{remedy}", hint=hint
    )


def _arguments_of(path: str) -> list[str]:
    """The arguments of a class, its parents' included."""
    module, _, name = path.rpartition(".")
    found = getattr(import_module(module), name)
    signatures = [inspect.signature(c.__init__) for c in found.__mro__ if c is not object]
    names = dict.fromkeys(n for signature in signatures for n in signature.parameters)
    return [n for n in names if n not in {"self", "args", "kwargs", "params", "optimizer"}]


def _reasons(text: str) -> list[str]:
    """What the parser says, without the types that it tried in vain."""
    lines = [
        line.strip().removeprefix("- ") for line in text.partition("Given value")[0].splitlines()
    ]
    headings = ("Parser key", "Does not validate", "Subtypes:", "Errors:", "Problem with given")
    kept = [
        line.rstrip(".:")
        for line in lines
        if line and not line.startswith(headings) and "NoneType" not in line
    ]
    kept = [
        re.sub(r"^Expected a (?:<class '(.*)'>|typing\.Literal\[(.*)\])$", _type, one)
        for one in kept
    ]
    return list(dict.fromkeys(kept)) or ["it does not fit"]


def _type(found: re.Match[str]) -> str:
    words = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}
    return f"expected {words.get(found[1], found[1]) if found[1] else found[2]}"


# --------------------------------------------------------------------------- the run


def check_described_machine(config: LightningYaml, described: Described) -> None:
    """Check that this machine has what the trainer asks for.

    Raises:
        RecipeError: It has not.
    """
    asked = {
        key: described.trainer[key]
        for key in ("accelerator", "devices", "num_nodes", "precision", "strategy")
        if isinstance(described.trainer.get(key), str | int | list)
    }
    try:
        pl.Trainer(**asked, logger=False, enable_checkpointing=False, barebones=False)
    except (MisconfigurationException, ValueError, RuntimeError, TypeError) as error:
        raise config.error("trainer", f"this machine cannot train so: {error}") from None


def build_described_trainer(
    described: Described,
    run: RunDir,
    *,
    monitor: Monitor | None,
    progress: Progress,
    title: str,
    after_epoch: Callable[[], None],
    keep_budget: KeepBudget | None = None,
) -> pl.Trainer:
    """The trainer that a configuration describes, working in a run folder.

    Args:
        described: Whose trainer it is; its callbacks stay.
        run: Where everything goes.
        monitor: What picks the best epoch; the task's own score or loss if not given.
        progress: Who is told.
        title: What the progress bar says.
        after_epoch: Called when an epoch is written down.
        keep_budget: What ends training when it has used what it was given.
    """
    chosen = monitor or _own_monitor(described)
    best, last = checkpoints(
        run.checkpoints, chosen and chosen.name, chosen.mode if chosen else "min"
    )
    metric = described.metric
    callbacks: list[Callback] = [
        *_listed(described.trainer.get("callbacks")),
        Report(progress, title, metric),
        RandomState(),
        NoteStop(),
        best,
        WriteHistory(run, metric=metric, phase="fit", after_epoch=after_epoch),
        last,
        *([keep_budget] if keep_budget else []),
    ]
    plugins = _listed(described.trainer.get("plugins"))
    if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
        plugins = [*plugins, WholeFiles()]
    return pl.Trainer(
        **{
            **described.trainer,
            "callbacks": callbacks,
            "plugins": plugins,
            "logger": TensorBoardLogger(run.path, name="", version="tensorboard", sub_dir="fit"),
            "default_root_dir": run.path,
            "enable_checkpointing": True,
            "enable_progress_bar": False,
            "enable_model_summary": False,
        }
    )


def _listed(value: Any) -> list[Any]:  # noqa: ANN401 - one, several or none
    return (
        list(value)
        if isinstance(value, Sequence) and not isinstance(value, str)
        else ([] if value is None else [value])
    )


def _own_monitor(described: Described) -> Monitor | None:
    if described.trainer.get("limit_val_batches") == 0 or not is_overridden(
        "validation_step", described.task
    ):
        return None
    if described.metric != "loss":
        mode = "min" if lower_is_better(described.metric) else "max"
        return Monitor(f"val/{described.metric}", mode)
    own = getattr(described.task, "monitor", None)
    return Monitor(own, "min") if isinstance(own, str) else None


@contextmanager
def monitored_values(config: LightningYaml) -> Iterator[None]:
    """Say clearly that a callback waits for a value which the task does not log.

    Raises:
        RecipeError: One does.
    """
    try:
        yield
    except (MisconfigurationException, RuntimeError) as error:
        if not re.search(r"could not find the monitored key|conditioned on metric", str(error)):
            raise
        raise config.error(
            "trainer.callbacks",
            f"monitor names no value that this task logs: {_first_words(error)}",
            hint="TerraTorch's tasks log val/loss, and val/mIoU, val/Accuracy or val/RMSE.",
        ) from None


def scored_split(described: Described, progress: Progress) -> Literal["test", "val"] | None:
    """The split to measure on: `test` where there is one, else `val`; `None` without either.

    Data modules say in many ways that they have no test split; asking is the only way to know.
    """
    if is_overridden("test_step", described.task):
        try:
            described.data.setup("test")
            if described.data.test_dataloader():
                return "test"
        except EosfmError:
            raise
        except Exception as error:
            progress.warn(f"no test split: {_first_words(error)}")
    return "val" if is_overridden("validation_step", described.task) else None


def backbone_of(described: Described) -> str | None:
    """The timm model that the task's encoder is, where its arguments say so."""
    arguments = dict(described.task.hparams).get("model_args")
    name = arguments.get("backbone") if isinstance(arguments, Mapping) else None
    is_timm = isinstance(name, str) and name not in ENSEMBLE_NAMES
    return name.removeprefix("timm_") if is_timm else None


def check_no_checkpoint(config: LightningYaml) -> None:
    """Refuse to go on from a checkpoint of another run, which would pass for a whole training.

    Raises:
        RecipeError: The file names one.
    """
    if (path := config.data.get("ckpt_path")) is not None:
        raise config.error(
            "ckpt_path",
            f"a run of eosfm starts at its beginning, not at {Path(str(path))}.",
            hint="Take it out; a run of eosfm goes on with --resume RUN.",
        )
