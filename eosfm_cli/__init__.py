"""Train small Earth-observation specialists, gather them into one ensemble, and map with it."""

__version__ = "0.1.0"
