"""Configurations of the TerraTorch and Lightning command line: told apart, read, changed.

Such a YAML file names classes to import, so it is a program: run only files that you trust. Nothing
here imports what a file names; everything is about plain values and the lines they stand in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from eosfm_cli.bands import nearest_word
from eosfm_cli.errors import RecipeError, UsageError
from eosfm_cli.run_dir import RunDir

KEYS = ("seed_everything", "trainer", "data", "model", "optimizer", "lr_scheduler")
_OF_FIT = ("ckpt_path", "weights_only")
"""What Lightning's `fit` takes beside the parts; saved configurations have it."""
_OF_TERRATORCH = (
    "custom_modules_path",
    "predict_output_dir",
    "output_file_prefix",
    "out_dtype",
    "deploy_config_file",
)
_OF_RECIPES = {"title", "task", "dataset", "classes", "variants", "training", "fit.epochs"}

DATA_MODULE = "eosfm_cli.data.recipe_datamodule.RecipeDataModule"
"""The data module over a recipe's data; a class path as any other."""


class _Loader(yaml.SafeLoader):
    """Reads `1e-4` as a number, as Lightning does; YAML 1.1 takes it for text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


@dataclass(frozen=True)
class LightningYaml:
    """A configuration, with the text that it was read from."""

    path: Path
    text: str
    data: dict[str, Any]
    """Its keys; those of `terratorch fit` at the top."""
    notes: tuple[str, ...] = ()
    """What was made of it, in the user's words."""

    @property
    def name(self) -> str:
        """The specialist: the file's name, or that of the run whose configuration it is."""
        run = RunDir(self.path.parent)
        if self.path.name == run.config.name:
            return str(run.read_summary().get("name") or self.path.stem)
        return self.path.stem

    @property
    def has_recipe(self) -> bool:
        """Whether its data is a recipe's."""
        return class_path(self.data.get("data")) == DATA_MODULE

    def error(self, key: str, problem: str, *, hint: str | None = None) -> RecipeError:
        """A message about a key, with its line."""
        line = self._line(key.split("."))
        place = f"{self.path}, line {line}" if line else str(self.path)
        return RecipeError(
            f"{place}: {key}: {problem}" if key else f"{place}: {problem}", hint=hint
        )

    def _line(self, where: Sequence[str]) -> int | None:
        """The line of the deepest part of `where` that stands in the text."""
        node, line = yaml.compose(self.text, Loader=yaml.SafeLoader), None
        for part in where:
            if isinstance(node, yaml.MappingNode):
                hit = next(((k, v) for k, v in node.value if k.value == part), None)
                if hit is None:
                    break
                line, node = hit[0].start_mark.line + 1, hit[1]
            elif isinstance(node, yaml.SequenceNode) and part.isdecimal():
                if int(part) >= len(node.value):
                    break
                node = node.value[int(part)]
                line = node.start_mark.line + 1
        return line

    def with_data(self, data: dict[str, Any], *notes: str) -> LightningYaml:
        """The same file with other values, and what was done to them."""
        return LightningYaml(self.path, self.text, data, (*self.notes, *notes))


def class_path(part: Any) -> str | None:  # noqa: ANN401 - raw YAML
    """The class that a part of a configuration names."""
    if isinstance(part, Mapping):
        part = part.get("class_path")
    return part if isinstance(part, str) else None


def is_lightning_yaml(name: str | Path) -> bool:
    """Whether a file is a configuration of Lightning's command line and no recipe."""
    path = Path(name)
    if path.suffix not in {".yaml", ".yml"} or not path.is_file():
        return False
    try:
        keys = set(_parts(yaml.load(path.read_text(encoding="utf-8"), _Loader)))
    except (yaml.YAMLError, OSError, ValueError, TypeError, RecursionError):
        return False  # as a recipe it gets its message
    return bool(keys & set(KEYS)) and not keys & _OF_RECIPES


def _parts(raw: Any) -> dict[str, Any]:  # noqa: ANN401 - raw YAML
    """The keys of a configuration, which may stand below `fit`."""
    found = raw if isinstance(raw, dict) else {}
    below = found.get("fit")
    return below if isinstance(below, dict) and set(below) & set(KEYS) else found


