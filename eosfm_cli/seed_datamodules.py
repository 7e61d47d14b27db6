"""Data modules of the published EoS-FM configurations, as recipes of the same data.

A new one is one line in `SEED_DATA`. What such a configuration says about its data is carried over
by name; what eosfm does otherwise (splits, labels, normalisation) is told.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from eosfm_cli.bands import band_name, nearest_word
from eosfm_cli.errors import UsageError
from eosfm_cli.lightning_yaml import (
    DATA_MODULE,
    LightningYaml,
    class_path,
    read_lightning_yaml,
    with_options,
)
from eosfm_cli.recipe import Recipe, load_recipe, recipe_names


@dataclass(frozen=True)
class SeedData:
    """What stands for a data module."""

    recipe: str
    bands: tuple[int, ...] = ()
    """Which of the files' bands it takes if not told; all if empty."""
    variants: tuple[str, ...] = ()
    """Values of its `bands` that are variants of the recipe; the first if not told."""
    composites: Mapping[str, int] = field(default_factory=dict)
    """Variant -> channels that it made of fewer bands, as three of two polarisations; without
    variants, of the recipe itself under an empty name."""


SEED_DATA: dict[str, SeedData] = {
    "BigEarthNetV2": SeedData(
        "bigearthnetv2", variants=("all", "rgb", "s1", "s2"), composites={"s1": 3}
    ),
    "CaFFe": SeedData("caffe", composites={"": 3}),
    "CloudCoverDetection": SeedData("cloud-cover"),
    "CV4AKenyaCropType": SeedData("kenya-croptype"),
    "DFC2022": SeedData("dfc2022"),
    "ETCI2021": SeedData("etci2021", composites={"": 3}),
    "InriaAerial": SeedData("inria-aerial"),
    "MiniFrance": SeedData("minifrance"),
    "OpenCanopy": SeedData("opencanopy", bands=(3, 0, 1)),
    "Potsdam2D": SeedData("potsdam", bands=(3, 0, 1)),
    "SEN12MS": SeedData("sen12ms", variants=("all", "rgb", "s1", "s2"), composites={"s1": 3}),
}
"""Name of a data module without the ending `DataModule` -> what stands for it."""

_PACKAGE = "eosfm.datamodules"
_RENAMED = {
    "batch_size": "batch_size",
    "num_workers": "workers",
    "tile_size": "tile.size",
    "patch_size": "tile.size",
    "stride": "tile.stride",
    "root": "dataset.root",
    "root_dir": "dataset.root",
}
"""What they are told -> the data module's argument, or the recipe's key where there is a dot."""
_OTHERWISE = {
    "val_split_pct": "the recipe says what is for validation",
    "download": "`eosfm recipes show` says how to get the data",
    "checksum": "files are checked when they are read",
    "pin_memory": "it is done where there is a GPU",
    "use_tiling": "the recipe's tile.train says how training tiles are taken",
}
"""What they are told and eosfm does in its own way."""


def load_lightning_yaml(
    path: Path, options: Mapping[str, Any], pairs: Mapping[str, Any], data_root: Path | None
) -> LightningYaml:
    """Read a configuration as it will run: with options, and recipes for published data modules.

    Args:
        path: The file.
        options: Option -> value, those that were given: `epochs`, `batch_size`, `lr`, …
        pairs: `--set`: dotted key of the file -> value.
        data_root: `--data-root`.

    Raises:
        RecipeError: The file has errors.
        UsageError: An option or key cannot apply to it.
    """
    config = with_options(read_lightning_yaml(path), options, pairs)
    return with_our_data(config, data_root)


def with_our_data(config: LightningYaml, data_root: Path | None) -> LightningYaml:
    """The configuration with a recipe in place of a published data module; any other as it is.

    Args:
        config: As read, with options.
        data_root: `--data-root`; it goes before a folder that the file names.

    Raises:
        RecipeError: There is no recipe for that data module, or it is told what cannot be.
        UsageError: `data_root` was given and the data is not a recipe's.
    """
    name = _seed_name(class_path(config.data["data"]) or "")
    if name is not None and name not in SEED_DATA:
        raise config.error(
            "data.class_path",
            f"eosfm has no recipe for {class_path(config.data['data'])} yet.",
            hint=f"Recipes there are: {', '.join(recipe_names())}. Of your own: "
            "eosfm recipes new FOLDER",
        )
    if name is not None:
        return _translated(config, SEED_DATA[name], data_root)
    if not config.has_recipe:
        if data_root is not None:
            raise UsageError(
                f"--data-root cannot apply to {config.path}: its data module names its folders.",
                hint="As in --set data.init_args.train_data_root=FOLDER",
            )
        return config
    return _placed(config, data_root)


