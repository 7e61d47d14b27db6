"""Ensembles and fitted models as files.

An ensemble is a safetensors file with a manifest in its header, or the published project's list of
`(in_chans, state_dict, config)`. A model is always a safetensors file with a manifest.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from torch import Tensor

import eosfm_cli
from eosfm_cli.bands import BANDS, band_name, nearest_word
from eosfm_cli.ensemble.checkpoint import Foreign, fit_state, mapping, plain, read_plain
from eosfm_cli.ensemble.specialist import Specialist
from eosfm_cli.errors import BundleError, OutputError, UsageError
from eosfm_cli.manifest import (
    EnsembleManifest,
    ModelManifest,
    SpecialistInfo,
    read_manifest,
    to_metadata,
)
from eosfm_cli.run_dir import now, replacing

_SEED_SUFFIXES = {".pth", ".pt"}
_DAMAGED = "Copy or export it again; it may be cut short or damaged."

# --------------------------------------------------------------------------- ensembles


def read_ensemble(path: Path) -> tuple[Specialist, ...]:
    """Read an ensemble in either format, its weights checked against their backbones.

    Raises:
        BundleError: The file is damaged or no ensemble, or a specialist in it is unusable.
    """
    if path.suffix.lower() == ".ckpt":
        raise BundleError(
            f"{path} is a checkpoint of one specialist, no ensemble.",
            hint=f"Make an ensemble of it first: eosfm export {path}",
        )
    specialists = (
        _read_seed(path) if path.suffix.lower() in _SEED_SUFFIXES else _read_safetensors(path)
    )
    if not specialists:
        raise BundleError(f"{path} holds no specialist.", hint="Export it again: eosfm export")
    return specialists


def is_choice(path: Path) -> bool:
    """Whether an ensemble may be somebody's choice of specialists rather than all there were."""
    if path.suffix.lower() in _SEED_SUFFIXES:
        return True
    manifest = read_manifest(path)
    return not isinstance(manifest, EnsembleManifest) or manifest.named


def write_ensemble(path: Path, specialists: Sequence[Specialist], *, named: bool = False) -> None:
    """Write an ensemble in the format that the suffix says.

    Args:
        path: The file.
        specialists: Their names are made unique.
        named: Whether these are a choice; the published format cannot say so.

    Raises:
        UsageError: The suffix stands for no format.
        OutputError: The place cannot be written.
    """
    writer_for(path)(path, with_unique_names(specialists), named)


def writer_for(path: Path) -> Callable[[Path, Sequence[Specialist], bool], None]:
    """What writes an ensemble under this suffix.

    Raises:
        UsageError: The suffix stands for no format.
    """
    if path.suffix.lower() == ".safetensors":
        return _write_safetensors
    if path.suffix.lower() in _SEED_SUFFIXES:
        return _write_seed
    raise UsageError(
        f"An ensemble cannot be written as {path.name!r}.",
        hint="End its name in .safetensors, or in .pth for the published project's format.",
    )


def with_unique_names(specialists: Iterable[Specialist]) -> tuple[Specialist, ...]:
    """The same specialists; of those with one name, the later ones become `name-2`, `name-3`."""
    taken: set[str] = set()
    unique = []
    for specialist in specialists:
        name, number = specialist.info.name, 2
        while name in taken:
            name, number = f"{specialist.info.name}-{number}", number + 1
        taken.add(name)
        info = specialist.info.model_copy(update={"name": name})
        unique.append(replace(specialist, info=info))
    return tuple(unique)


def specialist_name(text: str) -> str:
    """A name that can stand in lists, paths and tensor names."""
    return re.sub(r"[^\w.+-]+", "-", text).strip("-") or "specialist"


# --------------------------------------------------------------------------- safetensors


def _write_safetensors(path: Path, specialists: Sequence[Specialist], named: bool) -> None:
    manifest = EnsembleManifest(
        created=now(),
        named=named,
        eosfm=eosfm_cli.__version__,
        specialists=tuple(specialist.info for specialist in specialists),
    )
    tensors = {
        f"{specialist.info.name}/{name}": tensor
        for specialist in specialists
        for name, tensor in specialist.state.items()
    }
    _write_tensors(path, tensors, to_metadata(manifest))


def _write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    # Clones, because safetensors refuses tensors that share memory.
    own = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        temporary.write_bytes(safetensors.torch.save(own, metadata))


def _read_safetensors(path: Path) -> tuple[Specialist, ...]:
    manifest = read_manifest(path)
    if isinstance(manifest, ModelManifest):
        raise BundleError(
            f"{path} is a fitted model, no ensemble.",
            hint=f"Map a scene with it: eosfm predict INPUT --model {path}",
        )
    names = [info.name for info in manifest.specialists]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise BundleError(f"{path} has two specialists named {twice[0]!r}.", hint=_DAMAGED)
    states = _by_specialist(_read_tensors(path), names, path)
    return tuple(_specialist(info, states[info.name], path) for info in manifest.specialists)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise BundleError(f"{path} cannot be read: {error}.", hint=_DAMAGED) from None


def _by_specialist(
    tensors: Mapping[str, Tensor], names: Iterable[str], path: Path
) -> dict[str, dict[str, Tensor]]:
    states: dict[str, dict[str, Tensor]] = {name: {} for name in names}
    for key, tensor in tensors.items():
        owner, _, name = key.partition("/")
        if owner not in states:
            raise BundleError(
                f"{path} has weights ({key}) of a specialist that its manifest does not name.",
                hint=_DAMAGED,
            )
        states[owner][name] = tensor
    return states