def read_lightning_yaml(path: Path) -> LightningYaml:
    """Read a configuration and check its shape.

    Raises:
        RecipeError: A part is unknown, missing, or no mapping.
    """
    text = path.read_text(encoding="utf-8")
    config = LightningYaml(path, text, _parts(yaml.load(text, _Loader)))
    known = (*KEYS, *_OF_FIT, *_OF_TERRATORCH)
    for key in config.data:
        if key not in known:
            near = nearest_word(str(key), KEYS)
            raise config.error(
                str(key),
                "unknown key"
                + (f", did you mean {near!r}?" if near else f"; known: {_list(KEYS)}"),
            )
    for part in ("model", "data"):
        if not config.data.get(part):
            raise config.error(
                "",
                f"{part!r} is missing: nothing says what to train{' on' * (part == 'data')}.",
                hint="`eosfm recipes show mini --as terratorch` prints a complete file.",
            )
    for part in ("trainer", "model", "data", "optimizer", "lr_scheduler"):
        value = config.data.get(part)
        if not (
            value is None or isinstance(value, dict) or (part != "trainer" and class_path(value))
        ):
            raise config.error(part, "should be a mapping of keys to values.")
    return config


def _list(words: Sequence[str]) -> str:
    return ", ".join(words)


# --------------------------------------------------------------------------- options


_OPTIONS = {
    "epochs": "trainer.max_epochs",
    "devices": "trainer.devices",
    "precision": "trainer.precision",
    "seed": "seed_everything",
    "batch_size": "data.init_args.batch_size",
    "backbone": "model.init_args.model_args.backbone",
    "pretrained": "model.init_args.model_args.backbone_pretrained",
}
"""Option -> the key that it stands for; `lr` is either the optimizer's or the model's."""


def with_options(
    config: LightningYaml, options: Mapping[str, Any], pairs: Mapping[str, Any]
) -> LightningYaml:
    """The configuration with options, then `--set` pairs, laid over it.

    Args:
        config: As read.
        options: Option -> value, those that were given.
        pairs: Dotted key -> value.

    Raises:
        UsageError: An option or key cannot apply to this file.
    """
    keys = {_key_of(config, option): value for option, value in options.items()}
    if "seed" in options and config.has_recipe:
        keys["data.init_args.seed"] = options["seed"]  # of the data's order and augmentation
    data, notes = config.data, []
    for key, value in {**keys, **pairs}.items():
        if key.split(".")[0] not in KEYS:
            raise UsageError(
                f"--set {key}: {config.path} is a Lightning YAML; its keys are {_list(KEYS)}.",
                hint=f"Keys of the recipe: --set data.init_args.overrides.{key}=…"
                if config.has_recipe
                else "As in --set trainer.max_epochs=3",
            )
        data = _put(data, key.split("."), value, key)
    if (epochs := keys.get("trainer.max_epochs")) is not None:
        data, notes = _following_schedule(config.data, data, epochs)
    return config.with_data(data, *notes)


def _key_of(config: LightningYaml, option: str) -> str:
    if option == "lr":
        return "optimizer.init_args.lr" if config.data.get("optimizer") else "model.init_args.lr"
    key = _OPTIONS[option]
    if option == "batch_size" and "batch_size" in _at(config.data, ("data", "dict_kwargs")):
        return "data.dict_kwargs.batch_size"
    if ".model_args." in key and not _at(config.data, ("model", "init_args", "model_args")):
        raise config.error(
            "model", f"--{option.replace('_', '-')} cannot apply: the model has no model_args."
        )
    return key


def _following_schedule(
    before: Mapping[str, Any], data: dict[str, Any], epochs: int
) -> tuple[dict[str, Any], list[str]]:
    """Let a schedule that spanned all epochs span the new number of them."""
    place = ("lr_scheduler", "init_args")
    spanned = _at(before, place).get("T_max")
    if spanned is None or spanned != _at(before, ("trainer",)).get("max_epochs"):
        return data, []
    key = "lr_scheduler.init_args.T_max"
    return _put(data, key.split("."), epochs, key), [f"{key} follows --epochs: {epochs}"]