def _seed_name(path: str) -> str | None:
    """The published data module that a class path means, without its ending; `None` if another."""
    package, _, name = path.rpartition(".")
    name = re.sub(r"DataModule$", "", name)
    if package == _PACKAGE or package.startswith(f"{_PACKAGE}."):
        known = name in SEED_DATA or find_spec(_PACKAGE.partition(".")[0]) is None
        return name if known else None  # where that package is installed, its others run
    return name if not package and name in SEED_DATA and path != name else None


def _arguments(config: LightningYaml) -> dict[str, Any]:
    data = config.data["data"]
    parts = (
        [data.get(key) for key in ("init_args", "dict_kwargs")] if isinstance(data, dict) else []
    )
    return {key: value for part in parts for key, value in (part or {}).items()}


def _placed(config: LightningYaml, data_root: Path | None) -> LightningYaml:
    """The places of recipe and data as absolute paths, so that the run's copy finds them again."""
    arguments = _arguments(config)
    recipe = arguments.get("recipe")
    if isinstance(recipe, str) and Path(recipe).suffix in {".yaml", ".yml"}:
        arguments["recipe"] = str(Path(recipe).absolute())
    root = data_root or arguments.get("data_root")
    arguments["data_root"] = _data_root(root) if root or _is_relative(arguments) else None
    return config.with_data({**config.data, "data": _ours(arguments)})


def _is_relative(arguments: Mapping[str, Any]) -> bool:
    """Whether a recipe's data is looked for below the folder of all datasets."""
    overrides = arguments.get("overrides")
    keys = overrides if isinstance(overrides, Mapping) else {}
    try:
        recipe = load_recipe(str(arguments.get("recipe")))
    except UsageError:
        return True  # the data module says what is wrong with the recipe
    return not Path(keys.get("dataset.root") or recipe.dataset.root).expanduser().is_absolute()


def _data_root(given: str | Path | None) -> str:
    return str(Path(given or os.environ.get("EOSFM_DATA") or "data").expanduser().absolute())


