"""Ensembles and fitted models as files.

An ensemble is a safetensors file with a manifest in its header, or the published project's list of
`(in_chans, state_dict, config)`. A model is always a safetensors file with a manifest.
"""

from __future__ import annotations

import hashlib
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
from eosfm_cli.progress import Progress, Silent
from eosfm_cli.run_dir import now, replacing
from eosfm_cli.words import counted

_SEED_SUFFIXES = {".pth", ".pt"}
_DAMAGED = "Copy or export it again; it may be cut short or damaged."

# --------------------------------------------------------------------------- ensembles


def read_ensemble(path: Path, progress: Progress | None = None) -> tuple[Specialist, ...]:
    """Read an ensemble in either format, its weights checked against their backbones.

    Args:
        path: The file.
        progress: Told of specialists that share a name in the published format; the later ones
            get another.

    Raises:
        BundleError: The file is damaged or no ensemble, or a specialist in it is unusable.
    """
    if path.suffix.lower() == ".ckpt":
        raise BundleError(
            f"{path} is a checkpoint of one specialist, no ensemble.",
            hint=f"Make an ensemble of it first: eosfm export {path}",
        )
    if path.suffix.lower() in _SEED_SUFFIXES:
        specialists = _read_seed(path, progress or Silent())
    else:
        specialists = _read_safetensors(path)
    if not specialists:
        raise BundleError(f"{path} holds no specialist.", hint="Export it again: eosfm export")
    return specialists


def from_entries(entries: Iterable[Any]) -> tuple[Specialist, ...]:
    """Specialists of the published format's list, where a caller has it in memory.

    Raises:
        BundleError: One of them is no `(in_chans, state_dict, config)`, or unusable.
    """
    where = Path("model_weights")
    return with_unique_names(_from_entry(e, number, where) for number, e in enumerate(entries, 1))


def fingerprint(specialists: Iterable[Specialist]) -> str:
    """What tells an ensemble from others by names, bands and weights, whichever file it is in."""
    digest = hashlib.sha256()
    for specialist in specialists:
        digest.update(repr((specialist.info.name, specialist.info.bands)).encode())
        _add_weights(digest, specialist)
    return digest.hexdigest()


def weights_fingerprint(specialist: Specialist) -> str:
    """What tells a specialist's weights from others, whatever it is called."""
    digest = hashlib.sha256(specialist.info.backbone.encode())
    _add_weights(digest, specialist)
    return digest.hexdigest()


def _add_weights(digest: hashlib._Hash, specialist: Specialist) -> None:
    for name, tensor in sorted(specialist.state.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())


def holds_ensemble(path: Path) -> bool:
    """Whether a file is to be read as an ensemble rather than as a checkpoint.

    Raises:
        BundleError: The file is damaged.
    """
    if path.suffix.lower() in _SEED_SUFFIXES:
        return isinstance(plain(read_plain(path)), list | tuple)
    return path.suffix.lower() == ".safetensors"


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
        raise BundleError(
            f"{who} names {counted(len(info.bands), 'band')} and takes {counted(found, 'channel')}."
        )
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


def _read_seed(path: Path, progress: Progress) -> tuple[Specialist, ...]:
    content = plain(read_plain(path))
    if not isinstance(content, list | tuple):
        raise _no_list(content, path)
    found = [_from_entry(entry, number, path) for number, entry in enumerate(content, 1)]
    unique = with_unique_names(found)
    for before, after in zip(found, unique, strict=True):
        if before.info.name != after.info.name:
            progress.say(
                f"{path} has more than one specialist named {before.info.name}: "
                f"another is called {after.info.name} here"
            )
    return unique


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
        raise _no_entry(number, path, entry) from None
    weights, config = mapping(state), mapping(config)
    if not weights or not isinstance(in_chans, int) or isinstance(in_chans, bool):
        raise _no_entry(number, path, in_chans, state)
    name = plain(config.get("encoder_name")) or plain(config.get("name"))
    name = specialist_name(name) if isinstance(name, str) else f"specialist-{number}"
    info = _info(name, in_chans, config, f"Specialist {name!r} of {path}")
    return _specialist(info, weights, path)


def _no_entry(number: int, path: Path, *parts: object) -> BundleError:
    asked_for = [part.name for part in parts if isinstance(part, Foreign)]
    if asked_for:
        return BundleError(
            f"{path} holds no ensemble: its entry {number} asks for {asked_for[0]}, which was not "
            "run.",
            hint="Do not use it if you do not know where it comes from.",
        )
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
    state = _read_tensors(path)
    _refuse_not_finite(state, manifest, path)
    return manifest, state


_OF_A_SPECIALIST = re.compile(r".*encoder\.backbones\.(\d+)\.(.+)")


def _refuse_not_finite(state: Mapping[str, Tensor], manifest: ModelManifest, path: Path) -> None:
    for name, tensor in state.items():
        if torch.isfinite(tensor).all():
            continue
        where = "it"
        if (found := _OF_A_SPECIALIST.fullmatch(name)) and int(found[1]) < len(
            manifest.specialists
        ):
            where, name = f"its specialist {manifest.specialists[int(found[1])].name!r}", found[2]
        raise BundleError(
            f"{path} cannot be used: {where} has values that are not finite (NaN or infinity) in "
            f"{name}.",
            hint="The fit diverged, or the file was changed: fit again, with a lower --lr for "
            "instance.",
        )