def _at(data: Any, where: Sequence[str]) -> Mapping[str, Any]:  # noqa: ANN401 - raw YAML
    """The mapping at a place; an empty one where there is none."""
    for part in where:
        data = data.get(part) if isinstance(data, Mapping) else None
    return data if isinstance(data, Mapping) else {}


def _put(data: Any, where: Sequence[str], value: Any, key: str) -> Any:  # noqa: ANN401 - raw YAML
    """A copy of `data` with another value at a place; list items are counted from 0."""
    if not where:
        return value
    first, *rest = where
    if isinstance(data, list):
        if not first.isdecimal() or int(first) >= len(data):
            raise UsageError(
                f"--set {key}: {first!r} is no item of a list of {len(data)}, counted from 0."
            )
        index = int(first)
        return [*data[:index], _put(data[index], rest, value, key), *data[index + 1 :]]
    if isinstance(data, str) and first in {"init_args", "dict_kwargs"}:
        data = {"class_path": data}  # the short way to name a class without arguments
    if data is not None and not isinstance(data, Mapping):
        raise UsageError(f"--set {key}: {first!r} stands below {data!r}, which has no keys.")
    return {**(data or {}), first: _put((data or {}).get(first), rest, value, key)}


# --------------------------------------------------------------------------- the run folder


@dataclass(frozen=True)
class Monitor:
    """The value that picks the best epoch."""

    name: str
    mode: str
    """`max` or `min`."""


def for_run_folder(config: LightningYaml) -> tuple[LightningYaml, Monitor | None]:
    """Take out what says where results go: the run folder does. What picks the best epoch stays.

    Raises:
        RecipeError: The file asks for a trial of a few batches, which leaves no run.
    """
    trainer = dict(config.data.get("trainer") or {})
    if trainer.get("fast_dev_run"):
        raise config.error(
            "trainer.fast_dev_run",
            "a trial of some batches leaves no run.",
            hint="Take it out; for a short run: --epochs 1 --set trainer.limit_train_batches=2",
        )
    callbacks = trainer.get("callbacks") or []
    callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
    ours = [one for one in callbacks if _OURS.search(class_path(one) or "")]
    trainer["callbacks"] = [one for one in callbacks if one not in ours] or None
    gone = {class_path(one).rpartition(".")[2] for one in ours}
    for key in ("logger", "default_root_dir", "enable_checkpointing"):
        if trainer.pop(key, None) not in (None, True):
            gone.add(f"trainer.{key}")
    for key in ("enable_progress_bar", "enable_model_summary", "barebones"):
        trainer.pop(key, None)
    note = "the run folder takes the place of " + ", ".join(sorted(gone))
    return (
        config.with_data({**config.data, "trainer": trainer}, *([note] if gone else [])),
        _monitor(ours),
    )


def remembering(text: str, monitor: Monitor | None) -> str:
    """The text of a configuration, with what picks the best epoch, as `for_run_folder` reads it."""
    if monitor is None:
        return text
    data = yaml.load(text, _Loader)
    kept = {
        "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
        "init_args": {"monitor": monitor.name, "mode": monitor.mode},
    }
    others = _at(data, ("trainer",)).get("callbacks") or []
    callbacks = [*(others if isinstance(others, list) else [others]), kept]
    data["trainer"] = {**(data.get("trainer") or {}), "callbacks": callbacks}
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)


_OURS = re.compile(r"(ModelCheckpoint|ProgressBar|ModelSummary)$")
"""Callbacks whose work the run folder and the command line do."""


def _monitor(callbacks: Sequence[Any]) -> Monitor | None:
    for one in callbacks:
        arguments = _at(one, ("init_args",))
        if arguments.get("monitor"):
            return Monitor(str(arguments["monitor"]), str(arguments.get("mode") or "min"))
    return None


# --------------------------------------------------------------------------- versions


