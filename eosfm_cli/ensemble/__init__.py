"""Frozen specialists as one encoder."""
