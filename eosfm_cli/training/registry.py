"""`backbone: EosFM` for TerraTorch, whose registry knows it once this module is imported.

Any class path of eosfm's in a YAML has it imported, and so has `import eosfm_cli` in the folder
`custom_modules` that TerraTorch reads where it is started. TerraTorch hands a backbone only those
arguments that have `backbone_` before them, and takes that away.
"""

from __future__ import annotations

import inspect
from typing import Any

from terratorch.registry import TERRATORCH_BACKBONE_REGISTRY
from torch import nn

from eosfm_cli.bands import nearest_word
from eosfm_cli.ensemble import published
from eosfm_cli.errors import BundleError, UsageError

PARAMETERS = tuple(inspect.signature(published.EosFM).parameters)
"""What `EosFM` takes."""


@TERRATORCH_BACKBONE_REGISTRY.register
def EosFM(**arguments: Any) -> published.EosFM:  # noqa: ANN401 - from a YAML
    """Build the ensemble encoder with the published project's arguments.

    Raises:
        UsageError: An argument is unknown, missing, or does not go with the others.
        BandError: No specialist can be fed.
        BundleError: A file is damaged or no ensemble.
    """
    for key in arguments:
        if key not in PARAMETERS:
            near = nearest_word(key, PARAMETERS)
            raise UsageError(
                f"EosFM takes no {key!r}." + (f" Did you mean {near!r}?" if near else ""),
                hint="Its specialists have their weights from model_weights."
                if key == "pretrained"
                else f"It takes {', '.join(PARAMETERS)}.",
            )
    if not arguments.get("model_weights"):
        raise UsageError(
            "EosFM needs model_weights: the file of an ensemble.",
            hint="eosfm export makes one. For TerraTorch's own command line every argument has "
            "backbone_ before it: backbone_model_weights, backbone_feature_fusion, …",
        )
    try:
        return published.EosFM(**arguments)
    except KeyError as error:  # which the registry would take for "there is no such backbone"
        raise BundleError(f"EosFM cannot be built: there is no {error}.") from error


def ensemble_of(module: nn.Module) -> published.EosFM | None:
    """The ensemble encoder in a task or model, if there is one."""
    return next((part for part in module.modules() if isinstance(part, published.EosFM)), None)