def _specialist(info: SpecialistInfo, state: Mapping[str, Any], path: Path) -> Specialist:
    who = f"Specialist {info.name!r} of {path}"
    weights, found, parameters = fit_state(state, info.backbone, who=who, in_chans=info.in_chans)
    for band in info.bands or ():
        if band not in BANDS:
            near = nearest_word(band, BANDS)
            raise BundleError(
                f"{who} has an unknown band {band!r}."
                + (f" Did you mean {near!r}?" if near else "")
            )
    if info.bands is not None and len(info.bands) != found:
        raise BundleError(f"{who} names {len(info.bands)} bands and takes {found} channels.")
    known = info.model_copy(update={"parameters": parameters})
    return Specialist(known, weights)


# --------------------------------------------------------------------------- the published format


def _write_seed(path: Path, specialists: Sequence[Specialist], named: bool) -> None:
    del named  # the format has no place for it
    entries = [
        (specialist.info.in_chans, dict(specialist.state), _config(specialist.info))
        for specialist in specialists
    ]
    with replacing(path) as temporary:
        try:
            with temporary.open("wb") as file:
                torch.save(entries, file)
        except RuntimeError as error:
            # The writer's own error hides what the file system said.
            raise OutputError(
                f"Cannot write {path}: {str(error).splitlines()[0]}.",
                hint="Is there enough free space?",
            ) from None


def _config(info: SpecialistInfo) -> dict[str, Any]:
    """The third entry of a tuple, in plain types."""
    ours = info.model_dump(
        mode="json",
        exclude_none=True,
        exclude={"name", "backbone", "in_chans", "parameters", "statistics"},
    )
    config = {"backbone": f"timm_{info.backbone}", "encoder_name": info.name, **ours}
    if info.statistics is not None:
        config["normalization"] = {b: s.model_dump() for b, s in info.statistics.items()}
    return config


def _read_seed(path: Path) -> tuple[Specialist, ...]:
    content = plain(read_plain(path))
    if not isinstance(content, list | tuple):
        raise _no_list(content, path)
    return with_unique_names(
        _from_entry(entry, number, path) for number, entry in enumerate(content, 1)
    )


def _no_list(content: object, path: Path) -> BundleError:
    if isinstance(content, dict) and "state_dict" in content:
        return BundleError(
            f"{path} is a checkpoint of one specialist, no ensemble.",
            hint=f"Make an ensemble of it first: eosfm export {path}",
        )
    what = (
        f"it asks for {content.name}, which was not run"
        if isinstance(content, Foreign)
        else f"it holds a {type(content).__name__}"
    )
    return BundleError(
        f"{path} holds no ensemble: {what}.",
        hint="An ensemble is a list of (in_chans, state_dict, config).",
    )


def _from_entry(entry: Any, number: int, path: Path) -> Specialist:  # noqa: ANN401 - a file's content
    try:
        in_chans, state, config = entry
    except (TypeError, ValueError):
        raise _no_entry(number, path) from None
    state, config = mapping(state), mapping(config)
    if not state or not isinstance(in_chans, int) or isinstance(in_chans, bool):
        raise _no_entry(number, path)
    name = plain(config.get("encoder_name")) or plain(config.get("name"))
    name = specialist_name(name) if isinstance(name, str) else f"specialist-{number}"
    info = _info(name, in_chans, config, f"Specialist {name!r} of {path}")
    return _specialist(info, state, path)


def _no_entry(number: int, path: Path) -> BundleError:
    return BundleError(
        f"{path} holds no ensemble: its entry {number} is no (in_chans, state_dict, config).",
        hint="Export it again, or put it together as a list of such tuples.",
    )


def _info(name: str, in_chans: int, config: Mapping[Any, Any], who: str) -> SpecialistInfo:
    backbone = plain(config.get("backbone"))
    if not isinstance(backbone, str):
        raise BundleError(
            f"{who} does not say which backbone it has.",
            hint="Its config needs 'backbone', such as timm_convnextv2_atto.",
        )
    ours = SpecialistInfo.model_fields.keys() - {"name", "backbone", "in_chans", "parameters"}
    known = {key: plain(config[key]) for key in ours & config.keys()}
    if isinstance(bands := known.get("bands"), list | tuple):
        known["bands"] = tuple(band_name(str(b)) or str(b) for b in bands)
    if "normalization" in config:
        known["statistics"] = plain(config["normalization"])
    try:
        return SpecialistInfo(
            name=name, backbone=backbone.removeprefix("timm_"), in_chans=in_chans, **known
        )
    except ValidationError as error:
        key = error.errors()[0]["loc"][0]
        raise BundleError(
            f"{who} has a config whose {str(key)!r} cannot be read.",
            hint="Take the key out, or export the ensemble again.",
        ) from None


# --------------------------------------------------------------------------- models


def write_model(path: Path, state: Mapping[str, Tensor], manifest: ModelManifest) -> None:
    """Write a fitted model: one file that holds all `predict` needs.

    Raises:
        OutputError: The place cannot be written.
    """
    _write_tensors(path, state, to_metadata(manifest))


def read_model(path: Path) -> tuple[ModelManifest, dict[str, Tensor]]:
    """Read a fitted model.

    Raises:
        BundleError: The file is damaged or no fitted model.
    """
    if path.suffix.lower() in {*_SEED_SUFFIXES, ".ckpt"}:
        raise BundleError(
            f"{path} is no fitted model; those end in .safetensors.",
            hint="Fit one first: eosfm fit-ensemble RECIPE",
        )
    manifest = read_manifest(path)
    if isinstance(manifest, EnsembleManifest):
        raise BundleError(
            f"{path} is an ensemble, no fitted model.",
            hint=f"Fit it to a task first: eosfm fit-ensemble RECIPE --ensemble {path}",
        )
    return manifest, _read_tensors(path)