def with_factory(config: LightningYaml) -> LightningYaml:
    """Name TerraTorch's factory where `model_args` ask for one; older versions took it as given."""
    arguments = _at(config.data, ("model", "init_args"))
    named = any(arguments.get(key) for key in ("model_factory", "model"))
    if not arguments.get("model_args") or named or not _is_terratorch(config):
        return config
    key = "model.init_args.model_factory"
    factory = "EncoderDecoderFactory"
    return config.with_data(
        _put(config.data, key.split("."), factory, key), f"{key}: {factory}, as none is named"
    )


def _is_terratorch(config: LightningYaml) -> bool:
    return (class_path(config.data.get("model")) or "").startswith("terratorch.")


# --------------------------------------------------------------------------- backbone: EosFM

ENSEMBLE = "EosFM"
"""The backbone that is an ensemble, as TerraTorch's registry and the published project call it."""
ENSEMBLE_NAMES = (ENSEMBLE, f"terratorch_{ENSEMBLE}")
ENSEMBLE_ARGUMENTS = (
    "model_weights",
    "in_chans",
    "freeze",
    "normalize_features",
    "normalization_type",
    "projection_layer",
    "feature_fusion",
    "fuse_to_mult",
    "max_encoders",
    "encoder_selection_mode",
    "scale_features",
    "ablate_encoders",
    "bands",
    "adapt",
    "search_steps",
    "legacy",
)
"""Its arguments."""
_OF_FACTORY = (
    "backbone",
    "decoder",
    "num_classes",
    "num_outputs",
    "necks",
    "aux_decoders",
    "rescale",
    "image_size_out",
    "peft_config",
)
_PREFIXES = ("backbone_", "decoder_", "head_")
_MODEL_ARGS = "model.init_args.model_args"


def has_ensemble(config: LightningYaml) -> bool:
    """Whether what is trained stands on an ensemble, and so is no specialist."""
    return _at(config.data, _MODEL_ARGS.split(".")).get("backbone") in ENSEMBLE_NAMES


def with_ensemble(config: LightningYaml) -> LightningYaml:
    """Let TerraTorch find the arguments of `backbone: EosFM`, and the ensemble's file.

    TerraTorch hands a backbone only what has `backbone_` before it; the published project writes
    most of it without.

    Raises:
        RecipeError: An argument is unknown, or stands there in both ways.
    """
    if not has_ensemble(config):
        return config
    arguments = _at(config.data, _MODEL_ARGS.split("."))
    bare = [key for key in arguments if key in ENSEMBLE_ARGUMENTS]
    for key in arguments:
        _check_argument(config, key, arguments)
    renamed = {f"backbone_{k}" if k in bare else k: v for k, v in arguments.items()}
    files = renamed.get("backbone_model_weights")
    if files:
        renamed["backbone_model_weights"] = _whole_paths(files)
    notes = [f"backbone_ put before {_list(bare)}, as TerraTorch has it"] if bare else []
    if config.has_recipe and not renamed.get("backbone_bands"):
        notes.append("specialists are fed by the number of bands; model_args.bands feeds by name")
    data = _put(config.data, _MODEL_ARGS.split("."), renamed, _MODEL_ARGS)
    return config.with_data(data, *notes)


def _check_argument(config: LightningYaml, key: str, arguments: Mapping[str, Any]) -> None:
    if key in ENSEMBLE_ARGUMENTS and f"backbone_{key}" in arguments:
        raise config.error(
            f"{_MODEL_ARGS}.{key}", f"backbone_{key} is there too; keep one of them."
        )
    known = (*ENSEMBLE_ARGUMENTS, *_OF_FACTORY)
    if key not in known and not key.startswith(_PREFIXES):
        near = nearest_word(key, known)
        raise config.error(
            f"{_MODEL_ARGS}.{key}",
            "unknown key" + (f", did you mean {near!r}?" if near else "."),
            hint=f"{ENSEMBLE} takes {_list(ENSEMBLE_ARGUMENTS)}.",
        )


def _whole_paths(files: Any) -> Any:  # noqa: ANN401 - raw YAML
    """The files by absolute paths, so that the run's copy of the configuration finds them again."""
    if isinstance(files, list):
        return [_whole_paths(file) for file in files]
    is_path = isinstance(files, str) and not files.startswith("hf:")
    return str(Path(files).expanduser().absolute()) if is_path else files
