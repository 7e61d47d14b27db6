"""Encoder-decoder models by TerraTorch, and fitted ones from their files."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from terratorch.models import EncoderDecoderFactory
from terratorch.models.utils import TemporalWrapper
from terratorch.registry import DECODER_REGISTRY, TERRATORCH_DECODER_REGISTRY
from torch import Tensor, nn

from eosfm_cli.bands import nearest_word
from eosfm_cli.ensemble.bundle import read_model
from eosfm_cli.ensemble.encoder import EnsembleEncoder
from eosfm_cli.ensemble.precision import HALF, halve
from eosfm_cli.errors import BundleError, EosfmError, UsageError
from eosfm_cli.manifest import DecoderInfo, ModelManifest
from eosfm_cli.precision import Precision
from eosfm_cli.recipe import Pooling, Recipe, Task, TrainingSpec

_FACTORY_TASKS: dict[Task, str] = {
    "segmentation": "segmentation",
    "classification": "classification",
    "multilabel": "classification",
    "regression": "regression",
    "change": "segmentation",
}
"""What TerraTorch's factory calls the kind of model that a task takes."""
_DATES = 2


def choose_decoder(recipe: Recipe, spec: TrainingSpec) -> DecoderInfo:
    """The TerraTorch decoder of a recipe and its arguments.

    `decoder_channels` reaches decoders that take one width; bilinear steps do not align corners
    where the decoder lets us choose, so that a tile's size does not shift its features.

    Raises:
        UsageError: TerraTorch has no such decoder.
    """
    name = spec.decoder or ("UperNetDecoder" if recipe.has_masks else "IdentityDecoder")
    known = [*TERRATORCH_DECODER_REGISTRY]
    try:
        found = DECODER_REGISTRY.find_class(name)
    except KeyError:
        near = nearest_word(name, known)
        raise UsageError(
            f"TerraTorch has no decoder {name!r}." + (f" Did you mean {near!r}?" if near else ""),
            hint=f"Its decoders: {', '.join(sorted(known))}.",
        ) from None
    arguments, missing = _decoder_arguments(found, spec)
    if missing:
        raise _unfit_decoder(name, f"it also needs {', '.join(missing)}.")
    return DecoderInfo(name=name, arguments=arguments)


