"""What an ensemble or model file says about itself: JSON in the safetensors header.

Reading it takes the standard library alone, so that files can be inspected without torch.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from eosfm_cli.bands import View
from eosfm_cli.errors import BundleError
from eosfm_cli.recipe import (
    Adapt,
    BandStatistics,
    ClassSpec,
    Fusion,
    Normalize,
    Pooling,
    Selection,
    TargetSpec,
    Task,
)

METADATA_KEY = "eosfm"
_LONGEST_HEADER = 100_000_000


class _Value(BaseModel):
    # A class that no pixel has gives a score of NaN, which has to come back as it went.
    model_config = ConfigDict(extra="ignore", frozen=True, ser_json_inf_nan="constants")


class SpecialistInfo(_Value):
    """What one specialist is, expects and has cost."""

    name: str
    backbone: str
    """A timm model, without the `timm_` that TerraTorch puts before it."""
    in_chans: int
    bands: tuple[str, ...] | None = None
    """Common names in input order; `None` for files that only count channels."""
    statistics: dict[str, BandStatistics] | None = None
    recipe: str | None = None
    task: str | None = None
    classes: tuple[str, ...] = ()
    metrics: dict[str, float] = {}
    parameters: int = 0
    licence: str | None = None
    seconds: float | None = None
    energy_kwh: float | None = None
    emissions_kg: float | None = None
    run: str | None = None
    source: str | None = None
    """The ensemble file that it first came in, where ensembles were merged."""

    @property
    def wants(self) -> tuple[str, ...] | int:
        """The bands it takes, or their number where nobody has named them."""
        return self.in_chans if self.bands is None else self.bands


class PastWork(_Value):
    """Work behind a file that is no longer in it: a specialist that was looked at and left out."""

    command: str
    name: str
    seconds: float | None = None
    energy_kwh: float | None = None
    emissions_kg: float | None = None


Gates = Literal["none", "search", "smooth", "weights"]
"""What stands before the fusion: nothing; gates that learn whom to keep; gates that stay, between
0 and 1; or learned weights of any size."""


class EnsembleManifest(_Value):
    """The header of an ensemble file."""

    format: Literal["eosfm-ensemble"] = "eosfm-ensemble"
    version: Literal[1] = 1
    created: str = ""
    eosfm: str = ""
    named: bool = False
    """Whether it was made from named runs, a choice that is not to be gathered anew unasked."""
    specialists: tuple[SpecialistInfo, ...]


class EncoderInfo(_Value):
    """How a model's ensemble encoder is put together."""

    fusion: Fusion = "concat"
    fuse_to_mult: int = 1
    normalize: Normalize = "batch"
    project: bool = False
    adapt: Adapt = "rule"
    gates: Gates = "none"
    top_k: int | None = None
    selection: Selection = "topk"
    scale_features: bool = False
    out_channels: tuple[int, ...] | None = None
    """Channels per level, fine to coarse; by the specialists' own if not given."""
    hidden_channels: tuple[int, ...] | None = None
    """Channels per level inside `mlp`; by the specialists' own if not given."""
    views: dict[str, tuple[View, ...]] | None = None
    """Specialist -> its views of the bands; by the rules if not given."""
    scores: dict[str, float] = {}
    """Specialist -> score at the end of the selection, of all that were looked at."""


class DecoderInfo(_Value):
    """The TerraTorch decoder on top."""

    name: str
    arguments: dict[str, object] = {}


class ModelManifest(_Value):
    """The header of a fitted model: all that `predict` needs beside the tensors."""

    format: Literal["eosfm-model"] = "eosfm-model"
    version: Literal[1] = 1
    created: str = ""
    eosfm: str = ""
    recipe: str
    title: str
    task: Task
    bands: tuple[str, ...]
    """Common names in the order of the input."""
    sensor: str | None = None
    """Whose own band names (`B4`) files of such scenes use; Sentinel-2's if not given."""
    statistics: dict[str, BandStatistics]
    """Band -> mean and standard deviation in the units of the data it was fitted on."""
    classes: tuple[ClassSpec, ...] = ()
    """What is told apart; none where the model gives values."""
    target: TargetSpec | None = None
    """What the values are that a regression gives."""
    pooling: Pooling | None = None
    """How the features of two dates are joined; `None` for models of one date."""
    ignore_index: int
    tile_size: int
    encoder: EncoderInfo
    specialists: tuple[SpecialistInfo, ...]
    decoder: DecoderInfo
    metrics: dict[str, float] = {}
    licence: str | None = None
    seconds: float | None = None
    energy_kwh: float | None = None
    """Of fitting alone; the specialists carry their own."""
    emissions_kg: float | None = None
    past_work: tuple[PastWork, ...] = ()
    """What else its making took."""
    pruned_from: str | None = None
    """The model's file that this one was made from, without fitting it again."""
    left_out: tuple[str, ...] = ()
    """Specialists that it had when it was fitted."""


def read_header(path: Path) -> dict[str, object]:
    """The JSON header of a safetensors file, read without any library.

    Raises:
        BundleError: The file is missing, cut short, or no safetensors file.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            prefix = file.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else -1
            if not 2 <= length <= min(_LONGEST_HEADER, size - 8):
                raise ValueError("its header does not fit into the file")
            header = json.loads(file.read(length))
        if not isinstance(header, dict):
            raise ValueError("its header is no mapping")
        tensors = [entry for name, entry in header.items() if name != "__metadata__"]
        if size < 8 + length + max((entry["data_offsets"][1] for entry in tensors), default=0):
            raise ValueError("it is cut short")
    except FileNotFoundError:
        raise BundleError(f"There is no file {path}.") from None
    except OSError as error:
        raise BundleError(f"Cannot read {path}: {error.strerror or error}.") from None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        ours = type(error) is ValueError  # what the parsers say means nothing to a user
        raise BundleError(
            f"{path} is no usable safetensors file{f': {error}' if ours else ''}.",
            hint="Export or copy it again; the file may be damaged or of another kind.",
        ) from None
    return header


def read_manifest(path: Path) -> EnsembleManifest | ModelManifest:
    """The manifest of an ensemble or model file, from its header alone.

    Raises:
        BundleError: The file is damaged, or eosfm did not write it.
    """
    metadata = read_header(path).get("__metadata__") or {}
    try:
        raw = json.loads(metadata[METADATA_KEY])
        kind = raw["format"]
        return {"eosfm-ensemble": EnsembleManifest, "eosfm-model": ModelManifest}[
            kind
        ].model_validate(raw)
    except (KeyError, TypeError, AttributeError, ValueError, ValidationError, RecursionError):
        raise BundleError(
            f"{path} holds no eosfm manifest that this version reads.",
            hint="Was it written by `eosfm export` or `eosfm fit-ensemble`?",
        ) from None


def to_metadata(manifest: EnsembleManifest | ModelManifest) -> dict[str, str]:
    """The safetensors metadata that carries a manifest."""
    return {METADATA_KEY: manifest.model_dump_json(exclude_none=True)}
