"""Encoder-decoder models by TerraTorch, and fitted ones from their files."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path

from terratorch.models import EncoderDecoderFactory
from terratorch.registry import DECODER_REGISTRY, TERRATORCH_DECODER_REGISTRY
from torch import Tensor, nn

from eosfm_cli.bands import nearest_word
from eosfm_cli.ensemble.bundle import read_model
from eosfm_cli.ensemble.encoder import EosFM
from eosfm_cli.errors import BundleError, UsageError
from eosfm_cli.manifest import DecoderInfo, ModelManifest
from eosfm_cli.recipe import Recipe, Task, TrainingSpec

_DEFAULT_DECODERS: dict[Task, str] = {
    "segmentation": "UperNetDecoder",
    "classification": "IdentityDecoder",
}


def choose_decoder(recipe: Recipe, spec: TrainingSpec) -> DecoderInfo:
    """The TerraTorch decoder of a recipe and its arguments.

    `decoder_channels` reaches decoders that take one width; bilinear steps do not align corners
    where the decoder lets us choose, so that a tile's size does not shift its features.

    Raises:
        UsageError: TerraTorch has no such decoder.
    """
    name = spec.decoder or _DEFAULT_DECODERS[recipe.task]
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
        raise UsageError(
            f"{name} cannot be built from a recipe: it also needs {', '.join(missing)}.",
            hint="UperNetDecoder and FCNDecoder make maps, IdentityDecoder tells classes.",
        )
    return DecoderInfo(name=name, arguments=arguments)


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


def build_model(encoder: nn.Module, *, task: Task, decoder: DecoderInfo, classes: int) -> nn.Module:
    """An encoder with decoder and head, as TerraTorch builds it."""
    arguments = {f"decoder_{key}": value for key, value in decoder.arguments.items()}
    return EncoderDecoderFactory().build_model(
        task=task, backbone=encoder, decoder=decoder.name, num_classes=classes, **arguments
    )


class Logits(nn.Module):
    """A TerraTorch model whose forward gives the tensor alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Standardised `(b, bands, h, w)` → logits `(b, classes, h, w)`, or `(b, classes)`."""
        return self.model(x).output


@dataclass(frozen=True)
class FittedModel:
    """A fitted model, ready to predict."""

    manifest: ModelManifest
    module: Logits
    """In evaluation mode; height and width of its input are multiples of 32."""


def load_model(path: Path) -> FittedModel:
    """Build a fitted model from its file, through TerraTorch.

    Raises:
        BundleError: The file is damaged or does not fit its own manifest.
    """
    manifest, state = read_model(path)
    encoder = EosFM(
        manifest.specialists,
        manifest.bands,
        fusion=manifest.encoder.fusion,
        normalize=manifest.encoder.normalize,
        out_channels=manifest.encoder.out_channels,
    )
    model = build_model(
        encoder,
        task=manifest.task,
        decoder=manifest.decoder,
        classes=len(manifest.classes),
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
    return FittedModel(manifest, Logits(model).eval())