@contextmanager
def decoder_errors(chosen: str | None) -> Iterator[None]:
    """While a model is built, have a decoder that does not fit the encoder say so.

    Args:
        chosen: The decoder that a recipe names; `None` where it is left to us.

    Raises:
        UsageError: The decoder cannot be built on this encoder.
    """
    try:
        yield
    except (AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
        if chosen is None or isinstance(error, EosfmError):
            raise
        raise _unfit_decoder(chosen, str(error)) from error


def _unfit_decoder(name: str, why: str) -> UsageError:
    return UsageError(
        f"{name} cannot be built from a recipe: {why}",
        hint="UperNetDecoder and FCNDecoder make maps, IdentityDecoder tells classes.",
    )


def _decoder_arguments(
    decoder: type[nn.Module], spec: TrainingSpec
) -> tuple[dict[str, object], list[str]]:
    """What we tell a decoder, and what it needs that we do not know."""
    takes = inspect.signature(decoder).parameters
    arguments: dict[str, object] = {}
    if "channels" in takes and takes["channels"].annotation in (int, "int"):
        arguments["channels"] = spec.decoder_channels
    if "align_corners" in takes:
        arguments["align_corners"] = False
    needed = [
        key
        for key, parameter in list(takes.items())[1:]  # the first one is the encoder's widths
        if parameter.default is parameter.empty
        and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    return arguments, [key for key in needed if key not in arguments]


def build_model(
    encoder: nn.Module,
    *,
    task: Task,
    decoder: DecoderInfo,
    classes: int,
    pooling: Pooling | None = None,
) -> nn.Module:
    """An encoder with decoder and head, as TerraTorch builds it.

    Args:
        encoder: Gives a pyramid of features.
        task: What the model is for.
        decoder: What stands on the encoder.
        classes: How many are told apart; none where the model gives values.
        pooling: How the features of two dates are joined; `None` of one date.
    """
    arguments = {f"decoder_{key}": value for key, value in decoder.arguments.items()}
    return EncoderDecoderFactory().build_model(
        task=_FACTORY_TASKS[task],
        backbone=encoder if pooling is None else TwoDates(encoder, pooling),
        decoder=decoder.name,
        **outputs(classes),
        **arguments,
    )


def outputs(classes: int) -> dict[str, int]:
    """How many outputs a model has, as TerraTorch's factory takes it: one where it gives values."""
    return {"num_classes": classes} if classes else {"num_outputs": 1}


def pooling_arguments(pooling: Pooling | None) -> dict[str, object]:
    """What has TerraTorch encode two dates and join their features."""
    if pooling is None:
        return {}
    return {
        "backbone_use_temporal": True,
        "backbone_temporal_pooling": pooling,
        "backbone_temporal_n_timestamps": _DATES,
    }


class TwoDates(TemporalWrapper):
    """Encodes two dates and joins their features, also where these are one pixel wide.

    TerraTorch takes such maps for the tokens of a vision transformer and drops a dimension.

    Args:
        encoder: Of a single date.
        pooling: How their features are joined.
    """

    def __init__(self, encoder: nn.Module, pooling: Pooling) -> None:
        super().__init__(encoder, pooling=pooling, n_timestamps=_DATES)

    def vit_postprocess(self, tensor: Tensor) -> Tensor:
        """Leave maps `(b, c, h, w)` as they are."""
        return tensor


def start_from(model: nn.Module, value: float | None) -> None:
    """Have a new model of values begin with this one everywhere, not with 0.

    A step of training moves the output by about the learning rate: from 0 to a mean of hundreds it
    would take thousands of them.
    """
    layers = [m for m in model.head.modules() if isinstance(m, nn.Conv2d) and m.bias is not None]
    if value is not None and layers:
        nn.init.constant_(layers[-1].bias, value)


def inner_encoder(model: nn.Module) -> nn.Module:
    """The encoder of a single date, whatever joins the features of two."""
    encoder = model.encoder
    return encoder.encoder if isinstance(encoder, TemporalWrapper) else encoder


class Logits(nn.Module):
    """A TerraTorch model whose forward gives the tensor alone.

    Args:
        model: As TerraTorch builds it.
        dtype: What it computes in; the output is always `float32`.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.model, self.dtype = model, dtype

    def forward(self, x: Tensor) -> Tensor:
        """Standardised `(b, bands, h, w)` → logits `(b, classes, h, w)`, or `(b, classes)`.

        Of change detection `(b, bands, 2, h, w)` goes in; of regression values `(b, h, w)` come
        out.
        """
        return self.model(x.to(self.dtype)).output.float()


class _InFloat(nn.Module):
    """A part that computes in 32 bits, whatever it is given."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: Tensor) -> Tensor:
        return self.part(x.float())


@dataclass(frozen=True)
class FittedModel:
    """A fitted model, ready to predict."""

    manifest: ModelManifest
    module: Logits
    """In evaluation mode; height and width of its input are multiples of 32."""


def open_model(path: Path) -> tuple[ModelManifest, nn.Module]:
    """Build a fitted model from its file, as it was fitted: no view is folded.

    Raises:
        BundleError: The file is damaged or does not fit its own manifest.
    """
    manifest, state = read_model(path)
    encoder = EnsembleEncoder(manifest.specialists, manifest.bands, manifest.encoder)
    model = build_model(
        encoder,
        task=manifest.task,
        decoder=manifest.decoder,
        classes=len(manifest.classes),
        pooling=manifest.pooling,
    )
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise BundleError(
            f"The weights in {path} do not fit what its manifest describes: "
            f"{str(error).splitlines()[-1].strip()}",
            hint="The file was changed after it was written; fit the model again.",
        ) from None
    encoder.freeze()
    return manifest, model.eval()


def load_model(path: Path, precision: Precision = "32-true") -> FittedModel:
    """Build a fitted model from its file, through TerraTorch, to predict with it.

    Args:
        path: The file.
        precision: `bf16` has encoder and decoder compute in bfloat16; the head, whose digits are
            the output's, goes on in 32 bits.

    Raises:
        BundleError: The file is damaged or does not fit its own manifest.
    """
    manifest, model = open_model(path)
    inner_encoder(model).fold()
    if precision == "bf16":
        head = model.head
        model.head = nn.Identity()
        halve(model)
        model.head = _InFloat(head)
        return FittedModel(manifest, Logits(model, HALF).eval())
    return FittedModel(manifest, Logits(model).eval())
