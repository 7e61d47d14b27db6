"""Datasets, tiles and the datamodule."""