def _ours(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {"class_path": DATA_MODULE, "init_args": dict(arguments)}


# --------------------------------------------------------------------------- translation


def _translated(config: LightningYaml, seed: SeedData, data_root: Path | None) -> LightningYaml:
    given = _arguments(config)
    channels = _model_arguments(config).get("backbone_in_chans")
    bands = given.pop("bands", None)
    bands = given.pop("band_indices", None) or bands
    name, overrides, made = _chosen(config, seed, bands, channels)
    arguments: dict[str, Any] = {"recipe": name}
    notes = [f"{class_path(config.data['data'])}: recipe {name}"]
    for key, value in given.items():
        renamed = _RENAMED.get(key)
        if renamed is None:
            notes.append(f"data: {key} is not used{_why(key)}")
        elif value is not None:
            (overrides if "." in renamed else arguments)[renamed] = value
    if data_root is not None or "dataset.root" not in overrides:
        overrides.pop("dataset.root", None)
        arguments["data_root"] = _data_root(data_root)
    else:
        overrides["dataset.root"] = _data_root(overrides["dataset.root"])
    if isinstance(config.data.get("seed_everything"), int):
        arguments["seed"] = int(config.data["seed_everything"])
    recipe = _loaded(config, name, overrides)
    if overrides:
        arguments["overrides"] = overrides
    model, changes = _fitting_model(config, recipe, made)
    data = {**config.data, "data": _ours(arguments), "model": model}
    return config.with_data(data, *notes, f"bands: {', '.join(recipe.bands)}", *changes)


def _why(key: str) -> str:
    if key in _OTHERWISE:
        return f": {_OTHERWISE[key]}"
    near = nearest_word(key, [*_RENAMED, "bands"])
    return f"; did you mean {near}?" if near else ""


def _loaded(config: LightningYaml, name: str, overrides: Mapping[str, Any]) -> Recipe:
    try:
        return load_recipe(name, overrides)
    except UsageError as error:
        raise config.error("data", error.message.replace("--set ", ""), hint=error.hint) from None


def _chosen(
    config: LightningYaml,
    seed: SeedData,
    bands: Any,  # noqa: ANN401 - raw YAML
    channels: Any,  # noqa: ANN401 - raw YAML
) -> tuple[str, dict[str, Any], int | None]:
    """The recipe, keys to lay over it, and how many channels its bands were made into."""
    if seed.variants and (bands is None or isinstance(bands, str)):
        variant = seed.variants[0] if bands is None else bands
        if variant not in seed.variants:
            near = nearest_word(variant, seed.variants)
            raise config.error(
                "data.init_args.bands",
                f"{variant!r} is not known"
                + (f", did you mean {near!r}?" if near else f"; known: {', '.join(seed.variants)}"),
            )
        return f"{seed.recipe}-{variant}", {}, seed.composites.get(variant)
    there = _bands_on_disk(_loaded(config, seed.recipe, {}))
    if bands is None:
        bands = seed.bands if seed.bands and channels in (None, len(seed.bands)) else ()
    names = [_band(config, band, there) for band in _listed(bands)]
    return seed.recipe, {"bands": names or list(there)}, seed.composites.get("")


def _listed(bands: Any) -> Sequence[Any]:  # noqa: ANN401 - raw YAML
    return bands if isinstance(bands, list | tuple) else [bands]


def _bands_on_disk(recipe: Recipe) -> tuple[str, ...]:
    return tuple(band for image in recipe.dataset.images.values() for band in image.bands)


def _band(config: LightningYaml, band: Any, there: Sequence[str]) -> str:  # noqa: ANN401 - raw YAML
    """A band of the files by its position, counted from 0, or by name."""
    if isinstance(band, int) and 0 <= band < len(there):
        return there[band]
    if isinstance(band, str) and (name := band_name(band)) in there:
        return name
    raise config.error(
        "data.init_args.bands",
        f"{band!r} is no band of the data; there are {', '.join(there)} "
        f"(or 0 to {len(there) - 1}).",
    )


# --------------------------------------------------------------------------- the model beside it


def _model_arguments(config: LightningYaml) -> Mapping[str, Any]:
    model = config.data["model"]
    arguments = model.get("init_args") if isinstance(model, dict) else None
    found = arguments.get("model_args") if isinstance(arguments, dict) else None
    return found if isinstance(found, dict) else {}


def _fitting_model(
    config: LightningYaml, recipe: Recipe, made: int | None
) -> tuple[Any, list[str]]:
    """The model with what has to follow the recipe's labels and bands, and what was changed.

    The published loaders keep "no label" as a class or write it in another way, and repeat radar
    bands into three channels.
    """
    model = config.data["model"]
    model_arguments = dict(_model_arguments(config))
    if not model_arguments:
        return model, []
    arguments = dict(model["init_args"])
    notes = []
    for key, value in _follows(recipe, arguments, model_arguments, made):
        part = model_arguments if key in {"num_classes", "backbone_in_chans"} else arguments
        before = part.get(key)
        part[key] = value
        if key != "class_names":
            notes.append(f"{key}: {value}, as the recipe has it, not {before}")
    return {**model, "init_args": {**arguments, "model_args": model_arguments}}, notes


def _follows(
    recipe: Recipe,
    arguments: Mapping[str, Any],
    model_arguments: Mapping[str, Any],
    made: int | None,
) -> Iterator[tuple[str, Any]]:
    """The arguments that have to be others than they are, and what they have to be."""
    classes, bands = len(recipe.classes), len(recipe.bands)
    if model_arguments.get("num_classes") != classes:
        yield "num_classes", classes
    if model_arguments.get("backbone_in_chans") in {None, made} and made != bands:
        yield "backbone_in_chans", bands
    if recipe.task == "segmentation" and arguments.get("ignore_index") != recipe.ignore_index:
        yield "ignore_index", recipe.ignore_index
    if len(arguments.get("class_names") or ()) != classes:
        yield "class_names", list(recipe.class_names)
