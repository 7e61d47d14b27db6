"""Train small Earth-observation specialists, gather them into one ensemble, and map with it."""

import sys

__version__ = "0.1.0"

if "terratorch" in sys.modules:
    # A class path in a YAML of TerraTorch's own command line leads here, before any model is built:
    # the moment to tell its registry of `backbone: EosFM`. Elsewhere nothing is imported.
    from importlib import import_module

    import_module("eosfm_cli.training.registry")
